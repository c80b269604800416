//! Nearest-neighbour resizing.

use candle_core::{Result, Tensor};

use super::composed;

/// Resizes to any larger or smaller size by repeating or skipping positions: row `i` comes from row
/// `floor(i * h / h2)`. The gradient of a position is the sum over its copies.
///
/// Shape: `[n, h, w, c]` to `[n, h2, w2, c]`.
///
/// # Errors
/// When the input does not have four axes.
pub fn upsample_nearest(x: &Tensor, h2: usize, w2: usize) -> Result<Tensor> {
    composed::upsample_nearest(x, h2, w2)
}
