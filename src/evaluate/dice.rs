//! Repeatable random choices for drawing clips. Noise for models is made elsewhere, by `nn::NoiseStream`.

/// A stream of random numbers that follows from its seed alone, the same on every machine.
///
/// Source: SplitMix64 (Steele, Lea and Flood, 2014), with the constants of Vigna's public-domain version.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to below `high`, evenly spread.
    pub fn within(&mut self, low: f64, high: f64) -> f64 {
        // The upper 53 bits are as many as an f64 holds.
        let unit = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        low + (high - low) * unit
    }

    /// One of the choices; `None` of none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        // The bias of the remainder is below 2^-60 for the handful of choices there ever are.
        let at = self.bits().checked_rem(choices.len() as u64)?;
        choices.get(at as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // First outputs for seed 1234567, as published with the algorithm's reference implementation.
        let mut dice = Dice::new(1_234_567);
        let got = [dice.bits(), dice.bits(), dice.bits()];
        assert_eq!(
            got,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
        let mut dice = Dice::new(3);
        for _ in 0..1000 {
            assert!((2.0..5.0).contains(&dice.within(2.0, 5.0)));
        }
        assert_eq!(dice.pick::<u8>(&[]), None);
        assert_eq!(dice.pick(&[7]), Some(7));
    }
}
