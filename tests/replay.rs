//! A film is made again from what it says of itself, and its clip.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spectral_motion::job::{
    self, Command, DeviceChoice, Event, Outcome, ReplayRequest, Request, ResultRequest,
    SampleRequest, SamplingChanges, Setting, TrainRequest,
};
use spectral_motion::methods::Method;
use spectral_motion::project::{MoreClip, Recipe};
use spectral_motion::report::Report;
use spectral_motion::train::{Start, TransferConfig};
use spectral_motion::video::{self, Limits};

use crate::common::{image_model, micro_model, moving_square};

const SAME: &str = "The weights are those of the recipe, bit for bit.";

struct Place {
    folder: tempfile::TempDir,
    clips: [PathBuf; 2],
}

impl Place {
    /// Two clips; the second one is still at another place.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clips = ["first", "second"].map(|name| folder.path().join(name));
        let clips = [(&clips[0], 4), (&clips[1], 5)].map(|(at, frames)| moving_square(at, frames));
        Self { folder, clips }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains on both clips, changes a setting on the way, and writes a film.
    fn transfer(&self, film: &str) -> Vec<Event> {
        let request = TrainRequest {
            clip: self.clips[0].clone(),
            subject: "a red square".to_owned(),
            more_clips: vec![MoreClip {
                path: self.clips[1].clone(),
                subject: "a square that moves".to_owned(),
            }],
            control: Default::default(),
            model: Some(micro_model()),
            device: DeviceChoice::Cpu,
            config: TransferConfig {
                steps: 3,
                frames: Some(4),
                sampling_steps: Some(2),
                seed: 5,
                preview_every: 2,
                start: Start::Mixed,
                ..TransferConfig::default()
            },
            run: Some(self.path("run")),
            result: Some(self.result(film)),
        };
        let change = Command::Set {
            setting: Setting::LambdaG,
            value: 0.9,
        };
        done(Request::Train(Box::new(request)), &[change])
    }

    fn result(&self, film: &str) -> ResultRequest {
        ResultRequest {
            prompt: "a car".to_owned(),
            output: Some(self.path(film)),
            overwrite: false,
            scale_to: None,
        }
    }

    fn replay(&self, source: &str, film: &str) -> ReplayRequest {
        ReplayRequest {
            source: self.path(source),
            clips: self.clips.to_vec(),
            control: Default::default(),
            model: Some(micro_model()),
            device: DeviceChoice::Cpu,
            run: Some(self.path(&format!("run of {film}"))),
            result: self.result(film),
            anyway: false,
        }
    }

    fn again(&self, request: ReplayRequest) -> Vec<Event> {
        done(Request::Replay(Box::new(request)), &[])
    }

    fn pixels(&self, film: &str) -> Vec<video::Frame> {
        let clip = video::load(&self.path(film), &Limits::default(), &|| false);
        clip.unwrap().frames
    }
}

fn done(request: Request, commands: &[Command]) -> Vec<Event> {
    let handle = job::spawn(request, Arc::new(|| {})).unwrap();
    for command in commands {
        handle.send(command.clone()).unwrap();
    }
    handle.events().into_iter().collect()
}

#[track_caller]
fn completed(events: &[Event]) {
    assert_eq!(
        events.last(),
        Some(&Event::Finished(Outcome::Completed)),
        "{events:#?}"
    );
}

#[track_caller]
fn failed(events: Vec<Event>) -> Report {
    match events.into_iter().last() {
        Some(Event::Finished(Outcome::Failed(report))) => report,
        other => panic!("{other:?}"),
    }
}

fn notes(events: &[Event]) -> Vec<&str> {
    let note = events.iter().map(|event| match event {
        Event::Note { text } => Some(text.as_str()),
        _ => None,
    });
    note.flatten().collect()
}

fn recipe(film: &Path) -> Recipe<TransferConfig> {
    serde_json::from_str(&video::read_recipe(film).unwrap().unwrap()).unwrap()
}

#[test]
fn a_film_is_made_again_to_the_bit() {
    let place = Place::new();
    completed(&place.transfer("film"));
    let told = recipe(&place.path("film"));
    assert_eq!(
        told.changes.len(),
        1,
        "the setting that was changed on the way"
    );
    let events = place.again(place.replay("film", "again"));
    completed(&events);
    assert!(notes(&events).contains(&SAME), "{events:#?}");
    assert_eq!(place.pixels("again"), place.pixels("film"));
    assert_eq!(recipe(&place.path("again")), told);

    // A sample of the run with another seed and fewer steps: trained with the run's settings, sampled with its own.
    completed(&done(
        Request::Sample(Box::new(SampleRequest {
            source: place.path("run"),
            loras: Vec::new(),
            result: ResultRequest {
                prompt: "a bear".to_owned(),
                ..place.result("sample")
            },
            changes: SamplingChanges {
                seed: Some(9),
                sampling_steps: Some(3),
                ..SamplingChanges::default()
            },
            device: DeviceChoice::Cpu,
        })),
        &[],
    ));
    let told = recipe(&place.path("sample"));
    assert_eq!((told.seed, told.settings.sampling_steps), (9, Some(3)));
    let events = place.again(place.replay("sample", "sample again"));
    completed(&events);
    assert!(notes(&events).contains(&SAME), "{events:#?}");
    assert_eq!(place.pixels("sample again"), place.pixels("sample"));
    assert_eq!(recipe(&place.path("sample again")), told);

    // A run says as much as its film.
    let events = place.again(place.replay("run", "from the run"));
    completed(&events);
    assert!(notes(&events).contains(&SAME), "{events:#?}");
    assert_eq!(place.pixels("from the run"), place.pixels("film"));
}

