//! Runs that are over, and runs that are to come: sampled again, shown again, in a queue, with a mix of bands.

use eframe::egui;
use egui_kittest::kittest::Queryable as _;
use spectral_motion::gui::App;
use spectral_motion::job::Outcome;
use spectral_motion::train::TransferConfig;
use spectral_motion::video;

use super::studio::{Studio, steps_without_end};

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
    studio.harness.key_press(egui::Key::Escape);
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
    assert_eq!(
        again.app().document().model,
        Some(crate::common::micro_model())
    );
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
    studio.harness.key_press(egui::Key::Escape);
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
