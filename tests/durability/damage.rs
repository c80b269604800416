//! Damaged files of a run, a project, a film: whatever they say, they are read or refused, nothing ends the program, and no
//! length is believed before the bytes are there.
//!
//! `SPECTRAL_MOTION_FUZZ` is the number of inputs for each kind of file.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::json;
use spectral_motion::project::{
    Change, Checkpoint, CheckpointState, ClipRecord, Control, ModelRecord, MoreClip, PlainTensor,
    Project, ProjectError, Recipe, RunFolder, RunRecord, TensorFile,
};
use spectral_motion::train::TransferConfig;
use spectral_motion::video::{self, Clip, ExportFormat, ExportOptions, Frame};

use crate::common::allocation;
use crate::common::damage::{Mutator, inputs};

const INPUTS: usize = 1_000;
/// Bytes that a reader may ask for at once, however small the file: buffers, and a comment of a film that is longer than a
/// recipe may be, each byte of it replaced by the three that stand for damage.
const BUFFERS: usize = 4 * video::MAX_RECIPE_BYTES;
/// And for each byte of the file: a token, a tree's node and a growing list's spare half are larger than the byte they stand for.
const FOR_EACH_BYTE: usize = 128;

/// Reads damaged versions of a file. `read` says whether one was taken for good.
fn survives(path: &Path, read: &dyn Fn() -> bool) {
    let valid = fs::read(path).unwrap();
    assert!(read(), "{} is valid and was refused", path.display());
    let count = inputs(INPUTS);
    let mut mutator = Mutator::default();
    let (mut refused, mut largest) = (0, 0);
    for _ in 0..count {
        let damaged = mutator.damage(&valid);
        fs::write(path, &damaged).unwrap();
        let (taken, bytes) = allocation::largest(read);
        refused += usize::from(!taken);
        largest = largest.max(bytes);
        let allowed = BUFFERS + FOR_EACH_BYTE * damaged.len();
        if bytes > allowed {
            let kept = std::env::temp_dir().join("believed-length");
            fs::write(&kept, &damaged).unwrap();
            panic!(
                "{bytes} bytes at once for a file of {}: {}",
                damaged.len(),
                kept.display()
            );
        }
    }
    let name = path.file_name().unwrap().to_string_lossy();
    println!(
        "{name}: {refused} of {count} refused, at most {largest} bytes at once for {}",
        valid.len()
    );
    // The damage reaches what the reader looks at.
    assert!(refused * 10 > count, "{name}: {refused} of {count} refused");
    fs::write(path, &valid).unwrap();
}

fn record() -> RunRecord<TransferConfig> {
    RunRecord {
        format: 1,
        program: "test".to_owned(),
        subject: "a red square".to_owned(),
        prompt: Some("a \"bear\"".to_owned()),
        clip: ClipRecord {
            name: "square.mp4".to_owned(),
            pixels_sha256: "00".repeat(32),
            frames: 8,
            width: 64,
            height: 64,
            fps: 8.0,
            notes: vec!["Cut to 8 frames.".to_owned()],
        },
        more_clips: Vec::new(),
        model: ModelRecord {
            controlnet: None,
            name: "micro".to_owned(),
            folder: Some("/models/micro".to_owned()),
            weights_sha256: [("unet/a.safetensors".to_owned(), "11".repeat(32))].into(),
        },
        settings: TransferConfig {
            size: Some((64, 48)),
            level_weights: vec![1.0, 0.5],
            ..TransferConfig::default()
        },
        changes: vec![Change {
            step: 3,
            setting: "lambda_g".to_owned(),
            value: 0.25,
        }],
    }
}

fn tensors() -> TensorFile {
    let mut file = TensorFile {
        about: "{}".to_owned(),
        ..TensorFile::default()
    };
    for name in ["a", "b"] {
        let tensor = PlainTensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        file.tensors.insert(name.to_owned(), tensor);
    }
    file
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        state: CheckpointState {
            step: 7,
            updates: 7,
            spatial_updates: 5,
            more_spatial_updates: vec![4],
            loss_scale: Some(1024.0),
            timestep_stream: 21,
            noise_stream: 70_000,
            frame_stream: 3,
            live: TransferConfig::default().live(),
        },
        weights: tensors(),
        optimizer: tensors(),
    }
}

/// A run with a checkpoint and metrics.
fn run(folder: &Path) -> RunFolder {
    let mut run = RunFolder::create(&folder.join("run")).unwrap();
    run.write_record(&record()).unwrap();
    tensors().write(&run.latents()).unwrap();
    for step in 1..=7 {
        run.append_metrics(&json!({"step": step, "total": 0.5 / f64::from(step)}))
            .unwrap();
    }
    run.write_checkpoint(&checkpoint(), 3).unwrap();
    run
}

