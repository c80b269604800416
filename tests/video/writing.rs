use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use spectral_motion::video::{
    self, Clip, ExportFormat, ExportOptions, Frame, MAX_RECIPE_BYTES, RecipePlace, ScaleTo,
    Upscale, VideoError, read_recipe,
};

use super::{assert_is_test_frame, in_folder, plain, read, test_clip, test_frame, write};

const RECIPE: &str = r#"{"prompt":"a cat with \"quotes\" and ümläuts ✓","seed":42}"#;

fn with_recipe() -> ExportOptions {
    ExportOptions {
        recipe: Some(RECIPE.into()),
        ..plain()
    }
}

/// Endings this build writes.
fn endings() -> &'static [&'static str] {
    if cfg!(feature = "video") {
        &["out.mp4", "out.webm", "out.gif", "out"]
    } else {
        &["out.gif", "out"]
    }
}

/// Names of everything in a folder, hidden files included.
fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn every_format_gives_back_frames_and_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let clip = test_clip(7, 64, 48, 8.0);
    for name in endings() {
        let (path, _) = in_folder(&folder, name);
        let report = write(&clip, &path, &with_recipe()).unwrap();
        assert_eq!((report.frames, report.width, report.height), (7, 64, 48));
        assert!(report.notes.is_empty(), "{name}: {:?}", report.notes);
        if *name == "out" {
            assert_eq!(
                report.recipe_in,
                RecipePlace::File(path.join("recipe.json"))
            );
        } else {
            assert_eq!(report.recipe_in, RecipePlace::Metadata);
        }
        assert_eq!(
            read_recipe(&path).unwrap().as_deref(),
            Some(RECIPE),
            "{name}"
        );
        let back = read(&path).unwrap();
        assert_eq!(back.frames.len(), 7, "{name}");
        assert!((back.fps - 8.0).abs() < 0.1, "{name}: {}", back.fps);
        for (i, frame) in back.frames.iter().enumerate() {
            // Lossy codecs at their best quality: flat colours move by the rounding of 8-bit YUV and a little more.
            assert_is_test_frame(frame, i, 8);
        }
    }
    assert_eq!(listing(folder.path()), {
        let mut names = endings().to_vec();
        names.sort();
        names
    });
}

#[test]
fn a_file_without_a_recipe_has_none() {
    let folder = tempfile::tempdir().unwrap();
    for name in endings() {
        let (path, _) = in_folder(&folder, name);
        let report = write(&test_clip(2, 32, 32, 8.0), &path, &plain()).unwrap();
        assert_eq!(report.recipe_in, RecipePlace::Nowhere);
        assert_eq!(read_recipe(&path).unwrap(), None, "{name}");
    }
}

#[test]
fn recipes_have_a_size_and_a_form() {
    let folder = tempfile::tempdir().unwrap();
    let clip = test_clip(2, 32, 32, 8.0);
    let filler = "x".repeat(MAX_RECIPE_BYTES - 8);
    let largest = format!("{{\"a\":\"{filler}\"}}");
    assert_eq!(largest.len(), MAX_RECIPE_BYTES);
    for name in endings() {
        let (path, _) = in_folder(&folder, name);
        let recipe = |text: &str| ExportOptions {
            recipe: Some(text.into()),
            ..plain()
        };
        write(&clip, &path, &recipe(&largest)).unwrap();
        assert_eq!(
            read_recipe(&path).unwrap().as_deref(),
            Some(largest.as_str()),
            "{name}"
        );
        let other = path.with_file_name(format!("other-{name}"));
        let error = write(&clip, &other, &recipe(&format!("{largest} "))).unwrap_err();
        assert!(
            matches!(error, VideoError::RecipeTooLarge { .. }),
            "{error}"
        );
        for text in ["", "a comment", "[1]", "{\"a\":1}\0"] {
            let error = write(&clip, &other, &recipe(text)).unwrap_err();
            assert!(
                matches!(error, VideoError::BadSetting { .. }),
                "{text:?}: {error}"
            );
        }
        assert!(!other.exists());
    }
}

