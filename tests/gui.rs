//! The window with the real engine on the micro model, driven by the names that a screen reader hears.

mod closing;
mod controls;
mod document;
#[cfg(feature = "hub")]
mod models;
mod runs;
mod studio;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui::{self, Key, Modifiers};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use proptest::prelude::*;
use spectral_motion::gui::App;
use spectral_motion::gui::history::History;
use spectral_motion::job::{self, Outcome};
use spectral_motion::methods::Method;
use spectral_motion::models::ModelFolder;
use spectral_motion::project::{Project, RunFolder, RunRecord, TensorFile};
use spectral_motion::train::{Preset, TransferConfig};
use spectral_motion::video::{self, Frame};

use self::studio::{PATIENCE, Studio, steps_without_end};
use crate::common::{golden, image_model, micro_model, moving_square};
use crate::models::copy_of;

/// A model of another kind brings a method that it can be trained by, with its authors' numbers, and takes it away again.
#[test]
fn an_image_model_brings_its_methods() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let rate = studio.app().document().settings.learning_rate;
    studio.drop_file(image_model());
    studio.step_until("the image model's method", |app| {
        app.document().settings.method == Method::TuneAVideo && app.is_ready()
    });
    let settings = studio.app().document().settings.clone();
    assert_eq!((settings.learning_rate, settings.steps), (3e-5, 500));
    assert_eq!((settings.guidance, settings.frames), (Some(12.5), Some(4)));
    let methods = |studio: &mut Studio| -> Vec<&'static str> {
        studio
            .harness
            .get_by_role_and_label(egui::Role::ComboBox, "Method")
            .click();
        studio.harness.run_steps(3);
        let offered = Method::ALL.map(Method::name).into_iter();
        let offered =
            offered.filter(|name| studio.harness.query_all_by_label(name).next().is_some());
        offered.collect()
    };
    assert_eq!(methods(&mut studio), ["Tune-A-Video", "ControlVideo"]);
    let option = studio.harness.get_all_by_label("ControlVideo").next_back();
    option.expect("an option").click();
    studio.harness.run_steps(3);
    assert_eq!(
        studio.app().document().settings.method,
        Method::ControlVideo
    );
    assert_eq!(studio.app().document().settings.steps, 80);

    studio.drop_file(micro_model());
    studio.step_until("the video model's method", |app| {
        app.document().settings.method == Method::Vmc && app.is_ready()
    });
    assert_eq!(studio.app().document().settings.learning_rate, rate);
    assert_eq!(methods(&mut studio), ["VMC", "MotionDirector"]);
    let problems: Vec<_> = studio.app().problems().collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The built-in models are for every method: another method brings the other model, with numbers that suit it.
#[test]
fn every_method_has_a_built_in_model() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    studio.choose("Model", "built-in model");
    studio.step_until("the built-in model", |app| {
        app.model_name() == Some("built-in model") && app.is_ready()
    });
    for (method, model) in [
        (Method::ControlVideo, "built-in image model"),
        (Method::TuneAVideo, "built-in image model"),
        (Method::MotionDirector, "built-in model"),
    ] {
        studio.choose("Method", method.name());
        studio.step_until("the method's model", |app| {
            app.document().settings.method == method && app.model_name() == Some(model)
        });
        let settings = &studio.app().document().settings;
        let fitting = match Preset::of(method, true) {
            Some(preset) => preset.config().unwrap(),
            None => TransferConfig::default(),
        };
        assert_eq!(
            (settings.steps, settings.learning_rate),
            (fitting.steps, fitting.learning_rate)
        );
    }
    // Stable Diffusion learns slower than the built-in image model.
    studio.choose("Method", Method::TuneAVideo.name());
    studio.drop_file(image_model());
    studio.step_until("the image model", |app| app.document().model.is_some());
    let settings = &studio.app().document().settings;
    assert_eq!((settings.steps, settings.learning_rate), (500, 3e-5));
    let problems: Vec<_> = studio.app().problems().collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// What leads ControlVideo is chosen in the panel and shown beside the clip.
