//! How many numbers a training pass holds at once, from the shapes of its tensors alone.
//!
//! A network is walked as its `forward_on` walks it, with sizes in place of tensors. What each part keeps is what `nn` keeps on
//! the processor: the outputs of its operations, and inside a chain the inputs of norms and of GEGLU.

mod image;
mod video;

pub(crate) use self::image::ImageLayers;
pub(crate) use self::video::VideoLayers;
use crate::nn::Checkpointing;

/// What is walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// Frames, height and width of the latents.
    pub clip: [usize; 3],
    /// What the pass remembers.
    pub checkpointing: Checkpointing,
}

/// A level of the network, counted from the finest, on one of its ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Down(usize),
    /// Its input is put together from what comes from below and a skip.
    Up(usize),
}

/// What a network of the usual plan (a way down, a middle, a way up with skips) is made of.
pub(crate) trait Layers {
    /// Channels of each level, finest first.
    fn channels(&self) -> &[usize];
    /// Layers of a level on the way down; on the way up there is one more.
    fn layers_per_block(&self) -> usize;
    /// Channels of the latents that come in, and of the prediction.
    fn latent_channels(&self) -> (usize, usize);
    /// What follows the first convolution over `p` positions.
    fn first(&self, p: usize) -> Cost;
    /// A layer over `p` positions, `i` channels in and `o` out.
    fn layer(&self, place: Place, p: usize, sizes: (usize, usize)) -> Cost;
    /// The middle.
    fn middle(&self, p: usize, c: usize) -> Cost;
    /// What the first layer keeps from its first weights that learn on; none where weights before it learn.
    fn learns_late(&self, p: usize, c: usize) -> Option<usize>;
    /// Whether the residuals of a ControlNet are added to the skips and to the middle.
    fn is_controlled(&self) -> bool {
        false
    }
}

/// Some layers that belong together. All counts are numbers, not bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
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
pub(crate) fn activations(layers: &dyn Layers, walk: &Walk) -> usize {
    let units = units(layers, walk);
    let [frames, height, width] = walk.clip;
    // Latents, noise, prediction, estimate, and the wavelet and Fourier terms with their graphs.
    let loss = LOSS_TENSORS * layers.latent_channels().0 * frames * height * width;
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

fn units(layers: &dyn Layers, walk: &Walk) -> Vec<Unit> {
    let mut path = Path {
        layers,
        clip: walk.clip,
        units: Vec::new(),
        skips: Vec::new(),
        level: 0,
    };
    path.way_in();
    path.way_down();
    path.middle();
    if layers.is_controlled() {
        path.residuals();
    }
    path.way_up();
    path.way_out();
    path.units
}

/// The network's units in the order in which they run.
struct Path<'a> {
    layers: &'a dyn Layers,
    clip: [usize; 3],
    units: Vec<Unit>,
    /// Sizes of the skips that no layer has taken yet.
    skips: Vec<usize>,
    level: usize,
}

impl Path<'_> {
    /// Frames times height times width of a level, rounded up at every halving.
    fn positions(&self, level: usize) -> usize {
        let [frames, height, width] = self.clip;
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
        let (p, c) = (self.positions(0), self.layers.channels()[0]);
        let convolution = Cost {
            kept: p * c,
            forward: 2 * p * c,
            backward: 0,
        };
        self.push_skip(convolution.then(self.layers.first(p)), p * c);
        if let (Some(_), Some(unit)) = (self.layers.learns_late(p, c), self.units.last_mut()) {
            unit.early = unit.cost.kept;
        }
    }

    fn way_down(&mut self) {
        let channels = self.layers.channels().to_vec();
        for (i, &o) in channels.iter().enumerate() {
            self.level += 1;
            let p = self.positions(i);
            for k in 0..self.layers.layers_per_block() {
                let input = match k {
                    0 => channels[i.saturating_sub(1)],
                    _ => o,
                };
                let cost = self.layers.layer(Place::Down(i), p, (input, o));
                self.push_skip(cost, o * p);
                let late = self.layers.learns_late(p, o);
                if let (Some(late), 0, 0, Some(unit)) = (late, i, k, self.units.last_mut()) {
                    unit.early = cost.kept.saturating_sub(late);
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
        let channels = self.layers.channels();
        let (at, c) = (channels.len() - 1, channels[channels.len() - 1]);
        self.level += 1;
        let p = self.positions(at);
        self.push(self.layers.middle(p, c), p * c);
    }

    /// Every skip and the middle with what a ControlNet adds: the residual and the sum.
    fn residuals(&mut self) {
        let middle = self.units.last().map_or(0, |unit| unit.out);
        for size in self.skips.clone().into_iter().chain([middle]) {
            self.level += 1;
            let cost = Cost {
                kept: 2 * size,
                forward: 2 * size,
                backward: size,
            };
            self.push(cost, size);
        }
    }

    fn way_up(&mut self) {
        let channels = self.layers.channels().to_vec();
        let last = channels.len() - 1;
        for at in (0..=last).rev() {
            self.level += 1;
            let p = self.positions(at);
            let c = channels[at];
            for k in 0..=self.layers.layers_per_block() {
                let skip = self.skips.pop().unwrap_or(0);
                let below = match k {
                    0 => channels[(at + 1).min(last)],
                    _ => c,
                };
                let sizes = (below + skip / p.max(1), c);
                self.push(self.layers.layer(Place::Up(at), p, sizes), c * p);
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
        self.level += 1;
        let p = self.positions(0);
        let (hidden, latents) = (
            p * self.layers.channels()[0],
            p * self.layers.latent_channels().1,
        );
        let cost = Cost {
            kept: hidden + 3 * latents,
            forward: hidden + 3 * latents,
            backward: 4 * hidden,
        };
        self.push(cost, latents);
    }
}
