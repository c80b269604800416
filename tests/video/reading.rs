use std::cell::Cell;
use std::fs;
use std::path::Path;

use spectral_motion::video::{self, ClipKind, Fit, FitMode, Limits, ShortClip, VideoError};

use super::{
    CORNERS, assert_colour, assert_is_test_frame, ffmpeg, grey, in_folder, plain, png_source, read,
    test_clip, write,
};

/// Makes a film from test frames with the `ffmpeg` program.
fn film(
    folder: &tempfile::TempDir,
    name: &str,
    frames: usize,
    size: (u32, u32),
    options: &[&str],
) -> std::path::PathBuf {
    let source = png_source(folder.path(), frames, size.0, size.1);
    fs::create_dir_all(folder.path()).unwrap();
    let (path, text) = in_folder(folder, name);
    let mut args = vec!["-framerate", "8", "-i", &source];
    args.extend_from_slice(options);
    args.push(&text);
    ffmpeg(&args);
    fs::remove_dir_all(folder.path().join("source")).unwrap();
    path
}

fn limited(path: &Path, limits: &Limits) -> Result<video::Clip, VideoError> {
    video::load(path, limits, &|| false)
}

#[test]
fn containers_and_codecs_of_all_sorts_are_read() {
    let folder = tempfile::tempdir().unwrap();
    // Name, encoder options, tolerance in levels: lossless, or a good lossy quality.
    let cases: [(&str, &[&str], u8); 8] = [
        (
            "h264.mkv",
            &["-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p"],
            8,
        ),
        (
            "bframes.mp4",
            &[
                "-c:v", "libx264", "-crf", "10", "-bf", "3", "-pix_fmt", "yuv420p",
            ],
            8,
        ),
        (
            "vp9.webm",
            &["-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0"],
            8,
        ),
        ("mpeg4.avi", &["-c:v", "mpeg4", "-q:v", "2"], 12),
        (
            "mpeg2.ts",
            &["-c:v", "mpeg2video", "-q:v", "2", "-r", "25"],
            12,
        ),
        (
            "tenbit.mov",
            &["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"],
            8,
        ),
        (
            "tenbit.mkv",
            &["-c:v", "ffv1", "-pix_fmt", "yuv420p10le"],
            4,
        ),
        ("lossless.nut", &["-c:v", "ffv1", "-pix_fmt", "bgr0"], 0),
    ];
    for (name, options, tolerance) in cases {
        let path = film(&folder, name, 6, (64, 48), options);
        let clip = read(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(clip.size(), (64, 48), "{name}");
        assert_is_test_frame(&clip.frames[0], 0, tolerance);
        assert_is_test_frame(clip.frames.last().unwrap(), 5, tolerance);
        assert!(clip.times_secs.is_sorted());
        assert!(
            clip.times_secs[0].abs() < 1e-9,
            "{name}: {:?}",
            clip.times_secs
        );
        assert_eq!(clip.source_name, name);
        if name != "mpeg2.ts" {
            assert_eq!(clip.frames.len(), 6, "{name}");
            assert!((clip.fps - 8.0).abs() < 0.05, "{name}: {}", clip.fps);
        }
        assert!(clip.notes.is_empty(), "{name}: {:?}", clip.notes);
    }
}

#[test]
fn times_come_from_the_film() {
    let folder = tempfile::tempdir().unwrap();
    let slower = "settb=1/1000,setpts='if(lt(N,4),N*0.1,0.4+(N-4)*0.4)/TB'";
    let options = [
        "-vf",
        slower,
        "-vsync",
        "vfr",
        "-enc_time_base",
        "1/1000",
        "-c:v",
        "libx264",
        "-bf",
        "2",
        "-pix_fmt",
        "yuv420p",
    ];
    let path = film(&folder, "variable.mkv", 8, (64, 48), &options);
    let clip = read(&path).unwrap();
    let want = [0.0, 0.1, 0.2, 0.3, 0.4, 0.8, 1.2, 1.6];
    assert_eq!(clip.times_secs.len(), want.len());
    for (got, want) in clip.times_secs.iter().zip(want) {
        // Matroska rounds to a millisecond.
        assert!((got - want).abs() < 0.0011, "{:?}", clip.times_secs);
    }
    assert!((clip.fps - 7.0 / clip.times_secs[7]).abs() < 1e-9);
}

#[test]
fn rotated_films_stand_upright() {
    let folder = tempfile::tempdir().unwrap();
    for angle in ["90", "180", "270"] {
        let flat = film(
            &folder,
            "flat.mp4",
            2,
            (64, 32),
            &["-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p"],
        );
        let (path, text) = in_folder(&folder, &format!("turned{angle}.mp4"));
        let rotate = format!("rotate={angle}");
        ffmpeg(&[
            "-i",
            flat.to_str().unwrap(),
            "-c",
            "copy",
            "-metadata:s:v:0",
            &rotate,
            &text,
        ]);
        // The ffmpeg program turns films by itself: what it shows is the reference.
        let (shown, shown_text) = in_folder(&folder, "shown.png");
        ffmpeg(&["-i", &text, "-frames:v", "1", &shown_text]);
        let want = &read(&shown).unwrap().frames[0];
        let got = &read(&path).unwrap().frames[0];
        assert_eq!(
            (got.width, got.height),
            (want.width, want.height),
            "{angle}"
        );
        for (x, y) in [
            (3, 3),
            (got.width - 4, 3),
            (3, got.height - 4),
            (got.width - 4, got.height - 4),
        ] {
            assert_colour(got, x, y, want.pixel(x, y), 6);
        }
        assert_ne!(
            got.pixel(3, 3),
            read(&flat).unwrap().frames[0].pixel(3, 3),
            "{angle}"
        );
        let info = video::probe(&path).unwrap();
        assert_eq!(
            (info.width, info.height),
            (got.width, got.height),
            "{angle}"
        );
    }
}

#[test]
fn odd_sizes_and_wide_pixels_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let odd = film(
        &folder,
        "odd.mkv",
        3,
        (65, 47),
        &["-c:v", "ffv1", "-pix_fmt", "yuv420p"],
    );
    let clip = read(&odd).unwrap();
    assert_eq!(clip.size(), (65, 47));
    assert_is_test_frame(&clip.frames[2], 2, 5);
    let wide = film(
        &folder,
        "wide.mp4",
        3,
        (64, 48),
        &[
            "-vf",
            "setsar=4/3",
            "-c:v",
            "libx264",
            "-crf",
            "10",
            "-pix_fmt",
            "yuv420p",
        ],
    );
    let clip = read(&wide).unwrap();
    assert_eq!(clip.size(), (85, 48));
    assert_is_test_frame(&clip.frames[1], 1, 8);
    let info = video::probe(&wide).unwrap();
    assert_eq!((info.width, info.height), (85, 48));
}

