//! Runs that are over, and runs that are to come: sampled again, shown again, in a queue, with a mix of bands.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eframe::egui::{self, Key, Modifiers};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use spectral_motion::gui::App;
use spectral_motion::job::{self, Outcome};
use spectral_motion::train::TransferConfig;
use spectral_motion::video;

use super::studio::{Studio, document, steps_without_end};
use crate::common::{micro_model, moving_square};

fn two_steps() -> TransferConfig {
    TransferConfig {
        steps: 2,
        ..steps_without_end()
    }
}

#[test]
fn a_finished_run_is_sampled_again_and_shown_again_in_another_window() {
    let mut studio = Studio::with(two_steps(), [1280.0, 800.0]);
    studio.drop_square(4);
    studio.click("Train");
    studio.wait_for_end();
    assert_eq!(studio.run().outcome, Some(Outcome::Completed));
    assert_eq!(studio.run().samples.len(), 1);

    // Other words, from the weights that were learnt.
    studio.type_into("New subject", "a tin robot");
    studio.harness.key_press(Key::Escape);
    studio.harness.run_steps(2);
    studio.click("Sample now");
    studio.step_until("second sample", |app| {
        !app.queue().is_going()
            && app
                .queue()
                .current()
                .is_some_and(|run| run.samples.len() == 2)
    });
    assert_eq!(studio.app().queue().runs.len(), 1, "it is the same run");
    let run = studio.run();
    assert_eq!(run.stats.len(), 2, "nothing was trained");
    let [first, second] = &run.samples[..] else {
        panic!("two samples");
    };
    assert_eq!((&*first.prompt, &*second.prompt), ("a bear", "a tin robot"));
    assert_ne!(first.frames, second.frames);
    assert_ne!(first.film, second.film);
    let recipe = video::read_recipe(second.film.as_deref().unwrap()).unwrap();
    assert!(recipe.unwrap().contains("a tin robot"));

    // The run's folder, dropped on another window: its numbers and its samples, and a question.
    let folder = run.folder.clone().unwrap();
    let settings = two_steps();
    let other = studio.path("other");
    let mut again = Studio::reopen(studio, None, other);
    again.step_until("first clip", App::is_ready);
    let before = again.app().document().clone();
    again.drop_file(folder.clone());
    again.step_until("run", |app| app.queue().runs.len() == 1);
    let run = again.run();
    assert_eq!((run.stats.len(), run.samples.len()), (2, 2));
    assert_eq!(run.samples[1].prompt, "a tin robot");
    assert_eq!(run.outcome, Some(Outcome::Completed));
    assert_eq!(*again.app().document(), before, "nothing before the answer");
    again.click("Use its settings");
    assert_eq!(again.app().document().settings.steps, settings.steps);
    assert_eq!(again.app().document().subject, "a red square");
    assert_eq!(again.app().document().model, Some(micro_model()));
    let problems: Vec<_> = again.app().problems().collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_bands_that_are_heard_become_the_bands_that_are_trained() {
    let mut studio = Studio::with(two_steps(), [1280.0, 1200.0]);
    studio.drop_square(4);
    studio.see("Solo 2–4 frames");
    studio.harness.get_by_label("Solo 2–4 frames").click();
    studio.harness.run_steps(3);
    studio.click("Train with this mix");
    // The mean motion first, then the details from the fastest.
    assert_eq!(
        studio.app().document().settings.level_weights,
        [0.0, 1.0, 0.0]
    );
    studio.click("Train");
    studio.wait_for_end();
    assert_eq!(studio.run().outcome, Some(Outcome::Completed));
    for stats in &studio.run().stats {
        // A sum of one term: the same number but for the rounding to f32.
        let (all, heard) = (stats.global, stats.bands[1]);
        assert!((all - heard).abs() <= 1e-6 * heard.abs(), "{stats:?}");
        assert!(stats.bands[2] > 0.0, "the others are still told");
    }
    studio.click("All bands");
    assert!(!studio.app().document().settings.level_weights.is_empty());
    studio.click("All alike");
    assert!(studio.app().document().settings.level_weights.is_empty());
}

#[test]
fn waiting_runs_are_moved_and_taken_out() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    studio.train();
    studio.click("Pause");
    for prompt in ["a fox", "an owl"] {
        studio.type_into("New subject", prompt);
        studio.click("Queue");
    }
    let titles = |app: &App| -> Vec<String> {
        let waiting = app.queue().waiting.iter();
        waiting.map(|next| next.title.clone()).collect()
    };
    assert_eq!(titles(studio.app()), ["a fox", "an owl"]);
    studio.click("2 waiting");
    let earlier = studio
        .harness
        .get_all_by_role_and_label(egui::Role::Button, "Earlier");
    earlier.last().expect("a button").click();
    studio.harness.run_steps(3);
    assert_eq!(titles(studio.app()), ["an owl", "a fox"]);
    if !studio.shows("Remove") {
        studio.click("2 waiting");
    }
    let remove = studio
        .harness
        .get_all_by_role_and_label(egui::Role::Button, "Remove");
    remove.last().expect("a button").click();
    studio.harness.run_steps(3);
    assert_eq!(titles(studio.app()), ["an owl"]);
    // The one that is left has its turn when the first run is over.
    studio.harness.key_press(Key::Escape);
    studio.harness.run_steps(3);
    studio.click("Stop");
    studio.step_until("next run", |app| {
        app.queue()
            .current()
            .is_some_and(|run| run.title == "an owl" && run.step() > 0)
    });
    studio.click("Stop");
    studio.wait_for_end();
}

