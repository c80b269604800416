//! Between tensors and slices: clips as `f64` values on the host, and values tied back into the graph.
//!
//! The losses are computed in `f64`, whatever the type of the network: their input is one small clip (2 MB at most), so they
//! cost a few milliseconds, they give the same number everywhere, and the guarded derivatives need no graph of tiny
//! operations. Here they are computed on the host; `gpu.rs` has the same for tensors on an NVIDIA GPU.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use crate::spectral::plain::Residual;

/// `[b * c, f, s]` values of a clip, and how motion is taken from them.
pub(super) struct Clip {
    pub values: Vec<f64>,
    pub frames: usize,
    /// `h * w`.
    pub positions: usize,
    pub residual: Residual,
}

impl Clip {
    /// Read `x` (`[b, c, f, h, w]`, f32 or f64, on the host) without its graph.
    pub fn read(x: &Tensor, residual: Residual) -> Result<Self> {
        let (_, _, frames, h, w) = x.dims5()?;
        Ok(Self {
            values: read(x)?,
            frames,
            positions: h * w,
            residual,
        })
    }

    /// Motion vectors, `[b * c, f - 1, s]`.
    pub fn motion(&self) -> Vec<f64> {
        let series = self.frames * self.positions;
        let mut out = Vec::with_capacity(self.values.len());
        for x in self.values.chunks_exact(series) {
            let steps = x
                .iter()
                .zip(&x[self.positions..])
                .map(|(now, next)| next - now);
            match self.residual {
                Residual::Signed => out.extend(steps),
                Residual::Abs => out.extend(steps.map(f64::abs)),
            }
        }
        out
    }

    /// From the gradient by motion vectors, `[b * c, f - 1, s]`, to the gradient by the clip, `[b * c, f, s]`.
    ///
    /// The derivative of `|d|` at `d = 0` is 0, as in PyTorch: still pixels get no gradient.
    pub fn pull_back(&self, by_motion: &[f64]) -> Vec<f64> {
        let (f, s) = (self.frames, self.positions);
        let mut by_clip = vec![0.0; self.values.len()];
        by_clip
            .par_chunks_exact_mut(f * s)
            .zip(self.values.par_chunks_exact(f * s))
            .zip(by_motion.par_chunks_exact((f - 1) * s))
            .for_each(|((out, x), gradient)| {
                for (i, &g) in gradient.iter().enumerate() {
                    let g = match self.residual {
                        Residual::Signed => g,
                        Residual::Abs => g * sign(x[i + s] - x[i]),
                    };
                    out[i + s] += g;
                    out[i] -= g;
                }
            });
        by_clip
    }
}

/// -1, 0 or 1, with `sign(0) = 0` (`f64::signum(0.0)` is 1, and so is candle's derivative of `abs` there).
pub(super) fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        0.0
    }
}

/// A function that turns the gradient by each value into the gradient by the input, in the input's order.
type PullBack = dyn Fn(&[f64]) -> Vec<f64> + Send + Sync;

/// Values computed from a tensor outside the graph, with their derivative.
struct Tied {
    values: Vec<f64>,
    pull_back: Box<PullBack>,
}

impl CustomOp1 for Tied {
    fn name(&self) -> &'static str {
        "spectral-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = self.values.iter();
        let storage = match storage {
            CpuStorage::F32(_) => CpuStorage::F32(values.map(|&v| v as f32).collect()),
            _ => CpuStorage::F64(values.copied().collect()),
        };
        Ok((storage, Shape::from(self.values.len())))
    }

    fn bwd(&self, input: &Tensor, _values: &Tensor, by_values: &Tensor) -> Result<Option<Tensor>> {
        let by_input = (self.pull_back)(&read(by_values)?);
        Ok(Some(write(by_input, input.dtype(), input.dims())?))
    }
}

/// Scalars `values` as functions of `input` (on the host), on `device`.
///
/// `pull_back` gets the gradient by each value and returns the gradient by `input`.
pub(super) fn tie(
    input: &Tensor,
    values: Vec<f64>,
    device: &Device,
    pull_back: impl Fn(&[f64]) -> Vec<f64> + Send + Sync + 'static,
) -> Result<Vec<Tensor>> {
    let count = values.len();
    let tied = input
        .apply_op1(Tied {
            values,
            pull_back: Box::new(pull_back),
        })?
        .to_device(device)?;
    (0..count).map(|i| tied.get(i)).collect()
}

fn read(x: &Tensor) -> Result<Vec<f64>> {
    let flat = x.detach().flatten_all()?;
    match x.dtype() {
        DType::F32 => Ok(flat.to_vec1::<f32>()?.into_iter().map(f64::from).collect()),
        _ => flat.to_vec1::<f64>(),
    }
}

fn write(values: Vec<f64>, dtype: DType, dims: &[usize]) -> Result<Tensor> {
    match dtype {
        DType::F32 => {
            let values: Vec<f32> = values.into_iter().map(f32::from_f64).collect();
            Tensor::from_vec(values, dims, &Device::Cpu)
        }
        _ => Tensor::from_vec(values, dims, &Device::Cpu),
    }
}