#[test]
fn colours_follow_the_declared_matrix_and_range() {
    let folder = tempfile::tempdir().unwrap();
    for (matrix, space) in [
        ("bt601", "smpte170m"),
        ("bt709", "bt709"),
        ("bt2020", "bt2020nc"),
    ] {
        for (range, code) in [("tv", "limited"), ("pc", "full")] {
            let scale = format!("scale=out_color_matrix={matrix}:out_range={code}");
            let name = format!("{matrix}-{code}.mkv");
            let options = [
                "-vf",
                &scale,
                "-c:v",
                "ffv1",
                "-pix_fmt",
                "yuv444p",
                "-colorspace",
                space,
                "-color_range",
                range,
            ];
            let clip = read(&film(&folder, &name, 1, (64, 48), &options)).unwrap();
            // Lossless but for two roundings of 8 bits, which the matrix can double. A wrong matrix is off by 20.
            assert_is_test_frame(&clip.frames[0], 0, 4);
        }
    }
}

#[test]
fn only_the_part_asked_for_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [
        (
            "long.mp4",
            &[
                "-c:v", "libx264", "-crf", "10", "-g", "12", "-pix_fmt", "yuv420p",
            ][..],
        ),
        (
            "long.mkv",
            &[
                "-c:v", "libx264", "-crf", "10", "-g", "250", "-pix_fmt", "yuv420p",
            ][..],
        ),
        (
            "long.webm",
            &["-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0"][..],
        ),
    ] {
        let path = film(&folder, name, 60, (64, 48), options);
        let clip = limited(
            &path,
            &Limits {
                start_secs: 5.0,
                max_frames: 10,
                ..Limits::default()
            },
        )
        .unwrap();
        assert_eq!(clip.frames.len(), 10, "{name}");
        for (i, time) in clip.times_secs.iter().enumerate() {
            // Frame 40 is shown at 5 s; Matroska rounds to milliseconds.
            assert!(
                (time - (40 + i) as f64 / 8.0).abs() < 0.002,
                "{name}: {:?}",
                clip.times_secs
            );
            assert_is_test_frame(&clip.frames[i], 40 + i, 8);
        }
        assert!(
            clip.notes[0].contains("the limit is 10 frames"),
            "{:?}",
            clip.notes
        );
        let error = limited(
            &path,
            &Limits {
                start_secs: 20.0,
                ..Limits::default()
            },
        )
        .unwrap_err();
        assert!(
            matches!(error, VideoError::StartBeyondEnd { .. }),
            "{name}: {error}"
        );
        let clip = limited(
            &path,
            &Limits {
                max_duration_secs: 1.0,
                ..Limits::default()
            },
        )
        .unwrap();
        assert_eq!(clip.frames.len(), 9, "{name}: 0 to 1 s");
    }
}

