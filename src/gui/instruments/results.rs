//! What the instruments' thread computes, and how one motion vector and one clip are taken apart.
//!
//! Motion vectors are differences of brightness in the clip's pixels, or of one channel of the model's latents. Latents are
//! small: the processor takes them apart. Bands are always those of pixels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::job::Latents;
use crate::motion::picture::Range;
use crate::motion::{Flow, luma, optical_flow};
use crate::spectral::plain::{
    Fft2, RadialProfile, Residual, amplitude, fftshift, max_levels, phase, radial_profile,
};
use crate::video::Frame;
use crate::viz::{
    BandEnergies, BandStages, Gpu, GpuError, Painter, SpectrumStages, WeightStages, bands_on_cpu,
    residual_rows,
};

/// Values that a colour range is taken from; more would only cost time.
const RANGE_VALUES: usize = 200_000;

/// A clip to look at: at least two frames of one size.
#[derive(Clone, Debug)]
pub(super) struct ClipInput {
    /// Counts up with every clip, so that old results are known.
    pub id: u64,
    pub frames: Arc<[Frame]>,
    pub fps: f64,
}

impl PartialEq for ClipInput {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl ClipInput {
    /// Nothing for frames that hold no motion: fewer than two, damaged, or of several sizes.
    pub(super) fn new(id: u64, frames: Arc<[Frame]>, fps: f64) -> Option<Self> {
        let size = frames.first().map(|f| (f.width, f.height))?;
        let alike = |f: &Frame| f.is_valid() && (f.width, f.height) == size;
        let whole = frames.len() >= 2 && frames.iter().all(alike);
        whole.then_some(Self { id, frames, fps })
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = |f: &Frame| (f.height as usize, f.width as usize);
        self.frames.first().map_or((0, 0), size)
    }

    /// Motion vectors: one fewer than the frames.
    pub(super) fn steps(&self) -> usize {
        self.frames.len() - 1
    }

    /// The motion vector that starts at a frame; the last one for the last frame.
    pub(super) fn step_at(&self, frame: usize) -> usize {
        frame.min(self.steps() - 1)
    }

    pub(super) fn levels(&self, wish: Option<usize>) -> usize {
        let most = max_levels(self.frames.len());
        wish.unwrap_or(most).min(most)
    }
}

/// A clip's latents.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    /// Of the clip.
    pub id: u64,
    pub latents: Arc<Latents>,
}

impl PartialEq for Encoded {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// What motion vectors are differences of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Plane {
    /// Brightness.
    #[default]
    Pixels,
    /// A channel of the model's latents, from 0.
    Latent(usize),
}

impl Plane {
    /// What it is called.
    pub(super) fn name(self) -> String {
        match self {
            Self::Pixels => "Pixels".to_owned(),
            Self::Latent(channel) => format!("Latent {}", channel + 1),
        }
    }

    /// What a place is counted in.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Pixels => "px",
            Self::Latent(_) => "latent px",
        }
    }
}

/// A number that no other result has: what a picture was drawn from.
fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One motion vector and its spectrum; planes are `[h, w]`, spectra shifted.
#[derive(Debug)]
pub(super) struct Motion {
    pub serial: u64,
    pub plane: Plane,
    pub step: usize,
    pub h: usize,
    pub w: usize,
    pub residual: Vec<f32>,
    /// Mean and largest size of the residual.
    pub mean: f64,
    pub most: f64,
    pub amplitude: Vec<f32>,
    pub phase: Vec<f32>,
    /// Of the amplitude.
    pub profile: RadialProfile,
}

/// The flow between a frame and the next.
#[derive(Debug)]
pub(super) struct FlowAt {
    pub serial: u64,
    pub step: usize,
    pub flow: Flow,
    /// Rightward and downward motion of each pixel.
    pub pairs: Vec<[f32; 2]>,
    pub speed: Vec<f32>,
    pub fastest: f64,
}

