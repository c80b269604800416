//! What PEFT says beside the tensors: the alphas of its adapters.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::error::shown;
use super::super::source::FileSource;
use super::super::weight_file::StoredTensor;
use super::names::LoraPart;

/// Where diffusers keeps the settings of a PEFT adapter, as JSON.
const PEFT_SETTINGS: &str = "lora_adapter_metadata";
/// Where PEFT itself keeps them: a file beside the tensors.
pub(super) const PEFT_FILE: &str = "adapter_config.json";

/// What PEFT says about the adapters of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct PeftSettings {
    /// By the network; `None` holds for both.
    by_part: BTreeMap<Option<LoraPart>, PartSettings>,
    /// Whether they are no plain LoRA.
    pub dora: bool,
    /// Whether there should be some, and nobody knows where.
    pub are_missing: bool,
}

#[derive(Clone, Debug, Default)]
struct PartSettings {
    alpha: Option<f64>,
    /// By the end of a layer's name.
    alphas: BTreeMap<String, f64>,
    /// The product counts `alpha / sqrt(r)`.
    by_root: bool,
}

impl PeftSettings {
    /// Out of the header, or out of the file that PEFT writes beside one with its own names.
    pub fn read(
        path: &Path,
        named: &BTreeMap<String, StoredTensor>,
        notes: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        // PEFT's own files have nothing about it in their headers.
        let by_peft = named
            .keys()
            .any(|name| name.starts_with("base_model.model."));
        let beside = match notes.get(PEFT_SETTINGS) {
            None if by_peft => {
                let folder = path.parent().unwrap_or(Path::new(""));
                let source = FileSource::Dir(folder.to_owned());
                let text = source.has(PEFT_FILE).then(|| source.text(PEFT_FILE));
                text.transpose().map_err(|error| error.to_string())?
            }
            _ => None,
        };
        let Some(text) = notes.get(PEFT_SETTINGS).or(beside.as_ref()) else {
            return Ok(Self {
                are_missing: by_peft,
                ..Self::default()
            });
        };
        let settings: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            format!(
                "the settings of its adapters cannot be understood: {}",
                shown(&error.to_string())
            )
        })?;
        let mut read = Self::default();
        for (key, value) in &settings {
            let (part, key) = match key.split_once('.') {
                Some(("unet", key)) => (Some(LoraPart::Unet), key),
                Some(("text_encoder", key)) => (Some(LoraPart::Text), key),
                Some(_) => continue,
                None => (None, key.as_str()),
            };
            let at = read.by_part.entry(part).or_default();
            match key {
                "lora_alpha" => at.alpha = value.as_f64(),
                "alpha_pattern" => {
                    let alphas = value.as_object().into_iter().flatten();
                    at.alphas = alphas
                        .filter_map(|(layer, alpha)| Some((plain(layer), alpha.as_f64()?)))
                        .collect();
                }
                "use_rslora" => at.by_root = value.as_bool() == Some(true),
                "use_dora" => read.dora |= value.as_bool() == Some(true),
                _ => {}
            }
        }
        Ok(read)
    }

    /// What the product of a layer's factors counts. Source: peft, `tuners/lora/layer.py`, `update_layer`.
    pub fn scale(&self, part: LoraPart, layer: &str, rank: usize) -> f64 {
        let settings = self.by_part.get(&Some(part)).or(self.by_part.get(&None));
        let Some(settings) = settings else { return 1.0 };
        let of_layer = settings.alphas.iter().find(|(end, _)| {
            let rest = layer.strip_suffix(end.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        let alpha = of_layer.map(|(_, alpha)| *alpha).or(settings.alpha);
        let rank = rank as f64;
        match alpha {
            Some(alpha) if settings.by_root => alpha / rank.sqrt(),
            Some(alpha) => alpha / rank,
            None => 1.0,
        }
    }
}

/// The layer that a pattern means, by the name it has here: without a text encoder's own `text_model.`.
fn plain(pattern: &str) -> String {
    let layer = pattern.trim_start_matches('^');
    layer
        .strip_prefix("text_model.")
        .unwrap_or(layer)
        .to_owned()
}
