//! The transformer of an inflated image model: how the frames of a clip see each other.

use candle_core::{Result, Tensor};

use super::super::attention::{Attention, FeedForward, TRANSFORMER_NORM_EPS, layer_norm};
use super::super::error::ModelError;
use super::super::weights::Weights;
use super::config::ImageUNetConfig;
use crate::nn::layout::{batch_to_positions, positions_to_batch};
use crate::nn::{GroupNorm, LayerNorm, Linear, Skip};

type Built<T> = std::result::Result<T, ModelError>;

/// How an image model is made to see a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inflation {
    /// Not at all: every frame is a picture of its own, as in the image model that the weights are from.
    Pictures,
    /// Tune-A-Video (Wu et al., ICCV 2023; arXiv 2212.11565): a frame's self-attention sees the first frame and the one
    /// before it; attention over the frames follows the feed-forward layer. Source: spec section 6.
    SparseCausal,
    /// ControlVideo (Zhao et al.; arXiv 2305.17098): a frame's self-attention sees the first frame alone; attention over
    /// the frames stands beside it, behind a convolution that starts at zero. Source: spec section 7.
    KeyFrame,
}

impl Inflation {
    /// Over how many frames together the norms of the residual layers take their statistics. Both references let their
    /// group norms run over five axes, which pools the frames; the norm before a transformer does not.
    pub(super) fn pooled(self, frames: usize) -> usize {
        match self {
            Self::Pictures => 1,
            Self::SparseCausal | Self::KeyFrame => frames,
        }
    }
}

/// Attention over the frames of each position.
#[derive(Debug)]
enum Temporal {
    None,
    /// Last in the block, after a norm of its own.
    After {
        norm: LayerNorm,
        attention: Attention,
    },
    /// On the input of the self-attention, added to it through a 1x1 convolution.
    Beside {
        attention: Attention,
        conv: Linear,
    },
}

/// The self-attention, the attention to the words, the feed-forward layer and the attention over frames.
#[derive(Debug)]
pub(super) struct InflatedBlock {
    norms: [LayerNorm; 3],
    attn1: Attention,
    attn2: Attention,
    ff: FeedForward,
    temporal: Temporal,
    inflation: Inflation,
}

impl InflatedBlock {
    pub fn new(
        weights: &Weights,
        width: usize,
        config: &ImageUNetConfig,
        inflation: Inflation,
        temporal: bool,
    ) -> Built<Self> {
        let norm = |name: &str| layer_norm(weights, name, width);
        let attention = |name: &str, context_width: usize| {
            Attention::new(&weights.pp(name), width, context_width, config.heads)
        };
        Ok(Self {
            norms: [norm("norm1")?, norm("norm2")?, norm("norm3")?],
            attn1: attention("attn1", width)?,
            attn2: attention("attn2", config.text_width)?,
            ff: FeedForward::new(weights, width)?,
            temporal: match inflation {
                Inflation::SparseCausal if temporal => Temporal::After {
                    norm: norm("norm_temp")?,
                    attention: attention("attn_temp", width)?,
                },
                Inflation::KeyFrame if temporal => Temporal::Beside {
                    attention: attention("attn_temp", width)?,
                    conv: weights.pointwise("conv_temp", width, width)?,
                },
                _ => Temporal::None,
            },
            inflation,
        })
    }

    /// Shape: `x [b * f, t, c]`, `text [b, n, d]`; returns the shape of `x`.
    pub fn forward(&self, x: &Tensor, text: &Tensor, frames: usize) -> Result<Tensor> {
        let [norm1, norm2, norm3] = &self.norms;
        let normed = norm1.forward(x)?;
        let mut x = self.self_attention(&normed, frames, Skip::Tensor(x))?;
        if let Temporal::Beside { attention, conv } = &self.temporal {
            x = (x + conv.forward(&over_frames(attention, &normed, frames)?)?)?;
        }
        let normed = norm2.forward(&x)?;
        let x = self.attn2.forward_shared(&normed, text, Skip::Tensor(&x))?;
        let x = self.ff.forward(&x, norm3)?;
        match &self.temporal {
            Temporal::After { norm, attention } => {
                &x + over_frames(attention, &norm.forward(&x)?, frames)?
            }
            Temporal::None | Temporal::Beside { .. } => Ok(x),
        }
    }

