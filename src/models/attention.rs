//! Layers of a transformer block that all denoising networks share.

use candle_core::{Result, Tensor};

use super::error::ModelError;
use super::weights::Weights;
use crate::nn::{LayerNorm, Linear, Mask, Piece, Skip, attention, chain};

type Built<T> = std::result::Result<T, ModelError>;

/// Epsilon of the group norm before a transformer: not the one of the residual layers (spec 8, point 2).
pub(super) const TRANSFORMER_NORM_EPS: f64 = 1e-6;
/// Epsilon of PyTorch's layer norm.
const LAYER_NORM_EPS: f64 = 1e-5;

/// The layer norm before a part of a transformer block.
pub(super) fn layer_norm(weights: &Weights, name: &str, width: usize) -> Built<LayerNorm> {
    weights.layer_norm(name, width, LAYER_NORM_EPS)
}

/// Multi-head attention. Source: spec 1.5.
#[derive(Debug)]
pub(super) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    pub fn new(weights: &Weights, width: usize, context_width: usize, heads: usize) -> Built<Self> {
        Ok(Self {
            to_q: weights.linear("to_q", width, width, false)?,
            to_k: weights.linear("to_k", context_width, width, false)?,
            to_v: weights.linear("to_v", context_width, width, false)?,
            to_out: weights.linear("to_out.0", width, width, true)?,
            heads,
        })
    }

    /// Shape: `x [n, t, c]`, `context [n, u, d]`, returns `[n, t, c]`, or where something is added its shape.
    pub fn forward(&self, x: &Tensor, context: &Tensor, skip: Skip<'_>) -> Result<Tensor> {
        self.forward_over(x, context, skip, |projected| Ok(projected.clone()))
    }

    /// As [`Self::forward`], where the keys and values that a row of `x` sees are gathered from the projections of the
    /// context: `gather` takes `[m, u, c]` to `[n, u', c]`. Each token is projected once, however many rows see it.
    pub fn forward_over(
        &self,
        x: &Tensor,
        context: &Tensor,
        skip: Skip<'_>,
        gather: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (q, k, v) = (
            self.to_q.forward(x)?,
            gather(&self.to_k.forward(context)?)?,
            gather(&self.to_v.forward(context)?)?,
        );
        let attended = attention(&q, &k, &v, self.heads, Mask::None)?;
        chain(&attended, &[Piece::Linear(&self.to_out)], skip)
    }

    /// Attention to words that several rows share, `n / b` consecutive ones each.
    ///
    /// Every query looks at the same words, so the frames of a clip are one long row of queries: the words are projected
    /// once a clip and not once a frame.
    ///
    /// Shape: `x [n, t, c]`, `text [b, u, d]`, `skip [n, t, c]`; returns `[n, t, c]`.
    pub fn forward_shared(&self, x: &Tensor, text: &Tensor, skip: Skip<'_>) -> Result<Tensor> {
        let (n, t, c) = x.dims3()?;
        let clips = text.dim(0)?;
        let rows = x.reshape((clips, n / clips * t, c))?;
        self.forward(&rows, text, skip)?.reshape((n, t, c))
    }
}

/// `ff.net.0.proj`, GEGLU, `ff.net.2`. Source: spec 1.6.
#[derive(Debug)]
pub(super) struct FeedForward {
    ff_in: Linear,
    ff_out: Linear,
}

impl FeedForward {
    /// `weights` are those of the block.
    pub fn new(weights: &Weights, width: usize) -> Built<Self> {
        Ok(Self {
            ff_in: weights.linear("ff.net.0.proj", width, 8 * width, true)?,
            ff_out: weights.linear("ff.net.2", 4 * width, width, true)?,
        })
    }

    /// `x + ff(norm(x))`. Shape: `[.., c]` to the same.
    pub fn forward(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let pieces = [
            Piece::LayerNorm(norm),
            Piece::Linear(&self.ff_in),
            Piece::Geglu,
            Piece::Linear(&self.ff_out),
        ];
        chain(x, &pieces, Skip::Input)
    }
}
