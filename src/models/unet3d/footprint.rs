//! How many numbers a training pass holds at once, from the shapes of its tensors alone.
//!
//! The network is walked as [`super::UNet3DConditionModel::forward_on`] walks it, with sizes in place of tensors. What each
//! part keeps is what `nn` keeps on the processor: the outputs of its operations, and inside a chain the inputs of norms and
//! of GEGLU.

use super::config::{BlockKind, UNet3DConfig};
use crate::nn::Checkpointing;

/// Heads of the transformer right after the first convolution; see `attention`.
const FIRST_TRANSFORMER_HEADS: usize = 8;

/// What is walked.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Frames, height and width of the latents.
    pub clip: [usize; 3],
    /// What the pass remembers.
    pub checkpointing: Checkpointing,
    /// Inner width of adapters beside the temporal layers; none where the network's own weights learn.
    pub temporal_rank: Option<usize>,
}

/// Some layers that belong together. All counts are numbers, not bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Kept for the backward pass, outputs included.
    kept: usize,
    /// The most that the forward pass holds for a moment when it keeps nothing.
    forward: usize,
    /// The most that the backward pass holds beside what is kept.
    backward: usize,
}

impl Cost {
    fn then(self, next: Self) -> Self {
        Self {
            kept: self.kept + next.kept,
            forward: self.forward.max(next.forward),
            backward: self.backward.max(next.backward),
        }
    }
}

/// A part of the network that a tape may make a segment of.
#[derive(Clone, Copy, Debug)]
struct Unit {
    cost: Cost,
    /// The outermost segment it is part of when checkpointing is by level.
    level: usize,
    /// Size of what comes out.
    out: usize,
    /// Sizes of the skips that go in beside the output of the unit before.
    skip_in: usize,
    /// Whether the output is a skip of the way up as well.
    is_skip: bool,
    /// Whether anything in it, or before it, learns.
    learns: bool,
}

/// Numbers held at the worst moment of a training pass over one clip, without weights, gradients of weights and optimiser.
#[must_use]
pub fn activations(config: &UNet3DConfig, walk: &Walk) -> usize {
    let units = units(config, walk);
    let [frames, height, width] = walk.clip;
    // Latents, noise, prediction, estimate, and the wavelet and Fourier terms with their graphs.
    let loss = LOSS_TENSORS * config.in_channels * frames * height * width;
    loss + match walk.checkpointing {
        Checkpointing::Off => uncut(&units),
        Checkpointing::Block => cut(&units.iter().map(|unit| vec![*unit]).collect::<Vec<_>>()),
        Checkpointing::Level => {
            let levels = units.chunk_by(|a, b| a.level == b.level);
            cut(&levels.map(<[Unit]>::to_vec).collect::<Vec<_>>())
        }
    }
}

/// Tensors of the size of the latents that the loss and its gradient hold.
const LOSS_TENSORS: usize = 60;

/// Everything is kept; on the way back gradients of skips wait for the layer that made them.
fn uncut(units: &[Unit]) -> usize {
    let kept: usize = units
        .iter()
        .filter(|unit| unit.learns)
        .map(|unit| unit.cost.kept)
        .sum();
    let mut waiting = 0;
    let mut most = 0;
    for unit in units.iter().rev().filter(|unit| unit.learns) {
        most = most.max(waiting + unit.cost.backward);
        waiting += unit.skip_in;
        if unit.is_skip {
            waiting = waiting.saturating_sub(unit.out);
        }
    }
    // What comes before the first layer that learns is gone by then.
    let before = units.iter().map(|unit| unit.cost.forward).max();
    (kept + most).max(before.unwrap_or(0))
}

/// Only what goes into each segment is kept; each is run again, with its graph, on the way back.
fn cut(segments: &[Vec<Unit>]) -> usize {
    let outs = |segment: &[Unit]| -> usize {
        let last = segment.len() - 1;
        let goes_on = |(i, unit): (usize, &Unit)| match i == last || unit.is_skip {
            true => unit.out,
            false => 0,
        };
        segment.iter().enumerate().map(goes_on).sum()
    };
    let mut held = 0;
    let mut before = Vec::with_capacity(segments.len());
    let mut most = 0;
    let mut last = 0;
    for segment in segments {
        let forward = segment.iter().map(|unit| unit.cost.forward).max();
        before.push((held, last));
        most = most.max(held + forward.unwrap_or(0));
        held += outs(segment);
        last = segment.last().map_or(0, |unit| unit.out);
    }
    let mut waiting = 0;
    for (segment, (held, input)) in segments.iter().zip(before).rev() {
        let cost = segment
            .iter()
            .fold(Cost::default(), |sum, unit| sum.then(unit.cost));
        let skips: usize = segment.iter().map(|unit| unit.skip_in).sum();
        let out = segment.last().map_or(0, |unit| unit.out);
        // Inputs are copied into leaves; the gradient of the output is beside its product with the output.
        let leaves = input + skips;
        most = most.max(held + leaves + cost.kept + cost.backward + waiting + 2 * out);
        waiting += skips;
        let made: usize = segment
            .iter()
            .filter(|unit| unit.is_skip)
            .map(|unit| unit.out)
            .sum();
        waiting = waiting.saturating_sub(made);
    }
    most
}