/// A run of two steps that another program made.
fn earlier_run(studio: &Studio, name: &str) -> PathBuf {
    let run = studio.path(name);
    let request = job::TrainRequest {
        clip: moving_square(studio.folder.path(), 4),
        subject: "a red square".to_owned(),
        more_clips: Vec::new(),
        control: Default::default(),
        model: Some(micro_model()),
        device: job::DeviceChoice::Cpu,
        config: two_steps(),
        run: Some(run.clone()),
        result: None,
    };
    let trained = job::spawn(job::Request::Train(Box::new(request)), Arc::new(|| {}));
    trained.unwrap().wait();
    run
}

fn key(modifiers: Modifiers, key: Key) -> egui::Event {
    egui::Event::Key {
        key,
        physical_key: None,
        pressed: true,
        repeat: false,
        modifiers,
    }
}

fn recipe_of(film: &Path) -> serde_json::Value {
    let text = video::read_recipe(film).unwrap().expect("a recipe");
    serde_json::from_str(&text).unwrap()
}

/// What a sample is for does not change how far the training came.
#[test]
fn a_stopped_run_that_is_sampled_can_still_go_on() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    studio.train();
    studio.click("Stop");
    studio.wait_for_end();
    let ended = studio.run().outcome.clone();
    assert!(matches!(ended, Some(Outcome::Cancelled { .. })));
    let told = studio.run().status();
    studio.click("Sample now");
    studio.step_until("sample", |app| {
        !app.queue().is_going()
            && app
                .queue()
                .current()
                .is_some_and(|run| !run.samples.is_empty())
    });
    studio.see("The sample is done.");
    assert_eq!(studio.run().outcome, ended);
    assert_eq!(studio.run().status(), told);
    assert!(!studio.shows("Train further…"));
}

/// The panel goes on to another clip and another method while a run waits for its turn.
#[test]
fn a_run_that_waited_is_described_by_what_it_was_asked_with() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    studio.train();
    studio.click("Pause");
    studio.type_into("New subject", "a fox");
    studio.click("Queue");
    let other = moving_square(&studio.path("other"), 6);
    studio.drop_file(other.clone());
    studio.step_until("another clip", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&other)
    });
    studio.choose("Method", "MotionDirector");
    studio.click("Stop");
    studio.step_until("next run", |app| {
        app.queue()
            .current()
            .is_some_and(|run| run.title == "a fox" && run.step() > 0)
    });
    let [first, second] = &studio.app().queue().runs[..] else {
        panic!("two runs");
    };
    let (of_first, of_second) = (first.reference.as_ref(), second.reference.as_ref());
    assert!(Arc::ptr_eq(of_first.unwrap(), of_second.unwrap()));
    assert!(second.kind.contains("Vmc"), "{}", second.kind);
    assert_eq!(first.kind, second.kind);
    studio.click("Stop");
    studio.wait_for_end();
}

