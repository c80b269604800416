//! Random damage to files, the same on every machine.

/// Inputs for each kind of file: the number in `SPECTRAL_MOTION_FUZZ`, else `usual`.
pub fn inputs(usual: usize) -> usize {
    std::env::var("SPECTRAL_MOTION_FUZZ")
        .ok()
        .and_then(|number| number.parse().ok())
        .unwrap_or(usual)
}

/// Marsaglia's xorshift: the same damage on every machine.
pub struct Mutator(u64);

impl Default for Mutator {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Mutator {
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }

    /// One to four changes: a bit, a byte, bytes put in, taken out or moved, the end cut off.
    pub fn damage(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.below(16) {
                0 => bytes.truncate(at),
                1..=3 if at < end => drop(bytes.drain(at..end)),
                4..=6 => bytes.insert(at, self.draw().to_le_bytes()[0]),
                7..=9 if at < end => {
                    let moved = bytes[at..end].to_vec();
                    let target = self.below(bytes.len());
                    drop(bytes.splice(target..target, moved));
                }
                10..=12 if at < end => bytes[at] ^= 1u8 << self.below(8),
                13..=15 if at < end => {
                    let edges = [0, 0xff, 0x7f, 0x80, b'0', b'9', b'-', b'e'];
                    bytes[at] = edges[self.below(edges.len())];
                }
                _ => {}
            }
        }
        bytes
    }
}
