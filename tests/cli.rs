//! The real program in a fresh folder: exit codes, messages, files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{errors, fails, micro_model, moving_square};

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

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spectral-motion"));
        // Runs go into the test's folder, not into the data folder of whoever runs the tests.
        command
            .current_dir(self.path())
            .env("XDG_DATA_HOME", self.path().join("data"));
        command.stdin(Stdio::null());
        command
    }

    /// `COMMAND CLIP` with the micro model and settings that take a second.
    fn quick(&self, command: &str, clip: &Path) -> Command {
        let mut program = self.program();
        program
            .arg(command)
            .arg(clip)
            .args(["--subject", "a red square", "--steps", "2"]);
        program.args([
            "--frames",
            "4",
            "--sampling-steps",
            "2",
            "--device",
            "cpu",
            "--model",
        ]);
        program.arg(micro_model());
        program
    }

    fn transfer(&self, clip: &Path) -> Command {
        let mut program = self.quick("transfer", clip);
        program.args(["--prompt", "a bear / on the moon"]);
        program
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_transfer_names_its_film_after_clip_and_prompt_and_overwrites_nothing() {
    let place = Place::new();
    for name in [
        "moving square - a bear on the moon",
        "moving square - a bear on the moon 2",
    ] {
        let output = place.transfer(&place.clip).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        let extension = if cfg!(feature = "video") {
            "mp4"
        } else {
            "gif"
        };
        let film = format!("{name}.{extension}");
        assert_eq!(
            stdout(&output).trim(),
            film,
            "standard output has the film's name only"
        );
        assert!(place.path().join(&film).is_file());
    }
    let runs: Vec<_> = fs::read_dir(place.path().join("data/spectral-motion/runs"))
        .unwrap()
        .collect();
    assert_eq!(runs.len(), 2, "each transfer has a run of its own");
}

#[test]
fn json_is_one_event_a_line_and_ends_with_finished() {
    let place = Place::new();
    let mut program = place.quick("train", &place.clip);
    let output = program.args(["--json", "--run", "run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let text = stdout(&output);
    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.first().unwrap()["event"], "started");
    assert_eq!(events.last().unwrap()["event"], "finished");
    assert_eq!(events.last().unwrap()["outcome"], "completed");
    assert_eq!(
        events
            .iter()
            .filter(|event| event["event"] == "step")
            .count(),
        2
    );
    assert!(place.path().join("run/final/weights.safetensors").is_file());

    let mut program = place.program();
    program.args([
        "sample", "run", "--prompt", "a car", "-o", "film.gif", "--json",
    ]);
    let output = program.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(
        stdout(&output)
            .lines()
            .last()
            .unwrap()
            .contains("\"finished\"")
    );
    assert!(place.path().join("film.gif").is_file());
}

#[test]
fn a_failure_is_told_on_the_last_json_line_too() {
    let place = Place::new();
    let output = place
        .transfer(Path::new("nothing.mp4"))
        .arg("--json")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    let text = stdout(&output);
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "finished");
    assert_eq!(last["outcome"], "failed");
    assert_eq!(last["area"], "clip");
    assert!(!last["what_to_do"].as_str().unwrap().is_empty());
}

#[test]
fn clips_that_are_none_are_told_apart_with_exit_code_3() {
    let place = Place::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = place.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let text = file(
        "notes.mp4",
        b"dear diary, today I saw a film and it was long and good\n",
    );
    let empty = file("empty.mp4", b"");
    let folder = place.path().join("empty folder");
    fs::create_dir(&folder).unwrap();
    fails(
        place.transfer(Path::new("missing.mp4")),
        3,
        &["missing.mp4", "no file"],
    );
    fails(place.transfer(&empty), 3, &["empty.mp4", "0 bytes"]);
    fails(place.transfer(&folder), 3, &["empty folder", "no pictures"]);
    fails(
        place.transfer(Path::new("https://example.com/film.mp4")),
        3,
        &["address", "Nothing was downloaded"],
    );
    if cfg!(feature = "video") {
        fails(place.transfer(&text), 3, &["notes.mp4", "not a film"]);
    }
    let runs = place.path().join("data");
    assert!(
        !runs.exists(),
        "no run is begun for a clip that cannot be read"
    );
}

#[cfg(unix)]
#[test]
fn a_name_that_is_not_utf8_works() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    let odd = place.path().join(std::ffi::OsStr::from_bytes(b"cl\xffip"));
    fs::rename(&place.clip, &odd).unwrap();
    let output = place
        .transfer(&odd)
        .arg("--json")
        .args(["-o", "film.gif"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(place.path().join("film.gif").is_file());
}

#[test]
fn what_cannot_be_asked_for_has_exit_code_2() {
    let place = Place::new();
    let mut no_subject = place.program();
    no_subject.args(["transfer", "clip.mp4", "--prompt", "a bear"]);
    fails(no_subject, 2, &["--subject"]);
    let mut empty_words = place.program();
    empty_words.args(["transfer", "clip.mp4", "--prompt", " ", "--subject", "x"]);
    fails(empty_words, 2, &["--prompt has no words"]);
    let mut range = place.transfer(&place.clip);
    range.args(["--lambda-g", "-1"]);
    fails(range, 2, &["--lambda-g"]);
    let mut range = place.transfer(&place.clip);
    range.args(["--learning-rate", "0"]);
    fails(range, 2, &["--learning-rate is 0", "above 0"]);
    fs::write(place.path().join("film.gif"), "mine").unwrap();
    let mut taken = place.transfer(&place.clip);
    taken.args(["-o", "film.gif"]);
    fails(taken, 2, &["film.gif exists already"]);
    assert_eq!(fs::read(place.path().join("film.gif")).unwrap(), b"mine");
    let mut nowhere = place.transfer(&place.clip);
    nowhere.args(["-o", "no/such/folder/film.gif"]);
    fails(nowhere, 2, &["no folder"]);
    let mut format = place.transfer(&place.clip);
    format.args(["-o", "film.docx"]);
    fails(format, 2, &["which format"]);
    let mut threads = place.transfer(&place.clip);
    threads.args(["--threads", "0"]);
    fails(threads, 2, &["0 threads"]);
    let mut no_run = place.program();
    no_run.args(["resume", "nothing"]);
    fails(no_run, 2, &["not a run folder"]);
    if !cfg!(feature = "cuda") {
        let mut device = place.transfer(&place.clip);
        device.args(["--device", "cuda"]);
        fails(device, 2, &["CUDA cannot be used"]);
    }
}

#[test]
fn a_model_that_is_none_has_exit_code_4() {
    let place = Place::new();
    let mut program = place.program();
    program
        .arg("train")
        .arg(&place.clip)
        .args(["--subject", "x", "--model"])
        .arg(&place.clip);
    fails(program, 4, &["not a model folder", "model_index.json"]);
}

#[test]
fn commands_come_from_standard_input_only_when_asked_for() {
    use std::io::Write as _;
    let place = Place::new();
    let mut program = place.quick("train", &place.clip);
    program.args([
        "--steps",
        "100000",
        "--run",
        "run",
        "--json",
        "--commands",
        "-",
    ]);
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"{\"command\":\"dance\"}\n{\"command\":\"pause\"}\n{\"command\":\"stop\"}\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.status.code(), Some(130), "{}", errors(&output));
    let text = stdout(&output);
    assert!(text.contains("A command was not understood"), "{text}");
    assert!(
        text.lines().last().unwrap().contains("\"cancelled\""),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_gracefully_and_leaves_a_checkpoint() {
    use std::io::BufRead as _;
    let place = Place::new();
    let mut program = place.quick("train", &place.clip);
    program.args(["--steps", "100000", "--run", "run", "--json"]);
    program.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = program.spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().unwrap().contains("\"step\""))
        .unwrap()
        .unwrap();
    // The shell's own `kill`: the program of that name is not on every system.
    let kill = Command::new("sh")
        .args(["-c", &format!("kill -INT {}", child.id())])
        .status()
        .unwrap();
    assert!(kill.success());
    let last = lines.last().unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(last.contains("\"cancelled\""), "{last}");
    let saved = fs::read_dir(place.path().join("run/checkpoints"))
        .unwrap()
        .count();
    assert!(saved >= 1);
}

#[test]
fn help_tells_the_exit_codes() {
    let place = Place::new();
    let output = place.program().arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for words in [
        "Exit codes",
        "130",
        "transfer",
        "resume",
        "sample",
        "inspect",
    ] {
        assert!(text.contains(words), "{text}");
    }
}
