//! `ControlNetModel` (Zhang, Rao, Agrawala, ICCV 2023; arXiv 2302.05543): a copy of the UNet's way down that turns pictures
//! into residuals for the UNet's skips. Source: spec section 7.

use candle_core::{DType, Result, Tensor};

use super::super::error::ModelError;
use super::super::weights::Weights;
use super::attention::Inflation;
use super::blocks::{DownBlock, MidBlock, Plan, TimeEmbedding};
use super::config::{ControlNetConfig, ImageUNetConfig};
use super::{context, way_down};
use crate::nn::layout::{channels_last, frames_to_batch};
use crate::nn::{Conv2d, Conv2dConfig, Linear, Padding, Tape, silu};

type Built<T> = std::result::Result<T, ModelError>;

/// What a ControlNet adds to the UNet, channels last: `[b * f, h, w, c]` each.
#[derive(Clone, Debug)]
pub struct Residuals {
    /// For every skip, in the order in which the way down makes them.
    pub down: Vec<Tensor>,
    /// For the output of the middle.
    pub mid: Tensor,
}

/// The embedding of the picture that steers: convolutions with SiLU between them.
#[derive(Debug)]
struct ConditioningEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl ConditioningEmbedding {
    fn new(weights: &Weights, config: &ControlNetConfig) -> Built<Self> {
        let stages = &config.embedding_channels;
        let last = stages[stages.len() - 1];
        let conv3 = Conv2dConfig::padded(1);
        let halving = Conv2dConfig {
            stride: 2,
            padding: Padding::same(1),
        };
        let blocks = weights.pp("blocks");
        let conv = |k: usize, i, o, config| blocks.conv2d(&k.to_string(), (i, o), 3, config);
        let mut convs = Vec::new();
        for (k, pair) in stages.windows(2).enumerate() {
            convs.push(conv(2 * k, pair[0], pair[0], conv3)?);
            convs.push(conv(2 * k + 1, pair[0], pair[1], halving)?);
        }
        let first = config.unet.block_out_channels[0];
        Ok(Self {
            conv_in: weights.conv2d(
                "conv_in",
                (config.conditioning_channels, stages[0]),
                3,
                conv3,
            )?,
            blocks: convs,
            conv_out: weights.conv2d("conv_out", (last, first), 3, conv3)?,
        })
    }

    /// Shape: `[n, h factor, w factor, 3]` to `[n, h, w, c]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = silu(&self.conv_in.forward(x)?)?;
        for conv in &self.blocks {
            x = silu(&conv.forward(&x)?)?;
        }
        self.conv_out.forward(&x)
    }
}

/// The network beside the UNet. It sees a clip as the UNet does, but has no attention over frames.
#[derive(Debug)]
pub struct ControlNetModel {
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    embedding: ConditioningEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    controlnet_down_blocks: Vec<Linear>,
    controlnet_mid_block: Linear,
    config: ControlNetConfig,
    inflation: Inflation,
    dtype: DType,
}

impl ControlNetModel {
    /// Builds the network; weights chosen with [`Weights::set_trainable`] become variables.
    ///
    /// # Errors
    /// [`ModelError::Keys`] with every weight that is missing, unexpected or of the wrong shape.
    pub fn new(weights: &Weights, config: &ControlNetConfig, inflation: Inflation) -> Built<Self> {
        let unet = &config.unet;
        let channels = &unet.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv3 = Conv2dConfig::padded(1);
        let (down, zero) = (weights.pp("down_blocks"), "controlnet_down_blocks");
        let plan = Plan {
            config: unet,
            inflation,
            temporal: false,
        };
        let zero_convs = skip_channels(unet).into_iter().enumerate();
        let model = Self {
            conv_in: weights.conv2d("conv_in", (unet.in_channels, first), 3, conv3)?,
            time_embedding: TimeEmbedding::new(weights, unet)?,
            embedding: ConditioningEmbedding::new(
                &weights.pp("controlnet_cond_embedding"),
                config,
            )?,
            down_blocks: (0..channels.len())
                .map(|i| DownBlock::new(&down.pp(i), i, plan))
                .collect::<Built<_>>()?,
            mid_block: MidBlock::new(&weights.pp("mid_block"), last, plan)?,
            controlnet_down_blocks: zero_convs
                .map(|(k, c)| weights.pp(zero).pointwise(&k.to_string(), c, c))
                .collect::<Built<_>>()?,
            controlnet_mid_block: weights.pointwise("controlnet_mid_block", last, last)?,
            config: config.clone(),
            inflation,
            dtype: weights.dtype(),
        };
        weights.finish()?;
        Ok(model)
    }

