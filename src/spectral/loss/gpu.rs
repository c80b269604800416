//! The losses on an NVIDIA GPU: two or three kernels each way, in f64 inside, and nothing read back.
//!
//! Each function gives nothing where the tensors lie elsewhere or the kernels do not take their sizes; the host then computes.

use candle_core::{DType, Device, Result, Tensor};

use super::local::LocalPlan;
use super::{CosineAxis, Residual};
use crate::nn::cuda::{Given, Planned, is_ready};
use crate::nn::plan::{self, ClipSize, CosineAlong, LocalPlanSize};

pub(super) use crate::nn::cuda::is_capable;

fn clip_size(x: &Tensor, residual: Residual) -> Result<ClipSize> {
    let (b, c, frames, h, w) = x.dims5()?;
    Ok(ClipSize {
        planes: b * c,
        frames,
        size: (h, w),
        absolute: residual == Residual::Abs,
    })
}

/// The mean of each band for the clip and its estimate.
pub(super) fn global(
    [v0, v0hat]: [&Tensor; 2],
    dtype: DType,
    levels: usize,
    residual: Residual,
) -> Result<Option<Vec<Tensor>>> {
    let clip = clip_size(v0hat, residual)?;
    if !is_ready(v0hat) || !clip.fits(levels) {
        return Ok(None);
    }
    let forward = plan::global_forward(dtype, &clip, levels)?;
    let backward = plan::global_backward(dtype, &clip, levels)?;
    let planned = Planned {
        constants: vec![v0.to_dtype(dtype)?.to_device(v0hat.device())?],
        given: vec![Given::Argument(0), Given::Constant(0), Given::Gradient],
        ..Planned::new("global motion loss", &[levels + 1], forward, backward)
    };
    let means = planned.apply1(&v0hat.to_dtype(dtype)?)?;
    (0..=levels)
        .map(|band| means.get(band))
        .collect::<Result<_>>()
        .map(Some)
}

/// What the local loss needs on the device.
pub(super) struct Tables {
    tensors: [Tensor; 4],
    amplitude_scale: f64,
    wrap: bool,
}

impl Tables {
    pub fn new(local: &LocalPlan, device: &Device) -> Result<Self> {
        let (tables, amplitude_scale, wrap) = local.tables();
        let [rows, columns, weight, mask] =
            tables.map(|table| Tensor::new(table, &Device::Cpu)?.to_device(device));
        Ok(Self {
            tensors: [rows?, columns?, weight?, mask?],
            amplitude_scale,
            wrap,
        })
    }

    /// The amplitude term and the phase term for the clip and its estimate.
    pub fn local(
        &self,
        [v0, v0hat]: [&Tensor; 2],
        dtype: DType,
        residual: Residual,
    ) -> Result<Option<[Tensor; 2]>> {
        if !is_ready(v0hat) {
            return Ok(None);
        }
        let local = LocalPlanSize {
            clip: clip_size(v0hat, residual)?,
            amplitude_scale: self.amplitude_scale,
            wrap: self.wrap,
        };
        let forward = plan::local_forward(dtype, &local)?;
        let backward = plan::local_backward(dtype, &local)?;
        let mut constants = vec![v0.to_dtype(dtype)?.to_device(v0hat.device())?];
        constants.extend(self.tensors.iter().cloned());
        let planned = Planned {
            constants,
            given: vec![
                Given::Argument(0),
                Given::Kept(1),
                Given::Gradient,
                Given::Constant(1),
                Given::Constant(2),
            ],
            ..Planned::new("local motion loss", &[2], forward, backward)
        };
        let terms = planned.apply1(&v0hat.to_dtype(dtype)?)?;
        Ok(Some([terms.get(0)?, terms.get(1)?]))
    }
}

/// One minus the mean cosine between motions.
pub(super) fn cosine(
    pred: &Tensor,
    target: &Tensor,
    residual: Residual,
    axis: CosineAxis,
) -> Result<Option<Tensor>> {
    if !is_ready(pred) {
        return Ok(None);
    }
    let (clips, channels, frames, h, w) = pred.dims5()?;
    let cosine = CosineAlong {
        clips,
        channels,
        frames,
        positions: h * w,
        absolute: residual == Residual::Abs,
        pixels: axis == CosineAxis::Pixel,
    };
    let forward = plan::cosine_forward(pred.dtype(), &cosine)?;
    let backward = plan::cosine_backward(pred.dtype(), &cosine)?;
    let planned = Planned {
        constants: vec![target.to_dtype(pred.dtype())?.to_device(pred.device())?],
        given: vec![
            Given::Argument(0),
            Given::Constant(0),
            Given::Kept(1),
            Given::Gradient,
        ],
        ..Planned::new("cosine motion loss", &[], forward, backward)
    };
    planned.apply1(pred).map(Some)
}
