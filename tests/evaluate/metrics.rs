//! Every number of a scorecard against a closed form.

use std::f64::consts::PI;

use spectral_motion::evaluate::drawn::to_pixels;
use spectral_motion::evaluate::{
    Cell, CellResult, Colour, Known, METRICS, Scene, ScoreError, Scorecard, Shape, Summary,
    Training, csv, lines, look, score, spectrum_score,
};
use spectral_motion::video::Frame;

use super::{clip, film};

const SIZE: (u32, u32) = (64, 64);

fn near(got: Option<f64>, want: f64, tolerance: f64, what: &str) {
    let got = got.unwrap_or_else(|| panic!("{what} is not known"));
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: got {got}, want {want}"
    );
}

fn known<'a>(wanted: Scene, shown: Scene, path: &'a [(f64, f64)]) -> Known<'a> {
    Known {
        wanted,
        shown,
        path: Some(path),
        other_path: None,
    }
}

#[test]
fn a_film_against_itself_is_alike_in_everything() {
    let clip = clip();
    let frames = clip.frames(SIZE);
    let card = score(&frames, &frames, &known(clip.edit, clip.scene, &clip.path)).unwrap();
    // The words ask for another look, and everything of the old one is there.
    assert_eq!(
        (
            card.agreement.colour,
            card.agreement.shape,
            card.agreement.ground
        ),
        (Some(0.0), Some(0.0), Some(0.0))
    );
    let leak = card.leakage;
    assert_eq!(
        (leak.colour, leak.shape, leak.ground, leak.mean),
        (Some(1.0), Some(1.0), Some(1.0), Some(1.0))
    );
    assert_eq!(card.path, None, "no subject of the asked colour");
    near(Some(leak.palette), 1.0, 1e-9, "palette");
    // Sums of the same products on both sides: only rounding is left.
    near(card.fidelity, 1.0, 1e-9, "fidelity");
    near(card.pace, 1.0, 1e-9, "pace");
    near(card.spectrum.band_distance, 0.0, 1e-9, "bands");
    near(card.spectrum.ring_distance, 0.0, 1e-9, "rings");
    let shares = |parts: &[spectral_motion::evaluate::SpectrumPart]| {
        parts.iter().map(|part| part.reference_share).sum::<f64>()
    };
    near(
        Some(shares(&card.spectrum.bands)),
        1.0,
        1e-9,
        "Parseval along time",
    );
    near(
        Some(shares(&card.spectrum.rings)),
        1.0,
        1e-9,
        "Parseval in the plane",
    );

    // Asked for what it shows.
    let card = score(&frames, &frames, &known(clip.scene, clip.scene, &clip.path)).unwrap();
    assert_eq!(
        (
            card.agreement.colour,
            card.agreement.shape,
            card.agreement.ground
        ),
        (Some(1.0), Some(1.0), Some(1.0))
    );
    assert_eq!(card.leakage.mean, None, "nothing was to change");
    assert!(card.path_is_true);
    let path = card.path.unwrap();
    assert_eq!(path.missing, 0);
    // A pixel of the edge counts as a whole or not at all: a square's straight sides move its middle by up to half a pixel.
    near(path.mean_error_px, 0.0, 0.3, "the truth");
    near(path.corr, 1.0, 1e-3, "the truth");
    // Without the truth the reference's own track is followed: exactly, by itself.
    let own = Known {
        path: None,
        ..known(clip.scene, clip.scene, &clip.path)
    };
    let card = score(&frames, &frames, &own).unwrap();
    assert!(!card.path_is_true);
    assert_eq!(card.path.unwrap().mean_error_px, Some(0.0));
}

