//! Events on their way from the engine's threads to the one that measures.
//!
//! Promises: who waits is woken once for as many ends as it wants, not for each; no event is lost.

use std::sync::{Condvar, Mutex, PoisonError};

/// See the module's documentation.
pub(super) struct Mailbox<E> {
    state: Mutex<Mail<E>>,
    enough: Condvar,
}

struct Mail<E> {
    events: Vec<E>,
    /// Those of them that are ends.
    ends: usize,
    /// Ends that are waited for; zero is any event.
    wanted: usize,
}

impl<E> Mail<E> {
    fn is_enough(&self) -> bool {
        self.ends >= self.wanted && !self.events.is_empty()
    }
}

impl<E> Default for Mailbox<E> {
    fn default() -> Self {
        let mail = Mail { events: Vec::new(), ends: 0, wanted: usize::MAX };
        Self { state: Mutex::new(mail), enough: Condvar::new() }
    }
}

impl<E> Mailbox<E> {
    /// Puts an event in; some are the end of a chunk.
    pub(super) fn put(&self, event: E, is_end: bool) {
        let mut mail = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        mail.ends += usize::from(is_end);
        mail.events.push(event);
        let enough = mail.is_enough();
        drop(mail);
        if enough {
            self.enough.notify_one();
        }
    }

    /// Waits until so many chunks have ended, or with zero for any event; gives all events there are, in order.
    pub(super) fn take(&self, ends: usize) -> Vec<E> {
        let mut mail = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        mail.wanted = ends;
        mail = self.enough.wait_while(mail, |mail| !mail.is_enough()).unwrap_or_else(PoisonError::into_inner);
        mail.wanted = usize::MAX;
        mail.ends = 0;
        std::mem::take(&mut mail.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_gets_all_there_is_when_enough_have_ended() {
        let mailbox = Mailbox::default();
        mailbox.put(1, false);
        assert_eq!(mailbox.take(0), [1], "any event");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| mailbox.take(2));
            for (event, is_end) in [(2, true), (3, false), (4, true)] {
                mailbox.put(event, is_end);
            }
            assert_eq!(waiter.join().unwrap(), [2, 3, 4]);
        });
    }
}
