//! How large a datagram may be on the way to a peer: told by this host's kernel, or found out by probes.
//!
//! Packetization layer path MTU discovery after RFC 8899: while large datagrams go out, a probe as large as the largest of
//! them goes along every half second. If it is lost three times while a small one comes through, routers drop what is
//! large and say nothing (a black hole): the floor holds at once, and probes find what lies between. Lost probes are
//! never sent again as they were; each has its own token. Sizes are bytes of UDP payload, times nanoseconds.

use crate::time::{MILLISECOND, SECOND};
use crate::timers::NEVER;

/// No path is taken to be narrower than IPv6 allows (RFC 8200 5), whatever is said about it.
const FLOOR: usize = 1280;
/// How long a limit is believed: as long as the kernel remembers one (RFC 1191 6.3, RFC 8899 PMTU_RAISE_TIMER).
const BELIEVED: u64 = 600 * SECOND;
/// A size in use is confirmed this often.
const CONFIRM_EVERY: u64 = 500 * MILLISECOND;
/// A search stops when what it could still gain is less than this.
const GAIN: usize = 16;
/// A size is given up when so many probes of it were lost and a small one came through.
const MAX_PROBES: u8 = 3;
/// How long to wait for a reply: three round trips within these bounds, and the second before any was measured.
const MIN_WAIT: u64 = 200 * MILLISECOND;
const MAX_WAIT: u64 = SECOND;
/// Tokens so far back may still be answered.
const LATE: u32 = 64;

/// A probe to be sent: mux frame PROBE with this token, padded to a datagram of `size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Comes back in the reply.
    pub token: u32,
    /// Bytes of the whole datagram; the least possible when 0.
    pub size: usize,
}

/// One size under test: tries of a large probe, each with a small one that goes with it.
struct Probe {
    size: usize,
    /// The first try's token. The tries' are even steps from it, the token of the small probe is the next to its try's.
    first: u32,
    token: u32,
    due: bool,
    small_due: bool,
    first_sent_at: u64,
    sent_at: u64,
    /// When the latest try counts as lost; never, before it was sent.
    deadline: u64,
    lost: u8,
    /// A small probe came through: the path lives.
    heard: bool,
}

/// What is known about one path; first, and on one cache line, what every datagram sent asks for.
#[repr(C)]
pub struct PathMtu {
    floor: usize,
    /// The largest datagram sent since it was last confirmed that such arrive.
    in_use: usize,
    /// Larger datagrams are not sent.
    limit: Option<usize>,
    /// The next large datagram to be sealed is a probe, which is no use of its size.
    probing: bool,
    /// Larger ones are not tried before `forget_at`.
    ceiling: usize,
    /// Something between `limit` and a larger size is being looked for, by halves.
    halving: bool,
    forget_at: u64,
    /// The largest datagram that was not sent for being above the limit, lately.
    wanted: usize,
    probe: Option<Probe>,
    next_at: u64,
    next_token: u32,
    /// How long to wait for a reply, once a round trip was measured.
    wait: Option<u64>,
    black_holes: u64,
}

impl PathMtu {
    /// Nothing is known yet about a path over IPv4 or IPv6.
    pub fn new(ipv4: bool) -> Self {
        PathMtu {
            floor: FLOOR - headers(ipv4),
            limit: None,
            ceiling: usize::MAX,
            halving: false,
            forget_at: NEVER,
            in_use: 0,
            wanted: 0,
            probe: None,
            next_at: 0,
            next_token: 0,
            wait: None,
            black_holes: 0,
            probing: false,
        }
    }

    /// The same for another path; tokens go on, so that late replies mean nothing.
    pub fn restart(&mut self, ipv4: bool) {
        *self = PathMtu { next_token: self.next_token, black_holes: self.black_holes, ..Self::new(ipv4) };
    }

    /// The largest datagram to be sent, if there is a limit.
    #[inline]
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// How often it was found that large datagrams vanish.
    pub fn black_holes(&self) -> u64 {
        self.black_holes
    }

    /// A datagram of `len` bytes goes out. True if the deadline may have come nearer.
    #[inline]
    pub fn sent(&mut self, len: usize) -> bool {
        if len <= self.in_use.max(self.floor) || std::mem::take(&mut self.probing) {
            return false;
        }
        self.in_use = len;
        true
    }

    /// A datagram of `len` bytes would have gone out, were it not for the limit. True if the deadline may have come nearer.
    pub fn squeezed(&mut self, len: usize) -> bool {
        let larger = len > self.wanted;
        if larger {
            self.wanted = len;
        }
        larger
    }

    /// This host says that the path takes no IP packet larger than `mtu` bytes (RFC 1191, RFC 8201).
    pub fn told(&mut self, mtu: u32, ipv4: bool, now: u64) {
        let told = (mtu as usize).max(FLOOR) - headers(ipv4);
        let known = self.limit.unwrap_or(usize::MAX);
        self.lower(known.min(told), self.ceiling.min(told), now);
        self.probe.take_if(|probe| probe.size > told);
    }

    fn lower(&mut self, limit: usize, ceiling: usize, now: u64) {
        self.limit = Some(limit);
        self.ceiling = ceiling;
        self.halving = false;
        self.forget_at = now + BELIEVED;
        self.in_use = 0;
    }

    /// The size worth searching at, if any: first all that is wanted, then half way to it.
    fn worth_trying(&self) -> Option<usize> {
        let limit = self.limit?;
        let best = self.wanted.min(self.ceiling);
        if self.halving {
            return (best >= limit + GAIN).then(|| (limit + best).div_ceil(2));
        }
        (best > limit).then_some(best)
    }

