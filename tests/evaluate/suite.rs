//! Jobs that compare: a run, a film, and a suite on the micro model that is stopped and goes on.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use spectral_motion::evaluate::{Scorecard, Summary};
use spectral_motion::job::{
    self, Command, CutChanges, DeviceChoice, EvaluateRequest, Event, Outcome, Request,
    ResultRequest, SuiteRequest, TrainRequest,
};
use spectral_motion::methods::Method;
use spectral_motion::project::MoreClip;
use spectral_motion::report::Area;
use spectral_motion::train::{FitChoice, TransferConfig};

use crate::common::{micro_model, moving_square};

/// Settings that take a second on the micro model.
fn config() -> TransferConfig {
    TransferConfig {
        steps: 1,
        frames: Some(4),
        sampling_steps: Some(2),
        ..TransferConfig::default()
    }
}

fn suite(folder: &Path, steps: u32) -> Request {
    Request::Suite(Box::new(SuiteRequest {
        folder: folder.to_owned(),
        clips: 2,
        seeds: 1,
        methods: vec![Method::Vmc],
        model: Some(micro_model()),
        device: DeviceChoice::Cpu,
        config: TransferConfig { steps, ..config() },
    }))
}

fn done(request: Request) -> Vec<Event> {
    job::spawn(request, Arc::new(|| {})).unwrap().wait()
}

fn table(events: &[Event]) -> &Summary {
    let mut tables = events.iter().filter_map(|event| match event {
        Event::Table { summary, .. } => Some(&**summary),
        _ => None,
    });
    tables
        .next_back()
        .unwrap_or_else(|| panic!("a table: {events:#?}"))
}

fn computed(events: &[Event]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::Cell { .. }))
        .count()
}

fn kept(events: &[Event]) -> u32 {
    let kept = events.iter().find_map(|event| match event {
        Event::Suite { cells: 10, kept } => Some(*kept),
        _ => None,
    });
    kept.unwrap_or_else(|| panic!("a suite of 10 cells: {events:#?}"))
}

#[test]
fn a_suite_that_was_stopped_or_killed_goes_on_and_computes_no_cell_twice() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("suite");
    // Stopped after the second cell.
    let handle = job::spawn(suite(&folder, 1), Arc::new(|| {})).unwrap();
    let mut events = Vec::new();
    for event in handle.events() {
        if matches!(event, Event::Cell { done: 2, .. }) {
            handle.send(Command::Stop).unwrap();
        }
        events.push(event);
    }
    assert!(
        matches!(
            events.last(),
            Some(Event::Finished(Outcome::Cancelled { .. }))
        ),
        "{events:#?}"
    );
    let first = computed(&events);
    assert!((2..10).contains(&first), "{first} cells before the stop");
    assert!(!table(&events).rows.is_empty(), "a table of what is there");
    let cells = folder.join("cells");
    let cell = |name: &str| cells.join(name);
    let before = fs::read(cell("clip 01 seed 01 no training/cell.json")).unwrap();
    // As a power cut leaves it: a folder with a beginning of a run, and no cell.json.
    let cut = cell("clip 01 seed 01 vmc base");
    fs::remove_file(cut.join("cell.json")).unwrap();
    fs::create_dir_all(cut.join("run")).unwrap();
    fs::write(cut.join("run/run.toml"), "half a li").unwrap();

    let events = done(suite(&folder, 1));
    assert_eq!(
        events.last(),
        Some(&Event::Finished(Outcome::Completed)),
        "{events:#?}"
    );
    assert_eq!(kept(&events) as usize, first - 1);
    assert_eq!(computed(&events), 10 - (first - 1));
    let after = fs::read(cell("clip 01 seed 01 no training/cell.json")).unwrap();
    assert_eq!(after, before, "a cell that is there stays as it is");
    for name in fs::read_dir(&cells).unwrap() {
        let cell = name.unwrap().path();
        assert!(
            cell.join("cell.json").is_file() && !cell.join("run").exists(),
            "{}",
            cell.display()
        );
        assert_eq!(
            fs::read_dir(cell.join("noise")).unwrap().count(),
            5,
            "4 frames and the recipe"
        );
    }

    let summary = table(&events);
    assert_eq!(summary.rows.len(), 10, "5 trainings from 2 starts");
    assert!(summary.rows.iter().all(|row| row.cells == 2));
    assert_eq!(
        fs::read_to_string(folder.join("table.md")).unwrap(),
        summary.markdown()
    );
    assert_eq!(
        fs::read_to_string(folder.join("cells.csv"))
            .unwrap()
            .lines()
            .count(),
        1 + 20
    );
    let written: Summary =
        serde_json::from_slice(&fs::read(folder.join("summary.json")).unwrap()).unwrap();
    assert_eq!(&written, summary);

    // Everything is there: nothing is computed, and the table is the same.
    let events = done(suite(&folder, 1));
    assert_eq!((kept(&events), computed(&events)), (10, 0));
    assert_eq!(table(&events), summary);
    // Other settings are other rows.
    let events = done(suite(&folder, 2));
    let Some(Event::Finished(Outcome::Failed(report))) = events.last() else {
        panic!("{events:#?}");
    };
    assert_eq!(report.area, Area::Request);
    assert!(report.headline.contains("other settings"), "{report}");
    // A folder of something else is left alone.
    let events = done(suite(place.path(), 1));
    assert!(
        matches!(events.last(), Some(Event::Finished(Outcome::Failed(_)))),
        "{events:#?}"
    );
}

