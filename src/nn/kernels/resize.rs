//! Nearest-neighbour resizing of channels-last images.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::weight::{numbers, with_numbers};
use super::{Real, for_type, storage_dtype, zeros};

/// `[n, h, w, c]` to `[n, h2, w2, c]`; place `i` comes from `floor(i * from / to)`.
#[derive(Clone, Copy, Debug)]
pub struct Nearest {
    /// `(h, w)`.
    pub from: (usize, usize),
    /// `(h2, w2)`.
    pub to: (usize, usize),
    pub channels: usize,
}

impl Nearest {
    /// Offset in an input image of every output pixel, in order.
    fn sources(&self) -> Vec<usize> {
        let rows = (0..self.to.0).map(|y| y * self.from.0 / self.to.0);
        let columns =
            |y: usize| (0..self.to.1).map(move |x| y * self.from.1 + x * self.from.1 / self.to.1);
        rows.flat_map(columns)
            .map(|pixel| pixel * self.channels)
            .collect()
    }

    fn forward<T: Real>(&self, x: &[T], y: &mut [T]) {
        let sources = self.sources();
        let images = x.par_chunks_exact(self.from.0 * self.from.1 * self.channels);
        images
            .zip(y.par_chunks_exact_mut(sources.len() * self.channels))
            .for_each(|(x, y)| {
                for (&source, y) in sources.iter().zip(y.chunks_exact_mut(self.channels)) {
                    y.copy_from_slice(&x[source..source + self.channels]);
                }
            });
    }

    fn backward<T: Real>(&self, grad: &[T], dx: &mut [T]) {
        let sources = self.sources();
        let images = dx.par_chunks_exact_mut(self.from.0 * self.from.1 * self.channels);
        images
            .zip(grad.par_chunks_exact(sources.len() * self.channels))
            .for_each(|(dx, grad)| {
                for (&source, grad) in sources.iter().zip(grad.chunks_exact(self.channels)) {
                    for (dx, &g) in dx[source..source + self.channels].iter_mut().zip(grad) {
                        *dx += g;
                    }
                }
            });
    }
}

impl CustomOp1 for Nearest {
    fn name(&self) -> &'static str {
        "upsample nearest"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let images = layout.shape().dims4()?.0;
        for_type!(storage_dtype(storage), T, {
            let x = numbers::<T>(self.name(), storage, layout)?;
            let mut y = zeros::<T>(images * self.to.0 * self.to.1 * self.channels);
            self.forward(x, &mut y);
            Ok((
                T::to_cpu_storage_owned(y),
                (images, self.to.0, self.to.1, self.channels).into(),
            ))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        // The input's numbers are not read: a chain of operations may not have kept them.
        for_type!(x.dtype(), T, {
            let mut dx = zeros::<T>(x.elem_count());
            with_numbers::<T, _>(&grad, |g| self.backward(g, &mut dx))?;
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}
