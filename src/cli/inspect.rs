//! What a clip's motion looks like to the losses: pictures and numbers in a folder.
//!
//! The clip is scaled down to [`InspectOptions::max_side`], its brightness is compared frame by frame, and the motion
//! is shown as residuals, optical flow, spectra and wavelet bands. The losses themselves see latents of another size;
//! frequencies in cycles per pixel refer to the size named in the report.

mod numbers;
mod pictures;

use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::motion::{Flow, absolute, luma, optical_flows, residuals};
use crate::spectral::plain::{HaarBands, Residual, haar_forward, max_levels};
use crate::video::{Clip, Frame, resample};

pub use numbers::{BandReport, FrameReport, SpectrumReport};

/// Name of the numbers' file.
const REPORT_FILE: &str = "inspect.json";

/// What to show of a clip's motion.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct InspectOptions {
    /// Low-frequency bias of the spectral weight (an exponent; 0.05 is the paper's)
    #[arg(long, default_value_t = 0.05, value_name = "DELTA")]
    pub delta: f64,
    /// Show the spectral weight with a cutoff at this many cycles per pixel (0.5 is the finest stripe)
    #[arg(long, value_name = "RADIUS")]
    pub cutoff: Option<f64>,
    /// Wavelet levels in time [default: as many as the clip has, ceil(log2(frames - 1))]
    #[arg(long, value_name = "N")]
    pub levels: Option<usize>,
    /// Motion as signed differences of frames or as their absolute values
    #[arg(long, default_value_t = Residual::Signed, value_name = "signed|abs")]
    pub residual: Residual,
    /// Longer side of the pictures that are compared, in pixels
    #[arg(long, default_value_t = 192, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(16..=1024))]
    pub max_side: u32,
}

impl Default for InspectOptions {
    fn default() -> Self {
        Self {
            delta: 0.05,
            cutoff: None,
            levels: None,
            residual: Residual::Signed,
            max_side: 192,
        }
    }
}

/// The numbers of `inspect.json`.
#[derive(Clone, Debug, Serialize)]
pub struct InspectReport {
    /// File or folder name of the clip.
    pub source: String,
    /// Mean rate, frames per second.
    pub fps: f64,
    /// Size of the clip, `[width, height]` in pixels.
    pub size_px: [u32; 2],
    /// Size at which it was compared; spatial frequencies are per pixel of this size.
    pub compared_size_px: [u32; 2],
    /// Kind of residual behind the spectra and bands.
    pub residual: Residual,
    /// Wavelet levels shown.
    pub levels: usize,
    /// Wavelet levels that suit the length of the clip (the paper's choice: 3 for 8 frames, 4 for 16).
    pub suggested_levels: usize,
    /// Mean motion of what moves over the whole clip, `[x, y]` in the clip's pixels per frame.
    pub dominant_motion_px_per_frame: [f64; 2],
    /// One entry for each motion vector, that is for each frame but the last.
    pub frames: Vec<FrameReport>,
    /// Energy in time, slowest band first: `A`, then `D1` (finest) to `DJ`.
    pub bands: Vec<BandReport>,
    /// Energy in space: radial profile and weight.
    pub spectrum: SpectrumReport,
    /// The pictures, with what their colours mean.
    pub pictures: Vec<PictureReport>,
}

/// One picture of the folder.
#[derive(Clone, Debug, Serialize)]
pub struct PictureReport {
    /// File name.
    pub file: String,
    /// What is shown, in a sentence.
    pub shows: String,
    /// Value at the start of the colour map or of each curve.
    pub low: f64,
    /// Value at its end.
    pub high: f64,
    /// Unit of the values.
    pub unit: &'static str,
    /// `linear`, `log` or `angle`.
    pub scale: &'static str,
}

/// A clip taken apart: planes of brightness, their motion and its spectra.
struct Parts {
    width: usize,
    height: usize,
    /// Signed residuals of brightness.
    signed: Vec<Vec<f32>>,
    /// Their absolute values.
    absolute: Vec<Vec<f32>>,
    flows: Vec<Flow>,
    bands: HaarBands<f32>,
    residual: Residual,
}

