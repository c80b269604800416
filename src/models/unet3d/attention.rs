//! Transformers over space and over time.

use candle_core::{Result, Tensor};

use super::super::error::ModelError;
use super::super::weights::Weights;
use super::config::UNet3DConfig;
use crate::nn::{GroupNorm, LayerNorm, Linear, Mask, Piece, Skip, attention, chain};

type Built<T> = std::result::Result<T, ModelError>;

/// Epsilon of the group norm before a transformer: not the one of the residual layers (spec 8, point 2).
const TRANSFORMER_NORM_EPS: f64 = 1e-6;
/// Epsilon of PyTorch's layer norm.
const LAYER_NORM_EPS: f64 = 1e-5;
/// Heads of the temporal transformer right after the first convolution (spec 3).
const FIRST_TRANSFORMER_HEADS: usize = 8;

/// Multi-head attention. Source: spec 1.5.
#[derive(Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    fn new(weights: &Weights, width: usize, context_width: usize, heads: usize) -> Built<Self> {
        Ok(Self {
            to_q: weights.linear("to_q", width, width, false)?,
            to_k: weights.linear("to_k", context_width, width, false)?,
            to_v: weights.linear("to_v", context_width, width, false)?,
            to_out: weights.linear("to_out.0", width, width, true)?,
            heads,
        })
    }

    /// Shape: `x [n, t, c]`, `context [n, u, d]`, `skip [.., c]`; returns the attention's result plus `skip`, in its shape.
    fn forward(&self, x: &Tensor, context: &Tensor, skip: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (
            self.to_q.forward(x)?,
            self.to_k.forward(context)?,
            self.to_v.forward(context)?,
        );
        let attended = attention(&q, &k, &v, self.heads, Mask::None)?;
        chain(
            &attended,
            &[Piece::Linear(&self.to_out)],
            Skip::Tensor(skip),
        )
    }
}

/// `norm1, attn1, norm2, attn2, norm3, ff`, each with a residual connection. Source: spec 1.6.
#[derive(Debug)]
struct BasicTransformerBlock {
    norms: [LayerNorm; 3],
    attn1: Attention,
    attn2: Attention,
    ff_in: Linear,
    ff_out: Linear,
}

impl BasicTransformerBlock {
    /// Without `context_width` the second attention looks at the tokens themselves, like the first.
    fn new(
        weights: &Weights,
        width: usize,
        context_width: Option<usize>,
        heads: usize,
    ) -> Built<Self> {
        let norm = |name: &str| weights.layer_norm(name, width, LAYER_NORM_EPS);
        Ok(Self {
            norms: [norm("norm1")?, norm("norm2")?, norm("norm3")?],
            attn1: Attention::new(&weights.pp("attn1"), width, width, heads)?,
            attn2: Attention::new(
                &weights.pp("attn2"),
                width,
                context_width.unwrap_or(width),
                heads,
            )?,
            ff_in: weights.linear("ff.net.0.proj", width, 8 * width, true)?,
            ff_out: weights.linear("ff.net.2", 4 * width, width, true)?,
        })
    }

    /// Shape: `x [n, t, c]`; `text [b, u, d]`, where `n / b` consecutive rows of `x` share a text. Returns `[n, t, c]`.
    fn forward(&self, x: &Tensor, text: Option<&Tensor>) -> Result<Tensor> {
        let [norm1, norm2, norm3] = &self.norms;
        let normed = norm1.forward(x)?;
        let x = self.attn1.forward(&normed, &normed, x)?;
        let normed = norm2.forward(&x)?;
        let x = match text {
            None => self.attn2.forward(&normed, &normed, &x)?,
            Some(text) => {
                // Every query looks at the same words, so the frames of a clip are one long row of queries: the
                // words are projected once a clip and not once a frame.
                let (n, t, c) = normed.dims3()?;
                let clips = text.dim(0)?;
                let rows = normed.reshape((clips, n / clips * t, c))?;
                self.attn2.forward(&rows, text, &x)?
            }
        };
        let feed_forward = [
            Piece::LayerNorm(norm3),
            Piece::Linear(&self.ff_in),
            Piece::Geglu,
            Piece::Linear(&self.ff_out),
        ];
        chain(&x, &feed_forward, Skip::Input)
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
