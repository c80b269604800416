//! What the programs that train LoRA files call the tensors in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::super::weight_file::StoredTensor;

/// Which network of a model a LoRA changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoraPart {
    /// The denoising network.
    Unet,
    /// The text encoder.
    Text,
}

/// How a file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraFormat {
    /// diffusers: `unet.{layer}.lora.down.weight`; of a text encoder `{layer}.lora_linear_layer.down.weight`.
    Diffusers,
    /// diffusers before 0.21: `{attention}.processor.to_q_lora.down.weight`.
    Processor,
    /// PEFT, and diffusers since 0.22: `unet.{layer}.lora_A.weight`.
    Peft,
    /// kohya-ss: `lora_unet_{layer with underscores}.lora_down.weight`, with `.alpha`.
    Kohya,
    /// cloneofsimo's safetensors: `unet:{number}:down`.
    Numbered,
    /// cloneofsimo's and MotionDirector's `.pt`: a list `up, down, up, down, ...` without names.
    List,
    /// This program's own: `{layer}.lora_down.weight`.
    Own,
}

impl fmt::Display for LoraFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers",
            Self::Processor => "diffusers (attention processors)",
            Self::Peft => "PEFT",
            Self::Kohya => "kohya",
            Self::Numbered => "cloneofsimo",
            Self::List => "cloneofsimo (list without names)",
            Self::Own => "this program's own",
        })
    }
}

/// What a tensor of a LoRA is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The lower factor, `[r, i]`.
    Down,
    /// The upper factor, `[o, r]`.
    Up,
    /// A number: the product of both counts `alpha / r`.
    Alpha,
}

/// The layer that a name means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LayerName {
    /// As the network names it.
    Dotted(String),
    /// With underscores for all dots, which only the network's own names can undo.
    Underscored(String),
}

/// A name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub part: LoraPart,
    pub layer: LayerName,
    pub role: Role,
    pub format: LoraFormat,
}

/// Endings behind a layer's dotted name.
const ENDINGS: &[(&str, Role, LoraFormat)] = &[
    (".lora.down.weight", Role::Down, LoraFormat::Diffusers),
    (".lora.up.weight", Role::Up, LoraFormat::Diffusers),
    (
        ".lora_linear_layer.down.weight",
        Role::Down,
        LoraFormat::Diffusers,
    ),
    (
        ".lora_linear_layer.up.weight",
        Role::Up,
        LoraFormat::Diffusers,
    ),
    ("_lora.down.weight", Role::Down, LoraFormat::Processor),
    ("_lora.up.weight", Role::Up, LoraFormat::Processor),
    (".lora_A.weight", Role::Down, LoraFormat::Peft),
    (".lora_B.weight", Role::Up, LoraFormat::Peft),
    (".lora_A.default.weight", Role::Down, LoraFormat::Peft),
    (".lora_B.default.weight", Role::Up, LoraFormat::Peft),
    (".lora_down.weight", Role::Down, LoraFormat::Own),
    (".lora_up.weight", Role::Up, LoraFormat::Own),
    (".alpha", Role::Alpha, LoraFormat::Diffusers),
];

/// Takes a tensor's name apart; none where it is no part of a LoRA that this program reads.
///
/// Source: diffusers 0.42, `utils/state_dict_utils.py` and `loaders/lora_conversion_utils.py`.
pub(super) fn parse(name: &str) -> Option<Key> {
    match name.starts_with("lora_") {
        true => kohya(name),
        false => dotted(name),
    }
}

fn kohya(name: &str) -> Option<Key> {
    // With its number where diffusers wrote the file, also for a model that has one text encoder.
    let text = || {
        let rest = ["lora_te_", "lora_te1_"]
            .into_iter()
            .find_map(|start| name.strip_prefix(start))?;
        Some(rest.strip_prefix("text_model_").unwrap_or(rest))
    };
    let (part, rest) = match name.strip_prefix("lora_unet_") {
        Some(rest) => (LoraPart::Unet, rest),
        None => (LoraPart::Text, text()?),
    };
    let endings = [
        (".lora_down.weight", Role::Down),
        (".lora_up.weight", Role::Up),
        (".alpha", Role::Alpha),
    ];
    let (layer, role) = endings
        .into_iter()
        .find_map(|(ending, role)| Some((rest.strip_suffix(ending)?, role)))?;
    let plain = !layer.is_empty() && !layer.contains('.');
    plain.then(|| Key {
        part,
        layer: LayerName::Underscored(layer.to_owned()),
        role,
        format: LoraFormat::Kohya,
    })
}