#[test]
fn a_recipe_file_beyond_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("recipe.json"),
        vec![b' '; MAX_RECIPE_BYTES * 2],
    )
    .unwrap();
    let error = read_recipe(folder.path()).unwrap_err();
    assert!(
        matches!(error, VideoError::RecipeTooLarge { .. }),
        "{error}"
    );
}

#[test]
fn nothing_is_overwritten_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let clip = test_clip(2, 32, 32, 8.0);
    for name in endings().iter().filter(|n| n.contains('.')) {
        let (path, _) = in_folder(&folder, name);
        fs::write(&path, "mine").unwrap();
        let error = write(&clip, &path, &plain()).unwrap_err();
        assert!(matches!(error, VideoError::TargetExists { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        write(
            &clip,
            &path,
            &ExportOptions {
                overwrite: true,
                ..plain()
            },
        )
        .unwrap();
        assert_eq!(read(&path).unwrap().frames.len(), 2);
    }
    let (frames, _) = in_folder(&folder, "frames");
    let replace = ExportOptions {
        overwrite: true,
        ..with_recipe()
    };
    write(&test_clip(5, 32, 32, 8.0), &frames, &replace).unwrap();
    assert!(matches!(
        write(&clip, &frames, &plain()),
        Err(VideoError::TargetExists { .. })
    ));
    write(&clip, &frames, &replace).unwrap();
    assert_eq!(
        listing(&frames),
        ["frame-0001.png", "frame-0002.png", "recipe.json"]
    );
    // A folder with anything else in it is never touched.
    fs::write(frames.join("thesis.txt"), "mine").unwrap();
    let error = write(&clip, &frames, &replace).unwrap_err();
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    assert_eq!(listing(&frames).len(), 4);
}

#[test]
fn a_cancelled_export_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clip = test_clip(6, 64, 48, 8.0);
    for name in endings() {
        let (path, _) = in_folder(&folder, name);
        let mut seen = Vec::new();
        let result = video::export(
            &clip,
            &path,
            ExportFormat::from_path(&path).unwrap(),
            &plain(),
            &mut |done, total| {
                seen.push((done, total));
                if done == 3 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        assert!(matches!(result, Err(VideoError::Cancelled)), "{name}");
        assert_eq!(seen.last(), Some(&(3, 6)), "stops at once");
        assert_eq!(listing(folder.path()), Vec::<String>::new(), "{name}");
    }
}

/// A program that was killed may have had the same number as this one.
#[test]
fn what_a_killed_export_left_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    // Far more names than the other tests of this program take.
    for count in 0..20_000 {
        let left = format!(".film.gif.part-{}-{count}", std::process::id());
        fs::write(folder.path().join(left), "half").unwrap();
    }
    let (path, _) = in_folder(&folder, "film.gif");
    write(&test_clip(2, 16, 16, 8.0), &path, &ExportOptions::default()).unwrap();
    assert_eq!(read(&path).unwrap().frames.len(), 2);
}

#[test]
fn small_frames_are_enlarged_by_a_whole_factor() {
    let folder = tempfile::tempdir().unwrap();
    let clip = test_clip(1, 48, 40, 8.0);
    let scaled = |min_side, upscale| ExportOptions {
        scale_to: Some(ScaleTo { min_side, upscale }),
        ..plain()
    };
    let (path, _) = in_folder(&folder, "nearest");
    let report = write(&clip, &path, &scaled(100, Upscale::Nearest)).unwrap();
    // 40 reaches 100 with a factor of 3.
    assert_eq!((report.width, report.height), (144, 120));
    assert_eq!(report.notes, ["Enlarged 3 times for watching."]);
    let large = &read(&path).unwrap().frames[0];
    for (x, y) in [(0, 0), (35, 29), (36, 30), (143, 119), (71, 60)] {
        assert_eq!(large.pixel(x, y), clip.frames[0].pixel(x / 3, y / 3));
    }
    let (path, _) = in_folder(&folder, "smooth");
    write(&clip, &path, &scaled(100, Upscale::Smooth)).unwrap();
    let smooth = &read(&path).unwrap().frames[0];
    assert_is_test_frame(smooth, 0, 0);
    assert_ne!(smooth, large);
    // Frames that are large enough stay as they are.
    let (path, _) = in_folder(&folder, "same");
    let report = write(&clip, &path, &scaled(40, Upscale::Smooth)).unwrap();
    assert_eq!((report.width, report.height), (48, 40));
}

#[test]
fn a_gif_of_many_colours_shares_one_palette() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = in_folder(&folder, "many.gif");
    let ramp = |i: u32| {
        let mut frame = Frame::filled(64, 64, [0; 3]);
        for (at, pixel) in frame.rgb.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (x, y) = (at as u32 % 64, at as u32 / 64);
            *pixel = [(x * 4) as u8, (y * 4) as u8, (i * 40) as u8];
        }
        frame
    };
    let clip = Clip::from_frames((0..4).map(ramp).collect(), 10.0, "ramp");
    write(&clip, &path, &plain()).unwrap();
    let back = read(&path).unwrap();
    let colours: HashSet<[u8; 3]> = back
        .frames
        .iter()
        .flat_map(|f| f.rgb.as_chunks::<3>().0.to_vec())
        .collect();
    assert!(colours.len() <= 256, "{}", colours.len());
    let pairs = clip
        .frames
        .iter()
        .flat_map(|f| &f.rgb)
        .zip(back.frames.iter().flat_map(|f| &f.rgb));
    let squares: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    let rms = (squares / (4.0 * 64.0 * 64.0 * 3.0)).sqrt();
    // 16384 colours in a box of 256 x 256 x 120 shared by 256 cells: cells of about 31 levels a side, 31 / sqrt(12) = 9
    // without dithering, which adds about as much again in quadrature.
    assert!(rms < 13.0, "{rms}");
}

