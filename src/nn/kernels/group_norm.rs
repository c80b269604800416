//! Group norm of channels-last activations, alone or followed by SiLU.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::elementwise::gated;
use super::layer_norm::converted;
use super::shared::SharedMut;
use super::simd::vectorized;
use super::weight::numbers;
use super::{Real, for_type, gradient, storage_dtype, zeros};

/// Numbers of one piece of work: small enough for a first-level cache, because each is read twice.
const CHUNK: usize = 1 << 13;

/// Group norm of `[n, .., c]` with a frozen scale and shift.
#[derive(Debug)]
pub struct GroupNormOp {
    pub weight: Arc<Vec<f64>>,
    pub bias: Arc<Vec<f64>>,
    pub groups: usize,
    pub eps: f64,
    pub silu: bool,
    /// Mean and reciprocal standard deviation of every group, `[n, groups]`, from the forward pass.
    pub statistics: OnceLock<Vec<(f64, f64)>>,
}

/// Count, mean and sum of squared deviations of some numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Of both sets together (Chan, Golub and LeVeque 1979).
    fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let shift = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + shift * other.count / count,
            squares: self.squares
                + other.squares
                + shift * shift * self.count * other.count / count,
        }
    }
}

/// Per channel: what turns a number into a normed one.
struct Affine<T> {
    mean: Vec<T>,
    /// Reciprocal standard deviation.
    rate: Vec<T>,
}

#[inline(always)]
fn add_row<T: Real>(sums: &mut [T], x: &[T]) {
    for (sum, &x) in sums.iter_mut().zip(x) {
        *sum += x;
    }
}

#[inline(always)]
fn add_squares<T: Real>(sums: &mut [T], x: &[T], mean: &[T]) {
    for ((sum, &x), &mean) in sums.iter_mut().zip(x).zip(mean) {
        *sum += (x - mean) * (x - mean);
    }
}

impl GroupNormOp {
    fn channels(&self) -> usize {
        self.weight.len()
    }

    /// Rows of a piece of work, and pieces of an image of `rows` rows.
    fn pieces(&self, rows: usize) -> (usize, usize) {
        let size = (CHUNK / self.channels().max(1)).clamp(1, rows.max(1));
        (size, rows.div_ceil(size))
    }

    /// Moments of every group of a piece.
    fn moments<T: Real>(&self, x: &[T]) -> Vec<Moments> {
        let channels = self.channels();
        let wide = channels / self.groups;
        let count = (x.len() / channels * wide) as f64;
        let mut sums = vec![T::ZERO; channels];
        vectorized(
            #[inline(always)]
            || {
                for row in x.chunks_exact(channels) {
                    add_row(&mut sums, row);
                }
            },
        );
        let total = |sums: &[T]| sums.iter().map(|v| v.to_f64()).sum::<f64>();
        let means: Vec<f64> = sums
            .chunks_exact(wide)
            .map(|sums| total(sums) / count)
            .collect();
        let per_channel: Vec<T> = (0..channels)
            .map(|c| T::from_f64(means[c / wide]))
            .collect();
        sums.fill(T::ZERO);
        vectorized(
            #[inline(always)]
            || {
                for row in x.chunks_exact(channels) {
                    add_squares(&mut sums, row, &per_channel);
                }
            },
        );
        let squares = sums.chunks_exact(wide).map(total);
        means
            .iter()
            .zip(squares)
            .map(|(&mean, squares)| Moments {
                count,
                mean,
                squares,
            })
            .collect()
    }

    /// Mean and reciprocal standard deviation of every group of every image.
    fn statistics<T: Real>(&self, x: &[T], images: usize) -> Vec<(f64, f64)> {
        let channels = self.channels();
        let rows = x.len() / images / channels;
        let (size, pieces) = self.pieces(rows);
        let moments: Vec<Vec<Moments>> = (0..images * pieces)
            .into_par_iter()
            .map(|job| {
                let first = job % pieces * size;
                let start = (job / pieces * rows + first) * channels;
                self.moments(&x[start..start + size.min(rows - first) * channels])
            })
            .collect();
        let mut statistics = Vec::with_capacity(images * self.groups);
        for image in moments.chunks_exact(pieces) {
            for group in 0..self.groups {
                let all = image
                    .iter()
                    .map(|piece| piece[group])
                    .reduce(Moments::merge)
                    .unwrap_or_default();
                statistics.push((all.mean, 1.0 / (all.squares / all.count + self.eps).sqrt()));
            }
        }
        statistics
    }

