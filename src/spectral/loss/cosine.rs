//! VMC's base loss: cosine alignment of motion vectors.

use rayon::prelude::*;

/// Norms are clamped here before dividing, as in PyTorch's `cosine_similarity`.
const MIN_NORM: f64 = 1e-8;

/// `1 - mean cosine` of two motions with vectors along one axis of `[groups, n, s]`, and its slope by the estimate.
pub(super) struct CosineDistance {
    pub value: f64,
    /// Derivative of `value` by the estimate's motion.
    pub slope: Vec<f64>,
}

impl CosineDistance {
    /// One vector along `n` for each of the `s` positions of every group of `n * s` values.
    pub fn along_frames(estimate: &[f64], target: &[f64], n: usize, s: usize) -> Self {
        Self::over_groups(estimate, target, n * s, |estimate, target, slope| {
            let mut sums = vec![[0.0; 3]; s];
            for (e, t) in estimate.chunks_exact(s).zip(target.chunks_exact(s)) {
                for ((sum, &e), &t) in sums.iter_mut().zip(e).zip(t) {
                    *sum = accumulate(*sum, e, t);
                }
            }
            let cosines: Vec<Cosine> = sums.into_iter().map(Cosine::new).collect();
            for (i, slope) in slope.iter_mut().enumerate() {
                *slope = cosines[i % s].slope(estimate[i], target[i]);
            }
            (cosines.iter().map(|c| c.value).sum(), s)
        })
    }

    /// One vector for each frame: the `c * s` values of a frame in `[b, c, n, s]`.
    pub fn along_pixels(estimate: &[f64], target: &[f64], c: usize, n: usize, s: usize) -> Self {
        Self::over_groups(estimate, target, c * n * s, |estimate, target, slope| {
            let mut sums = vec![[0.0; 3]; n];
            for (i, (&e, &t)) in estimate.iter().zip(target).enumerate() {
                let sum = &mut sums[i / s % n];
                *sum = accumulate(*sum, e, t);
            }
            let cosines: Vec<Cosine> = sums.into_iter().map(Cosine::new).collect();
            for (i, slope) in slope.iter_mut().enumerate() {
                *slope = cosines[i / s % n].slope(estimate[i], target[i]);
            }
            (cosines.iter().map(|c| c.value).sum(), n)
        })
    }

    /// Run `group` on every chunk of `size` values; it fills the cosines' slopes and returns their sum and number.
    fn over_groups(
        estimate: &[f64],
        target: &[f64],
        size: usize,
        group: impl Fn(&[f64], &[f64], &mut [f64]) -> (f64, usize) + Sync,
    ) -> Self {
        let mut slope = vec![0.0; estimate.len()];
        let sums: Vec<(f64, usize)> = slope
            .par_chunks_exact_mut(size)
            .zip(estimate.par_chunks_exact(size))
            .zip(target.par_chunks_exact(size))
            .map(|((slope, estimate), target)| group(estimate, target, slope))
            .collect();
        let sum: f64 = sums.iter().map(|(sum, _)| sum).sum();
        let count = sums.iter().map(|(_, count)| count).sum::<usize>() as f64;
        slope.iter_mut().for_each(|slope| *slope /= -count);
        Self {
            value: 1.0 - sum / count,
            slope,
        }
    }
}

/// Running `e . t`, `e . e` and `t . t`.
fn accumulate([et, ee, tt]: [f64; 3], e: f64, t: f64) -> [f64; 3] {
    [et + e * t, ee + e * e, tt + t * t]
}

/// One cosine with what its derivative needs.
struct Cosine {
    value: f64,
    /// Factor of the target's component.
    by_target: f64,
    /// Factor of the estimate's own component.
    by_estimate: f64,
}

impl Cosine {
    /// PyTorch clamps the norms outside the graph: the derivative of a norm stays `e / |e|` (0 at 0) when it is clamped.
    fn new([et, ee, tt]: [f64; 3]) -> Self {
        let norm = ee.sqrt();
        let clamped = norm.max(MIN_NORM);
        let by_target = 1.0 / (clamped * tt.sqrt().max(MIN_NORM));
        let value = et * by_target;
        let by_estimate = if norm == 0.0 {
            0.0
        } else {
            value / (clamped * norm)
        };
        Self {
            value,
            by_target,
            by_estimate,
        }
    }

    fn slope(&self, estimate: f64, target: f64) -> f64 {
        target * self.by_target - estimate * self.by_estimate
    }
}
