//! Bytes where a key could be left behind, so that the scanner can show that it looks there.

use std::hint::black_box;

use anyhow::Result;
use veil_tests::seeded::Seeded;

/// More than the allocator serves from the heap: this gets a mapping of its own.
const LARGE: usize = 1 << 20;

/// Plants draws 0 to 3 of `seed` until told otherwise: on the stack, on the heap at an odd address, at the very end of a mapping
/// of its own, and only the second half of one.
pub fn run(seed: u64) -> Result<()> {
    let (mut stack, mut heap, mut large) = ([0; 32], vec![0; 100], vec![0; LARGE]);
    let mut half = Box::new([0; 32]);
    Seeded::draw(seed, 0, &mut stack);
    Seeded::draw(seed, 1, &mut heap[33..65]);
    Seeded::draw(seed, 2, &mut large[LARGE - 32..]);
    Seeded::draw(seed, 3, half.as_mut_slice());
    half[..16].fill(0);
    black_box((&mut stack, &mut heap, &mut large, &mut half));
    super::say("planted")?;
    super::hear()?;
    for planted in [&mut stack[..], &mut heap[..], &mut large[..], &mut half[..]] {
        planted.fill(0);
        black_box(planted);
    }
    Ok(())
}
