//! Wiping what no type can wipe: the stack.
//!
//! Libraries below us (ring, hmac, the curve) leave copies of key material in frames that have already returned. Work
//! on secrets therefore runs below an `inline(never)` frame, and the stack under that frame is overwritten afterwards.
//! Called by the handshake, by [`AeadKey::new`](super::AeadKey::new) and by whoever hands a session to another thread.

use std::hint::black_box;
use zeroize::Zeroize;

/// More than the deepest call chain below [`scrubbed`] uses.
const SCRUB: usize = 64 * 1024;

/// Overwrites the 64 KiB of stack below the caller's frame with zeros.
#[inline(never)]
pub fn scrub_stack() {
    let mut block = [0u8; SCRUB];
    black_box(&mut block);
}

/// Runs `work` in a frame of its own and scrubs the stack it used. Secrets should leave it through a `&mut`, not by value.
#[inline(never)]
pub fn scrubbed<T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn below<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    let out = below(work);
    scrub_stack();
    out
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
