use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use spectral_motion::video::{self, ClipKind, Frame, Limits, PICTURE_FPS, VideoError, canny};

use super::{
    CORNERS, assert_colour, assert_is_test_frame, in_folder, plain, read, test_clip, test_frame,
    write,
};

fn as_image(frame: &Frame) -> DynamicImage {
    let image = RgbImage::from_raw(frame.width, frame.height, frame.rgb.clone());
    DynamicImage::ImageRgb8(image.unwrap())
}

fn save(frame: &Frame, path: &Path) {
    as_image(frame).save(path).unwrap();
}

#[test]
fn a_folder_is_read_in_natural_order() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..12 {
        let ending = ["png", "jpg", "bmp", "webp", "tiff"][i % 5];
        save(
            &test_frame(i, 32, 24),
            &folder.path().join(format!("{i}.{ending}")),
        );
    }
    fs::write(folder.path().join("notes.txt"), "not a frame").unwrap();
    fs::write(folder.path().join(".hidden.png"), "not a frame").unwrap();
    let clip = read(folder.path()).unwrap();
    assert_eq!(clip.frames.len(), 12);
    for (i, frame) in clip.frames.iter().enumerate() {
        // JPEG at the encoder's quality of 75 moves flat colours by a few levels, more at edges.
        assert_is_test_frame(frame, i, 10);
    }
    assert_eq!(clip.fps, PICTURE_FPS);
    assert_eq!(clip.times_secs[8], 1.0);
    let info = video::probe(folder.path()).unwrap();
    assert_eq!(
        (info.kind, info.width, info.height),
        (ClipKind::Folder, 32, 24)
    );
    assert_eq!(info.frames, Some(12));
    let limits = Limits {
        start_secs: 0.5,
        max_frames: 2,
        ..Limits::default()
    };
    let part = video::load(folder.path(), &limits, &|| false).unwrap();
    assert_eq!(part.times_secs, [0.5, 0.625]);
    assert_is_test_frame(&part.frames[0], 4, 10);
    assert!(
        part.notes[0].contains("the limit is 2 frames"),
        "{:?}",
        part.notes
    );
}

#[test]
fn pictures_of_other_sizes_follow_the_first() {
    let folder = tempfile::tempdir().unwrap();
    save(&test_frame(0, 32, 24), &folder.path().join("a1.png"));
    save(&test_frame(1, 64, 48), &folder.path().join("a2.png"));
    save(&test_frame(2, 32, 24), &folder.path().join("a3.png"));
    let clip = read(folder.path()).unwrap();
    assert!(clip.frames.iter().all(|f| (f.width, f.height) == (32, 24)));
    assert_is_test_frame(&clip.frames[1], 1, 2);
    assert_eq!(
        clip.notes,
        [
            "1 of 3 pictures have another size than the first; they were scaled and cropped to its 32x24."
        ]
    );
}

#[test]
fn a_folder_without_pictures_and_a_broken_picture_are_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        read(folder.path()),
        Err(VideoError::NoImages { .. })
    ));
    assert!(matches!(
        video::probe(folder.path()),
        Err(VideoError::NoImages { .. })
    ));
    save(&test_frame(0, 8, 8), &folder.path().join("1.png"));
    let whole = fs::read(folder.path().join("1.png")).unwrap();
    let cut = &whole[..whole.len() / 2];
    for (name, content) in [("2.png", cut), ("2.png", b"text"), ("2.png", b"")] {
        fs::write(folder.path().join(name), content).unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(
            matches!(
                error,
                VideoError::BrokenImage { .. } | VideoError::Empty { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_still_picture_is_a_clip_of_one_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = in_folder(&folder, "still.png");
    save(&test_frame(3, 50, 31), &path);
    let clip = read(&path).unwrap();
    assert_eq!(clip.frames, [test_frame(3, 50, 31)]);
    assert_eq!(video::probe(&path).unwrap().kind, ClipKind::Still);
    // The name does not matter, the content does.
    let (other, _) = in_folder(&folder, "still.mp4");
    fs::copy(&path, &other).unwrap();
    assert_eq!(read(&other).unwrap().frames.len(), 1);
}

#[test]
fn transparent_pixels_lie_on_white() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = in_folder(&folder, "alpha.png");
    let picture = RgbaImage::from_fn(3, 1, |x, _| {
        image::Rgba([100, 0, 0, [0, 128, 255][x as usize]])
    });
    picture.save(&path).unwrap();
    let frame = &read(&path).unwrap().frames[0];
    // 100 * 128/255 + 255 * 127/255 = 177.2; 0 * 128/255 + 127 = 127.
    assert_eq!(frame.rgb, [255, 255, 255, 177, 127, 127, 100, 0, 0]);
}

#[test]
fn a_camera_picture_is_turned_upright() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = in_folder(&folder, "camera.jpg");
    let mut jpeg = Cursor::new(Vec::new());
    as_image(&test_frame(0, 64, 32))
        .write_to(&mut jpeg, ImageFormat::Jpeg)
        .unwrap();
    // APP1 with an Exif block of one entry: orientation 6, "turn clockwise by a quarter" (Exif 2.3, 4.6.4).
    let exif: &[u8] = b"\xFF\xE1\x00\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut bytes = jpeg.into_inner();
    bytes.splice(2..2, exif.iter().copied());
    fs::write(&path, bytes).unwrap();
    let frame = &read(&path).unwrap().frames[0];
    assert_eq!((frame.width, frame.height), (32, 64));
    // Turned clockwise, the bottom left corner comes to the top left, the top left to the top right.
    assert_colour(frame, 3, 6, CORNERS[2], 12);
    assert_colour(frame, 28, 6, CORNERS[0], 12);
    let info = video::probe(&path).unwrap();
    assert_eq!((info.width, info.height), (32, 64));
}

/// A wide clip has enough rows for a square model.
#[test]
fn long_pictures_keep_their_shorter_side() {
    let folder = tempfile::tempdir().unwrap();
    for (size, kept) in [
        ((2048, 1152), (1024, 576)),
        ((1800, 720), (1440, 576)),
        ((720, 1800), (576, 1440)),
        ((1200, 500), (1200, 500)),
        ((4096, 256), (2048, 128)),
    ] {
        let (path, _) = in_folder(&folder, "long.png");
        save(&test_frame(0, size.0, size.1), &path);
        let clip = video::load(&path, &Limits::default(), &|| false).unwrap();
        assert_eq!(clip.size(), kept, "{size:?}");
    }
}

#[test]
fn pictures_are_held_to_the_limits() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = in_folder(&folder, "large.png");
    save(&test_frame(0, 300, 200), &path);
    let limits = Limits {
        max_side: 60,
        short_side: 0,
        ..Limits::default()
    };
    let clip = video::load(&path, &limits, &|| false).unwrap();
    assert_eq!(clip.size(), (60, 40));
    let limits = Limits {
        max_pixels: 1000,
        ..Limits::default()
    };
    let error = video::load(&path, &limits, &|| false).unwrap_err();
    assert!(
        matches!(
            error,
            VideoError::TooLarge {
                width: 300,
                height: 200,
                ..
            }
        ),
        "{error}"
    );
    assert!(matches!(
        video::load(folder.path(), &Limits::default(), &|| true),
        Err(VideoError::Cancelled)
    ));
}

