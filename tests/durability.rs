//! Runs that cannot be lost: the real program, killed, out of room, with its folder taken away, with damaged files.

#[cfg(unix)]
mod crash;
mod damage;
#[cfg(unix)]
mod room;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{micro_model, moving_square};

/// A clip and runs of it by the real program, on the micro model.
struct Place {
    folder: tempfile::TempDir,
    clip: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clip = moving_square(folder.path(), 4);
        Self { folder, clip }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spectral-motion"));
        command
            .current_dir(self.folder.path())
            .env("XDG_DATA_HOME", self.path("data"))
            .stdin(Stdio::null());
        command
    }

    /// A training of `steps` steps into the folder `run`, with `more` flags.
    fn train(&self, run: &Path, steps: u32, more: &[&str]) -> Command {
        let mut command = self.program();
        command
            .arg("train")
            .arg(&self.clip)
            .args(["--subject", "a red square", "--frames", "4"])
            .args(["--sampling-steps", "2", "--device", "cpu"])
            // Equal bits need an equal number of threads; one leaves the others to the other tests.
            .args(["--threads", "1", "--steps", &steps.to_string()])
            .arg("--model")
            .arg(micro_model())
            .arg("--run")
            .arg(run)
            .args(more);
        command
    }

    fn resume(&self, run: &Path) -> Command {
        let mut command = self.program();
        command
            .arg("resume")
            .arg(run)
            .args(["--device", "cpu", "--threads", "1"]);
        command
    }
}

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("final/weights.safetensors")).unwrap()
}

fn metrics(run: &Path) -> String {
    fs::read_to_string(run.join("metrics.jsonl")).unwrap()
}

/// Names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Half-written files and folders anywhere in a run.
fn leftovers(run: &Path) -> Vec<String> {
    ["", "checkpoints", "samples", "cache", "final"]
        .iter()
        .flat_map(|part| names(&run.join(part)))
        .filter(|name| name.starts_with('.') && name != ".lock")
        .collect()
}
