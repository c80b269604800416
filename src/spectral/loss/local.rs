//! The local loss: weighted L1 between amplitudes and phases of motion spectra.

use std::sync::Arc;

use rayon::prelude::*;
use rustfft::{Fft, FftPlanner, num_complex::Complex};

use super::clip::sign;
use crate::spectral::plain::{ifftshift, is_self_conjugate, wrap_phase};

/// Below this `|F|` (unnormalised transform) derivatives stop growing: they divide by this instead.
///
/// A still background makes many bins almost silent, where the phase is rounding noise and its derivative `1 / |F|`
/// would drown every other gradient. At exactly 0 the derivatives are 0.
const SILENT: f64 = 1e-6;

/// Plan of the local loss for one frame size.
///
/// Motion is real, so a bin and its mirror carry the same amplitude and opposite phase: only columns `0 ..= w / 2` are
/// computed and every bin carries its mirror's weight too. That is exact for odd sizes as well, where the weight itself
/// is not symmetric.
pub(super) struct LocalPlan {
    h: usize,
    w: usize,
    /// Folded weight, `[w / 2 + 1, h]`: transposed, so that columns of the spectrum lie together.
    weight: Vec<f64>,
    /// 1 where the spectrum may have an imaginary part, 0 at self-conjugate bins; same order.
    imaginary: Vec<f64>,
    rows: [Arc<dyn Fft<f64>>; 2],
    columns: [Arc<dyn Fft<f64>>; 2],
    amplitude_scale: f64,
    phase_wrap: bool,
}

/// The two local terms and their derivatives by the estimate's half spectra.
pub(super) struct LocalDistance {
    plan: Arc<LocalPlan>,
    /// Amplitude term, phase term.
    pub terms: [f64; 2],
    /// `[planes, w / 2 + 1, h]`; derivative of each term as `d/dRe + i d/dIm`.
    slopes: Vec<[Complex<f64>; 2]>,
}

impl LocalPlan {
    /// `weight` is the shifted `[h, w]` weight; `ortho` divides amplitudes by `sqrt(h w)`.
    pub fn new(weight: &[f64], (h, w): (usize, usize), ortho: bool, phase_wrap: bool) -> Self {
        let native = ifftshift(weight, h, w);
        let half = w / 2 + 1;
        let mut folded = Vec::with_capacity(half * h);
        let mut imaginary = Vec::with_capacity(half * h);
        for l in 0..half {
            let mirror_l = (w - l) % w;
            for k in 0..h {
                let own = native[k * w + l];
                let mirrored = if mirror_l == l {
                    0.0
                } else {
                    native[(h - k) % h * w + mirror_l]
                };
                folded.push(own + mirrored);
                imaginary.push(if is_self_conjugate(k, l, h, w) {
                    0.0
                } else {
                    1.0
                });
            }
        }
        let mut planner = FftPlanner::new();
        Self {
            h,
            w,
            weight: folded,
            imaginary,
            rows: [planner.plan_fft_forward(w), planner.plan_fft_inverse(w)],
            columns: [planner.plan_fft_forward(h), planner.plan_fft_inverse(h)],
            amplitude_scale: if ortho {
                1.0 / ((h * w) as f64).sqrt()
            } else {
                1.0
            },
            phase_wrap,
        }
    }

    /// What a GPU needs of the plan, in f64: `cos, sin` of `2 π i / w` and of `2 π i / h`, the folded weight and the mask of
    /// imaginary parts `[w / 2 + 1, h]`; the scale of amplitudes, and whether phases are compared on the circle.
    pub fn tables(&self) -> ([Vec<f64>; 4], f64, bool) {
        let turns = |n: usize| {
            let angle = move |i: usize| std::f64::consts::TAU * i as f64 / n as f64;
            (0..n)
                .flat_map(move |i| [libm::cos(angle(i)), libm::sin(angle(i))])
                .collect()
        };
        let tables = [
            turns(self.w),
            turns(self.h),
            self.weight.clone(),
            self.imaginary.clone(),
        ];
        (tables, self.amplitude_scale, self.phase_wrap)
    }

