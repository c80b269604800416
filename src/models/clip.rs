//! `CLIPTextModel`: token ids to a text embedding. Source: spec sections 3 and 5.

use candle_core::{Result, Tensor};
use serde::Deserialize;

use super::error::ModelError;
use super::weights::Weights;
use crate::nn::{LayerNorm, Linear, Mask, attention, gelu, quick_gelu};

type Built<T> = std::result::Result<T, ModelError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Activation {
    Gelu,
    QuickGelu,
}

/// Sizes of a [`ClipTextModel`]; the fields of its `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the embedding.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Longest prompt in tokens.
    pub max_position_embeddings: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    hidden_act: Activation,
}

/// What kind of text encoder a `config.json` is of.
#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
}

impl Default for ClipTextConfig {
    /// transformers' defaults, which are CLIP ViT-L's smaller sibling.
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            layer_norm_eps: 1e-5,
            hidden_act: Activation::QuickGelu,
        }
    }
}

impl ClipTextConfig {
    /// Reads the text of a `config.json`. Fields that are missing have transformers' defaults.
    ///
    /// # Errors
    /// What is wrong or not supported, in words.
    pub fn from_json(text: &str) -> std::result::Result<Self, String> {
        // The kind first: of another kind of encoder nothing else in the file means what it means here.
        let Kind { model_type } = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if let Some(kind) = model_type.filter(|kind| kind != "clip_text_model") {
            return Err(format!(
                "a text encoder of type {kind} is not supported, only CLIP's (clip_text_model)"
            ));
        }
        let config: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let sizes = [
            ("vocab_size", config.vocab_size, 10_000_000),
            ("hidden_size", config.hidden_size, 65_536),
            ("intermediate_size", config.intermediate_size, 1 << 20),
            ("num_hidden_layers", config.num_hidden_layers, 1024),
            ("num_attention_heads", config.num_attention_heads, 4096),
            (
                "max_position_embeddings",
                config.max_position_embeddings,
                1 << 20,
            ),
        ];
        if let Some((name, value, most)) = sizes
            .into_iter()
            .find(|&(_, value, most)| value == 0 || value > most)
        {
            return Err(format!("{name} is {value}, expected 1 to {most}"));
        }
        if !config
            .hidden_size
            .is_multiple_of(config.num_attention_heads)
        {
            let (width, heads) = (config.hidden_size, config.num_attention_heads);
            return Err(format!(
                "a width of {width} does not divide into {heads} heads"
            ));
        }
        if !(config.layer_norm_eps.is_finite() && config.layer_norm_eps > 0.0) {
            return Err(format!(
                "layer_norm_eps is {}, expected a positive number",
                config.layer_norm_eps
            ));
        }
        Ok(config)
    }
}

/// The text half of CLIP. It never learns here.
#[derive(Debug)]
pub struct ClipTextModel {
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    config: ClipTextConfig,
}

impl ClipTextModel {
    /// Builds the network. Names with and without the leading `text_model.` are read.
    ///
    /// # Errors
    /// [`ModelError::Keys`] with every weight that is missing, unexpected or of the wrong shape.
    pub fn new(weights: &Weights, config: &ClipTextConfig) -> Built<Self> {
        let root = match Self::prefix(weights) {
            "" => weights.clone(),
            prefix => weights.pp(prefix.trim_end_matches('.')),
        };
        let width = config.hidden_size;
        let embeddings = root.pp("embeddings");
        let layer = |i: usize| EncoderLayer::new(&root.pp("encoder.layers").pp(i), config);
        let model = Self {
            token_embedding: embeddings
                .get("token_embedding.weight", &[config.vocab_size, width])?,
            position_embedding: embeddings.get(
                "position_embedding.weight",
                &[config.max_position_embeddings, width],
            )?,
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Built<_>>()?,
            final_layer_norm: root.layer_norm("final_layer_norm", width, config.layer_norm_eps)?,
            config: config.clone(),
        };
        weights.finish()?;
        Ok(model)
    }

    /// What the names in these files begin with.
    pub(super) fn prefix(weights: &Weights) -> &'static str {
        match weights.has("text_model.final_layer_norm.weight") {
            true => "text_model.",
            false => "",
        }
    }

    /// Sizes of the network.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The last hidden state after the final norm; padding takes part like any other token.
    ///
    /// Shape: `b` prompts of the same number `n` of ids give `[b, n, d]`.
    ///
    /// # Errors
    /// When the prompts differ in length, are too long, or hold an id the model does not know.
    pub fn forward(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let length = ids.first().map_or(0, Vec::len);
        let (longest, vocab) = (self.config.max_position_embeddings, self.config.vocab_size);
        if length == 0 || length > longest || ids.iter().any(|prompt| prompt.len() != length) {
            candle_core::bail!("clip: prompts must have equal lengths of 1 to {longest} tokens");
        }
        let flat: Vec<u32> = ids.iter().flatten().copied().collect();
        if let Some(id) = flat.iter().find(|&&id| id as usize >= vocab) {
            candle_core::bail!(
                "clip: the tokenizer made the id {id}, but the model knows {vocab} tokens"
            );
        }
        let index = Tensor::from_vec(flat, ids.len() * length, self.token_embedding.device())?;
        let tokens = self.token_embedding.index_select(&index, 0)?;
        let tokens = tokens.reshape((ids.len(), length, self.config.hidden_size))?;
        let mut hidden = tokens.broadcast_add(&self.position_embedding.narrow(0, 0, length)?)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden)?;
        }
        self.final_layer_norm.forward(&hidden)
    }
}

#[derive(Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
}

impl EncoderLayer {
    fn new(weights: &Weights, config: &ClipTextConfig) -> Built<Self> {
        let (width, wide, eps) = (
            config.hidden_size,
            config.intermediate_size,
            config.layer_norm_eps,
        );
        let projection = |name: &str| weights.pp("self_attn").linear(name, width, width, true);
        Ok(Self {
            layer_norm1: weights.layer_norm("layer_norm1", width, eps)?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            layer_norm2: weights.layer_norm("layer_norm2", width, eps)?,
            fc1: weights.linear("mlp.fc1", width, wide, true)?,
            fc2: weights.linear("mlp.fc2", wide, width, true)?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.layer_norm1.forward(x)?;
        let (q, k, v) = (
            self.q_proj.forward(&normed)?,
            self.k_proj.forward(&normed)?,
            self.v_proj.forward(&normed)?,
        );
        let x = (x + self
            .out_proj
            .forward(&attention(&q, &k, &v, self.heads, Mask::Causal)?)?)?;
        let hidden = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        let hidden = match self.activation {
            Activation::Gelu => gelu(&hidden)?,
            Activation::QuickGelu => quick_gelu(&hidden)?,
        };
        x + self.fc2.forward(&hidden)?
    }
}