#[test]
fn what_leads_control_video_is_chosen_and_seen() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    assert!(!studio.shows("Led by") && !studio.shows("What leads"));
    studio.drop_file(image_model());
    studio.step_until("the image model", |app| {
        app.document().settings.method == Method::TuneAVideo && app.is_ready()
    });
    assert!(!studio.shows("Led by"));
    studio.choose("Method", "ControlVideo");
    studio.see("Led by");
    studio.see("What leads");
    studio.step_until("edges", |app| app.leading_frames().is_some());
    let edges = studio.app().leading_frames().unwrap().to_vec();
    assert_eq!(edges.len(), 4);
    let white = |frames: &[Frame]| -> usize {
        let pixels = frames.iter().flat_map(|frame| frame.rgb.iter());
        pixels.filter(|value| **value == 255).count()
    };
    let drawn = white(&edges);
    assert!(
        drawn > 0
            && edges
                .iter()
                .all(|frame| frame.rgb.iter().all(|v| [0, 255].contains(v)))
    );
    // Where nothing is steep enough, no edge begins.
    studio
        .harness
        .get_by_role_and_label(egui::Role::SpinButton, "Edges begin above")
        .set_value_accesskit(2040.0);
    studio.step_until("no edges", |app| {
        app.leading_frames()
            .is_some_and(|frames| white(frames) == 0)
    });
    assert_eq!(studio.app().document().settings.canny, (100.0, 2040.0));

    // Depth, by the folder of a model that estimates it.
    studio.drop_file(golden("depth"));
    studio.step_until("depth", |app| {
        app.document().control.clip.is_some()
            && app.leading_frames().is_some_and(|frames| {
                let grey = |frame: &Frame| frame.rgb.chunks_exact(3).all(|p| p[0] == p[1]);
                let shades = |frame: &Frame| frame.rgb.iter().any(|v| ![0, 255].contains(v));
                frames.iter().all(grey) && frames.iter().any(shades)
            })
    });
    studio.see("What leads: depth");
    studio.press(Modifiers::COMMAND, Key::Z);
    assert_eq!(studio.app().document().control.clip, None);
    // A film of one's own: opened, and made to lead instead of taking the clip's place.
    let clip = studio.drop_square(4);
    let own = moving_square(&studio.path("own"), 4);
    studio.drop_file(own.clone());
    let opened = own.clone();
    studio.step_until("a clip in place of the first", move |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&opened)
    });
    studio.click("Let it lead");
    let (wanted, first) = (own.clone(), clip.clone());
    studio.step_until("a clip of one's own", move |app| {
        app.document().control.clip.as_deref() == Some(&wanted)
            && app.document().clip.as_deref() == Some(&first)
            && app.is_ready()
    });
    studio.step_until("its frames", |app| {
        app.leading_frames().is_some_and(|frames| {
            frames
                .iter()
                .any(|frame| frame.rgb.iter().any(|v| ![0, 255].contains(v)))
        })
    });
    assert!(
        !studio.shows("Edges begin above"),
        "a clip of one's own has no thresholds"
    );
    studio.see("What leads: moving square");
    studio.train();
    if studio.app().queue().is_going() {
        // Without the pointer: the run may end meanwhile, and another button stands there then.
        studio
            .harness
            .get_by_role_and_label(egui::Role::Button, "Stop")
            .click_accesskit();
    }
    studio.wait_for_end();
    let run = studio.run().folder.clone().unwrap();
    let record: RunRecord<TransferConfig> = RunFolder::look(&run).unwrap();
    let notes = record.clip.notes;
    assert!(
        notes.contains(&"moving square leads it.".to_owned()),
        "{notes:?}"
    );
    // Undo takes the clip of one's own back.
    studio.press(Modifiers::COMMAND, Key::Z);
    assert_eq!(studio.app().document().control.clip, None);
    let problems: Vec<_> = studio.app().problems().collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// A Stable Diffusion folder seldom has a ControlNet in it: the panel asks for one before anything is computed.
#[test]
fn a_model_without_a_control_net_is_told_before_training() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let model = copy_of(&image_model());
    let controlnet = studio.path("edges");
    fs::rename(model.path().join("controlnet"), &controlnet).unwrap();
    studio.drop_file(model.path().to_owned());
    studio.step_until("the image model", |app| {
        app.document().settings.method == Method::TuneAVideo && app.is_ready()
    });
    studio.choose("Method", "ControlVideo");
    studio.see("There is none: choose a folder.");
    studio.click("Train");
    studio.step_until("a problem", |app| app.problems().next().is_some());
    let told = studio.app().problems().next().unwrap().to_string();
    assert!(
        told.contains("needs a ControlNet") && told.contains("under ControlNet"),
        "{told}"
    );
    assert!(studio.app().queue().current().is_none());
}

