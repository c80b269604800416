//! `config.json` of an image model's UNet and of its ControlNet, with misleading names put right once.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Largest side of the latents a model may have been trained on: 8192 pixels.
const MAX_SIDE: usize = 1024;
/// The widest layer any model has.
const MAX_WIDTH: usize = 65_536;

/// Sizes of an [`super::InflatedUNet`]: those of the image model's UNet (Stable Diffusion 1.x). Source: spec section 5.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageUNetConfig {
    /// Channels of the latents that come in.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Which levels have transformers on the way down, finest first.
    pub down_attends: Vec<bool>,
    /// Which levels have transformers on the way up, coarsest first.
    pub up_attends: Vec<bool>,
    /// Residual layers in a down block; an up block has one more.
    pub layers_per_block: usize,
    /// Width of the text embedding.
    pub text_width: usize,
    /// Heads of every attention, whatever its width.
    pub heads: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Epsilon of the norms in residual layers.
    pub norm_eps: f64,
    /// Divisor of the residual sums in the middle block.
    pub mid_scale: f64,
    /// Zeros around the input of a halving convolution.
    pub downsample_padding: usize,
    /// Height and width of the latents the model was trained on, where the file says so.
    pub sample_size: Option<(usize, usize)>,
}

/// Sizes of a [`super::ControlNetModel`]: those of the UNet's way down, and of the embedding of its picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlNetConfig {
    /// Sizes of the way down and the middle; the way up is not read.
    pub unet: ImageUNetConfig,
    /// Channels of the picture that steers.
    pub conditioning_channels: usize,
    /// Channels of the stages of its embedding; each but the first halves the picture.
    pub embedding_channels: Vec<usize>,
    /// Whether the network was trained on pictures with blue first.
    pub blue_first: bool,
}

impl ImageUNetConfig {
    /// Reads the text of a `config.json`. Fields that are missing have diffusers' defaults.
    ///
    /// # Errors
    /// What is wrong or not supported, in words.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let file: ConfigFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let config = file.network()?;
        if config.up_attends.len() != config.block_out_channels.len() {
            return Err(format!(
                "{} levels, but {} up blocks",
                config.block_out_channels.len(),
                config.up_attends.len()
            ));
        }
        Ok(config)
    }

    /// Width of the time embedding.
    pub(super) fn time_width(&self) -> usize {
        4 * self.block_out_channels[0]
    }
}