#[test]
fn names_that_say_no_format_are_refused() {
    for name in ["film.avi", "film.png", "film.mp3"] {
        let error = ExportFormat::from_path(Path::new(name)).unwrap_err();
        assert!(matches!(error, VideoError::UnknownFormat { .. }), "{name}");
    }
    assert_eq!(
        ExportFormat::from_path(Path::new("A.MP4")).unwrap(),
        ExportFormat::Mp4
    );
}

#[test]
fn clips_and_rates_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let clip = test_clip(1, 16, 16, 8.0);
    let mut broken = clip.clone();
    broken.frames[0].rgb.pop();
    for name in endings() {
        let (path, _) = in_folder(&folder, name);
        for bad in [&Clip::default(), &broken] {
            assert!(matches!(
                write(bad, &path, &plain()),
                Err(VideoError::BadClip { .. })
            ));
        }
        for fps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            let options = ExportOptions {
                fps: Some(fps),
                ..plain()
            };
            assert!(matches!(
                write(&clip, &path, &options),
                Err(VideoError::BadSetting { .. })
            ));
        }
    }
    let nowhere = folder.path().join("no/such/folder/out.gif");
    assert!(write(&clip, &nowhere, &plain()).is_err());
    assert_eq!(listing(folder.path()), Vec::<String>::new());
}

#[cfg(feature = "video")]
#[test]
fn odd_sizes_are_padded() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["odd.mp4", "odd.webm"] {
        let (path, _) = in_folder(&folder, name);
        let report = write(&test_clip(3, 63, 47, 8.0), &path, &plain()).unwrap();
        assert!(report.notes[0].contains("64x48"), "{:?}", report.notes);
        let back = read(&path).unwrap();
        assert_eq!(back.size(), (64, 48));
        assert_is_test_frame(&back.frames[2], 2, 8);
        // The padding repeats the edge.
        super::assert_colour(&back.frames[0], 63, 47, super::CORNERS[3], 8);
    }
}

