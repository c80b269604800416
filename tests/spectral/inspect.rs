//! `inspect`: files, numbers and refusals, on clips with known motion.

use spectral_motion::cli::inspect::{InspectOptions, InspectReport, inspect};
use spectral_motion::spectral::plain::Residual;
use spectral_motion::video::{Clip, Frame};

const FILES: [&str; 10] = [
    "amplitude-weighted.png",
    "amplitude.png",
    "band-energy.png",
    "bands.png",
    "flow.png",
    "inspect.json",
    "phase.png",
    "radial.png",
    "residual-abs.png",
    "residual-signed.png",
];

/// A textured square that moves 3 px right and 1 px up a frame over a still, lightly textured ground.
fn moving_square(frames: usize) -> Clip {
    let (w, h) = (96usize, 64usize);
    let draw = |f: usize| {
        let mut frame = Frame::filled(w as u32, h as u32, [0; 3]);
        for i in 0..w * h {
            let (x, y) = ((i % w) as f64, (i / w) as f64);
            let (u, v) = (x - 10.0 - 3.0 * f as f64, y - 34.0 + f as f64);
            let inside = (0.0..24.0).contains(&u) && (0.0..24.0).contains(&v);
            let value = if inside {
                180.0 + 60.0 * (0.6 * u).sin() * (0.5 * v).cos()
            } else {
                60.0 + 10.0 * (0.3 * x).sin() * (0.2 * y).sin()
            };
            frame.rgb[i * 3..i * 3 + 3].fill(value as u8);
        }
        frame
    };
    Clip::from_frames((0..frames).map(draw).collect(), 8.0, "square")
}

fn run(clip: &Clip, opts: &InspectOptions) -> (tempfile::TempDir, anyhow::Result<InspectReport>) {
    let folder = tempfile::tempdir().unwrap();
    let report = inspect(clip, opts, &folder.path().join("deep/out"));
    (folder, report)
}

#[test]
fn a_moving_square_is_reported_as_it_moves() {
    let (folder, report) = run(&moving_square(9), &InspectOptions::default());
    let report = report.unwrap();
    // The square's edges also uncover ground, which blurs the mean.
    assert!(
        (report.dominant_motion_px_per_frame[0] - 3.0).abs() < 0.6,
        "{report:?}"
    );
    assert!(
        (report.dominant_motion_px_per_frame[1] + 1.0).abs() < 0.4,
        "{report:?}"
    );
    assert_eq!((report.levels, report.suggested_levels), (3, 3));
    assert_eq!(report.frames.len(), 8);
    assert_eq!(report.frames[7].time_secs, 7.0 / 8.0);
    assert!(
        report
            .frames
            .iter()
            .all(|f| f.camera_motion_px[0].abs() < 0.2),
        "{report:?}"
    );
    let names: Vec<&str> = report.bands.iter().map(|b| b.band.as_str()).collect();
    assert_eq!(names, ["A", "D1", "D2", "D3"]);
    assert_eq!(
        report.bands.iter().map(|b| b.frames).collect::<Vec<_>>(),
        [8, 2, 4, 8]
    );
    assert_eq!(report.bands[1].seconds, Some(0.25));
    let shares: f64 = report.bands.iter().map(|b| b.share).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    assert_eq!(report.spectrum.amplitude_share_within_cutoff, 1.0);

    let out = folder.path().join("deep/out");
    let mut found: Vec<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    for file in FILES {
        assert!(
            found.iter().any(|f| f == file),
            "{file} is missing from {found:?}"
        );
    }
    for picture in &report.pictures {
        let image = image::open(out.join(&picture.file)).unwrap();
        assert!(
            image.width() > 96 && image.height() > 20,
            "{}",
            picture.file
        );
        assert!(picture.high > picture.low, "{picture:?}");
    }
    let text = std::fs::read_to_string(out.join("inspect.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["compared_size_px"], serde_json::json!([96, 64]));
    assert_eq!(json["residual"], "signed");
}

#[test]
fn sizes_and_switches_change_what_they_say() {
    let opts = InspectOptions {
        max_side: 48,
        cutoff: Some(0.1),
        levels: Some(1),
        residual: Residual::Abs,
        ..InspectOptions::default()
    };
    let (_folder, report) = run(&moving_square(4), &opts);
    let report = report.unwrap();
    assert_eq!(
        (report.size_px, report.compared_size_px),
        ([96, 64], [48, 32])
    );
    // Told in the clip's own pixels although it was compared at half the size.
    assert!(
        (report.dominant_motion_px_per_frame[0] - 3.0).abs() < 0.9,
        "{report:?}"
    );
    let share = report.spectrum.amplitude_share_within_cutoff;
    assert!(share > 0.0 && share < 1.0, "{share}");
    for (radius, weight) in report
        .spectrum
        .cycles_per_pixel
        .iter()
        .zip(&report.spectrum.weight)
    {
        assert_eq!(*weight == 0.0, *radius > 0.1, "{radius}");
    }
    assert_eq!(report.bands.len(), 2);
}

#[test]
fn still_and_short_clips_work_or_say_why_not() {
    let still = Clip::from_frames(vec![Frame::filled(20, 17, [90, 90, 90]); 2], 8.0, "still");
    let (_folder, report) = run(&still, &InspectOptions::default());
    let report = report.unwrap();
    assert_eq!(report.dominant_motion_px_per_frame, [0.0, 0.0]);
    assert!(
        report
            .bands
            .iter()
            .all(|b| b.energy == 0.0 && b.share == 0.0)
    );
    let refuse = |clip: &Clip, opts: &InspectOptions, words: &str| {
        let (_folder, report) = run(clip, opts);
        let error = report.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let one = Clip::from_frames(vec![Frame::filled(8, 8, [0; 3])], 8.0, "one");
    refuse(&one, &InspectOptions::default(), "at least 2");
    refuse(&Clip::default(), &InspectOptions::default(), "at least 2");
    let mut mixed = moving_square(3);
    mixed.frames[1] = Frame::filled(8, 8, [0; 3]);
    refuse(&mixed, &InspectOptions::default(), "differ in size");
    refuse(
        &still,
        &InspectOptions {
            delta: -1.0,
            ..InspectOptions::default()
        },
        "delta",
    );
    refuse(
        &still,
        &InspectOptions {
            cutoff: Some(0.0),
            ..InspectOptions::default()
        },
        "cutoff",
    );
    refuse(
        &moving_square(4),
        &InspectOptions {
            levels: Some(3),
            ..InspectOptions::default()
        },
        "at most 2",
    );
}