#[test]
fn an_export_is_of_the_sample_that_was_shown_and_has_no_second_beside_it() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    studio.train();
    let samples = |count: usize| {
        move |app: &App| {
            app.queue()
                .current()
                .is_some_and(|run| run.samples.len() == count)
        }
    };
    studio.click("Sample now");
    studio.step_until("first sample", samples(1));
    studio.type_into("New subject", "a cat");
    studio.press(Modifiers::NONE, Key::Escape);
    // In one frame, so that the second sample cannot come before the form.
    let events = &mut studio.harness.input_mut().events;
    events.push(key(Modifiers::COMMAND, Key::M));
    events.push(key(Modifiers::NONE, Key::E));
    studio.step_until("second sample", samples(2));
    let film = studio.path("shown.gif");
    studio.type_path(&film);
    studio.click("Export film");
    studio.see("Exported shown.gif.");
    assert_eq!(recipe_of(&film)["prompt"], "a bear");

    // A film that takes long: the next one has to wait for it.
    studio.press(Modifiers::NONE, Key::E);
    studio.type_path(&studio.path("long"));
    for (field, value) in [("Play it", 50.0), ("Shorter side", 2048.0)] {
        studio
            .harness
            .get_by_role_and_label(egui::Role::SpinButton, field)
            .set_value_accesskit(value);
        studio.harness.run_steps(3);
    }
    studio.click("Export film");
    studio.press(Modifiers::NONE, Key::E);
    studio.see("A film is being written.");
    assert!(!studio.shows("Export film"));
    studio
        .harness
        .get_by_role_and_label(egui::Role::Button, "Cancel export")
        .click_accesskit();
    studio.see("The export was cancelled.");
    assert!(!studio.path("long").exists());
    studio.press(Modifiers::NONE, Key::E);
    assert!(studio.shows("Export film"));
    studio.press(Modifiers::NONE, Key::Escape);
    studio.click("Stop");
    studio.wait_for_end();
}

#[test]
fn a_run_that_cannot_be_read_stays_among_the_unfinished() {
    let mut studio = Studio::new();
    studio.drop_square(4);
    studio.train();
    studio.click("Stop");
    studio.wait_for_end();
    let folder = studio.run().folder.clone().unwrap();
    let record = folder.join("run.toml");
    let data = studio.path("data");
    let mut again = Studio::reopen(studio, None, data);
    again.see("was not finished");
    assert_eq!(again.app().queue().unfinished.len(), 1);
    let kept = fs::read(&record).unwrap();
    fs::write(&record, "a letter").unwrap();
    again.click("Resume");
    again.step_until("problem", |app| app.problems().next().is_some());
    assert_eq!(again.app().queue().unfinished.len(), 1);
    assert!(again.app().queue().runs.is_empty());

    // The disk is back: it goes on, and is not offered any longer.
    fs::write(&record, kept).unwrap();
    again.drop_file(folder);
    again.step_until("run", |app| app.queue().runs.len() == 1);
    let offers = again
        .harness
        .get_all_by_role_and_label(egui::Role::Button, "Resume");
    offers.last().expect("a button").click_accesskit();
    again.step_until("run that goes on", |app| {
        app.queue()
            .current()
            .is_some_and(|run| run.is_going() && run.stage.is_some())
    });
    assert!(again.app().queue().unfinished.is_empty());
    again.click("Stop");
    again.wait_for_end();
}

/// Runs of a project stand before the one that is going on, whose place is another one then.
#[test]
fn the_run_that_is_shown_stays_shown_when_others_come_before_it() {
    let mut studio = Studio::new();
    let (first, second) = (
        earlier_run(&studio, "first"),
        earlier_run(&studio, "second"),
    );
    studio.drop_square(4);
    studio.train();
    studio.drop_file(first);
    studio.step_until("run of an earlier day", |app| app.queue().runs.len() == 2);
    studio.see("1. first");
    let list = studio.harness.root().children_recursive().find(|node| {
        let node = node.accesskit_node();
        let says = |text: Option<String>| text.is_some_and(|text| text.contains("1. first"));
        node.role() == egui::Role::ComboBox && (says(node.value()) || says(node.label()))
    });
    list.expect("a list of runs").click();
    studio.harness.run_steps(3);
    let option = studio.harness.get_all_by_label("2. a bear").next_back();
    option.expect("an option").click();
    studio.harness.run_steps(3);
    assert!(studio.shows("2. a bear"));

    // What is open is saved: another project may take its place.
    studio.press(Modifiers::COMMAND, Key::S);
    studio.see("Saved as start.toml.");
    let mut project = document(steps_without_end());
    project.runs = vec![second];
    let path = studio.path("other.toml");
    project.write(&path).unwrap();
    studio.drop_file(path);
    studio.step_until("run of the project", |app| app.queue().runs.len() == 3);
    assert!(studio.run().is_going() && studio.shows("3. a bear"));
    studio.click("Stop");
    studio.wait_for_end();
}
