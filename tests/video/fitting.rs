use proptest::prelude::*;
use spectral_motion::video::resample::{Filter, Region, resize};
use spectral_motion::video::{Clip, Fit, FitMode, Frame, ShortClip, VideoError, fit, natural_cmp};
use std::cmp::Ordering;
use std::ffi::OsStr;

use super::{assert_colour, grey, test_clip, test_frame};

/// The picture that the Pillow and PyTorch values below were computed from.
fn formula_frame(width: u32, height: u32) -> Frame {
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                rgb.push(((x * 37 + y * 91 + c * 53 + x * y * 7) % 256) as u8);
            }
        }
    }
    Frame { width, height, rgb }
}

fn resized(frame: &Frame, width: u32, height: u32, filter: Filter) -> Vec<u8> {
    resize(frame, Region::of(frame), width, height, filter).rgb
}

// Pillow 13.0.0: Image.fromarray(picture).resize((w, h), Image.BILINEAR), with the picture of `formula_frame`.
const PIL_7X5_TO_3X2: [u8; 18] = [
    105, 133, 143, 125, 129, 144, 133, 134, 127, 124, 135, 130, 139, 140, 134, 151, 132, 125,
];
const PIL_7X5_TO_4X5: [u8; 60] = [
    19, 72, 125, 77, 130, 183, 145, 198, 200, 203, 122, 65, 114, 167, 208, 183, 164, 84, 79, 60,
    113, 76, 129, 182, 197, 140, 59, 83, 85, 138, 126, 179, 181, 205, 124, 67, 47, 100, 153, 138,
    191, 172, 193, 113, 94, 91, 132, 185, 142, 183, 126, 172, 91, 93, 107, 160, 162, 208, 127, 70,
];
/// As above with `box=(1.25, 0.5, 6.0, 4.5)`.
const PIL_BOX_TO_3X3: [u8; 27] = [
    119, 164, 143, 141, 109, 135, 97, 138, 137, 128, 103, 130, 115, 133, 155, 142, 159, 122, 143,
    147, 146, 157, 150, 118, 142, 128, 127,
];
/// As above, Image.BICUBIC.
const PIL_BICUBIC_9X6_ROW_0: [u8; 27] = [
    0, 48, 101, 18, 71, 124, 49, 102, 159, 78, 133, 194, 107, 169, 222, 143, 198, 255, 174, 245,
    129, 205, 172, 26, 229, 4, 69,
];
/// PyTorch 2.15.0: `F.interpolate(float picture, (2, 3), mode="bilinear", antialias=True)`.
const TORCH_7X5_TO_3X2: [f64; 18] = [
    104.61, 132.675, 142.455, 125.118, 128.834, 144.187, 133.597, 134.234, 127.39, 124.065,
    134.675, 129.493, 138.979, 139.957, 134.091, 151.545, 132.234, 125.39,
];

#[test]
fn resizing_is_pillows_bit_for_bit() {
    let picture = formula_frame(7, 5);
    assert_eq!(resized(&picture, 3, 2, Filter::Triangle), PIL_7X5_TO_3X2);
    assert_eq!(resized(&picture, 4, 5, Filter::Triangle), PIL_7X5_TO_4X5);
    let region = Region {
        left: 1.25,
        top: 0.5,
        right: 6.0,
        bottom: 4.5,
    };
    assert_eq!(
        resize(&picture, region, 3, 3, Filter::Triangle).rgb,
        PIL_BOX_TO_3X3
    );
    assert_eq!(
        resized(&picture, 9, 6, Filter::Bicubic)[..27],
        PIL_BICUBIC_9X6_ROW_0
    );
    // A large reduction, by its sums: Pillow's picture of 31x17 from 200x131.
    let small = resized(&formula_frame(200, 131), 31, 17, Filter::Triangle);
    let sum: u64 = small.iter().map(|&v| u64::from(v)).sum();
    let moment: u64 = small.iter().zip(0..).map(|(&v, i)| u64::from(v) * i).sum();
    assert_eq!((sum, moment), (201_515, 159_351_909));
}

#[test]
fn resizing_agrees_with_torch_in_floats() {
    let ours = resized(&formula_frame(7, 5), 3, 2, Filter::Triangle);
    for (got, want) in ours.iter().zip(TORCH_7X5_TO_3X2) {
        // We round twice, to a whole level after each pass: half a level each.
        assert!((f64::from(*got) - want).abs() <= 1.0, "{got} is not {want}");
    }
}

