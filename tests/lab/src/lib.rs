//! Network namespaces, links and whole `veil` daemons, for tests, for `cargo xtask demo` and for benchmarks.
//!
//! A [`Lab`] owns everything it makes: namespaces, the links between them, a scratch folder, and whatever still
//! runs inside when it is dropped. Names carry the process id, so that [`sweep_leftovers`] can tell what a killed
//! run left behind. The host's own interfaces are never touched: links are created inside namespaces.
//!
//! The one invariant: when a `Lab` is gone, the machine is as it was before.

mod binary;
mod counters;
mod daemon;
mod enter;
mod flood;
mod huge_pages;
mod leftovers;
mod namespace;
mod node;
mod ping;
mod privileges;
mod program;
mod sendmmsg;
mod spoofer;
mod sys;
mod transfer;

pub use binary::{Profile, build_program, build_udp_only_veil, build_veil, build_with_tests, veil_binary};
pub use counters::{Received, dropped};
pub use daemon::{Daemon, Stopped};
pub use enter::EnterGuard;
pub use flood::{Flood, Ports, Sent};
pub use huge_pages::HugePages;
pub use leftovers::sweep_leftovers;
pub use namespace::Namespace;
pub use node::{Keys, Node};
pub use ping::{Ping, ping};
pub use privileges::{is_root, privileges, require_privileges, require_program};
pub use program::{has_program, run, terminate};
pub use spoofer::{Ear, Heard, Spoofer};
pub use sys::{set_udp_segment, signal, uninterrupted};
pub use transfer::Transfer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

/// A set of namespaces and a scratch folder, all removed when it is dropped.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    interface_prefix: String,
    folder: PathBuf,
    namespaces: Mutex<Vec<Namespace>>,
}

impl Lab {
    /// An empty lab. `title` appears in the scratch folder's name only.
    pub fn new(title: &str) -> Result<Lab> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let folder = std::env::temp_dir().join(format!("{}{pid}-{number}-{title}", leftovers::PREFIX));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(Lab {
            prefix: format!("{}{pid}-{number}-", leftovers::PREFIX),
            interface_prefix: leftovers::interface_prefix(pid, number),
            folder,
            namespaces: Mutex::new(Vec::new()),
        })
    }

    /// A fresh namespace with loopback up.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let namespace = Namespace::create(&format!("{}{name}", self.prefix))?;
        self.namespaces.lock().expect("no thread panics while it holds the list").push(namespace.clone());
        namespace.exec(["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Joins two namespaces by a veth pair, both ends up.
    pub fn veth(&self, a: &Namespace, a_interface: &str, b: &Namespace, b_interface: &str) -> Result<()> {
        a.exec([
            "ip",
            "link",
            "add",
            a_interface,
            "type",
            "veth",
            "peer",
            "name",
            b_interface,
            "netns",
            b.name(),
        ])?;
        a.exec(["ip", "link", "set", a_interface, "up"])?;
        b.exec(["ip", "link", "set", b_interface, "up"])?;
        Ok(())
    }

    /// A place for a `veil` daemon: a namespace, a key pair and the inner addresses it will have ("10.8.0.1/24").
    pub fn node(&self, name: &str, addresses: &[&str]) -> Result<Node> {
        let interface = self.interface(name)?;
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Node::create(self.namespace(name)?, interface, folder, addresses)
    }

    /// An interface name no other lab has, for a daemon whose files outside the lab are named after its interface.
    pub fn interface(&self, name: &str) -> Result<String> {
        let interface = format!("{}{name}", self.interface_prefix);
        ensure!(interface.len() <= 15, "interface name {interface} is longer than the kernel's 15 bytes");
        Ok(interface)
    }

    /// Huge pages that the host reserves beyond its own, until what is returned is dropped. One reservation a lab.
    pub fn huge_pages(&self, pages: u64) -> Result<HugePages> {
        HugePages::reserve(&self.prefix, pages)
    }

    /// The scratch folder, removed with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in
            self.namespaces.get_mut().expect("no thread panics while it holds the list").drain(..)
        {
            namespace.remove();
        }
        // The node's name follows, and it begins with a letter: lab 1 must not take the files of lab 12.
        leftovers::remove_daemon_files(|name| {
            let node = name.strip_prefix(&self.interface_prefix);
            node.is_some_and(|node| !node.starts_with(|first: char| first.is_ascii_digit()))
        });
        // Best effort: a leftover folder is swept by the next run.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