#[test]
fn from_a_dropped_clip_to_a_film() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);

    let clip = moving_square(studio.folder.path(), 6);
    studio.drop_file(clip.clone());
    studio.step_until("dropped clip", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&clip)
    });
    // The spectra: their read-out, and a row for each band of 4 frames.
    studio.see("Solo 2–4 frames");
    studio.see("mean change");

    studio.click("Train");
    studio.step_until("training step", |app| {
        app.queue().current().is_some_and(|run| run.step() > 0)
    });
    studio.click("Pause");
    studio.step_until("pause", |app| {
        app.queue().current().is_some_and(|run| run.paused)
    });
    studio
        .harness
        .get_by_role_and_label(egui::Role::Slider, "λg global")
        .set_value_accesskit(0.75);
    studio.step_until("changed λg", |app| {
        app.queue()
            .current()
            .is_some_and(|run| run.marks.iter().any(|mark| mark.text == "λg 0.75"))
    });
    assert!((studio.app().document().settings.lambda_g - 0.75).abs() < 1e-9);
    let held_at = studio.run().step();
    studio.click("Resume");
    studio.step_until("step after the pause", |app| {
        app.queue()
            .current()
            .is_some_and(|run| run.step() > held_at)
    });
    studio.click("Sample now");
    studio.step_until("sample", |app| {
        app.queue()
            .current()
            .is_some_and(|run| !run.samples.is_empty())
    });
    let sample = &studio.run().samples[0];
    assert_eq!(sample.frames.len(), 4);
    assert_eq!(sample.prompt, "a bear");
    studio.click("Stop");
    studio.step_until("stop", |app| {
        app.queue().current().is_some_and(|run| !run.is_going())
    });
    assert!(matches!(
        studio.run().outcome,
        Some(Outcome::Cancelled { .. })
    ));
    let begun = Instant::now();
    // The scorecard of the sample comes from a thread of its own; "a bear" has no colour or shape to agree with.
    while studio.harness.query_by_label("All numbers").is_none() {
        assert!(begun.elapsed() < PATIENCE, "no scorecard for too long");
        studio.harness.step();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(studio.harness.query_by_label_contains("Colour: ").is_none());

    let film = studio.path("bear.gif");
    studio.press(Modifiers::NONE, Key::E);
    studio.type_path(&film);
    studio.click("Export film");
    studio.step_until("film", |_| film.is_file());
    let info = video::probe(&film).unwrap();
    assert_eq!((info.width, info.height), (512, 512), "enlarged to watch");
    let shown = video::load(&film, &video::Limits::default(), &|| false).unwrap();
    assert_eq!(shown.frames.len(), 12, "four frames, three times");
    let recipe = video::read_recipe(&film).unwrap().expect("a recipe");
    assert!(recipe.contains("a bear") && !recipe.contains("moving square/"));

    let project = studio.path("mine.toml");
    studio.press(Modifiers::COMMAND | Modifiers::SHIFT, Key::S);
    studio.type_path(&project);
    studio.click("Save");
    studio.step_until("project file", |_| project.is_file());
    let kept = studio.app().document().clone();
    assert_eq!(kept.runs.len(), 1, "the run belongs to the project");
    let data = studio.path("data");
    let mut again = Studio::reopen(studio, Some(project), data);
    again.step_until("project", |app| app.is_ready() && *app.document() == kept);
    // The project's run is there again, with its numbers and its sample.
    again.step_until("run of the project", |app| {
        app.queue()
            .current()
            .is_some_and(|run| !run.samples.is_empty())
    });
    let run = again.run();
    assert!(run.step() > held_at && run.stats.len() == run.step() as usize);
    assert!(run.marks.iter().any(|mark| mark.text == "λg 0.75"));
    let problems: Vec<_> = again.app().problems().collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// A run of an earlier day keeps its own settings, whatever the panel says, and can be trained further.
#[test]
fn a_finished_run_is_trained_further() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let clip = moving_square(studio.folder.path(), 4);
    let run = studio.path("finished");
    let request = job::TrainRequest {
        clip,
        subject: "a red square".to_owned(),
        more_clips: Vec::new(),
        control: Default::default(),
        model: Some(micro_model()),
        device: job::DeviceChoice::Cpu,
        config: TransferConfig {
            steps: 2,
            lambda_g: 0.25,
            ..steps_without_end()
        },
        run: Some(run.clone()),
        result: None,
    };
    let trained = job::spawn(job::Request::Train(Box::new(request)), Arc::new(|| {}));
    trained.unwrap().wait();
    studio.drop_file(run.clone());
    studio.step_until("run of an earlier day", |app| {
        app.queue().current().is_some_and(|run| run.steps == 2)
    });
    // The panel goes on to other things.
    studio
        .harness
        .get_by_role_and_label(egui::Role::Slider, "λg global")
        .set_value_accesskit(0.75);
    studio.harness.run_steps(3);
    assert!((studio.app().document().settings.lambda_g - 0.75).abs() < 1e-9);
    // A toast may lie over the button for a moment.
    studio
        .harness
        .get_by_role_and_label(egui::Role::Button, "Train further…")
        .click_accesskit();
    studio.harness.run_steps(3);
    studio
        .harness
        .get_by_role_and_label(egui::Role::SpinButton, "Steps more")
        .set_value_accesskit(3.0);
    studio.harness.run_steps(3);
    studio.click("Train further");
    studio.wait_for_end();
    assert_eq!(studio.run().outcome, Some(Outcome::Completed));
    assert_eq!((studio.run().step(), studio.run().steps), (5, 5));
    let record = RunFolder::look::<TransferConfig>(&run).unwrap();
    assert_eq!(record.settings.steps, 5);
    assert!((record.settings.lambda_g - 0.25).abs() < 1e-9);
    assert!(record.changes.is_empty(), "the run kept its own settings");
    // Its pane offers the same again; a toast may lie over it for a moment.
    studio
        .harness
        .get_by_role_and_label(egui::Role::Button, "Train further…")
        .click_accesskit();
    studio.harness.run_steps(3);
    studio.harness.get_by_label_contains("has its 5 steps");
}