impl ControlNetConfig {
    /// Reads the text of a `config.json`. Fields that are missing have diffusers' defaults.
    ///
    /// # Errors
    /// What is wrong or not supported, in words.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let file: ConfigFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let stages = &file.conditioning_embedding_out_channels;
        let usable = (1..=16).contains(&stages.len())
            && stages.iter().all(|c| (1..=MAX_WIDTH).contains(c))
            && (1..=1024).contains(&file.conditioning_channels);
        if !usable {
            return Err(format!(
                "an embedding of {} channels in stages of {stages:?} is no network's",
                file.conditioning_channels
            ));
        }
        if file.global_pool_conditions {
            return Err("global_pool_conditions is not supported".to_owned());
        }
        let blue_first = match file.controlnet_conditioning_channel_order.as_str() {
            "rgb" => false,
            "bgr" => true,
            other => return Err(format!("the channel order {other} is not known")),
        };
        Ok(Self {
            unet: file.network()?,
            conditioning_channels: file.conditioning_channels,
            embedding_channels: stages.clone(),
            blue_first,
        })
    }

    /// How many pixels of a side of the steering picture become one position of the latents.
    pub fn factor(&self) -> usize {
        1 << (self.embedding_channels.len() - 1)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SampleSize {
    Square(usize),
    Rectangle(usize, usize),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeadCount {
    Same(usize),
    ByLevel(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(default)]
struct ConfigFile {
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    mid_block_type: Option<String>,
    layers_per_block: usize,
    cross_attention_dim: usize,
    attention_head_dim: HeadCount,
    norm_num_groups: usize,
    norm_eps: f64,
    act_fn: String,
    mid_block_scale_factor: f64,
    downsample_padding: usize,
    sample_size: Option<SampleSize>,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    // What only later image models have.
    use_linear_projection: Value,
    center_input_sample: Value,
    dual_cross_attention: Value,
    only_cross_attention: Value,
    transformer_layers_per_block: Value,
    resnet_time_scale_shift: Value,
    resnet_skip_time_act: Value,
    time_embedding_type: Value,
    num_attention_heads: Option<IgnoredAny>,
    class_embed_type: Option<IgnoredAny>,
    num_class_embeds: Option<IgnoredAny>,
    addition_embed_type: Option<IgnoredAny>,
    encoder_hid_dim: Option<IgnoredAny>,
    time_embedding_dim: Option<IgnoredAny>,
    time_embedding_act_fn: Option<IgnoredAny>,
    time_cond_proj_dim: Option<IgnoredAny>,
    cross_attention_norm: Option<IgnoredAny>,
    // ControlNet.
    conditioning_channels: usize,
    conditioning_embedding_out_channels: Vec<usize>,
    controlnet_conditioning_channel_order: String,
    global_pool_conditions: bool,
}

impl Default for ConfigFile {
    fn default() -> Self {
        let blocks = |attending: &str, plain: &str, plain_at: usize| {
            let name = |i: usize| if i == plain_at { plain } else { attending };
            (0..4).map(|i| name(i).to_owned()).collect()
        };
        Self {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: blocks("CrossAttnDownBlock2D", "DownBlock2D", 3),
            up_block_types: blocks("CrossAttnUpBlock2D", "UpBlock2D", 0),
            mid_block_type: None,
            layers_per_block: 2,
            cross_attention_dim: 1280,
            attention_head_dim: HeadCount::Same(8),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            act_fn: "silu".to_owned(),
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            sample_size: None,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            use_linear_projection: Value::Null,
            center_input_sample: Value::Null,
            dual_cross_attention: Value::Null,
            only_cross_attention: Value::Null,
            transformer_layers_per_block: Value::Null,
            resnet_time_scale_shift: Value::Null,
            resnet_skip_time_act: Value::Null,
            time_embedding_type: Value::Null,
            num_attention_heads: None,
            class_embed_type: None,
            num_class_embeds: None,
            addition_embed_type: None,
            encoder_hid_dim: None,
            time_embedding_dim: None,
            time_embedding_act_fn: None,
            time_cond_proj_dim: None,
            cross_attention_norm: None,
            conditioning_channels: 3,
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            controlnet_conditioning_channel_order: "rgb".to_owned(),
            global_pool_conditions: false,
        }
    }
}

impl ConfigFile {
    fn network(&self) -> Result<ImageUNetConfig, String> {
        self.refuse_other_networks()?;
        let heads = match self.attention_head_dim {
            HeadCount::Same(heads) => heads,
            HeadCount::ByLevel(_) => {
                return Err("heads by level are not supported (Stable Diffusion 2)".to_owned());
            }
        };
        self.check(heads)?;
        let attends = |names: &[String], direction: &str| {
            names
                .iter()
                .map(|name| attends(name, direction))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(ImageUNetConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            block_out_channels: self.block_out_channels.clone(),
            down_attends: attends(&self.down_block_types, "Down")?,
            up_attends: attends(&self.up_block_types, "Up")?,
            layers_per_block: self.layers_per_block,
            text_width: self.cross_attention_dim,
            // In image models this number is what its name denies: the number of heads (spec 8, point 1).
            heads,
            norm_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            mid_scale: self.mid_block_scale_factor,
            downsample_padding: self.downsample_padding,
            sample_size: self.sides(),
        })
    }

    /// Height and width of the latents.
    fn sides(&self) -> Option<(usize, usize)> {
        self.sample_size.as_ref().map(|size| match *size {
            SampleSize::Square(side) => (side, side),
            SampleSize::Rectangle(h, w) => (h, w),
        })
    }

    fn refuse_other_networks(&self) -> Result<(), String> {
        let off = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
        let is = |value: &Value, plain: &Value| value.is_null() || value == plain;
        let plain = Value::from("default");
        for (field, given) in [
            ("use_linear_projection", !off(&self.use_linear_projection)),
            ("center_input_sample", !off(&self.center_input_sample)),
            ("dual_cross_attention", !off(&self.dual_cross_attention)),
            ("only_cross_attention", !off(&self.only_cross_attention)),
            ("resnet_skip_time_act", !off(&self.resnet_skip_time_act)),
            (
                "transformer_layers_per_block",
                !is(&self.transformer_layers_per_block, &Value::from(1)),
            ),
            (
                "resnet_time_scale_shift",
                !is(&self.resnet_time_scale_shift, &plain),
            ),
            (
                "time_embedding_type",
                !is(&self.time_embedding_type, &Value::from("positional")),
            ),
            (
                "mid_block_type",
                !self.mid_block_type.as_deref().is_none_or(is_middle),
            ),
            ("num_attention_heads", self.num_attention_heads.is_some()),
            ("class_embed_type", self.class_embed_type.is_some()),
            ("num_class_embeds", self.num_class_embeds.is_some()),
            ("addition_embed_type", self.addition_embed_type.is_some()),
            ("encoder_hid_dim", self.encoder_hid_dim.is_some()),
            ("time_embedding_dim", self.time_embedding_dim.is_some()),
            (
                "time_embedding_act_fn",
                self.time_embedding_act_fn.is_some(),
            ),
            ("time_cond_proj_dim", self.time_cond_proj_dim.is_some()),
            ("cross_attention_norm", self.cross_attention_norm.is_some()),
            ("flip_sin_to_cos", !self.flip_sin_to_cos),
            ("freq_shift", self.freq_shift != 0.0),
        ] {
            if given {
                return Err(format!(
                    "this {field} is not supported: the network is not that of Stable Diffusion 1"
                ));
            }
        }
        Ok(())
    }

    /// Bounds that every real model keeps; they stop a hostile file from asking for absurd amounts of memory.
    fn check(&self, heads: usize) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        let sizes = [
            ("in_channels", self.in_channels, 1024),
            ("out_channels", self.out_channels, 1024),
            ("layers_per_block", self.layers_per_block, 64),
            ("cross_attention_dim", self.cross_attention_dim, MAX_WIDTH),
            ("attention_head_dim", heads, MAX_WIDTH),
            ("norm_num_groups", self.norm_num_groups, 1024),
            ("the number of levels", levels, 16),
        ];
        if let Some((name, value, most)) = sizes
            .into_iter()
            .find(|&(_, value, most)| value == 0 || value > most)
        {
            return Err(format!("{name} is {value}, expected 1 to {most}"));
        }
        if self.down_block_types.len() != levels {
            let found = self.down_block_types.len();
            return Err(format!("{levels} levels, but {found} down blocks"));
        }
        for &c in &self.block_out_channels {
            // The time embedding has a sine and a cosine for every two channels of the first level.
            let whole = (1..=MAX_WIDTH).contains(&c)
                && c % self.norm_num_groups == 0
                && c % heads == 0
                && c % 2 == 0;
            if !whole {
                return Err(format!(
                    "{c} channels do not divide into {} groups and {heads} heads",
                    self.norm_num_groups
                ));
            }
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(format!("the activation {} is not supported", self.act_fn));
        }
        let usable = 1..=MAX_SIDE;
        if let Some((h, w)) = self.sides()
            && !(usable.contains(&h) && usable.contains(&w))
        {
            return Err(format!(
                "sample_size is {h} by {w}, expected 1 to {MAX_SIDE}"
            ));
        }
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(self.norm_eps)
            || !positive(self.mid_block_scale_factor)
            || self.downsample_padding > 16
        {
            return Err(
                "norm_eps, mid_block_scale_factor or downsample_padding is out of range".to_owned(),
            );
        }
        Ok(())
    }
}

fn is_middle(name: &str) -> bool {
    matches!(name, "UNetMidBlock2DCrossAttn" | "UNetMidBlock3DCrossAttn")
}

/// Whether blocks of this type have transformers. An inflated network calls its blocks 3D, the image model 2D.
fn attends(name: &str, direction: &str) -> Result<bool, String> {
    match name.split_once(direction) {
        Some(("CrossAttn", "Block2D" | "Block3D")) => Ok(true),
        Some(("", "Block2D" | "Block3D")) => Ok(false),
        _ => Err(format!("blocks of type {name} are not supported")),
    }
}
