//! The usual scene: two hosts on one wire, a daemon on each; `left` knows where `right` is.

use std::time::Duration;

use anyhow::Result;
use veil_lab::{Daemon, Lab, Namespace, Node, ping};
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
    lab: Lab,
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
        Ok(Hosts { left, right, lab })
    }

    /// A third host on a wire of its own behind right, which forwards to it: `v4`.2 and `v6`:2, and right has .1 there.
    pub fn third(&self, v4: &str, v6: &str) -> Result<Namespace> {
        let (right, third) = (&self.right.namespace, self.lab.namespace("t")?);
        self.lab.veth(right, "eth1", &third, "eth0")?;
        for (host, wire, last) in [(right, "eth1", 1), (&third, "eth0", 2)] {
            host.address(wire, &format!("{v4}.{last}/24"))?;
            host.address(wire, &format!("{v6}:{last}/64"))?;
        }
        right.exec(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        third.exec(["ip", "route", "add", "default", "via", &format!("{v4}.1")])?;
        third.exec(["ip", "-6", "route", "add", "default", "via", &format!("{v6}:1")])?;
        Ok(third)
    }

    /// What all of it belongs to.
    pub fn lab(&self) -> &Lab {
        &self.lab
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