impl Parts {
    fn of(frames: &[Frame], residual: Residual, levels: usize) -> Self {
        let (width, height) = (frames[0].width as usize, frames[0].height as usize);
        let planes: Vec<Vec<f32>> = frames.iter().map(|frame| luma(&frame.rgb)).collect();
        let signed = residuals(&planes);
        let absolute = absolute(&signed);
        let flows = optical_flows(&planes, width, height);
        let motion = match residual {
            Residual::Abs => &absolute,
            Residual::Signed => &signed,
        };
        let bands = haar_forward(&motion.concat(), width * height, levels);
        Self {
            width,
            height,
            signed,
            absolute,
            flows,
            bands,
            residual,
        }
    }

    /// The motion that spectra and bands are taken from.
    fn motion(&self) -> &[Vec<f32>] {
        match self.residual {
            Residual::Abs => &self.absolute,
            Residual::Signed => &self.signed,
        }
    }
}

/// Write pictures and `inspect.json` about the motion of `clip` into `out_dir`, which is made where it is missing.
///
/// # Errors
/// Fewer than 2 frames, frames of different sizes, settings out of range, or a folder that cannot be written.
pub fn inspect(
    clip: &Clip,
    opts: &InspectOptions,
    out_dir: &Path,
) -> anyhow::Result<InspectReport> {
    check(clip, opts)?;
    std::fs::create_dir_all(out_dir)
        .with_context(|| format!("The folder '{}' cannot be made", out_dir.display()))?;
    let frames: Vec<Frame> = clip
        .frames
        .iter()
        .map(|frame| resample::shrink_to(frame.clone(), opts.max_side))
        .collect();
    let suggested_levels = max_levels(frames.len());
    let levels = opts.levels.unwrap_or(suggested_levels);
    let parts = Parts::of(&frames, opts.residual, levels);
    let (width, height) = clip.size();
    let shrunk = f64::from(width) / parts.width as f64;
    let frame_reports = numbers::frames(&parts, &clip.times_secs, shrunk);
    let spectrum = numbers::spectrum(&parts, opts);
    let pictures = pictures::write(&parts, &spectrum, opts, out_dir)?;
    let report = InspectReport {
        source: clip.source_name.clone(),
        fps: clip.fps,
        size_px: [width, height],
        compared_size_px: [parts.width as u32, parts.height as u32],
        residual: opts.residual,
        levels,
        suggested_levels,
        dominant_motion_px_per_frame: numbers::dominant_motion(&frame_reports),
        frames: frame_reports,
        bands: numbers::bands(&parts, clip.fps),
        spectrum,
        pictures,
    };
    let path = out_dir.join(REPORT_FILE);
    let text = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(&path, text)
        .with_context(|| format!("'{}' cannot be written", path.display()))?;
    Ok(report)
}

/// Say what about the request cannot be.
fn check(clip: &Clip, opts: &InspectOptions) -> anyhow::Result<()> {
    if clip.frames.len() < 2 {
        bail!(
            "The clip has {} frame(s): motion needs at least 2",
            clip.frames.len()
        );
    }
    let (width, height) = clip.size();
    if clip
        .frames
        .iter()
        .any(|f| !f.is_valid() || (f.width, f.height) != (width, height))
    {
        bail!("The frames of the clip differ in size: bring them to one size first");
    }
    if !opts.delta.is_finite() || opts.delta < 0.0 {
        bail!(
            "delta is {}: use a number of at least 0 (the paper's is 0.05)",
            opts.delta
        );
    }
    if let Some(cutoff) = opts
        .cutoff
        .filter(|cutoff| !cutoff.is_finite() || *cutoff <= 0.0)
    {
        bail!("The cutoff is {cutoff}: use cycles per pixel above 0, or leave it out");
    }
    let most = max_levels(clip.frames.len());
    if let Some(levels) = opts.levels.filter(|levels| *levels > most) {
        bail!(
            "{} frames have at most {most} wavelet levels, not {levels}",
            clip.frames.len()
        );
    }
    Ok(())
}
