//! Every way a packet or frame can be dropped has a name here, and a counter.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::SingleWriter;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why something was dropped. Nothing is dropped without one of these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The name shown by `veil show`.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than any datagram of its kind.
    TooShort => "too-short",
    /// Unmasked header of no known type, or with bits set that must be zero.
    BadHeader => "bad-header",
    /// No session or pending handshake has this receiver index.
    UnknownIndex => "unknown-index",
    /// The session is past its reject limit.
    SessionExpired => "session-expired",
    /// The AEAD of a data datagram did not open.
    BadTag => "bad-tag",
    /// The counter was seen before or is older than the replay window.
    Replayed => "replayed",
    /// The handshake envelope did not open.
    BadEnvelope => "bad-envelope",
    /// The handshake queue was full.
    HandshakeQueueFull => "handshake-queue-full",
    /// The Noise message was malformed or did not authenticate.
    BadNoise => "bad-noise",
    /// A low-order public key: the shared secret would be zero.
    LowOrderKey => "low-order-key",
    /// The initiator's static key belongs to no peer.
    UnknownPeer => "unknown-peer",
    /// Less than 20 ms since this peer's last accepted initiation.
    TooSoon => "too-soon",
    /// The initiation's timestamp is not newer than the last accepted one: captured and replayed, or late.
    OldTimestamp => "old-timestamp",
    /// This very initiation was handled before.
    ReplayedInitiation => "replayed-initiation",
    /// Under load and without a valid cookie.
    NoCookie => "no-cookie",
    /// Under load and this source has used up its budget.
    RateLimited => "rate-limited",
    /// No suite that both ends may use.
    NoCommonSuite => "no-common-suite",
    /// A response or cookie reply to nothing that is pending.
    NotPending => "not-pending",
    /// A new session that was overtaken by one already confirmed.
    Overtaken => "overtaken",
    /// A mux frame whose length goes past the end of the datagram.
    FrameTruncated => "frame-truncated",
    /// A mux frame with a flag this version does not know.
    FrameUnknownFlag => "frame-unknown-flag",
    /// A mux frame of a kind whose content does not parse.
    FrameMalformed => "frame-malformed",
    /// A control frame further ahead of the last one in order than a peer may send.
    ControlAhead => "control-ahead",
    /// A control message or probe reply that concerns nothing of ours (any more).
    ControlStray => "control-stray",
    /// A control message that the other end never got: its stream was given up, or had no room.
    ControlLost => "control-lost",
    /// A piece of a packet that overlaps another piece of it, or disagrees with it.
    FragmentConflict => "fragment-conflict",
    /// A packet of which not all pieces came in time, or too many at once.
    FragmentIncomplete => "fragment-incomplete",
    /// An inner packet that is no valid IPv4 or IPv6 packet of exactly the frame's length.
    InnerMalformed => "inner-malformed",
    /// An inner packet from an address that is not among the peer's allowed IPs.
    InnerSource => "inner-source",
    /// An inner packet that may not claim a partial checksum.
    InnerPartial => "inner-partial-checksum",
    /// An ECN-incapable inner packet in a datagram marked as congested (RFC 6040).
    InnerEcn => "inner-ecn",
    /// A packet to an address that is in no peer's allowed IPs.
    NoRoute => "no-route",
    /// No session yet, and newer packets pushed this one out of the queue; or the handshake was given up.
    NoSession => "no-session",
    /// The peer's endpoint is not known.
    NoEndpoint => "no-endpoint",
    /// A packet from the host too large for one datagram to this peer.
    TooBig => "too-big",
    /// A super-packet from the host whose headers do not agree with what the device says about it.
    BadSuperPacket => "bad-super-packet",
    /// A packet from the host that is neither IPv4 nor IPv6.
    NotIp => "not-ip",
    /// No frame was free to work in.
    NoFrame => "no-frame",
    /// The link could not send: no buffer, no permission, or no route.
    LinkSend => "link-send",
    /// The link's path was reported unreachable or refused.
    LinkUnreachable => "link-unreachable",
    /// The TUN did not take the packet.
    TunWrite => "tun-write",
    /// A run that GRO built of more datagrams than a frame's table holds.
    RunTooLong => "run-too-long",
}

/// One relaxed counter per [`DropReason`]; one writer, any number of readers.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        DropCounters([const { AtomicU64::new(0) }; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one drop.
    #[inline]
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `n` drops for one reason.
    #[inline]
    pub fn add(&self, reason: DropReason, n: u64) {
        self.0[reason as usize].bump(n);
    }

    /// How often `reason` was counted.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Relaxed)
    }

    /// All drops together.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|c| c.load(Relaxed)).sum()
    }

    /// The reasons that were counted at least once.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&r| (r, self.of(r))).filter(|&(_, n)| n > 0)
    }
}
