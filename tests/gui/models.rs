//! The list of models, with the hub on this computer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use eframe::egui::{Key, Modifiers, Role};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use spectral_motion::gui::App;
use spectral_motion::library::{Cache, Library};
use spectral_motion::methods::Method;
use spectral_motion::project::RunFolder;
use spectral_motion::train::TransferConfig;

use super::studio::Studio;
use crate::common::{image_model, micro_model};
use crate::library::hub_at;
use crate::library::server::{Server, Twist};
use crate::models::torch_writer::{Pickle, checkpoint, floats};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn state(app: &App, name: &str) -> Option<&'static str> {
    let found = app.shelf().entries.iter().find(|entry| entry.name == name);
    found.map(|entry| entry.state.word())
}

/// Names of the buttons that can be pressed.
fn buttons(studio: &Studio) -> Vec<String> {
    let nodes = studio.harness.root().children_recursive();
    let buttons = nodes
        .map(|node| node.accesskit_node())
        .filter(|node| node.role() == Role::Button && !node.is_disabled());
    buttons.filter_map(|node| node.label()).collect()
}

#[track_caller]
fn press(studio: &mut Studio, name: &str) {
    studio
        .harness
        .get_by_role_and_label(Role::Button, name)
        .click_accesskit();
    studio.harness.run_steps(3);
}

#[test]
fn a_model_is_downloaded_after_size_and_licence_were_told() {
    let server = Server::with_micro_model();
    server.twist(UNET, Twist::Slow);
    let mut studio = Studio::with_hub(hub_at(&server));
    studio.step_until("first clip", App::is_ready);
    studio.press(Modifiers::COMMAND, Key::L);
    studio.step_until("list", |app| state(app, "zeroscope") == Some("missing"));
    studio.see("ZeroScope v2 576w");
    studio.see("for VMC, MotionDirector");
    studio.see("about 3.7 GB");
    assert!(server.asked().is_empty(), "looking asks nobody");

    press(&mut studio, "Download ZeroScope v2 576w…");
    studio.see("CC BY-NC 4.0");
    studio.see("Training 4 frames of 576×320");
    studio.see("in 11 files");
    assert_eq!(server.sent(""), 0, "asking fetches nothing");
    press(&mut studio, "Back");
    assert_eq!(server.sent(""), 0);
    press(&mut studio, "Download ZeroScope v2 576w…");
    studio.see("CC BY-NC 4.0");
    let agree = buttons(&studio)
        .into_iter()
        .find(|name| name.starts_with("Download ") && !name.ends_with('…'));
    press(&mut studio, &agree.expect("a button to agree"));
    studio.step_until("progress", |app| {
        app.shelf()
            .download
            .as_ref()
            .is_some_and(|one| one.share() > 0.0 && server.sent(UNET) > 0)
    });
    // Meanwhile the window goes on; the bar says how far it is and leads back to the list.
    studio.press(Modifiers::NONE, Key::Escape);
    studio.see("ZeroScope v2 576w ");
    studio.press(Modifiers::COMMAND, Key::L);
    assert!(
        !buttons(&studio).contains(&"Download Stable Diffusion 1.5…".to_owned()),
        "one at a time"
    );
    press(&mut studio, "Cancel the download of ZeroScope v2 576w");
    studio.step_until("end", |app| {
        app.shelf().download.is_none() && state(app, "zeroscope") == Some("unfinished")
    });
    let here = server.sent(UNET);
    assert!(here > 0 && here < server.size(UNET));

    server.behave();
    press(&mut studio, "Download ZeroScope v2 576w…");
    studio.see("are left");
    let agree = buttons(&studio)
        .into_iter()
        .find(|name| name.starts_with("Download ") && !name.ends_with('…'));
    press(&mut studio, &agree.expect("a button to agree"));
    studio.step_until("model", |app| state(app, "zeroscope") == Some("present"));
    press(&mut studio, "Check ZeroScope v2 576w");
    studio.see("with the checksums of 11 files");
    // A file is damaged on the disk: the check tells, and it alone is fetched again.
    let entry = studio.path("hub/models--cerspense--zeroscope_v2_576w");
    let blob = entry.join("blobs").join(server.checksum(UNET));
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, bytes).unwrap();
    let sent = server.sent("");
    press(&mut studio, "Check ZeroScope v2 576w");
    studio.step_until("damage", |app| state(app, "zeroscope") == Some("broken"));
    assert_eq!(studio.app().problems().count(), 1);
    press(&mut studio, "Download ZeroScope v2 576w…");
    studio.see("Download what is damaged");
    press(&mut studio, "Download what is damaged");
    studio.step_until("repaired model", |app| {
        state(app, "zeroscope") == Some("present")
    });
    assert_eq!(server.sent(""), sent + server.size(UNET));
    press(&mut studio, "Use ZeroScope v2 576w");
    studio.press(Modifiers::NONE, Key::Escape);
    studio.step_until("its use", |app| {
        let model = app.document().model.as_ref();
        app.is_ready()
            && model.is_some_and(|folder| folder.to_string_lossy().contains("zeroscope_v2_576w"))
    });
    studio
        .harness
        .get_by_role_and_label(Role::ComboBox, "Model")
        .click();
    studio.harness.run_steps(3);
    let offered = studio
        .harness
        .query_all_by_label("ZeroScope v2 576w")
        .count();
    assert!(offered > 0, "the chooser offers it");
    assert_eq!(
        studio.app().problems().count(),
        1,
        "nothing else went wrong"
    );
}

