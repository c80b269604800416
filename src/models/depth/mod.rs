//! Depth Anything (arXiv 2401.10891, version 2: 2406.09414): how near each pixel of a picture is, from the picture alone.
//!
//! A DINOv2 transformer (arXiv 2304.07193) whose features of four layers a DPT head (arXiv 2103.13413) puts together. Read from a
//! folder as Hugging Face publishes it (`Depth-Anything-V2-Small-hf` and its larger sisters): `config.json` and one file of
//! weights. Channels last everywhere.

mod backbone;
mod head;
mod resize;

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use serde::Deserialize;

use super::error::ModelError;
use super::layout::incomplete;
use super::mistake::resolve_network;
use super::source::FileSource;
use super::weights::Weights;
use backbone::Dinov2;
use head::DptHead;

type Built<T> = std::result::Result<T, ModelError>;

/// The forms in which the weights are published; the first one there is read.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const CONFIG: &str = "config.json";
/// What `model_type` says in the configuration.
const MODEL_TYPE: &str = "depth_anything";
/// Sizes of a [`DepthAnything`]; the fields of its `config.json`, with transformers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct DepthAnythingConfig {
    backbone_config: Dinov2Config,
    neck_hidden_sizes: Vec<usize>,
    reassemble_factors: Vec<f64>,
    reassemble_hidden_size: usize,
    fusion_hidden_size: usize,
    head_hidden_size: usize,
    patch_size: usize,
    depth_estimation_type: String,
    model_type: String,
}

impl Default for DepthAnythingConfig {
    fn default() -> Self {
        Self {
            backbone_config: Dinov2Config::default(),
            neck_hidden_sizes: vec![48, 96, 192, 384],
            reassemble_factors: vec![4.0, 2.0, 1.0, 0.5],
            reassemble_hidden_size: 384,
            fusion_hidden_size: 64,
            head_hidden_size: 32,
            patch_size: 14,
            depth_estimation_type: "relative".to_owned(),
            model_type: String::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
struct Dinov2Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    mlp_ratio: usize,
    layer_norm_eps: f64,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    use_swiglu_ffn: bool,
    apply_layernorm: bool,
    qkv_bias: bool,
    out_indices: Option<Vec<usize>>,
    out_features: Option<Vec<String>>,
    model_type: String,
}

impl Default for Dinov2Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4,
            layer_norm_eps: 1e-6,
            image_size: 224,
            patch_size: 14,
            hidden_act: "gelu".to_owned(),
            use_swiglu_ffn: false,
            apply_layernorm: true,
            qkv_bias: true,
            out_indices: None,
            out_features: None,
            model_type: "dinov2".to_owned(),
        }
    }
}

impl Dinov2Config {
    /// The layers after which the features are taken.
    fn layers_out(&self) -> Vec<usize> {
        let stage = |name: &String| name.strip_prefix("stage").and_then(|n| n.parse().ok());
        match (&self.out_indices, &self.out_features) {
            (Some(indices), _) => indices.clone(),
            (None, Some(names)) => names.iter().filter_map(stage).collect(),
            (None, None) => vec![self.num_hidden_layers],
        }
    }
}

impl DepthAnythingConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] when it is no JSON, or describes a network that this one is not.
    pub fn from_json(text: &str) -> Built<Self> {
        let wrong = |why: String| ModelError::Config {
            file: CONFIG.to_owned(),
            why,
        };
        let config: Self = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        config.check().map_err(wrong)?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let inner = &self.backbone_config;
        let same = |what: &str, is: &str, wanted: &str| {
            if is == wanted {
                return Ok(());
            }
            Err(format!("{what} is \"{is}\"; only \"{wanted}\" is known"))
        };
        same("model_type", &self.model_type, MODEL_TYPE)?;
        same("the backbone's model_type", &inner.model_type, "dinov2")?;
        same("hidden_act", &inner.hidden_act, "gelu")?;
        same(
            "depth_estimation_type",
            &self.depth_estimation_type,
            "relative",
        )?;
        if inner.use_swiglu_ffn || !inner.apply_layernorm || !inner.qkv_bias {
            return Err(
                "its backbone is of another kind than the small, base and large models'".into(),
            );
        }
        let sizes = [
            ("hidden_size", inner.hidden_size, 4096),
            ("num_hidden_layers", inner.num_hidden_layers, 64),
            ("num_attention_heads", inner.num_attention_heads, 64),
            ("mlp_ratio", inner.mlp_ratio, 16),
            ("image_size", inner.image_size, 4096),
            ("patch_size", self.patch_size, 64),
            ("fusion_hidden_size", self.fusion_hidden_size, 2048),
            ("head_hidden_size", self.head_hidden_size, 2048),
        ];
        for (what, size, most) in sizes {
            if size == 0 || size > most {
                return Err(format!("{what} is {size}; it has to be 1 to {most}"));
            }
        }
        let stages = self.neck_hidden_sizes.len();
        let out = inner.layers_out();
        if stages != 4 || self.reassemble_factors.len() != 4 || out.len() != 4 {
            return Err("it does not take the features of four layers".into());
        }
        if self.neck_hidden_sizes.iter().any(|&c| c == 0 || c > 8192) {
            return Err(format!(
                "neck_hidden_sizes are {:?}",
                self.neck_hidden_sizes
            ));
        }
        if out.iter().any(|&layer| layer > inner.num_hidden_layers) {
            return Err(format!(
                "it takes features of the layers {out:?}, of {}",
                inner.num_hidden_layers
            ));
        }
        if inner.image_size < inner.patch_size {
            return Err(format!(
                "image_size is {}, less than a patch of {}",
                inner.image_size, inner.patch_size
            ));
        }
        if !self.fusion_hidden_size.is_multiple_of(2)
            || !inner.hidden_size.is_multiple_of(inner.num_attention_heads)
            || self.patch_size != inner.patch_size
            || self.reassemble_hidden_size != inner.hidden_size
        {
            return Err("its sizes do not fit each other".into());
        }
        Ok(())
    }
}

