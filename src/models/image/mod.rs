//! Image models (Stable Diffusion 1.x) that are made to see clips: the inflated UNet of Tune-A-Video and ControlVideo, and
//! the ControlNet beside the latter. Source: spec sections 5 to 7.

mod attention;
mod blocks;
mod config;
mod controlnet;
mod initial;
#[cfg(test)]
mod written_out;

use candle_core::{DType, Result, Tensor};

pub use self::attention::Inflation;
use self::blocks::{Context, DownBlock, MidBlock, Plan, TimeEmbedding, UpBlock};
pub use self::config::{ControlNetConfig, ImageUNetConfig};
pub use self::controlnet::{ControlNetModel, Residuals};
pub use self::initial::{TemporalBias, inflate};
use super::denoiser::{Conditioning, Denoiser};
use super::error::ModelError;
use super::resnet::norm_silu_over;
use super::weights::Weights;
use crate::nn::layout::{batch_to_frames, channels_first, channels_last, frames_to_batch};
use crate::nn::{Conv2d, Conv2dConfig, GroupNorm, Tape};

/// The denoising network of an image model, inflated to clips.
#[derive(Debug)]
pub struct InflatedUNet {
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    config: ImageUNetConfig,
    inflation: Inflation,
    dtype: DType,
}

impl InflatedUNet {
    /// Builds the network; weights chosen with [`Weights::set_trainable`] become variables. The weights of an image model
    /// lack those of the attention over frames: [`inflate`] adds their starting values.
    ///
    /// # Errors
    /// [`ModelError::Keys`] with every weight that is missing, unexpected or of the wrong shape.
    pub fn new(
        weights: &Weights,
        config: &ImageUNetConfig,
        inflation: Inflation,
    ) -> std::result::Result<Self, ModelError> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv3 = Conv2dConfig::padded(1);
        let (groups, eps) = (config.norm_groups, config.norm_eps);
        let (down, up) = (weights.pp("down_blocks"), weights.pp("up_blocks"));
        let plan = Plan {
            config,
            inflation,
            temporal: true,
        };
        let model = Self {
            conv_in: weights.conv2d("conv_in", (config.in_channels, first), 3, conv3)?,
            time_embedding: TimeEmbedding::new(weights, config)?,
            down_blocks: (0..channels.len())
                .map(|i| DownBlock::new(&down.pp(i), i, plan))
                .collect::<std::result::Result<_, _>>()?,
            mid_block: MidBlock::new(&weights.pp("mid_block"), last, plan)?,
            up_blocks: (0..channels.len())
                .map(|i| UpBlock::new(&up.pp(i), i, plan))
                .collect::<std::result::Result<_, _>>()?,
            conv_norm_out: weights.group_norm("conv_norm_out", first, groups, eps)?,
            conv_out: weights.conv2d("conv_out", (first, config.out_channels), 3, conv3)?,
            config: config.clone(),
            inflation,
            dtype: weights.dtype(),
        };
        weights.finish()?;
        Ok(model)
    }

    /// Sizes of the network.
    pub fn config(&self) -> &ImageUNetConfig {
        &self.config
    }

    /// How it sees a clip.
    pub fn inflation(&self) -> Inflation {
        self.inflation
    }

    /// Number type of the frozen weights and of the activations; what learns is `f32`.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Predicts from a noisy latent clip, outside of training.
    ///
    /// Shape: `x [b, c, f, h, w]` of any `f`, `h`, `w`; `t` one noise level a clip (0 to 999), or a single one for all;
    /// `text [b, n, d]`; `residuals` of the same clip. Returns `[b, c', f, h, w]` in the number type of `x`.
    /// Units: latents scaled to a standard deviation near 1.
    ///
    /// # Errors
    /// When the shapes do not fit the network or each other.
    pub fn forward(
        &self,
        x: &Tensor,
        t: &[f64],
        text: &Tensor,
        residuals: Option<&Residuals>,
    ) -> Result<Tensor> {
        self.forward_on(&mut Tape::off(), x, t, text, residuals)
    }

    /// [`Self::forward`] as a training pass on `tape`, which gives the gradients of a loss of the result.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_on<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        x: &Tensor,
        t: &[f64],
        text: &Tensor,
        residuals: Option<&Residuals>,
    ) -> Result<Tensor> {
        let context = context(
            &self.config,
            &self.time_embedding,
            (self.inflation, self.dtype),
            (x, t, text),
        )?;
        let hidden = frames_to_batch(&channels_last(&x.to_dtype(self.dtype)?)?)?;
        let hidden = self.denoise(tape, &hidden, &context, residuals)?;
        let (dtype, frames, pooled) = (x.dtype(), context.frames, context.pooled);
        let out = tape.segment(&[&hidden], move |inputs| {
            let normed = norm_silu_over(&self.conv_norm_out, &inputs[0], pooled)?;
            let out = batch_to_frames(&self.conv_out.forward(&normed)?, frames)?;
            channels_first(&out)?.to_dtype(dtype)
        })?;
        tape.end(out)
    }

    /// Everything before the last norm. Shape: `[b * f, h, w, c]` to `[b * f, h, w, c']`.
    fn denoise<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        x: &Tensor,
        context: &Context,
        residuals: Option<&Residuals>,
    ) -> Result<Tensor> {
        let first = tape.segment(&[x], move |inputs| self.conv_in.forward(&inputs[0]))?;
        let (mut skips, mut hidden) =
            way_down(tape, (&self.down_blocks, &self.mid_block), first, context)?;
        if let Some(residuals) = residuals {
            if residuals.down.len() != skips.len() {
                candle_core::bail!(
                    "unet: {} residuals of a ControlNet for {} skips",
                    residuals.down.len(),
                    skips.len()
                );
            }
            for (skip, residual) in skips.iter_mut().zip(&residuals.down) {
                *skip = tape.segment(&[skip, residual], |inputs| &inputs[0] + &inputs[1])?;
            }
            hidden = tape.segment(&[&hidden, &residuals.mid], |inputs| &inputs[0] + &inputs[1])?;
        }
        for block in &self.up_blocks {
            let Some(first) = skips.len().checked_sub(block.skips()) else {
                candle_core::bail!("the way up of the UNet has more layers than the way down");
            };
            // The last one made is the first one used.
            let taken: Vec<Tensor> = skips.drain(first..).rev().collect();
            let size = match skips.last() {
                Some(next) => Some((next.dim(1)?, next.dim(2)?)),
                None => None,
            };
            let at = context.clone();
            let inputs: Vec<&Tensor> = std::iter::once(&hidden).chain(&taken).collect();
            let outputs = tape.level(&inputs, move |inputs, tape| {
                Ok(vec![block.forward(tape, inputs, size, &at)?])
            })?;
            hidden = outputs[0].clone();
        }
        Ok(hidden)
    }
}