#[test]
fn the_same_motion_of_another_subject_follows_and_leaks_nothing() {
    let clip = clip();
    let reference = film(clip.scene, &clip.path, SIZE);
    let result = film(clip.edit, &clip.path, SIZE);
    let other: Vec<_> = clip.other_path.clone();
    let known = Known {
        other_path: Some(&other),
        ..known(clip.edit, clip.scene, &clip.path)
    };
    let card = score(&reference, &result, &known).unwrap();
    assert_eq!(
        (
            card.agreement.colour,
            card.agreement.shape,
            card.agreement.ground
        ),
        (Some(1.0), Some(1.0), Some(1.0))
    );
    assert_eq!(card.leakage.mean, Some(0.0));
    assert_eq!(card.leakage.palette, 0.0, "no colour in common");
    near(card.path.unwrap().corr, 1.0, 2e-3, "path");
    near(card.path.unwrap().mean_error_px, 0.0, 0.2, "path");
    let null = card.other_path.unwrap().corr.unwrap();
    assert!(null.abs() < 0.35, "another path is another path: {null}");
    // Another outline has other residuals; the same film backwards has all of them at the wrong times.
    let backwards: Vec<Frame> = result.iter().rev().cloned().collect();
    let turned = score(&reference, &backwards, &known).unwrap();
    for (forward, back, what) in [
        (
            card.spectrum.band_distance,
            turned.spectrum.band_distance,
            "bands",
        ),
        (
            card.spectrum.ring_distance,
            turned.spectrum.ring_distance,
            "rings",
        ),
    ] {
        assert!(
            forward.unwrap() < back.unwrap(),
            "{what}: {forward:?} {back:?}"
        );
    }
    assert!(
        card.fidelity.unwrap() > turned.fidelity.unwrap() + 0.1,
        "{:?} {:?}",
        card.fidelity,
        turned.fidelity
    );
}

#[test]
fn a_moved_path_has_that_error_and_a_mirrored_one_the_opposite_motion() {
    let clip = clip();
    let moved: Vec<_> = clip.path.iter().map(|(x, y)| (x + 1.5, y - 2.0)).collect();
    let card = score(
        &film(clip.scene, &clip.path, SIZE),
        &film(clip.edit, &moved, SIZE),
        &known(clip.edit, clip.scene, &clip.path),
    )
    .unwrap();
    // sqrt(1.5^2 + 2^2); a tenth for what pixels do to a centroid.
    near(
        card.path.unwrap().mean_error_px,
        2.5,
        0.15,
        "moved by 1.5 and -2 px",
    );
    near(card.path.unwrap().corr, 1.0, 2e-3, "moved");
    let mirrored: Vec<_> = clip.path.iter().map(|(x, y)| (64.0 - x, *y)).collect();
    let card = score(
        &film(clip.scene, &clip.path, SIZE),
        &film(clip.edit, &mirrored, SIZE),
        &known(clip.edit, clip.scene, &clip.path),
    )
    .unwrap();
    let path = card.path.unwrap();
    near(path.corr_x, -1.0, 2e-3, "mirrored x");
    near(path.corr_y, 1.0, 2e-3, "y as it was");
    // Both together: the difference of the two spreads over their sum.
    let spread = |axis: fn(&(f64, f64)) -> f64| {
        let values: Vec<f64> = clip.path.iter().map(axis).collect();
        let mean = values.iter().sum::<f64>() / 8.0;
        values.iter().map(|v| (v - mean).powi(2)).sum::<f64>()
    };
    let (x, y) = (spread(|p| p.0), spread(|p| p.1));
    near(path.corr, (y - x) / (y + x), 5e-3, "both axes");
}

#[test]
fn places_count_in_pixels_of_any_size() {
    let clip = clip();
    let size = (120, 90);
    let path: Vec<_> = clip
        .path
        .iter()
        .map(|place| to_pixels(*place, size))
        .collect();
    let frames = film(clip.scene, &clip.path, size);
    let card = score(&frames, &frames, &known(clip.scene, clip.scene, &path)).unwrap();
    assert_eq!(card.size_px, [120, 90]);
    near(
        card.path.unwrap().mean_error_px,
        0.0,
        0.15,
        "the truth in pixels",
    );
    assert_eq!(card.agreement.shape, Some(1.0));
}

