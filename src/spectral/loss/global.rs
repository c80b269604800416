//! The global loss: L1 between wavelet bands of motion in time.

use rayon::prelude::*;

use super::clip::{Clip, sign};
use crate::spectral::plain::{HaarBands, haar_forward, haar_inverse};

/// Bands of the difference of two motions, one [`HaarBands`] for each of the `b * c` planes.
///
/// The transform is linear, so the difference of bands is the band of the difference.
pub(super) struct BandDistance {
    bands: Vec<HaarBands<f64>>,
}

impl BandDistance {
    /// Both clips have the same shape; `levels` as in [`haar_forward`].
    pub fn new(reference: &Clip, estimate: &Clip, levels: usize) -> Self {
        let (target, motion) = (reference.motion(), estimate.motion());
        let series = (estimate.frames - 1) * estimate.positions;
        let bands = motion
            .par_chunks_exact(series)
            .zip(target.par_chunks_exact(series))
            .map(|(motion, target)| {
                let difference: Vec<f64> = motion.iter().zip(target).map(|(m, t)| m - t).collect();
                haar_forward(&difference, estimate.positions, levels)
            })
            .collect();
        Self { bands }
    }

    fn band(bands: &HaarBands<f64>, index: usize) -> &[f64] {
        if index == 0 {
            &bands.low
        } else {
            &bands.highs[index - 1]
        }
    }

    fn count(&self) -> usize {
        self.bands.first().map_or(0, |bands| bands.highs.len() + 1)
    }

    /// Mean absolute difference of each band: `A, D1, .. DJ`. Each band is averaged alone, however short it is.
    pub fn means(&self) -> Vec<f64> {
        let mean = |index: usize| {
            let mut sum = 0.0;
            let mut count = 0;
            for bands in &self.bands {
                let band = Self::band(bands, index);
                sum += band.iter().map(|v| v.abs()).sum::<f64>();
                count += band.len();
            }
            sum / count as f64
        };
        (0..self.count()).map(mean).collect()
    }

    /// Gradient by the estimate's motion, given the gradient by each of [`means`](Self::means).
    pub fn pull_back(&self, by_means: &[f64]) -> Vec<f64> {
        let planes = self.bands.len() as f64;
        let slopes = |band: &[f64], by_mean: f64| {
            let scale = by_mean / (planes * band.len() as f64);
            band.iter().map(|&v| scale * sign(v)).collect::<Vec<f64>>()
        };
        self.bands
            .par_iter()
            .flat_map_iter(|bands| {
                haar_inverse(&HaarBands {
                    low: slopes(&bands.low, by_means[0]),
                    highs: bands
                        .highs
                        .iter()
                        .zip(&by_means[1..])
                        .map(|(b, &g)| slopes(b, g))
                        .collect(),
                    positions: bands.positions,
                    lengths: bands.lengths.clone(),
                })
            })
            .collect()
    }
}
