//! Transformers over space and over time.

use candle_core::{Result, Tensor};

use super::super::attention::{Attention, FeedForward, TRANSFORMER_NORM_EPS, layer_norm};
use super::super::error::ModelError;
use super::super::weights::Weights;
use super::config::UNet3DConfig;
use crate::nn::{GroupNorm, LayerNorm, Linear, Piece, Skip, chain};

type Built<T> = std::result::Result<T, ModelError>;

/// Heads of the temporal transformer right after the first convolution (spec 3).
const FIRST_TRANSFORMER_HEADS: usize = 8;

/// `norm1, attn1, norm2, attn2, norm3, ff`, each with a residual connection. Source: spec 1.6.
#[derive(Debug)]
struct BasicTransformerBlock {
    norms: [LayerNorm; 3],
    attn1: Attention,
    attn2: Attention,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    /// Without `context_width` the second attention looks at the tokens themselves, like the first.
    fn new(
        weights: &Weights,
        width: usize,
        context_width: Option<usize>,
        heads: usize,
    ) -> Built<Self> {
        let norm = |name: &str| layer_norm(weights, name, width);
        Ok(Self {
            norms: [norm("norm1")?, norm("norm2")?, norm("norm3")?],
            attn1: Attention::new(&weights.pp("attn1"), width, width, heads)?,
            attn2: Attention::new(
                &weights.pp("attn2"),
                width,
                context_width.unwrap_or(width),
                heads,
            )?,
            ff: FeedForward::new(weights, width)?,
        })
    }

    /// Shape: `x [n, t, c]`; `text [b, u, d]`, where `n / b` consecutive rows of `x` share a text. Returns `[n, t, c]`.
    fn forward(&self, x: &Tensor, text: Option<&Tensor>) -> Result<Tensor> {
        let [norm1, norm2, norm3] = &self.norms;
        let normed = norm1.forward(x)?;
        let x = self.attn1.forward(&normed, &normed, Skip::Tensor(x))?;
        let normed = norm2.forward(&x)?;
        let x = match text {
            None => self.attn2.forward(&normed, &normed, Skip::Tensor(&x))?,
            Some(text) => self.attn2.forward_shared(&normed, text, Skip::Tensor(&x))?,
        };
        self.ff.forward(&x, norm3)
    }
}

/// Attention inside each frame and to the text. Source: spec 1.7, with linear projections.
#[derive(Debug)]
pub struct Transformer2DModel {
    norm: GroupNorm,
    proj_in: Linear,
    block: BasicTransformerBlock,
    proj_out: Linear,
}

impl Transformer2DModel {
    pub fn new(weights: &Weights, channels: usize, config: &UNet3DConfig) -> Built<Self> {
        let heads = channels / config.head_dim;
        let block = weights.pp("transformer_blocks.0");
        Ok(Self {
            norm: weights.group_norm("norm", channels, config.norm_groups, TRANSFORMER_NORM_EPS)?,
            proj_in: weights.linear("proj_in", channels, channels, true)?,
            block: BasicTransformerBlock::new(&block, channels, Some(config.text_width), heads)?,
            proj_out: weights.linear("proj_out", channels, channels, true)?,
        })
    }

    /// Shape: `x [b * f, h, w, c]`, `text [b, n, d]`; returns the shape of `x`.
    pub fn forward(&self, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        let entry = [Piece::Norm(&self.norm), Piece::Linear(&self.proj_in)];
        let tokens = chain(&x.reshape((n, h * w, c))?, &entry, Skip::Nothing)?;
        let tokens = self.block.forward(&tokens, Some(text))?;
        chain(&tokens, &[Piece::Linear(&self.proj_out)], Skip::Tensor(x))
    }
}

/// Attention over the frames at each position; the norm's statistics run over the frames too. There is no
/// positional encoding. Source: spec 1.8.
#[derive(Debug)]
pub struct TransformerTemporalModel {
    norm: GroupNorm,
    proj_in: Linear,
    block: BasicTransformerBlock,
    proj_out: Linear,
}

impl TransformerTemporalModel {
    pub fn new(weights: &Weights, channels: usize, config: &UNet3DConfig) -> Built<Self> {
        Self::with_heads(weights, channels, channels / config.head_dim, config)
    }

    /// The one after the first convolution, whose inner width is not that of its level.
    pub fn first(weights: &Weights, channels: usize, config: &UNet3DConfig) -> Built<Self> {
        Self::with_heads(weights, channels, FIRST_TRANSFORMER_HEADS, config)
    }

    fn with_heads(
        weights: &Weights,
        channels: usize,
        heads: usize,
        config: &UNet3DConfig,
    ) -> Built<Self> {
        let inner = heads * config.head_dim;
        let block = weights.pp("transformer_blocks.0");
        Ok(Self {
            norm: weights.group_norm("norm", channels, config.norm_groups, TRANSFORMER_NORM_EPS)?,
            proj_in: weights.linear("proj_in", channels, inner, true)?,
            block: BasicTransformerBlock::new(&block, inner, None, heads)?,
            proj_out: weights.linear("proj_out", inner, channels, true)?,
        })
    }

    /// Shape: `x [b * f, h, w, c]` with `f = frames`; returns the same.
    pub fn forward(&self, x: &Tensor, frames: usize) -> Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        let clips = n / frames;
        let entry = [
            Piece::Norm(&self.norm),
            Piece::PositionsToBatch,
            Piece::Linear(&self.proj_in),
        ];
        let clip = x.reshape((clips, frames, h * w, c))?;
        let tokens = chain(&clip, &entry, Skip::Nothing)?;
        let tokens = self.block.forward(&tokens, None)?;
        let exit = [
            Piece::Linear(&self.proj_out),
            Piece::BatchToPositions(clips),
        ];
        chain(&tokens, &exit, Skip::Tensor(x))
    }
}