#[test]
fn a_gif_keeps_its_times_and_a_cut_one_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = in_folder(&folder, "made.gif");
    write(&test_clip(6, 40, 30, 8.0), &path, &plain()).unwrap();
    let clip = read(&path).unwrap();
    assert_eq!(clip.frames.len(), 6);
    // Eight a second is 12.5 hundredths, which GIF rounds; the sum keeps the rate.
    for (i, time) in clip.times_secs.iter().enumerate() {
        assert!((time - i as f64 / 8.0).abs() <= 0.0051, "{time}");
    }
    for (i, frame) in clip.frames.iter().enumerate() {
        assert_eq!(
            *frame,
            test_frame(i, 40, 30),
            "few colours are kept exactly"
        );
    }
    assert_eq!(video::probe(&path).unwrap().kind, ClipKind::Animation);

    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let cut = read(&path).unwrap();
    assert!((1..6).contains(&cut.frames.len()));
    assert!(cut.notes[0].contains("cut off"), "{:?}", cut.notes);
    let limits = Limits {
        wanted_frames: 6,
        ..Limits::default()
    };
    let error = video::load(&path, &limits, &|| false).unwrap_err();
    assert!(
        matches!(error, VideoError::Truncated { wanted: 6, .. }),
        "{error}"
    );
}

#[cfg(not(feature = "video"))]
#[test]
fn without_ffmpeg_films_are_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (film, _) = in_folder(&folder, "film.mp4");
    fs::write(&film, b"\0\0\0\x20ftypisom\0\0\x02\0").unwrap();
    assert!(matches!(
        read(&film),
        Err(VideoError::NoVideoSupport { .. })
    ));
    assert!(matches!(
        video::probe(&film),
        Err(VideoError::NoVideoSupport { .. })
    ));
    let (target, _) = in_folder(&folder, "out.mp4");
    let error = write(&test_clip(2, 32, 32, 8.0), &target, &plain()).unwrap_err();
    assert!(
        matches!(error, VideoError::NoVideoSupport { .. }),
        "{error}"
    );
    assert!(!target.exists());
    let (letter, _) = in_folder(&folder, "letter.mp4");
    fs::write(&letter, "no film").unwrap();
    assert!(matches!(read(&letter), Err(VideoError::NotAFilm { .. })));
}

/// Held against OpenCV's own edges, pixel by pixel (`tools/golden/canny.py`).
#[test]
fn edges_are_those_of_opencv() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../golden/canny.json")).unwrap();
    let mut drawn = 0;
    for case in golden["cases"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let bytes = case["rgb"].as_array().unwrap().iter();
        let frame = Frame {
            width: number("width") as u32,
            height: number("height") as u32,
            rgb: bytes
                .map(|v| u8::try_from(v.as_u64().unwrap()).unwrap())
                .collect(),
        };
        let edges = canny(&frame, number("low") as f32, number("high") as f32);
        assert_eq!((edges.width, edges.height), (frame.width, frame.height));
        let row = |pixel: &[u8]| match pixel {
            [255, 255, 255] => '#',
            [0, 0, 0] => '.',
            other => panic!("{other:?}"),
        };
        let ours: String = edges.rgb.chunks_exact(3).map(row).collect();
        assert_eq!(ours, case["edges"].as_str().unwrap());
        drawn += ours.matches('#').count();
    }
    assert!(drawn > 500, "{drawn} pixels of edges say little");
    let broken = Frame {
        width: 4,
        height: 4,
        rgb: vec![9; 5],
    };
    assert_eq!(canny(&broken, 1.0, 2.0), Frame::filled(4, 4, [0; 3]));
}