#[test]
fn run_records_survive_any_damage() {
    let place = tempfile::tempdir().unwrap();
    let run = run(place.path());
    survives(&run.path().join("run.toml"), &|| {
        run.read_record::<TransferConfig>()
            .is_ok_and(|record| record.settings.check().is_ok())
    });
}

/// What a checkpoint says decides about every later number: damage is noticed, not only survived.
#[test]
fn checkpoints_survive_any_damage_and_notice_it() {
    let place = tempfile::tempdir().unwrap();
    let run = run(place.path());
    let saved = run.checkpoints().unwrap().pop().unwrap();
    let read = || match Checkpoint::read(&saved) {
        Ok(found) => {
            assert_eq!(found, checkpoint(), "damage was taken for a checkpoint");
            true
        }
        Err(_) => false,
    };
    for file in ["state.json", "weights.safetensors", "optimizer.safetensors"] {
        survives(&saved.join(file), &read);
    }
}

#[test]
fn tensor_files_survive_any_damage() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("latents.safetensors");
    tensors().write(&path).unwrap();
    survives(&path, &|| TensorFile::read(&path).is_ok());
}

#[test]
fn project_files_survive_any_damage() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("dance.toml");
    let project = Project {
        clip: Some("/films/dance.mp4".into()),
        more_clips: vec![MoreClip {
            path: "/films/waltz.mp4".into(),
            subject: "two dancers".to_owned(),
        }],
        model: Some("/models/big".into()),
        control: Control {
            controlnet: Some("/models/edges".into()),
            clip: Some("/films/depth.mp4".into()),
        },
        subject: "a dancer".to_owned(),
        prompt: "a bear".to_owned(),
        runs: vec!["/runs/dance".into(), "/runs/dance 2".into()],
        settings: record().settings,
    };
    project.write(&path).unwrap();
    survives(&path, &|| Project::<TransferConfig>::read(&path).is_ok());
}

/// Metrics are for looking at: damage to them costs the damaged lines, never the run.
#[test]
fn metrics_survive_any_damage() {
    let place = tempfile::tempdir().unwrap();
    let mut run = run(place.path());
    let path = run.path().join("metrics.jsonl");
    let valid = fs::read(&path).unwrap();
    let mut mutator = Mutator::default();
    // Each is rewritten and synced, which takes its time.
    for _ in 0..inputs(INPUTS / 10) {
        fs::write(&path, mutator.damage(&valid)).unwrap();
        let (kept, bytes) = allocation::largest(|| run.keep_metrics(5));
        kept.unwrap();
        assert!(bytes < BUFFERS, "{bytes} bytes at once");
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> = text
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["step"].as_u64().unwrap()
            })
            .collect();
        assert!(steps.is_sorted() && steps.iter().all(|step| *step <= 5));
        assert!(text.is_empty() || text.ends_with('\n'));
    }
}

