//! A kernel made up at random, which misbehaves: rings that are full or refuse, packets that are dropped, sends that fail
//! or complete late and out of order, and addresses that no ring should return. It keeps its own books of what it holds,
//! so that it knows of each address whether it was right.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use veil_xdp::rings::{Outgoing, Received, RxRings, TxRings};

/// SplitMix64: small, and good enough to be unfair with.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a socket's kernel side did, to be compared with what the socket counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets handed over on the RX ring, and frames completed.
    pub good: u64,
    /// Addresses outside the UMEM, by the RX and the completion ring.
    pub foreign: [u64; 2],
    /// Addresses of frames that this ring does not hold.
    pub not_there: [u64; 2],
    pub bad_descriptors: u64,
    /// Packets that came and were dropped, and refusals to take a batch.
    pub dropped: u64,
    pub refusals: u64,
}

/// The kernel side of one socket.
pub struct Kernel {
    random: Random,
    frames: usize,
    frame_size: usize,
    ring: usize,
    /// What it holds to receive into, and to send.
    filled: VecDeque<u32>,
    to_send: VecDeque<Outgoing>,
    sent: Vec<u32>,
    /// Whether frames are on the fill side or the send side here, to answer "does this ring hold it".
    holds: Vec<Held>,
    /// Whether to misbehave.
    pub evil: bool,
    pub tally: Tally,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Not,
    ToFill,
    ToSend,
}

/// The simulated rings of one half; the halves of a socket share their kernel side.
pub struct Side(pub Rc<RefCell<Kernel>>);

impl Kernel {
    pub fn new(seed: u64, frames: usize, frame_size: usize, ring: usize) -> Rc<RefCell<Kernel>> {
        Rc::new(RefCell::new(Kernel {
            random: Random(seed),
            frames,
            frame_size,
            ring,
            filled: VecDeque::new(),
            to_send: VecDeque::new(),
            sent: Vec::new(),
            holds: vec![Held::Not; frames],
            evil: true,
            tally: Tally::default(),
        }))
    }

    /// Frames it holds now, for receiving and for sending.
    pub fn held(&self) -> usize {
        self.holds.iter().filter(|held| **held != Held::Not).count()
    }

    fn address(&mut self, frame: u32) -> u64 {
        // Anywhere in the frame, as when a program has moved the packet.
        frame as u64 * self.frame_size as u64 + self.random.below(512) as u64
    }

    /// An address that the ring which holds `kind` must not return, counted; `None` when it happens to be right.
    fn wrong_address(&mut self, kind: Held) -> Option<u64> {
        let ring = usize::from(kind == Held::ToSend);
        if self.random.one_in(2) {
            self.tally.foreign[ring] += 1;
            let outside = (self.frames * self.frame_size) as u64;
            let far = self.random.next() | 1 << 63;
            return Some(if self.random.one_in(2) { far } else { outside + self.random.below(9000) as u64 });
        }
        let frame = self.random.below(self.frames) as u32;
        if self.holds[frame as usize] == kind {
            return None;
        }
        self.tally.not_there[ring] += 1;
        Some(self.address(frame))
    }

    fn room(&mut self, used: usize) -> usize {
        if self.evil && self.random.one_in(50) { 0 } else { self.ring - used.min(self.ring) }
    }

    fn refuses(&mut self) -> bool {
        let refuses = self.evil && self.random.one_in(40);
        self.tally.refusals += u64::from(refuses);
        refuses
    }
}

impl RxRings for Side {
    fn fill_room(&mut self, _wanted: usize) -> usize {
        let kernel = &mut *self.0.borrow_mut();
        kernel.room(kernel.filled.len())
    }

    fn fill(&mut self, frames: &[u32]) -> usize {
        let kernel = &mut *self.0.borrow_mut();
        if kernel.refuses() {
            return 0;
        }
        for frame in frames {
            assert!(kernel.holds[*frame as usize] == Held::Not, "frame {frame} came twice");
            kernel.holds[*frame as usize] = Held::ToFill;
            kernel.filled.push_back(*frame);
        }
        assert!(kernel.filled.len() <= kernel.ring, "the fill ring overflows");
        frames.len()
    }

