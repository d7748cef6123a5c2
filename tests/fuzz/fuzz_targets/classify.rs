//! Any frame: classify redirects just what the reference of the steering tests calls VEIL's.
#![no_main]

use frames::{CONFIG, local};
use libfuzzer_sys::fuzz_target;
use veil_ebpf::Verdict;
use veil_ebpf::steer::classify;

#[path = "../../steering/reference.rs"]
mod reference;

/// What the reference asks its neighbour in the steering tests: whose frames are meant.
mod frames {
    use veil_ebpf::{SteeringConfig, local_key};

    pub const CONFIG: SteeringConfig = SteeringConfig { mac: [2, 0, 0, 0xaa, 0xbb, 0xcc], port: 4433 };

    pub fn local() -> [[u8; 16]; 2] {
        [local_key([192, 0, 2, 1]), [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]
    }
}

fuzz_target!(|frame: &[u8]| {
    agree(frame);
    // So many right bytes at once are no fuzzer's guess, and what is of interest lies behind them.
    let mut frame = frame.to_vec();
    put(&mut frame, 0, &CONFIG.mac);
    agree(&frame);
    let [v4, v6] = local();
    let (address_at, address, port_at) = match frame.get(12) {
        Some(8) => (30, &v4[12..], 36),
        _ => (38, &v6[..], 56),
    };
    put(&mut frame, address_at, address);
    put(&mut frame, port_at, &CONFIG.port.to_be_bytes());
    agree(&frame);
});

/// Writes `bytes` from offset `at`, if the frame is so long.
fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn agree(frame: &[u8]) {
    let verdict = classify(frame, &CONFIG, |address| local().contains(address));
    assert_eq!(verdict == Verdict::Redirect, reference::is_ours(frame), "{verdict:?}");
}
