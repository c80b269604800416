//! Every control: its name, its explanation, its size, the keyboard, and that what it changes can be taken back.

use std::collections::BTreeSet;

use eframe::egui::accessibility::is_input;
use eframe::egui::{self, Key, Modifiers, Role};
use egui_kittest::Node;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use spectral_motion::gui::command::Menu;
use spectral_motion::gui::{App, Document};

use spectral_motion::train::TransferConfig;

use super::studio::{Studio, steps_without_end};

/// Tall enough that the panel needs no scrolling.
const TALL: [f32; 2] = [1280.0, 2600.0];
/// Smallest side of what is clicked, in points.
const HIT_SIZE: f64 = 24.0;

/// Names that say everything: menus, the tabs of the panes.
fn explains_itself(name: &str) -> bool {
    let tabs = [
        "Reference",
        "Result",
        "Spectrum",
        "Motion",
        "Motion in time",
        "Transfer",
        "Timeline",
        "Run",
        "Log",
    ];
    tabs.contains(&name) || Menu::ALL.iter().any(|menu| menu.label() == name)
}

/// What is wrong with the controls that are on the screen.
fn faults(studio: &Studio) -> BTreeSet<String> {
    let mut faults: BTreeSet<String> = studio.harness.unnamed_widgets().into_iter().collect();
    // The number beside a slider has its name, and is explained with it.
    let explained: BTreeSet<String> = studio
        .harness
        .root()
        .children_recursive()
        .map(|node| node.accesskit_node())
        .filter(|node| node.description().is_some_and(|text| text.len() > 3))
        .filter_map(|node| node.label())
        .collect();
    for node in studio.harness.root().children_recursive() {
        let node = node.accesskit_node();
        if !is_input(node.role()) || node.is_hidden() || node.data().is_read_only() {
            continue;
        }
        let name = node.label().unwrap_or_default();
        if !explained.contains(&name) && !explains_itself(&name) {
            faults.insert(format!(
                "{:?} {name:?} does not explain itself",
                node.role()
            ));
        }
        let Some(bounds) = node.raw_bounds() else {
            continue;
        };
        let clicked = matches!(node.role(), Role::Button | Role::CheckBox | Role::ComboBox);
        if clicked && bounds.height() < HIT_SIZE - 0.1 {
            faults.insert(format!(
                "{:?} {name:?} is {:.1} points high",
                node.role(),
                bounds.height()
            ));
        }
    }
    faults
}

#[test]
fn every_control_says_what_it_is_and_can_be_hit() {
    let mut studio = Studio::with(steps_without_end(), TALL);
    studio.drop_square(4);
    studio.see("Solo 2–4 frames");
    studio.unfold("Training and sampling");
    studio.unfold("Clip");
    studio.unfold("Advanced");
    studio.click("Weigh bands apart");
    let mut found = faults(&studio);
    for (key, modifiers) in [
        (Key::O, Modifiers::COMMAND),
        (Key::S, Modifiers::COMMAND | Modifiers::SHIFT),
        (Key::L, Modifiers::COMMAND),
        (Key::Questionmark, Modifiers::SHIFT),
    ] {
        studio.press(modifiers, key);
        found.extend(faults(&studio));
        studio.press(Modifiers::NONE, Key::Escape);
    }
    studio.train();
    studio.click("Sample now");
    studio.step_until("sample", |app| {
        app.queue()
            .current()
            .is_some_and(|run| !run.samples.is_empty())
    });
    found.extend(faults(&studio));
    studio.ask_to_close();
    found.extend(faults(&studio));
    studio.press(Modifiers::NONE, Key::Escape);
    studio.click("Stop");
    studio.wait_for_end();
    found.extend(faults(&studio));
    studio.press(Modifiers::NONE, Key::E);
    found.extend(faults(&studio));
    assert!(found.is_empty(), "{found:#?}");
}