#[test]
fn clips_of_one_motion_are_learned_together() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let clip = moving_square(studio.folder.path(), 6);
    let (second, third) = (
        moving_square(&studio.path("second"), 5),
        moving_square(&studio.path("third"), 4),
    );
    let still = studio.path("still.png");
    image::RgbImage::new(64, 64).save(&still).unwrap();
    studio.drop_file(clip.clone());
    studio.step_until("dropped clip", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&clip)
    });
    studio.drop_to_join(&[second.as_path(), still.as_path()]);
    studio.step_until("second clip and a problem", |app| {
        app.document().more_clips.len() == 1 && app.problems().count() == 1
    });
    assert_eq!(studio.more_clips(), [second.as_path()]);
    assert_eq!(
        studio.app().document().clip.as_deref(),
        Some(clip.as_path())
    );

    // Dropped as ever it takes their place, and can still be learned together with them.
    studio.drop_file(third.clone());
    studio.step_until("third clip", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&third)
    });
    assert!(studio.more_clips().is_empty());
    studio.click("Learn both");
    studio.step_until("all clips", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&clip)
    });
    assert_eq!(studio.more_clips(), [second.as_path(), third.as_path()]);
    let with_all = studio.app().document().clone();
    assert_eq!(with_all.more_clips[0].subject, "a red square");

    // The three have one name; the first row's button and field come first.
    studio
        .harness
        .get_all_by_role_and_label(egui::Role::Button, "Remove moving square")
        .next()
        .unwrap()
        .click();
    studio.harness.run_steps(3);
    assert_eq!(studio.more_clips(), [third.as_path()]);
    studio.press(Modifiers::COMMAND, Key::Z);
    assert_eq!(*studio.app().document(), with_all);
    let field = studio
        .harness
        .get_all_by_role_and_label(egui::Role::TextInput, "Words for moving square")
        .next()
        .unwrap();
    field.set_text_value_accesskit("a square");
    studio.harness.run_steps(3);
    assert_eq!(studio.app().document().more_clips[0].subject, "a square");

    let project = studio.path("three.toml");
    studio.press(Modifiers::COMMAND | Modifiers::SHIFT, Key::S);
    studio.type_path(&project);
    studio.click("Save");
    studio.step_until("project file", |_| project.is_file());
    let kept = Project::<TransferConfig>::read(&project).unwrap();
    assert_eq!(kept, *studio.app().document());

    studio.click("Train");
    studio.step_until("a step on every clip", |app| {
        app.queue().current().is_some_and(|run| {
            let clips: BTreeSet<usize> = run.stats.iter().map(|stats| stats.clip).collect();
            clips.len() == 3
        })
    });
    studio.click("Stop");
    studio.step_until("stop", |app| {
        app.queue().current().is_some_and(|run| !run.is_going())
    });
    let run = studio.run().folder.clone().expect("a run folder");
    let record = RunFolder::look::<TransferConfig>(&run).unwrap();
    assert_eq!(record.clips(), 3);
    assert_eq!(record.clip(1).0, "a square");
}

