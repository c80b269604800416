//! The numbers of `inspect.json`.

use serde::Serialize;

use super::{InspectOptions, Parts};
use crate::spectral::plain::{
    Fft2, amplitude, fftshift, frequency_weight, radial_profile, weight_at_radius,
};

/// Motion between one frame and the next.
#[derive(Clone, Debug, Serialize)]
pub struct FrameReport {
    /// Number of the earlier frame, from 0.
    pub frame: usize,
    /// When it appears, seconds.
    pub time_secs: f64,
    /// Mean absolute difference of brightness (0..=1) to the next frame.
    pub mean_abs_residual: f64,
    /// Root mean square difference.
    pub rms_residual: f64,
    /// Flow averaged over what changes, `[x, y]` in the clip's pixels: the subject's motion.
    pub subject_motion_px: [f64; 2],
    /// Median flow, `[x, y]` in the clip's pixels: the camera's motion where the background fills most of the picture.
    pub camera_motion_px: [f64; 2],
}

/// One wavelet band of motion in time.
#[derive(Clone, Debug, Serialize)]
pub struct BandReport {
    /// `A` (slowest) or `D1` (fastest) to `DJ`.
    pub band: String,
    /// Frames that one coefficient spans: the time scale of the band.
    pub frames: usize,
    /// The same in seconds; nothing for a clip without a rate.
    pub seconds: Option<f64>,
    /// Mean square of the band's coefficients.
    pub energy: f64,
    /// Share of all motion energy that lies in the band.
    pub share: f64,
}

/// Radial profile of the motion's Fourier amplitude, and the weight of the local loss over it.
#[derive(Clone, Debug, Serialize)]
pub struct SpectrumReport {
    /// Distance from the zero frequency.
    pub cycles_per_pixel: Vec<f64>,
    /// Mean amplitude at that distance, over all motion vectors, unnormalised transform.
    pub mean_amplitude: Vec<f64>,
    /// Weight of the local loss at that distance, along the picture's height.
    pub weight: Vec<f64>,
    /// Exponent of the weight.
    pub delta: f64,
    /// Cutoff radius, if any.
    pub cutoff_cycles_per_pixel: Option<f64>,
    /// Share of the unweighted amplitude that lies within the cutoff; 1 without one.
    pub amplitude_share_within_cutoff: f64,
}

/// `pixels` is the number of the clip's pixels for one compared pixel.
pub(super) fn frames(parts: &Parts, times_secs: &[f64], pixels: f64) -> Vec<FrameReport> {
    let motion = parts
        .signed
        .iter()
        .zip(&parts.absolute)
        .zip(&parts.flows)
        .enumerate();
    motion
        .map(|(frame, ((signed, absolute), flow))| {
            let mean =
                |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / signed.len() as f64;
            let subject = flow.weighted_mean(absolute);
            let camera = flow.median();
            FrameReport {
                frame,
                time_secs: times_secs.get(frame).copied().unwrap_or_default(),
                mean_abs_residual: mean(&mut absolute.iter().map(|&v| f64::from(v))),
                rms_residual: mean(&mut signed.iter().map(|&v| f64::from(v).powi(2))).sqrt(),
                subject_motion_px: [subject.0 * pixels, subject.1 * pixels],
                camera_motion_px: [camera.0 * pixels, camera.1 * pixels],
            }
        })
        .collect()
}

/// Mean of the subject's motion, each frame weighted by how much changes in it.
pub(super) fn dominant_motion(frames: &[FrameReport]) -> [f64; 2] {
    let weight: f64 = frames.iter().map(|f| f.mean_abs_residual).sum();
    if weight <= 0.0 {
        return [0.0; 2];
    }
    let mean = |axis: usize| {
        let sum = frames
            .iter()
            .map(|f| f.mean_abs_residual * f.subject_motion_px[axis]);
        sum.sum::<f64>() / weight
    };
    [mean(0), mean(1)]
}

pub(super) fn bands(parts: &Parts, fps: f64) -> Vec<BandReport> {
    let bands = &parts.bands;
    let levels = bands.highs.len();
    let lengths = std::iter::once(bands.low.len()).chain(bands.highs.iter().map(Vec::len));
    let energies = bands.energies();
    let totals: Vec<f64> = energies
        .iter()
        .zip(lengths)
        .map(|(e, len)| e * len as f64)
        .collect();
    let all: f64 = totals.iter().sum();
    let report = |index: usize| {
        let frames = 1 << if index == 0 { levels } else { index };
        BandReport {
            band: if index == 0 {
                "A".to_owned()
            } else {
                format!("D{index}")
            },
            frames,
            seconds: (fps > 0.0).then(|| frames as f64 / fps),
            energy: energies[index],
            share: if all > 0.0 { totals[index] / all } else { 0.0 },
        }
    };
    (0..energies.len()).map(report).collect()
}

/// Amplitudes of one motion vector, zero frequency in the middle.
pub(super) fn shifted_amplitude(plane: &[f32], parts: &Parts, fft: &Fft2<f32>) -> Vec<f32> {
    fftshift(&amplitude(&fft.forward(plane)), parts.height, parts.width)
}

pub(super) fn spectrum(parts: &Parts, opts: &InspectOptions) -> SpectrumReport {
    let (h, w) = (parts.height, parts.width);
    let fft = Fft2::new(h, w);
    let mut mean = vec![0.0f64; h * w];
    for plane in parts.motion() {
        for (sum, value) in mean.iter_mut().zip(shifted_amplitude(plane, parts, &fft)) {
            *sum += f64::from(value) / parts.motion().len() as f64;
        }
    }
    // A weight of delta 0 is 1 everywhere within the cutoff.
    let inside = frequency_weight(h, w, 0.0, 1.0, opts.cutoff, false);
    let kept: f64 = mean.iter().zip(&inside).map(|(m, i)| m * i).sum();
    let all: f64 = mean.iter().sum();
    let profile = radial_profile(&mean, h, w);
    let weight = |&radius: &f64| weight_at_radius(radius, (h, w), opts.delta, 1.0, opts.cutoff);
    SpectrumReport {
        weight: profile.cycles_per_pixel.iter().map(weight).collect(),
        cycles_per_pixel: profile.cycles_per_pixel,
        mean_amplitude: profile.mean,
        delta: opts.delta,
        cutoff_cycles_per_pixel: opts.cutoff,
        amplitude_share_within_cutoff: if all > 0.0 { kept / all } else { 1.0 },
    }
}
