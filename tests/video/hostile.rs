use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use spectral_motion::video::{self, VideoError, read_recipe};

use super::{assert_is_test_frame, ffmpeg, in_folder, plain, png_source, read, test_clip, write};

/// An error of a hand-made file, with the promise that every message is fit to be shown.
#[track_caller]
fn error_of(path: &Path) -> VideoError {
    let error = read(path).unwrap_err();
    let probed = video::probe(path).unwrap_err();
    assert_eq!(error.to_string(), probed.to_string());
    assert!(read_recipe(path).is_err() || matches!(error, VideoError::NoVideoStream { .. }));
    let text = error.to_string();
    let advice = error.advice();
    assert!(!advice.is_empty() && advice.ends_with('.'), "{advice}");
    assert!(
        !text.contains("AVERROR") && !text.contains("None") && !text.contains("Err("),
        "{text}"
    );
    error
}

#[track_caller]
fn error_of_bytes(name: &str, bytes: &[u8]) -> VideoError {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = in_folder(&folder, name);
    fs::write(&path, bytes).unwrap();
    error_of(&path)
}

#[test]
fn what_is_not_a_film_is_told_apart() {
    let error = error_of_bytes(
        "letter.mp4",
        "Dear Sir, this is no film.\n".repeat(50).as_bytes(),
    );
    assert!(matches!(error, VideoError::NotAFilm { .. }), "{error}");
    assert!(error.to_string().contains("plain text"), "{error}");
    let error = error_of_bytes("empty.mp4", b"");
    assert!(matches!(error, VideoError::Empty { .. }), "{error}");
    let noise: Vec<u8> = (0u32..20_000)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let error = error_of_bytes("noise.mkv", &noise);
    assert!(
        matches!(
            error,
            VideoError::NotAFilm { .. }
                | VideoError::Decode { .. }
                | VideoError::NoVideoStream { .. }
        ),
        "{error}"
    );
    let error = error_of_bytes("one.mp4", b"x");
    assert!(matches!(error, VideoError::NotAFilm { .. }), "{error}");
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><image href='file:///etc/passwd'/></svg>";
    let error = error_of_bytes("drawing.mp4", svg);
    assert!(matches!(error, VideoError::NotAFilm { .. }), "{error}");
    let error = error_of(Path::new("/no/such/film.mp4"));
    assert!(matches!(error, VideoError::NotFound { .. }), "{error}");
}

#[test]
fn addresses_are_not_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for scheme in ["http", "https", "rtmp", "rtsp", "ftp", "tcp", "HTTP"] {
        let url = format!("{scheme}://127.0.0.1:{port}/film.mp4");
        let error = error_of(Path::new(&url));
        assert!(matches!(error, VideoError::Url { .. }), "{error}");
        assert!(error.to_string().contains(&url), "{error}");
    }
    for name in ["concat:a.mp4|b.mp4", "data:video/mp4;base64,AAAA", "pipe:0"] {
        let error = error_of(Path::new(name));
        assert!(
            matches!(error, VideoError::NotFound { .. }),
            "{name}: {error}"
        );
    }
    assert!(listener.accept().is_err(), "something connected");
}

#[test]
fn playlists_are_refused_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/a", listener.local_addr().unwrap());
    let (target, target_text) = in_folder(&folder, "real.mp4");
    write(&test_clip(3, 32, 32, 8.0), &target, &plain()).unwrap();
    let hls = |uri: &str| {
        format!(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{uri}.ts\n#EXT-X-ENDLIST\n"
        )
    };
    let mpd = |uri: &str| {
        format!(
            "<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" profiles=\"urn:mpeg:dash:profile:isoff-on-demand:2011\" type=\"static\"><Period><AdaptationSet mimeType=\"video/mp4\"><Representation id=\"1\" bandwidth=\"1\"><BaseURL>{uri}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        )
    };
    let known = [
        hls(&url),
        format!("\u{feff}\n{}", hls(&url)),
        format!("ffconcat version 1.0\nfile '{target_text}'\n"),
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n".to_owned(),
        format!("[playlist]\nFile1={url}\n"),
        format!("<?xml version=\"1.0\"?>\n{}", mpd(&url)),
        format!("<asx version=\"3.0\"><entry><ref href=\"{url}\"/></entry></asx>"),
    ];
    for (i, text) in known.iter().enumerate() {
        let error = error_of_bytes(&format!("list{i}.mp4"), text.as_bytes());
        assert!(
            matches!(error, VideoError::Playlist { .. }),
            "{text}: {error}"
        );
    }
    // Hidden from our own look at the first bytes; FFmpeg's readers must not take it either.
    let padding = format!("<?xml version=\"1.0\"?>\n<!--{}-->\n", "x".repeat(6000));
    for text in [
        format!("{padding}{}", mpd(&url)),
        format!("{padding}{}", mpd(&target_text)),
    ] {
        let error = error_of_bytes("hidden.mp4", text.as_bytes());
        assert!(matches!(error, VideoError::NotAFilm { .. }), "{error}");
    }
    assert!(listener.accept().is_err(), "something connected");
}