    /// Shape: `x [b * f, t, c]` to the same.
    fn self_attention(&self, x: &Tensor, frames: usize, skip: Skip<'_>) -> Result<Tensor> {
        match self.inflation {
            Inflation::Pictures => self.attn1.forward(x, x, skip),
            Inflation::SparseCausal => self
                .attn1
                .forward_over(x, x, skip, |keys| first_and_former(keys, frames)),
            Inflation::KeyFrame => {
                // All frames look at the same tokens: the clip is one long row of queries.
                let (n, t, c) = x.dims3()?;
                let first = x
                    .reshape((n / frames, frames, t, c))?
                    .narrow(1, 0, 1)?
                    .squeeze(1)?
                    .contiguous()?;
                self.attn1.forward_shared(x, &first, skip)
            }
        }
    }
}

/// The tokens of the first frame, then those of the frame before (the first frame is its own).
///
/// Shape: `[b * f, t, c]` to `[b * f, 2 t, c]`.
fn first_and_former(x: &Tensor, frames: usize) -> Result<Tensor> {
    let (n, t, c) = x.dims3()?;
    let clips = x.reshape((n / frames, frames, t, c))?;
    let first = clips.narrow(1, 0, 1)?;
    let mut former = vec![first.clone()];
    if frames > 1 {
        former.push(clips.narrow(1, 0, frames - 1)?);
    }
    let former = Tensor::cat(&former, 1)?;
    let first = Tensor::cat(&vec![first; frames], 1)?;
    Tensor::cat(&[first, former], 2)?.reshape((n, 2 * t, c))
}

/// Self-attention over the frames of each position. Shape: `x [b * f, t, c]` to the same.
fn over_frames(attention: &Attention, x: &Tensor, frames: usize) -> Result<Tensor> {
    let (n, t, c) = x.dims3()?;
    let clips = n / frames;
    let tokens = positions_to_batch(&x.reshape((clips, frames, t, c))?)?;
    let attended = attention.forward(&tokens, &tokens, Skip::Nothing)?;
    batch_to_positions(&attended, clips)?.reshape((n, t, c))
}

/// A block between 1x1 convolutions, with a norm of each frame before and a residual connection. Source: spec 1.7 and 6.
#[derive(Debug)]
pub(super) struct Transformer3DModel {
    norm: GroupNorm,
    proj_in: Linear,
    block: InflatedBlock,
    proj_out: Linear,
}

impl Transformer3DModel {
    /// `temporal` says whether this place of the network has attention over frames at all.
    pub fn new(
        weights: &Weights,
        channels: usize,
        config: &ImageUNetConfig,
        inflation: Inflation,
        temporal: bool,
    ) -> Built<Self> {
        let block = weights.pp("transformer_blocks.0");
        let groups = config.norm_groups;
        Ok(Self {
            norm: weights.group_norm("norm", channels, groups, TRANSFORMER_NORM_EPS)?,
            proj_in: weights.pointwise("proj_in", channels, channels)?,
            block: InflatedBlock::new(&block, channels, config, inflation, temporal)?,
            proj_out: weights.pointwise("proj_out", channels, channels)?,
        })
    }

    /// Shape: `x [b * f, h, w, c]`, `text [b, n, d]`; returns the shape of `x`.
    pub fn forward(&self, x: &Tensor, text: &Tensor, frames: usize) -> Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        let tokens = self.norm.forward(&x.reshape((n, h * w, c))?)?;
        let tokens = self.proj_in.forward(&tokens)?;
        let tokens = self.block.forward(&tokens, text, frames)?;
        x + self.proj_out.forward(&tokens)?.reshape((n, h, w, c))?
    }
}
