//! Tune-A-Video (Wu et al., ICCV 2023; arXiv 2212.11565): an image model inflated to clips. The queries of the attention
//! inside frames and to the words learn, and all of the attention over frames.

use candle_core::{D, Result, Tensor};

/// Whether the inflated network's weight of this name learns.
///
/// Source: the authors' `configs/*.yaml`, `trainable_modules`: names ending in `attn1.to_q`, `attn2.to_q` and `attn_temp`
/// with all that is in it. The norm before it stays as it is.
#[must_use]
pub fn trains(name: &str) -> bool {
    name.ends_with(".attn1.to_q.weight")
        || name.ends_with(".attn2.to_q.weight")
        || name.contains(".attn_temp.")
}

/// The mean square of the difference, as in the training of the image model.
///
/// Shape: both `[b, c, f, h, w]`; returns a scalar.
///
/// # Errors
/// When the shapes differ.
pub fn base_loss(out: &Tensor, target: &Tensor) -> Result<Tensor> {
    out.sub(target)?.sqr()?.flatten_all()?.mean(D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::trains;

    #[test]
    fn queries_and_the_attention_over_frames_learn() {
        let block = "down_blocks.0.attentions.0.transformer_blocks.0";
        for learns in [
            "attn1.to_q.weight",
            "attn2.to_q.weight",
            "attn_temp.to_k.weight",
            "attn_temp.to_out.0.bias",
        ] {
            assert!(trains(&format!("{block}.{learns}")), "{learns}");
        }
        for frozen in [
            "attn1.to_k.weight",
            "attn1.to_out.0.weight",
            "norm_temp.weight",
            "ff.net.2.weight",
        ] {
            assert!(!trains(&format!("{block}.{frozen}")), "{frozen}");
        }
    }
}