#[cfg(feature = "video")]
#[test]
fn without_h264_the_film_becomes_mpeg4_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let clip = test_clip(4, 64, 48, 8.0);
    let with = |encoder: &str| ExportOptions {
        encoder: Some(encoder.into()),
        ..with_recipe()
    };
    let (path, _) = in_folder(&folder, "old.mp4");
    let report = write(&clip, &path, &with("mpeg4")).unwrap();
    assert_eq!(report.encoder, "mpeg4");
    assert!(report.notes[0].contains("mpeg4"), "{:?}", report.notes);
    assert_is_test_frame(&read(&path).unwrap().frames[3], 3, 12);
    assert_eq!(read_recipe(&path).unwrap().as_deref(), Some(RECIPE));
    // An encoder that is not there is passed over with a note.
    let (path, _) = in_folder(&folder, "other.mp4");
    let report = write(&clip, &path, &with("no_such_encoder")).unwrap();
    assert_ne!(report.encoder, "no_such_encoder");
    assert!(
        report.notes[0].contains("no_such_encoder"),
        "{:?}",
        report.notes
    );
}

#[cfg(feature = "video")]
#[test]
fn other_programs_see_the_recipe_and_the_rate() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["seen.mp4", "seen.webm", "seen.gif"] {
        let (path, text) = in_folder(&folder, name);
        let options = ExportOptions {
            fps: Some(12.5),
            ..with_recipe()
        };
        write(&test_clip(5, 32, 32, 8.0), &path, &options).unwrap();
        let output = std::process::Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-count_frames",
                "-show_entries",
                "format_tags:stream=nb_read_frames,avg_frame_rate",
            ])
            .arg(text)
            .output()
            .expect("the ffprobe program is missing; run ./x setup");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("nb_read_frames=5"), "{name}: {said}");
        assert!(said.contains("avg_frame_rate=25/2"), "{name}: {said}");
        if name != "seen.gif" {
            // FFmpeg's GIF reader looks for a comment at the front only.
            assert!(
                said.to_lowercase()
                    .contains(&format!("tag:comment={}", RECIPE.to_lowercase())),
                "{name}: {said}"
            );
        }
    }
}

#[cfg(feature = "video")]
#[test]
fn a_strangers_comment_is_no_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let (path, text) = in_folder(&folder, "stranger.mp4");
    let source = super::png_source(folder.path(), 2, 32, 32);
    super::ffmpeg(&["-i", &source, "-metadata", "comment=holiday", &text]);
    assert_eq!(read_recipe(&path).unwrap(), None);
    // A comment beyond the limit, inside a film.
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_RECIPE_BYTES));
    let metadata = folder.path().join("huge.txt");
    fs::write(&metadata, format!(";FFMETADATA1\ncomment={huge}\n")).unwrap();
    super::ffmpeg(&[
        "-i",
        &source,
        "-i",
        metadata.to_str().unwrap(),
        "-map_metadata",
        "1",
        &text,
    ]);
    assert!(matches!(
        read_recipe(&path),
        Err(VideoError::RecipeTooLarge { .. })
    ));
    // One that is not UTF-8.
    super::ffmpeg(&[
        "-i",
        &source,
        "-metadata",
        "comment={\"a\":\"MARKER\"}",
        &text,
    ]);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|w| w == b"MARKER").unwrap();
    bytes[at..at + 2].copy_from_slice(&[0xFF, 0xFE]);
    fs::write(&path, bytes).unwrap();
    let recipe = read_recipe(&path).unwrap().unwrap();
    assert!(recipe.contains("\u{fffd}RKER"), "{recipe}");
}

#[test]
fn the_test_frame_is_what_it_says() {
    assert_is_test_frame(&test_frame(4, 64, 48), 4, 0);
}
