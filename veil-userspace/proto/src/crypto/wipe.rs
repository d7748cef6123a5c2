//! Wiping what no type can wipe: the stack.
//!
//! Libraries below us (ring, hmac, the curve) leave copies of key material in frames that have already returned. Work
//! on secrets therefore runs below an `inline(never)` frame, and the stack under that frame is overwritten afterwards.
//! Called by the handshake, by [`AeadKey::new`](super::AeadKey::new) and by whoever hands a session to another thread.

use std::hint::black_box;
use zeroize::Zeroize;

/// More than the deepest call chain below [`scrubbed`] uses.
const SCRUB: usize = 64 * 1024;
/// The same for sealing and opening, which use less than 4 KiB.
const SHALLOW: usize = 16 * 1024;

/// Overwrites the 64 KiB of stack below the caller's frame with zeros.
pub fn scrub_stack() {
    scrub::<SCRUB>();
}

/// The same of the 16 KiB that sealing and opening stay far above: for who does it after each packet or before each sleep,
/// where the whole would cost more than the packet does.
pub fn scrub_shallow_stack() {
    scrub::<SHALLOW>();
}

#[inline(never)]
fn scrub<const BYTES: usize>() {
    let mut block = [0u8; BYTES];
    black_box(&mut block);
}

/// Runs `work` in a frame of its own and scrubs the stack it used. Secrets should leave it through a `&mut`, not by value.
#[inline(never)]
pub fn scrubbed<T>(work: impl FnOnce() -> T) -> T {
    let out = below(work);
    scrub_stack();
    out
}

/// The same for `work` that does no more with secrets than seal and open, or [scrubs](scrub_stack) by itself after what
/// else it does with them.
#[inline(never)]
pub fn scrubbed_shallow<T>(work: impl FnOnce() -> T) -> T {
    let out = below(work);
    scrub_shallow_stack();
    out
}

#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Overwrites `bytes` with zeros in a way the compiler may not leave out.
pub fn secure_zero(bytes: &mut [u8]) {
    bytes.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secure_zero_leaves_zeros() {
        let mut secret = [7; 100];
        secure_zero(&mut secret);
        assert_eq!(secret, [0; 100]);
    }
}
