//! Datagrams off a ring become runs, as GRO makes them of the sockets' datagrams.
//!
//! Consecutive datagrams of one path, TOS and size are copied into one wide frame; a shorter one ends the run. The
//! invariant: a frame taken is pushed as a run or given back.

use crate::frame::{Frame, MAX_SEGMENTS, Outbox, Sealed, WideFrame, WideSet};
use crate::link::{LinkCounters, Received};
use veil_proto::{DropReason, Path};

/// A run being filled.
struct Filling {
    frame: WideFrame,
    path: Path,
    tos: u8,
    segment: usize,
    len: usize,
    datagrams: usize,
}

impl Filling {
    /// Whether `payload` may follow.
    #[inline]
    fn takes(&self, payload: &[u8], path: Path, tos: u8) -> bool {
        self.path == path
            && self.tos == tos
            && payload.len() <= self.segment
            && self.datagrams < MAX_SEGMENTS
            && self.len + payload.len() <= self.frame.capacity()
            // A shorter one has ended it.
            && self.len == self.datagrams * self.segment
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) {
        self.frame.buffer_mut()[self.len..self.len + payload.len()].copy_from_slice(payload);
        self.len += payload.len();
        self.datagrams += 1;
    }
}

/// Joins what one call receives.
pub struct Join<'a, O> {
    set: &'a mut WideSet,
    out: &'a mut O,
    /// Runs that the call may bring.
    budget: usize,
    got: &'a mut Received,
    pub counters: &'a LinkCounters,
    filling: Option<Filling>,
}

impl<'a, O: Outbox<Sealed>> Join<'a, O> {
    /// Nothing joined yet.
    pub fn new(
        set: &'a mut WideSet,
        out: &'a mut O,
        budget: usize,
        got: &'a mut Received,
        counters: &'a LinkCounters,
    ) -> Self {
        Join { set, out, budget, got, counters, filling: None }
    }

    /// Datagrams that surely find a place: each may turn out to be a run of its own, beside the one being filled.
    pub fn room(&self) -> usize {
        let places = self.set.home_count().min(self.out.room()).min(self.budget - self.got.runs);
        places.saturating_sub(usize::from(self.filling.is_some()))
    }

    /// Puts a datagram into the run being filled, or ends that and begins another.
    #[inline]
    pub fn append(&mut self, payload: &[u8], path: Path, tos: u8) {
        if let Some(run) = self.filling.as_mut().filter(|run| run.takes(payload, path, tos)) {
            return run.append(payload);
        }
        self.finish();
        let Some(frame) = self.set.take() else {
            return self.counters.receive_drops.count(DropReason::NoFrame);
        };
        let mut run = Filling { frame, path, tos, segment: payload.len(), len: 0, datagrams: 0 };
        run.append(payload);
        self.filling = Some(run);
    }

    /// Ends the run being filled.
    pub fn finish(&mut self) {
        let Some(run) = self.filling.take() else { return };
        let Filling { mut frame, path, tos, segment, len, datagrams } = run;
        frame.set_len(len);
        match self.out.push(Sealed { frame: Frame::Wide(frame), segment: segment as u16, tos, path }) {
            Ok(()) => {
                self.got.runs += 1;
                self.got.datagrams += datagrams;
                self.counters.run_lengths.record(datagrams as u64, 1);
            }
            Err(sealed) => {
                self.counters.receive_drops.add(DropReason::NoFrame, datagrams as u64);
                sealed.frame.home(self.set);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Bounded, Inbox, SetName};

    /// The runs, as (datagrams, bytes), that datagrams of these lengths, ports and TOS become.
    fn joined(datagrams: &[(usize, u16, u8)]) -> Vec<(usize, usize)> {
        let (mut set, mut out) = (WideSet::new(SetName::LinkReceive, 64), Bounded::new(64));
        let (mut got, counters) = (Received::default(), LinkCounters::default());
        let mut join = Join::new(&mut set, &mut out, 64, &mut got, &counters);
        for (n, &(len, port, tos)) in datagrams.iter().enumerate() {
            join.append(&vec![n as u8; len], Path::to(([192, 0, 2, 1], port).into()), tos);
        }
        join.finish();
        let (mut runs, mut n) = (Vec::new(), 0);
        while let Some(run) = out.pop() {
            let chunks = run.frame.bytes().chunks(run.segment.into());
            for datagram in chunks {
                assert!(datagram.len() == datagrams[n].0 && datagram.iter().all(|&byte| byte == n as u8));
                n += 1;
            }
            runs.push((run.datagrams(), run.frame.bytes().len()));
            run.frame.home(&mut set);
        }
        assert_eq!((n, got.datagrams, got.runs), (datagrams.len(), datagrams.len(), runs.len()));
        assert!(set.is_whole());
        runs
    }

    #[test]
    fn a_run_is_of_one_path_one_tos_and_one_size_but_for_its_last() {
        let one = (100, 1, 0);
        assert_eq!(joined(&[one, one, (60, 1, 0), one, one]), [(3, 260), (2, 200)], "a shorter one ends it");
        assert_eq!(
            joined(&[one, (101, 1, 0), (101, 1, 0)]),
            [(1, 100), (2, 202)],
            "a longer one begins another"
        );
        assert_eq!(joined(&[one, (100, 2, 0), one, one]), [(1, 100), (1, 100), (2, 200)], "another path");
        assert_eq!(joined(&[one, one, (100, 1, 2)]), [(2, 200), (1, 100)], "another TOS");
        assert_eq!(joined(&[]), []);
    }

    #[test]
    fn a_run_is_no_longer_than_the_kernels_and_fits_its_frame() {
        assert_eq!(joined(&[(50, 1, 0); MAX_SEGMENTS + 1]), [(MAX_SEGMENTS, 50 * MAX_SEGMENTS), (1, 50)]);
        let long = joined(&[(9000, 1, 0); 20]);
        assert!(long[0].0 > 1 && long.len() > 1, "{long:?}");
    }

    #[test]
    fn what_finds_no_frame_is_counted_and_the_room_says_so_before() {
        let (mut set, mut out) = (WideSet::new(SetName::LinkReceive, 2), Bounded::new(64));
        let (mut got, counters) = (Received::default(), LinkCounters::default());
        let mut join = Join::new(&mut set, &mut out, 64, &mut got, &counters);
        assert_eq!(join.room(), 2);
        for port in 1..=3 {
            join.append(&[1], Path::to(([192, 0, 2, 1], port).into()), 0);
            assert_eq!(join.room(), 0, "the other frame is for the run being filled");
        }
        join.finish();
        while let Some(run) = out.pop() {
            run.frame.home(&mut set);
        }
        assert!(set.is_whole());
        assert_eq!((got.runs, counters.receive_drops.total()), (2, 1));
    }
}
