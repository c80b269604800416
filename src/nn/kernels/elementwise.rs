//! Activation functions, number by number.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::simd::vectorized;
use super::weight::numbers;
use super::{Real, for_type, gradient, storage_dtype, zeros};

/// Numbers of one piece of work.
const CHUNK: usize = 1 << 14;

/// An activation function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    Gelu,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

/// Slope of the logistic function in the quick form of GELU (Hendrycks and Gimpel 2016).
const QUICK: f64 = 1.702;

/// `x * sigmoid(a x)` and its derivative.
#[inline(always)]
pub fn gated<T: Real>(x: T, a: T) -> (T, T) {
    let s = (a * x).sigmoid();
    (x * s, s + a * x * s * (T::ONE - s))
}

/// `x * Φ(x)` and its derivative.
#[inline(always)]
fn gelu<T: Real>(x: T) -> (T, T) {
    let (cdf, density) = x.normal();
    (x * cdf, cdf + x * density)
}

impl Activation {
    fn forward<T: Real>(self, x: &[T], y: &mut [T]) {
        let a = T::from_f64(QUICK);
        match self {
            Self::Silu => map(x, y, |x| gated(x, T::ONE).0),
            Self::Gelu => map(x, y, |x| gelu(x).0),
            Self::QuickGelu => map(x, y, |x| gated(x, a).0),
        }
    }

    fn backward<T: Real>(self, x: &[T], grad: &[T], dx: &mut [T]) {
        let a = T::from_f64(QUICK);
        match self {
            Self::Silu => zip(x, grad, dx, |x, g| g * gated(x, T::ONE).1),
            Self::Gelu => zip(x, grad, dx, |x, g| g * gelu(x).1),
            Self::QuickGelu => zip(x, grad, dx, |x, g| g * gated(x, a).1),
        }
    }
}

fn map<T: Real>(x: &[T], y: &mut [T], f: impl Fn(T) -> T + Sync) {
    let piece = |(x, y): (&[T], &mut [T])| {
        vectorized(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = f(x);
                }
            },
        );
    };
    if x.len() <= CHUNK {
        piece((x, y));
    } else {
        x.par_chunks(CHUNK)
            .zip(y.par_chunks_mut(CHUNK))
            .for_each(piece);
    }
}

fn zip<T: Real>(x: &[T], g: &[T], y: &mut [T], f: impl Fn(T, T) -> T + Sync) {
    let piece = |((x, g), y): ((&[T], &[T]), &mut [T])| {
        vectorized(
            #[inline(always)]
            || {
                for ((y, &x), &g) in y.iter_mut().zip(x).zip(g) {
                    *y = f(x, g);
                }
            },
        );
    };
    if x.len() <= CHUNK {
        piece(((x, g), y));
    } else {
        x.par_chunks(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .zip(y.par_chunks_mut(CHUNK))
            .for_each(piece);
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::QuickGelu => "quick gelu",
        }
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

/// `u * gelu(g)` of the halves `(u, g)` of every row: `[.., 2c]` to `[.., c]`.
#[derive(Clone, Copy, Debug)]
pub struct Geglu;

impl Geglu {
    fn forward<T: Real>(x: &[T], width: usize, y: &mut [T]) {
        let rows = (CHUNK / width).max(1);
        let piece = |(x, y): (&[T], &mut [T])| {
            vectorized(
                #[inline(always)]
                || {
                    for (x, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
                        let (u, g) = x.split_at(width);
                        for ((y, &u), &g) in y.iter_mut().zip(u).zip(g) {
                            *y = u * gelu(g).0;
                        }
                    }
                },
            );
        };
        x.par_chunks(2 * width * rows)
            .zip(y.par_chunks_mut(width * rows))
            .for_each(piece);
    }

    fn backward<T: Real>(x: &[T], grad: &[T], width: usize, dx: &mut [T]) {
        let rows = (CHUNK / width).max(1);
        let piece = |((x, grad), dx): ((&[T], &[T]), &mut [T])| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = x
                        .chunks_exact(2 * width)
                        .zip(dx.chunks_exact_mut(2 * width));
                    for ((x, dx), grad) in rows.zip(grad.chunks_exact(width)) {
                        geglu_row_gradient(x.split_at(width), grad, dx.split_at_mut(width));
                    }
                },
            );
        };
        let xs = x
            .par_chunks(2 * width * rows)
            .zip(grad.par_chunks(width * rows));
        xs.zip(dx.par_chunks_mut(2 * width * rows)).for_each(piece);
    }
}

/// One loop for each result: a compiler does not vectorise a loop that writes two slices it cannot tell apart.
#[inline(always)]
fn geglu_row_gradient<T: Real>((u, g): (&[T], &[T]), grad: &[T], (du, dg): (&mut [T], &mut [T])) {
    for ((du, &g), &grad) in du.iter_mut().zip(g).zip(grad) {
        *du = grad * gelu(g).0;
    }
    for ((dg, &g), (&u, &grad)) in dg.iter_mut().zip(g).zip(u.iter().zip(grad)) {
        *dg = grad * u * gelu(g).1;
    }
}

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut dims = layout.dims().to_vec();
        let width = dims.pop().unwrap_or(0) / 2;
        dims.push(width);
        for_type!(storage_dtype(storage), T, {
            let x = numbers::<T>(self.name(), storage, layout)?;
            let mut y = zeros::<T>(x.len() / 2);
            if width > 0 {
                Self::forward(x, width, &mut y);
            }
            Ok((T::to_cpu_storage_owned(y), dims.into()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = (x.dim(D::Minus1)? / 2).max(1);
        for_type!(
            x.dtype(),
            T,
            gradient::<T>(x, grad, |x, g, dx| Self::backward(x, g, width, dx))
        )
        .map(Some)
    }
}
