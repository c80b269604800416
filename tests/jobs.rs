//! Jobs on a real (micro) model: commands, events, run folders, resume.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use spectral_motion::job::{
    self, Command, Commander, DeviceChoice, Event, JobHandle, Outcome, Request, ResultRequest,
    ResumeRequest, SampleRequest, SamplingChanges, Setting, Stage, StopReason, TrainRequest, Until,
    Waker,
};
use spectral_motion::methods::Method;
use spectral_motion::project::{Checkpoint, RunFolder, TensorFile};
use spectral_motion::report::Area;
use spectral_motion::train::{SamplerChoice, Start, StepStats, TransferConfig};

use crate::common::{assert_same_bits, micro_model, moving_square};

/// Latents `[1, 4, 4, 8, 8]`: big enough for every layer, small enough for many runs.
fn config(steps: u32) -> TransferConfig {
    TransferConfig {
        steps,
        frames: Some(4),
        sampling_steps: Some(2),
        preview_every: 0,
        checkpoint_every: 2,
        ..TransferConfig::default()
    }
}

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

    fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn request(&self, config: TransferConfig) -> TrainRequest {
        TrainRequest {
            clip: self.clip.clone(),
            subject: "a red square".to_owned(),
            more_clips: Vec::new(),
            control: Default::default(),
            model: Some(micro_model()),
            device: DeviceChoice::Cpu,
            config,
            run: Some(self.run()),
            result: None,
        }
    }

    fn film(&self, name: &str) -> ResultRequest {
        ResultRequest {
            prompt: "a bear".to_owned(),
            output: Some(self.folder.path().join(name)),
            overwrite: false,
            scale_to: None,
        }
    }

    fn resume(&self, until: Until) -> Request {
        Request::Resume(Box::new(ResumeRequest {
            run: self.run(),
            until,
            prompt: None,
            result: self.film("resumed.gif"),
            device: DeviceChoice::Cpu,
        }))
    }
}

fn silent() -> Waker {
    Arc::new(|| {})
}

fn start(request: TrainRequest) -> JobHandle {
    job::spawn(Request::Train(Box::new(request)), silent()).unwrap()
}

fn done(request: Request) -> Vec<Event> {
    job::spawn(request, silent()).unwrap().wait()
}

fn outcome(events: &[Event]) -> &Outcome {
    let finished = events
        .iter()
        .filter(|event| matches!(event, Event::Finished(_)))
        .count();
    assert_eq!(finished, 1, "one `Finished`: {events:#?}");
    match events.last() {
        Some(Event::Finished(outcome)) => outcome,
        other => panic!("`Finished` is last, not {other:?}"),
    }
}

