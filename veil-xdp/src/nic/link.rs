//! What rtnetlink (rtnetlink(7), `RTM_GETLINK`) says of an interface.

use super::Queues;
use super::netlink::ask;
use crate::holder::program_name;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp};
use netlink_sys::protocols::NETLINK_ROUTE;
use serde::Serialize;
use std::fs;
use std::io;

/// Where on the receive path a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookMode {
    Native,
    Generic,
    /// On the NIC's own processor, where it is in nobody's way.
    Hardware,
}

impl HookMode {
    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            HookMode::Native => "native",
            HookMode::Generic => "generic",
            HookMode::Hardware => "hardware",
        }
    }
}

/// A program on an interface's XDP hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    pub mode: HookMode,
    /// The kernel's number for the program.
    pub program: u32,
    /// The program's name, as far as the privileges allow to ask.
    pub name: Option<String>,
    /// Processes that have the program or its link open, as far as the privileges allow to look: "veil (pid 71)".
    pub processes: Vec<String>,
}

impl Hook {
    /// Whether the program is VEIL's: a tunnel that runs on this interface already.
    pub fn is_veil(&self) -> bool {
        self.name.as_deref() == Some(veil_ebpf::PROGRAM)
    }
}

/// An interface as rtnetlink knows it.
pub struct Link {
    pub index: u32,
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    pub up: bool,
    pub carrier: bool,
    /// As allocated; not all need be in use.
    pub queues: Queues,
    pub hook: Vec<Hook>,
    /// The virtio device behind it.
    pub virtio: Option<String>,
}

/// The interface called `name`.
///
/// # Errors
/// `ENODEV`: there is none.
pub fn find(name: &str) -> io::Result<Link> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let answers = ask(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(message), false)?;
    let link = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    link.map(|link| read(&link)).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// All interfaces' names, in the kernel's order.
pub fn names() -> io::Result<Vec<String>> {
    let answers = ask(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(LinkMessage::default()), true)?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link.attributes),
        _ => None,
    });
    let name = |attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    };
    Ok(links.filter_map(|attributes| attributes.into_iter().find_map(name)).collect())
}

fn read(message: &LinkMessage) -> Link {
    let header = &message.header;
    let mut link = Link {
        index: header.index,
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        queues: Queues::default(),
        hook: Vec::new(),
        virtio: None,
    };
    let (mut parent, mut bus) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) if header.link_layer_type == LinkLayerType::Ether => {
                link.mac = bytes.as_slice().try_into().ok();
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::NumRxQueues(n) => (link.queues.rx, link.queues.rx_max) = (*n, *n),
            LinkAttribute::NumTxQueues(n) => (link.queues.tx, link.queues.tx_max) = (*n, *n),
            LinkAttribute::Xdp(xdp) => link.hook = hooks(xdp),
            LinkAttribute::ParentDevName(name) => parent = Some(name.clone()),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name.as_str()),
            _ => {}
        }
    }
    link.virtio = parent.filter(|_| bus == Some("virtio"));
    link
}

fn hooks(xdp: &[LinkXdp]) -> Vec<Hook> {
    let programs = xdp.iter().filter_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) => Some((HookMode::Native, *id)),
        LinkXdp::SkbProgId(id) => Some((HookMode::Generic, *id)),
        LinkXdp::HwProgId(id) => Some((HookMode::Hardware, *id)),
        _ => None,
    });
    let hook =
        |(mode, program)| Hook { mode, program, name: program_name(program), processes: processes(program) };
    programs.map(hook).collect()
}

/// Who has a program, or a link of it, open: `/proc/PID/fdinfo` has a line about it (kernel/bpf/syscall.c,
/// bpf_prog_show_fdinfo and bpf_link_show_fdinfo).
fn processes(program: u32) -> Vec<String> {
    let wanted = format!("prog_id:\t{program}");
    let entries = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
    let pids = entries("/proc").filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_it = |pid: &u32| {
        entries(&format!("/proc/{pid}/fdinfo"))
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .any(|text| text.lines().any(|line| line == wanted))
    };
    pids.filter(has_it)
        .map(|pid| match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("{} (pid {pid})", name.trim_end()),
            Err(_) => format!("pid {pid}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_message_is_read_whole() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 9]),
            LinkAttribute::Mtu(9000),
            LinkAttribute::NumTxQueues(3),
            LinkAttribute::NumRxQueues(4),
            LinkAttribute::ParentDevName("virtio2".into()),
            LinkAttribute::ParentDevBusName("virtio".into()),
            LinkAttribute::Xdp(vec![
                LinkXdp::ProgId(u32::MAX),
                LinkXdp::DrvProgId(u32::MAX),
                LinkXdp::HwProgId(1),
            ]),
        ];
        let link = read(&message);
        assert_eq!((link.index, link.mac, link.mtu), (7, Some([2, 0, 0, 0, 0, 9]), 9000));
        assert_eq!((link.up, link.carrier, link.virtio.as_deref()), (true, false, Some("virtio2")));
        assert_eq!(link.queues, Queues { rx: 4, tx: 3, rx_max: 4, tx_max: 3 });
        let hooks: Vec<_> = link.hook.iter().map(|hook| (hook.mode, hook.program)).collect();
        assert_eq!(hooks, [(HookMode::Native, u32::MAX), (HookMode::Hardware, 1)]);
        assert!(link.hook[0].name.is_none() && link.hook[0].processes.is_empty());
    }

    #[test]
    fn another_bus_is_no_virtio_and_another_layer_no_ethernet() {
        let mut message = LinkMessage::default();
        message.header.link_layer_type = LinkLayerType::Loopback;
        message.attributes = vec![
            LinkAttribute::Address(vec![0; 6]),
            LinkAttribute::ParentDevName("0000:00:03.0".into()),
            LinkAttribute::ParentDevBusName("pci".into()),
        ];
        let link = read(&message);
        assert!(link.mac.is_none() && link.virtio.is_none());
    }
}