/// A screen that is recorded gives no frame while nothing changes.
#[test]
fn a_frame_that_stays_is_what_is_shown_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = film(
        &folder,
        "screen.mkv",
        8,
        (64, 48),
        &[
            // Frame 3, at 0.375 s, stays for two seconds more.
            "-vf",
            "setpts=PTS+gte(N\\,4)*2/TB",
            "-fps_mode",
            "vfr",
            "-c:v",
            "ffv1",
        ],
    );
    let whole = read(&path).unwrap();
    assert_eq!(whole.frames.len(), 8);
    assert!(
        (whole.times_secs[4] - 2.5).abs() < 2e-3,
        "{:?}",
        whole.times_secs
    );
    let later = Limits {
        start_secs: 1.5,
        ..Limits::default()
    };
    let clip = limited(&path, &later).unwrap();
    assert_eq!(clip.frames.len(), 5);
    assert_is_test_frame(&clip.frames[0], 3, 8);
    // It comes at the start, and all of the cut is movement.
    assert!(
        (clip.times_secs[0] - 1.5).abs() < 2e-3,
        "{:?}",
        clip.times_secs
    );
    let fit = Fit {
        frames: 3,
        width: 64,
        height: 48,
        fps: None,
        mode: FitMode::Crop,
        start_secs: 1.5,
        short: ShortClip::Error,
    };
    let part = video::fit(&clip, &fit).unwrap().clip;
    // From 1.5 s to 2.875 s: halfway is nothing but the frame at 2.5 s near.
    for (frame, index) in part.frames.iter().zip([3, 4, 7]) {
        assert_is_test_frame(frame, index, 8);
    }
    assert!((part.fps - 2.0 / 1.375).abs() < 1e-2, "{}", part.fps);
    let of_whole = video::fit(&whole, &fit).unwrap().clip;
    assert_eq!(
        of_whole.frames, part.frames,
        "however much of the film was read"
    );
    let alone = Limits {
        start_secs: 2.95,
        ..Limits::default()
    };
    assert_eq!(limited(&path, &alone).unwrap().frames.len(), 1);
    // A start on a frame begins with it.
    let on_it = Limits {
        start_secs: 2.5,
        ..Limits::default()
    };
    let clip = limited(&path, &on_it).unwrap();
    assert_eq!(clip.frames.len(), 4);
    assert_is_test_frame(&clip.frames[0], 4, 8);
}

#[test]
fn limits_hold_while_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = film(
        &folder,
        "limits.mp4",
        12,
        (320, 160),
        &["-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p"],
    );
    let clip = limited(
        &path,
        &Limits {
            max_side: 64,
            short_side: 0,
            ..Limits::default()
        },
    )
    .unwrap();
    assert_eq!(clip.size(), (64, 32));
    assert_is_test_frame(&clip.frames[7], 7, 8);
    let bytes = 320 * 160 * 3;
    let clip = limited(
        &path,
        &Limits {
            max_bytes: bytes * 5,
            ..Limits::default()
        },
    )
    .unwrap();
    assert_eq!(clip.frames.len(), 5);
    let error = limited(
        &path,
        &Limits {
            max_pixels: 10_000,
            ..Limits::default()
        },
    )
    .unwrap_err();
    assert!(matches!(error, VideoError::TooLarge { .. }), "{error}");
    let error = limited(
        &path,
        &Limits {
            start_secs: f64::NAN,
            ..Limits::default()
        },
    )
    .unwrap_err();
    assert!(matches!(error, VideoError::BadSetting { .. }), "{error}");
}

