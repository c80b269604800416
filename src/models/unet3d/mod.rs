//! `UNet3DConditionModel` of ModelScope and ZeroScope. Source: spec sections 1 to 3.

mod attention;
mod blocks;
mod config;

use candle_core::{DType, Result, Tensor};

use self::attention::TransformerTemporalModel;
use self::blocks::{Context, DownBlock3D, UNetMidBlock3DCrossAttn, UpBlock3D};
pub(in crate::models) use self::config::BlockKind;
pub use self::config::UNet3DConfig;
use super::error::ModelError;
use super::resnet::norm_silu;
use super::weights::Weights;
use crate::nn::layout::{batch_to_frames, channels_first, channels_last, frames_to_batch};
use crate::nn::{Conv2d, Conv2dConfig, GroupNorm, Linear, Tape, silu, timestep_embedding};

/// What the temporal layers do when a clip has a single frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SingleFrame {
    /// They run, as in diffusers.
    #[default]
    RunTemporal,
    /// They are left out, as in MotionDirector's copy of the network, whose spatial pass trains on one frame (spec 3).
    SkipTemporal,
}

/// Width of the time embedding.
fn time_width(config: &UNet3DConfig) -> usize {
    4 * config.block_out_channels[0]
}

/// The denoising network: predicts the noise (or velocity, or clean clip) in a latent clip at a noise level.
#[derive(Debug)]
pub struct UNet3DConditionModel {
    conv_in: Conv2d,
    time_linear_1: Linear,
    time_linear_2: Linear,
    transformer_in: TransformerTemporalModel,
    down_blocks: Vec<DownBlock3D>,
    mid_block: UNetMidBlock3DCrossAttn,
    up_blocks: Vec<UpBlock3D>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    config: UNet3DConfig,
    dtype: DType,
    /// What a clip of one frame goes through.
    pub single_frame: SingleFrame,
}

impl UNet3DConditionModel {
    /// Builds the network; weights chosen with [`Weights::set_trainable`] become variables.
    ///
    /// # Errors
    /// [`ModelError::Keys`] with every weight that is missing, unexpected or of the wrong shape.
    pub fn new(weights: &Weights, config: &UNet3DConfig) -> std::result::Result<Self, ModelError> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv3 = Conv2dConfig::padded(1);
        let (down, up) = (weights.pp("down_blocks"), weights.pp("up_blocks"));
        let model = Self {
            conv_in: weights.conv2d("conv_in", (config.in_channels, first), 3, conv3)?,
            time_linear_1: weights.linear(
                "time_embedding.linear_1",
                first,
                time_width(config),
                true,
            )?,
            time_linear_2: weights.linear(
                "time_embedding.linear_2",
                time_width(config),
                time_width(config),
                true,
            )?,
            transformer_in: TransformerTemporalModel::first(
                &weights.pp("transformer_in"),
                first,
                config,
            )?,
            down_blocks: (0..channels.len())
                .map(|i| DownBlock3D::new(&down.pp(i), i, config))
                .collect::<std::result::Result<_, _>>()?,
            mid_block: UNetMidBlock3DCrossAttn::new(&weights.pp("mid_block"), last, config)?,
            up_blocks: (0..channels.len())
                .map(|i| UpBlock3D::new(&up.pp(i), i, config))
                .collect::<std::result::Result<_, _>>()?,
            conv_norm_out: weights.group_norm(
                "conv_norm_out",
                first,
                config.norm_groups,
                config.norm_eps,
            )?,
            conv_out: weights.conv2d("conv_out", (first, config.out_channels), 3, conv3)?,
            config: config.clone(),
            dtype: weights.dtype(),
            single_frame: SingleFrame::default(),
        };
        weights.finish()?;
        Ok(model)
    }

    /// Sizes of the network.
    pub fn config(&self) -> &UNet3DConfig {
        &self.config
    }

    /// Number type of the frozen weights and of the activations; what learns is `f32`.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Predicts from a noisy latent clip.
    ///
    /// Shape: `x [b, c, f, h, w]` of any `f`, `h`, `w`; `t` one noise level a clip (0 to 999), or a single one for all;
    /// `text [b, n, d]`. Returns `[b, c', f, h, w]` in the number type of `x`.
    /// Units: latents scaled to a standard deviation near 1.
    ///
    /// # Errors
    /// When the shapes do not fit the network or each other.
    pub fn forward(&self, x: &Tensor, t: &[f64], text: &Tensor) -> Result<Tensor> {
        self.forward_on(&mut Tape::off(), x, t, text)
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
    ) -> Result<Tensor> {
        let (b, c, frames, _, _) = x.dims5()?;
        let (text_b, _, text_width) = text.dims3()?;
        let fits =
            c == self.config.in_channels && text_width == self.config.text_width && text_b == b;
        if !fits || (t.len() != b && t.len() != 1) {
            candle_core::bail!(
                "unet: a clip {:?} of {} channels with text {:?} of width {} and {} noise levels",
                x.shape(),
                self.config.in_channels,
                text.shape(),
                self.config.text_width,
                t.len()
            );
        }
        let levels: Vec<f64> = (0..b).map(|i| t[i.min(t.len() - 1)]).collect();
        let time = self.time_embedding(&levels, x)?;
        let text = text.to_dtype(self.dtype)?;
        let temporal = frames > 1 || self.single_frame == SingleFrame::RunTemporal;
        let context = Context {
            frames,
            time,
            text,
            temporal,
        };
        let hidden = frames_to_batch(&channels_last(&x.to_dtype(self.dtype)?)?)?;
        let hidden = self.denoise(tape, &hidden, &context)?;
        let dtype = x.dtype();
        let out = tape.segment(&[&hidden], move |inputs| {
            let normed = norm_silu(&self.conv_norm_out, &inputs[0])?;
            let out = batch_to_frames(&self.conv_out.forward(&normed)?, frames)?;
            channels_first(&out)?.to_dtype(dtype)
        })?;
        tape.end(out)
    }

    /// The time embedding after its last activation, which every residual layer would otherwise apply again: `[b, d]`.
    fn time_embedding(&self, levels: &[f64], x: &Tensor) -> Result<Tensor> {
        let embedding = timestep_embedding(
            levels,
            self.config.block_out_channels[0],
            self.dtype,
            x.device(),
        )?;
        let hidden = silu(&self.time_linear_1.forward(&embedding)?)?;
        silu(&self.time_linear_2.forward(&hidden)?)
    }

    /// Everything before the last norm. Shape: `[b * f, h, w, c]` to `[b * f, h, w, c']`.
    fn denoise<'a>(&'a self, tape: &mut Tape<'a>, x: &Tensor, context: &Context) -> Result<Tensor> {
        let at = context.clone();
        let mut hidden = tape.segment(&[x], move |inputs| {
            let hidden = self.conv_in.forward(&inputs[0])?;
            match at.temporal {
                true => self.transformer_in.forward(&hidden, at.frames),
                false => Ok(hidden),
            }
        })?;
        let mut skips = vec![hidden.clone()];
        for block in &self.down_blocks {
            let at = context.clone();
            let outputs = tape.level(&[&hidden], move |inputs, tape| {
                block.forward(tape, &inputs[0], &at)
            })?;
            skips.extend(outputs);
            hidden = skips[skips.len() - 1].clone();
        }
        let at = context.clone();
        hidden = tape.segment(&[&hidden], move |inputs| {
            self.mid_block.forward(&inputs[0], &at)
        })?;
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
