//! `metrics.jsonl`: one line for each training step, appended as it happens.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic::write_atomic;
use super::error::ProjectError;

const FILE: &str = "metrics.jsonl";

/// The lines of a run that others may be working in; one that cannot be read, or is not whole yet, is left out.
pub(super) fn look<L: DeserializeOwned>(run: &Path) -> Result<Vec<L>, ProjectError> {
    let path = run.join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).map_err(ProjectError::io("read", &path))?;
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    Ok(whole
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// The metrics of a run, opened at the first line.
#[derive(Debug)]
pub(super) struct Metrics {
    path: PathBuf,
    file: Option<File>,
}

impl Metrics {
    pub(super) fn of(run: &Path) -> Self {
        Self {
            path: run.join(FILE),
            file: None,
        }
    }

    pub(super) fn append(&mut self, line: &impl Serialize) -> Result<(), ProjectError> {
        let mut text = serde_json::to_string(line)
            .map_err(|error| ProjectError::damaged(&self.path, error))?;
        text.push('\n');
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)
                .map_err(ProjectError::io("open", &self.path))?,
        };
        // One call for a whole line: what is killed between two calls leaves no half one.
        self.file
            .insert(file)
            .write_all(text.as_bytes())
            .map_err(ProjectError::io("write", &self.path))
    }

    /// Puts what was appended on the disk. Done before a checkpoint is, so that no power failure leaves a checkpoint
    /// without the lines that lead to it.
    pub(super) fn sync(&self) -> Result<(), ProjectError> {
        match &self.file {
            Some(file) => file
                .sync_data()
                .map_err(ProjectError::io("write", &self.path)),
            None => Ok(()),
        }
    }

    pub(super) fn keep(&mut self, steps: u32) -> Result<(), ProjectError> {
        self.file = None;
        if !self.path.exists() {
            return Ok(());
        }
        let bytes = fs::read(&self.path).map_err(ProjectError::io("read", &self.path))?;
        let kept = whole_lines(&bytes, steps);
        if kept == bytes {
            Ok(())
        } else {
            write_atomic(&self.path, &kept)
        }
    }
}

/// The whole lines of the first `steps` steps, in rising order. A line that was cut off, or that damage made unreadable,
/// is left out: it takes nothing from the training, which never reads them.
fn whole_lines(bytes: &[u8], steps: u32) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut last = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        // The whole line is read: a number that no reader takes makes it as useless as a missing one.
        let value = line
            .ends_with(b"\n")
            .then(|| serde_json::from_slice::<serde_json::Value>(line).ok())
            .flatten();
        let step = value
            .and_then(|line| line.get("step")?.as_u64())
            .and_then(|step| u32::try_from(step).ok())
            .unwrap_or_default();
        if step > last && step <= steps {
            kept.extend_from_slice(line);
            last = step;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_kept_steps_stay() {
        let kept = |text: &str, steps| String::from_utf8(whole_lines(text.as_bytes(), steps));
        let line = |step: u32| format!("{{\"step\":{step},\"total\":0.5}}\n");
        let five: String = (1..=5).map(line).collect();
        assert_eq!(
            kept(&five, 3).unwrap(),
            format!("{}{}{}", line(1), line(2), line(3))
        );
        assert_eq!(kept(&five, 9).unwrap(), five);
        // A line that was cut off, though what is left of it could be read.
        let torn = format!("{}{{\"step\":2}}", line(1));
        assert_eq!(kept(&torn, 9).unwrap(), line(1));
        let beyond = "{\"step\":1,\"total\":1e999}\n";
        assert_eq!(kept(beyond, 9).unwrap(), "", "no reader takes that number");
        // Damage, steps told twice, and text that is no text.
        let odd = [
            line(1).into(),
            b"\xff\xfe\n\n7\n".to_vec(),
            line(3).into(),
            line(2).into(),
        ];
        let kept = whole_lines(&odd.concat(), 9);
        assert_eq!(kept, [line(1), line(3)].concat().into_bytes());
    }
}
