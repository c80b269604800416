//! Motion vectors: differences of successive frames.

use serde::{Deserialize, Serialize};

/// How a motion vector is taken from two successive frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Residual {
    /// `|v[f+1] - v[f]|`, as in the released code of SMA and VMC.
    #[default]
    Abs,
    /// `v[f+1] - v[f]`, as in the papers' equations.
    Signed,
}

/// The motion vectors of a clip of planes: one plane fewer than `planes`.
///
/// Planes of unequal length are compared over their common part.
pub fn residuals(planes: &[Vec<f32>], residual: Residual) -> Vec<Vec<f32>> {
    let difference = |pair: &[Vec<f32>]| {
        pair[0]
            .iter()
            .zip(&pair[1])
            .map(|(now, next)| match residual {
                Residual::Abs => (next - now).abs(),
                Residual::Signed => next - now,
            })
            .collect()
    };
    planes.windows(2).map(difference).collect()
}

/// Brightness of 8-bit RGB pixels in 0..=1, weighted as in Rec. 709 on the encoded values.
pub fn luma(rgb: &[u8]) -> Vec<f32> {
    let bright = |p: &[u8]| {
        (0.2126 * f32::from(p[0]) + 0.7152 * f32::from(p[1]) + 0.0722 * f32::from(p[2])) / 255.0
    };
    rgb.chunks_exact(3).map(bright).collect()
}
