//! Gives up what takes too long: a device that never answers must not hang whoever waits for it.
//!
//! What is watched lies in a cell; whoever empties the cell owns it. So the answer of the device and the end of patience
//! cannot both act. Who has taken a thing out to work on it may put it back; if its time ran out meanwhile, the thing is
//! theirs to give up. All watches have the same patience, so the oldest always ends first.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, MutexGuard, now};

use crate::crash_points::turn;

/// What is watched, until somebody takes it.
pub(super) struct Cell<T>(Arc<Mutex<Content<T>>>);

struct Content<T> {
    thing: Option<T>,
    /// Its time ran out while somebody had it.
    overdue: bool,
}

impl<T> Cell<T> {
    /// Takes the thing out, if nobody has.
    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().thing.take()
    }

    /// Puts it back; gives it to the caller, to be given up, if its time is over.
    pub(super) fn put_back(&self, thing: T) -> Option<T> {
        let mut content = self.0.lock();
        if content.overdue {
            return Some(thing);
        }
        content.thing = Some(thing);
        None
    }

    /// Its time is over: gives the thing, unless somebody has it, who will be told.
    fn expire(&self) -> Option<T> {
        let mut content = self.0.lock();
        content.overdue = true;
        content.thing.take()
    }
}

/// Watches over things of type `T`.
pub(super) struct Watch<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    patience: Duration,
}

struct State<T> {
    watched: VecDeque<(Instant, Weak<Mutex<Content<T>>>)>,
    closed: bool,
}

impl<T> Watch<T> {
    pub(super) fn new(patience: Duration) -> Self {
        let state = State { watched: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), patience }
    }

    /// Watches over `thing` from now on, for as long as somebody has its cell.
    pub(super) fn add(&self, thing: T) -> Cell<T> {
        let cell = Arc::new(Mutex::new(Content { thing: Some(thing), overdue: false }));
        let mut state = self.state.lock();
        while state.watched.front().is_some_and(|(_, cell)| cell.strong_count() == 0) {
            state.watched.pop_front();
        }
        let idle = state.watched.is_empty();
        state.watched.push_back((now() + self.patience, Arc::downgrade(&cell)));
        drop(state);
        if idle {
            self.changed.notify_all();
        }
        Cell(cell)
    }

    /// The watching thread's life: calls `give_up` for everything nobody took in time. Ends after [`Self::close`].
    pub(super) fn keep(&self, give_up: impl Fn(T)) {
        let mut state = self.state.lock();
        while !state.closed {
            turn();
            match state.watched.front().map(|(deadline, _)| *deadline) {
                None => self.changed.wait(&mut state),
                Some(deadline) if now() < deadline => {
                    self.changed.wait_until(&mut state, deadline);
                }
                Some(_) => {
                    let overdue = state.watched.pop_front().and_then(|(_, cell)| cell.upgrade());
                    MutexGuard::unlocked(&mut state, || {
                        let thing = overdue.and_then(|cell| Cell(cell).expire());
                        thing.into_iter().for_each(&give_up);
                    });
                }
            }
        }
    }

    /// Ends [`Self::keep`].
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Ends the time of everything: takes what nobody has taken.
    pub(super) fn give_up_all(&self, give_up: impl Fn(T)) {
        let watched = std::mem::take(&mut self.state.lock().watched);
        for cell in watched.into_iter().filter_map(|(_, cell)| cell.upgrade()) {
            let thing = Cell(cell).expire();
            thing.into_iter().for_each(&give_up);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread::spawn;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn miri_what_is_taken_in_time_is_not_given_up() {
        let watch = Watch::new(LONG);
        let cells: Vec<Cell<u32>> = (0..3).map(|thing| watch.add(thing)).collect();
        assert_eq!(cells[1].take(), Some(1));
        let (tell, told) = channel();
        watch.give_up_all(|thing| tell.send(thing).unwrap());
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<u32>>(), [0, 2], "given up is what nobody took");
        assert!(cells.iter().all(|cell| cell.take().is_none()), "and it can be taken no more");
        watch.give_up_all(|_| panic!("all were taken"));
    }

    #[test]
    fn miri_what_nobody_takes_is_given_up_once_and_not_before_its_time() {
        let watch = Arc::new(Watch::new(SHORT));
        let (tell, told) = channel();
        let keeping = Arc::clone(&watch);
        let keeper = spawn(move || keeping.keep(|thing| tell.send((thing, Instant::now())).unwrap()));
        for round in 0..3 {
            // The keeper sleeps for want of anything to watch, or for the one before.
            let began = Instant::now();
            let cell = watch.add(round);
            let (thing, at) = told.recv_timeout(LONG).expect("given up in the end");
            assert_eq!(thing, round);
            assert!(at >= began + SHORT);
            assert_eq!(cell.take(), None, "the device's late answer finds nothing");
        }
        watch.close();
        keeper.join().unwrap();
        assert!(told.recv().is_err(), "nothing was given up twice");
    }

    #[test]
    fn miri_either_the_answer_or_the_watch_has_a_thing_never_both() {
        let watch = Arc::new(Watch::new(Duration::from_micros(50)));
        let (tell, told) = channel();
        let keeping = Arc::clone(&watch);
        let keeper = spawn(move || keeping.keep(|thing: u32| tell.send(thing).unwrap()));
        let rounds = if cfg!(miri) { 8 } else { 2000 };
        let mut taken: Vec<u32> = (0..rounds)
            .filter_map(|thing| {
                let cell = watch.add(thing);
                std::thread::yield_now();
                cell.take()
            })
            .collect();
        watch.close();
        keeper.join().unwrap();
        taken.extend(told.iter());
        taken.sort_unstable();
        assert_eq!(taken, (0..rounds).collect::<Vec<u32>>());
    }

    #[test]
    fn a_thing_that_lives_on_keeps_no_other_from_being_given_up() {
        let watch = Arc::new(Watch::new(SHORT));
        let (tell, told) = channel();
        let keeping = Arc::clone(&watch);
        let keeper = spawn(move || keeping.keep(|thing| tell.send(thing).unwrap()));
        let answered = watch.add(1);
        assert_eq!(answered.take(), Some(1));
        let _second = watch.add(2);
        assert_eq!(told.recv_timeout(LONG), Ok(2), "the first cell is still held, but empty");
        drop(watch.add(3));
        let _fourth = watch.add(4);
        assert_eq!(told.recv_timeout(LONG), Ok(4), "nobody waits for the third any more");
        watch.close();
        keeper.join().unwrap();
    }

    #[test]
    fn miri_what_runs_out_of_time_in_somebodys_hands_is_theirs_to_give_up() {
        let watch = Watch::new(LONG);
        let (in_time, late) = (watch.add(1), watch.add(2));
        let (one, two) = (in_time.take().unwrap(), late.take().unwrap());
        assert_eq!(in_time.put_back(one), None);
        watch.give_up_all(|thing| assert_eq!(thing, 1, "the other one is in use"));
        assert_eq!(late.put_back(two), Some(2));
        assert_eq!(late.take(), None, "nobody finds it any more");
    }

    #[test]
    fn closing_ends_the_keeper_though_things_are_watched() {
        let watch = Arc::new(Watch::new(LONG));
        let _cell = watch.add(1);
        let keeping = Arc::clone(&watch);
        let keeper = spawn(move || keeping.keep(|_| panic!("its time has not come")));
        watch.close();
        keeper.join().unwrap();
    }
}