    /// Does what is due: gives up what is lost, begins the next probe.
    pub fn on_timer(&mut self, now: u64) {
        if self.forget_at <= now {
            // The next packet that is too large for the limit begins another search.
            (self.ceiling, self.halving, self.forget_at, self.wanted) = (usize::MAX, false, NEVER, 0);
        }
        match self.probe.take() {
            Some(probe) if probe.deadline > now => self.probe = Some(probe),
            Some(probe) => self.lost(probe, now),
            None => {}
        }
        if self.probe.is_none() && self.next_at <= now {
            let size = self.worth_trying().or((self.in_use > self.floor).then_some(self.in_use));
            if let Some(size) = size {
                self.in_use = 0;
                self.probe = Some(self.another(size, 0, false));
            }
        }
    }

    fn another(&mut self, size: usize, lost: u8, heard: bool) -> Probe {
        let token = self.next_token;
        self.next_token = token.wrapping_add(2);
        // The small one is needed only to tell a narrow path from a dead one, and to measure the first round trip.
        let small_due = !heard && (lost > 0 || self.wait.is_none());
        let [first_sent_at, sent_at, deadline] = [NEVER; 3];
        Probe {
            size,
            first: token,
            token,
            due: true,
            small_due,
            first_sent_at,
            sent_at,
            deadline,
            lost,
            heard,
        }
    }

    fn lost(&mut self, probe: Probe, now: u64) {
        let Probe { size, heard, first, first_sent_at, .. } = probe;
        let lost = probe.lost + 1;
        if lost < MAX_PROBES {
            let next = self.another(size, lost, heard);
            return self.probe = Some(Probe { first, first_sent_at, ..next });
        }
        self.next_at = now + CONFIRM_EVERY;
        if !heard {
            // Nothing comes through at all, or takes longer: that says nothing about sizes.
            self.wait = self.wait.map(|wait| (2 * wait).min(MAX_WAIT));
            return;
        }
        self.next_at = now;
        if self.limit.is_some_and(|limit| size > limit) {
            (self.ceiling, self.halving, self.forget_at) = (size - 1, true, now + BELIEVED);
            if self.worth_trying().is_none() {
                self.wanted = 0;
            }
        } else {
            self.black_holes += 1;
            // What has worked so far is dropped now. Should that be a mistake, the first probe shows it.
            self.wanted = self.wanted.max(size);
            self.lower(self.floor, size, now);
        }
    }

    /// The next probe to be sent; from here on it counts as sent.
    pub fn next_request(&mut self, now: u64) -> Option<Request> {
        let wait = self.wait.unwrap_or(MAX_WAIT);
        let probe = self.probe.as_mut()?;
        if std::mem::take(&mut probe.due) {
            (probe.sent_at, probe.deadline) = (now, now + wait);
            probe.first_sent_at = probe.first_sent_at.min(now);
            self.probing = true;
            return Some(Request { token: probe.token, size: probe.size });
        }
        let small = Request { token: probe.token.wrapping_add(1), size: 0 };
        std::mem::take(&mut probe.small_due).then_some(small)
    }

    /// A reply came. False if it answers nothing that was asked lately; a late one is no news, but no mistake.
    pub fn reply(&mut self, token: u32, now: u64) -> bool {
        let is_late = (1..=LATE).contains(&self.next_token.wrapping_sub(token));
        let Some(probe) = self.probe.as_mut() else { return is_late };
        // A reply to an earlier try says the same about the path; it took no longer than since the first.
        let since_first = token.wrapping_sub(probe.first);
        let small = since_first % 2 == 1;
        let is_latest = since_first / 2 == probe.token.wrapping_sub(probe.first) / 2;
        let not_sent = is_latest && if small { probe.small_due } else { probe.due };
        if since_first > probe.token.wrapping_sub(probe.first) + 1 || not_sent {
            return is_late;
        }
        let sent_at = if is_latest { probe.sent_at } else { probe.first_sent_at };
        let wait = (3 * now.saturating_sub(sent_at)).clamp(MIN_WAIT, MAX_WAIT);
        self.wait = Some(wait);
        if small {
            probe.heard = true;
            probe.deadline = probe.deadline.min(probe.sent_at.saturating_add(wait)).max(now);
            return true;
        }
        let size = probe.size;
        self.probe = None;
        self.next_at = now + CONFIRM_EVERY;
        if self.limit.is_some_and(|limit| size > limit) {
            self.limit = Some(size);
            self.next_at = now;
            if size >= self.wanted {
                // All that was asked for: there is no limit any more.
                (self.limit, self.ceiling, self.halving, self.forget_at) = (None, usize::MAX, false, NEVER);
            }
            if self.worth_trying().is_none() {
                self.wanted = 0;
            }
        }
        true
    }

    /// When [`on_timer`](Self::on_timer) has something to do.
    pub fn deadline(&self) -> u64 {
        let next = match &self.probe {
            Some(probe) => probe.deadline,
            None if self.worth_trying().is_some() || self.in_use > self.floor => self.next_at,
            None => NEVER,
        };
        let forget = if self.limit.is_some_and(|limit| self.wanted > limit) { self.forget_at } else { NEVER };
        next.min(forget)
    }
}

/// Bytes of the IP and UDP headers in front of a datagram.
fn headers(ipv4: bool) -> usize {
    if ipv4 { 28 } else { 48 }
}

#[cfg(test)]
mod tests;
