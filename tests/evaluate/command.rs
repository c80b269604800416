//! The real program's `evaluate`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use spectral_motion::evaluate::Scene;
use spectral_motion::video::Frame;

use super::{clip, film};
use crate::common::micro_model;

fn program(place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spectral-motion"));
    command
        .current_dir(place)
        .stdin(Stdio::null())
        .arg("evaluate");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(folder: &Path, frames: &[Frame]) {
    fs::create_dir(folder).unwrap();
    for (index, frame) in frames.iter().enumerate() {
        let picture =
            image::RgbImage::from_raw(frame.width, frame.height, frame.rgb.clone()).unwrap();
        picture.save(folder.join(format!("{index}.png"))).unwrap();
    }
}

#[test]
fn a_pair_of_films_is_compared_in_words_and_in_json() {
    let place = tempfile::tempdir().unwrap();
    let clip = clip();
    write(
        &place.path().join("clip"),
        &film(clip.scene, &clip.path, (96, 96)),
    );
    write(
        &place.path().join("result"),
        &film(clip.edit, &clip.path, (96, 96)),
    );
    let mut command = program(place.path());
    command.args([
        "result",
        "--reference",
        "clip",
        "--prompt",
        &clip.edit.to_string(),
    ]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let text = stdout(&output);
    for line in [
        "Motion follows the reference: 1.00",
        "Colour as asked: 100 %",
        "Shape as asked: 100 %",
        "Ground as asked: 100 %",
        "Look of the reference left: 0 %",
    ] {
        assert!(text.lines().any(|said| said == line), "{line}: {text}");
    }
    // Asked for the look of the clip, the same film has nothing of it.
    let mut command = program(place.path());
    command.args([
        "result",
        "--reference",
        "clip",
        "--json",
        "--prompt",
        &clip.scene.to_string(),
    ]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let events: Vec<serde_json::Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let scored = events
        .iter()
        .find(|event| event["event"] == "scored")
        .unwrap();
    assert_eq!(scored["score"]["agreement"]["shape"], 0.0);
    assert_eq!(scored["score"]["path"], serde_json::Value::Null);
    assert_eq!(events.last().unwrap()["outcome"], "completed");
}

#[test]
fn what_has_no_meaning_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let scene = Scene::of_words("a red circle on a blue ground");
    write(
        &place.path().join("film"),
        &film(scene, &clip().path, (32, 32)),
    );
    for (arguments, says) in [
        (&["film"][..], "--reference"),
        (&[], "--suite"),
        (
            &["film", "--reference", "film", "--steps", "3"],
            "--steps has no meaning",
        ),
        (&["film", "--reference", "film", "--clips", "3"], "--suite"),
        (
            &["--suite", "drawn", "--seed", "3"],
            "--seed has no meaning",
        ),
        (&["--suite", "drawn", "--clips", "0"], "no cells"),
        (&["--suite", "drawn", "--method", "vmc,magic"], "magic"),
    ] {
        let output = program(place.path()).args(arguments).output().unwrap();
        let text = errors(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
    let left = fs::read_dir(place.path()).unwrap().count();
    assert_eq!(left, 1, "nothing is begun");
}

#[test]
fn a_suite_that_is_killed_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let suite = || {
        let mut command = program(place.path());
        command.args([
            "--suite", "drawn", "--clips", "1", "--seeds", "1", "--method", "vmc", "-o", "suite",
        ]);
        command.args([
            "--steps",
            "1",
            "--frames",
            "4",
            "--sampling-steps",
            "2",
            "--device",
            "cpu",
            "--model",
        ]);
        command.arg(micro_model());
        command
    };
    let mut command = suite();
    let mut child = command
        .arg("--json")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let cell =
        |line: &std::io::Result<String>| line.as_ref().unwrap().contains("\"event\":\"cell\"");
    assert!(lines.any(|line| cell(&line)), "a cell is done");
    child.kill().unwrap();
    child.wait().unwrap();
    let output = suite().output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let said = errors(&output);
    assert!(said.contains("cells are there already"), "{said}");
    let table = stdout(&output);
    for row in [
        "| inverted | - | no training | 1 |",
        "| noise | vmc | + both | 1 |",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
}
