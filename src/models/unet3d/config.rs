//! `unet/config.json`, with its misleading names put right once.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Largest side of the latents a model may have been trained on: 8192 pixels.
const MAX_SIDE: usize = 1024;

/// Whether a block has transformers beside its residual layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) enum BlockKind {
    /// `CrossAttnDownBlock3D`, `CrossAttnUpBlock3D`.
    CrossAttention,
    /// `DownBlock3D`, `UpBlock3D`.
    Plain,
}

/// Sizes of a [`super::UNet3DConditionModel`]. Source: spec section 3.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet3DConfig {
    /// Channels of the latent clip that comes in.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Kind of each level on the way down, finest first.
    pub(in crate::models) down_blocks: Vec<BlockKind>,
    /// Kind of each level on the way up, coarsest first.
    pub(in crate::models) up_blocks: Vec<BlockKind>,
    /// Residual layers in a down block; an up block has one more.
    pub layers_per_block: usize,
    /// Width of the text embedding.
    pub text_width: usize,
    /// Channels of one attention head; a level of `c` channels has `c / head_dim` heads.
    pub head_dim: usize,
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

impl UNet3DConfig {
    /// Reads the text of a `config.json`. Fields that are missing have diffusers' defaults.
    ///
    /// # Errors
    /// What is wrong or not supported, in words.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let file: ConfigFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
        file.check()?;
        let kinds = |names: &[String], direction: &str| {
            names
                .iter()
                .map(|name| block_kind(name, direction))
                .collect::<Result<Vec<_>, _>>()
        };
        let sample_size = file.sides();
        Ok(Self {
            down_blocks: kinds(&file.down_block_types, "Down")?,
            up_blocks: kinds(&file.up_block_types, "Up")?,
            in_channels: file.in_channels,
            out_channels: file.out_channels,
            block_out_channels: file.block_out_channels,
            layers_per_block: file.layers_per_block,
            text_width: file.cross_attention_dim,
            // diffusers passes this number on under the name of a head count, then divides the channels by it:
            // it is the width of a head (spec 3 and 8).
            head_dim: file.attention_head_dim,
            norm_groups: file.norm_num_groups,
            norm_eps: file.norm_eps,
            mid_scale: file.mid_block_scale_factor,
            downsample_padding: file.downsample_padding,
            sample_size,
        })
    }

    /// The factor between the finest and the coarsest level.
    pub fn depth_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

fn block_kind(name: &str, direction: &str) -> Result<BlockKind, String> {
    match name.split_once(direction) {
        Some(("CrossAttn", "Block3D")) => Ok(BlockKind::CrossAttention),
        Some(("", "Block3D")) => Ok(BlockKind::Plain),
        _ => Err(format!("blocks of type {name} are not supported")),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SampleSize {
    Square(usize),
    Rectangle(usize, usize),
}

#[derive(Deserialize)]
#[serde(default)]
struct ConfigFile {
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    layers_per_block: usize,
    cross_attention_dim: usize,
    attention_head_dim: usize,
    num_attention_heads: Option<serde_json::Value>,
    norm_num_groups: usize,
    norm_eps: f64,
    act_fn: String,
    mid_block_scale_factor: f64,
    downsample_padding: usize,
    time_cond_proj_dim: Option<usize>,
    sample_size: Option<SampleSize>,
    // Other networks give themselves this one's name: Show-1's have other heads and embeddings.
    transfromer_in_opt: Option<IgnoredAny>,
    class_embed_type: Option<IgnoredAny>,
    addition_embed_type: Option<IgnoredAny>,
    encoder_hid_dim: Option<IgnoredAny>,
    time_embedding_dim: Option<IgnoredAny>,
    resnet_time_scale_shift: Option<String>,
}

impl Default for ConfigFile {
    fn default() -> Self {
        let blocks = |attending: &str, plain: &str, plain_at: usize| {
            (0..4)
                .map(|i| {
                    if i == plain_at {
                        plain.to_owned()
                    } else {
                        attending.to_owned()
                    }
                })
                .collect()
        };
        Self {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: blocks("CrossAttnDownBlock3D", "DownBlock3D", 3),
            up_block_types: blocks("CrossAttnUpBlock3D", "UpBlock3D", 0),
            layers_per_block: 2,
            cross_attention_dim: 1024,
            attention_head_dim: 64,
            num_attention_heads: None,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            act_fn: "silu".to_owned(),
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            time_cond_proj_dim: None,
            sample_size: None,
            transfromer_in_opt: None,
            class_embed_type: None,
            addition_embed_type: None,
            encoder_hid_dim: None,
            time_embedding_dim: None,
            resnet_time_scale_shift: None,
        }
    }
}

impl ConfigFile {
    /// Height and width of the latents.
    fn sides(&self) -> Option<(usize, usize)> {
        self.sample_size.as_ref().map(|size| match *size {
            SampleSize::Square(side) => (side, side),
            SampleSize::Rectangle(h, w) => (h, w),
        })
    }

    fn refuse_other_networks(&self) -> Result<(), String> {
        for (field, given) in [
            ("transfromer_in_opt", self.transfromer_in_opt.is_some()),
            ("class_embed_type", self.class_embed_type.is_some()),
            ("addition_embed_type", self.addition_embed_type.is_some()),
            ("encoder_hid_dim", self.encoder_hid_dim.is_some()),
            ("time_embedding_dim", self.time_embedding_dim.is_some()),
            (
                "resnet_time_scale_shift",
                self.resnet_time_scale_shift.as_deref().unwrap_or("default") != "default",
            ),
        ] {
            if given {
                return Err(format!("{field} is not supported: this is another network"));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        // Bounds that every real model keeps; they stop a hostile file from asking for absurd amounts of memory.
        let levels = self.block_out_channels.len();
        let sizes = [
            ("in_channels", self.in_channels, 1024),
            ("out_channels", self.out_channels, 1024),
            ("layers_per_block", self.layers_per_block, 64),
            ("cross_attention_dim", self.cross_attention_dim, 65_536),
            ("attention_head_dim", self.attention_head_dim, 65_536),
            ("norm_num_groups", self.norm_num_groups, 1024),
            ("the number of levels", levels, 16),
        ];
        if let Some((name, value, most)) = sizes
            .into_iter()
            .find(|&(_, value, most)| value == 0 || value > most)
        {
            return Err(format!("{name} is {value}, expected 1 to {most}"));
        }
        if self.down_block_types.len() != levels || self.up_block_types.len() != levels {
            return Err(format!(
                "{levels} levels, but {} down and {} up blocks",
                self.down_block_types.len(),
                self.up_block_types.len()
            ));
        }
        for &c in &self.block_out_channels {
            let whole = c > 0
                && c <= 65_536
                && c % self.norm_num_groups == 0
                && c % self.attention_head_dim == 0;
            // The time embedding has a sine and a cosine for every two channels of the first level.
            if !whole || c % 2 != 0 {
                return Err(format!(
                    "{c} channels do not divide into {} groups and heads of {}",
                    self.norm_num_groups, self.attention_head_dim
                ));
            }
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(format!("the activation {} is not supported", self.act_fn));
        }
        if self.num_attention_heads.is_some() || self.time_cond_proj_dim.is_some() {
            return Err("num_attention_heads and time_cond_proj_dim are not supported".to_owned());
        }
        self.refuse_other_networks()?;
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
