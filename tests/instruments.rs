//! The instruments' panes without a window: what they say, and what soloing a band plays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use spectral_motion::gui::instruments::{Instruments, View};
use spectral_motion::spectral::plain::Residual;
use spectral_motion::video::Frame;

const VIEW: View = View {
    frame: 2,
    delta: 0.05,
    cutoff: Some(0.3),
    levels: None,
    residual: Residual::Signed,
    show_sample: false,
};

/// A square that moves over a dark ground.
fn clip(count: usize) -> Arc<[Frame]> {
    let picture = |index: usize| {
        let mut frame = Frame::filled(32, 24, [20, 30, 40]);
        for y in 6..14 {
            for x in 4 + 2 * index..12 + 2 * index {
                frame.rgb[(y * 32 + x) * 3] = 220;
            }
        }
        frame
    };
    (0..count).map(picture).collect()
}

/// All three panes one below the other, each 400 by 300 points.
fn panes<'a>() -> Harness<'a, Instruments> {
    let draw = |ui: &mut egui::Ui, instruments: &mut Instruments| {
        ui.allocate_ui(egui::vec2(400.0, 300.0), |ui| {
            instruments.motion_ui(ui, &VIEW);
        });
        ui.allocate_ui(egui::vec2(400.0, 300.0), |ui| {
            instruments.spectrum_ui(ui, &VIEW);
        });
        ui.allocate_ui(egui::vec2(400.0, 300.0), |ui| {
            instruments.bands_ui(ui, &VIEW);
        });
    };
    Harness::builder()
        .with_size([420.0, 940.0])
        .build_ui_state(draw, Instruments::new(None))
}

/// Draws until `ready`, for as long as a slow machine may need.
fn wait(
    harness: &mut Harness<'_, Instruments>,
    what: &str,
    ready: impl Fn(&Harness<'_, Instruments>) -> bool,
) {
    let start = Instant::now();
    while !ready(harness) {
        assert!(
            start.elapsed() < Duration::from_secs(240),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
        harness.step();
    }
}

#[test]
fn panes_without_a_clip_say_what_to_do() {
    let harness = panes();
    for headline in ["No motion yet", "No spectrum yet", "No motion in time yet"] {
        assert!(harness.query_by_label(headline).is_some(), "{headline}");
    }
}

#[test]
fn a_clip_without_motion_is_no_clip() {
    let mut harness = panes();
    let ctx = harness.ctx.clone();
    let one = clip(1);
    harness.state_mut().set_reference(&ctx, one, 8.0);
    harness.step();
    assert!(harness.query_by_label("No motion yet").is_some());
}

#[test]
fn a_solo_band_plays_alone_and_all_bands_play_the_clip() {
    let mut harness = panes();
    let ctx = harness.ctx.clone();
    let reference = clip(8);
    harness
        .state_mut()
        .set_reference(&ctx, reference.clone(), 8.0);
    wait(&mut harness, "the bands", |h| {
        h.query_by_label("Solo 4–8 frames").is_some()
    });
    assert!(harness.state().audible().is_none(), "nothing is muted");

    harness.get_by_label("Solo 4–8 frames").click();
    wait(&mut harness, "the audible frames", |h| {
        h.state().audible().is_some()
    });
    let audible = harness.state().audible().unwrap();
    assert_eq!(audible.len(), 8);
    assert_eq!(
        audible[0], reference[0],
        "the first frame is where the motion starts"
    );
    assert_ne!(audible[3], reference[3]);
    let ground = |frame: &Frame| frame.pixel(31, 23);
    assert!(
        audible.iter().all(|f| ground(f) == [20, 30, 40]),
        "what does not move stays"
    );

    // With every band soloed all of them are audible.
    for name in ["2–4 frames", "8–16 frames", "16+ frames"] {
        harness.get_by_label(&format!("Solo {name}")).click();
        harness.step();
    }
    wait(&mut harness, "all bands", |h| h.state().audible().is_none());

    // Muting nothing that moves gives the clip back, but for rounding.
    for name in ["2–4 frames", "4–8 frames", "8–16 frames", "16+ frames"] {
        harness.get_by_label(&format!("Solo {name}")).click();
        harness.step();
    }
    harness.get_by_label("Mute 2–4 frames").click();
    wait(&mut harness, "the rest", |h| h.state().audible().is_some());
}

#[test]
fn another_clip_replaces_the_results_of_the_first() {
    let mut harness = panes();
    let ctx = harness.ctx.clone();
    harness.state_mut().set_reference(&ctx, clip(4), 8.0);
    wait(&mut harness, "two levels", |h| {
        h.query_by_label("Solo 8+ frames").is_some()
    });
    harness.state_mut().set_reference(&ctx, clip(8), 8.0);
    wait(&mut harness, "three levels", |h| {
        h.query_by_label("Solo 16+ frames").is_some()
    });
    assert!(harness.query_by_label("Solo 8+ frames").is_none());
    let sample = clip(8);
    harness.state_mut().set_sample(&ctx, Some((sample, 8.0)));
    wait(&mut harness, "the sample's chips", |h| {
        h.query_by_label("Diff.").is_some()
    });
    harness.get_by_label("Diff.").click();
    harness.run_steps(5);
    harness.state_mut().set_sample(&ctx, None);
    wait(&mut harness, "the sample to go", |h| {
        h.query_by_label("Diff.").is_none()
    });
}
