//! The document: what a run that goes on is told of it, what undo makes of what follows by itself, what is asked before it goes.

use std::fs;
use std::path::{Path, PathBuf};

use eframe::egui::{Event, Key, Modifiers, Role};
use egui_kittest::kittest::Queryable as _;
use spectral_motion::gui::history::History;
use spectral_motion::gui::{App, Document};
use spectral_motion::methods::Method;
use spectral_motion::train::TransferConfig;

use super::studio::{Studio, document, steps_without_end};
use crate::common::{image_model, micro_model, moving_square};

const REDO: (Modifiers, Key) = (
    Modifiers {
        shift: true,
        ..Modifiers::COMMAND
    },
    Key::Z,
);
const UNDO: (Modifiers, Key) = (Modifiers::COMMAND, Key::Z);
const TRAIN: (Modifiers, Key) = (Modifiers::COMMAND, Key::Enter);

/// Presses keys within one frame: nothing is read, cut or settled between them.
fn press_at_once(studio: &mut Studio, keys: [(Modifiers, Key); 2]) {
    let events = keys.into_iter().map(|(modifiers, key)| Event::Key {
        key,
        physical_key: None,
        pressed: true,
        repeat: false,
        modifiers,
    });
    studio.harness.input_mut().events.extend(events);
    studio.harness.step();
}

fn undo(studio: &mut Studio) {
    studio.press(UNDO.0, UNDO.1);
}

fn redo(studio: &mut Studio) {
    studio.press(REDO.0, REDO.1);
}

fn marks(app: &App) -> Vec<String> {
    let run = app.queue().current().expect("a run");
    run.marks.iter().map(|mark| mark.text.clone()).collect()
}

/// Moves λg, and waits until the run that goes on has heard of it.
#[track_caller]
fn move_lambda(studio: &mut Studio, value: f64) {
    let slider = (Role::Slider, "λg global");
    studio
        .harness
        .get_by_role_and_label(slider.0, slider.1)
        .set_value_accesskit(value);
    let text = format!("λg {value}");
    studio.step_until("changed λg", |app| marks(app).contains(&text));
}

#[track_caller]
fn last_problem(studio: &Studio) -> String {
    let problem = studio.app().problems().last();
    problem.expect("a problem").to_string()
}

/// Ends the run that goes on. A toast may lie over the button.
fn stop(studio: &mut Studio) {
    studio
        .harness
        .get_by_role_and_label(Role::Button, "Stop")
        .click_accesskit();
    studio.harness.run_steps(3);
    studio.wait_for_end();
}

/// A project file with these words, and what else is changed in it.
fn project(path: &Path, prompt: &str, change: impl FnOnce(&mut Document)) -> PathBuf {
    let mut project = document(steps_without_end());
    prompt.clone_into(&mut project.prompt);
    change(&mut project);
    project.write(path).unwrap();
    path.to_owned()
}

#[test]
fn a_run_is_told_what_is_moved_and_not_what_is_chosen_for_the_next_one() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    studio.train();
    studio.click("Pause");
    studio.step_until("pause", |app| {
        app.queue().current().is_some_and(|run| run.paused)
    });
    // An image model brings a method with a learning rate of its own.
    let before = studio.app().document().settings.live();
    studio.drop_file(image_model());
    studio.step_until("the image model's method", |app| {
        app.document().settings.method == Method::TuneAVideo && app.is_ready()
    });
    let rate = studio.app().document().settings.learning_rate;
    assert!((rate - before.learning_rate).abs() > 1e-6);
    move_lambda(&mut studio, 0.75);
    assert_eq!(marks(studio.app()), ["λg 0.75"]);
    // A slider that is put back is moved as well.
    undo(&mut studio);
    let back = format!("λg {}", studio.app().document().settings.lambda_g);
    studio.step_until("λg of before", |app| marks(app).contains(&back));
    // The model and its method go; what the run has stays.
    undo(&mut studio);
    assert_eq!(studio.app().document().settings.live(), before);
    // So do those of another project.
    let other = project(&studio.path("other.toml"), "a cat", |other| {
        other.settings.lambda_l = 0.6875;
        other.settings.delta = 0.375;
    });
    studio.drop_file(other);
    studio.see("Open without saving");
    studio.click("Open without saving");
    studio.step_until("the other project", |app| {
        app.document().prompt == "a cat" && app.is_ready()
    });
    move_lambda(&mut studio, 1.25);
    assert_eq!(marks(studio.app()), ["λg 0.75", back.as_str(), "λg 1.25"]);
    stop(&mut studio);
}