fn wanted(frames: usize) -> Fit {
    Fit {
        frames,
        width: 16,
        height: 16,
        fps: None,
        mode: FitMode::Stretch,
        start_secs: 0.0,
        short: ShortClip::Error,
    }
}

/// Which test frame each frame of a clip shows, by the grey of its middle.
fn numbers(clip: &Clip) -> Vec<usize> {
    let number = |f: &Frame| usize::from(f.pixel(f.width / 2, f.height / 2)[0] - grey(0)) / 10;
    clip.frames.iter().map(number).collect()
}

#[test]
fn frames_are_spread_evenly_without_a_rate() {
    let clip = test_clip(15, 16, 16, 10.0);
    let fitted = fit(&clip, &wanted(8)).unwrap();
    assert_eq!(numbers(&fitted.clip), [0, 2, 4, 6, 8, 10, 12, 14]);
    // 8 frames over the 1.4 s from the first to the last.
    assert!((fitted.clip.fps - 5.0).abs() < 1e-9);
    assert_eq!(fitted.clip.times_secs.len(), 8);
    assert!((fitted.clip.times_secs[7] - 1.4).abs() < 1e-9);
    assert!(fitted.notes[0].contains("8 of 15"), "{:?}", fitted.notes);
    // As many as there are: nothing to say.
    let same = fit(&clip, &wanted(15)).unwrap();
    assert_eq!(same.clip.frames, clip.frames);
    assert!(same.notes.is_empty());
}

#[test]
fn a_rate_picks_the_frames_on_screen() {
    let mut clip = test_clip(6, 16, 16, 10.0);
    // Variable rate: 3 quick frames, then slow ones.
    clip.times_secs = vec![0.0, 0.1, 0.2, 0.6, 1.0, 1.4];
    clip.fps = 5.0 / 1.4;
    let fitted = fit(
        &clip,
        &Fit {
            fps: Some(5.0),
            ..wanted(8)
        },
    )
    .unwrap();
    assert_eq!(numbers(&fitted.clip), [0, 2, 2, 3, 3, 4, 4, 5]);
    assert!((fitted.clip.fps - 5.0).abs() < 1e-12);
    assert!(fitted.notes[0].contains("repeated"), "{:?}", fitted.notes);
    let later = Fit {
        fps: Some(5.0),
        start_secs: 0.65,
        ..wanted(4)
    };
    assert_eq!(numbers(&fit(&clip, &later).unwrap().clip), [3, 3, 4, 4]);
}

#[test]
fn a_short_clip_is_refused_or_runs_back() {
    let clip = test_clip(3, 16, 16, 8.0);
    let error = fit(&clip, &wanted(8)).unwrap_err();
    assert!(matches!(error, VideoError::TooShort { have: 3, need: 8 }));
    assert_eq!(error.to_string(), "The clip gives 3 frames; 8 are needed");
    let looped = fit(
        &clip,
        &Fit {
            short: ShortClip::Loop,
            ..wanted(8)
        },
    )
    .unwrap();
    assert_eq!(numbers(&looped.clip), [0, 1, 2, 1, 0, 1, 2, 1]);
    assert!(looped.notes[0].contains("forth and back"));
    let still = test_clip(1, 16, 16, 8.0);
    let looped = fit(
        &still,
        &Fit {
            short: ShortClip::Loop,
            ..wanted(4)
        },
    )
    .unwrap();
    assert_eq!(numbers(&looped.clip), [0; 4]);
    assert!(looped.notes[0].contains("does not move"));
}

#[test]
fn a_start_behind_the_end_is_refused() {
    let clip = test_clip(8, 16, 16, 8.0);
    let beyond = Fit {
        start_secs: 1.0,
        ..wanted(1)
    };
    let error = fit(&clip, &beyond).unwrap_err();
    assert!(
        matches!(error, VideoError::StartBeyondEnd { .. }),
        "{error}"
    );
    let last = Fit {
        start_secs: 0.99,
        ..wanted(1)
    };
    assert_eq!(numbers(&fit(&clip, &last).unwrap().clip), [7]);
}

