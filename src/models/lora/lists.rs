//! Files without names: cloneofsimo's lists, whose order is that in which Python walks over the network.
//!
//! A module's parts are walked in the order in which its constructor makes them. All networks of diffusers make their ways
//! down and up before their middle; a transformer block has its feed-forward layer between its attentions until diffusers
//! 0.13 and behind them later. Which order a file has shows in the shapes: a feed-forward layer has another one.
//! Source: `lora_diffusion/lora.py` of cloneofsimo/lora, MotionDirector's `utils/lora.py`.

use std::collections::BTreeMap;

use super::names::LoraPart;

/// Where a linear layer of a transformer block stands on that walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The first transformer, down, up, middle.
    level: (u8, usize),
    /// A block's transformers over frames come after those over space.
    temporal: bool,
    transformer: usize,
    block: usize,
    branch: Branch,
    /// Within the branch.
    leaf: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Branch {
    Attn1,
    Attn2,
    FeedForward,
}

impl Place {
    fn of(layer: &str) -> Option<Self> {
        let mut parts = layer.split('.');
        let number = |part: Option<&str>| part?.parse::<usize>().ok();
        let (level, first) = match parts.next()? {
            "transformer_in" => ((0, 0), true),
            "down_blocks" => ((1, number(parts.next())?), false),
            "up_blocks" => ((2, number(parts.next())?), false),
            "mid_block" => ((3, 0), false),
            _ => return None,
        };
        let (temporal, transformer) = match first {
            true => (true, 0),
            false => match parts.next()? {
                "attentions" => (false, number(parts.next())?),
                "temp_attentions" => (true, number(parts.next())?),
                _ => return None,
            },
        };
        let block = match parts.next()? {
            "transformer_blocks" => number(parts.next())?,
            _ => return None,
        };
        let branch = match parts.next()? {
            "attn1" => Branch::Attn1,
            "attn2" => Branch::Attn2,
            "ff" => Branch::FeedForward,
            _ => return None,
        };
        let rest: Vec<&str> = parts.collect();
        let leaf = match (branch, rest.as_slice()) {
            (Branch::Attn1 | Branch::Attn2, ["to_q"])
            | (Branch::FeedForward, ["net", "0", "proj"]) => 0,
            (Branch::Attn1 | Branch::Attn2, ["to_k"]) | (Branch::FeedForward, ["net", "2"]) => 1,
            (Branch::Attn1 | Branch::Attn2, ["to_v"]) => 2,
            (Branch::Attn1 | Branch::Attn2, ["to_out", "0"]) => 3,
            _ => return None,
        };
        Some(Self {
            level,
            temporal,
            transformer,
            block,
            branch,
            leaf,
        })
    }
}

/// The layers that a list may stand for, one candidate after the other. Names are the layers' own, without `.weight`.
pub(super) fn candidates(
    part: LoraPart,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Vec<Vec<String>> {
    let linear = shapes.iter().filter(|(_, shape)| shape.len() == 2);
    let layers = linear.filter_map(|(name, _)| name.strip_suffix(".weight"));
    match part {
        LoraPart::Text => vec![text_layers(layers)],
        LoraPart::Unet => {
            let placed: Vec<(Place, &str)> = layers
                .filter_map(|layer| Some((Place::of(layer)?, layer)))
                .collect();
            unet_candidates(&placed)
        }
    }
}

fn unet_candidates(placed: &[(Place, &str)]) -> Vec<Vec<String>> {
    type Takes = fn(&Place) -> bool;
    // cloneofsimo with and without GEGLU, MotionDirector's motion and its look.
    let sets: [Takes; 4] = [
        |place| place.branch != Branch::FeedForward || place.leaf == 0,
        |place| place.branch != Branch::FeedForward,
        |place| place.temporal,
        |place| !place.temporal && place.branch != Branch::Attn2,
    ];
    let mut all: Vec<Vec<String>> = Vec::new();
    for takes in sets {
        for feed_forward_last in [true, false] {
            let rank = |branch: Branch| match (branch, feed_forward_last) {
                (Branch::Attn1, _) => 0,
                (Branch::Attn2, true) | (Branch::FeedForward, false) => 1,
                (Branch::Attn2, false) | (Branch::FeedForward, true) => 2,
            };
            let mut chosen: Vec<_> = placed.iter().filter(|(place, _)| takes(place)).collect();
            chosen.sort_by_key(|(place, _)| {
                let at = (place.level, place.temporal, place.transformer, place.block);
                (at, rank(place.branch), place.leaf)
            });
            let names: Vec<String> = chosen.iter().map(|(_, name)| (*name).to_owned()).collect();
            if !names.is_empty() && !all.contains(&names) {
                all.push(names);
            }
        }
    }
    all
}

/// `self_attn` of every layer, in the order of transformers' `CLIPAttention`.
fn text_layers<'a>(layers: impl Iterator<Item = &'a str>) -> Vec<String> {
    const ORDER: &[&str] = &["k_proj", "v_proj", "q_proj", "out_proj"];
    let mut placed: Vec<(usize, usize, &str)> = layers
        .filter_map(|layer| {
            let (number, name) = layer
                .strip_prefix("encoder.layers.")?
                .split_once(".self_attn.")?;
            let at = ORDER.iter().position(|known| *known == name)?;
            Some((number.parse().ok()?, at, layer))
        })
        .collect();
    placed.sort_unstable();
    let names = placed.into_iter().map(|(_, _, layer)| layer.to_owned());
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_come_in_the_order_of_registration() {
        let names = [
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q",
            "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
            "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2",
            "down_blocks.0.attentions.0.proj_in",
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
            "up_blocks.10.attentions.0.transformer_blocks.0.attn1.to_q",
            "up_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q",
        ];
        let shapes = names.map(|name| (format!("{name}.weight"), vec![2, 2]));
        let orders = candidates(LoraPart::Unet, &shapes.into_iter().collect());
        let at = |numbers: &[usize]| -> Vec<String> {
            numbers.iter().map(|&i| names[i].to_owned()).collect()
        };
        assert_eq!(
            orders,
            [
                at(&[0, 1, 2, 7, 6, 5]),
                at(&[0, 2, 1, 7, 6, 5]),
                at(&[0, 1, 7, 6, 5]),
                at(&[0, 2, 3, 7, 6, 5]),
            ]
        );
    }

    #[test]
    fn text_encoders_have_keys_before_queries() {
        let names = ["q_proj", "k_proj", "v_proj", "out_proj"];
        let shapes = names.map(|name| {
            let name = format!("encoder.layers.0.self_attn.{name}.weight");
            (name, vec![2, 2])
        });
        let orders = candidates(LoraPart::Text, &shapes.into_iter().collect());
        let ends: Vec<&str> = orders[0]
            .iter()
            .filter_map(|name| name.rsplit('.').next())
            .collect();
        assert_eq!(ends, ["k_proj", "v_proj", "q_proj", "out_proj"]);
    }
}