    fn affine<T: Real>(&self, statistics: &[(f64, f64)], image: usize) -> Affine<T> {
        let channels = self.channels();
        let wide = channels / self.groups;
        let group = |c: usize| statistics[image * self.groups + c / wide];
        Affine {
            mean: (0..channels).map(|c| T::from_f64(group(c).0)).collect(),
            rate: (0..channels).map(|c| T::from_f64(group(c).1)).collect(),
        }
    }

    /// Calls `f(image, range of numbers)` for every piece, on all threads.
    fn for_pieces(
        &self,
        len: usize,
        images: usize,
        f: impl Fn(usize, std::ops::Range<usize>) + Sync,
    ) {
        let channels = self.channels();
        let rows = len / images / channels;
        let (size, pieces) = self.pieces(rows);
        (0..images * pieces).into_par_iter().for_each(|job| {
            let first = job % pieces * size;
            let start = (job / pieces * rows + first) * channels;
            f(
                job / pieces,
                start..start + size.min(rows - first) * channels,
            );
        });
    }

    #[expect(unsafe_code, reason = "pieces of the result are disjoint")]
    fn forward<T: Real>(&self, x: &[T], images: usize, y: &mut [T]) {
        let statistics = self.statistics(x, images);
        let affine: Vec<Affine<T>> = (0..images)
            .map(|image| self.affine(&statistics, image))
            .collect();
        let (weight, bias) = (converted::<T>(&self.weight), converted::<T>(&self.bias));
        let y = SharedMut::new(y);
        self.for_pieces(x.len(), images, |image, part| {
            // SAFETY: `for_pieces` gives every number to one piece.
            let y = unsafe { y.part(part.start, part.len()) };
            let (x, Affine { mean, rate }) = (&x[part], &affine[image]);
            vectorized(
                #[inline(always)]
                || {
                    let rows = x
                        .chunks_exact(mean.len())
                        .zip(y.chunks_exact_mut(mean.len()));
                    for (x, y) in rows {
                        norm_row(x, (mean, rate), (&weight, &bias), y);
                        if self.silu {
                            y.iter_mut().for_each(|y| *y = gated(*y, T::ONE).0);
                        }
                    }
                },
            );
        });
        self.statistics.set(statistics).ok();
    }

    /// With `h` the gradient of the normed numbers `n`: `dx = (h - mean(h) - n mean(h n)) * rate`, means over a
    /// group.
    #[expect(unsafe_code, reason = "pieces of the gradient are disjoint")]
    fn backward<T: Real>(&self, x: &[T], grad: &[T], images: usize, dx: &mut [T]) {
        let channels = self.channels();
        let wide = channels / self.groups;
        let statistics = self.statistics.get_or_init(|| self.statistics(x, images));
        let affine: Vec<Affine<T>> = (0..images)
            .map(|image| self.affine(statistics, image))
            .collect();
        let (weight, bias) = (converted::<T>(&self.weight), converted::<T>(&self.bias));
        let rows = x.len() / images / channels;
        let (size, pieces) = self.pieces(rows);
        let mut sums = vec![(0f64, 0f64); images * pieces * self.groups];
        let (shared, shared_sums) = (SharedMut::new(dx), SharedMut::new(&mut sums));
        self.for_pieces(x.len(), images, |image, part| {
            let piece = (part.start / channels - image * rows) / size;
            // SAFETY: `for_pieces` gives every number, and every piece, to one call.
            let (h, sums) = unsafe {
                (
                    shared.part(part.start, part.len()),
                    shared_sums.part((image * pieces + piece) * self.groups, self.groups),
                )
            };
            let pair = self.scaled_gradient(
                (&x[part.clone()], &grad[part]),
                &affine[image],
                (&weight, &bias),
                h,
            );
            for (c, (a, b)) in pair.0.iter().zip(&pair.1).enumerate() {
                sums[c / wide].0 += a.to_f64();
                sums[c / wide].1 += b.to_f64();
            }
        });
        let count = (rows * wide) as f64;
        let means: Vec<(Vec<T>, Vec<T>)> = sums
            .chunks_exact(pieces * self.groups)
            .map(|image| {
                let total = |c: usize| image.iter().skip(c / wide).step_by(self.groups);
                let a = (0..channels)
                    .map(|c| T::from_f64(total(c).map(|s| s.0).sum::<f64>() / count))
                    .collect();
                let b = (0..channels)
                    .map(|c| T::from_f64(total(c).map(|s| s.1).sum::<f64>() / count))
                    .collect();
                (a, b)
            })
            .collect();
        self.for_pieces(x.len(), images, |image, part| {
            // SAFETY: as above.
            let h = unsafe { shared.part(part.start, part.len()) };
            let (x, Affine { mean, rate }, (a, b)) = (&x[part], &affine[image], &means[image]);
            vectorized(
                #[inline(always)]
                || {
                    for (x, h) in x.chunks_exact(channels).zip(h.chunks_exact_mut(channels)) {
                        finish_row(x, (mean, rate), (a, b), h);
                    }
                },
            );
        });
    }