#[test]
fn sound_alone_is_no_film() {
    let folder = tempfile::tempdir().unwrap();
    let (wav, wav_text) = in_folder(&folder, "sound.wav");
    ffmpeg(&["-f", "lavfi", "-i", "sine=d=0.5", &wav_text]);
    let error = error_of(&wav);
    assert!(
        matches!(
            error,
            VideoError::NoVideoStream {
                has_audio: true,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().ends_with("only sound"), "{error}");
    // A song with a cover picture is still a song.
    let source = png_source(folder.path(), 1, 32, 32);
    let (song, song_text) = in_folder(&folder, "song.mp3");
    ffmpeg(&[
        "-i",
        &wav_text,
        "-i",
        &source,
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "png",
        "-disposition:v:0",
        "attached_pic",
        &song_text,
    ]);
    let error = error_of(&song);
    assert!(
        matches!(
            error,
            VideoError::NoVideoStream {
                has_audio: true,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_codec_without_a_decoder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, text) = in_folder(&folder, "odd.avi");
    let source = png_source(folder.path(), 3, 32, 32);
    ffmpeg(&["-i", &source, "-c:v", "mpeg4", &text]);
    let mut bytes = fs::read(&path).unwrap();
    // Both places where AVI names the codec.
    for at in 0..bytes.len() - 4 {
        if &bytes[at..at + 4] == b"FMP4" {
            bytes[at..at + 4].copy_from_slice(b"ZZZZ");
        }
    }
    fs::write(&path, bytes).unwrap();
    let error = read(&path).unwrap_err();
    assert!(
        matches!(error, VideoError::UnsupportedCodec { .. }),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_locked_folders_are_refused_at_once() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (pipe, pipe_text) = in_folder(&folder, "pipe.mp4");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe_text)
            .status()
            .unwrap()
            .success()
    );
    // Opening it would wait for ever.
    let error = error_of(&pipe);
    assert!(
        matches!(error, VideoError::NotAFile { kind: "a pipe", .. }),
        "{error}"
    );
    let error = error_of(Path::new("/dev/zero"));
    assert!(
        matches!(
            error,
            VideoError::NotAFile {
                kind: "a device",
                ..
            }
        ),
        "{error}"
    );
    let (locked, _) = in_folder(&folder, "locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let error = read(&locked).unwrap_err();
    // The administrator may read everything, and then the folder is merely empty.
    let may_read = fs::read_dir(&locked).is_ok();
    assert!(
        matches!(error, VideoError::Permission { .. }) != may_read,
        "{error}"
    );
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_work() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let clip = test_clip(4, 64, 48, 8.0);
    for name in [
        &b"f\xffilm.mp4"[..],
        b"f\xffilm.webm",
        b"f\xffilm.gif",
        b"f\xffolder",
    ] {
        let path = folder.path().join(OsStr::from_bytes(name));
        let recipe = Some("{\"a\":1}".to_owned());
        write(&clip, &path, &video::ExportOptions { recipe, ..plain() }).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.frames.len(), 4);
        assert_is_test_frame(&back.frames[3], 3, 8);
        assert!(video::probe(&path).is_ok());
        assert_eq!(read_recipe(&path).unwrap().as_deref(), Some("{\"a\":1}"));
    }
}

proptest! {
    // Each case decodes a film; this many take about a second.
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(vec!["a.mp4", "a.webm", "a.gif"]),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = in_folder(&folder, name);
        let recipe = Some("{\"a\":1}".to_owned());
        let options = video::ExportOptions { recipe, quality: 30, ..plain() };
        write(&test_clip(3, 32, 32, 8.0), &path, &options).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        for (index, value) in hits {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, &bytes).unwrap();
        // Any answer will do, so long as it is one.
        if let Ok(clip) = read(&path) {
            prop_assert!(!clip.frames.is_empty());
            prop_assert!(clip.frames.iter().all(video::Frame::is_valid));
            prop_assert!(clip.times_secs.is_sorted() && clip.fps > 0.0 && clip.fps.is_finite());
        }
        let _ = (video::probe(&path), read_recipe(&path));
    }
}
