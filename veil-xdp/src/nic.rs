//! What an interface offers to AF_XDP, and what else the machine must give: facts, gathered without changing anything.
//!
//! [`Facts::gather`] asks rtnetlink, the `netdev` family of generic netlink, two ethtool ioctls and `/proc`, in the
//! network namespace of the calling thread. What follows from the facts is [`ladder`](crate::ladder)'s business. A
//! question that the kernel is too old for leaves its answer open; only an interface that is not there is an error.

mod ethtool;
mod features;
mod limits;
mod link;
mod machine;
mod netlink;
mod virtio;

pub use ethtool::Driver;
pub use features::XdpFeatures;
pub use limits::{MtuLimit, XDP_MTU_MAX};
pub use link::{Hook, HookMode};
pub use machine::{Capability, Kernel, Privileges, Probe};
pub use virtio::Virtio;

use serde::{Serialize, Serializer};
use std::io;

/// An interface cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    #[error("there is no interface `{name}` here: choose one of {}", existing.join(", "))]
    NotFound { name: String, existing: Vec<String> },
    #[error("cannot ask the kernel about interface {name}: {error}")]
    Netlink { name: String, error: io::Error },
}

/// Everything the choice of a rung depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    pub nic: Nic,
    pub kernel: Kernel,
    pub privileges: Privileges,
}

impl Facts {
    /// About the interface called `name`, this process and this kernel, as they are now.
    pub fn gather(name: &str) -> Result<Facts, NicError> {
        Ok(Facts { nic: Nic::find(name)?, kernel: Kernel::ask(), privileges: Privileges::of_this_process() })
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    pub name: String,
    pub index: u32,
    /// `None` on what is no Ethernet: loopback, a TUN, WireGuard.
    #[serde(serialize_with = "colons")]
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    /// Switched on by the administrator.
    pub up: bool,
    /// The other end of the wire is there.
    pub carrier: bool,
    /// `None` if the interface does not say.
    pub driver: Option<Driver>,
    pub queues: Queues,
    /// `None` on kernels that do not say, before 6.3.
    pub xdp: Option<XdpFeatures>,
    /// The largest MTU at which the driver takes a program that knows nothing of multi-buffer packets.
    pub mtu_limit: MtuLimit,
    /// Programs on the XDP hook; hardware and driver may have one each.
    pub hook: Vec<Hook>,
    /// `None` on what is no virtio device.
    pub virtio: Option<Virtio>,
}

/// An Ethernet address as people write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn colons<S: Serializer>(mac: &Option<[u8; 6]>, serializer: S) -> Result<S::Ok, S::Error> {
    mac.map(mac_text).serialize(serializer)
}

/// How many receive queues the interface called `name` uses, in the namespace of this thread. Waits for RTNL.
///
/// # Errors
/// There is no such interface, or its driver does not say.
pub fn receive_queues(name: &str) -> io::Result<u32> {
    ethtool::queues(name).map(|queues| queues.rx)
}

/// How many queues an interface has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Queues {
    /// In use: one AF_XDP socket each.
    pub rx: u32,
    pub tx: u32,
    /// The most that `ethtool -L` can set.
    pub rx_max: u32,
    pub tx_max: u32,
}

impl Nic {
    /// The interface called `name`.
    pub fn find(name: &str) -> Result<Nic, NicError> {
        let failed = |error| NicError::Netlink { name: name.to_owned(), error };
        let link = match link::find(name) {
            Ok(link) => link,
            // EINVAL, ERANGE: no interface can be called so.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ERANGE)) =>
            {
                let existing = link::names().map_err(failed)?;
                return Err(NicError::NotFound { name: name.to_owned(), existing });
            }
            Err(error) => return Err(failed(error)),
        };
        let driver = ethtool::driver(name).ok();
        let queues = ethtool::queues(name).unwrap_or(link.queues);
        let mtu_limit = MtuLimit::of(driver.as_ref().map(|driver| driver.name.as_str()));
        Ok(Nic {
            name: name.to_owned(),
            index: link.index,
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            carrier: link.carrier,
            driver,
            queues,
            xdp: features::of(link.index),
            mtu_limit,
            hook: link.hook,
            virtio: link.virtio.as_deref().and_then(Virtio::read),
        })
    }

    /// The driver's name, empty if it is not known.
    pub fn driver_name(&self) -> &str {
        self.driver.as_ref().map_or("", |driver| driver.name.as_str())
    }

    /// What attaching a program costs the host, in the kernel's present versions, a sentence each.
    pub fn costs(&self) -> Vec<&'static str> {
        let mut costs = vec!["the host's firewall, NAT and packet captures do not see what VEIL takes"];
        if self.virtio.is_some_and(|virtio| virtio.joins_packets()) {
            costs
                .push("virtio_net stops joining received TCP packets (GRO_HW) while the program is attached");
        }
        if self.driver_name() == "veth" {
            costs.push(
                "veth: the other end sends TCP in single packets (loses GSO and TSO) while the program is attached",
            );
        }
        costs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_is_no_ethernet() {
        let facts = Facts::gather("lo").unwrap();
        let nic = &facts.nic;
        assert_eq!((nic.name.as_str(), nic.mac, nic.hook.len()), ("lo", None, 0));
        assert!(nic.index > 0 && nic.mtu > 0 && nic.queues.rx > 0, "{nic:?}");
        assert!(!facts.kernel.release.is_empty());
    }

    #[test]
    fn a_wrong_name_gets_the_right_ones() {
        for name in ["veil-gone0", "a name much too long for an interface", ""] {
            let error = Facts::gather(name).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("there is no interface `{name}` here: choose one of ")),
                "{error}"
            );
            assert!(error.contains("lo"), "{error}");
        }
    }
}
