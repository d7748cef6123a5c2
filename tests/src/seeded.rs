//! Randomness that another process can foresee: the same seed and the same draw give the same bytes.
//!
//! Draws are independent of one another, so whoever knows the seed need not repeat them in order: it tries one after
//! the other until one explains what it sees.

use veil_proto::Entropy;

/// Entropy for a child process whose keys its parent must know.
pub struct Seeded {
    seed: u64,
    draws: u64,
}

impl Seeded {
    /// Entropy that has given nothing yet.
    pub fn new(seed: u64) -> Self {
        Seeded { seed, draws: 0 }
    }

    /// Writes what draw number `draw` of `seed` gives, word by word: no copy of it is made on the way.
    pub fn draw(seed: u64, draw: u64, out: &mut [u8]) {
        for (n, word) in out.chunks_mut(8).enumerate() {
            // splitmix64 at one point of its sequence.
            let at = seed.wrapping_add(((draw << 16) + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let z = (at ^ (at >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..word.len()]);
        }
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        Self::draw(self.seed, self.draws, out);
        self.draws += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_can_be_repeated_without_those_before_it() {
        let (mut entropy, mut drawn, mut foreseen) = (Seeded::new(5), [[0; 33]; 3], [0; 33]);
        drawn.iter_mut().for_each(|out| entropy.fill(out));
        Seeded::draw(5, 2, &mut foreseen);
        assert_eq!(drawn[2], foreseen);
        assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2]);
        Seeded::draw(6, 2, &mut foreseen);
        assert_ne!(drawn[2], foreseen);
    }
}
