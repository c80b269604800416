//! The levels of the UNet: a residual layer, a temporal convolution and, where there are transformers, attention
//! over space and over time, in this order. Source: spec section 2.

use candle_core::{Result, Tensor};

use super::super::error::ModelError;
use super::super::resnet::{DownPadding, Downsample2D, ResnetBlock2D, ResnetConfig, Upsample2D};
use super::super::weights::Weights;
use super::attention::{Transformer2DModel, TransformerTemporalModel};
use super::config::{BlockKind, UNet3DConfig};
use crate::nn::{GroupNorm, Piece, Skip, Tape, TemporalConv, chain};

type Built<T> = std::result::Result<T, ModelError>;

/// Epsilon of the norms in [`TemporalConvLayer`], whatever the configuration says (spec 1.4).
const TEMPORAL_NORM_EPS: f64 = 1e-5;

/// What every layer of one forward pass sees.
#[derive(Clone)]
pub struct Context {
    /// Frames of a clip.
    pub frames: usize,
    /// Activated time embedding, `[b, d]`.
    pub time: Tensor,
    /// Text embedding, `[b, n, d]`.
    pub text: Tensor,
    /// Whether temporal layers run.
    pub temporal: bool,
}

/// Four norms and convolutions over the frames, added to their input. Source: spec 1.4.
///
/// The dropout between them (0.1 in training mode) is left out: training here runs the network in evaluation mode, as
/// its golden traces do, so that a step can be repeated.
#[derive(Debug)]
struct TemporalConvLayer {
    stages: Vec<(GroupNorm, TemporalConv)>,
}

impl TemporalConvLayer {
    fn new(weights: &Weights, channels: usize, groups: usize) -> Built<Self> {
        // PyTorch numbers the modules of a stage; the dropout of the later ones moves the convolution by one.
        let stages =
            [("conv1", 2), ("conv2", 3), ("conv3", 3), ("conv4", 3)].map(|(stage, conv)| {
                let at = weights.pp(stage);
                let norm = at.group_norm("0", channels, groups, TEMPORAL_NORM_EPS)?;
                Ok((norm, at.temporal_conv(&conv.to_string(), channels)?))
            });
        Ok(Self {
            stages: stages.into_iter().collect::<Built<_>>()?,
        })
    }

    /// Shape: `x [b * f, h, w, c]`; returns the same.
    fn forward(&self, x: &Tensor, frames: usize) -> Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        let clip = x.reshape((n / frames, frames, h * w, c))?;
        let stages = self.stages.iter();
        let pieces: Vec<Piece<'_>> = stages
            .flat_map(|(norm, conv)| [Piece::NormSilu(norm), Piece::TemporalConv(conv)])
            .collect();
        chain(&clip, &pieces, Skip::Input)?.reshape((n, h, w, c))
    }
}

/// One layer of a level.
#[derive(Debug)]
struct Layer {
    resnet: ResnetBlock2D,
    temp_conv: TemporalConvLayer,
    attention: Option<AttentionPair>,
}

impl Layer {
    fn new(
        weights: &Weights,
        k: usize,
        (i, o): (usize, usize),
        kind: BlockKind,
        config: &UNet3DConfig,
    ) -> Built<Self> {
        Ok(Self {
            resnet: resnet(weights, k, (i, o), 1.0, config)?,
            temp_conv: TemporalConvLayer::new(
                &weights.pp("temp_convs").pp(k),
                o,
                config.norm_groups,
            )?,
            attention: match kind {
                BlockKind::CrossAttention => Some(AttentionPair::new(weights, k, o, config)?),
                BlockKind::Plain => None,
            },
        })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let mut x = self.resnet.forward(x, Some(&context.time))?;
        if context.temporal {
            x = self.temp_conv.forward(&x, context.frames)?;
        }
        match &self.attention {
            Some(pair) => pair.forward(&x, context),
            None => Ok(x),
        }
    }
}

/// Attention over space and text, then over time.
#[derive(Debug)]
struct AttentionPair {
    spatial: Transformer2DModel,
    temporal: TransformerTemporalModel,
}

