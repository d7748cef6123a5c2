//! Endpoint names, resolved on threads of their own: the system's resolver may take seconds, the event loop may not.
//!
//! Owned by the event loop, which asks and is woken by an eventfd. A thread is started when there are more questions than
//! threads.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use veil_proto::PeerId;

use crate::config::Endpoint;
use crate::event_loop::poll::Waker;

/// An answer: the addresses of a peer's endpoint, none when its name does not resolve now.
pub struct Resolved {
    /// Whose endpoint.
    pub peer: PeerId,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
}

/// Names looked up at the same time: one whose DNS server is silent does not keep the others waiting.
const THREADS: usize = 8;

type Lookup = fn(&Endpoint) -> io::Result<Vec<SocketAddr>>;
type Inbox = Arc<Mutex<Receiver<(PeerId, Endpoint)>>>;

/// Resolves endpoint names.
pub struct Resolver {
    waker: Arc<Waker>,
    lookup: Lookup,
    questions: Sender<(PeerId, Endpoint)>,
    inbox: Inbox,
    threads: usize,
    answers: Receiver<Resolved>,
    answer_to: Sender<Resolved>,
    asked: HashSet<PeerId>,
}

impl Resolver {
    /// The system's resolver, which nobody has asked yet.
    pub fn new() -> io::Result<Self> {
        Self::by(Endpoint::resolve)
    }

    fn by(lookup: Lookup) -> io::Result<Self> {
        let (questions, inbox) = channel();
        let (answer_to, answers) = channel();
        Ok(Resolver {
            waker: Arc::new(Waker::new()?),
            lookup,
            questions,
            inbox: Arc::new(Mutex::new(inbox)),
            threads: 0,
            answers,
            answer_to,
            asked: HashSet::new(),
        })
    }

    /// Asks for the addresses of `endpoint`; a question about the same peer that is not answered yet is enough.
    ///
    /// # Errors
    /// The first thread does not start.
    pub fn ask(&mut self, peer: PeerId, endpoint: Endpoint) -> io::Result<()> {
        if !self.asked.insert(peer) {
            return Ok(());
        }
        if self.threads < THREADS.min(self.asked.len()) {
            match self.start() {
                Ok(()) => self.threads += 1,
                // Those that run will come to it.
                Err(_) if self.threads > 0 => {}
                Err(error) => return Err(error),
            }
        }
        // The other end is here as well.
        let _ = self.questions.send((peer, endpoint));
        Ok(())
    }

    fn start(&self) -> io::Result<()> {
        let (lookup, inbox) = (self.lookup, self.inbox.clone());
        let (answers, waker) = (self.answer_to.clone(), self.waker.clone());
        std::thread::Builder::new().name("veil-resolver".into()).spawn(move || {
            while let Some((peer, endpoint)) = next_question(&inbox) {
                let addresses = lookup(&endpoint).unwrap_or_else(|error| {
                    tracing::warn!("endpoint {endpoint}: {error}");
                    Vec::new()
                });
                if answers.send(Resolved { peer, addresses }).is_err() {
                    return;
                }
                waker.wake();
            }
        })?;
        Ok(())
    }

    /// The descriptor that becomes readable when there is an answer.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    /// The next answer.
    pub fn next_answer(&mut self) -> Option<Resolved> {
        self.waker.reset();
        let answer = self.answers.try_recv().ok()?;
        self.asked.remove(&answer.peer);
        Some(answer)
    }
}

/// Waits for a question; `None` when there is nobody left to ask one.
fn next_question(inbox: &Inbox) -> Option<(PeerId, Endpoint)> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    static TOGETHER: Barrier = Barrier::new(THREADS);

    #[test]
    fn a_name_that_takes_long_keeps_no_other_waiting() {
        let mut resolver = Resolver::by(|endpoint| {
            // None is answered before all are asked.
            TOGETHER.wait();
            endpoint.resolve()
        })
        .unwrap();
        for n in 0..THREADS as u32 {
            let endpoint = format!("127.0.0.{n}:4433").parse().unwrap();
            resolver.ask(PeerId(n), endpoint).unwrap();
        }
        let mut answered = HashSet::new();
        while answered.len() < THREADS {
            let answer = resolver.next_answer().or_else(|| resolver.answers.recv().ok()).unwrap();
            assert_eq!(answer.addresses, [format!("127.0.0.{}:4433", answer.peer.0).parse().unwrap()]);
            answered.insert(answer.peer);
        }
    }
}
