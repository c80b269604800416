//! The levels of the inflated UNet: residual layers whose norms pool the frames and, where there are transformers, one
//! after each. Source: spec sections 2, 6 and 7.

use candle_core::{DType, Device, Result, Tensor};

use super::super::error::ModelError;
use super::super::resnet::{DownPadding, Downsample2D, ResnetBlock2D, ResnetConfig, Upsample2D};
use super::super::weights::Weights;
use super::attention::{Inflation, Transformer3DModel};
use super::config::ImageUNetConfig;
use crate::nn::{Linear, Tape, silu, timestep_embedding};

type Built<T> = std::result::Result<T, ModelError>;

/// What every layer of one forward pass sees.
#[derive(Clone)]
pub(super) struct Context {
    /// Frames of a clip.
    pub frames: usize,
    /// Over how many frames together the norms of residual layers take their statistics.
    pub pooled: usize,
    /// Activated time embedding, `[b, d]`.
    pub time: Tensor,
    /// Text embedding, `[b, n, d]`.
    pub text: Tensor,
}

/// What all parts of a network are built from.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub config: &'a ImageUNetConfig,
    pub inflation: Inflation,
    /// Whether the network has attention over frames: a ControlNet has none.
    pub temporal: bool,
}

/// The time embedding's two layers.
#[derive(Debug)]
pub(super) struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    width: usize,
}

impl TimeEmbedding {
    pub fn new(root: &Weights, config: &ImageUNetConfig) -> Built<Self> {
        let weights = root.pp("time_embedding");
        let (first, width) = (config.block_out_channels[0], config.time_width());
        Ok(Self {
            linear_1: weights.linear("linear_1", first, width, true)?,
            linear_2: weights.linear("linear_2", width, width, true)?,
            width: first,
        })
    }

    /// The embedding after its last activation, which every residual layer would otherwise apply again: `[b, d]`.
    pub fn forward(&self, levels: &[f64], dtype: DType, device: &Device) -> Result<Tensor> {
        let embedding = timestep_embedding(levels, self.width, dtype, device)?;
        silu(
            &self
                .linear_2
                .forward(&silu(&self.linear_1.forward(&embedding)?)?)?,
        )
    }
}

/// One layer of a level.
#[derive(Debug)]
struct Layer {
    resnet: ResnetBlock2D,
    attention: Option<Transformer3DModel>,
}

impl Layer {
    fn new(
        weights: &Weights,
        k: usize,
        (i, o): (usize, usize),
        attends: bool,
        plan: Plan<'_>,
    ) -> Built<Self> {
        let Plan {
            config,
            inflation,
            temporal,
        } = plan;
        let at = weights.pp("attentions").pp(k);
        Ok(Self {
            resnet: resnet(weights, k, (i, o), 1.0, config)?,
            attention: match attends {
                true => Some(Transformer3DModel::new(
                    &at, o, config, inflation, temporal,
                )?),
                false => None,
            },
        })
    }

    fn forward(&self, x: &Tensor, at: &Context) -> Result<Tensor> {
        let x = self.resnet.forward_over(x, Some(&at.time), at.pooled)?;
        match &self.attention {
            Some(attention) => attention.forward(&x, &at.text, at.frames),
            None => Ok(x),
        }
    }
}

fn resnet(
    weights: &Weights,
    k: usize,
    (in_channels, out_channels): (usize, usize),
    output_scale: f64,
    config: &ImageUNetConfig,
) -> Built<ResnetBlock2D> {
    let config = ResnetConfig {
        in_channels,
        out_channels,
        time_width: Some(config.time_width()),
        groups: config.norm_groups,
        eps: config.norm_eps,
        output_scale,
    };
    ResnetBlock2D::new(&weights.pp("resnets").pp(k), &config)
}

/// A level on the way down.
#[derive(Debug)]
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<Downsample2D>,
}

impl DownBlock {
    /// Level `i`; every level but the last halves the picture.
    pub fn new(weights: &Weights, i: usize, plan: Plan<'_>) -> Built<Self> {
        let config = plan.config;
        let channels = &config.block_out_channels;
        let (input, output) = (channels[i.saturating_sub(1)], channels[i]);
        let layers = (0..config.layers_per_block).map(|k| {
            let sizes = (if k == 0 { input } else { output }, output);
            Layer::new(weights, k, sizes, config.down_attends[i], plan)
        });
        let padding = DownPadding::Even(config.downsample_padding);
        let at = weights.pp("downsamplers.0");
        Ok(Self {
            layers: layers.collect::<Built<_>>()?,
            downsampler: match i + 1 == channels.len() {
                true => None,
                false => Some(Downsample2D::new(&at, output, padding)?),
            },
        })
    }