/// A sample of a training that was stopped, and a preview on its way.
#[test]
fn a_film_from_the_middle_of_a_training_is_made_again() {
    let place = Place::new();
    completed(&place.transfer("film"));
    // As if three steps were not all.
    let path = place.path("run/run.toml");
    let text = fs::read_to_string(&path).unwrap();
    let longer = text.replacen("\nsteps = 3\n", "\nsteps = 6\n", 1);
    assert_ne!(longer, text);
    fs::write(&path, longer).unwrap();
    completed(&done(
        Request::Sample(Box::new(SampleRequest {
            source: place.path("run"),
            loras: Vec::new(),
            result: place.result("sample"),
            changes: SamplingChanges::default(),
            device: DeviceChoice::Cpu,
        })),
        &[],
    ));
    let told = recipe(&place.path("sample"));
    assert_eq!((told.trained_steps, told.settings.steps), (Some(3), 6));
    let events = place.again(place.replay("sample", "sample again"));
    completed(&events);
    assert!(notes(&events).contains(&SAME), "{events:#?}");
    assert_eq!(place.pixels("sample again"), place.pixels("sample"));
    assert_eq!(recipe(&place.path("sample again")), told);

    let preview = Recipe {
        trained_steps: Some(2),
        preview: true,
        tuned_sha256: None,
        ..recipe(&place.path("film"))
    };
    let text = serde_json::to_string(&preview).unwrap();
    fs::write(place.path("film/recipe.json"), text).unwrap();
    let mut again = place.replay("film", "preview.gif");
    // As previews are written.
    again.result.scale_to = Some(256);
    completed(&place.again(again));
    assert_eq!(
        place.pixels("preview.gif"),
        place.pixels("run/samples/step-000002.gif")
    );
}

/// The edges of a clip and a clip of one's own lead to other films.
#[test]
fn what_leads_has_to_be_what_led() {
    let place = Place::new();
    let request = TrainRequest {
        clip: place.clips[0].clone(),
        subject: "a red square".to_owned(),
        more_clips: Vec::new(),
        control: Default::default(),
        model: Some(image_model()),
        device: DeviceChoice::Cpu,
        config: TransferConfig {
            method: Method::ControlVideo,
            steps: 1,
            frames: Some(4),
            size: Some((64, 64)),
            sampling_steps: Some(2),
            ..TransferConfig::default()
        },
        run: Some(place.path("run")),
        result: Some(place.result("film")),
    };
    completed(&done(Request::Train(Box::new(request)), &[]));
    let plain = ReplayRequest {
        clips: vec![place.clips[0].clone()],
        model: Some(image_model()),
        ..place.replay("film", "again")
    };
    let mut led = plain.clone();
    led.control.clip = Some(place.clips[1].clone());
    let report = failed(place.again(led));
    assert!(report.headline.contains("Something else leads"), "{report}");
    assert!(report.to_string().contains("Edges lead it"), "{report}");
    let events = place.again(plain);
    completed(&events);
    assert!(notes(&events).contains(&SAME), "{events:#?}");
}

#[test]
fn what_is_not_what_the_film_was_made_from_is_refused() {
    let place = Place::new();
    completed(&place.transfer("film"));
    let plain = place.replay("film", "again");
    let one = ReplayRequest {
        clips: vec![place.clips[0].clone()],
        ..plain.clone()
    };
    let report = failed(place.again(one));
    assert!(report.headline.contains("from 2 clips"), "{report}");
    assert!(report.what_to_do.contains("moving square"), "{report}");
    let mut swapped = plain.clone();
    swapped.clips.reverse();
    let report = failed(place.again(swapped.clone()));
    assert!(report.headline.contains("is not the clip"), "{report}");
    assert!(!swapped.run.as_ref().unwrap().exists(), "no run was begun");
    // The other one, as it is asked for.
    let events = place.again(ReplayRequest {
        anyway: true,
        ..swapped
    });
    completed(&events);
    let warned = |event: &Event| matches!(event, Event::Warning(report) if report.headline.contains("is not the clip"));
    assert!(events.iter().any(warned), "{events:#?}");
    assert!(!notes(&events).contains(&SAME), "{events:#?}");

    let builtin = ReplayRequest {
        model: None,
        ..place.replay("film", "other")
    };
    let report = failed(place.again(builtin));
    assert!(report.what_to_do.contains("--model"), "{report}");
    // The clip itself is a folder of pictures that says nothing.
    let silent = ReplayRequest {
        source: place.clips[0].clone(),
        ..place.replay("film", "other")
    };
    let report = failed(place.again(silent));
    assert!(report.headline.contains("cannot be made again"), "{report}");
    let path = place.path("film/recipe.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"prompt\"", "\"promt\"", 1)).unwrap();
    let report = failed(place.again(place.replay("film", "other")));
    assert!(report.to_string().contains("prompt"), "{report}");
}

#[test]
fn a_film_of_a_model_as_it_is_has_nothing_to_train() {
    let place = Place::new();
    completed(&done(
        Request::Sample(Box::new(SampleRequest {
            source: micro_model(),
            loras: Vec::new(),
            result: place.result("film"),
            changes: SamplingChanges {
                sampling_steps: Some(2),
                ..SamplingChanges::default()
            },
            device: DeviceChoice::Cpu,
        })),
        &[],
    ));
    let report = failed(place.again(place.replay("film", "again")));
    assert!(report.what_to_do.contains("`sample`"), "{report}");
}