#[test]
fn dropped_weights_offer_a_sample() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let clip = moving_square(studio.folder.path(), 4);
    let run = studio.path("earlier");
    let request = job::Request::Train(Box::new(job::TrainRequest {
        clip,
        subject: "a red square".to_owned(),
        more_clips: Vec::new(),
        control: Default::default(),
        model: Some(micro_model()),
        device: job::DeviceChoice::Cpu,
        config: TransferConfig {
            method: Method::MotionDirector,
            rank: 2,
            steps: 1,
            ..steps_without_end()
        },
        run: Some(run.clone()),
        result: None,
    }));
    job::spawn(request, Arc::new(|| {})).unwrap().wait();
    studio.drop_file(run.join("final/weights.safetensors"));
    studio.see("Sample with it…");
    studio
        .harness
        .get_by_label_contains("holds the motion of \"a red square\"");
    studio.click("Sample with it…");
    studio.harness.step();
    studio
        .harness
        .get_by_role_and_label(egui::Role::Slider, "Strength")
        .focus();
    studio.harness.step();
    studio.harness.key_press(Key::ArrowLeft);
    studio.harness.step();
    studio.click("Sample");
    studio.step_until("sample", |app| {
        app.queue()
            .current()
            .is_some_and(|run| !run.is_going() && !run.samples.is_empty())
    });
    assert_eq!(studio.run().outcome, Some(Outcome::Completed));
    let sample = &studio.run().samples[0];
    assert_eq!((sample.frames.len(), sample.prompt.as_str()), (4, "a bear"));
    let film = studio.run().film.clone().expect("a film");
    assert!(film.starts_with(studio.path("data")));
    let recipe = video::read_recipe(&film).unwrap().expect("a recipe");
    let recipe: serde_json::Value = serde_json::from_str(&recipe).unwrap();
    let strength = recipe["settings"]["lora_scale"].as_f64().unwrap();
    assert!((0.9..1.0).contains(&strength), "one step less: {strength}");
    let problems: Vec<_> = studio.app().problems().collect();
    assert!(
        problems.is_empty(),
        "the panel's settings are no business of a sample: {problems:#?}"
    );

    // The run itself writes its adapters for other programs, which is a file that fits the model.
    studio.drop_file(run.clone());
    studio.step_until("run of an earlier day", |app| {
        app.queue().current().is_some_and(|run| run.steps == 1)
    });
    studio
        .harness
        .get_by_role_and_label(egui::Role::Button, "LoRA file")
        .click_accesskit();
    studio.see("named as diffusers names them");
    let found = job::check_lora(&run.join("final/lora.safetensors"), Some(&micro_model())).unwrap();
    assert!(found.fits && found.unet_layers > 0, "{found:?}");
}

/// Whole weights have no strength to set.
#[test]
fn whole_weights_are_sampled_as_they_are() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let run = studio.path("earlier");
    let request = job::Request::Train(Box::new(job::TrainRequest {
        clip: moving_square(studio.folder.path(), 4),
        subject: "a red square".to_owned(),
        more_clips: Vec::new(),
        control: Default::default(),
        model: Some(micro_model()),
        device: job::DeviceChoice::Cpu,
        config: TransferConfig {
            steps: 1,
            ..steps_without_end()
        },
        run: Some(run.clone()),
        result: None,
    }));
    job::spawn(request, Arc::new(|| {})).unwrap().wait();
    studio.drop_file(run.join("final/weights.safetensors"));
    studio.see("Sample with it…");
    studio.click("Sample with it…");
    studio.harness.step();
    let strength = studio
        .harness
        .get_by_role_and_label(egui::Role::Slider, "Strength");
    assert!(strength.accesskit_node().is_disabled());
}

