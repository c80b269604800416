//! MotionDirector (Zhao et al., ECCV 2024; arXiv 2310.08465): two sets of low-rank adapters on a frozen network.
//!
//! A *spatial* pass learns what a single frame looks like, a *temporal* pass what the whole clip does; only the temporal
//! adapters are used afterwards, so that the look stays behind. The temporal loss has a second part in which every frame
//! is taken relative to an anchor frame, which removes what all frames share.

use candle_core::{D, Result, Tensor};

/// The set an adapter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Beside layers that see one frame at a time.
    Spatial,
    /// Beside layers that see all frames of a position.
    Temporal,
}

/// Weight of the anchor frame; the other frames are scaled so that the variance of noise stays.
const BETA: f64 = 1.0;

/// Chance that a step leaves the spatial pass out, one in this many.
pub const SPATIAL_PASS_SKIPPED_ONCE_IN: u32 = 5;

/// The set that the linear layer of this name gets an adapter of.
///
/// Temporal: in every temporal transformer, `transformer_in` included, all projections of both attentions and the
/// feed-forward layers. Spatial: in every spatial transformer the same without the attention to the words.
/// Source: MotionDirector's `utils/lora_handler.py`, `LoraHandler.add_lora_to_model`.
#[must_use]
pub fn part_of(layer: &str) -> Option<Part> {
    let parts: Vec<&str> = layer.split('.').collect();
    let has = |name: &str| parts.contains(&name);
    let projection =
        ["to_q", "to_k", "to_v"].iter().any(|name| has(name)) || layer.ends_with(".to_out.0");
    let feed_forward = layer.ends_with(".ff.net.0.proj") || layer.ends_with(".ff.net.2");
    let temporal = has("temp_attentions") || has("transformer_in");
    let spatial = has("attentions");
    let attention = has("attn1") || has("attn2");
    if temporal && (attention && projection || feed_forward) {
        Some(Part::Temporal)
    } else if spatial && (has("attn1") && projection || feed_forward) {
        Some(Part::Spatial)
    } else {
        None
    }
}

/// Loss of the temporal pass: `MSE(out, target) + MSE(φ(out), φ(target))` with `φ(x) = sqrt(β² + 1) x - β x_anchor`.
///
/// Shape: both `[b, c, f, h, w]`, `anchor` a frame; returns a scalar.
/// Source: equations 6 and 7 of the paper.
///
/// # Errors
/// When the shapes differ or there is no such frame.
pub fn base_loss(out: &Tensor, target: &Tensor, anchor: usize) -> Result<Tensor> {
    let difference = out.sub(target)?;
    // φ is linear: the difference of both sides is φ of the difference.
    let debiased = difference
        .affine((BETA * BETA + 1.0).sqrt(), 0.0)?
        .broadcast_sub(&difference.narrow(2, anchor, 1)?.affine(BETA, 0.0)?)?;
    mean_square(&difference)?.add(&mean_square(&debiased)?)
}

/// Loss of the spatial pass, on one frame: the mean square of the difference.
///
/// Shape: both `[b, c, 1, h, w]`; returns a scalar.
///
/// # Errors
/// When the shapes differ.
pub fn spatial_loss(out: &Tensor, target: &Tensor) -> Result<Tensor> {
    mean_square(&out.sub(target)?)
}

fn mean_square(x: &Tensor) -> Result<Tensor> {
    x.sqr()?.flatten_all()?.mean(D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::{Part, part_of};

    #[test]
    fn adapters_sit_where_the_authors_put_them() {
        let temporal = [
            "transformer_in.transformer_blocks.0.attn1.to_q",
            "transformer_in.transformer_blocks.0.ff.net.2",
            "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn2.to_out.0",
            "mid_block.temp_attentions.0.transformer_blocks.0.ff.net.0.proj",
        ];
        let spatial = [
            "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_v",
            "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
        ];
        let none = [
            "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v",
            "down_blocks.1.attentions.0.proj_in",
            "down_blocks.0.temp_attentions.0.proj_out",
            "time_embedding.linear_1",
        ];
        assert!(temporal.iter().all(|n| part_of(n) == Some(Part::Temporal)));
        assert!(spatial.iter().all(|n| part_of(n) == Some(Part::Spatial)));
        assert!(none.iter().all(|n| part_of(n).is_none()));
    }
}
