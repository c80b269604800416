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
    /// What it keeps that comes before the first weights that learn: nothing reads it, unless the unit is run by itself.
    early: usize,
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
    let kept: usize = units.iter().map(|unit| unit.cost.kept - unit.early).sum();
    let mut waiting = 0;
    let mut most = 0;
    for unit in units
        .iter()
        .rev()
        .filter(|unit| unit.early < unit.cost.kept)
    {
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
        // What comes before the first weights that learn is not run again.
        if segment.iter().all(|unit| unit.early == unit.cost.kept) {
            continue;
        }
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
    let mut path = Path {
        layer: Layer { config, walk },
        units: Vec::new(),
        skips: Vec::new(),
        level: 0,
    };
    path.way_in();
    path.way_down();
    path.middle();
    path.way_up();
    path.way_out();
    path.units
}

/// The network's units in the order in which they run.
struct Path<'a> {
    layer: Layer<'a>,
    units: Vec<Unit>,
    /// Sizes of the skips that no layer has taken yet.
    skips: Vec<usize>,
    level: usize,
}

impl Path<'_> {
    /// Frames times height times width of a level, rounded up at every halving.
    fn positions(&self, level: usize) -> usize {
        let [frames, height, width] = self.layer.walk.clip;
        let halved = |side: usize| (0..level).fold(side, |side, _| side.div_ceil(2));
        frames * halved(height) * halved(width)
    }

    fn push(&mut self, cost: Cost, out: usize) {
        self.units.push(Unit {
            cost,
            level: self.level,
            out,
            skip_in: 0,
            is_skip: false,
            early: 0,
        });
    }

    /// A unit whose output is used again on the way up.
    fn push_skip(&mut self, cost: Cost, out: usize) {
        self.push(cost, out);
        self.skips.push(out);
        if let Some(unit) = self.units.last_mut() {
            unit.is_skip = true;
        }
    }

    fn way_in(&mut self) {
        let Layer { config, walk } = self.layer;
        let (p, c) = (self.positions(0), config.block_out_channels[0]);
        let heads = FIRST_TRANSFORMER_HEADS * config.head_dim;
        let convolution = Cost {
            kept: p * c,
            forward: 2 * p * c,
            backward: 0,
        };
        self.push_skip(convolution.then(self.layer.temporal(p, c, heads)), p * c);
        if let (None, Some(unit)) = (walk.temporal_rank, self.units.last_mut()) {
            unit.early = unit.cost.kept;
        }
    }

    fn way_down(&mut self) {
        let Layer { config, walk } = self.layer;
        let channels = &config.block_out_channels;
        for (i, &o) in channels.iter().enumerate() {
            self.level += 1;
            let p = self.positions(i);
            for k in 0..config.layers_per_block {
                let input = match k {
                    0 => channels[i.saturating_sub(1)],
                    _ => o,
                };
                let cost = self.layer.cost(p, (input, o), config.down_blocks[i], false);
                self.push_skip(cost, o * p);
                if let (None, 0, 0, Some(unit)) = (walk.temporal_rank, i, k, self.units.last_mut())
                {
                    // The first weights of VMC that learn are those of the first temporal attention.
                    unit.early = cost.kept.saturating_sub(self.layer.temporal(p, o, o).kept);
                }
            }
            if i + 1 < channels.len() {
                let out = o * self.positions(i + 1);
                let cost = Cost {
                    kept: out,
                    forward: out,
                    backward: 3 * o * p + out,
                };
                self.push_skip(cost, out);
            }
        }
    }

    fn middle(&mut self) {
        let channels = &self.layer.config.block_out_channels;
        self.level += 1;
        let (p, c) = (
            self.positions(channels.len() - 1),
            channels[channels.len() - 1],
        );
        self.push(self.layer.middle(p, c), p * c);
    }

    fn way_up(&mut self) {
        let config = self.layer.config;
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        for i in 0..=last {
            self.level += 1;
            let (at, p) = (last - i, self.positions(last - i));
            let c = channels[at];
            for k in 0..=config.layers_per_block {
                let skip = self.skips.pop().unwrap_or(0);
                let below = match k {
                    0 => channels[(at + 1).min(last)],
                    _ => c,
                };
                let sizes = (below + skip / p.max(1), c);
                let cost = self.layer.cost(p, sizes, config.up_blocks[i], true);
                self.push(cost, c * p);
                if let Some(unit) = self.units.last_mut() {
                    unit.skip_in = skip;
                }
            }
            if at > 0 {
                let out = c * self.positions(at - 1);
                let cost = Cost {
                    kept: out,
                    forward: 2 * out,
                    backward: 3 * out,
                };
                self.push(cost, out);
            }
        }
    }

    fn way_out(&mut self) {
        let config = self.layer.config;
        self.level += 1;
        let p = self.positions(0);
        let (hidden, latents) = (p * config.block_out_channels[0], p * config.out_channels);
        let cost = Cost {
            kept: hidden + 3 * latents,
            forward: hidden + 3 * latents,
            backward: 4 * hidden,
        };
        self.push(cost, latents);
    }
}

#[derive(Clone, Copy)]
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