#[test]
fn reading_stops_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = film(
        &folder,
        "cancel.mp4",
        20,
        (64, 48),
        &["-c:v", "libx264", "-pix_fmt", "yuv420p"],
    );
    for stop_at in [1, 2, 5, 12] {
        let asked = Cell::new(0);
        let result = video::load(&path, &Limits::default(), &|| {
            asked.set(asked.get() + 1);
            asked.get() >= stop_at
        });
        assert!(
            matches!(result, Err(VideoError::Cancelled)),
            "{stop_at}: {result:?}"
        );
        // Once FFmpeg has heard it, it may ask a few times more while it closes the file.
        assert!(asked.get() < stop_at + 5, "{} after {stop_at}", asked.get());
    }
}

#[test]
fn a_film_is_probed_without_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = film(
        &folder,
        "probe.mp4",
        16,
        (64, 48),
        &["-c:v", "libx264", "-pix_fmt", "yuv420p"],
    );
    let info = video::probe(&path).unwrap();
    assert_eq!(info.kind, ClipKind::Film);
    assert_eq!((info.width, info.height, info.frames), (64, 48, Some(16)));
    assert!((info.fps.unwrap() - 8.0).abs() < 1e-9);
    assert!((info.duration_secs.unwrap() - 2.0).abs() < 1e-3);
    assert_eq!(info.codec, "h264");
    assert!(info.container.contains("mp4"));
}

#[test]
fn a_film_cut_in_the_middle_gives_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, &[&str]); 3] = [
        (
            "index-first.mp4",
            &[
                "-movflags",
                "+faststart",
                "-c:v",
                "libx264",
                "-qp",
                "4",
                "-bf",
                "0",
                "-pix_fmt",
                "yuv420p",
            ],
        ),
        ("cut.mkv", &["-c:v", "ffv1"]),
        ("cut.avi", &["-c:v", "mjpeg", "-q:v", "1"]),
    ];
    for (name, options) in cases {
        let path = film(&folder, name, 40, (128, 96), options);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() * 6 / 10]).unwrap();
        let clip = read(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            (5..40).contains(&clip.frames.len()),
            "{name}: {}",
            clip.frames.len()
        );
        assert_is_test_frame(&clip.frames[4], 4, 8);
        assert!(
            clip.notes
                .iter()
                .any(|n| n.contains("cut off") || n.contains("damaged")),
            "{name}: {:?}",
            clip.notes
        );
        let error = limited(
            &path,
            &Limits {
                wanted_frames: 40,
                ..Limits::default()
            },
        )
        .unwrap_err();
        let VideoError::Truncated {
            frames_read,
            wanted,
            ..
        } = &error
        else {
            panic!("{name}: {error}");
        };
        assert_eq!((*frames_read, *wanted), (clip.frames.len(), 40), "{name}");
        assert!(error.to_string().contains("is cut off"), "{error}");
        // Enough frames before the cut: no reason to complain.
        let part = limited(
            &path,
            &Limits {
                wanted_frames: 4,
                max_frames: 4,
                ..Limits::default()
            },
        )
        .unwrap();
        assert_eq!(part.frames.len(), 4);
    }
    // The index comes last in what we write ourselves: nothing can be read without it.
    let (path, _) = in_folder(&folder, "index-last.mp4");
    write(&test_clip(20, 64, 48, 8.0), &path, &plain()).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = read(&path).unwrap_err();
    assert!(
        matches!(error, VideoError::Truncated { frames_read: 0, .. }),
        "{error}"
    );
}

#[test]
fn a_film_without_timestamps_runs_at_its_rate() {
    let folder = tempfile::tempdir().unwrap();
    // A bare H.264 stream has neither container nor timestamps.
    let path = film(
        &folder,
        "bare.h264",
        10,
        (64, 48),
        &["-c:v", "libx264", "-bf", "0", "-pix_fmt", "yuv420p"],
    );
    let clip = read(&path).unwrap();
    assert_eq!(clip.frames.len(), 10);
    let steps: Vec<f64> = clip.times_secs.windows(2).map(|t| t[1] - t[0]).collect();
    assert!(
        steps
            .iter()
            .all(|s| (s - steps[0]).abs() < 1e-6 && *s > 0.0),
        "{steps:?}"
    );
    assert_colour(&clip.frames[9], 32, 24, [grey(9); 3], 10);
    assert_colour(&clip.frames[9], 4, 4, CORNERS[0], 12);
}