    /// Compare the motion of two clips, both `[planes, h * w]`.
    pub fn compare(self: &Arc<Self>, reference: &[f64], estimate: &[f64]) -> LocalDistance {
        let size = self.h * self.w;
        let per_plane: Vec<([f64; 2], Vec<_>)> = reference
            .par_chunks_exact(size)
            .zip(estimate.par_chunks_exact(size))
            .map(|(reference, estimate)| {
                self.compare_spectra(
                    &self.half_spectrum(reference),
                    &self.half_spectrum(estimate),
                )
            })
            .collect();
        let count = estimate.len() as f64;
        let mut terms = [0.0; 2];
        let mut slopes = Vec::with_capacity(per_plane.len() * self.weight.len());
        // Summed in plane order, so that the number of threads does not change the result.
        for (plane, plane_slopes) in per_plane {
            terms[0] += plane[0];
            terms[1] += plane[1];
            slopes.extend(plane_slopes);
        }
        terms[0] *= self.amplitude_scale / count;
        terms[1] /= count;
        LocalDistance {
            plan: Arc::clone(self),
            terms,
            slopes,
        }
    }

    /// Columns `0 ..= w / 2` of the unnormalised spectrum of one plane, transposed: `[w / 2 + 1, h]`.
    fn half_spectrum(&self, plane: &[f64]) -> Vec<Complex<f64>> {
        let mut rows: Vec<Complex<f64>> = plane.iter().map(|&v| Complex::new(v, 0.0)).collect();
        self.rows[0].process(&mut rows);
        let mut half = Vec::with_capacity(self.weight.len());
        for l in 0..=self.w / 2 {
            half.extend((0..self.h).map(|y| rows[y * self.w + l]));
        }
        self.columns[0].process(&mut half);
        half
    }

    /// Weighted sums over the bins of one plane, and their slopes by the estimate's bins.
    fn compare_spectra(
        &self,
        reference: &[Complex<f64>],
        estimate: &[Complex<f64>],
    ) -> ([f64; 2], Vec<[Complex<f64>; 2]>) {
        let mut sums = [0.0; 2];
        let mut slopes = vec![[Complex::default(); 2]; self.weight.len()];
        for (bin, slope) in slopes.iter_mut().enumerate() {
            let weight = self.weight[bin];
            if weight == 0.0 {
                continue;
            }
            let mask = self.imaginary[bin];
            let (re, im) = (estimate[bin].re, estimate[bin].im * mask);
            let (amplitude, angle) = polar(re, im);
            let (amplitude_0, angle_0) = polar(reference[bin].re, reference[bin].im * mask);

            let difference = amplitude - amplitude_0;
            sums[0] += weight * difference.abs();
            let bounded = amplitude.max(SILENT);
            slope[0] = Complex::new(re, im) * (weight * sign(difference) / bounded);

            let mut difference = angle - angle_0;
            if self.phase_wrap {
                difference = wrap_phase(difference);
            }
            sums[1] += weight * difference.abs();
            slope[1] =
                Complex::new(-im, re * mask) * (weight * sign(difference) / (bounded * bounded));
        }
        (sums, slopes)
    }

    /// Real part of `sum over bins of slope * exp(+2 pi i (k y / h + l x / w))`: the transpose of [`half_spectrum`](Self::half_spectrum).
    fn pull_back_plane(&self, mut slopes: Vec<Complex<f64>>, out: &mut [f64]) {
        self.columns[1].process(&mut slopes);
        let mut rows = vec![Complex::default(); self.h * self.w];
        for (l, column) in slopes.chunks_exact(self.h).enumerate() {
            for (y, &value) in column.iter().enumerate() {
                rows[y * self.w + l] = value;
            }
        }
        self.rows[1].process(&mut rows);
        for (out, value) in out.iter_mut().zip(&rows) {
            *out = value.re;
        }
    }
}

impl LocalDistance {
    /// Gradient by the estimate's motion, `[planes, h * w]`, given the gradient by each of `terms`.
    pub fn pull_back(&self, by_terms: &[f64]) -> Vec<f64> {
        let plan = &self.plan;
        let bins = plan.weight.len();
        let size = plan.h * plan.w;
        let planes = self.slopes.len() / bins;
        let count = (planes * size) as f64;
        let by_amplitude = by_terms[0] * plan.amplitude_scale / count;
        let by_phase = by_terms[1] / count;
        let mut by_motion = vec![0.0; planes * size];
        by_motion
            .par_chunks_exact_mut(size)
            .zip(self.slopes.par_chunks_exact(bins))
            .for_each(|(out, slopes)| {
                let combine = |s: &[Complex<f64>; 2]| s[0] * by_amplitude + s[1] * by_phase;
                plan.pull_back_plane(slopes.iter().map(combine).collect(), out);
            });
        by_motion
    }
}

/// `(|F|, angle in (-pi, pi])`. Adding 0 turns -0 into +0, so that a negative real number is always at +pi.
fn polar(re: f64, im: f64) -> (f64, f64) {
    ((re * re + im * im).sqrt(), (im + 0.0).atan2(re + 0.0))
}
