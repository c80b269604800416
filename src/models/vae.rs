//! `AutoencoderKL`: pictures to latents and back. Source: spec section 5.

use candle_core::{DType, Result, Tensor};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::ModelError;
use super::resnet::{
    DownPadding, Downsample2D, ResnetBlock2D, ResnetConfig, Upsample2D, norm_silu,
};
use super::weights::Weights;
use crate::nn::{Conv2d, Conv2dConfig, GroupNorm, Linear, Mask, attention};

type Built<T> = std::result::Result<T, ModelError>;

/// Epsilon of every norm here (spec 5).
const NORM_EPS: f64 = 1e-6;
/// Limits of the logarithm of the posterior's variance.
const LOGVAR_RANGE: (f64, f64) = (-30.0, 20.0);

/// Sizes of an [`AutoencoderKL`]; the fields of its `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a decoded picture.
    pub out_channels: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of each level, finest first; each level but the last halves the picture.
    pub block_out_channels: Vec<usize>,
    /// Residual layers of a level (one more in the decoder).
    pub layers_per_block: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Latents are multiplied by this after encoding, so that their standard deviation is near 1.
    pub scaling_factor: f64,
    /// Whether the middle has an attention layer.
    pub mid_block_add_attention: bool,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    act_fn: String,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    shift_factor: Option<f64>,
    latents_mean: Option<IgnoredAny>,
    latents_std: Option<IgnoredAny>,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            act_fn: "silu".to_owned(),
            down_block_types: vec!["DownEncoderBlock2D".to_owned()],
            up_block_types: vec!["UpDecoderBlock2D".to_owned()],
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
        }
    }
}

impl VaeConfig {
    /// Reads the text of a `config.json`. Fields that are missing have diffusers' defaults.
    ///
    /// # Errors
    /// What is wrong or not supported, in words.
    pub fn from_json(text: &str) -> std::result::Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// How many pixels of a side become one position of a latent.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let levels = self.block_out_channels.len();
        let sizes = [
            ("in_channels", self.in_channels, 1024),
            ("out_channels", self.out_channels, 1024),
            ("latent_channels", self.latent_channels, 1024),
            ("layers_per_block", self.layers_per_block, 64),
            ("norm_num_groups", self.norm_num_groups, 1024),
            ("the number of levels", levels, 16),
        ];
        if let Some((name, value, most)) = sizes
            .into_iter()
            .find(|&(_, value, most)| value == 0 || value > most)
        {
            return Err(format!("{name} is {value}, expected 1 to {most}"));
        }
        let groups = self.norm_num_groups;
        if let Some(c) = self
            .block_out_channels
            .iter()
            .find(|&&c| c == 0 || c > 65_536 || c % groups != 0)
        {
            return Err(format!("{c} channels do not divide into {groups} groups"));
        }
        if self.down_block_types.len() != levels || self.up_block_types.len() != levels {
            return Err(format!(
                "{levels} levels, but another number of block types"
            ));
        }
        let known =
            |name: &&String| matches!(name.as_str(), "DownEncoderBlock2D" | "UpDecoderBlock2D");
        if let Some(name) = self
            .down_block_types
            .iter()
            .chain(&self.up_block_types)
            .find(|name| !known(name))
        {
            return Err(format!("blocks of type {name} are not supported"));
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(format!("the activation {} is not supported", self.act_fn));
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            return Err(format!(
                "scaling_factor is {}, expected a positive number",
                self.scaling_factor
            ));
        }
        if self.shift_factor.is_some_and(|shift| shift != 0.0) {
            return Err("a shift_factor is not supported".to_owned());
        }
        if self.latents_mean.is_some() || self.latents_std.is_some() {
            return Err("latents_mean and latents_std are not supported".to_owned());
        }
        Ok(())
    }
}

/// Distribution of the latents of a picture; both `[n, c, h, w]`, not yet scaled.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Its mean.
    pub mean: Tensor,
    /// Logarithm of its variance, within -30 to 20.
    pub logvar: Tensor,
}

impl Posterior {
    /// `mean + exp(logvar / 2) noise`, with standard normal `noise [n, c, h, w]`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + ((&self.logvar * 0.5)?.exp()? * noise)?
    }
}

/// The autoencoder between pictures and latents. It never learns here.
#[derive(Debug)]
pub struct AutoencoderKL {
    /// Latents are multiplied by this after encoding and divided by it before decoding.
    pub scaling_factor: f64,
    encoder: Option<Encoder>,
    decoder: Decoder,
    config: VaeConfig,
    dtype: DType,
}

impl AutoencoderKL {
    /// Builds both halves.
    ///
    /// # Errors
    /// [`ModelError::Keys`] with every weight that is missing, unexpected or of the wrong shape.
    pub fn new(weights: &Weights, config: &VaeConfig) -> Built<Self> {
        let vae = Self {
            scaling_factor: config.scaling_factor,
            encoder: Some(Encoder::new(weights, config)?),
            decoder: Decoder::new(weights, config)?,
            config: config.clone(),
            dtype: weights.dtype(),
        };
        weights.finish()?;
        Ok(vae)
    }