#[test]
fn a_folder_is_put_on_the_list_and_taken_off_again() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    studio.press(Modifiers::COMMAND, Key::L);
    studio.step_until("list", |app| state(app, "sd15") == Some("missing"));
    studio.type_path(&micro_model());
    press(&mut studio, "Add this folder");
    studio.step_until("folder", |app| state(app, "model") == Some("present"));
    press(&mut studio, "Check model");
    studio.see("names and shapes fit");
    press(&mut studio, "Forget model");
    studio.step_until("end", |app| state(app, "model").is_none());
    assert!(micro_model().join("model_index.json").is_file());

    studio.type_path(&micro_model().join("unet"));
    press(&mut studio, "Add this folder");
    studio.step_until("problem", |app| app.problems().count() == 1);
    let problem = studio.app().problems().next().unwrap().clone();
    assert!(
        problem.headline.contains("one part of a model"),
        "{problem}"
    );
    // Without a network a download is refused in words, and nothing hangs.
    press(&mut studio, "Download Stable Diffusion 1.5…");
    studio.step_until("problem", |app| app.problems().count() == 2);
    let problem = studio.app().problems().last().unwrap().clone();
    assert!(problem.headline.contains("HF_HUB_OFFLINE"), "{problem}");
}

/// An image model in use without a ControlNet, and this one on the list of the same data folder, put there by the command line.
fn with_a_listed_controlnet(controlnet: &Path) -> Studio {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let model = studio.path("image model");
    for part in ["", "unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        copy_files(&image_model().join(part), &model.join(part));
    }
    studio.drop_file(model);
    studio.step_until("the image model's method", |app| {
        app.document().settings.method == Method::TuneAVideo && app.is_ready()
    });
    assert_eq!(studio.app().document().control.controlnet, None);
    let cache = Cache::new(studio.path("hub"));
    let library = Library::new(&studio.path("data"), cache);
    library.add(controlnet, Some("controlnet-canny")).unwrap();
    studio.press(Modifiers::COMMAND, Key::L);
    studio.step_until("ControlNet", |app| {
        state(app, "controlnet-canny") == Some("present")
    });
    studio.press(Modifiers::NONE, Key::Escape);
    studio
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A model without a ControlNet of its own is led by the one of the list.
#[test]
fn a_controlnet_of_the_list_leads_an_image_model() {
    let edges = image_model().join("controlnet");
    let mut studio = with_a_listed_controlnet(&edges);
    studio.choose("Method", "ControlVideo");
    let wanted = edges.clone();
    studio.step_until("the ControlNet of the list", move |app| {
        app.is_ready() && app.document().control.controlnet.as_ref() == Some(&wanted)
    });
    studio.train();
    let folder = studio.run().folder.clone().expect("a run folder");
    studio.click("Stop");
    studio.wait_for_end();
    let record = RunFolder::look::<TransferConfig>(&folder).unwrap();
    assert_eq!(record.model.controlnet, Some(edges.display().to_string()));
    let problems: Vec<_> = studio.app().problems().collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// That the list leads is no step: one undo takes the method back, and a redo brings both.
#[test]
fn a_controlnet_of_the_list_comes_and_goes_with_the_method() {
    let mut studio = with_a_listed_controlnet(&image_model().join("controlnet"));
    let before = studio.app().document().clone();
    studio.choose("Method", "ControlVideo");
    studio.step_until("the ControlNet of the list", |app| {
        app.is_ready() && app.document().control.controlnet.is_some()
    });
    let after = studio.app().document().clone();
    studio.press(Modifiers::COMMAND, Key::Z);
    assert_eq!(*studio.app().document(), before);
    studio.step_until("the method of before", App::is_ready);
    studio.press(Modifiers::COMMAND | Modifiers::SHIFT, Key::Z);
    assert_eq!(*studio.app().document(), after);
}

/// One that was damaged since the list was made is refused once, not again and again.
#[test]
fn a_controlnet_of_the_list_that_does_not_fit_is_refused_once() {
    let place = tempfile::tempdir().unwrap();
    let edges = place.path().join("edges");
    copy_files(&image_model().join("controlnet"), &edges);
    let mut studio = with_a_listed_controlnet(&edges);
    fs::write(edges.join("config.json"), "{}").unwrap();
    studio.choose("Method", "ControlVideo");
    studio.step_until("problem", |app| app.problems().count() > 0);
    // Long enough for a second reading, were there one.
    for _ in 0..100 {
        studio.harness.step();
        std::thread::sleep(Duration::from_millis(10));
    }
    let problems: Vec<_> = studio.app().problems().collect();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert_eq!(studio.app().document().control.controlnet, None);
}

/// Every ControlNet that is here can be chosen, not only the one that is taken without being asked.
#[test]
fn a_controlnet_is_chosen_from_those_that_are_here() {
    let place = tempfile::tempdir().unwrap();
    let mine = place.path().join("mine");
    copy_files(&image_model().join("controlnet"), &mine);
    let edges = image_model().join("controlnet");
    let mut studio = with_a_listed_controlnet(&edges);
    let library = Library::new(&studio.path("data"), Cache::new(studio.path("hub")));
    library.add(&mine, Some("my-edges")).unwrap();
    studio.press(Modifiers::COMMAND, Key::L);
    studio.step_until("the second one", |app| {
        state(app, "my-edges") == Some("present")
    });
    studio.press(Modifiers::NONE, Key::Escape);
    studio.choose("Method", "ControlVideo");
    studio.step_until("the ControlNet of the list", |app| {
        app.is_ready() && app.document().control.controlnet.is_some()
    });
    studio.choose("ControlNet", "my-edges");
    studio.step_until("the chosen ControlNet", |app| {
        app.is_ready() && app.document().control.controlnet.as_ref() == Some(&mine)
    });
    assert_eq!(studio.app().problems().count(), 0);
}

/// A list of cloneofsimo's or MotionDirector's; another file of PyTorch is a part of a model.
#[test]
fn a_lora_that_is_a_list_is_offered_a_sample() {
    let place = tempfile::tempdir().unwrap();
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    let matrix =
        |pickle: Pickle, key: &str| pickle.tensor(("FloatStorage", key, 4), 0, &[2, 2], &[2, 1]);
    let numbers = [("0", floats(&[1.0; 4])), ("1", floats(&[1.0; 4]))];
    let pairs = matrix(matrix(Pickle::start().raw("]("), "0"), "1").raw("e");
    let list = place.path().join("motion.pt");
    fs::write(&list, checkpoint(pairs.end(), &numbers)).unwrap();
    studio.drop_file(list);
    studio.see("Sample with it…");
    let other = place.path().join("other.pt");
    fs::write(&other, checkpoint(Pickle::start().raw("].").end(), &[])).unwrap();
    studio.drop_file(other);
    studio.step_until("problem", |app| app.problems().count() == 1);
}
