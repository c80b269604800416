//! Films, pictures, fitting and export.
//!
//! Fixtures are made on the spot, by our own writer or, for what it does not write, by the `ffmpeg` program
//! (`./x setup` installs it); a missing program fails the tests that need it.

#![expect(
    clippy::unwrap_used,
    reason = "what makes the fixtures may fail like a test"
)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use spectral_motion::video::{
    self, Clip, ExportFormat, ExportOptions, ExportReport, Frame, Limits, VideoError,
};

mod fitting;
#[cfg(feature = "video")]
mod hostile;
mod pictures;
#[cfg(feature = "video")]
mod reading;
mod writing;

/// Colours of the four corners of every test frame: top left, top right, bottom left, bottom right.
const CORNERS: [[u8; 3]; 4] = [[220, 30, 30], [30, 200, 30], [30, 30, 220], [230, 230, 230]];

/// Grey of the middle of frame `i`: tells frames apart.
fn grey(i: usize) -> u8 {
    40 + (i % 20) as u8 * 10
}

/// A frame with four coloured quarters and a grey middle whose level tells its number.
fn test_frame(i: usize, width: u32, height: u32) -> Frame {
    let mut frame = Frame::filled(width, height, [0; 3]);
    for y in 0..height {
        for x in 0..width {
            let middle = (width / 4..width * 3 / 4).contains(&x)
                && (height / 4..height * 3 / 4).contains(&y);
            let quarter = usize::from(x >= width / 2) + 2 * usize::from(y >= height / 2);
            let colour = if middle {
                [grey(i); 3]
            } else {
                CORNERS[quarter]
            };
            let at = (y * width + x) as usize * 3;
            frame.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }
    frame
}

fn test_clip(frames: usize, width: u32, height: u32, fps: f64) -> Clip {
    let frames = (0..frames).map(|i| test_frame(i, width, height)).collect();
    Clip::from_frames(frames, fps, "test")
}

/// Options that change nothing: no enlargement.
fn plain() -> ExportOptions {
    ExportOptions {
        scale_to: None,
        quality: 100,
        ..ExportOptions::default()
    }
}

fn write(clip: &Clip, path: &Path, options: &ExportOptions) -> Result<ExportReport, VideoError> {
    let format = ExportFormat::from_path(path)?;
    video::export(clip, path, format, options, &mut |_, _| {
        ControlFlow::Continue(())
    })
}

fn read(path: &Path) -> Result<Clip, VideoError> {
    video::load(path, &Limits::default(), &|| false)
}

#[track_caller]
fn assert_colour(frame: &Frame, x: u32, y: u32, want: [u8; 3], tolerance: u8) {
    let got = frame.pixel(x, y);
    let far = got.iter().zip(want).any(|(g, w)| g.abs_diff(w) > tolerance);
    assert!(!far, "pixel ({x}, {y}) is {got:?}, not {want:?}");
}

/// Checks the corners and the grey number of a frame made by [`test_frame`].
#[track_caller]
fn assert_is_test_frame(frame: &Frame, i: usize, tolerance: u8) {
    let (w, h) = (frame.width, frame.height);
    let at = [
        (w / 8, h / 8),
        (w - 1 - w / 8, h / 8),
        (w / 8, h - 1 - h / 8),
        (w - 1 - w / 8, h - 1 - h / 8),
    ];
    for ((x, y), want) in at.into_iter().zip(CORNERS) {
        assert_colour(frame, x, y, want, tolerance);
    }
    assert_colour(frame, w / 2, h / 2, [grey(i); 3], tolerance);
}

/// Runs the `ffmpeg` program and fails loudly if it is missing or unhappy.
#[cfg(feature = "video")]
#[track_caller]
fn ffmpeg(args: &[&str]) {
    let output = std::process::Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y"])
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("the ffmpeg program is missing ({e}); run ./x setup"));
    assert!(
        output.status.success(),
        "ffmpeg {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Writes a test clip as PNG files and gives the input arguments for the `ffmpeg` program.
#[cfg(feature = "video")]
fn png_source(folder: &Path, frames: usize, width: u32, height: u32) -> String {
    let path = folder.join("source");
    write(&test_clip(frames, width, height, 8.0), &path, &plain()).unwrap();
    path.join("frame-%04d.png").to_str().unwrap().to_owned()
}

fn in_folder(folder: &tempfile::TempDir, name: &str) -> (PathBuf, String) {
    let path = folder.path().join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}