/// The controls of the panel that a screen reader can move, in their order.
fn movable<'a>(studio: &'a Studio) -> Vec<Node<'a>> {
    let panel = studio.harness.get_by_label("Method").rect().left() - 4.0;
    let moves = |node: &Node<'a>| {
        let role = node.accesskit_node().role();
        let kind = matches!(role, Role::SpinButton | Role::Slider | Role::CheckBox);
        // The handles of the time axis below are moved by the arrow keys.
        let is_handle = node
            .accesskit_node()
            .label()
            .is_some_and(|name| name.ends_with("of the cut"));
        kind && !is_handle && node.rect().left() > panel
    };
    studio
        .harness
        .root()
        .children_recursive()
        .filter(moves)
        .collect()
}

/// Undoes and redoes a change that was just made.
fn take_back(studio: &mut Studio, name: &str, before: &Document) {
    let after = studio.app().document().clone();
    assert_ne!(after, *before, "{name} changes nothing");
    studio.press(Modifiers::COMMAND, Key::Z);
    assert_eq!(studio.app().document(), before, "{name} is not undone");
    studio.press(Modifiers::COMMAND | Modifiers::SHIFT, Key::Z);
    assert_eq!(*studio.app().document(), after, "{name} is not redone");
    studio.press(Modifiers::COMMAND, Key::Z);
    assert_eq!(
        studio.app().document(),
        before,
        "{name} is not undone twice"
    );
}

#[test]
fn every_change_of_the_panel_is_undone_and_redone() {
    let settings = TransferConfig {
        steps: 40,
        ..steps_without_end()
    };
    let mut studio = Studio::with(settings, TALL);
    studio.drop_square(6);
    studio.unfold("Training and sampling");
    studio.unfold("Clip");
    studio.unfold("Advanced");
    let count = movable(&studio).len();
    assert!(count >= 20, "only {count} controls were found");
    for index in 0..count {
        let before = studio.app().document().clone();
        let node = movable(&studio)[index];
        let name = node.accesskit_node().label().unwrap_or_default();
        if node.accesskit_node().role() == Role::CheckBox {
            node.click_accesskit();
        } else {
            node.increment_accesskit();
        }
        studio.harness.run_steps(3);
        if *studio.app().document() == before {
            // It stands at its upper end.
            movable(&studio)[index].decrement_accesskit();
            studio.harness.run_steps(3);
        }
        take_back(&mut studio, &name, &before);
    }
    let choices = [
        ("Method", "MotionDirector"),
        ("Preset", "The paper"),
        ("Levels", "1"),
        ("Sampler", "DPM-Solver++"),
        ("Start from", "fresh noise"),
    ];
    for (name, choice) in choices {
        let before = studio.app().document().clone();
        studio
            .harness
            .get_by_role_and_label(Role::ComboBox, name)
            .click();
        studio.harness.run_steps(3);
        let option = studio.harness.get_all_by_label(choice).next_back();
        option.expect("an option").click();
        studio.harness.run_steps(3);
        take_back(&mut studio, name, &before);
    }
    for name in [
        "Absolute",
        "Stretch",
        "Whole frames",
        "Even",
        "Weigh bands apart",
    ] {
        let before = studio.app().document().clone();
        studio.harness.get_by_label(name).click();
        studio.harness.run_steps(3);
        take_back(&mut studio, name, &before);
    }
    for field in ["Clip words", "New subject", "Keep away from"] {
        let before = studio.app().document().clone();
        studio.type_into(field, "something else");
        studio.press(Modifiers::NONE, Key::Escape);
        take_back(&mut studio, field, &before);
    }
}

#[test]
fn the_keyboard_reaches_everything_and_moves_the_time() {
    let mut studio = Studio::new();
    studio.drop_square(6);
    studio.see("Solo 2–4 frames");
    let mut reached = BTreeSet::new();
    for _ in 0..120 {
        studio.harness.key_press(Key::Tab);
        studio.harness.run_steps(1);
        let focused = studio
            .harness
            .root()
            .children_recursive()
            .find(Node::is_focused);
        reached.extend(focused.and_then(|node| node.accesskit_node().label()));
        if reached.contains("Playhead") {
            // The arrows move the time by frames, and leave the focus where it is.
            break;
        }
    }
    assert!(reached.contains("Playhead"), "{reached:#?}");
    studio.press(Modifiers::NONE, Key::ArrowRight);
    let there = time_of(&studio);
    studio.press(Modifiers::NONE, Key::ArrowRight);
    let next = time_of(&studio);
    assert!((next - there - 0.125).abs() < 1e-6, "{there} and {next}");

    for _ in 0..120 {
        studio.harness.key_press(Key::Tab);
        studio.harness.run_steps(1);
        let focused = studio
            .harness
            .root()
            .children_recursive()
            .find(Node::is_focused);
        reached.extend(focused.and_then(|node| node.accesskit_node().label()));
    }
    for name in [
        "Clip words",
        "New subject",
        "Method",
        "Model",
        "λg global",
        "δ bias",
        "Train",
        "Begin of the cut",
        "End of the cut",
        "Amplitude",
        "Solo 2–4 frames",
        "Mute 2–4 frames",
        "File",
        "Loop",
    ] {
        assert!(reached.contains(name), "{name} is not among {reached:#?}");
    }
    assert!(studio.app().is_ready());
}