/// Wavelet bands of a clip.
#[derive(Debug)]
pub(super) struct Bands {
    pub serial: u64,
    pub residual: Residual,
    pub levels: usize,
    pub energies: BandEnergies,
    /// Root mean square change at each pixel and its range, band by band: the square root of an energy is an amplitude,
    /// which shows weak motion too.
    pub rms: Vec<(Vec<f32>, f64)>,
}

/// What is known of one clip.
#[derive(Clone, Default)]
pub(super) struct Side {
    pub clip: Option<ClipInput>,
    /// What its motion vector is taken from.
    pub plane: Plane,
    /// Magnitude of motion that a colour map spans, over the whole clip.
    pub residual_high: f64,
    /// Largest `ln(1 + |F|)` of the motion vectors seen so far.
    pub log_high: f64,
    /// Largest speed seen so far, pixels per frame.
    pub speed_high: f64,
    pub motion: Option<Arc<Motion>>,
    pub flow: Option<Arc<FlowAt>>,
    pub bands: Option<Arc<Bands>>,
}

/// Everything the panes draw. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Shown {
    /// Reference, sample.
    pub sides: [Side; 2],
    /// The clip's id and its frames from the audible bands.
    pub audible: Option<(u64, Arc<[Frame]>)>,
    pub engine: Option<Arc<Engine>>,
    /// Why the processor draws.
    pub note: Option<String>,
    /// Why the latents are not there yet, side by side with `sides`.
    pub waiting: [Option<String>; 2],
}

/// What draws: the pipelines on the window's own device, made once.
pub(super) struct Engine {
    pub gpu: Gpu,
    pub weight: WeightStages,
    pub painter: Painter,
}

impl Engine {
    pub(super) fn new(gpu: Gpu) -> Result<Self, GpuError> {
        Ok(Self {
            weight: WeightStages::new(&gpu)?,
            painter: Painter::new(&gpu)?,
            gpu,
        })
    }
}

/// What computes, on the thread's device.
pub(super) struct Computer {
    gpu: Gpu,
    spectrum: SpectrumStages,
    bands: BandStages,
}

impl Computer {
    pub(super) fn new(window: &Gpu) -> Result<Self, GpuError> {
        let gpu = window.second()?;
        Ok(Self {
            spectrum: SpectrumStages::new(&gpu)?,
            bands: BandStages::new(&gpu)?,
            gpu,
        })
    }
}

/// The magnitude that almost all motion of the clip stays below, from evenly spread pixels.
pub(super) fn residual_high(clip: &ClipInput) -> f64 {
    let (h, w) = clip.size();
    let stride = (clip.steps() * h * w / RANGE_VALUES).max(1);
    let mut values = Vec::new();
    for pair in clip.frames.windows(2) {
        for at in (0..h * w).step_by(stride) {
            let bright = |f: &Frame| luma(&f.rgb[3 * at..3 * at + 3])[0];
            values.push(bright(&pair[1]) - bright(&pair[0]));
        }
    }
    Range::from_zero([&values]).high
}

/// Mean and largest magnitude.
fn sizes(values: &[f32]) -> (f64, f64) {
    let sizes = values.iter().map(|v| f64::from(v.abs()));
    let sum: f64 = sizes.clone().sum();
    (sum / values.len().max(1) as f64, sizes.fold(0.0, f64::max))
}

/// A motion vector and its spectrum on the device.
pub(super) fn motion_on_gpu(
    computer: &Computer,
    clip: &ClipInput,
    step: usize,
    kind: Residual,
) -> Result<Motion, GpuError> {
    let (h, w) = clip.size();
    let (gpu, stages) = (&computer.gpu, &computer.spectrum);
    let plane = stages.residual(gpu, &clip.frames[step], &clip.frames[step + 1], kind);
    let parts = stages.transform(gpu, plane, (h, w))?;
    let residual: Vec<f32> = gpu.read(&parts.plane)?;
    let (mean, most) = sizes(&residual);
    Ok(Motion {
        serial: serial(),
        plane: Plane::Pixels,
        step,
        h,
        w,
        residual,
        mean,
        most,
        amplitude: gpu.read(&parts.amplitude)?,
        phase: gpu.read(&parts.phase)?,
        profile: stages.profile(gpu, &parts)?,
    })
}