/// An estimator of depth.
#[derive(Debug)]
pub struct DepthAnything {
    backbone: Dinov2,
    head: DptHead,
    patch: usize,
    device: Device,
}

impl DepthAnything {
    /// Whether a folder says of itself that it is one. It may be the folder of one model in Hugging Face's cache.
    #[must_use]
    pub fn is_folder(path: &Path) -> bool {
        #[derive(Deserialize)]
        struct Kind {
            model_type: String,
        }
        let text = resolve_network(path).and_then(|folder| FileSource::Dir(folder).text(CONFIG));
        text.is_ok_and(|text| {
            serde_json::from_str::<Kind>(&text).is_ok_and(|kind| kind.model_type == MODEL_TYPE)
        })
    }

    /// Reads `config.json` and the weights of a folder, which may be the folder of one model in Hugging Face's cache.
    ///
    /// # Errors
    /// [`ModelError`] when a file is missing, cannot be understood or does not fit.
    pub fn open(folder: &Path, device: &Device) -> Built<Self> {
        let (weights, config) = Self::compared(folder, device)?;
        let network = Self::new(&weights, &config, device)?;
        weights.finish()?;
        Ok(network)
    }

    /// Holds the names and shapes in the weight file of a folder against its configuration. No weight is read.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn check(folder: &Path) -> Built<()> {
        Self::compared(folder, &Device::Cpu).map(drop)
    }

    /// The weights of a folder, none of which is read before all of them are known to be there and to fit.
    fn compared(folder: &Path, device: &Device) -> Built<(Weights, DepthAnythingConfig)> {
        let source = FileSource::Dir(resolve_network(folder)?);
        let missing = |file: &str| incomplete(&source, vec![file.to_owned()]);
        if !source.has(CONFIG) {
            return Err(missing(CONFIG));
        }
        let config = DepthAnythingConfig::from_json(&source.text(CONFIG)?)?;
        let file = WEIGHTS.into_iter().find(|name| source.has(name));
        let file = file.ok_or_else(|| missing(WEIGHTS[0]))?;
        let weights = Weights::from_source(&source, &[file.to_owned()], DType::F32, device)?;
        let layout = weights.without_reading();
        Self::new(&layout, &config, &Device::Cpu)?;
        layout.finish()?;
        Ok((weights, config))
    }

    /// The network with these weights.
    ///
    /// # Errors
    /// When a weight cannot be read; [`Weights::finish`] tells of missing ones.
    pub fn new(weights: &Weights, config: &DepthAnythingConfig, device: &Device) -> Built<Self> {
        Ok(Self {
            backbone: Dinov2::new(&weights.pp("backbone"), &config.backbone_config)?,
            head: DptHead::new(weights, config)?,
            patch: config.patch_size,
            device: device.clone(),
        })
    }

    /// Shape: `x [n, h, w, 3]`, normalised, sides multiples of the patch; returns `[n, h, w]`, larger where nearer.
    ///
    /// # Errors
    /// When the sides are no such multiples, or the device has no room.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        let (rows, columns) = (h / self.patch, w / self.patch);
        if rows * self.patch != h || columns * self.patch != w || rows * columns == 0 {
            candle_core::bail!(
                "depth: a picture of {h} by {w} is no whole number of patches of {}",
                self.patch
            );
        }
        let features = self.backbone.forward(x)?;
        self.head.forward(&features, (rows, columns), self.patch)
    }

    /// As [`Self::forward`], resized to `size`, (height, width). Returns `[n, height, width]`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_sized(&self, x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
        let depth = self.forward(x)?.unsqueeze(3)?;
        resize::bilinear(&depth, size, resize::Corners::Apart)?.squeeze(3)
    }

    /// Pixels of a side of a patch; both sides of a picture are multiples of it.
    #[must_use]
    pub fn patch(&self) -> usize {
        self.patch
    }

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }
}