fn dotted(name: &str) -> Option<Key> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let (part, rest) = match name.split_once('.') {
        Some(("unet", rest)) => (LoraPart::Unet, rest),
        Some(("text_encoder", rest)) => (
            LoraPart::Text,
            rest.strip_prefix("text_model.").unwrap_or(rest),
        ),
        Some(("text_model", rest)) => (LoraPart::Text, rest),
        _ => (LoraPart::Unet, name),
    };
    let rest = rest.replace(".processor.", ".");
    let (layer, role, format) = ENDINGS
        .iter()
        .find_map(|&(ending, role, format)| Some((rest.strip_suffix(ending)?, role, format)))?;
    let layer = match format {
        LoraFormat::Processor => projection(part, layer)?,
        _ => layer.to_owned(),
    };
    (!layer.is_empty()).then_some(Key {
        part,
        layer: LayerName::Dotted(layer),
        role,
        format,
    })
}

/// The layer that an attention processor's `to_q`, `to_k`, `to_v` or `to_out` stands beside.
fn projection(part: LoraPart, layer: &str) -> Option<String> {
    let (attention, name) = layer.rsplit_once('.')?;
    let name = match (part, name) {
        (LoraPart::Unet, "to_q" | "to_k" | "to_v") => name,
        (LoraPart::Unet, "to_out") => "to_out.0",
        (LoraPart::Text, "to_q") => "q_proj",
        (LoraPart::Text, "to_k") => "k_proj",
        (LoraPart::Text, "to_v") => "v_proj",
        (LoraPart::Text, "to_out") => "out_proj",
        _ => return None,
    };
    Some(format!("{attention}.{name}"))
}

/// Takes out the words that were learned beside the networks (pivotal tuning, textual inversion), which are no part of a LoRA,
/// and gives the words themselves. cloneofsimo marks them in the header, other programs by the start of a tensor's name.
pub(super) fn take_words(
    named: &mut BTreeMap<String, StoredTensor>,
    notes: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut words = BTreeSet::new();
    named.retain(|name, _| {
        let bundled = name.strip_prefix("bundle_emb.");
        let word = match bundled {
            Some(rest) => rest.split('.').next(),
            None => notes
                .get(name)
                .is_some_and(|note| note == "<embed>")
                .then_some(name.as_str()),
        };
        words.extend(word.map(str::to_owned));
        word.is_none()
    });
    words.into_iter().collect()
}

