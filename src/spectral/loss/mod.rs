//! Spectral Motion Alignment: losses between the motion of a clip and of the model's estimate of it.
//!
//! `L = L_host + lambda_g * global + lambda_l * (amplitude + phase)`, where `global` compares wavelet bands of motion in
//! time and `local` compares Fourier amplitude and phase of each motion frame. Both see differences of successive
//! frames only, so neither asks the subject to look like the clip.
//!
//! The first argument is the clip: data, no gradient flows to it. The second is the estimate.
//!
//! Source: Park et al., "Spectral Motion Alignment for Video Motion Transfer using Diffusion Models"
//! (arXiv 2403.15249), equations 16 to 19; spec sma.md.

mod clip;
mod cosine;
mod error;
mod global;
mod gpu;
mod local;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

pub use self::error::SpectralError;
use self::{
    clip::{Clip, tie},
    cosine::CosineDistance,
    global::BandDistance,
    local::LocalPlan,
};
use super::plain::frequency_weight;
pub use super::plain::{Residual, max_levels};

type Result<T> = std::result::Result<T, SpectralError>;

/// More levels than any clip that fits in memory can use; a larger number is a mistake.
const LEVELS_LIMIT: usize = 16;

/// Settings of the spectral losses. The default is the released code: absolute residuals, two levels, delta 0.05.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MotionLossConfig {
    /// Wavelet levels J, 0 to 16; useful up to [`max_levels`]. Paper: 3 for 8 frames, 4 for 16; released code: 2 or 3.
    pub levels: usize,
    /// Weights of the bands `A, D1 (finest), .. DJ`; empty means all 1.
    pub level_weights: Vec<f64>,
    /// Low-frequency bias of the local loss, at least 0: an exponent, see [`frequency_weight`].
    pub delta: f64,
    /// Weight of the highest frequency.
    pub base: f64,
    /// Ignore frequencies beyond this many cycles per pixel; `None` (the paper) keeps all.
    pub cutoff: Option<f64>,
    /// How motion vectors are taken.
    pub residual: Residual,
    /// Compare phases on the circle. Off in the released code, where a difference may reach two pi.
    pub phase_wrap: bool,
    /// Ignore the first row and column of the shifted spectrum, as the paper prints and the code does not.
    pub zero_border: bool,
    /// Scale of the Fourier amplitudes.
    pub fft_norm: FftNorm,
}

impl Default for MotionLossConfig {
    fn default() -> Self {
        Self {
            levels: 2,
            level_weights: Vec::new(),
            delta: 0.05,
            base: 1.0,
            cutoff: None,
            residual: Residual::Abs,
            phase_wrap: false,
            zero_border: false,
            fft_norm: FftNorm::Backward,
        }
    }
}

impl MotionLossConfig {
    /// Say what is out of range, without needing a clip.
    pub fn validate(&self) -> Result<()> {
        let setting = |name, value, why| Err(SpectralError::Setting { name, value, why });
        if self.levels > LEVELS_LIMIT {
            return setting(
                "levels",
                self.levels as f64,
                "use at most 16 wavelet levels",
            );
        }
        if !self.level_weights.is_empty() && self.level_weights.len() != self.levels + 1 {
            let (levels, got) = (self.levels, self.level_weights.len());
            return Err(SpectralError::LevelWeights { levels, got });
        }
        if let Some(&bad) = self
            .level_weights
            .iter()
            .find(|w| !w.is_finite() || **w < 0.0)
        {
            return setting("level weight", bad, "use numbers of at least 0");
        }
        if !self.delta.is_finite() || self.delta < 0.0 {
            return setting(
                "delta",
                self.delta,
                "use a number of at least 0; the paper's is 0.05",
            );
        }
        if !self.base.is_finite() || self.base < 0.0 {
            return setting(
                "base",
                self.base,
                "use a number of at least 0; the paper's is 1",
            );
        }
        match self.cutoff {
            Some(cutoff) if !cutoff.is_finite() || cutoff <= 0.0 => setting(
                "cutoff",
                cutoff,
                "use cycles per pixel above 0 (0.5 is the finest stripe), or leave it out to keep every frequency",
            ),
            _ => Ok(()),
        }
    }
}

/// Scale of the discrete Fourier transform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FftNorm {
    /// Plain sums, as in the released code: amplitudes grow with the frame size.
    #[default]
    Backward,
    /// Divided by `sqrt(h w)`: amplitudes that compare between frame sizes.
    Ortho,
}

