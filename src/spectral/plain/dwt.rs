//! Haar wavelets along time.

use std::f64::consts::FRAC_1_SQRT_2;

use super::{Real, real};

/// The bands of a multi-level Haar transform of `n` time steps at `positions` places.
///
/// Every band is `[len, positions]` row major, where `len` halves (rounded up) from level to level.
#[derive(Clone, Debug, PartialEq)]
pub struct HaarBands<T> {
    /// `A`: what is left after the last level, the slowest motion.
    pub low: Vec<T>,
    /// `D1 .. DJ`, finest (fastest motion) first.
    pub highs: Vec<Vec<T>>,
    /// Series side by side: 1 for one series, `c * h * w` for a clip.
    pub positions: usize,
    /// Time steps that entered each level, first level first; an odd one was padded with one zero on the right.
    pub lengths: Vec<usize>,
}

impl<T: Real> HaarBands<T> {
    /// Mean square of each band, in the order `A, D1, .. DJ`.
    pub fn energies(&self) -> Vec<f64> {
        std::iter::once(&self.low)
            .chain(&self.highs)
            .map(|band| mean_square(band))
            .collect()
    }

    /// The coefficients of one band, `[len, positions]` (`0` is `A`, `j` is `Dj`); `None` past the last band.
    pub fn band(&self, band: usize) -> Option<&[T]> {
        match band.checked_sub(1) {
            None => Some(&self.low),
            Some(level) => self.highs.get(level).map(Vec::as_slice),
        }
    }

    /// Mean square over all positions at each time step of one band; `None` past the last band.
    pub fn energy_over_time(&self, band: usize) -> Option<Vec<f64>> {
        let rows = self.band(band)?.chunks_exact(self.positions.max(1));
        Some(rows.map(mean_square).collect())
    }

    /// Mean square over time at each position, for one band (`0` is `A`, `j` is `Dj`); `None` past the last band.
    pub fn energy_map(&self, band: usize) -> Option<Vec<f64>> {
        let values = self.band(band)?;
        let steps = (values.len() / self.positions.max(1)).max(1);
        let mut map = vec![0.0; self.positions];
        for row in values.chunks_exact(self.positions) {
            for (sum, value) in map.iter_mut().zip(row) {
                let value = value.to_f64().unwrap_or(f64::NAN);
                *sum += value * value / steps as f64;
            }
        }
        Some(map)
    }
}

fn mean_square<T: Real>(values: &[T]) -> f64 {
    let sum: f64 = values.iter().filter_map(T::to_f64).map(|v| v * v).sum();
    sum / values.len().max(1) as f64
}

/// The most levels that still split something for a clip of `frames` frames: `ceil(log2(frames - 1))`.
///
/// 3 for 8 frames, 4 for 16, 5 for 24. Beyond it a series of length one is only rescaled. 0 for fewer than 3 frames.
pub fn max_levels(frames: usize) -> usize {
    let residuals = frames.saturating_sub(1).max(1);
    residuals.next_power_of_two().trailing_zeros() as usize
}

/// Multi-level Haar transform along time of `x`, `[n, positions]` row major.
///
/// One level on a series of length n: where n is odd one zero is appended on the right, then
/// `low[k] = (x[2k] + x[2k+1]) / sqrt 2`, `high[k] = (x[2k] - x[2k+1]) / sqrt 2`; the next level works on `low`.
/// Zero levels return `x` as the low band. A trailing part of `x` shorter than `positions` is ignored.
///
/// Source: SMA section 2 with the zero padding of `pytorch_wavelets`; see spec sma.md 2.3.
pub fn haar_forward<T: Real>(x: &[T], positions: usize, levels: usize) -> HaarBands<T> {
    let positions = positions.max(1);
    let mut low = x[..x.len() / positions * positions].to_vec();
    let mut highs = Vec::with_capacity(levels);
    let mut lengths = Vec::with_capacity(levels);
    let scale = real::<T>(FRAC_1_SQRT_2);
    for _ in 0..levels {
        lengths.push(low.len() / positions);
        let mut next = Vec::with_capacity(low.len().div_ceil(2));
        let mut high = Vec::with_capacity(low.len().div_ceil(2));
        for pair in low.chunks(2 * positions) {
            let (even, odd) = pair.split_at(positions);
            if odd.is_empty() {
                next.extend(even.iter().map(|&e| e * scale));
                high.extend(even.iter().map(|&e| e * scale));
            } else {
                next.extend(even.iter().zip(odd).map(|(&e, &o)| (e + o) * scale));
                high.extend(even.iter().zip(odd).map(|(&e, &o)| (e - o) * scale));
            }
        }
        low = next;
        highs.push(high);
    }
    HaarBands {
        low,
        highs,
        positions,
        lengths,
    }
}

/// Inverse of [`haar_forward`]: `[n, positions]` again, exact up to rounding.
///
/// It is also the transpose of the forward transform with the padding dropped, which is what the gradient of a
/// function of the bands needs: each butterfly is orthonormal.
pub fn haar_inverse<T: Real>(bands: &HaarBands<T>) -> Vec<T> {
    let positions = bands.positions;
    let scale = real::<T>(FRAC_1_SQRT_2);
    let mut low = bands.low.clone();
    for (high, &length) in bands.highs.iter().zip(&bands.lengths).rev() {
        let mut x = Vec::with_capacity(low.len() * 2);
        for (l, h) in low
            .chunks_exact(positions)
            .zip(high.chunks_exact(positions))
        {
            x.extend(l.iter().zip(h).map(|(&l, &h)| (l + h) * scale));
            x.extend(l.iter().zip(h).map(|(&l, &h)| (l - h) * scale));
        }
        x.truncate(length * positions);
        low = x;
    }
    low
}

/// The part of a signal that lies in chosen bands: the inverse transform with every other band set to zero.
///
/// `keep[0]` is `A`, `keep[j]` is `Dj`; bands beyond the end of `keep` are left out. Keeping all gives the signal back.
pub fn synthesize<T: Real>(bands: &HaarBands<T>, keep: &[bool]) -> Vec<T> {
    let kept = |band: usize| keep.get(band).copied().unwrap_or(false);
    let mut chosen = bands.clone();
    if !kept(0) {
        chosen.low.fill(T::zero());
    }
    for (level, high) in chosen.highs.iter_mut().enumerate() {
        if !kept(level + 1) {
            high.fill(T::zero());
        }
    }
    haar_inverse(&chosen)
}
