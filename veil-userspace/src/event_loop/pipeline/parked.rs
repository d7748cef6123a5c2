//! Where a stage is while its thread sleeps: whoever takes it from there may step it instead.
//!
//! A stage is one value with one owner, which moves from here to there; who finds nothing has to do without, or waits until
//! it is put back.

use std::ops::{Deref, DerefMut};

use crossbeam_queue::ArrayQueue;

use crate::event_loop::asleep::Asleep;
use crate::event_loop::futex::Futex;

/// A place for one stage.
pub struct Parked<T> {
    place: ArrayQueue<T>,
    /// Its thread waits for it.
    wanted: Asleep,
    futex: Futex,
}

impl<T> Parked<T> {
    /// A stage that nobody steps yet.
    pub fn new(stage: T) -> Self {
        let parked = Self::empty();
        parked.put(stage);
        parked
    }

    /// The stage is elsewhere.
    pub fn empty() -> Self {
        Parked { place: ArrayQueue::new(1), wanted: Asleep::default(), futex: Futex::default() }
    }

    /// The stage, unless somebody has it.
    pub fn take(&self) -> Option<Taken<'_, T>> {
        self.place.pop().map(|stage| Taken { stage: Some(stage), from: self })
    }

    /// The stage's own thread: waits for the stage.
    pub fn fetch(&self) -> Taken<'_, T> {
        loop {
            if let Some(stage) = self.take() {
                return stage;
            }
            self.wanted.lie_down();
            if self.place.is_empty() {
                self.futex.sleep(None);
            }
            self.wanted.get_up();
        }
    }

    fn put(&self, stage: T) {
        // There is one stage, and room for one.
        let _ = self.place.push(stage);
        if self.wanted.must_be_woken() {
            self.futex.wake();
        }
    }
}

/// A stage that is put back when this is dropped.
pub struct Taken<'a, T> {
    stage: Option<T>,
    from: &'a Parked<T>,
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.stage.as_ref().expect("there until it is dropped")
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.stage.as_mut().expect("there until it is dropped")
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.stage.take().into_iter().for_each(|stage| self.from.put(stage));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_with_one_at_a_time_and_who_waits_for_it_gets_it() {
        const TIMES: usize = 200;
        let (parked, mut stepped) = (Parked::new(0), TIMES);
        std::thread::scope(|scope| {
            let own = scope.spawn(|| (0..TIMES).for_each(|_| *parked.fetch() += 1));
            while !own.is_finished() {
                if let Some(mut stage) = parked.take() {
                    assert!(parked.take().is_none());
                    *stage += 1;
                    stepped += 1;
                }
            }
        });
        assert_eq!(*parked.take().unwrap(), stepped);
    }
}
