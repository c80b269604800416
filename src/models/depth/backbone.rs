//! DINOv2, as `Dinov2Model` of transformers computes it.

use candle_core::{Result, Tensor};

use super::resize::bicubic;
use super::{Built, Dinov2Config};
use crate::models::weights::Weights;
use crate::nn::{Conv2d, Conv2dConfig, LayerNorm, Linear, Mask, attention, gelu};

/// A transformer over the patches of a picture.
#[derive(Debug)]
pub(super) struct Dinov2 {
    patches: Conv2d,
    class: Tensor,
    /// `[1, 1 + side², c]`
    positions: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
    /// After how many layers the features are taken, in this order.
    out: Vec<usize>,
}

#[derive(Debug)]
struct Layer {
    norms: [LayerNorm; 2],
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    wide: Linear,
    narrow: Linear,
    scales: [Tensor; 2],
    heads: usize,
}

impl Layer {
    fn new(weights: &Weights, config: &Dinov2Config) -> Built<Self> {
        let c = config.hidden_size;
        let norm = |name: &str| weights.layer_norm(name, c, config.layer_norm_eps);
        // As published, and as transformers 5 writes it.
        let later = weights.has("attention.q_proj.weight");
        let projection = |published: &str, since: &str| {
            weights.linear(if later { since } else { published }, c, c, true)
        };
        let scale = |name: &str| weights.get(name, &[c]);
        let inner = c * config.mlp_ratio;
        Ok(Self {
            norms: [norm("norm1")?, norm("norm2")?],
            query: projection("attention.attention.query", "attention.q_proj")?,
            key: projection("attention.attention.key", "attention.k_proj")?,
            value: projection("attention.attention.value", "attention.v_proj")?,
            output: projection("attention.output.dense", "attention.o_proj")?,
            wide: weights.linear("mlp.fc1", c, inner, true)?,
            narrow: weights.linear("mlp.fc2", inner, c, true)?,
            scales: [
                scale("layer_scale1.lambda1")?,
                scale("layer_scale2.lambda1")?,
            ],
            heads: config.num_attention_heads,
        })
    }

    /// Shape: `x [n, t, c]` to the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [norm1, norm2] = &self.norms;
        let seen = norm1.forward(x)?;
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|layer| layer.forward(&seen));
        let attended = attention(&q?, &k?, &v?, self.heads, Mask::None)?;
        let x = (x + self
            .output
            .forward(&attended)?
            .broadcast_mul(&self.scales[0])?)?;
        let inner = gelu(&self.wide.forward(&norm2.forward(&x)?)?)?;
        &x + self
            .narrow
            .forward(&inner)?
            .broadcast_mul(&self.scales[1])?
    }
}

impl Dinov2 {
    pub fn new(weights: &Weights, config: &Dinov2Config) -> Built<Self> {
        let (c, patch) = (config.hidden_size, config.patch_size);
        let embeddings = weights.pp("embeddings");
        let side = config.image_size / patch;
        // Masked patches are for training alone.
        if embeddings.has("mask_token") {
            embeddings.get("mask_token", &[1, c])?;
        }
        let strided = Conv2dConfig {
            stride: patch,
            ..Conv2dConfig::default()
        };
        let layer = |i: usize| Layer::new(&weights.pp("encoder.layer").pp(i), config);
        Ok(Self {
            patches: embeddings.conv2d("patch_embeddings.projection", (3, c), patch, strided)?,
            class: embeddings.get("cls_token", &[1, 1, c])?,
            positions: embeddings.get("position_embeddings", &[1, 1 + side * side, c])?,
            layers: (0..config.num_hidden_layers)
                .map(layer)
                .collect::<Built<_>>()?,
            norm: weights.layer_norm("layernorm", c, config.layer_norm_eps)?,
            out: config.layers_out(),
        })
    }

    /// Shape: `x [n, h, w, 3]`; returns features `[n, rows · columns, c]` of the patches, after each of the layers wanted.
    pub fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let patches = self.patches.forward(x)?;
        let (n, rows, columns, c) = patches.dims4()?;
        let class = self.class.expand((n, 1, c))?;
        let tokens = Tensor::cat(&[class, patches.reshape((n, rows * columns, c))?], 1)?;
        let mut x = tokens.broadcast_add(&self.positions((rows, columns))?)?;
        let mut after = vec![x.clone()];
        for layer in &self.layers {
            x = layer.forward(&x)?;
            after.push(x.clone());
        }
        let feature = |&layer: &usize| match after.get(layer) {
            Some(x) => self
                .norm
                .forward(&x.narrow(1, 1, rows * columns)?.contiguous()?),
            None => candle_core::bail!("depth: there is no layer {layer}"),
        };
        self.out.iter().map(feature).collect()
    }

    /// What is added to the tokens of a picture of `rows` by `columns` patches: `[1, 1 + rows · columns, c]`.
    fn positions(&self, (rows, columns): (usize, usize)) -> Result<Tensor> {
        let (_, tokens, c) = self.positions.dims3()?;
        let side = (tokens - 1).isqrt();
        if (rows, columns) == (side, side) {
            return Ok(self.positions.clone());
        }
        let class = self.positions.narrow(1, 0, 1)?;
        let grid = self
            .positions
            .narrow(1, 1, tokens - 1)?
            .reshape((1, side, side, c))?;
        let grid = bicubic(&grid, (rows, columns))?.reshape((1, rows * columns, c))?;
        Tensor::cat(&[class, grid], 1)
    }
}
