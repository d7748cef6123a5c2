//! What no event tells of the interface, asked on a thread of its own; and what the kernel is told of neighbours.
//!
//! Both wait for RTNL (net/core/rtnetlink.c), one lock for the whole kernel, which others may hold for long, while
//! containers come and go for instance. The thread that moves packets must not wait with them: its
//! [`Supervisor`](super::supervisor::Supervisor) leaves a question here and is woken if the answer is news.
//!
//! An answer comes with its question, so that none about an older program is taken for one about a newer. Which program is
//! there is asked of the interface: a duplicate of the link's descriptor would keep the program attached.

use super::ready::Waker;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use veil_xdp::next_hop::refresh;
use veil_xdp::nic::receive_queues;
use veil_xdp::program_on;

/// What is to be known of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether its hook has this program, which is ours, and whether it has so many receive queues.
    Ours { interface: u32, program: u32, queues: u32 },
    /// Whether its hook, which has somebody else's program, is free.
    Theirs { interface: u32 },
}

/// The answer that is not expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Detached,
    OtherQueues,
    Free,
}

impl Question {
    /// Asks the kernel about the interface, whose name is `interface`.
    fn ask(self, interface: &str) -> Option<News> {
        let (Question::Ours { interface: index, .. } | Question::Theirs { interface: index }) = self;
        self.answer(program_on(index), || receive_queues(interface))
    }

    /// What the kernel's answers mean. That there is none is no news: an interface that is gone is heard of, and what else
    /// fails is asked again.
    fn answer(
        self,
        on_hook: io::Result<Option<u32>>,
        receive_queues: impl FnOnce() -> io::Result<u32>,
    ) -> Option<News> {
        let on_hook = on_hook
            .inspect_err(|error| tracing::debug!("the kernel does not say what is on the hook: {error}"))
            .ok()?;
        match self {
            Question::Ours { program, .. } if on_hook != Some(program) => Some(News::Detached),
            Question::Ours { queues, .. } => {
                receive_queues().is_ok_and(|now| now != queues).then_some(News::OtherQueues)
            }
            Question::Theirs { .. } => on_hook.is_none().then_some(News::Free),
        }
    }
}

enum Errand {
    Ask(Question),
    Refresh(u32, IpAddr),
}

/// The thread; it ends with this.
pub struct Watch {
    /// `None` tells the thread to end.
    errands: Option<Sender<Errand>>,
    news: Receiver<(Question, News)>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread, in the network namespace of the calling one, to answer about the interface called `interface`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(interface: String, waker: Waker) -> io::Result<Self> {
        Self::by(move |question| question.ask(&interface), waker)
    }

    fn by(ask: impl Fn(Question) -> Option<News> + Send + 'static, waker: Waker) -> io::Result<Self> {
        let (errands, waiting) = channel();
        let (tell, news) = channel();
        let thread = Builder::new().name("veil-watch".into()).spawn(move || {
            while let Ok(first) = waiting.recv() {
                // Of the questions that have come in the meantime, the newest alone matters.
                let mut newest = None;
                for errand in std::iter::once(first).chain(waiting.try_iter()) {
                    match errand {
                        Errand::Ask(question) => newest = Some(question),
                        Errand::Refresh(interface, neighbour) => {
                            if let Err(error) = refresh(interface, neighbour) {
                                tracing::debug!("{neighbour} is not confirmed: {error}");
                            }
                        }
                    }
                }
                if let Some(question) = newest
                    && let Some(news) = ask(question)
                    && tell.send((question, news)).is_ok()
                {
                    waker.wake();
                }
            }
        })?;
        Ok(Watch { errands: Some(errands), news, thread: Some(thread) })
    }

    /// Has the question answered; does not wait.
    pub fn ask(&self, question: Question) {
        self.leave(Errand::Ask(question));
    }

    /// Has the kernel confirm a neighbour on that interface; does not wait.
    pub fn refresh(&self, interface: u32, neighbour: IpAddr) {
        self.leave(Errand::Refresh(interface, neighbour));
    }

