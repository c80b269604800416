//! Low-rank adapters beside a network's linear layers: which ones are wanted, and what their variables are called.

use crate::nn::Branch;

/// Between a layer's name and that of its adapter's lower factor.
const DOWN: &str = ".lora_down";
/// Between a layer's name and that of the upper factor, which starts at zero.
const UP: &str = ".lora_up";
/// End of every variable's name.
const WEIGHT: &str = ".weight";

/// One adapter wanted beside a layer.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What switches it.
    pub branch: Branch,
    /// Which of several sets it belongs to, from 0. A layer has one adapter of a set at most.
    pub set: usize,
    /// Inner width, at most that of the layer.
    pub rank: usize,
}

/// Tells by a layer's full name which adapters are put beside it; none leaves it as it is.
pub type ChooseAdapters = Box<dyn Fn(&str) -> Vec<Adapter>>;

/// Low-rank adapters to put beside linear layers while a network is built.
pub struct Adapters {
    /// Which adapters the layer of this full name gets.
    pub choose: ChooseAdapters,
    /// Seed of the starting values. Each set has a stretch of the stream for itself, so that a set more does not change
    /// the values of the others.
    pub seed: u64,
}

/// A factor of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Factor {
    /// `[r, i]`: from the layer's input to the inner width.
    Down,
    /// `[o, r]`: from the inner width to the layer's output. Starts at zero.
    Up,
}

/// What the name of an adapter's variable says: `{layer}.lora_down.weight`, and `{layer}.lora_down.2.weight` for the second
/// of several sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterName<'a> {
    /// Full name of the layer it stands beside.
    pub layer: &'a str,
    /// Which of several sets, from 0.
    pub set: usize,
    /// Which factor.
    pub factor: Factor,
}

impl<'a> AdapterName<'a> {
    /// Takes a variable's name apart; none where it names no adapter.
    #[must_use]
    pub fn parse(name: &'a str) -> Option<Self> {
        let stem = name.strip_suffix(WEIGHT)?;
        let split = |infix| stem.rsplit_once(infix);
        let (factor, (layer, number)) = match (split(DOWN), split(UP)) {
            (Some(parts), _) => (Factor::Down, parts),
            (None, Some(parts)) => (Factor::Up, parts),
            (None, None) => return None,
        };
        let set = match number.strip_prefix('.') {
            Some(number) => number.parse::<usize>().ok()?.checked_sub(1)?,
            None if number.is_empty() => 0,
            None => return None,
        };
        let parsed = Self { layer, set, factor };
        // One name for each: no `.1.`, no `.02.`, no `+2`.
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl std::fmt::Display for AdapterName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let infix = match self.factor {
            Factor::Down => DOWN,
            Factor::Up => UP,
        };
        write!(f, "{}{infix}", self.layer)?;
        if self.set > 0 {
            write!(f, ".{}", self.set + 1)?;
        }
        f.write_str(WEIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::{AdapterName, Factor};

    #[test]
    fn names_say_layer_set_and_factor() {
        let layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0";
        for (set, factor, end) in [
            (0, Factor::Down, ".lora_down.weight"),
            (0, Factor::Up, ".lora_up.weight"),
            (1, Factor::Down, ".lora_down.2.weight"),
            (11, Factor::Up, ".lora_up.12.weight"),
        ] {
            let name = AdapterName { layer, set, factor };
            assert_eq!(name.to_string(), format!("{layer}{end}"));
            assert_eq!(AdapterName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "a.to_q.weight",
            "a.lora_down",
            "a.lora_down.bias",
            "a.lora_down.0.weight",
            "a.lora_down.1.weight",
            "a.lora_down.02.weight",
            "a.lora_down.+2.weight",
            "a.lora_down.x.weight",
            "a.lora_downs.weight",
            "a.lora_up.99999999999999999999999.weight",
        ] {
            assert_eq!(AdapterName::parse(name), None, "{name}");
        }
    }
}
