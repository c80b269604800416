//! A film that the model painted, with its small pictures.

use std::path::PathBuf;
use std::sync::Arc;

use eframe::egui::{self, ColorImage, TextureHandle};

use super::media::image_of;
use super::task::Task;
use crate::job::Preview;
use crate::report::Report;
use crate::video::Frame;
use crate::video::resample::{Filter, Region, resize};

/// Height of a sample's small pictures, in pixels.
const THUMB_HEIGHT: u32 = 96;
/// Width of all of them together: what every graphics card takes as one texture.
const STRIP_WIDTH: u32 = 4096;

/// A film that the model painted.
pub struct Sample {
    /// Training steps done.
    pub step: u32,
    /// Its words.
    pub prompt: String,
    /// Its pictures.
    pub frames: Arc<[Frame]>,
    /// Frames per second.
    pub fps: f64,
    /// Whether it is what the run was for, not a look in between.
    pub is_result: bool,
    /// The run's own film of it.
    pub film: Option<PathBuf>,
    /// Seed of its noise, where that is known.
    pub seed: Option<u64>,
    pub(super) strip: Option<Task<Result<ColorImage, Report>>>,
    /// All pictures side by side, small.
    pub texture: Option<TextureHandle>,
}

impl Sample {
    /// What the model painted, whose small pictures are made on a thread.
    #[must_use]
    pub fn new(ctx: &egui::Context, preview: Preview, is_result: bool) -> Self {
        let frames: Arc<[Frame]> = preview.frames.into();
        let pictures = Arc::clone(&frames);
        let strip = Task::start("sample strip", ctx, move |_| Ok(strip_of(&pictures))).ok();
        Self {
            step: preview.step,
            prompt: preview.prompt,
            frames,
            fps: preview.fps,
            is_result,
            film: None,
            seed: None,
            strip,
            texture: None,
        }
    }

    /// Uploads the strip once it is made; gives why there is none.
    pub(super) fn poll(&mut self, ctx: &egui::Context) -> Option<Report> {
        let made = self.strip.as_ref()?.take()?;
        self.strip = None;
        let image = match made {
            Ok(image) => image,
            Err(report) => return Some(report),
        };
        self.texture = Some(ctx.load_texture("sample strip", image, egui::TextureOptions::LINEAR));
        None
    }

    /// Width to height of its pictures.
    #[must_use]
    pub fn aspect(&self) -> f32 {
        self.frames
            .first()
            .map_or(1.0, |frame| frame.width as f32 / frame.height.max(1) as f32)
    }
}

/// All frames side by side.
fn strip_of(frames: &[Frame]) -> ColorImage {
    let room = STRIP_WIDTH / u32::try_from(frames.len()).unwrap_or(u32::MAX).max(1);
    let small: Vec<Frame> = frames
        .iter()
        .map(|frame| {
            let height = THUMB_HEIGHT.min(room * frame.height / frame.width.max(1));
            if frame.height <= height {
                return frame.clone();
            }
            let (width, height) = (frame.width * height / frame.height, height.max(1));
            let all = Region::of(frame);
            resize(frame, all, width.max(1), height, Filter::Triangle)
        })
        .collect();
    let height = small.first().map_or(1, |frame| frame.height);
    let width: u32 = small.iter().map(|frame| frame.width).sum();
    let mut sheet = Frame::filled(width.max(1), height.max(1), [0; 3]);
    let mut left = 0;
    for frame in &small {
        crate::motion::picture::on_canvas(&mut sheet, frame, left, 0);
        left += frame.width as usize;
    }
    image_of(&sheet)
}