/// Motion vectors `a[t] cos(2 pi 8 x / 64)`: one ring, and what `a` is along time.
fn waves(a: &[f64]) -> Vec<Vec<f32>> {
    let plane = |a: &f64| {
        let wave = |i: usize| a * (2.0 * PI * 8.0 * (i % 64) as f64 / 64.0).cos();
        (0..64 * 64).map(|i| wave(i) as f32).collect()
    };
    a.iter().map(plane).collect()
}

#[test]
fn known_spectra_lie_where_they_should() {
    let steady = waves(&[0.2; 8]);
    let flicker = waves(&[0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, -0.1]);
    let found = spectrum_score(&steady, &flicker, (64, 64));
    let band = |name: &str| found.bands.iter().find(|band| band.name == name).unwrap();
    // Haar: a constant is all approximation, an alternation all of the finest detail.
    near(Some(band("A").reference_share), 1.0, 1e-9, "steady");
    near(Some(band("D1").result_share), 1.0, 1e-9, "flicker");
    assert_eq!(
        (band("A").distance, band("D1").distance),
        (Some(1.0), Some(1.0))
    );
    near(
        found.band_distance,
        1.0,
        1e-9,
        "nothing in common along time",
    );
    // 8 cycles in 64 pixels are 0.125 cycles per pixel: the first radius of the fourth ring. The same wave at another
    // strength is the same shape of spectrum.
    assert_eq!(found.rings[3].name, "0.125-0.250");
    near(Some(found.rings[3].reference_share), 1.0, 1e-9, "ring");
    near(found.rings[3].distance, 0.0, 1e-6, "ring");
    near(found.ring_distance, 0.0, 1e-6, "the same wave in the plane");

    let still = waves(&[0.0; 8]);
    let found = spectrum_score(&still, &steady, (64, 64));
    assert_eq!(
        (found.band_distance, found.ring_distance),
        (None, None),
        "a still reference weighs nothing"
    );
    assert_eq!(found.bands[0].distance, Some(1.0));
    let found = spectrum_score(&still, &still, (64, 64));
    assert!(
        found
            .bands
            .iter()
            .chain(&found.rings)
            .all(|part| part.distance.is_none())
    );
}

#[test]
fn pace_is_the_overlap_of_energy_over_time() {
    let flat = |value: u8| Frame::filled(16, 16, [value; 3]);
    // One jump against four equal steps: a quarter in common.
    let jump = [0, 80, 80, 80, 80].map(flat);
    let even = [0, 20, 40, 60, 80].map(flat);
    let card = score(&even, &jump, &Known::default()).unwrap();
    near(card.pace, 0.25, 1e-6, "jump");
    let still = [40; 5].map(flat);
    assert_eq!(score(&even, &still, &Known::default()).unwrap().pace, None);
}

#[test]
fn what_cannot_be_known_is_not_said() {
    // Noise has neither ground nor subject.
    let mut dice = spectral_motion::evaluate::Dice::new(9);
    let noise: Vec<Frame> = (0..4)
        .map(|_| Frame {
            width: 32,
            height: 24,
            rgb: (0..32 * 24 * 3)
                .map(|_| dice.within(0.0, 256.0) as u8)
                .collect(),
        })
        .collect();
    let scene = Scene::of_words("a red circle on a green background");
    let asked = Known {
        wanted: scene,
        ..Known::default()
    };
    let card = score(&noise, &noise, &asked).unwrap();
    assert_eq!(
        (card.path, card.agreement.colour, card.agreement.shape),
        (None, None, None)
    );
    assert_eq!(card.leakage.mean, None);
    let said = lines(&card);
    assert!(
        said.iter()
            .all(|line| line.title != "Motion follows the reference"),
        "{said:?}"
    );
    assert!(said.iter().all(|line| line.meaning.ends_with('.')));

    assert_eq!(
        score(&noise[..1], &noise[..1], &Known::default()),
        Err(ScoreError::TooFew { frames: 1 })
    );
    let uneven = ScoreError::Frames {
        reference: 4,
        result: 3,
    };
    assert_eq!(score(&noise, &noise[..3], &Known::default()), Err(uneven));
    let small = vec![Frame::filled(8, 8, [0; 3]); 4];
    assert_eq!(
        score(&noise, &small, &Known::default()),
        Err(ScoreError::Sizes)
    );
    assert_eq!(look(&Frame::default()), None);
}