fn time_of(studio: &Studio) -> f64 {
    let playhead = studio
        .harness
        .get_by_role_and_label(Role::Slider, "Playhead");
    let value = playhead.accesskit_node().numeric_value();
    value.expect("a time")
}

#[test]
fn without_compute_shaders_the_window_says_so_and_shows_the_same() {
    // The test's window is not drawn by wgpu: the processor computes.
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    studio.see("No compute shaders");
    studio.see("mean change");
    let told = studio.harness.get_by_label("No compute shaders");
    let why = told.accesskit_node().description().unwrap_or_default();
    assert!(why.contains("processor"), "{why}");
    assert_eq!(told.accesskit_node().role(), Role::Label);
}

#[test]
fn a_small_window_shows_one_pane_at_a_time_and_a_large_one_all() {
    let mut studio = Studio::with(steps_without_end(), [640.0, 400.0]);
    studio.step_until("first clip", App::is_ready);
    assert!(!studio.shows("Amplitude"), "the spectrum stands behind");
    studio.harness.get_by_label("Spectrum").click();
    studio.see("Amplitude");
    studio.harness.get_by_label("Motion in time").click();
    studio.see("Solo 2–4 frames");
    assert!(!studio.shows("Amplitude"));
    let train = studio
        .harness
        .get_by_role_and_label(Role::Button, "Train")
        .rect();
    let window = egui::Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(640.0, 400.0));
    assert!(window.contains_rect(train), "{train:?}");

    studio.harness.set_size(egui::vec2(1280.0, 800.0));
    studio.harness.run_steps(3);
    studio.see("Solo 2–4 frames");
    studio.see("Amplitude");
    // Back again, the small window is as it was left.
    studio.harness.set_size(egui::vec2(640.0, 400.0));
    studio.harness.run_steps(3);
    assert!(studio.shows("Solo 2–4 frames") && !studio.shows("Amplitude"));
}

/// What Train would do can be typed instead: the command in the clipboard is one that the program understands.
#[test]
fn the_training_is_copied_as_a_command() {
    let mut studio = Studio::new();
    studio.step_until("first clip", App::is_ready);
    studio.type_into("New subject", "a bear's cub");
    // The menu; a pane below it has the same name.
    let named = studio
        .harness
        .get_all_by_role_and_label(Role::Button, "Run");
    let menu = named.min_by(|a, b| a.rect().top().total_cmp(&b.rect().top()));
    menu.expect("a menu").click();
    studio.harness.run_steps(2);
    studio.harness.get_by_label("Copy as command").click();
    let copied = (0..20).find_map(|_| {
        studio.harness.step();
        let output = &studio.harness.output().platform_output;
        output.commands.iter().find_map(|command| match command {
            egui::OutputCommand::CopyText(text) => Some(text.clone()),
            _ => None,
        })
    });
    let copied = copied.expect("a text in the clipboard");
    let clip = studio.app().document().clip.clone().unwrap();
    assert!(copied.starts_with("spectral-motion transfer "), "{copied}");
    assert!(copied.contains(&*clip.to_string_lossy()), "{copied}");
    assert!(copied.contains(r"'--prompt=a bear'\''s cub'"), "{copied}");
    assert!(copied.contains("--steps=1000000"), "{copied}");
    studio.see("The command is in the clipboard.");
}