/// The twin of [`motion_on_gpu`].
pub(super) fn motion_on_cpu(clip: &ClipInput, step: usize, kind: Residual) -> Motion {
    let (h, w) = clip.size();
    let residual = residual_rows(&clip.frames[step..step + 2], &(0..h * w), kind);
    taken_apart(residual, (h, w), step, Plane::Pixels)
}

/// The magnitude that almost all motion of the latents stays below, over all channels, so that they can be compared.
pub(super) fn latent_high(latents: &Latents) -> f64 {
    let mut values = Vec::new();
    for channel in 0..latents.channels {
        for step in 0..latents.frames.saturating_sub(1) {
            values.extend(latent_residual(latents, channel, step, Residual::Signed));
        }
    }
    Range::from_zero([&values]).high
}

/// The change of one channel from a frame to the next.
fn latent_residual(latents: &Latents, channel: usize, step: usize, kind: Residual) -> Vec<f32> {
    let (now, next) = (
        latents.plane(channel, step),
        latents.plane(channel, step + 1),
    );
    let change = now.iter().zip(next).map(|(now, next)| next - now);
    match kind {
        Residual::Signed => change.collect(),
        Residual::Abs => change.map(f32::abs).collect(),
    }
}

/// A motion vector of the latents and its spectrum.
pub(super) fn motion_of_latents(
    latents: &Latents,
    channel: usize,
    step: usize,
    kind: Residual,
) -> Motion {
    let channel = channel.min(latents.channels.saturating_sub(1));
    let residual = latent_residual(latents, channel, step, kind);
    let size = (latents.height, latents.width);
    taken_apart(residual, size, step, Plane::Latent(channel))
}

fn taken_apart(residual: Vec<f32>, (h, w): (usize, usize), step: usize, plane: Plane) -> Motion {
    let spectrum = Fft2::<f32>::new(h, w).forward(&residual);
    let amplitude = fftshift(&amplitude(&spectrum), h, w);
    let (mean, most) = sizes(&residual);
    Motion {
        serial: serial(),
        plane,
        step,
        h,
        w,
        phase: fftshift(&phase(&spectrum, h, w), h, w),
        profile: radial_profile(&amplitude, h, w),
        residual,
        mean,
        most,
        amplitude,
    }
}

pub(super) fn flow_at(clip: &ClipInput, step: usize) -> FlowAt {
    let (h, w) = clip.size();
    let bright = |f: &Frame| luma(&f.rgb);
    let (now, next) = (bright(&clip.frames[step]), bright(&clip.frames[step + 1]));
    let flow = optical_flow(&now, &next, w, h);
    FlowAt {
        serial: serial(),
        step,
        pairs: flow
            .dx
            .iter()
            .zip(&flow.dy)
            .map(|(&x, &y)| [x, y])
            .collect(),
        fastest: f64::from(flow.max_speed()),
        speed: flow.speed(),
        flow,
    }
}

/// The bands of a clip, on the device if there is one; nothing if `stop` says so.
pub(super) fn bands_of(
    computer: Option<&Computer>,
    clip: &ClipInput,
    (residual, levels): (Residual, usize),
    stop: &dyn Fn() -> bool,
) -> Result<Option<Bands>, GpuError> {
    let energies = match computer {
        Some(computer) => {
            let (gpu, stages) = (&computer.gpu, &computer.bands);
            stages.energies(gpu, &clip.frames, (residual, levels), stop)?
        }
        None => bands_on_cpu(&clip.frames, residual, levels, stop),
    };
    let rms = |map: &Vec<f32>| {
        let rms: Vec<f32> = map.iter().map(|e| e.sqrt()).collect();
        let high = Range::from_zero([&rms]).high;
        (rms, high)
    };
    Ok(energies.map(|energies| Bands {
        serial: serial(),
        residual,
        levels,
        rms: energies.maps.iter().map(rms).collect(),
        energies,
    }))
}