/// Which values form one vector in [`SpectralLoss::cosine_alignment`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CosineAxis {
    /// The motion of one pixel and channel over time, as in the released code.
    #[default]
    Frame,
    /// One whole motion frame, all channels and pixels, as the VMC paper writes it.
    Pixel,
}

/// The global loss and its parts.
#[derive(Clone, Debug)]
pub struct GlobalTerms {
    /// Mean absolute difference of each band, unweighted scalars: `A, D1 (finest), .. DJ`.
    pub bands: Vec<Tensor>,
    /// Their weighted sum, the loss.
    pub total: Tensor,
}

/// The two halves of the local loss, scalars; the loss is their sum.
#[derive(Clone, Debug)]
pub struct LocalTerms {
    /// Mean of `w * | |F| - |F_hat| |`.
    pub amplitude: Tensor,
    /// Mean of `w * | angle F - angle F_hat |`.
    pub phase: Tensor,
}

/// The spectral losses, planned for one clip size.
pub struct SpectralLoss {
    config: MotionLossConfig,
    frames: usize,
    size: (usize, usize),
    dtype: DType,
    device: Device,
    local: Arc<LocalPlan>,
    /// The local loss for GPU kernels.
    tables: Option<gpu::Tables>,
}

impl SpectralLoss {
    /// Plan for clips of `frames` frames of `h` by `w`. Results are scalars of `dtype` (f32 or f64) on `device`.
    ///
    /// # Errors
    /// Settings out of range, fewer than 2 frames ([`SpectralError::NoMotion`]), another dtype.
    pub fn new(
        config: &MotionLossConfig,
        frames: usize,
        h: usize,
        w: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        if frames < 2 {
            return Err(SpectralError::NoMotion {
                op: "spectral loss",
                frames,
            });
        }
        if h == 0 || w == 0 {
            return Err(SpectralError::Shape {
                op: "spectral loss",
                expected: vec![1, 1, frames, 1, 1],
                got: vec![1, 1, frames, h, w],
            });
        }
        check_dtype(dtype)?;
        let MotionLossConfig {
            delta,
            base,
            cutoff,
            zero_border,
            ..
        } = *config;
        let weight = frequency_weight(h, w, delta, base, cutoff, zero_border);
        let ortho = config.fft_norm == FftNorm::Ortho;
        let local = LocalPlan::new(&weight, (h, w), ortho, config.phase_wrap);
        let tables = if gpu::is_capable(device) {
            Some(gpu::Tables::new(&local, device)?)
        } else {
            None
        };
        Ok(Self {
            config: config.clone(),
            frames,
            size: (h, w),
            dtype,
            device: device.clone(),
            local: Arc::new(local),
            tables,
        })
    }

    /// The settings it was planned with.
    pub fn config(&self) -> &MotionLossConfig {
        &self.config
    }

    /// L1 distance between wavelet bands of motion in time.
    ///
    /// Shape: `v0` (the clip) and `v0hat` (the estimate) are `[b, c, f, h, w]`. Each band's term is a mean over that
    /// band alone, as in the released code. Source: equation 19, spec sma.md 2.2.
    ///
    /// # Errors
    /// Shapes that differ from each other or from the plan.
    pub fn global(&self, v0: &Tensor, v0hat: &Tensor) -> Result<GlobalTerms> {
        const OP: &str = "global motion loss";
        self.check_pair(OP, v0, v0hat)?;
        let (levels, residual) = (self.config.levels, self.config.residual);
        let on_gpu = gpu::global([v0, v0hat], self.dtype, levels, residual)?;
        let bands = if let Some(bands) = on_gpu {
            bands
        } else {
            let (host, reference, estimate) = self.pair(v0, v0hat)?;
            let distance = BandDistance::new(&reference, &estimate, levels);
            drop(reference);
            tie(&host, distance.means(), &self.device, move |by_means| {
                estimate.pull_back(&distance.pull_back(by_means))
            })?
        };
        let mut total = (&bands[0] * self.level_weight(0))?;
        for (i, band) in bands.iter().enumerate().skip(1) {
            total = (total + (band * self.level_weight(i))?)?;
        }
        Ok(GlobalTerms { bands, total })
    }

