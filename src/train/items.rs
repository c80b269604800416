//! What a training learns from: one clip, or several clips of the same motion.

use candle_core::{Device, Tensor};

use super::error::TrainError;
use crate::methods::Method;
use crate::nn::{NoiseStream, Purpose};

/// Binary digits of the room that each round over the clips has in the stream of their order.
const ROOM_OF_A_ROUND: u32 = 32;

/// A clip and its words, as the network sees them.
#[derive(Clone, Debug)]
pub struct Item {
    pub(super) v0: Tensor,
    pub(super) text: Tensor,
    pub(super) control: Option<Tensor>,
}

impl Item {
    /// Shape: `v0` `[1, c, f, h, w]` latents times the VAE's scaling factor; `text` `[1, n, d]`.
    #[must_use]
    pub fn new(v0: &Tensor, text: &Tensor) -> Self {
        Self {
            v0: v0.detach(),
            text: text.detach(),
            control: None,
        }
    }

    /// The same with the clip that steers a ControlNet, `[1, 3, f, h, w]` in 0 to 1.
    #[must_use]
    pub fn with_control(self, control: &Tensor) -> Self {
        Self {
            control: Some(control.detach()),
            ..self
        }
    }
}

/// The clips of a training and the order in which its steps take them.
pub(super) struct Items {
    first: Item,
    more: Vec<Item>,
    shuffled: bool,
    seed: u64,
}

impl Items {
    /// Clips of one shape; VMC takes them in turn, MotionDirector shuffles them for every round.
    ///
    /// # Errors
    /// [`TrainError::Clips`] when there is none, or one has another shape than the first.
    pub(super) fn new(list: Vec<Item>, method: Method, seed: u64) -> Result<Self, TrainError> {
        let mut list = list.into_iter();
        let first = list.next().ok_or_else(|| TrainError::Clips {
            why: "there is no clip to learn from".to_owned(),
        })?;
        let more: Vec<Item> = list.collect();
        for (index, item) in more.iter().enumerate() {
            if item.v0.shape() != first.v0.shape() {
                let why = format!(
                    "the latents of clip {} have shape {:?}, those of the first {:?}",
                    index + 2,
                    item.v0.dims(),
                    first.v0.dims()
                );
                return Err(TrainError::Clips { why });
            }
        }
        Ok(Self {
            first,
            more,
            shuffled: method == Method::MotionDirector,
            seed,
        })
    }

    pub(super) fn len(&self) -> usize {
        1 + self.more.len()
    }

    /// One of the clips; all of them have its shape.
    pub(super) fn first(&self) -> &Item {
        &self.first
    }

    pub(super) fn get(&self, index: usize) -> &Item {
        match index.checked_sub(1) {
            Some(index) => self.more.get(index).unwrap_or(&self.first),
            None => &self.first,
        }
    }

    pub(super) fn device(&self) -> &Device {
        self.first.v0.device()
    }

    /// The clip of the step after `step` ones.
    ///
    /// Every round over the clips takes each of them once. The order follows from seed and round, so that there is nothing
    /// to remember but the step, and a resumed training goes on with the right clip.
    pub(super) fn of_step(&self, step: u32) -> usize {
        let count = self.len();
        let step = step as usize;
        let (round, place) = (step / count, step % count);
        if !self.shuffled || count == 1 {
            return place;
        }
        let mut stream = NoiseStream::new(self.seed, Purpose::Clip);
        stream.seek((round as u64) << ROOM_OF_A_ROUND);
        // Fisher and Yates: every order is equally likely.
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let other = stream.below(u32::try_from(last + 1).unwrap_or(u32::MAX));
            order.swap(last, other as usize);
        }
        order.get(place).copied().unwrap_or(place)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::DType;

    use super::*;

    fn items(count: usize, method: Method) -> Items {
        let tensor = Tensor::zeros((1, 4, 2, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let list = vec![Item::new(&tensor, &tensor); count];
        Items::new(list, method, 3).unwrap()
    }

    #[test]
    fn every_round_takes_every_clip_once() {
        for count in 1..6_usize {
            let (shuffled, in_turn) = (
                items(count, Method::MotionDirector),
                items(count, Method::Vmc),
            );
            let mut orders = BTreeSet::new();
            for round in 0..40 {
                let steps = (0..count).map(|place| u32::try_from(round * count + place).unwrap());
                let order: Vec<usize> = steps.clone().map(|step| shuffled.of_step(step)).collect();
                let seen: BTreeSet<usize> = order.iter().copied().collect();
                assert_eq!(seen, (0..count).collect(), "round {round} of {count}");
                let turn: Vec<usize> = steps.map(|step| in_turn.of_step(step)).collect();
                assert_eq!(turn, (0..count).collect::<Vec<_>>());
                orders.insert(order);
            }
            // 40 rounds of two clips all in one order would be a broken draw (the chance is 2^-39, and the seed is fixed).
            assert_eq!(orders.len() > 1, count > 1, "{orders:?}");
        }
    }

    #[test]
    fn clips_of_other_shapes_are_refused() {
        let shape = |frames| {
            let v0 = Tensor::zeros((1, 4, frames, 2, 2), DType::F32, &Device::Cpu).unwrap();
            Item::new(&v0, &v0)
        };
        let other = Items::new(vec![shape(4), shape(4), shape(5)], Method::Vmc, 1);
        let Err(TrainError::Clips { why }) = other else {
            panic!("another shape was accepted")
        };
        assert!(why.contains("clip 3"), "{why}");
        assert!(matches!(
            Items::new(Vec::new(), Method::Vmc, 1),
            Err(TrainError::Clips { .. })
        ));
    }
}
