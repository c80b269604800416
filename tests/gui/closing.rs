//! The end of the window: what it asks, what it leaves on disk, what the next one offers.

use std::fs;

use eframe::egui::{self, Key, Modifiers, ViewportCommand};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use spectral_motion::gui::App;
use spectral_motion::job::Outcome;
use spectral_motion::project::{Project, RunFolder};
use spectral_motion::train::TransferConfig;

use super::studio::Studio;
use crate::common::moving_square;

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
    // Asked again while it stops, the window waits all the same.
    let commands = studio.ask_to_close();
    assert!(!studio.app().queue().is_going() || is_kept_open(&commands));
    // The project has another clip and a run by now.
    studio.see("The project has changes");
    studio.click("Save and close");
    studio.wait_for_close();
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
    studio.wait_for_close();
    let text = fs::read_to_string(project).unwrap();
    assert!(text.contains("a cat"), "{text}");
}

#[test]
fn a_window_whose_project_cannot_be_written_stays_open() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    studio.type_into("New subject", "a cat");
    // A folder in its place cannot be replaced by a file.
    let project = studio.path("start.toml");
    fs::remove_file(&project).unwrap();
    fs::create_dir(&project).unwrap();
    assert!(is_kept_open(&studio.ask_to_close()));
    studio.click("Save and close");
    studio.step_until("problem", |app| app.problems().next().is_some());
    assert!(!studio.commands().contains(&ViewportCommand::Close));
    assert!(
        !studio.shows("The project has changes"),
        "what is wrong is seen"
    );

    fs::remove_dir(&project).unwrap();
    assert!(
        is_kept_open(&studio.ask_to_close()),
        "they are in no file yet"
    );
    studio.click("Save and close");
    studio.wait_for_close();
    let text = fs::read_to_string(project).unwrap();
    assert!(text.contains("a cat"), "{text}");
}

#[test]
fn a_file_that_is_there_is_replaced_only_when_that_is_wanted() {
    let studio = Studio::new();
    let taken = studio.path("taken.v2.toml");
    fs::write(&taken, "a letter").unwrap();
    fs::write(studio.path("moving square.toml"), "another one").unwrap();
    // A project that has no file yet is offered a name that is free.
    let clip = moving_square(studio.folder.path(), 12);
    let data = studio.path("other");
    let mut studio = Studio::reopen(studio, Some(clip.clone()), data);
    studio.step_until("clip", |app| app.document().clip.as_deref() == Some(&clip));
    // The first clip is no change: no undo leads back to none.
    studio.press(Modifiers::COMMAND, Key::Z);
    assert_eq!(studio.app().document().clip.as_deref(), Some(&*clip));
    studio.press(Modifiers::COMMAND, Key::S);
    studio.see("moving square 2.toml");

    studio.type_path(&studio.path("taken.v2"));
    studio.see("Replace the file that is there");
    let is_offered = |studio: &Studio| {
        let save = studio
            .harness
            .get_by_role_and_label(egui::Role::Button, "Save");
        !save.accesskit_node().is_disabled()
    };
    assert!(!is_offered(&studio));
    studio
        .harness
        .get_by_label("Replace the file that is there")
        .click();
    studio.harness.run_steps(3);
    assert!(is_offered(&studio));
    assert_eq!(fs::read_to_string(&taken).unwrap(), "a letter");
    studio.click("Save");
    studio.see("Saved as taken.v2.toml.");
    let project = Project::<TransferConfig>::read(&taken).unwrap();
    assert_eq!(project, *studio.app().document());
    assert!(!studio.path("taken.toml").exists());

    // The project's own file is replaced without a question, also by "Save as".
    studio.type_into("New subject", "a whale");
    studio.press(Modifiers::COMMAND | Modifiers::SHIFT, Key::S);
    studio.click("Save");
    studio.step_until("second save", |_| {
        fs::read_to_string(&taken).is_ok_and(|text| text.contains("a whale"))
    });
    assert_eq!(studio.app().problems().count(), 0);
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
    fs::create_dir(&crashed).unwrap();
    fs::copy(&file, crashed.join("unsaved.toml")).unwrap();
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