    /// Weighted L1 distance between Fourier amplitudes and between phases of the motion frames.
    ///
    /// Shape: `v0` (the clip) and `v0hat` (the estimate) are `[b, c, f, h, w]`; means over all bins of all frames.
    /// Where a bin of the estimate is exactly 0 its gradient is 0; nearly silent bins are bounded (spec sma.md 3.3).
    ///
    /// # Errors
    /// Shapes that differ from each other or from the plan.
    pub fn local(&self, v0: &Tensor, v0hat: &Tensor) -> Result<LocalTerms> {
        self.check_pair("local motion loss", v0, v0hat)?;
        if let Some(tables) = &self.tables
            && let Some([amplitude, phase]) =
                tables.local([v0, v0hat], self.dtype, self.config.residual)?
        {
            return Ok(LocalTerms { amplitude, phase });
        }
        let (host, reference, estimate) = self.pair(v0, v0hat)?;
        let distance = self.local.compare(&reference.motion(), &estimate.motion());
        drop(reference);
        let terms = tie(
            &host,
            distance.terms.to_vec(),
            &self.device,
            move |by_terms| estimate.pull_back(&distance.pull_back(by_terms)),
        )?;
        Ok(LocalTerms {
            amplitude: terms[0].clone(),
            phase: terms[1].clone(),
        })
    }

    /// `1 - mean cosine` between the motion of `pred` and of `target`, both `[b, c, f, h, w]`: VMC's base loss.
    ///
    /// Gradients flow to `pred` only. Norms are clamped at 1e-8 and still vectors get no gradient, as in PyTorch's
    /// `cosine_similarity`. Runs in f64 inside, returns the dtype and device of `pred` (f32 or f64).
    /// Source: VMC (arXiv 2312.00845), spec sma.md 4.
    ///
    /// # Errors
    /// Shapes that differ, fewer than 2 frames, another dtype.
    pub fn cosine_alignment(
        pred: &Tensor,
        target: &Tensor,
        residual: Residual,
        axis: CosineAxis,
    ) -> Result<Tensor> {
        const OP: &str = "cosine motion loss";
        check_dtype(pred.dtype())?;
        let (_, c, frames, h, w) = pred.dims5()?;
        if frames < 2 {
            return Err(SpectralError::NoMotion { op: OP, frames });
        }
        check_shape(OP, pred.dims(), target)?;
        if let Some(loss) = gpu::cosine(pred, target, residual, axis)? {
            return Ok(loss);
        }
        let host = pred.to_device(&Device::Cpu)?;
        let target = target
            .detach()
            .to_dtype(pred.dtype())?
            .to_device(&Device::Cpu)?;
        let estimate = Clip::read(&host, residual)?;
        let (motion, target) = (estimate.motion(), Clip::read(&target, residual)?.motion());
        let distance = match axis {
            CosineAxis::Frame => CosineDistance::along_frames(&motion, &target, frames - 1, h * w),
            CosineAxis::Pixel => {
                CosineDistance::along_pixels(&motion, &target, c, frames - 1, h * w)
            }
        };
        let CosineDistance { value, slope } = distance;
        let scalars = tie(&host, vec![value], pred.device(), move |by_value| {
            let by_motion: Vec<f64> = slope.iter().map(|s| s * by_value[0]).collect();
            estimate.pull_back(&by_motion)
        })?;
        Ok(scalars[0].clone())
    }

    fn level_weight(&self, band: usize) -> f64 {
        self.config.level_weights.get(band).copied().unwrap_or(1.0)
    }

    fn check_pair(&self, op: &'static str, v0: &Tensor, v0hat: &Tensor) -> Result<()> {
        let (b, c) = match *v0hat.dims() {
            [b, c, ..] => (b, c),
            _ => (1, 1),
        };
        let expected = [b, c, self.frames, self.size.0, self.size.1];
        check_shape(op, &expected, v0hat)?;
        check_shape(op, &expected, v0)
    }

    /// The estimate on the host with its graph, and both clips' values.
    fn pair(&self, v0: &Tensor, v0hat: &Tensor) -> Result<(Tensor, Clip, Clip)> {
        let host = v0hat.to_dtype(self.dtype)?.to_device(&Device::Cpu)?;
        let v0 = v0.detach().to_dtype(self.dtype)?.to_device(&Device::Cpu)?;
        let reference = Clip::read(&v0, self.config.residual)?;
        let estimate = Clip::read(&host, self.config.residual)?;
        Ok((host, reference, estimate))
    }
}

fn check_dtype(dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::F64 => Ok(()),
        other => Err(SpectralError::DType(other)),
    }
}

fn check_shape(op: &'static str, expected: &[usize], x: &Tensor) -> Result<()> {
    if x.dims() == expected {
        return Ok(());
    }
    Err(SpectralError::Shape {
        op,
        expected: expected.to_vec(),
        got: x.dims().to_vec(),
    })
}