    /// The gradient of the normed numbers into `h`; per channel `Σ h` and `Σ h n`.
    fn scaled_gradient<T: Real>(
        &self,
        (x, grad): (&[T], &[T]),
        Affine { mean, rate }: &Affine<T>,
        (weight, bias): (&[T], &[T]),
        h: &mut [T],
    ) -> (Vec<T>, Vec<T>) {
        let channels = self.channels();
        let mut sums = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
        vectorized(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(channels).zip(grad.chunks_exact(channels));
                for ((x, grad), h) in rows.zip(h.chunks_exact_mut(channels)) {
                    if self.silu {
                        norm_row(x, (mean, rate), (weight, bias), h);
                        h.iter_mut()
                            .zip(grad)
                            .for_each(|(h, &g)| *h = g * gated(*h, T::ONE).1);
                    } else {
                        h.copy_from_slice(grad);
                    }
                    h.iter_mut().zip(weight).for_each(|(h, &w)| *h *= w);
                    add_row(&mut sums.0, h);
                    add_products(&mut sums.1, h, x, (mean, rate));
                }
            },
        );
        sums
    }
}

#[inline(always)]
fn norm_row<T: Real>(
    x: &[T],
    (mean, rate): (&[T], &[T]),
    (weight, bias): (&[T], &[T]),
    y: &mut [T],
) {
    let affine = mean.iter().zip(rate).zip(weight.iter().zip(bias));
    for ((y, &x), ((&mean, &rate), (&w, &b))) in y.iter_mut().zip(x).zip(affine) {
        *y = (x - mean) * rate * w + b;
    }
}

#[inline(always)]
fn add_products<T: Real>(sums: &mut [T], h: &[T], x: &[T], (mean, rate): (&[T], &[T])) {
    let affine = mean.iter().zip(rate);
    for (((sum, &h), &x), (&mean, &rate)) in sums.iter_mut().zip(h).zip(x).zip(affine) {
        *sum += h * ((x - mean) * rate);
    }
}

#[inline(always)]
fn finish_row<T: Real>(x: &[T], (mean, rate): (&[T], &[T]), (a, b): (&[T], &[T]), h: &mut [T]) {
    let affine = mean.iter().zip(rate).zip(a.iter().zip(b));
    for ((h, &x), ((&mean, &rate), (&a, &b))) in h.iter_mut().zip(x).zip(affine) {
        *h = (*h - a - (x - mean) * rate * b) * rate;
    }
}

impl CustomOp1 for GroupNormOp {
    fn name(&self) -> &'static str {
        "group norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let images = layout.dims().first().copied().unwrap_or(1);
        for_type!(storage_dtype(storage), T, {
            let x = numbers::<T>(self.name(), storage, layout)?;
            let mut y = zeros::<T>(x.len());
            if !x.is_empty() {
                self.forward(x, images, &mut y);
            }
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let images = x.dim(0)?;
        for_type!(
            x.dtype(),
            T,
            gradient::<T>(x, grad, |x, g, dx| self.backward(x, g, images, dx))
        )
        .map(Some)
    }
}