fn units(config: &UNet3DConfig, walk: &Walk) -> Vec<Unit> {
    let channels = &config.block_out_channels;
    let [frames, height, width] = walk.clip;
    let levels = channels.len();
    let halved = |side: usize, times: usize| (0..times).fold(side, |side, _| side.div_ceil(2));
    let positions = |level: usize| frames * halved(height, level) * halved(width, level);
    let layer = Layer { config, walk };
    let mut units = Vec::new();
    let mut level = 0;
    let mut skips = Vec::new();
    let mut push = |cost: Cost, level: usize, out: usize, skip_in: usize, is_skip: bool| {
        // The first weights of VMC that learn are those of the first temporal attention.
        let learns = walk.temporal_rank.is_some() || !units.is_empty();
        units.push(Unit {
            cost,
            level,
            out,
            skip_in,
            is_skip,
            learns,
        });
    };
    let first = channels[0] * positions(0);
    let heads = FIRST_TRANSFORMER_HEADS * config.head_dim;
    push(
        layer.temporal(positions(0), channels[0], heads).then(Cost {
            kept: first,
            forward: 2 * first,
            backward: 0,
        }),
        level,
        first,
        0,
        true,
    );
    skips.push(first);
    for (i, &o) in channels.iter().enumerate() {
        level += 1;
        for k in 0..config.layers_per_block {
            let input = if k == 0 {
                channels[i.saturating_sub(1)]
            } else {
                o
            };
            let out = o * positions(i);
            push(
                layer.cost(positions(i), (input, o), config.down_blocks[i], false),
                level,
                out,
                0,
                true,
            );
            skips.push(out);
        }
        if i + 1 < levels {
            let out = o * positions(i + 1);
            push(
                Cost {
                    kept: out,
                    forward: out,
                    backward: 3 * o * positions(i) + out,
                },
                level,
                out,
                0,
                true,
            );
            skips.push(out);
        }
    }
    level += 1;
    let (deepest, c) = (positions(levels - 1), channels[levels - 1]);
    let middle = layer.middle(deepest, c);
    push(middle, level, c * deepest, 0, false);
    for i in 0..levels {
        level += 1;
        let at = levels - 1 - i;
        let below = channels[(at + 1).min(levels - 1)];
        for k in 0..=config.layers_per_block {
            let skip = skips.pop().unwrap_or(0);
            let from_below = if k == 0 { below } else { channels[at] };
            let input = from_below + skip / positions(at).max(1);
            let sizes = (input, channels[at]);
            let cost = layer.cost(positions(at), sizes, config.up_blocks[i], true);
            push(cost, level, channels[at] * positions(at), skip, false);
        }
        if at > 0 {
            let out = channels[at] * positions(at - 1);
            push(
                Cost {
                    kept: out,
                    forward: 2 * out,
                    backward: 3 * out,
                },
                level,
                out,
                0,
                false,
            );
        }
    }
    level += 1;
    let latents = config.out_channels * positions(0);
    push(
        Cost {
            kept: first + 3 * latents,
            forward: first + 3 * latents,
            backward: 4 * first,
        },
        level,
        latents,
        0,
        false,
    );
    units
}

struct Layer<'a> {
    config: &'a UNet3DConfig,
    walk: &'a Walk,
}

impl Layer<'_> {
    /// A layer of a level over `p` positions, `i` channels in and `o` out. On the way up its input is put together first.
    fn cost(&self, p: usize, (i, o): (usize, usize), kind: BlockKind, is_up: bool) -> Cost {
        let together = if is_up { p * i } else { 0 };
        let mut cost = self.resnet(p, (i, o), 1.0);
        cost.kept += together;
        cost.forward += together;
        cost = cost.then(self.temporal_conv(p, o));
        if kind == BlockKind::CrossAttention {
            cost = cost.then(self.spatial(p, o)).then(self.temporal(p, o, o));
        }
        cost
    }

    fn middle(&self, p: usize, c: usize) -> Cost {
        let resnet = self.resnet(p, (c, c), self.config.mid_scale);
        let conv = self.temporal_conv(p, c);
        resnet
            .then(conv)
            .then(self.spatial(p, c))
            .then(self.temporal(p, c, c))
            .then(resnet)
            .then(conv)
    }

    /// One chain: what comes between its convolutions is kept, and the result.
    fn resnet(&self, p: usize, (i, o): (usize, usize), scale: f64) -> Cost {
        let scaled = if scale == 1.0 { 0 } else { p * o };
        Cost {
            kept: 2 * p * o + scaled,
            forward: p * i + 2 * p * o,
            backward: 3 * p * i + p * o,
        }
    }

    /// One chain of four stages.
    fn temporal_conv(&self, p: usize, c: usize) -> Cost {
        Cost {
            kept: 4 * p * c,
            forward: 3 * p * c,
            backward: 4 * p * c,
        }
    }

    /// Tokens in, a norm, queries, keys, values, attention, its projection; a norm, queries, attention, its projection; the
    /// wide half of the feed-forward, its result, and the tokens' way out.
    fn spatial(&self, p: usize, c: usize) -> Cost {
        Cost {
            kept: 21 * p * c,
            forward: 15 * p * c,
            backward: 14 * p * c,
        }
    }

    /// As [`Self::spatial`] with an inner width of its own and keys and values of the tokens in both attentions.
    fn temporal(&self, p: usize, c: usize, inner: usize) -> Cost {
        match self.walk.temporal_rank {
            None => Cost {
                kept: 22 * p * inner + p * c,
                forward: 15 * p * inner + p * c,
                backward: 14 * p * inner + p * c,
            },
            // Layers with adapters are not part of a chain: norms, both halves of the feed-forward and sums are kept.
            Some(rank) => Cost {
                kept: 30 * p * inner + p * c + 10 * p * rank.min(inner),
                forward: 18 * p * inner + p * c,
                backward: 30 * p * inner + p * c,
            },
        }
    }
}