fn report_of(events: &[Event]) -> &spectral_motion::report::Report {
    match outcome(events) {
        Outcome::Failed(report) => report,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn steps(events: &[Event]) -> Vec<&StepStats> {
    events
        .iter()
        .filter_map(|event| {
            if let Event::Step(stats) = event {
                Some(stats)
            } else {
                None
            }
        })
        .collect()
}

/// Reads events until one fits; gives all read so far.
fn until(handle: &JobHandle, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    for event in handle.events() {
        let found = fits(&event);
        events.push(event);
        if found {
            return events;
        }
    }
    panic!("the job ended first: {events:#?}");
}

fn last_checkpoint(run: &Path) -> Checkpoint {
    let folders = RunFolder::open(run).unwrap().checkpoints().unwrap();
    Checkpoint::read(folders.last().unwrap()).unwrap()
}

#[test]
fn a_training_tells_its_stages_and_leaves_a_whole_run() {
    let place = Place::new();
    let wakes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&wakes);
    let waker: Waker = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let request = TrainRequest {
        result: Some(place.film("film.gif")),
        ..place.request(config(3))
    };
    let events = job::spawn(Request::Train(Box::new(request)), waker)
        .unwrap()
        .wait();
    assert_eq!(outcome(&events), &Outcome::Completed, "{events:#?}");
    assert_eq!(
        wakes.load(Ordering::Relaxed),
        events.len(),
        "one wake for each event"
    );

    let stages: Vec<Stage> = events
        .iter()
        .filter_map(|event| {
            if let Event::Stage { stage, .. } = event {
                Some(*stage)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(
        stages,
        [
            Stage::Loading,
            Stage::Encoding,
            Stage::Training,
            Stage::Inverting,
            Stage::Sampling,
            Stage::Decoding,
            Stage::Exporting
        ]
    );
    let stats = steps(&events);
    assert_eq!(
        stats.iter().map(|stats| stats.step).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    for stats in stats {
        let local = stats.amplitude + stats.phase;
        let total = stats.base + 0.4 * stats.global + 0.2 * local;
        assert!(
            (stats.total - total).abs() < 1e-4 * total,
            "the terms add up: {stats:?}"
        );
        assert_eq!(
            stats.bands.len(),
            3,
            "4 frames have 3 residuals: 2 levels and the approximation"
        );
    }

    let run = place.run();
    assert_eq!(
        fs::read_to_string(run.join("metrics.jsonl"))
            .unwrap()
            .lines()
            .count(),
        3
    );
    let weights = TensorFile::read(&run.join("final/weights.safetensors")).unwrap();
    assert_same_bits(&weights, &last_checkpoint(&run).weights);
    assert!(run.join("cache/latents.safetensors").is_file());
    assert!(place.folder.path().join("film.gif").is_file());
    let text = fs::read_to_string(run.join("run.toml")).unwrap();
    assert!(
        text.contains("a red square") && text.contains("diffusion_pytorch_model.safetensors"),
        "{text}"
    );
    assert_eq!(
        RunFolder::open(&run)
            .unwrap()
            .read_record::<TransferConfig>()
            .unwrap()
            .settings
            .steps,
        3
    );
}

#[test]
fn events_and_commands_have_a_serde_form() {
    let place = Place::new();
    let events = start(place.request(config(1))).wait();
    for event in events {
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(
            serde_json::from_str::<Event>(&line).unwrap(),
            event,
            "{line}"
        );
    }
    let commands = [
        (r#"{"command":"pause"}"#, Command::Pause),
        (
            r#"{"command":"set","setting":"lambda_g","value":0.3}"#,
            Command::Set {
                setting: Setting::LambdaG,
                value: 0.3,
            },
        ),
        (
            r#"{"command":"sample_now","prompt":"a bear"}"#,
            Command::SampleNow {
                prompt: Some("a bear".to_owned()),
                seed: None,
            },
        ),
        (r#"{"command":"stop"}"#, Command::Stop),
    ];
    for (line, command) in commands {
        assert_eq!(serde_json::from_str::<Command>(line).unwrap(), command);
    }
}

#[test]
fn pause_holds_every_step_and_commands_are_still_obeyed() {
    let place = Place::new();
    let handle = start(place.request(config(1000)));
    until(&handle, |event| matches!(event, Event::Step(_)));
    handle.send(Command::Pause).unwrap();
    let paused = until(&handle, |event| matches!(event, Event::Paused { .. }));
    let Some(Event::Paused { step }) = paused.last().cloned() else {
        panic!()
    };

    handle
        .send(Command::Set {
            setting: Setting::LambdaG,
            value: 0.25,
        })
        .unwrap();
    handle
        .send(Command::Set {
            setting: Setting::LambdaL,
            value: -1.0,
        })
        .unwrap();
    handle
        .send(Command::Set {
            setting: Setting::PreviewEvery,
            value: 0.5,
        })
        .unwrap();
    handle
        .send(Command::Set {
            setting: Setting::Delta,
            value: 0.1,
        })
        .unwrap();
    handle
        .send(Command::Set {
            setting: Setting::LearningRate,
            value: 2e-4,
        })
        .unwrap();
    handle
        .send(Command::SampleNow {
            prompt: Some("a car".to_owned()),
            seed: Some(3),
        })
        .unwrap();
    handle.send(Command::CheckpointNow).unwrap();
    let answers = until(&handle, |event| {
        matches!(event, Event::CheckpointSaved { .. })
    });
    assert!(steps(&answers).is_empty(), "no step while paused");
    assert!(matches!(
        answers[0],
        Event::Changed {
            setting: Setting::LambdaG,
            value: 0.25,
            ..
        }
    ));
    assert!(
        matches!(&answers[1], Event::Warning(report) if report.area == Area::Request),
        "{answers:#?}"
    );
    assert!(matches!(&answers[2], Event::Warning(report) if report.area == Area::Request));
    assert!(answers.iter().any(|event| matches!(
        event,
        Event::Changed {
            setting: Setting::Delta,
            ..
        }
    )));
    let shown = answers.iter().any(|event| {
        matches!(event, Event::PreviewReady { prompt, step: at, .. } if prompt == "a car" && *at == step)
    });
    assert!(shown, "{answers:#?}");
    assert_eq!(handle.preview().unwrap().frames.len(), 4);
    assert_eq!(last_saved(&answers), step);

    handle.send(Command::Resume).unwrap();
    let resumed = until(&handle, |event| matches!(event, Event::Step(_)));
    assert!(matches!(resumed[0], Event::Resumed { step: at } if at == step));
    let stats = steps(&resumed)[0];
    assert_eq!(stats.step, step + 1);
    assert!((stats.learning_rate - 2e-4).abs() < 1e-12);
    handle.send(Command::Stop).unwrap();
    let events = handle.wait();
    assert_eq!(
        outcome(&events),
        &Outcome::Cancelled {
            reason: StopReason::Asked
        }
    );

    let record = RunFolder::open(&place.run())
        .unwrap()
        .read_record::<TransferConfig>()
        .unwrap();
    let names: Vec<&str> = record
        .changes
        .iter()
        .map(|change| change.setting.as_str())
        .collect();
    assert_eq!(
        names,
        ["lambda_g", "delta", "learning_rate"],
        "only what was accepted is recorded"
    );
}

fn last_saved(events: &[Event]) -> u32 {
    events
        .iter()
        .rev()
        .find_map(|event| {
            if let Event::CheckpointSaved { step, .. } = event {
                Some(*step)
            } else {
                None
            }
        })
        .unwrap()
}

/// A waker that stops its own job, on the job's thread and between two events, once it is armed. What is told after that
/// can be counted exactly.
#[derive(Default)]
struct StopFromInside {
    commander: OnceLock<Commander>,
    armed: AtomicBool,
    fired: AtomicBool,
    told_after: AtomicUsize,
}

impl StopFromInside {
    fn start(request: TrainRequest) -> (JobHandle, Arc<Self>) {
        let stopper = Arc::new(Self::default());
        let inside = Arc::clone(&stopper);
        let waker: Waker = Arc::new(move || {
            if inside.fired.load(Ordering::SeqCst) {
                inside.told_after.fetch_add(1, Ordering::SeqCst);
            } else if inside.armed.load(Ordering::SeqCst)
                && let Some(commander) = inside.commander.get()
            {
                commander.send(Command::Stop).unwrap();
                inside.fired.store(true, Ordering::SeqCst);
            }
        });
        let handle = job::spawn(Request::Train(Box::new(request)), waker).unwrap();
        assert!(stopper.commander.set(handle.commander()).is_ok());
        (handle, stopper)
    }
}

#[test]
fn a_stop_is_obeyed_within_one_training_step_and_leaves_a_checkpoint() {
    let place = Place::new();
    let request = place.request(TransferConfig {
        checkpoint_every: 0,
        ..config(100_000)
    });
    let (handle, stopper) = StopFromInside::start(request);
    until(
        &handle,
        |event| matches!(event, Event::Step(stats) if stats.step == 3),
    );
    stopper.armed.store(true, Ordering::SeqCst);
    let after = handle.wait();
    assert_eq!(
        outcome(&after),
        &Outcome::Cancelled {
            reason: StopReason::Asked
        }
    );
    // Given between two steps, so that no further step may come: only the checkpoint and the end.
    assert_eq!(stopper.told_after.load(Ordering::SeqCst), 2);
    let saved = last_saved(&after);
    let metrics = fs::read_to_string(place.run().join("metrics.jsonl")).unwrap();
    assert_eq!(
        metrics.lines().count(),
        saved as usize,
        "the checkpoint is the last step"
    );
    assert_eq!(last_checkpoint(&place.run()).state.step, saved);
}

/// Runs a request and gives it commands right after its `at`-th event (from 0), on the job's own thread: nothing is done
/// between the event and the commands.
fn commanded_after(request: Request, at: usize, commands: &'static [Command]) -> Vec<Event> {
    let commander = Arc::new(OnceLock::<Commander>::new());
    let (told, inside) = (AtomicUsize::new(0), Arc::clone(&commander));
    let waker: Waker = Arc::new(move || {
        if told.fetch_add(1, Ordering::SeqCst) == at {
            for command in commands {
                inside.wait().send(command.clone()).unwrap();
            }
        }
    });
    let handle = job::spawn(request, waker).unwrap();
    assert!(commander.set(handle.commander()).is_ok());
    handle.wait()
}

/// A stop while the clip is inverted, the film denoised, decoded, written: not one further step of any of them.
#[test]
fn a_stop_is_obeyed_within_one_step_of_every_stage() {
    let place = Place::new();
    // Four frames are decoded at once: six are more than one step.
    moving_square(place.folder.path(), 6);
    let settings = TransferConfig {
        frames: Some(6),
        sampling_steps: Some(4),
        checkpoint_every: 0,
        ..config(1)
    };
    let request = |film: &str, run: &str| {
        Request::Train(Box::new(TrainRequest {
            run: Some(place.folder.path().join(run)),
            result: Some(place.film(film)),
            ..place.request(settings.clone())
        }))
    };
    let whole = done(request("whole.gif", "whole"));
    assert_eq!(outcome(&whole), &Outcome::Completed);
    for wanted in [
        Stage::Inverting,
        Stage::Sampling,
        Stage::Decoding,
        Stage::Exporting,
    ] {
        let at = first_step_of(&whole, wanted);
        let name = format!("{wanted:?}.gif");
        let events = commanded_after(request(&name, &format!("{wanted:?}")), at, &[Command::Stop]);
        assert_eq!(events.len(), at + 2, "{wanted:?}: {:#?}", &events[at..]);
        let asked = StopReason::Asked;
        assert_eq!(outcome(&events), &Outcome::Cancelled { reason: asked });
        assert!(!place.folder.path().join(&name).exists(), "no half film");
        let run = place.folder.path().join(format!("{wanted:?}"));
        assert!(run.join("final/weights.safetensors").is_file());
    }
}

/// The same while a preview is made in the middle of a training, which then still saves its last step.
#[test]
fn a_stop_is_obeyed_within_one_step_of_every_stage_of_a_preview() {
    let place = Place::new();
    moving_square(place.folder.path(), 6);
    let request = |run: &str| {
        Request::Train(Box::new(TrainRequest {
            run: Some(place.folder.path().join(run)),
            ..place.request(TransferConfig {
                frames: Some(6),
                sampling_steps: Some(4),
                checkpoint_every: 0,
                preview_every: 2,
                ..config(3)
            })
        }))
    };
    let whole = done(request("whole"));
    assert_eq!(outcome(&whole), &Outcome::Completed);
    for wanted in [Stage::Inverting, Stage::Sampling, Stage::Decoding] {
        let at = first_step_of(&whole, wanted);
        let events = commanded_after(request(&format!("{wanted:?}")), at, &[Command::Stop]);
        let after = &events[at + 1..];
        // Back in the training: no step of it either.
        assert!(
            matches!(
                after,
                [
                    Event::Stage {
                        stage: Stage::Training,
                        ..
                    },
                    Event::CheckpointSaved { step: 2, .. },
                    Event::Finished(Outcome::Cancelled { .. })
                ]
            ),
            "{wanted:?}: {after:#?}"
        );
        let samples = place.folder.path().join(format!("{wanted:?}/samples"));
        assert_eq!(fs::read_dir(samples).unwrap().count(), 0, "no half preview");
    }
}

/// The place of the first step of a stage that has further ones.
fn first_step_of(events: &[Event], wanted: Stage) -> usize {
    let found = events.iter().position(|event| {
        matches!(event, Event::Progress { stage, done, total } if *stage == wanted && done < total)
    });
    found.unwrap_or_else(|| panic!("{wanted:?} has no steps: {events:#?}"))
}

#[test]
fn nobody_listening_stops_the_job() {
    let place = Place::new();
    let handle = start(place.request(config(100_000)));
    until(&handle, |event| matches!(event, Event::Step(_)));
    drop(handle);
    // The lock is released when the job's thread is done.
    let opened = (0..600).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        RunFolder::open(&place.run()).ok()
    });
    assert!(
        opened.is_some(),
        "the job still holds its run after a minute"
    );
    assert!(last_step_of(&opened.unwrap()) > 0);
}

fn last_step_of(run: &RunFolder) -> u32 {
    run.latest_checkpoint().unwrap().0.unwrap().state.step
}

#[test]
fn a_panic_is_told_as_a_failure_and_finished_is_last() {
    let handle = job::spawn_task("test", silent(), |job| {
        job.emit(Event::Note {
            text: "before".to_owned(),
        });
        panic!("a deliberate mistake");
    })
    .unwrap();
    let events = handle.wait();
    let report = report_of(&events);
    assert_eq!(report.cause, ["a deliberate mistake"]);
    assert!(!report.what_to_do.is_empty());
    assert_eq!(events.len(), 2);
}

#[test]
fn a_slow_watcher_loses_steps_but_no_answer() {
    let handle = job::spawn_task("test", silent(), |job| {
        for done in 0..5000 {
            job.progress(Stage::Sampling, done, 5000);
        }
        Ok(())
    })
    .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let events = handle.wait();
    assert_eq!(outcome(&events), &Outcome::Completed);
    assert!(events.len() < 5000, "droppable events were dropped");
}

#[test]
fn commands_that_come_too_late_are_answered() {
    let (go, wait) = crossbeam::channel::bounded::<()>(1);
    let handle = job::spawn_task("test", silent(), move |_| {
        wait.recv().ok();
        Ok(())
    })
    .unwrap();
    handle.send(Command::CheckpointNow).unwrap();
    go.send(()).unwrap();
    let events = handle.wait();
    assert!(matches!(&events[0], Event::Warning(report) if report.headline.contains("checkpoint")));
    assert_eq!(outcome(&events), &Outcome::Completed);
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    resumed_equals_uninterrupted(config(6));
}

/// Two optimisers, adapters, dropout masks and the frames that a step looks at must all go on where they were.
#[test]
fn a_resumed_motion_director_run_is_the_uninterrupted_one_bit_for_bit() {
    resumed_equals_uninterrupted(TransferConfig {
        method: Method::MotionDirector,
        rank: 2,
        ..config(6)
    });
}

fn resumed_equals_uninterrupted(config: TransferConfig) {
    let straight = Place::new();
    let events = start(straight.request(config.clone())).wait();
    assert_eq!(outcome(&events), &Outcome::Completed, "{events:#?}");

    let stopped = Place::new();
    let handle = start(stopped.request(config));
    until(&handle, |event| {
        matches!(event, Event::CheckpointSaved { step: 2, .. })
    });
    handle.send(Command::Stop).unwrap();
    let events = handle.wait();
    // On a fast machine the run may be done before the stop arrives; go back to step 2 then.
    if outcome(&events) == &Outcome::Completed || last_checkpoint(&stopped.run()).state.step > 2 {
        let folders = RunFolder::open(&stopped.run())
            .unwrap()
            .checkpoints()
            .unwrap();
        for folder in folders.iter().skip(1) {
            fs::remove_dir_all(folder).unwrap();
        }
    }
    // The clip is gone: a resume needs only the run.
    fs::remove_dir_all(&stopped.clip).unwrap();
    let events = done(stopped.resume(Until::Planned));
    assert_eq!(outcome(&events), &Outcome::Completed, "{events:#?}");
    let (a, b) = (
        last_checkpoint(&straight.run()),
        last_checkpoint(&stopped.run()),
    );
    assert_same_bits(&a.weights, &b.weights);
    assert_same_bits(&a.optimizer, &b.optimizer);
    assert_eq!(a.state, b.state);
    let bytes = |place: &Place| fs::read(place.run().join("final/weights.safetensors")).unwrap();
    assert_eq!(bytes(&straight), bytes(&stopped), "files are repeatable");
    let metrics = |place: &Place| fs::read_to_string(place.run().join("metrics.jsonl")).unwrap();
    assert_eq!(metrics(&straight), metrics(&stopped));
}

#[test]
fn more_steps_extend_a_finished_run() {
    let long = Place::new();
    start(long.request(config(4))).wait();
    let extended = Place::new();
    start(extended.request(config(2))).wait();
    let events = done(extended.resume(Until::Steps(4)));
    assert_eq!(outcome(&events), &Outcome::Completed);
    assert_same_bits(
        &last_checkpoint(&long.run()).weights,
        &last_checkpoint(&extended.run()).weights,
    );
    let events = done(extended.resume(Until::Steps(1)));
    assert_eq!(report_of(&events).area, Area::Request);
}

#[test]
fn checkpoints_come_by_the_clock_too() {
    let saved = |checkpoint_secs: f64| {
        let place = Place::new();
        let request = place.request(TransferConfig {
            checkpoint_every: 0,
            checkpoint_secs,
            ..config(4)
        });
        let events = start(request).wait();
        assert_eq!(outcome(&events), &Outcome::Completed);
        let saved = events.iter().filter_map(|event| match event {
            Event::CheckpointSaved { step, .. } => Some(*step),
            _ => None,
        });
        saved.collect::<Vec<_>>()
    };
    // Any time at all is too long; the next one keeps its distance to what the first one cost.
    assert_eq!(saved(1e-9)[0], 1);
    assert_eq!(saved(1e6), [4], "only the last");
    assert_eq!(saved(0.0), [4], "only the last");
}

/// What was changed on the way is part of the run: a resume from before the change comes to it again.
#[test]
fn a_change_after_the_last_checkpoint_is_made_again_by_a_resume() {
    const CHANGES: &[Command] = &[
        Command::Set {
            setting: Setting::LearningRate,
            value: 5e-3,
        },
        Command::Set {
            setting: Setting::Delta,
            value: 0.3,
        },
    ];
    let dry = Place::new();
    let events = start(dry.request(config(8))).wait();
    let third_step = events
        .iter()
        .position(|event| matches!(event, Event::Step(stats) if stats.step == 3))
        .unwrap();
    let place = Place::new();
    let request = place.request(TransferConfig {
        keep_checkpoints: 100,
        ..config(8)
    });
    let events = commanded_after(Request::Train(Box::new(request)), third_step, CHANGES);
    assert_eq!(outcome(&events), &Outcome::Completed, "{events:#?}");
    let changes = |events: &[Event]| -> Vec<Event> {
        let changed = |event: &&Event| matches!(event, Event::Changed { .. });
        events.iter().filter(changed).cloned().collect()
    };
    let changed = changes(&events);
    assert_eq!(changed.len(), 2, "{events:#?}");
    assert!(matches!(changed[0], Event::Changed { step: 3, .. }));
    let weights = |place: &Place| fs::read(place.run().join("final/weights.safetensors")).unwrap();
    let (whole, last) = (weights(&place), last_checkpoint(&place.run()));
    assert!(whole != weights(&dry), "the changes matter");

    // As a crash would leave it: nothing after the checkpoint before the changes.
    fs::remove_file(place.run().join("final/weights.safetensors")).unwrap();
    for folder in RunFolder::open(&place.run())
        .unwrap()
        .checkpoints()
        .unwrap()
        .iter()
        .skip(1)
    {
        fs::remove_dir_all(folder).unwrap();
    }
    let events = done(place.resume(Until::Planned));
    assert_eq!(outcome(&events), &Outcome::Completed);
    assert_eq!(changes(&events), changed);
    assert!(weights(&place) == whole, "the same weights");
    assert_eq!(last_checkpoint(&place.run()).state, last.state);
}

#[test]
fn a_sample_of_a_run_being_extended_has_its_newest_weights() {
    let place = Place::new();
    start(place.request(config(2))).wait();
    // Killed after the checkpoint of step 4, the weights of step 2 are still there.
    let old = fs::read(place.run().join("final/weights.safetensors")).unwrap();
    done(place.resume(Until::More(4)));
    fs::write(place.run().join("final/weights.safetensors"), &old).unwrap();
    fs::remove_dir_all(place.run().join("checkpoints/step-000006")).unwrap();
    assert!(!RunFolder::is_finished(&place.run(), 6));
    assert_eq!(RunFolder::unfinished(place.folder.path()), [place.run()]);
    let request = SampleRequest {
        source: place.run(),
        loras: Vec::new(),
        result: place.film("film.gif"),
        changes: SamplingChanges::default(),
        device: DeviceChoice::Cpu,
    };
    let events = done(Request::Sample(Box::new(request)));
    assert_eq!(outcome(&events), &Outcome::Completed);
    let told = events
        .iter()
        .any(|event| matches!(event, Event::Note { text } if text.contains("step 4 are used")));
    assert!(told, "{events:#?}");
}

#[test]
fn a_damaged_cache_is_noticed() {
    let place = Place::new();
    start(place.request(config(1))).wait();
    let path = place.run().join("cache/latents.safetensors");
    let whole = fs::read(&path).unwrap();
    for at in [whole.len() - 1, whole.len() / 2] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        let events = done(place.resume(Until::More(1)));
        let report = report_of(&events);
        assert!(report.headline.contains("is damaged"), "{report}");
        assert!(report.what_to_do.contains("Train the clip again"));
    }
    fs::write(&path, &whole).unwrap();
    let record = RunFolder::look::<TransferConfig>(&place.run()).unwrap();
    assert_eq!(record.settings.steps, 1, "a refused resume changes nothing");
    assert_eq!(
        outcome(&done(place.resume(Until::More(1)))),
        &Outcome::Completed
    );
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_is_used() {
    let place = Place::new();
    start(place.request(TransferConfig {
        steps: 4,
        ..config(4)
    }))
    .wait();
    let weights = place
        .run()
        .join("checkpoints/step-000004/weights.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let events = done(place.resume(Until::Planned));
    assert_eq!(outcome(&events), &Outcome::Completed);
    let warned = events.iter().any(
        |event| matches!(event, Event::Warning(report) if report.headline.contains("step-000004")),
    );
    assert!(warned, "{events:#?}");
    assert_eq!(
        steps(&events)
            .iter()
            .map(|stats| stats.step)
            .collect::<Vec<_>>(),
        [3, 4]
    );

    for folder in ["step-000002", "step-000004"] {
        fs::write(
            place
                .run()
                .join("checkpoints")
                .join(folder)
                .join("state.json"),
            "{",
        )
        .unwrap();
    }
    let events = done(place.resume(Until::Planned));
    let report = report_of(&events);
    assert!(report.headline.contains("is damaged"), "{report}");
    // What it advises works, and leads to the same weights.
    assert!(report.what_to_do.contains("`checkpoints`"), "{report}");
    let weights = || fs::read(place.run().join("final/weights.safetensors")).unwrap();
    let before = weights();
    fs::remove_dir_all(place.run().join("checkpoints")).unwrap();
    let events = done(place.resume(Until::Planned));
    assert_eq!(outcome(&events), &Outcome::Completed);
    assert_eq!(steps(&events).len(), 4);
    assert!(weights() == before);
}

#[test]
fn a_run_is_locked_while_a_job_works_in_it_and_never_overwritten() {
    let place = Place::new();
    let handle = start(place.request(config(100_000)));
    until(&handle, |event| matches!(event, Event::Step(_)));
    let events = done(place.resume(Until::Planned));
    let report = report_of(&events);
    assert_eq!(report.area, Area::Request);
    assert!(report.headline.contains("Another program"), "{report}");
    handle.send(Command::Stop).unwrap();
    handle.wait();
    let events = start(place.request(config(2))).wait();
    assert!(report_of(&events).headline.contains("already holds a run"));
}

#[test]
fn previews_do_not_change_what_is_learned() {
    let (plain, watched) = (Place::new(), Place::new());
    start(plain.request(config(3))).wait();
    let events = start(watched.request(TransferConfig {
        preview_every: 1,
        ..config(3)
    }))
    .wait();
    assert_eq!(outcome(&events), &Outcome::Completed);
    let shown = events
        .iter()
        .filter(|event| matches!(event, Event::PreviewReady { .. }))
        .count();
    assert_eq!(shown, 2, "after steps 1 and 2; the end has its own sample");
    assert_same_bits(
        &last_checkpoint(&plain.run()).weights,
        &last_checkpoint(&watched.run()).weights,
    );
}

#[test]
fn a_run_and_a_model_can_be_sampled_again() {
    let place = Place::new();
    start(place.request(config(2))).wait();
    let sample = |source: PathBuf, film: &str, start: Option<Start>| {
        done(Request::Sample(Box::new(SampleRequest {
            source,
            loras: Vec::new(),
            result: place.film(film),
            changes: SamplingChanges {
                start,
                sampling_steps: Some(2),
                ..SamplingChanges::default()
            },
            device: DeviceChoice::Cpu,
        })))
    };
    let film = |name: &str| fs::read(place.folder.path().join(name)).unwrap();
    assert_eq!(
        outcome(&sample(place.run(), "a.gif", None)),
        &Outcome::Completed
    );
    let kept: BTreeSet<_> = fs::read_dir(place.run().join("cache"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(kept.len(), 2, "the inversion is kept: {kept:?}");
    let again = sample(place.run(), "b.gif", None);
    assert!(!again.iter().any(|event| matches!(
        event,
        Event::Stage {
            stage: Stage::Inverting,
            ..
        }
    )));
    assert_eq!(
        film("a.gif"),
        film("b.gif"),
        "the kept inversion gives the same film"
    );
    assert_eq!(
        outcome(&sample(place.run(), "c.gif", Some(Start::Noise))),
        &Outcome::Completed
    );
    assert_ne!(film("a.gif"), film("c.gif"));
    let events = done(Request::Sample(Box::new(SampleRequest {
        source: place.run(),
        loras: Vec::new(),
        result: place.film("away.gif"),
        changes: SamplingChanges {
            sampling_steps: Some(2),
            negative_prompt: Some("a green square".to_owned()),
            ..SamplingChanges::default()
        },
        device: DeviceChoice::Cpu,
    })));
    assert_eq!(outcome(&events), &Outcome::Completed);
    assert_ne!(
        film("a.gif"),
        film("away.gif"),
        "guidance leads away from other words"
    );

    assert_eq!(
        outcome(&sample(micro_model(), "d.gif", None)),
        &Outcome::Completed
    );
    let refused = sample(micro_model(), "e.gif", Some(Start::Inverted));
    assert_eq!(report_of(&refused).area, Area::Request);

    // From the kept inversion, from fresh noise, and from a model alone.
    for (source, start, name) in [
        (place.run(), None, "f.gif"),
        (place.run(), Some(Start::Noise), "g.gif"),
        (micro_model(), None, "h.gif"),
    ] {
        let events = done(Request::Sample(Box::new(SampleRequest {
            source,
            loras: Vec::new(),
            result: place.film(name),
            changes: SamplingChanges {
                start,
                sampling_steps: Some(2),
                sampler: Some(SamplerChoice::Dpm),
                ..SamplingChanges::default()
            },
            device: DeviceChoice::Cpu,
        })));
        assert_eq!(outcome(&events), &Outcome::Completed);
        assert!(!events.iter().any(|event| matches!(
            event,
            Event::Stage {
                stage: Stage::Inverting,
                ..
            }
        )));
    }
    assert_ne!(film("a.gif"), film("f.gif"));
    assert_ne!(film("c.gif"), film("g.gif"));
}

#[test]
fn another_model_than_the_recorded_one_is_refused() {
    let place = Place::new();
    start(place.request(config(1))).wait();
    let path = place.run().join("run.toml");
    let text = fs::read_to_string(&path).unwrap();
    let key = "\"unet/diffusion_pytorch_model.safetensors\" = \"";
    let at = text.find(key).unwrap() + key.len();
    let mut text = text.into_bytes();
    text[at] = if text[at] == b'0' { b'1' } else { b'0' };
    fs::write(&path, text).unwrap();
    let events = done(place.resume(Until::Steps(2)));
    assert_eq!(report_of(&events).area, Area::Model);
}

#[test]
fn a_setting_or_a_clip_that_cannot_be_used_is_told_before_anything_is_written() {
    let place = Place::new();
    let bad = TransferConfig {
        learning_rate: f64::NAN,
        ..config(1)
    };
    assert_eq!(
        report_of(&start(place.request(bad)).wait()).area,
        Area::Request
    );
    let odd = TransferConfig {
        size: Some((60, 64)),
        ..config(1)
    };
    let events = start(place.request(odd)).wait();
    assert!(
        report_of(&events).what_to_do.contains("56x64"),
        "{:?}",
        report_of(&events)
    );
    let many = TransferConfig {
        frames: Some(9),
        ..config(1)
    };
    let events = start(place.request(many)).wait();
    assert_eq!(
        report_of(&events).area,
        Area::Clip,
        "{:?}",
        report_of(&events)
    );
    let no_model = TrainRequest {
        model: Some(place.clip.clone()),
        ..place.request(config(1))
    };
    assert_eq!(report_of(&start(no_model).wait()).area, Area::Model);
    let weights = TransferConfig {
        level_weights: vec![1.0],
        ..config(1)
    };
    let events = start(place.request(weights)).wait();
    assert!(matches!(outcome(&events), Outcome::Failed(_)));
    assert!(!place.run().join("run.toml").exists());
}
