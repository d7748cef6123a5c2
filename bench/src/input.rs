//! How the programs that `cargo xtask bench` starts are told to end: their standard input is closed.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

/// True once nobody will write to the standard input any more.
pub fn watch_input() -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    thread::spawn(move || {
        // An input that cannot be read is over as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        seen.store(true, Relaxed);
    });
    over
}
