//! Who is on an interface's XDP hook: asked over netlink (`IFLA_XDP`), named by what the kernel knows of the program.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::fmt;
use std::io;

/// A program on an interface's XDP hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The kernel's number for the program.
    pub id: u32,
    /// Its name, as far as the privileges allow to ask.
    pub name: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "program {} (`{name}`)", self.id),
            None => write!(f, "program {}", self.id),
        }
    }
}

/// The program on the hook of the interface numbered `index`, in the namespace of this thread; `None` if it is free.
pub fn holder(index: u32) -> io::Result<Option<Holder>> {
    Ok(program_on(index)?.map(|id| Holder { id, name: program_name(id) }))
}

/// The same by its number alone, for which one question is enough. It waits for RTNL, which others may hold for long.
///
/// # Errors
/// There is no such interface, or the kernel does not answer.
pub fn program_on(index: u32) -> io::Result<Option<u32>> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut request = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)),
    );
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(program_id(&link)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::other("no answer about the interface")),
    }
}

/// The program on the hook, in whatever mode; of several, the first.
fn program_id(link: &LinkMessage) -> Option<u32> {
    let xdp = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    });
    xdp.flatten().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            (*id != 0).then_some(*id)
        }
        _ => None,
    })
}

/// What the kernel calls the program, as far as the privileges allow to ask.
pub(crate) fn program_name(id: u32) -> Option<String> {
    let program = aya::programs::loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}
