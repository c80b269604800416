//! Layer norm over the last axis.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::simd::vectorized;
use super::weight::numbers;
use super::{Real, for_type, gradient, storage_dtype, zeros};

/// Numbers of one piece of work.
const CHUNK: usize = 1 << 14;
/// Partial sums kept side by side: whole vector registers, and less rounding than one long sum.
const LANES: usize = 16;

/// Layer norm with a frozen scale and shift.
#[derive(Clone, Debug)]
pub struct LayerNormOp {
    pub weight: Arc<Vec<f64>>,
    pub bias: Arc<Vec<f64>>,
    pub eps: f64,
}

/// `Σ f(a, b)` over two rows of the same length, the partial sums added in f64.
#[inline(always)]
fn sum<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> f64 {
    let mut lanes = [T::ZERO; LANES];
    let (mut xs, mut ys) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += f(x, y);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(xs.remainder()).zip(ys.remainder()) {
        *lane += f(x, y);
    }
    lanes.iter().map(|lane| lane.to_f64()).sum()
}

impl LayerNormOp {
    /// Mean and reciprocal standard deviation of a row.
    #[inline(always)]
    fn statistics<T: Real>(&self, x: &[T]) -> (T, T) {
        let count = x.len() as f64;
        let mean = T::from_f64(sum(x, x, |x, _| x) / count);
        let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / count;
        (mean, T::from_f64(1.0 / (variance + self.eps).sqrt()))
    }

    fn forward<T: Real>(&self, x: &[T], y: &mut [T]) {
        let (weight, bias) = (converted::<T>(&self.weight), converted::<T>(&self.bias));
        let width = weight.len().max(1);
        let size = width * (CHUNK / width).max(1);
        x.par_chunks(size)
            .zip(y.par_chunks_mut(size))
            .for_each(|(x, y)| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                            let (mean, scale) = self.statistics(x);
                            let affine = weight.iter().zip(&bias);
                            for ((y, &x), (&w, &b)) in y.iter_mut().zip(x).zip(affine) {
                                *y = (x - mean) * scale * w + b;
                            }
                        }
                    },
                );
            });
    }

    /// With `h = grad * weight` and `n` the normed row: `dx = (h - mean(h) - n mean(h n)) / deviation`.
    fn backward<T: Real>(&self, x: &[T], grad: &[T], dx: &mut [T]) {
        let weight = converted::<T>(&self.weight);
        let width = weight.len().max(1);
        let size = width * (CHUNK / width).max(1);
        let pieces = x
            .par_chunks(size)
            .zip(grad.par_chunks(size))
            .zip(dx.par_chunks_mut(size));
        pieces.for_each(|((x, grad), dx)| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
                    for ((x, grad), dx) in rows.zip(dx.chunks_exact_mut(width)) {
                        let (mean, scale) = self.statistics(x);
                        for ((h, &g), &w) in dx.iter_mut().zip(grad).zip(&weight) {
                            *h = g * w;
                        }
                        let count = width as f64;
                        let mean_h = T::from_f64(sum(dx, dx, |h, _| h) / count);
                        let mean_hn =
                            T::from_f64(sum(dx, x, |h, x| h * (x - mean) * scale) / count);
                        for (h, &x) in dx.iter_mut().zip(x) {
                            *h = (*h - mean_h - (x - mean) * scale * mean_hn) * scale;
                        }
                    }
                },
            );
        });
    }
}

/// Numbers kept in f64 in the type of a kernel.
pub fn converted<T: Real>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| T::from_f64(v)).collect()
}

impl CustomOp1 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        for_type!(storage_dtype(storage), T, {
            let x = numbers::<T>(self.name(), storage, layout)?;
            let mut y = zeros::<T>(x.len());
            self.forward(x, &mut y);
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        for_type!(
            x.dtype(),
            T,
            gradient::<T>(x, grad, |x, g, dx| self.backward(x, g, dx))
        )
        .map(Some)
    }
}