    /// Channels of everything [`Self::forward`] gives of level `i`, in its order.
    pub fn outputs(config: &ImageUNetConfig, i: usize) -> Vec<usize> {
        let halves = usize::from(i + 1 < config.block_out_channels.len());
        vec![config.block_out_channels[i]; config.layers_per_block + halves]
    }

    /// Shape: `x [b * f, h, w, i]`. Returns the output of every layer and of the downsampler, the skips of the way up;
    /// the last one, `[b * f, h', w', o]`, goes on to the next level.
    pub fn forward<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        x: &Tensor,
        context: &Context,
    ) -> Result<Vec<Tensor>> {
        let mut x = x.clone();
        let mut outputs = Vec::new();
        for layer in &self.layers {
            let at = context.clone();
            x = tape.segment(&[&x], move |inputs| layer.forward(&inputs[0], &at))?;
            outputs.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = tape.segment(&[&x], move |inputs| downsampler.forward(&inputs[0]))?;
            outputs.push(x);
        }
        Ok(outputs)
    }
}

/// The coarsest level: a residual layer, a transformer, a residual layer.
#[derive(Debug)]
pub(super) struct MidBlock {
    resnets: [ResnetBlock2D; 2],
    attention: Transformer3DModel,
}

impl MidBlock {
    pub fn new(weights: &Weights, channels: usize, plan: Plan<'_>) -> Built<Self> {
        let Plan {
            config,
            inflation,
            temporal,
        } = plan;
        let resnet = |k| resnet(weights, k, (channels, channels), config.mid_scale, config);
        // ControlVideo leaves the middle without attention over frames.
        let temporal = temporal && inflation == Inflation::SparseCausal;
        let at = weights.pp("attentions.0");
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            attention: Transformer3DModel::new(&at, channels, config, inflation, temporal)?,
        })
    }

    /// Shape: `x [b * f, h, w, c]`; returns the same.
    pub fn forward(&self, x: &Tensor, at: &Context) -> Result<Tensor> {
        let x = self.resnets[0].forward_over(x, Some(&at.time), at.pooled)?;
        let x = self.attention.forward(&x, &at.text, at.frames)?;
        self.resnets[1].forward_over(&x, Some(&at.time), at.pooled)
    }
}

/// A level on the way up.
#[derive(Debug)]
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Upsample2D>,
}

impl UpBlock {
    /// Up block `i`, from the coarsest; every block but the last enlarges the picture. Channels: spec section 2.
    pub fn new(weights: &Weights, i: usize, plan: Plan<'_>) -> Built<Self> {
        let config = plan.config;
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let (previous, output, skip) = (
            channels[i.saturating_sub(1)],
            channels[i],
            channels[(i + 1).min(last)],
        );
        let most = config.layers_per_block;
        let layers = (0..=most).map(|k| {
            let from_below = if k == 0 { previous } else { output };
            let from_skip = if k == most { skip } else { output };
            let sizes = (from_below + from_skip, output);
            Layer::new(weights, k, sizes, config.up_attends[i], plan)
        });
        let at = weights.pp("upsamplers.0");
        Ok(Self {
            layers: layers.collect::<Built<_>>()?,
            upsampler: match i == last {
                true => None,
                false => Some(Upsample2D::new(&at, output)?),
            },
        })
    }

    /// How many skips it takes, one a layer.
    pub fn skips(&self) -> usize {
        self.layers.len()
    }

    /// Shape: `inputs` are `x [b * f, h, w, i]` and the skips in the order of the layers; returns `[b * f, h', w', o]`.
    /// An upsampler enlarges to `size`, that of the next skip, which is twice the input's only where the sizes divide
    /// evenly.
    pub fn forward<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        inputs: &[Tensor],
        size: Option<(usize, usize)>,
        context: &Context,
    ) -> Result<Tensor> {
        let mut x = inputs[0].clone();
        for (layer, skip) in self.layers.iter().zip(&inputs[1..]) {
            let at = context.clone();
            x = tape.segment(&[&x, skip], move |inputs| {
                layer.forward(&Tensor::cat(inputs, 3)?, &at)
            })?;
        }
        match (&self.upsampler, size) {
            (Some(upsampler), Some(size)) => {
                tape.segment(&[&x], move |inputs| upsampler.forward(&inputs[0], size))
            }
            _ => Ok(x),
        }
    }
}