#[test]
fn band_weights_stay_as_they_were_saved_and_change_with_the_frames_in_one_step() {
    let weights = vec![0.5, 2.0, 0.0, 0.25, 0.75];
    let settings = TransferConfig {
        frames: Some(16),
        loop_short: true,
        level_weights: weights.clone(),
        ..steps_without_end()
    };
    let mut studio = Studio::with(settings, [1280.0, 2600.0]);
    studio.drop_square(6);
    let before = studio.app().document().clone();
    assert_eq!(before.settings.level_weights, weights);
    studio.unfold("Clip");
    studio
        .harness
        .get_by_role_and_label(Role::SpinButton, "Frames")
        .set_value_accesskit(4.0);
    studio.step_until("other frames", |app| {
        app.document().settings.frames != Some(16) && app.is_ready()
    });
    let after = studio.app().document().clone();
    assert_eq!(after.settings.level_weights, weights[..3]);
    undo(&mut studio);
    studio.step_until("the frames of before", App::is_ready);
    assert_eq!(*studio.app().document(), before);
    redo(&mut studio);
    studio.step_until("other frames again", App::is_ready);
    assert_eq!(*studio.app().document(), after);
}

#[test]
fn a_model_and_the_method_that_it_brings_are_one_step() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    let before = studio.app().document().clone();
    studio.drop_file(image_model());
    studio.step_until("the image model's method", |app| {
        app.document().settings.method == Method::TuneAVideo && app.is_ready()
    });
    let after = studio.app().document().clone();
    undo(&mut studio);
    assert_eq!(*studio.app().document(), before);
    studio.step_until("the model of before", App::is_ready);
    redo(&mut studio);
    studio.step_until("the image model", App::is_ready);
    assert_eq!(*studio.app().document(), after);
    let problems: Vec<_> = studio.app().problems().collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// A project may have been written with a method that its model is not for.
#[test]
fn a_method_that_the_model_is_not_for_is_changed_wherever_it_comes_from() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    studio.drop_file(image_model());
    studio.step_until("the image model's method", |app| {
        app.document().settings.method == Method::TuneAVideo && app.is_ready()
    });
    let odd = project(&studio.path("odd.toml"), "a cat", |odd| {
        odd.model = Some(image_model());
    });
    studio.drop_file(odd);
    studio.see("Open without saving");
    studio.click("Open without saving");
    // The model is the one that was read already.
    studio.step_until("a method of the model", |app| {
        app.document().prompt == "a cat" && app.document().settings.method == Method::TuneAVideo
    });
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy_all(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

#[test]
fn a_model_that_cannot_be_read_gives_way_to_the_one_before() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    let spare = studio.path("spare");
    copy_all(&micro_model(), &spare);
    studio.press(Modifiers::COMMAND, Key::L);
    studio.type_path(&spare);
    studio
        .harness
        .get_by_role_and_label(Role::Button, "Add this folder")
        .click_accesskit();
    studio.step_until("folder", |app| {
        let mut entries = app.shelf().entries.iter();
        entries.any(|entry| entry.name == "spare" && entry.state.is_present())
    });
    studio.press(Modifiers::NONE, Key::Escape);
    let before = studio.app().document().clone();
    // Damaged since the list was made.
    fs::write(spare.join("unet/config.json"), "{}").unwrap();
    studio.choose("Model", "spare");
    studio.step_until("problem", |app| app.problems().count() > 0);
    studio.step_until("the model of before", App::is_ready);
    assert_eq!(*studio.app().document(), before);
    // That it was tried is no step.
    studio.type_into("New subject", "a cat");
    studio.press(Modifiers::NONE, Key::Escape);
    undo(&mut studio);
    assert_eq!(*studio.app().document(), before);
    assert_eq!(studio.app().problems().count(), 1);
}

