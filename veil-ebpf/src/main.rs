//! The XDP program: the maps, and one match from verdict to action. `steer.rs` decides; this counts and acts.
//!
//! Unsafe is how an eBPF program reads: [`Wire`] gives out only bytes before the packet's end, which the verifier
//! proves once more when the program is loaded; a map's value is read or counted up through the pointer the kernel
//! gave for it, checked against null. A per-CPU counter has one writer: an XDP program does not interrupt itself.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_REDIRECT};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, XskMap};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use veil_ebpf::headers::Packet;
use veil_ebpf::maps::{MAX_LOCAL, MAX_QUEUES};
use veil_ebpf::steer::classify;
use veil_ebpf::{SteeringConfig, Verdict};

#[btf_map]
static XSKS: XskMap<MAX_QUEUES> = XskMap::new();
#[btf_map]
static CONFIG: Array<SteeringConfig, 1> = Array::new();
#[btf_map]
static LOCAL: HashMap<[u8; 16], u8, MAX_LOCAL> = HashMap::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { Verdict::ALL.len() }> = PerCpuArray::new();

/// The packet between its first byte and the one after its last.
struct Wire {
    start: usize,
    end: usize,
}

impl Packet for Wire {
    #[inline(always)]
    fn length(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        if self.start + at + N > self.end {
            return None;
        }
        // SAFETY: the `N` bytes end at the packet's end or before, bytes need no alignment, and the packet lives as
        // long as the program runs.
        Some(unsafe { &*((self.start + at) as *const [u8; N]) })
    }
}

#[xdp]
fn veil_steer(context: XdpContext) -> u32 {
    let (verdict, action) = match verdict(&context) {
        Verdict::Redirect => match XSKS.redirect(context.rx_queue_index(), XDP_PASS.into()) {
            Ok(_) => (Verdict::Redirect, XDP_REDIRECT),
            Err(_) => (Verdict::NoSocket, XDP_PASS),
        },
        other => (other, XDP_PASS),
    };
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict as u32) {
        // SAFETY: the kernel's pointer to this CPU's value, which only this program writes.
        unsafe { *counter += 1 };
    }
    action
}

#[inline(always)]
fn verdict(context: &XdpContext) -> Verdict {
    let Some(config) = CONFIG.get(0) else { return Verdict::NotConfigured };
    let frame = Wire { start: context.data(), end: context.data_end() };
    // SAFETY: nothing is read through the value's pointer; that it is there is the answer.
    classify(&frame, config, |address| unsafe { LOCAL.get(address) }.is_some())
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
