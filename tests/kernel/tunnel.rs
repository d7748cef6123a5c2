//! The usual scene: two hosts on one wire, a daemon on each; `left` knows where `right` is.

use std::time::Duration;

use anyhow::Result;
use veil_lab::{Daemon, Lab, Node, ping};
use veil_tests::assert_conserved;

/// Long enough for a machine busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const LEFT: [&str; 2] = ["10.8.0.1/24", "fd08::1/64"];
pub const RIGHT: [&str; 2] = ["10.8.0.2/24", "fd08::2/64"];

/// What the datagrams between the daemons travel in.
#[derive(Clone, Copy, Debug)]
pub enum Outer {
    V4,
    V6,
}

/// Two configured hosts, no daemon yet.
pub struct Hosts {
    pub left: Node,
    pub right: Node,
    // Last, so that what runs in it is dropped first.
    _lab: Lab,
}

/// Two daemons that have not spoken yet.
pub struct Tunnel {
    pub left: Daemon,
    pub right: Daemon,
    pub hosts: Hosts,
}

impl Hosts {
    pub fn new(title: &str, outer: Outer) -> Result<Hosts> {
        let lab = Lab::new(title)?;
        let mut left = lab.node("l", &LEFT)?;
        let mut right = lab.node("r", &RIGHT)?;
        lab.veth(&left.namespace, "eth0", &right.namespace, "eth0")?;
        for (node, host) in [(&left, 1), (&right, 2)] {
            let address = match outer {
                Outer::V4 => format!("10.99.0.{host}/24"),
                Outer::V6 => format!("fd99::{host}/64"),
            };
            node.namespace.address("eth0", &address)?;
        }
        left.add_peer(
            &right,
            Some(if matches!(outer, Outer::V4) { "10.99.0.2:4433" } else { "[fd99::2]:4433" }),
        );
        right.add_peer(&left, None);
        Ok(Hosts { left, right, _lab: lab })
    }

    pub fn start(self) -> Result<Tunnel> {
        Ok(Tunnel { left: self.left.start()?, right: self.right.start()?, hosts: self })
    }
}

impl Tunnel {
    pub fn new(title: &str, outer: Outer) -> Result<Tunnel> {
        Hosts::new(title, outer)?.start()
    }

    /// Pings both inner addresses of the right host from the left one.
    pub fn ping(&self) -> Result<()> {
        for target in self.hosts.right.hosts() {
            ping(&self.hosts.left.namespace, target, PATIENCE)?;
        }
        Ok(())
    }

    /// The end of every scenario.
    pub fn assert_conserved(&self) -> Result<()> {
        assert_conserved(&self.left)?;
        assert_conserved(&self.right)?;
        Ok(())
    }
}