#[test]
fn colours_and_grounds_are_told_apart() {
    for colour in Colour::HUES {
        for ground in Colour::ALL.into_iter().filter(|ground| *ground != colour) {
            let scene = Scene {
                colour: Some(colour),
                shape: Some(Shape::Square),
                ground: Some(ground),
            };
            let frame = &film(scene, &[(30.0, 34.0)], SIZE)[0];
            let seen = look(frame).unwrap();
            assert!(seen.is_plain);
            assert_eq!(seen.ground, ground);
            let subject = seen.subject.unwrap_or_else(|| panic!("no {scene}"));
            assert_eq!(subject.colour(), Some(colour), "{scene}: {:?}", subject.rgb);
            let (x, y) = subject.centre;
            assert!((x - 30.0).hypot(y - 34.0) < 0.1, "{scene}: ({x}, {y})");
        }
    }
}

fn result(clip: u64, training: Training, start: &str, card: &Scorecard) -> CellResult {
    let method = (training != Training::None).then(|| "vmc".to_owned());
    CellResult {
        cell: Cell {
            clip,
            seed: 1,
            method,
            training,
        },
        secs: 2.0,
        samples: vec![(start.to_owned(), card.clone())],
    }
}

#[test]
fn a_table_has_means_and_intervals_of_its_rows() {
    let clip = clip();
    let frames = clip.frames(SIZE);
    let good = score(&frames, &frames, &known(clip.scene, clip.scene, &clip.path)).unwrap();
    let mut lost = good.clone();
    lost.path = None;
    lost.fidelity = Some(0.0);
    let results = [
        result(1, Training::Both, "noise", &good),
        result(2, Training::Both, "noise", &lost),
        result(1, Training::None, "inverted", &good),
    ];
    let summary = Summary::of(&results);
    let rows: Vec<_> = summary
        .rows
        .iter()
        .map(|row| (row.start.as_str(), row.training, row.cells))
        .collect();
    assert_eq!(
        rows,
        [
            ("inverted", Training::None, 1),
            ("noise", Training::Both, 2)
        ]
    );
    let value = |row: usize, key: &str| {
        let found = summary.rows[row]
            .values
            .iter()
            .find(|(name, _)| name == key);
        found.unwrap().1
    };
    // Values 1 and 0: mean 1/2, deviation sqrt(1/2), t(0.975, 1) = 12.7062: half width 12.7062 / 2.
    let fidelity = value(1, "fidelity").unwrap();
    assert!(
        (fidelity.mean - 0.5).abs() < 1e-9 && (fidelity.half.unwrap() - 6.3531).abs() < 1e-3,
        "{fidelity:?}"
    );
    assert_eq!(
        value(1, "path_corr").unwrap().n,
        1,
        "a lost subject has no correlation"
    );
    near(
        value(1, "lost_share").map(|lost| lost.mean),
        0.5,
        1e-9,
        "but it is counted",
    );
    assert_eq!(value(0, "fidelity").unwrap().half, None);
    let text = summary.markdown();
    assert!(
        text.contains("| noise | vmc | + both | 2 |") && text.contains("(1)"),
        "{text}"
    );
    let columns = |line: &str| line.matches('|').count();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert!(
        lines.len() == 4 && lines.iter().all(|line| columns(line) == columns(lines[0])),
        "{text}"
    );
    let table = csv(&results);
    let fields: Vec<usize> = table.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(fields, [6 + METRICS.len(); 4]);
    let again: Vec<CellResult> =
        serde_json::from_str(&serde_json::to_string(&results).unwrap()).unwrap();
    assert_eq!(again, results, "what is written is what is read");
}