/// What these names are those of, where this program cannot use it: known families by their own spelling.
pub(super) fn other_kind<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    const KINDS: &[(&str, &str)] = &[
        (
            ".hada_",
            "it is a LoHa (LyCORIS), and only plain LoRA is read",
        ),
        (
            ".lokr_",
            "it is a LoKr (LyCORIS), and only plain LoRA is read",
        ),
        (".oft_", "it holds OFT blocks, and only plain LoRA is read"),
        ("dora_scale", "it is a DoRA, and only plain LoRA is read"),
        (
            "lora_magnitude_vector",
            "it is a DoRA, and only plain LoRA is read",
        ),
        (
            ".lora_mid.",
            "it holds products of three factors (LoCon with CP decomposition)",
        ),
        ("lora_te2_", "it was made for Stable Diffusion XL"),
        ("text_encoder_2.", "it was made for Stable Diffusion XL"),
        (
            "input_blocks_",
            "its names are those of Stable Diffusion XL",
        ),
        (
            "output_blocks_",
            "its names are those of Stable Diffusion XL",
        ),
        ("motion_modules", "it was made for AnimateDiff"),
        (
            "transformer.",
            "it was made for a transformer such as Flux or Wan",
        ),
        (
            "diffusion_model.",
            "it was made for a transformer such as Flux or Wan",
        ),
    ];
    let names: Vec<&str> = names.into_iter().collect();
    KINDS
        .iter()
        .find(|(mark, _)| match mark.strip_suffix('.') {
            // A network's name at the front.
            Some(_) if !mark.starts_with('.') => names.iter().any(|name| name.starts_with(mark)),
            _ => names.iter().any(|name| name.contains(mark)),
        })
        .map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_means_the_same_layer() {
        let layer = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0";
        let dotted = LayerName::Dotted(layer.to_owned());
        for (name, role, format) in [
            (
                format!("unet.{layer}.lora.down.weight"),
                Role::Down,
                LoraFormat::Diffusers,
            ),
            (
                format!("{layer}.lora.up.weight"),
                Role::Up,
                LoraFormat::Diffusers,
            ),
            (
                format!(
                    "unet.{}.processor.to_out_lora.up.weight",
                    &layer[..layer.len() - 9]
                ),
                Role::Up,
                LoraFormat::Processor,
            ),
            (
                format!("unet.{layer}.lora_A.weight"),
                Role::Down,
                LoraFormat::Peft,
            ),
            (
                format!("base_model.model.{layer}.lora_B.weight"),
                Role::Up,
                LoraFormat::Peft,
            ),
            (
                format!("{layer}.lora_B.default.weight"),
                Role::Up,
                LoraFormat::Peft,
            ),
            (
                format!("unet.{layer}.alpha"),
                Role::Alpha,
                LoraFormat::Diffusers,
            ),
        ] {
            let part = LoraPart::Unet;
            let layer = dotted.clone();
            let expected = Key {
                part,
                layer,
                role,
                format,
            };
            assert_eq!(parse(&name), Some(expected), "{name}");
        }
        let kohya = format!("lora_unet_{}.alpha", layer.replace('.', "_"));
        let key = parse(&kohya).unwrap();
        assert_eq!(key.layer, LayerName::Underscored(layer.replace('.', "_")));
        assert_eq!((key.role, key.format), (Role::Alpha, LoraFormat::Kohya));
    }

    #[test]
    fn text_encoders_have_their_own_names() {
        let dotted = LayerName::Dotted("encoder.layers.3.self_attn.q_proj".to_owned());
        for name in [
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora.up.weight",
            "text_encoder.encoder.layers.3.self_attn.q_proj.lora_B.weight",
            "base_model.model.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight",
        ] {
            let key = parse(name).unwrap();
            assert_eq!((key.part, &key.layer), (LoraPart::Text, &dotted), "{name}");
        }
        let underscored = LayerName::Underscored("encoder_layers_3_mlp_fc1".to_owned());
        for start in ["lora_te_", "lora_te1_"] {
            let name = format!("{start}text_model_encoder_layers_3_mlp_fc1.lora_up.weight");
            let key = parse(&name).unwrap();
            assert_eq!(
                (key.part, &key.layer),
                (LoraPart::Text, &underscored),
                "{name}"
            );
            assert_eq!(other_kind([name.as_str()]), None);
        }
    }

    #[test]
    fn other_names_are_none_and_known_kinds_are_told() {
        for name in [
            "conv_in.weight",
            "lora_unet_a.b.lora_up.weight",
            "lora_unet_.alpha",
            ".lora_up.weight",
            "a.to_x_lora.up.weight",
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
        for (name, says) in [
            ("lora_te2_a.lora_up.weight", "Stable Diffusion XL"),
            ("lora_unet_a.hada_w1_a", "LoHa"),
            ("lora_unet_a.dora_scale", "DoRA"),
            ("transformer.blocks.0.attn.lora_A.weight", "Flux"),
        ] {
            assert!(other_kind([name]).unwrap().contains(says), "{name}");
        }
        assert_eq!(
            other_kind(["unet.mid_block.transformer_blocks.0.ff.lora_A.weight"]),
            None
        );
    }
}