#[test]
fn shapes_are_cropped_framed_or_stretched() {
    let frame = test_frame(5, 64, 32);
    let clip = Clip::from_frames(vec![frame], 8.0, "wide");
    let run = |mode| {
        let fitted = fit(&clip, &Fit { mode, ..wanted(1) }).unwrap();
        let [note] = fitted.notes.try_into().unwrap();
        (fitted.clip.frames[0].clone(), note)
    };
    // The middle 32x32 of 64x32 holds the grey block over its whole width.
    let (cropped, note) = run(FitMode::Crop);
    // (The outermost column also sees a little of what was cut, since the kernel is two pixels wide.)
    assert_colour(&cropped, 1, 8, [grey(5); 3], 1);
    assert_colour(&cropped, 14, 8, [grey(5); 3], 1);
    assert!(note.contains("50% of the width"), "{note}");
    // Framed: 16x8 of 16x16, so that rows 0 to 3 are black and row 4 is the top of the picture.
    let (framed, note) = run(FitMode::Contain);
    assert_colour(&framed, 0, 3, [0; 3], 0);
    assert_colour(&framed, 0, 4, super::CORNERS[0], 1);
    assert_colour(&framed, 15, 12, [0; 3], 0);
    assert!(note.contains("16x8"), "{note}");
    let (stretched, note) = run(FitMode::Stretch);
    assert_colour(&stretched, 15, 15, super::CORNERS[3], 1);
    assert!(note.contains("Stretched"), "{note}");
}

#[test]
fn settings_and_clips_that_mean_nothing_are_named() {
    let clip = test_clip(2, 4, 4, 8.0);
    let cases = [
        Fit {
            width: 0,
            ..wanted(1)
        },
        Fit {
            height: 100_000,
            ..wanted(1)
        },
        wanted(0),
        wanted(usize::MAX),
        Fit {
            fps: Some(f64::NAN),
            ..wanted(1)
        },
        Fit {
            fps: Some(0.0),
            ..wanted(1)
        },
        Fit {
            start_secs: -1.0,
            ..wanted(1)
        },
        Fit {
            start_secs: f64::INFINITY,
            ..wanted(1)
        },
    ];
    for case in cases {
        let error = fit(&clip, &case).unwrap_err();
        assert!(matches!(error, VideoError::BadSetting { .. }), "{case:?}");
    }
    let mut broken = clip.clone();
    broken.frames[1].rgb.pop();
    let mut untimed = clip.clone();
    untimed.times_secs.pop();
    let mut unordered = clip;
    unordered.times_secs = vec![1.0, 0.0];
    for clip in [Clip::default(), broken, untimed, unordered] {
        let error = fit(&clip, &wanted(1)).unwrap_err();
        assert!(matches!(error, VideoError::BadClip { .. }), "{error}");
    }
}

#[test]
fn names_are_counted_as_people_count() {
    let mut names = [
        "f10.png", "f2.png", "F1.png", "f02.png", "a", "f2b", "f.png",
    ];
    names.sort_by(|a, b| natural_cmp(OsStr::new(a), OsStr::new(b)));
    assert_eq!(
        names,
        [
            "a", "f.png", "F1.png", "f02.png", "f2.png", "f2b", "f10.png"
        ]
    );
}

proptest! {
    #[test]
    fn any_clip_fits_any_size_or_says_why(
        sizes in prop::collection::vec((1u32..40, 1u32..40), 1..6),
        (frames, width, height) in (1usize..20, 1u32..50, 1u32..50),
        fps in prop::option::of(0.05f64..200.0),
        start_secs in 0.0f64..2.0,
        mode in prop::sample::select(vec![FitMode::Crop, FitMode::Contain, FitMode::Stretch]),
        rate in 0.1f64..100.0,
    ) {
        let made = sizes.iter().enumerate().map(|(i, &(w, h))| test_frame(i, w, h)).collect();
        let clip = Clip::from_frames(made, rate, "any");
        let want = Fit { frames, width, height, fps, mode, start_secs, short: ShortClip::Loop };
        match fit(&clip, &want) {
            Ok(fitted) => {
                prop_assert_eq!(fitted.clip.frames.len(), frames);
                prop_assert!(fitted.clip.frames.iter().all(|f| f.is_valid() && (f.width, f.height) == (width, height)));
                prop_assert!(fitted.clip.fps.is_finite() && fitted.clip.fps > 0.0);
            }
            Err(error) => prop_assert!(matches!(error, VideoError::StartBeyondEnd { .. }), "{}", error),
        }
    }

    #[test]
    fn natural_order_is_total(a in "[aB0-9.]{0,6}", b in "[aB0-9.]{0,6}", c in "[aB0-9.]{0,6}") {
        let cmp = |x: &str, y: &str| natural_cmp(OsStr::new(x), OsStr::new(y));
        prop_assert_eq!(cmp(&a, &b), cmp(&b, &a).reverse());
        prop_assert_eq!(cmp(&a, &b) == Ordering::Equal, a == b);
        if cmp(&a, &b).is_le() && cmp(&b, &c).is_le() {
            prop_assert!(cmp(&a, &c).is_le());
        }
    }
}
