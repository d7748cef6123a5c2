//! Answering others: the queue of initiations, how loaded we are, and the gates in front of the curve work.

use super::{
    AcceptedInitiation, GATES_PER_STEP, HandshakeCounters, HandshakeOutput, Handshakes, INITIATION_QUEUE,
    Transmit,
};
use crate::crypto::scrubbed;
use crate::handshake::Load;
use crate::handshake::message::{Header, MAX_HANDSHAKE, MIN_INITIATION, TYPE_INITIATION};
use crate::tunnel::ToSessions;
use crate::{DropReason, Entropy, Now, Path};

impl Handshakes {
    pub(super) fn enqueue_initiation(
        &mut self,
        header: Header,
        path: Path,
        bytes: Vec<u8>,
        now: Now,
    ) -> Result<(), DropReason> {
        if bytes.len() < MIN_INITIATION {
            return Err(DropReason::TooShort);
        }
        if bytes.len() > MAX_HANDSHAKE {
            return Err(DropReason::BadEnvelope);
        }
        if (Header { kind: TYPE_INITIATION, index: 0, counter: 0 }) != header {
            return Err(DropReason::BadHeader);
        }
        if self.initiations.len() >= INITIATION_QUEUE {
            return Err(DropReason::HandshakeQueueFull);
        }
        self.initiations.push_back((path, bytes));
        self.meter.queue(self.initiations.len(), INITIATION_QUEUE, now.mono);
        Ok(())
    }

    /// Takes up to 64 initiations through the cheap gates and does the curve work for the first that passes.
    pub(super) fn answer_one(&mut self, now: Now, entropy: &mut dyn Entropy, out: &mut HandshakeOutput) {
        for _ in 0..GATES_PER_STEP {
            let Some((path, mut bytes)) = self.initiations.pop_front() else { break };
            let load = self.load(now);
            let opened =
                match self.responder.open_envelope(&self.identity, &mut bytes, &path, load, now, entropy) {
                    Ok(opened) => opened,
                    Err(refused) => {
                        self.drops.count(refused.reason);
                        if let Some(bytes) = refused.reply {
                            HandshakeCounters::count(&self.counters.cookies_sent);
                            out.transmits.push_back(Transmit { path, bytes });
                        }
                        continue;
                    }
                };
            let index = self.allocate(entropy);
            // Below a scrubbed frame: what the curve and the hash leave on the stack dies with this step.
            let answer = scrubbed(|| {
                self.responder.handle_init(&self.identity, opened, path, index, now, &mut *entropy)
            });
            match answer {
                Ok(answer) => {
                    HandshakeCounters::count(&self.counters.initiations_accepted);
                    let peer = answer.session.session.peer;
                    out.accepted.push_back(AcceptedInitiation { peer, timestamp: answer.timestamp });
                    out.to_sessions.push_back(ToSessions::Ready(answer.session));
                    out.transmits.push_back(Transmit { path, bytes: answer.response });
                }
                Err(reason) => {
                    self.indices.remove(&index);
                    self.drops.count(reason);
                }
            }
            break;
        }
    }

    /// How to handle the initiation just taken from the queue.
    fn load(&mut self, now: Now) -> Load {
        self.meter.queue(self.initiations.len(), INITIATION_QUEUE, now.mono);
        self.meter.envelope(now.mono);
        let load = self.meter.load(now.mono);
        if load == Load::Heavy {
            HandshakeCounters::count(&self.counters.under_load);
        }
        load
    }
}
