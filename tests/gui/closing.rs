//! The end of the window: what it asks, what it leaves on disk, what the next one offers.

use std::time::{Duration, Instant};

use eframe::egui::{Key, Modifiers, ViewportCommand};
use spectral_motion::gui::App;
use spectral_motion::job::Outcome;
use spectral_motion::project::RunFolder;
use spectral_motion::train::TransferConfig;

use super::studio::{PATIENCE, Studio};

fn is_kept_open(commands: &[ViewportCommand]) -> bool {
    commands.contains(&ViewportCommand::CancelClose)
}

#[test]
fn closing_during_a_run_asks_and_leaves_what_the_next_window_goes_on_from() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    studio.train();

    assert!(is_kept_open(&studio.ask_to_close()), "a run is going on");
    studio.click("Keep it running");
    assert!(studio.run().is_going());

    assert!(is_kept_open(&studio.ask_to_close()));
    studio.click("Stop and close");
    let begun = Instant::now();
    while !studio.commands().contains(&ViewportCommand::Close) {
        assert!(begun.elapsed() < PATIENCE, "the window stays open");
        studio.harness.step();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(
        studio.run().outcome,
        Some(Outcome::Cancelled { .. })
    ));
    let held_at = studio.run().step();
    let settings = studio.app().document().settings.clone();
    let data = studio.path("data");
    let unfinished = RunFolder::unfinished(&data.join("runs"));
    assert_eq!(unfinished.len(), 1);

    let mut again = Studio::reopen(studio, None, data);
    again.see("was not finished");
    again.click("Resume");
    again.step_until("step after the restart", |app| {
        app.queue()
            .current()
            .is_some_and(|run| run.step() > held_at)
    });
    let run = again.run();
    let steps: Vec<u32> = run.stats.iter().map(|stats| stats.step).collect();
    let all: Vec<u32> = (1..=run.step()).collect();
    assert_eq!(steps, all, "the numbers from before are there as well");
    assert!(run.marks.is_empty(), "going on changes no setting");
    // The record has what the model recommends in the place of what was left to it.
    let now = again.app().document().settings.clone();
    let guidance = now.guidance;
    assert_eq!(
        now,
        TransferConfig {
            guidance,
            ..settings
        }
    );
    assert_eq!(again.app().document().prompt, "a bear");
    again.click("Stop");
    again.wait_for_end();
}

#[test]
fn a_project_with_changes_is_asked_about_and_saved() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let project = studio.path("start.toml");
    assert!(
        !is_kept_open(&studio.ask_to_close()),
        "nothing to ask before a change"
    );
    studio.type_into("New subject", "a cat");
    assert!(is_kept_open(&studio.ask_to_close()));
    studio.click("Cancel");
    assert_eq!(studio.app().document().prompt, "a cat");
    assert!(is_kept_open(&studio.ask_to_close()));
    studio.click("Save and close");
    let begun = Instant::now();
    while !studio.commands().contains(&ViewportCommand::Close) {
        assert!(begun.elapsed() < PATIENCE, "the window stays open");
        studio.harness.step();
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = std::fs::read_to_string(project).unwrap();
    assert!(text.contains("a cat"), "{text}");
}

#[test]
fn what_was_in_no_project_file_is_offered_after_a_crash() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    studio.type_into("New subject", "a dog");
    studio.press(Modifiers::NONE, Key::Escape);
    // The document is written two seconds after its last change.
    let file = studio.path("data").join("unsaved.toml");
    studio.step_until("autosave", |_| file.is_file());
    let kept = studio.app().document().clone();
    // A crash: nobody tidies up.
    let data = studio.path("data");
    let crashed = studio.path("crashed");
    std::fs::create_dir(&crashed).unwrap();
    std::fs::copy(&file, crashed.join("unsaved.toml")).unwrap();
    let mut again = Studio::reopen(studio, None, crashed);
    again.see("It is kept");
    assert_ne!(again.app().document().prompt, "a dog", "only when asked");
    again.click("Restore");
    again.step_until("restored document", |app| {
        app.is_ready() && app.document().prompt == "a dog"
    });
    // The clip that comes with the program is at a place of its own in every data folder.
    assert_eq!(again.app().document().settings, kept.settings);
    assert_eq!(again.app().document().subject, kept.subject);
    assert!(data.is_dir());
}