    fn leave(&self, errand: Errand) {
        if let Some(errands) = &self.errands {
            // The thread is there as long as this is.
            let _ = errands.send(errand);
        }
    }

    /// What there is to be told, if it answers `question`; anything else is out of date.
    pub fn news(&self, question: Option<Question>) -> Option<News> {
        let told = self.news.try_iter().filter(|(about, _)| Some(*about) == question);
        told.last().map(|(_, news)| news)
    }

    /// Waits until what was asked last is answered and the thread has ended.
    fn end(&mut self) {
        self.errands = None;
        if let Some(thread) = self.thread.take() {
            // Should it have panicked, that has been said.
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::xdp::ready::Ready;
    use std::os::fd::AsRawFd;
    use std::sync::Mutex;

    const OURS: Question = Question::Ours { interface: 3, program: 41, queues: 2 };
    const THEIRS: Question = Question::Theirs { interface: 3 };

    #[test]
    fn only_what_is_not_expected_is_news() {
        let ours = |program, queues| OURS.answer(Ok(program), || Ok(queues));
        assert_eq!(ours(Some(41), 2), None);
        assert_eq!(ours(None, 2), Some(News::Detached));
        assert_eq!(ours(Some(42), 4), Some(News::Detached), "another in its place");
        assert_eq!(ours(Some(41), 4), Some(News::OtherQueues));
        let theirs = |program| THEIRS.answer(Ok(program), || unreachable!("nobody wants to know"));
        assert_eq!((theirs(Some(42)), theirs(None)), (None, Some(News::Free)));
        let gone = || io::Error::from_raw_os_error(libc::ENODEV);
        assert_eq!(OURS.answer(Err(gone()), || Ok(4)), None);
        assert_eq!(THEIRS.answer(Err(gone()), || Ok(4)), None);
        assert_eq!(OURS.answer(Ok(Some(41)), || Err(gone())), None, "its driver does not say");
    }

    fn woken(ready: &Ready) -> bool {
        let mut woken = false;
        ready.look(|fd, _| woken |= fd == ready.waker_fd().as_raw_fd());
        woken
    }

    #[test]
    fn who_asks_does_not_wait_for_the_kernel_and_hears_what_is_newest() {
        let ready = Ready::new().unwrap();
        // As long as it is held the thread does not answer, as if somebody held RTNL.
        static RTNL: Mutex<()> = Mutex::new(());
        let (about, asked) = channel();
        let ask = move |question| {
            about.send(question).unwrap();
            drop(RTNL.lock());
            (question != OURS).then_some(News::Free)
        };
        let mut watch = Watch::by(ask, ready.waker()).unwrap();
        let held = RTNL.lock().unwrap();
        watch.ask(OURS);
        assert_eq!(asked.recv(), Ok(OURS));
        for interface in 0..=3 {
            watch.ask(Question::Theirs { interface });
        }
        assert!(!woken(&ready) && watch.news(Some(THEIRS)).is_none());
        drop(held);
        assert_eq!(asked.recv(), Ok(THEIRS), "the others are out of date");
        watch.end();
        assert!(woken(&ready));
        assert_eq!(watch.news(Some(THEIRS)), Some(News::Free));
        assert_eq!(watch.news(Some(THEIRS)), None, "told once");
    }

    #[test]
    fn an_answer_to_another_question_is_no_news() {
        let ready = Ready::new().unwrap();
        let mut watch = Watch::by(|_| Some(News::Detached), ready.waker()).unwrap();
        watch.ask(OURS);
        watch.end();
        let newer = Question::Ours { interface: 3, program: 42, queues: 2 };
        assert!(woken(&ready));
        assert_eq!(watch.news(Some(newer)), None);
        assert_eq!(watch.news(Some(OURS)), None, "it is forgotten");
    }

    #[test]
    fn nobody_is_woken_for_what_was_expected() {
        let ready = Ready::new().unwrap();
        let watch = Watch::by(|_| None, ready.waker()).unwrap();
        watch.ask(OURS);
        drop(watch);
        assert!(!woken(&ready));
    }
}