#[test]
fn the_motion_of_the_latents_is_that_of_the_training() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let clip = moving_square(studio.folder.path(), 4);
    studio.drop_file(clip.clone());
    studio.step_until("dropped clip", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&clip)
    });
    studio
        .harness
        .get_by_role_and_label(egui::Role::ComboBox, "Motion of")
        .click();
    studio.harness.run_steps(3);
    studio.harness.get_by_label("Latent 2").click();
    studio.harness.run_steps(3);
    let begun = Instant::now();
    // The pane says what it shows once the model has encoded the clip.
    while studio.harness.query_by_label_contains("latent ").is_none() {
        assert!(begun.elapsed() < PATIENCE, "no latents for too long");
        studio.harness.step();
        std::thread::sleep(Duration::from_millis(5));
    }
    // The training caches what it learns from: the same latents.
    studio.click("Train");
    studio.step_until("training step", |app| {
        app.queue().current().is_some_and(|run| run.step() > 0)
    });
    studio.click("Stop");
    studio.step_until("stop", |app| {
        app.queue().current().is_some_and(|run| !run.is_going())
    });
    let run = studio.run().folder.clone().expect("a run folder");
    let cached = TensorFile::read(&run.join("cache/latents.safetensors")).unwrap();
    let cached = &cached.tensors["latents"];
    let fit = job::fit_for(
        &studio.app().document().settings,
        &ModelFolder::open(&micro_model()).unwrap().clip_limits(),
    )
    .unwrap();
    let loaded = video::load(&clip, &video::Limits::default(), &|| false).unwrap();
    let frames = video::fit(&loaded, &fit).unwrap().clip.frames;
    let seen = job::clip_latents(&frames, Some(&micro_model()), &|| false)
        .unwrap()
        .unwrap();
    let shape = [1, seen.channels, seen.frames, seen.height, seen.width];
    assert_eq!(cached.shape, shape);
    assert_eq!(cached.to_f32(), seen.values[..]);
    let size = seen.height * seen.width;
    assert_eq!(
        seen.plane(1, 2),
        &seen.values[(seen.frames + 2) * size..][..size],
        "channel 1, frame 2"
    );
    assert!(seen.plane(seen.channels, 0).is_empty() && seen.plane(0, seen.frames).is_empty());
}

#[test]
fn a_film_made_here_gives_its_settings_back_after_a_question() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let settings = TransferConfig {
        lambda_l: 0.3125,
        ..steps_without_end()
    };
    let recipe = serde_json::json!({
        "format": 1, "program": "test", "subject": "a blue ball", "prompt": "a green cube", "seed": 77,
        "clip": null, "model_name": "builtin", "model_sha256": {}, "tuned_sha256": null, "settings": settings,
    });
    let film = studio.path("made.gif");
    let frames = vec![Frame::filled(16, 16, [9, 9, 9]); 6];
    let clip = video::Clip::from_frames(frames, 8.0, "made");
    let options = video::ExportOptions {
        recipe: Some(recipe.to_string()),
        ..video::ExportOptions::default()
    };
    video::export(
        &clip,
        &film,
        video::ExportFormat::Gif,
        &options,
        &mut |_, _| std::ops::ControlFlow::Continue(()),
    )
    .unwrap();
    studio.drop_file(film.clone());
    studio.step_until("dropped film", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&film)
    });
    assert_eq!(
        studio.app().document().subject,
        "a red square",
        "nothing before the answer"
    );
    studio.click("Use its settings");
    let document = studio.app().document();
    assert_eq!(document.subject, "a blue ball");
    assert_eq!(document.prompt, "a green cube");
    assert_eq!(document.settings.seed, 77);
    assert!((document.settings.lambda_l - 0.3125).abs() < 1e-12);
}

