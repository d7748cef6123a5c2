//! A thread inside a namespace. Sockets opened there stay there; other threads are not moved.
//!
//! The guard is bound to its thread (it is not `Send`), because setns(2) moves a thread, not a process.

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};

use crate::sys;

/// While it lives, the thread that made it is inside the namespace.
#[derive(Debug)]
pub struct EnterGuard {
    home: File,
    stays_on_this_thread: PhantomData<*const ()>,
}

impl EnterGuard {
    pub(crate) fn enter(namespace: &Path) -> Result<EnterGuard> {
        let home =
            File::open("/proc/thread-self/ns/net").context("opening this thread's network namespace")?;
        let there = File::open(namespace).with_context(|| format!("opening {}", namespace.display()))?;
        sys::enter_network_namespace(there.as_fd())
            .with_context(|| format!("entering {} (needs CAP_SYS_ADMIN)", namespace.display()))?;
        Ok(EnterGuard { home, stays_on_this_thread: PhantomData })
    }
}

impl Drop for EnterGuard {
    fn drop(&mut self) {
        // A thread that cannot go home would do its next work in the wrong network: better to stop here.
        sys::enter_network_namespace(self.home.as_fd())
            .expect("returning to the namespace this thread came from");
    }
}
