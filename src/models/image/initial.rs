//! Starting values of what an image model lacks when it is inflated. Source: spec sections 6 and 7.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::error::ModelError;
use super::super::weights::{Initial, Weights};
use super::InflatedUNet;
use super::attention::Inflation;
use super::config::ImageUNetConfig;

/// What the bias behind Tune-A-Video's attention over frames starts at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemporalBias {
    /// Zero: the network begins as the image model.
    #[default]
    Zero,
    /// Uniform within `±1/sqrt(c)`, as in the authors' code, which sets the weight of that layer to zero and leaves its
    /// bias as PyTorch made it: every block then adds a constant to all its tokens.
    Random,
}

/// Parts of names that only inflated networks have.
const TEMPORAL: [&str; 3] = [".attn_temp.", ".norm_temp.", ".conv_temp."];

/// The same weights with starting values for the attention over frames, where they hold none of it: those of an image
/// model. Weights of an inflated network stay as they are.
///
/// Tune-A-Video: projections as PyTorch makes them, `to_out` zero (its bias: `bias`), the norm the identity. ControlVideo:
/// a copy of the block's self-attention, behind a convolution of zeros. `seed` draws the random ones.
///
/// # Errors
/// When the configuration describes no network.
pub fn inflate(
    weights: &Weights,
    config: &ImageUNetConfig,
    inflation: Inflation,
    bias: TemporalBias,
    seed: u64,
) -> Result<Weights, ModelError> {
    let recorder = Weights::recorder();
    InflatedUNet::new(&recorder, config, inflation)?;
    let is_temporal = |name: &str| TEMPORAL.iter().any(|part| name.contains(part));
    let asked = recorder.asked();
    let lacking: BTreeMap<String, Vec<usize>> = asked
        .into_iter()
        .filter(|(name, _)| is_temporal(name))
        .collect();
    // All or nothing: where some are there, the missing ones are a fault of the file.
    if lacking.keys().any(|name| weights.has(name)) {
        return Ok(weights.clone());
    }
    let mut place = 0;
    let added = lacking.into_iter().map(|(name, shape)| {
        let values = match inflation {
            Inflation::KeyFrame if name.contains(".conv_temp.") => Initial::Constant(0.0),
            Inflation::KeyFrame => Initial::Copy(name.replace(".attn_temp.", ".attn1.")),
            Inflation::SparseCausal | Inflation::Pictures => sparse_causal(&name, &shape, bias),
        };
        // Every tensor draws from a place of its own, which depends on nothing but the network's names.
        place += 1;
        (name, (shape, values.drawn_at(seed, place)))
    });
    Ok(weights.with_initial(added.collect()))
}

fn sparse_causal(name: &str, shape: &[usize], bias: TemporalBias) -> Initial {
    // Inputs of a projection; `to_out` has as many outputs as inputs, so that its bias tells them too.
    let inputs = shape.last().copied().unwrap_or(1).max(1);
    let bound = 1.0 / (inputs as f64).sqrt();
    let ends = |end: &str| name.ends_with(end);
    let starts_at_zero = ends(".norm_temp.bias")
        || ends(".to_out.0.weight")
        || ends(".to_out.0.bias") && bias == TemporalBias::Zero;
    if ends(".norm_temp.weight") {
        Initial::Constant(1.0)
    } else if starts_at_zero {
        Initial::Constant(0.0)
    } else {
        Initial::uniform(bound)
    }
}