    fn receive(&mut self, packets: &mut [Received]) -> usize {
        let kernel = &mut *self.0.borrow_mut();
        let mut count = 0;
        let most = if kernel.evil { kernel.random.below(packets.len() + 1) } else { packets.len() };
        while count < most {
            if kernel.evil && kernel.random.one_in(30) {
                if let Some(address) = kernel.wrong_address(Held::ToFill) {
                    packets[count] = Received { address, len: 60 };
                    count += 1;
                }
                continue;
            }
            if kernel.evil && kernel.random.one_in(20) {
                // Its frame stays where it is, for the next packet.
                kernel.tally.dropped += 1;
                continue;
            }
            let Some(frame) = kernel.filled.pop_front() else { break };
            kernel.holds[frame as usize] = Held::Not;
            kernel.tally.good += 1;
            packets[count] = if kernel.evil && kernel.random.one_in(100) {
                kernel.tally.bad_descriptors += 1;
                Received { address: kernel.address(frame), len: kernel.frame_size as u32 + 1 }
            } else {
                Received { address: kernel.address(frame), len: 60 + kernel.random.below(1400) as u32 }
            };
            count += 1;
        }
        count
    }

    fn needs_wakeup(&self) -> bool {
        self.0.borrow_mut().random.one_in(2)
    }

    fn wake(&mut self) -> io::Result<()> {
        match self.0.borrow_mut().random.below(8) {
            0 => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            1 => Err(io::Error::from_raw_os_error(libc::ENXIO)),
            _ => Ok(()),
        }
    }
}

impl TxRings for Side {
    fn room(&mut self, _wanted: usize) -> usize {
        let kernel = &mut *self.0.borrow_mut();
        kernel.room(kernel.to_send.len())
    }

    fn send(&mut self, packets: &[Outgoing]) -> usize {
        let kernel = &mut *self.0.borrow_mut();
        if kernel.refuses() {
            return 0;
        }
        for packet in packets {
            assert!(kernel.holds[packet.frame as usize] == Held::Not, "frame {} came twice", packet.frame);
            assert!(
                (1..=kernel.frame_size - veil_xdp::HEADROOM).contains(&(packet.len as usize)),
                "{packet:?}"
            );
            kernel.holds[packet.frame as usize] = Held::ToSend;
            kernel.to_send.push_back(*packet);
        }
        assert!(kernel.to_send.len() <= kernel.ring, "the TX ring overflows");
        packets.len()
    }

    fn complete(&mut self, addresses: &mut [u64]) -> usize {
        let kernel = &mut *self.0.borrow_mut();
        let mut count = 0;
        let most = if kernel.evil { kernel.random.below(addresses.len() + 1) } else { addresses.len() };
        while count < most {
            if kernel.evil && kernel.random.one_in(30) {
                if let Some(address) = kernel.wrong_address(Held::ToSend) {
                    addresses[count] = address;
                    count += 1;
                }
                continue;
            }
            if kernel.sent.is_empty() {
                break;
            }
            let at = kernel.random.below(kernel.sent.len());
            let frame = kernel.sent.swap_remove(at);
            kernel.holds[frame as usize] = Held::Not;
            kernel.tally.good += 1;
            addresses[count] = kernel.address(frame);
            count += 1;
        }
        count
    }

    fn needs_wakeup(&self) -> bool {
        true
    }

    fn kick(&mut self) -> io::Result<()> {
        let kernel = &mut *self.0.borrow_mut();
        let error = |number| Err(io::Error::from_raw_os_error(number));
        if kernel.evil {
            match kernel.random.below(40) {
                0 => return error(libc::ENOBUFS),
                1 => return error(libc::EBUSY),
                2 => return error(libc::ENETDOWN),
                3 => return error(libc::EAGAIN),
                _ => {}
            }
        }
        // Sent or lost on the way: the frame comes back all the same.
        let some = kernel.to_send.len().min(32);
        kernel.sent.extend(kernel.to_send.drain(..some).map(|packet| packet.frame));
        if kernel.to_send.is_empty() { Ok(()) } else { error(libc::EAGAIN) }
    }

    fn kick_sends(&self) -> bool {
        true
    }
}
