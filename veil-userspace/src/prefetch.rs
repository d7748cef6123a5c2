//! Having memory fetched before it is needed: the hint that the protocol, which knows where its sessions lie, leaves to us.
#![allow(unsafe_code)]
// Unsafe here: one instruction that reads nothing into the program and never faults, whatever the address.

/// Asks the processor to bring the cache line at `address` closer. Any address will do; elsewhere than on x86-64 it does
/// nothing.
#[inline(always)]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 is a hint and does not fault (AMD64 Architecture Programmer's Manual, volume 3).
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
