//! Seeded noise: a counter-based generator, so that a run can be repeated and resumed bit for bit.
//!
//! Numbers are made on the CPU with `libm`'s functions and uploaded: every platform and device sees the same
//! bits. Each purpose has a stream of its own, so that drawing one preview more does not change the training.

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::plan::Dropping;

/// What a stream of noise is for. The numbers are part of the run file format: never reuse or reorder them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Starting values of new weights.
    Init = 1,
    /// Noise added to clean latents while training.
    Noise = 2,
    /// Which time steps are trained.
    Timestep = 3,
    /// Starting latents of previews.
    Preview = 4,
    /// Draws from the posterior of the autoencoder.
    Posterior = 5,
    /// Starting latents of final samples.
    Sample = 6,
    /// Which frames a step looks at (an anchor frame, a single image).
    Frame = 7,
    /// Dropout masks.
    Dropout = 8,
    /// The order in which several clips are taken.
    Clip = 9,
}

/// A repeatable stream of random numbers: Philox4x32 with ten rounds over a block counter.
///
/// The key is the seed; the counter is (block, purpose, lane). Every draw takes whole blocks of four words, so
/// [`NoiseStream::position`] after a draw says all there is to say about the state.
///
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#[derive(Clone, Debug)]
pub struct NoiseStream {
    seed: u64,
    purpose: Purpose,
    lane: u32,
    block: u64,
}

impl NoiseStream {
    /// The stream of `purpose` for `seed`, at its start.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Self {
            seed,
            purpose,
            lane: 0,
            block: 0,
        }
    }

    /// A stream beside this one that begins at the same position and shares no number with it; a new stream is in
    /// lane 0. Lets many users draw from one place, each the same numbers whatever the others draw.
    #[must_use]
    pub fn lane(&self, lane: u32) -> Self {
        Self {
            lane,
            ..self.clone()
        }
    }

    /// Standard normal numbers of the given shape.
    ///
    /// Box-Muller in f64 on 32-bit uniform numbers (so |z| is at most 6.7), then cast.
    ///
    /// # Errors
    /// When the device has no room or does not support `dtype`.
    pub fn normal(
        &mut self,
        shape: impl Into<Shape>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.elem_count();
        let mut values = Vec::with_capacity(count.next_multiple_of(4));
        while values.len() < count {
            let [a, b, c, d] = self.next_block();
            let (z0, z1) = normal_pair(a, b);
            let (z2, z3) = normal_pair(c, d);
            values.extend([z0, z1, z2, z3]);
        }
        values.truncate(count);
        Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(device)
    }

    /// Uniform numbers from 0 to below 1, as `f64`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn uniform(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        const SCALE: f64 = 1.0 / 4_294_967_296.0;
        let shape = shape.into();
        let count = shape.elem_count();
        let mut values = Vec::with_capacity(count.next_multiple_of(4));
        while values.len() < count {
            values.extend(self.next_block().map(|word| f64::from(word) * SCALE));
        }
        values.truncate(count);
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)
    }

    /// Ones with probability `p`, else zeros, as `f32`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn chance(&mut self, shape: impl Into<Shape>, p: f64, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.elem_count();
        let limit = limit(p);
        let mut values = Vec::with_capacity(count.next_multiple_of(4));
        while values.len() < count {
            let words = self.next_block();
            values.extend(words.map(|word| if u64::from(word) < limit { 1.0f32 } else { 0.0 }));
        }
        values.truncate(count);
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)
    }

    /// What a GPU needs to make the mask of [`Self::chance`] by itself, kept numbers divided by `p`.
    pub(super) fn dropping(&self, p: f64) -> Dropping {
        Dropping {
            seed: self.seed,
            block: self.block,
            purpose: self.purpose as u32,
            lane: self.lane,
            limit: limit(p),
            scale: 1.0 / p,
        }
    }

    /// A whole number in `0..n`, every one equally likely; 0 when `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        // Lemire's method: the high half of a product, with the few words that would favour some numbers
        // thrown away (low half below 2^32 mod n).
        let reject_below = if n == 0 { 0 } else { n.wrapping_neg() % n };
        loop {
            for word in self.next_block() {
                let product = u64::from(word) * u64::from(n);
                if product as u32 >= reject_below {
                    return (product >> 32) as u32;
                }
            }
        }
    }

    /// How many blocks have been taken.
    pub fn position(&self) -> u64 {
        self.block
    }

    /// Goes to a position told by [`NoiseStream::position`].
    pub fn seek(&mut self, position: u64) {
        self.block = position;
    }

    fn next_block(&mut self) -> [u32; 4] {
        let counter = [
            self.block as u32,
            (self.block >> 32) as u32,
            self.purpose as u32,
            self.lane,
        ];
        self.block = self.block.wrapping_add(1);
        philox4x32_10(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }
}

/// A word is below this with probability `p`; at 1 every word is.
fn limit(p: f64) -> u64 {
    (p.clamp(0.0, 1.0) * 4_294_967_296.0) as u64
}

/// Two independent standard normal numbers from two uniform words.
fn normal_pair(a: u32, b: u32) -> (f64, f64) {
    const SCALE: f64 = 1.0 / 4_294_967_296.0;
    // In (0, 1], so that the logarithm is finite.
    let radius = libm::sqrt(-2.0 * libm::log((f64::from(a) + 1.0) * SCALE));
    let (sin, cos) = libm::sincos(std::f64::consts::TAU * f64::from(b) * SCALE);
    (radius * cos, radius * sin)
}

/// One block of Philox4x32 with ten rounds, as published by Salmon et al. (2011).
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
    }
    counter
}
