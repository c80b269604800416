//! Video Motion Customization (Jeong, Park, Ye, CVPR 2024; arXiv 2312.00845).
//!
//! The query, key and value projections of the temporal attention learn; the loss aligns the frame residuals of the
//! predicted noise with those of the true noise.

use candle_core::{Result, Tensor};

use crate::spectral::loss::{CosineAxis, Residual, SpectralLoss};

/// Every `to_q`, `to_k` and `to_v` weight below a module called `temp_attentions`.
///
/// Source: `train_inference.py` of the authors, `trainable_modules`. On ModelScope's UNet this leaves out
/// `transformer_in`, which is no block's temporal attention.
#[must_use]
pub fn trains(name: &str) -> bool {
    name.split('.').any(|part| part == "temp_attentions")
        && [".to_q.weight", ".to_k.weight", ".to_v.weight"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// `1 - mean cos(δ eps_hat, δ eps)`, with δ the difference of neighbouring frames.
///
/// Shape: both `[b, c, f, h, w]`, f at least 2; returns a scalar in `0..=2`.
/// Source: equation 7 of the paper takes signed residuals and a cosine over each residual frame; the authors' code takes
/// absolute residuals and a cosine along frames. Both are offered.
///
/// # Errors
/// When the shapes differ or hold a single frame.
pub fn base_loss(
    eps_hat: &Tensor,
    eps: &Tensor,
    residual: Residual,
    axis: CosineAxis,
) -> Result<Tensor> {
    Ok(SpectralLoss::cosine_alignment(
        eps_hat, eps, residual, axis,
    )?)
}

#[cfg(test)]
mod tests {
    use super::trains;

    #[test]
    fn only_temporal_projections_learn() {
        let temporal = "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn2.to_k.weight";
        assert!(trains(temporal));
        assert!(trains(
            "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_v.weight"
        ));
        for frozen in [
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
            "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1.to_out.0.weight",
            "transformer_in.transformer_blocks.0.attn1.to_q.weight",
            "up_blocks.1.temp_convs.0.conv1.2.weight",
        ] {
            assert!(!trains(frozen), "{frozen}");
        }
    }
}