#[test]
fn bad_drops_are_told_and_the_window_lives_on() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let text = studio.path("letter.txt");
    fs::write(&text, "dear all").unwrap();
    let empty_file = studio.path("empty.mp4");
    fs::write(&empty_file, []).unwrap();
    let empty_folder = studio.path("nothing");
    fs::create_dir(&empty_folder).unwrap();
    let still = studio.path("still.png");
    image::RgbImage::new(7680, 4320).save(&still).unwrap();
    let broken_project = studio.path("broken.toml");
    fs::write(&broken_project, "format = 1\n[project]\n").unwrap();
    let gone = studio.path("gone.mp4");
    let locked = studio.path("locked");
    fs::create_dir(&locked).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    }
    // Who may read everything finds the locked folder merely empty.
    let is_locked = fs::read_dir(&locked).is_err();
    let bad = [
        (text, "letter.txt"),
        (empty_file, "empty.mp4"),
        (empty_folder, "nothing"),
        (still, "still.png"),
        (broken_project, "broken.toml"),
        (gone, "gone.mp4"),
        (locked, "locked"),
    ];
    for (count, (bad, name)) in bad.into_iter().enumerate() {
        studio.drop_file(bad.clone());
        studio.step_until("problem", |app| app.problems().count() > count);
        let report = studio.app().problems().last().unwrap().clone();
        assert!(report.headline.contains(name), "{name}: {report}");
        assert!(!report.what_to_do.is_empty(), "{name}: {report}");
        if name == "locked" && is_locked {
            let told = report.to_string().to_lowercase();
            assert!(told.contains("permi"), "{report}");
        }
        // The window lives on with the clip it had, and says what happened.
        assert!(studio.app().is_ready(), "{name}");
        studio.see(&report.headline);
    }
    let known = studio.app().problems().count();
    // Three frames where the settings want four: refused with a way out, which works.
    let short = moving_square(studio.folder.path(), 3);
    studio.drop_file(short.clone());
    studio.step_until("problem", |app| app.problems().count() > known);
    studio.click("Loop it");
    studio.step_until("looped clip", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&short)
    });
    assert!(studio.app().document().settings.loop_short);
}

/// Who knows what the clip shows need not wait for it.
#[test]
fn words_written_while_a_clip_is_read_are_kept() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let clip = moving_square(studio.folder.path(), 6);
    studio.drop_file(clip.clone());
    studio.type_into("Clip words", "a square that slides");
    studio.type_into("New subject", "a fox that slides");
    studio.step_until("dropped clip", |app| {
        app.is_ready() && app.document().clip.as_deref() == Some(&clip)
    });
    let document = studio.app().document();
    let words = (document.subject.as_str(), document.prompt.as_str());
    assert_eq!(words, ("a square that slides", "a fox that slides"));
}

#[test]
fn keys_play_cut_and_undo_but_yield_to_words() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let before = studio.app().document().clone();

    studio.press(Modifiers::NONE, Key::Space);
    studio.press(Modifiers::NONE, Key::Home);
    studio.press(Modifiers::NONE, Key::Period);
    studio.press(Modifiers::NONE, Key::I);
    assert!((studio.app().document().settings.start_secs - 0.125).abs() < 1e-6);
    studio.press(Modifiers::COMMAND, Key::Z);
    assert_eq!(*studio.app().document(), before);
    studio.press(Modifiers::COMMAND | Modifiers::SHIFT, Key::Z);
    assert!(studio.app().document().settings.start_secs > 0.1);

    let field = studio
        .harness
        .get_by_role_and_label(egui::Role::TextInput, "Clip words");
    field.focus();
    studio.harness.run_steps(2);
    studio
        .harness
        .get_by_role_and_label(egui::Role::TextInput, "Clip words")
        .type_text(" io");
    studio.press(Modifiers::NONE, Key::O);
    assert!(studio.app().document().subject.ends_with(" io"));
    assert_eq!(studio.app().document().settings.fps, None);

    studio.harness.key_press(Key::Escape);
    studio.harness.run_steps(2);
    studio.press(Modifiers::SHIFT, Key::Questionmark);
    studio
        .harness
        .get_by_label("Flip reference and sample, held");
}

proptest! {
    /// Whatever was changed, undoing everything leads to the beginning and redoing everything to the end.
    #[test]
    fn undo_and_redo_retrace_every_change(changes in proptest::collection::vec(0_u8..4, 1..40)) {
        let mut history = History::new(9_u8);
        let mut now = 9;
        for change in &changes {
            now = *change;
            history.settle(&now);
        }
        let mut seen = now;
        while let Some(before) = history.undo(&seen) {
            prop_assert_ne!(before, seen, "each step changes something");
            seen = before;
        }
        prop_assert_eq!(seen, 9);
        prop_assert!(!history.can_undo());
        while let Some(after) = history.redo(&seen) {
            seen = after;
        }
        prop_assert_eq!(seen, now);
        history.undo(&seen);
        history.settle(&200);
        prop_assert!(!history.can_redo(), "a change after an undo begins a new future");
    }
}