fn film_with_recipe(path: &Path, format: ExportFormat) {
    let record = record();
    let recipe = Recipe {
        trained_steps: Some(7),
        ..Recipe::of_run(record, "a bear".to_owned(), 1)
    };
    let frames = vec![Frame::filled(16, 16, [9, 9, 9]); 2];
    let clip = Clip::from_frames(frames, 8.0, "made");
    let options = ExportOptions {
        scale_to: None,
        recipe: Some(serde_json::to_string(&recipe).unwrap()),
        ..ExportOptions::default()
    };
    video::export(&clip, path, format, &options, &mut |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
}

#[test]
fn recipes_in_films_survive_any_damage() {
    let place = tempfile::tempdir().unwrap();
    let mut films = vec![
        ("film.gif", ExportFormat::Gif),
        ("frames", ExportFormat::Png),
    ];
    if cfg!(feature = "video") {
        films.extend([
            ("film.mp4", ExportFormat::Mp4),
            ("film.webm", ExportFormat::WebM),
        ]);
    }
    for (name, format) in films {
        let film = place.path().join(name);
        film_with_recipe(&film, format);
        let damaged: PathBuf = match format {
            ExportFormat::Png => film.join("recipe.json"),
            _ => film.clone(),
        };
        // As the window reads it.
        survives(&damaged, &|| {
            video::read_recipe(&film)
                .ok()
                .flatten()
                .is_some_and(|text| serde_json::from_str::<Recipe<TransferConfig>>(&text).is_ok())
        });
    }
}

/// Brackets without end would use up the stack of a reader that follows them, and end the program.
#[test]
fn files_nested_without_end_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut run = run(place.path());
    let deep = "[".repeat(200_000);
    let toml = |key: &str| format!("format = 1\n{key} = {deep}");
    let damaged = |error: &ProjectError| matches!(error, ProjectError::Damaged { .. });

    fs::write(run.path().join("run.toml"), toml("settings")).unwrap();
    assert!(damaged(&run.read_record::<TransferConfig>().unwrap_err()));
    let project = place.path().join("p.toml");
    fs::write(&project, toml("project")).unwrap();
    assert!(damaged(
        &Project::<TransferConfig>::read(&project).unwrap_err()
    ));
    let saved = run.checkpoints().unwrap().pop().unwrap();
    let state = format!("{{\"format\":2,\"live\":{deep}");
    fs::write(saved.join("state.json"), state).unwrap();
    assert!(damaged(&Checkpoint::read(&saved).unwrap_err()));
    let metrics = run.path().join("metrics.jsonl");
    fs::write(&metrics, format!("{{\"step\":1,\"bands\":{deep}\n")).unwrap();
    run.keep_metrics(9).unwrap();
    assert_eq!(fs::read(&metrics).unwrap(), b"");
    let frames = place.path().join("frames");
    film_with_recipe(&frames, ExportFormat::Png);
    fs::write(frames.join("recipe.json"), format!("{{\"a\":{deep}")).unwrap();
    assert_eq!(video::read_recipe(&frames).unwrap(), None);
}

#[test]
fn files_from_the_future_are_told_apart_and_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let run = run(place.path());
    let saved = run.checkpoints().unwrap().pop().unwrap();
    fs::write(saved.join("state.json"), r#"{"format": 99, "new": {}}"#).unwrap();
    let newer = run.latest_checkpoint().unwrap_err();
    assert!(matches!(newer, ProjectError::TooNew { found: 99, .. }));
    fs::write(run.path().join("run.toml"), "format = 99\n[new]\n").unwrap();
    let newer = run.read_record::<TransferConfig>().unwrap_err();
    assert!(matches!(newer, ProjectError::TooNew { found: 99, .. }));
    assert!(
        newer.to_string().contains("newer version of this program"),
        "{newer}"
    );
}

/// Checkpoints beyond a million steps, and the order in which the oldest go.
#[test]
fn the_newest_checkpoints_stay_whatever_their_number() {
    let place = tempfile::tempdir().unwrap();
    let run = run(place.path());
    let at = |step: u32| {
        let mut checkpoint = checkpoint();
        checkpoint.state.step = step;
        checkpoint
    };
    for step in [999_998, 999_999, 1_000_000, 1_000_001] {
        run.write_checkpoint(&at(step), 2).unwrap();
    }
    let names = |run: &RunFolder| super::names(&run.path().join("checkpoints"));
    assert_eq!(names(&run), ["step-1000000", "step-1000001"]);
    let newest = run.latest_checkpoint().unwrap().0.unwrap();
    assert_eq!(newest.state.step, 1_000_001);
    // A run that had to go back keeps the whole ones, not the damaged ones of later steps.
    fs::remove_file(run.path().join("checkpoints/step-1000001/state.json")).unwrap();
    run.write_checkpoint(&at(1_000_000), 1).unwrap();
    assert_eq!(names(&run), ["step-1000000", "step-1000001"]);
    let (found, damaged) = run.latest_checkpoint().unwrap();
    assert_eq!(found.unwrap().state.step, 1_000_000);
    assert_eq!(damaged.len(), 1);
}

/// A checkpoint that another program holds open costs the training nothing.
#[test]
fn an_old_checkpoint_that_cannot_go_ends_nothing() {
    let place = tempfile::tempdir().unwrap();
    let run = run(place.path());
    let folder = run.path().join("checkpoints");
    let at = |step: u32| {
        let mut checkpoint = checkpoint();
        checkpoint.state.step = step;
        checkpoint
    };
    run.write_checkpoint(&at(8), 1).unwrap();
    // A file where the checkpoint would be put aside.
    fs::write(folder.join(".step-000008.gone"), "").unwrap();
    run.write_checkpoint(&at(9), 1).unwrap();
    let newest = run.latest_checkpoint().unwrap().0.unwrap();
    assert_eq!(newest.state.step, 9);
    fs::remove_file(folder.join(".step-000008.gone")).unwrap();
    run.write_checkpoint(&at(10), 1).unwrap();
    assert_eq!(super::names(&folder), ["step-000010"]);
}