impl AttentionPair {
    fn new(weights: &Weights, k: usize, channels: usize, config: &UNet3DConfig) -> Built<Self> {
        Ok(Self {
            spatial: Transformer2DModel::new(&weights.pp("attentions").pp(k), channels, config)?,
            temporal: TransformerTemporalModel::new(
                &weights.pp("temp_attentions").pp(k),
                channels,
                config,
            )?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let x = self.spatial.forward(x, &context.text)?;
        if context.temporal {
            self.temporal.forward(&x, context.frames)
        } else {
            Ok(x)
        }
    }
}

fn resnet(
    weights: &Weights,
    k: usize,
    (in_channels, out_channels): (usize, usize),
    output_scale: f64,
    config: &UNet3DConfig,
) -> Built<ResnetBlock2D> {
    let time_width = Some(super::time_width(config));
    let (groups, eps) = (config.norm_groups, config.norm_eps);
    let config = ResnetConfig {
        in_channels,
        out_channels,
        time_width,
        groups,
        eps,
        output_scale,
    };
    ResnetBlock2D::new(&weights.pp("resnets").pp(k), &config)
}

/// A level on the way down.
#[derive(Debug)]
pub struct DownBlock3D {
    layers: Vec<Layer>,
    downsampler: Option<Downsample2D>,
}

impl DownBlock3D {
    /// Level `i`; every level but the last halves the picture.
    pub fn new(weights: &Weights, i: usize, config: &UNet3DConfig) -> Built<Self> {
        let channels = &config.block_out_channels;
        let (input, output) = (channels[i.saturating_sub(1)], channels[i]);
        let layers = (0..config.layers_per_block).map(|k| {
            let sizes = (if k == 0 { input } else { output }, output);
            Layer::new(weights, k, sizes, config.down_blocks[i], config)
        });
        let padding = DownPadding::Even(config.downsample_padding);
        Ok(Self {
            layers: layers.collect::<Built<_>>()?,
            downsampler: match i + 1 == channels.len() {
                true => None,
                false => Some(Downsample2D::new(
                    &weights.pp("downsamplers.0"),
                    output,
                    padding,
                )?),
            },
        })
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

/// The coarsest level: a residual layer, attention, a residual layer.
#[derive(Debug)]
pub struct UNetMidBlock3DCrossAttn {
    resnets: [ResnetBlock2D; 2],
    temp_convs: [TemporalConvLayer; 2],
    attention: AttentionPair,
}

impl UNetMidBlock3DCrossAttn {
    pub fn new(weights: &Weights, channels: usize, config: &UNet3DConfig) -> Built<Self> {
        let resnet = |k| resnet(weights, k, (channels, channels), config.mid_scale, config);
        let temp_conv = |k: usize| {
            TemporalConvLayer::new(
                &weights.pp("temp_convs").pp(k),
                channels,
                config.norm_groups,
            )
        };
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            temp_convs: [temp_conv(0)?, temp_conv(1)?],
            attention: AttentionPair::new(weights, 0, channels, config)?,
        })
    }

    /// Shape: `x [b * f, h, w, c]`; returns the same.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let layer = |k: usize, x: &Tensor| {
            let x = self.resnets[k].forward(x, Some(&context.time))?;
            if context.temporal {
                self.temp_convs[k].forward(&x, context.frames)
            } else {
                Ok(x)
            }
        };
        layer(1, &self.attention.forward(&layer(0, x)?, context)?)
    }
}

/// A level on the way up.
#[derive(Debug)]
pub struct UpBlock3D {
    layers: Vec<Layer>,
    upsampler: Option<Upsample2D>,
}

impl UpBlock3D {
    /// Up block `i`, from the coarsest; every block but the last enlarges the picture. Channels: spec section 2.
    pub fn new(weights: &Weights, i: usize, config: &UNet3DConfig) -> Built<Self> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let (previous, output, skip) = (
            channels[i.saturating_sub(1)],
            channels[i],
            channels[(i + 1).min(last)],
        );
        let layers = (0..=config.layers_per_block).map(|k| {
            let from_below = if k == 0 { previous } else { output };
            let from_skip = if k == config.layers_per_block {
                skip
            } else {
                output
            };
            Layer::new(
                weights,
                k,
                (from_below + from_skip, output),
                config.up_blocks[i],
                config,
            )
        });
        Ok(Self {
            layers: layers.collect::<Built<_>>()?,
            upsampler: match i == last {
                true => None,
                false => Some(Upsample2D::new(&weights.pp("upsamplers.0"), output)?),
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
