//! Nearest-neighbour resizing.

use candle_core::{Result, Tensor};

use super::kernels::resize::Nearest;
use super::kernels::{apply1, is_cpu};
use super::{composed, cuda};

/// Resizes to any larger or smaller size by repeating or skipping positions: row `i` comes from row
/// `floor(i * h / h2)`. The gradient of a position is the sum over its copies.
///
/// Shape: `[n, h, w, c]` to `[n, h2, w2, c]`.
///
/// # Errors
/// When the input does not have four axes or a side is 0.
pub fn upsample_nearest(x: &Tensor, h2: usize, w2: usize) -> Result<Tensor> {
    let (_, h, w, channels) = x.dims4()?;
    if h == 0 || w == 0 || h2 == 0 || w2 == 0 {
        candle_core::bail!(
            "upsample_nearest: cannot resize {:?} to {h2} by {w2}",
            x.shape()
        );
    }
    if is_cpu(x) {
        apply1(
            x,
            Nearest {
                from: (h, w),
                to: (h2, w2),
                channels,
            },
        )
    } else if cuda::is_ready(x) {
        cuda::upsample_nearest(x, (h2, w2))
    } else {
        composed::upsample_nearest(x, h2, w2)
    }
}