#[test]
fn a_project_whose_clip_is_gone_does_not_train_on_the_one_that_is_shown() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let gone = studio.path("gone.gif");
    let path = project(&studio.path("lost.toml"), "a cat", |lost| {
        lost.clip = Some(gone);
    });
    studio.drop_file(path);
    studio.step_until("problem", |app| app.problems().count() == 1);
    studio.step_until("the clip that is shown", App::is_ready);
    studio.press(TRAIN.0, TRAIN.1);
    assert_eq!(studio.app().problems().count(), 2);
    let told = last_problem(&studio);
    assert!(told.contains("gone.gif could not be opened"), "{told}");
    assert!(!studio.app().queue().is_going());
}

#[test]
fn an_undo_of_the_clip_does_not_train_on_the_one_it_takes_away() {
    let mut studio = Studio::new();
    let first = studio.drop_square(4);
    let second = moving_square(&studio.path("second"), 5);
    let wanted = second.clone();
    studio.drop_file(second);
    studio.step_until("second clip", move |app| {
        app.is_ready() && app.document().clip.as_ref() == Some(&wanted)
    });
    press_at_once(&mut studio, [UNDO, TRAIN]);
    assert_eq!(studio.app().document().clip.as_ref(), Some(&first));
    assert!(!studio.app().queue().is_going());
    let told = last_problem(&studio);
    assert!(told.contains("still being opened"), "{told}");
    studio.step_until("first clip", App::is_ready);
    studio.train();
    stop(&mut studio);
}

#[test]
fn what_was_wrong_with_another_cut_refuses_no_training() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    studio.drop_file(moving_square(&studio.path("short"), 3));
    studio.step_until("problem", |app| app.problems().count() == 1);
    studio.click("Loop it");
    studio.step_until("looped clip", App::is_ready);
    undo(&mut studio);
    studio.step_until("problem", |app| app.problems().count() == 2);
    press_at_once(&mut studio, [REDO, TRAIN]);
    assert!(studio.app().document().settings.loop_short);
    assert_eq!(studio.app().problems().count(), 2);
    studio.step_until("training step", |app| {
        app.queue().current().is_some_and(|run| run.step() > 0)
    });
    stop(&mut studio);
}

#[test]
fn what_was_wrong_with_another_leading_clip_is_told_once_and_refuses_no_training() {
    let mut studio = Studio::with(steps_without_end(), [1280.0, 2600.0]);
    studio.step_until("first clip", App::is_ready);
    let short = moving_square(&studio.path("short"), 3);
    let path = project(&studio.path("led.toml"), "a cat", |led| {
        led.model = Some(image_model());
        led.settings.method = Method::ControlVideo;
        led.control.clip = Some(short);
    });
    studio.drop_file(path);
    studio.step_until("problem", |app| {
        app.problems().count() == 1 && app.is_ready()
    });
    studio.unfold("Clip");
    studio.harness.get_by_label("Stretch").click();
    studio.harness.run_steps(3);
    studio.step_until("another cut", App::is_ready);
    assert_eq!(studio.app().problems().count(), 1, "the same is wrong");
    studio.choose("Led by", "Edges (Canny), made here");
    studio.step_until("edges", |app| {
        app.is_ready() && app.leading_frames().is_some()
    });
    undo(&mut studio);
    studio.step_until("the short clip again", |app| {
        app.problems().count() == 2 && app.is_ready()
    });
    press_at_once(&mut studio, [REDO, TRAIN]);
    assert_eq!(studio.app().document().control.clip, None);
    assert_eq!(studio.app().problems().count(), 2);
    studio.step_until("training step", |app| {
        app.queue().current().is_some_and(|run| run.step() > 0)
    });
    stop(&mut studio);
}

