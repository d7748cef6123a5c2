//! Endpoint names, resolved on a thread of their own: the system's resolver may take seconds, the event loop may not.
//!
//! Owned by the event loop, which asks and is woken by an eventfd. One thread, started with the first question.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

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

/// Resolves endpoint names.
pub struct Resolver {
    waker: Arc<Waker>,
    questions: Option<Sender<(PeerId, Endpoint)>>,
    answers: Receiver<Resolved>,
    answer_to: Sender<Resolved>,
    asked: HashSet<PeerId>,
}

impl Resolver {
    /// A resolver that nobody has asked yet.
    pub fn new() -> io::Result<Self> {
        let (answer_to, answers) = channel();
        Ok(Resolver {
            waker: Arc::new(Waker::new()?),
            questions: None,
            answers,
            answer_to,
            asked: HashSet::new(),
        })
    }

    /// Asks for the addresses of `endpoint`; a question about the same peer that is not answered yet is enough.
    pub fn ask(&mut self, peer: PeerId, endpoint: Endpoint) -> io::Result<()> {
        if !self.asked.insert(peer) {
            return Ok(());
        }
        if self.questions.is_none() {
            self.questions = Some(self.start()?);
        }
        if let Some(questions) = &self.questions {
            // The thread lives as long as this sender.
            let _ = questions.send((peer, endpoint));
        }
        Ok(())
    }

    fn start(&self) -> io::Result<Sender<(PeerId, Endpoint)>> {
        let (questions, inbox) = channel::<(PeerId, Endpoint)>();
        let (answers, waker) = (self.answer_to.clone(), self.waker.clone());
        std::thread::Builder::new().name("veil-resolver".into()).spawn(move || {
            for (peer, endpoint) in inbox {
                let addresses = endpoint.resolve().unwrap_or_else(|error| {
                    tracing::warn!("endpoint {endpoint}: {error}");
                    Vec::new()
                });
                if answers.send(Resolved { peer, addresses }).is_err() {
                    return;
                }
                waker.wake();
            }
        })?;
        Ok(questions)
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
