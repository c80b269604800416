//! ControlVideo (Zhao, Wang, Bao, Li, Zhu; arXiv 2305.17098): an image model inflated to clips, steered by a ControlNet. The
//! output projections of the attention to the key frame learn in both networks, and in the UNet the attention over frames
//! with the convolution behind it.

/// Whether the weight of this name learns, the UNet's under its own name and the ControlNet's behind
/// [`crate::models::CONTROLNET_PREFIX`].
///
/// Source: the authors' `main.py`, `trainable_modules`: names ending in `attn1.to_out`, `attn_temp` and `conv_temp`, and
/// in the ControlNet `attn1.to_out`. The `norm_temp` named there does not exist. The authors compute the gradients of all
/// other weights too and never reset them, so that they shrink the clipped norm more with every step; here only what
/// learns has gradients.
#[must_use]
pub fn trains(name: &str) -> bool {
    [".attn1.to_out.0.", ".attn_temp.", ".conv_temp."]
        .iter()
        .any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::trains;

    #[test]
    fn outputs_and_the_attention_over_frames_learn() {
        let block = "down_blocks.0.attentions.0.transformer_blocks.0";
        for learns in [
            "attn1.to_out.0.weight",
            "attn1.to_out.0.bias",
            "attn_temp.to_q.weight",
            "conv_temp.bias",
        ] {
            assert!(trains(&format!("{block}.{learns}")), "{learns}");
        }
        assert!(trains(&format!("controlnet.{block}.attn1.to_out.0.weight")));
        for frozen in [
            "attn1.to_q.weight",
            "attn2.to_out.0.weight",
            "ff.net.2.weight",
        ] {
            assert!(!trains(&format!("{block}.{frozen}")), "{frozen}");
        }
    }
}