    /// How many pixels of a side become one position of a latent.
    pub fn factor(&self) -> usize {
        self.config.factor()
    }

    /// Sizes of the network.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Frees the encoder's memory. After the clip is encoded only the decoder is needed.
    pub fn drop_encoder(&mut self) {
        self.encoder = None;
    }

    /// Encodes pictures.
    ///
    /// Shape: `x [n, 3, h, w]`, height and width multiples of [`Self::factor`]; returns `[n, c, h / factor, w / factor]`.
    /// Range: `x` in -1 to 1; the result is not scaled by [`Self::scaling_factor`].
    ///
    /// # Errors
    /// When the shape does not fit or the encoder was dropped.
    pub fn encode(&self, x: &Tensor) -> Result<Posterior> {
        let (_, c, h, w) = x.dims4()?;
        let factor = self.factor();
        if c != self.config.in_channels || h % factor != 0 || w % factor != 0 {
            candle_core::bail!(
                "vae: a picture {:?}, expected {} channels and sides that are multiples of {factor}",
                x.shape(),
                self.config.in_channels
            );
        }
        let Some(encoder) = &self.encoder else {
            candle_core::bail!("vae: the encoder was dropped after the clip had been encoded");
        };
        let hidden = x
            .to_dtype(self.dtype)?
            .permute((0, 2, 3, 1))?
            .contiguous()?;
        let moments = encoder
            .forward(&hidden)?
            .permute((0, 3, 1, 2))?
            .contiguous()?
            .to_dtype(x.dtype())?;
        let latent = self.config.latent_channels;
        let (low, high) = LOGVAR_RANGE;
        Ok(Posterior {
            mean: moments.narrow(1, 0, latent)?.contiguous()?,
            logvar: moments
                .narrow(1, latent, latent)?
                .contiguous()?
                .clamp(low, high)?,
        })
    }

    /// Decodes latents.
    ///
    /// Shape: `z [n, c, h', w']`, not scaled (divide by [`Self::scaling_factor`] first); returns
    /// `[n, 3, h' factor, w' factor]`.
    /// Range: about -1 to 1, not clamped.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        let hidden = z
            .to_dtype(self.dtype)?
            .permute((0, 2, 3, 1))?
            .contiguous()?;
        self.decoder
            .forward(&hidden)?
            .permute((0, 3, 1, 2))?
            .contiguous()?
            .to_dtype(z.dtype())
    }
}

fn resnet(
    weights: &Weights,
    (in_channels, out_channels): (usize, usize),
    config: &VaeConfig,
) -> Built<ResnetBlock2D> {
    let groups = config.norm_num_groups;
    let (eps, output_scale) = (NORM_EPS, 1.0);
    ResnetBlock2D::new(
        weights,
        &ResnetConfig {
            in_channels,
            out_channels,
            time_width: None,
            groups,
            eps,
            output_scale,
        },
    )
}

/// A residual layer, attention over all positions with a single head, a residual layer.
#[derive(Debug)]
struct MidBlock {
    resnets: [ResnetBlock2D; 2],
    attention: Option<MidAttention>,
}

