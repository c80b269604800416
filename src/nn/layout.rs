//! Named changes of layout between what the world uses, `[b, c, f, h, w]`, and what a model computes in,
//! `[b, f, h, w, c]` (channels last: projections and temporal convolutions become plain matrix products).

use candle_core::{Result, Tensor};

use super::cuda;

/// `[b, c, f, h, w]` to `[b, f, h, w, c]`, contiguous.
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 4, 1))?.contiguous()
}

/// `[b, f, h, w, c]` to `[b, c, f, h, w]`, contiguous; the inverse of [`channels_last`].
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 4, 1, 2, 3))?.contiguous()
}

/// `[b, f, ..]` to `[b * f, ..]`, frame-major inside each clip.
pub fn frames_to_batch(x: &Tensor) -> Result<Tensor> {
    x.flatten(0, 1)
}

/// `[b * f, ..]` to `[b, f, ..]` for `frames` frames a clip; the inverse of [`frames_to_batch`].
///
/// # Errors
/// When the first axis is not a multiple of `frames`.
pub fn batch_to_frames(x: &Tensor, frames: usize) -> Result<Tensor> {
    let dims = x.dims();
    let Some((&n, rest)) = dims.split_first() else {
        candle_core::bail!("batch_to_frames needs a batch axis, got a scalar");
    };
    if frames == 0 || n % frames != 0 {
        candle_core::bail!(
            "batch_to_frames: {n} images are not a whole number of clips of {frames} frames"
        );
    }
    let mut shape = vec![n / frames, frames];
    shape.extend_from_slice(rest);
    x.reshape(shape)
}

/// `[b, f, s, c]` to `[b * s, f, c]`, contiguous: one short sequence over the frames for each position.
pub fn positions_to_batch(x: &Tensor) -> Result<Tensor> {
    let (b, f, s, c) = x.dims4()?;
    if f == 1 {
        return x.reshape((b * s, f, c));
    }
    swapped(x)?.reshape((b * s, f, c))
}

/// `[b * s, f, c]` to `[b, f, s, c]` for `batch` clips, contiguous; the inverse of [`positions_to_batch`].
///
/// # Errors
/// When the first axis is not a multiple of `batch`.
pub fn batch_to_positions(x: &Tensor, batch: usize) -> Result<Tensor> {
    let (n, f, c) = x.dims3()?;
    if batch == 0 || n % batch != 0 {
        candle_core::bail!("batch_to_positions: {n} sequences do not divide into {batch} clips");
    }
    let s = n / batch;
    if f == 1 {
        return x.reshape((batch, f, s, c));
    }
    swapped(&x.reshape((batch, s, f, c))?)
}

/// `[b, p, q, c]` to `[b, q, p, c]`, contiguous.
fn swapped(x: &Tensor) -> Result<Tensor> {
    if cuda::is_ready(x) {
        return cuda::swap_axes(x);
    }
    x.transpose(1, 2)?.contiguous()
}