fn scored(request: EvaluateRequest) -> Scorecard {
    let events = done(Request::Evaluate(Box::new(request)));
    assert_eq!(
        events.last(),
        Some(&Event::Finished(Outcome::Completed)),
        "{events:#?}"
    );
    let card = events.into_iter().find_map(|event| match event {
        Event::Scored { score } => Some(*score),
        _ => None,
    });
    card.unwrap()
}

#[test]
fn a_run_and_its_film_have_one_scorecard() {
    let place = tempfile::tempdir().unwrap();
    let clip = moving_square(place.path(), 4);
    let (run, film) = (place.path().join("run"), place.path().join("film"));
    let events = done(Request::Train(Box::new(TrainRequest {
        clip: clip.clone(),
        subject: "a red square".to_owned(),
        more_clips: Vec::new(),
        control: Default::default(),
        model: Some(micro_model()),
        device: DeviceChoice::Cpu,
        config: config(),
        run: Some(run.clone()),
        result: Some(ResultRequest {
            prompt: "a yellow star on a blue plain background".to_owned(),
            output: Some(film.clone()),
            overwrite: false,
            scale_to: None,
        }),
    })));
    assert_eq!(
        events.last(),
        Some(&Event::Finished(Outcome::Completed)),
        "{events:#?}"
    );
    let request = |result: &Path, reference: Option<&Path>| EvaluateRequest {
        result: result.to_owned(),
        reference: reference.map(Path::to_owned),
        prompt: None,
        subject: None,
        cut: CutChanges::default(),
        device: DeviceChoice::Cpu,
    };
    // The run's result is made again: the same seed gives the same pictures, and the film's recipe has the same words.
    let of_film = scored(request(&film, Some(&clip)));
    assert_eq!(scored(request(&run, Some(&clip))), of_film);
    assert_eq!((of_film.frames, of_film.size_px), (4, [64, 64]));
    assert!(of_film.agreement.ground.is_some(), "the words are known");
    // Without the clip its latents are decoded, for the run itself and where the run is named as the reference.
    let decoded = scored(request(&run, None));
    assert_eq!(scored(request(&film, Some(&run))), decoded);
    assert_ne!(
        decoded, of_film,
        "the autoencoder of random weights loses the clip"
    );
    // A clip against itself, as a film without a recipe.
    let own = scored(request(&clip, Some(&clip)));
    assert_eq!((own.leakage.palette, own.agreement.ground), (1.0, None));
    // The square moves in steps of whole pixels on both sides.
    assert_eq!(own.path.unwrap().mean_error_px, Some(0.0));

    let events = done(Request::Evaluate(Box::new(request(&film, None))));
    let Some(Event::Finished(Outcome::Failed(report))) = events.last() else {
        panic!("{events:#?}");
    };
    assert!(report.what_to_do.contains("--reference"), "{report}");
}

/// Of several clips a result is compared with the one it began from.
#[test]
fn a_result_is_compared_with_the_clip_it_began_from() {
    let place = tempfile::tempdir().unwrap();
    let clips = ["first", "second"].map(|name| {
        let folder = place.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    });
    let first = moving_square(&clips[0], 5);
    let second = moving_square(&clips[1], 4);
    let (run, film) = (place.path().join("run"), place.path().join("film"));
    let events = done(Request::Train(Box::new(TrainRequest {
        clip: first.clone(),
        subject: "a red square".to_owned(),
        more_clips: vec![MoreClip {
            path: second.clone(),
            subject: "a square on a green plain background".to_owned(),
        }],
        control: Default::default(),
        model: Some(micro_model()),
        device: DeviceChoice::Cpu,
        config: TransferConfig {
            start_secs: 0.2,
            inverted_clip: 2,
            ..config()
        },
        run: Some(run.clone()),
        result: Some(ResultRequest {
            prompt: "a yellow star on a blue plain background".to_owned(),
            output: Some(film.clone()),
            overwrite: false,
            scale_to: None,
        }),
    })));
    assert_eq!(
        events.last(),
        Some(&Event::Finished(Outcome::Completed)),
        "{events:#?}"
    );
    let compared = |result: &Path, reference: Option<&Path>, cut: CutChanges| {
        let events = done(Request::Evaluate(Box::new(EvaluateRequest {
            result: result.to_owned(),
            reference: reference.map(Path::to_owned),
            prompt: None,
            subject: None,
            cut,
            device: DeviceChoice::Cpu,
        })));
        let is_other =
            |event: &Event| matches!(event, Event::Note { text } if text.contains("another clip"));
        let other = events.iter().any(is_other);
        let score = events.into_iter().find_map(|event| match event {
            Event::Scored { score } => Some(*score),
            _ => None,
        });
        (score.expect("a score"), other)
    };
    let plain = CutChanges::default;
    let (of_second, other) = compared(&run, Some(&second), plain());
    assert!(
        !other,
        "the second clip, from its beginning, is what was learned from"
    );
    assert!(compared(&run, Some(&first), plain()).1);
    assert_eq!(compared(&film, Some(&second), plain()).0, of_second);
    // A typed setting changes that one alone; this one changes nothing for frames of the same shape.
    let stretched = CutChanges {
        fit: Some(FitChoice::Stretch),
        ..plain()
    };
    assert_eq!(compared(&run, Some(&second), stretched), (of_second, false));
    // Without a clip the latents of the second one are decoded.
    let decoded = compared(&run, None, plain()).0;
    assert_eq!(compared(&film, Some(&run), plain()).0, decoded);
}