impl MidBlock {
    fn new(weights: &Weights, channels: usize, config: &VaeConfig) -> Built<Self> {
        let resnet = |k: usize| resnet(&weights.pp("resnets").pp(k), (channels, channels), config);
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            attention: match config.mid_block_add_attention {
                true => Some(MidAttention::new(
                    &weights.pp("attentions.0"),
                    channels,
                    config.norm_num_groups,
                )?),
                false => None,
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.resnets[0].forward(x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.resnets[1].forward(&x, None)
    }
}

#[derive(Debug)]
struct MidAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl MidAttention {
    fn new(weights: &Weights, c: usize, groups: usize) -> Built<Self> {
        // Files saved before diffusers 0.18 have the first set of names.
        let [q, k, v, out] = match weights.has("query.weight") {
            true => ["query", "key", "value", "proj_attn"],
            false => ["to_q", "to_k", "to_v", "to_out.0"],
        };
        Ok(Self {
            group_norm: weights.group_norm("group_norm", c, groups, NORM_EPS)?,
            to_q: weights.linear(q, c, c, true)?,
            to_k: weights.linear(k, c, c, true)?,
            to_v: weights.linear(v, c, c, true)?,
            to_out: weights.linear(out, c, c, true)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        let tokens = self.group_norm.forward(&x.reshape((n, h * w, c))?)?;
        let (q, k, v) = (
            self.to_q.forward(&tokens)?,
            self.to_k.forward(&tokens)?,
            self.to_v.forward(&tokens)?,
        );
        let attended = self
            .to_out
            .forward(&attention(&q, &k, &v, 1, Mask::None)?)?;
        x + attended.reshape((n, h, w, c))?
    }
}

/// Channels last, `[n, h, w, 3]` to `[n, h / factor, w / factor, 2 c]`.
#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<ResnetBlock2D>, Option<Downsample2D>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    quant_conv: Option<Conv2d>,
}

impl Encoder {
    fn new(root: &Weights, config: &VaeConfig) -> Built<Self> {
        let weights = root.pp("encoder");
        let channels = &config.block_out_channels;
        let last = channels[channels.len() - 1];
        let conv3 = Conv2dConfig::padded(1);
        let moments = 2 * config.latent_channels;
        let level = |i: usize| -> Built<_> {
            let at = weights.pp("down_blocks").pp(i);
            let (input, output) = (channels[i.saturating_sub(1)], channels[i]);
            let resnets = (0..config.layers_per_block).map(|k| {
                let sizes = (if k == 0 { input } else { output }, output);
                resnet(&at.pp("resnets").pp(k), sizes, config)
            });
            let downsampler = match i + 1 == channels.len() {
                true => None,
                false => Some(Downsample2D::new(
                    &at.pp("downsamplers.0"),
                    output,
                    DownPadding::BottomRight,
                )?),
            };
            Ok((resnets.collect::<Built<_>>()?, downsampler))
        };
        Ok(Self {
            conv_in: weights.conv2d("conv_in", (config.in_channels, channels[0]), 3, conv3)?,
            levels: (0..channels.len()).map(level).collect::<Built<_>>()?,
            mid_block: MidBlock::new(&weights.pp("mid_block"), last, config)?,
            conv_norm_out: weights.group_norm(
                "conv_norm_out",
                last,
                config.norm_num_groups,
                NORM_EPS,
            )?,
            conv_out: weights.conv2d("conv_out", (last, moments), 3, conv3)?,
            quant_conv: match config.use_quant_conv {
                true => Some(root.conv2d(
                    "quant_conv",
                    (moments, moments),
                    1,
                    Conv2dConfig::default(),
                )?),
                false => None,
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x)?;
        for (resnets, downsampler) in &self.levels {
            for resnet in resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(downsampler) = downsampler {
                x = downsampler.forward(&x)?;
            }
        }
        let x = norm_silu(&self.conv_norm_out, &self.mid_block.forward(&x)?)?;
        let moments = self.conv_out.forward(&x)?;
        match &self.quant_conv {
            Some(conv) => conv.forward(&moments),
            None => Ok(moments),
        }
    }
}

/// Channels last, `[n, h', w', c]` to `[n, h' factor, w' factor, 3]`.
#[derive(Debug)]
struct Decoder {
    post_quant_conv: Option<Conv2d>,
    conv_in: Conv2d,
    mid_block: MidBlock,
    levels: Vec<(Vec<ResnetBlock2D>, Option<Upsample2D>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(root: &Weights, config: &VaeConfig) -> Built<Self> {
        let weights = root.pp("decoder");
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv3 = Conv2dConfig::padded(1);
        let latent = config.latent_channels;
        let level = |i: usize| -> Built<_> {
            let at = weights.pp("up_blocks").pp(i);
            let (input, output) = (channels[i.saturating_sub(1)], channels[i]);
            let resnets = (0..=config.layers_per_block).map(|k| {
                let sizes = (if k == 0 { input } else { output }, output);
                resnet(&at.pp("resnets").pp(k), sizes, config)
            });
            let upsampler = match i + 1 == channels.len() {
                true => None,
                false => Some(Upsample2D::new(&at.pp("upsamplers.0"), output)?),
            };
            Ok((resnets.collect::<Built<_>>()?, upsampler))
        };
        Ok(Self {
            post_quant_conv: match config.use_post_quant_conv {
                true => Some(root.conv2d(
                    "post_quant_conv",
                    (latent, latent),
                    1,
                    Conv2dConfig::default(),
                )?),
                false => None,
            },
            conv_in: weights.conv2d("conv_in", (latent, first), 3, conv3)?,
            mid_block: MidBlock::new(&weights.pp("mid_block"), first, config)?,
            levels: (0..channels.len()).map(level).collect::<Built<_>>()?,
            conv_norm_out: weights.group_norm(
                "conv_norm_out",
                last,
                config.norm_num_groups,
                NORM_EPS,
            )?,
            conv_out: weights.conv2d("conv_out", (last, config.out_channels), 3, conv3)?,
        })
    }

    fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let z = match &self.post_quant_conv {
            Some(conv) => conv.forward(z)?,
            None => z.clone(),
        };
        let mut x = self.mid_block.forward(&self.conv_in.forward(&z)?)?;
        for (resnets, upsampler) in &self.levels {
            for resnet in resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(upsampler) = upsampler {
                let (_, h, w, _) = x.dims4()?;
                x = upsampler.forward(&x, (2 * h, 2 * w))?;
            }
        }
        self.conv_out.forward(&norm_silu(&self.conv_norm_out, &x)?)
    }
}
