//! The two-dimensional discrete Fourier transform of a plane of any size.

use std::sync::Arc;

use rustfft::{Fft, FftPlanner, num_complex::Complex};

use super::{Real, real};

/// A planned transform of `[h, w]` planes.
#[derive(Clone)]
pub struct Fft2<T: Real> {
    h: usize,
    w: usize,
    rows: Arc<dyn Fft<T>>,
    columns: Arc<dyn Fft<T>>,
    rows_inverse: Arc<dyn Fft<T>>,
    columns_inverse: Arc<dyn Fft<T>>,
}

impl<T: Real> std::fmt::Debug for Fft2<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fft2")
            .field("h", &self.h)
            .field("w", &self.w)
            .finish_non_exhaustive()
    }
}

impl<T: Real> Fft2<T> {
    /// Plan for planes of `h` rows and `w` columns; any size, primes included.
    pub fn new(h: usize, w: usize) -> Self {
        let mut planner = FftPlanner::new();
        Self {
            h,
            w,
            rows: planner.plan_fft_forward(w),
            columns: planner.plan_fft_forward(h),
            rows_inverse: planner.plan_fft_inverse(w),
            columns_inverse: planner.plan_fft_inverse(h),
        }
    }

    /// `F[k, l] = sum over y, x of plane[y, x] exp(-2 pi i (k y / h + l x / w))`, zero frequency first, `[h, w]`.
    ///
    /// Unnormalised, as in SMA's local loss (spec sma.md 3.2). `plane` must have `h * w` values.
    pub fn forward(&self, plane: &[T]) -> Vec<Complex<T>> {
        let complex = plane.iter().map(|&v| Complex::new(v, T::zero())).collect();
        transform(complex, (self.h, self.w), &*self.rows, &*self.columns)
    }

    /// Real part of the inverse transform, divided by `h * w`: [`forward`](Self::forward) undone.
    pub fn inverse(&self, spectrum: &[Complex<T>]) -> Vec<T> {
        let scale = real::<T>(1.0 / (self.h * self.w).max(1) as f64);
        transform(
            spectrum.to_vec(),
            (self.h, self.w),
            &*self.rows_inverse,
            &*self.columns_inverse,
        )
        .into_iter()
        .map(|v| v.re * scale)
        .collect()
    }
}

/// Transform every row, then every column, of an `[h, w]` plane in place.
fn transform<T: Real>(
    mut plane: Vec<Complex<T>>,
    (h, w): (usize, usize),
    rows: &dyn Fft<T>,
    columns: &dyn Fft<T>,
) -> Vec<Complex<T>> {
    rows.process(&mut plane);
    let mut turned = transpose(&plane, h, w);
    columns.process(&mut turned);
    transpose(&turned, w, h)
}

fn transpose<T: Copy>(plane: &[T], h: usize, w: usize) -> Vec<T> {
    (0..w)
        .flat_map(|x| (0..h).map(move |y| plane[y * w + x]))
        .collect()
}

/// Move the zero frequency of an `[h, w]` plane from the corner to row `h / 2`, column `w / 2`.
pub fn fftshift<T: Copy>(plane: &[T], h: usize, w: usize) -> Vec<T> {
    roll(plane, h, w, h / 2, w / 2)
}

/// Undo [`fftshift`] (the two differ for odd sizes).
pub fn ifftshift<T: Copy>(plane: &[T], h: usize, w: usize) -> Vec<T> {
    roll(plane, h, w, h.div_ceil(2), w.div_ceil(2))
}

/// Shift rows down by `dy` and columns right by `dx`, around the edges.
fn roll<T: Copy>(plane: &[T], h: usize, w: usize, dy: usize, dx: usize) -> Vec<T> {
    (0..h)
        .flat_map(|y| (0..w).map(move |x| plane[(y + h - dy) % h * w + (x + w - dx) % w]))
        .collect()
}
