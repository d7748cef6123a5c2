//! Chance that is the same in every run.

/// splitmix64, at some point of its sequence.
pub struct Chance(pub u64);

impl Chance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit as u64) as usize
    }

    /// Bytes of any value, as many as one of `lengths` says.
    pub fn noise(&mut self, lengths: std::ops::Range<usize>) -> Vec<u8> {
        let len = lengths.start + self.below(lengths.len());
        (0..len).map(|_| self.draw() as u8).collect()
    }

    /// Flips a bit, or cuts something off.
    pub fn spoil(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(4) {
            0 => bytes.truncate(at.max(1)),
            _ => bytes[at] ^= 1 << self.below(8),
        }
    }
}