    /// Sizes of the network.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// The residuals of a noisy latent clip and the clip that steers it, outside of training.
    ///
    /// Shape: `x [b, c, f, h, w]`, `t` and `text [b, n, d]` as for the UNet; `control [b, 3, f, h factor, w factor]`, or
    /// one clip for all `b`.
    /// Range: `control` in 0 to 1, red first.
    ///
    /// # Errors
    /// When the shapes do not fit the network or each other.
    pub fn forward(
        &self,
        seen: (&Tensor, &[f64], &Tensor),
        control: &Tensor,
        scale: f64,
    ) -> Result<Residuals> {
        self.forward_on(&mut Tape::off(), seen, control, scale)
    }

    /// [`Self::forward`] as part of a training pass on `tape`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_on<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        (x, t, text): (&Tensor, &[f64], &Tensor),
        control: &Tensor,
        scale: f64,
    ) -> Result<Residuals> {
        let context = context(
            &self.config.unet,
            &self.time_embedding,
            (self.inflation, self.dtype),
            (x, t, text),
        )?;
        let control = self.picture(x, control)?;
        let hidden = frames_to_batch(&channels_last(&x.to_dtype(self.dtype)?)?)?;
        let first = tape.segment(&[&hidden, &control], move |inputs| {
            self.conv_in.forward(&inputs[0])? + self.embedding.forward(&inputs[1])?
        })?;
        let blocks = (self.down_blocks.as_slice(), &self.mid_block);
        let (skips, middle) = way_down(tape, blocks, first, &context)?;
        let mut scaled = |conv: &'a Linear, x: &Tensor| {
            tape.segment(&[x], move |inputs| {
                let residual = conv.forward(&inputs[0])?;
                if scale == 1.0 {
                    Ok(residual)
                } else {
                    residual.affine(scale, 0.0)
                }
            })
        };
        let down = self.controlnet_down_blocks.iter().zip(&skips);
        Ok(Residuals {
            down: down
                .map(|(conv, skip)| scaled(conv, skip))
                .collect::<Result<_>>()?,
            mid: scaled(&self.controlnet_mid_block, &middle)?,
        })
    }

    /// The clip that steers as the network takes it: `[b * f, h, w, 3]`, in the order of colours it was trained on.
    fn picture(&self, x: &Tensor, control: &Tensor) -> Result<Tensor> {
        let (b, _, f, h, w) = x.dims5()?;
        let factor = self.config.factor();
        let (control_b, c, control_f, control_h, control_w) = control.dims5()?;
        let fits = c == self.config.conditioning_channels
            && (control_b == b || control_b == 1)
            && (control_f, control_h, control_w) == (f, h * factor, w * factor);
        if !fits {
            candle_core::bail!(
                "controlnet: a control clip {:?} for latents {:?}, expected {} channels and {factor} times their sides",
                control.shape(),
                x.shape(),
                self.config.conditioning_channels
            );
        }
        let mut control = control.to_dtype(self.dtype)?;
        if self.config.blue_first {
            let colours: Vec<Tensor> = (0..c)
                .rev()
                .map(|colour| control.narrow(1, colour, 1))
                .collect::<Result<_>>()?;
            control = Tensor::cat(&colours, 1)?;
        }
        if control_b < b {
            control = control.broadcast_as((b, c, f, control_h, control_w))?;
        }
        frames_to_batch(&channels_last(&control)?)
    }
}

/// Channels of every skip on the way down, the first convolution's among them.
fn skip_channels(config: &ImageUNetConfig) -> Vec<usize> {
    let levels = 0..config.block_out_channels.len();
    std::iter::once(config.block_out_channels[0])
        .chain(levels.flat_map(|i| DownBlock::outputs(config, i)))
        .collect()
}