#[test]
fn what_is_restored_is_not_saved_over_the_project_that_was_open() {
    let studio = Studio::new();
    let data = studio.path("crashed");
    fs::create_dir(&data).unwrap();
    project(&data.join("unsaved.toml"), "a dog", |_| {});
    let mine = project(&studio.path("mine.toml"), "a cat", |_| {});
    let written = fs::read(&mine).unwrap();
    let mut again = Studio::reopen(studio, Some(mine.clone()), data);
    again.step_until("project", |app| {
        app.is_ready() && app.document().prompt == "a cat"
    });
    again.see("It is kept");
    again.click("Restore");
    again.step_until("restored document", |app| {
        app.is_ready() && app.document().prompt == "a dog"
    });
    again.press(Modifiers::COMMAND, Key::S);
    again.see("Save project");
    assert_eq!(fs::read(&mine).unwrap(), written);
}

#[test]
fn a_project_does_not_take_the_place_of_changes_without_a_question() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let mine = studio.path("start.toml");
    let other = project(&studio.path("other.toml"), "a bird", |_| {});
    let third = project(&studio.path("third.toml"), "a fish", |_| {});
    studio.type_into("New subject", "a cat");
    studio.press(Modifiers::NONE, Key::Escape);
    studio.drop_file(other.clone());
    studio.see("start.toml does not have them yet.");
    studio.click("Cancel");
    assert_eq!(studio.app().document().prompt, "a cat");

    studio.drop_file(other);
    studio.see("start.toml does not have them yet.");
    studio.click("Save and open");
    studio.step_until("the other project", |app| {
        app.is_ready() && app.document().prompt == "a bird"
    });
    assert!(fs::read_to_string(&mine).unwrap().contains("a cat"));

    // Without changes nothing is asked.
    studio.drop_file(mine.clone());
    studio.step_until("the first project", |app| {
        app.is_ready() && app.document().prompt == "a cat"
    });
    studio.type_into("New subject", "a dog");
    studio.press(Modifiers::NONE, Key::Escape);
    studio.drop_file(third);
    studio.see("start.toml does not have them yet.");
    studio.click("Open without saving");
    studio.step_until("the third project", |app| {
        app.is_ready() && app.document().prompt == "a fish"
    });
    assert!(!fs::read_to_string(&mine).unwrap().contains("a dog"));
}

/// What is in no project at all gets a name first.
#[test]
fn changes_in_no_project_are_named_before_a_project_takes_their_place() {
    let studio = Studio::new();
    let data = studio.path("empty");
    let other = project(&studio.path("other.toml"), "a bird", |_| {});
    let mut again = Studio::reopen(studio, None, data);
    again.step_until("first clip", App::is_ready);
    again.type_into("New subject", "a cat");
    again.press(Modifiers::NONE, Key::Escape);
    again.drop_file(other);
    again.see("They are in no project file yet.");
    again.click("Save and open");
    again.see("Save project");
    let named = again.path("named.toml");
    again.type_path(&named);
    again.click("Save");
    again.step_until("the other project", |app| {
        app.is_ready() && app.document().prompt == "a bird"
    });
    assert!(fs::read_to_string(&named).unwrap().contains("a cat"));
}

#[test]
fn what_follows_by_itself_is_no_step() {
    let mut history = History::new(0);
    let mut now = 1;
    history.settle(&now);
    history.follow(&mut now, |state| *state += 10);
    assert_eq!(history.undo(&now), Some(0));
    now = 0;
    // After an undo it leaves what was undone.
    history.follow(&mut now, |state| *state += 20);
    assert_eq!(now, 20);
    assert_eq!(history.redo(&now), Some(11));
    assert_eq!(history.undo(&11), Some(20));
    // While something is dragged it belongs to that step.
    now = 3;
    history.follow(&mut now, |state| *state += 1);
    history.settle(&now);
    assert_eq!(history.undo(&now), Some(20));
    // What leads back to where a step began leaves no step.
    history.settle(&5);
    now = 5;
    history.follow(&mut now, |state| *state = 20);
    assert!(!history.can_undo());
}