/// Checks the shapes of a pass and prepares what all its layers see.
fn context(
    config: &ImageUNetConfig,
    time_embedding: &TimeEmbedding,
    (inflation, dtype): (Inflation, DType),
    (x, t, text): (&Tensor, &[f64], &Tensor),
) -> Result<Context> {
    let (b, c, frames, _, _) = x.dims5()?;
    let (text_b, _, text_width) = text.dims3()?;
    let fits = c == config.in_channels && text_width == config.text_width && text_b == b;
    if !fits || (t.len() != b && t.len() != 1) {
        candle_core::bail!(
            "unet: a clip {:?} of {} channels with text {:?} of width {} and {} noise levels",
            x.shape(),
            config.in_channels,
            text.shape(),
            config.text_width,
            t.len()
        );
    }
    let levels: Vec<f64> = (0..b).map(|i| t[i.min(t.len() - 1)]).collect();
    Ok(Context {
        frames,
        pooled: inflation.pooled(frames),
        time: time_embedding.forward(&levels, dtype, x.device())?,
        text: text.to_dtype(dtype)?,
    })
}

/// The levels on the way down and the middle: all skips, `first` among them, and what goes on to the way up.
fn way_down<'a>(
    tape: &mut Tape<'a>,
    (down_blocks, mid_block): (&'a [DownBlock], &'a MidBlock),
    first: Tensor,
    context: &Context,
) -> Result<(Vec<Tensor>, Tensor)> {
    let mut hidden = first.clone();
    let mut skips = vec![first];
    for block in down_blocks {
        let at = context.clone();
        let outputs = tape.level(&[&hidden], move |inputs, tape| {
            block.forward(tape, &inputs[0], &at)
        })?;
        skips.extend(outputs);
        hidden = skips[skips.len() - 1].clone();
    }
    let at = context.clone();
    let middle = tape.segment(&[&hidden], move |inputs| mid_block.forward(&inputs[0], &at))?;
    Ok((skips, middle))
}

/// An inflated UNet and the ControlNet that steers it, where there is one.
#[derive(Debug)]
pub struct ImageNetwork {
    /// The denoising network.
    pub unet: InflatedUNet,
    /// What turns a control clip into residuals for it.
    pub controlnet: Option<ControlNetModel>,
    /// What the residuals are multiplied with.
    pub control_scale: f64,
}

impl Denoiser for ImageNetwork {
    fn predict_on<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        x: &Tensor,
        t: &[f64],
        seen: Conditioning<'_>,
    ) -> Result<Tensor> {
        let residuals = match (&self.controlnet, seen.control) {
            (Some(controlnet), Some(control)) => {
                let scale = self.control_scale;
                Some(controlnet.forward_on(tape, (x, t, seen.text), control, scale)?)
            }
            (None, None) => None,
            (Some(_), None) => candle_core::bail!("the ControlNet has no clip to follow"),
            (None, Some(_)) => candle_core::bail!("there is no ControlNet for the control clip"),
        };
        self.unet
            .forward_on(tape, x, t, seen.text, residuals.as_ref())
    }

    fn dtype(&self) -> DType {
        self.unet.dtype()
    }
}
