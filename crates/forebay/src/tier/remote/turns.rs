//! Loads go first at a remote store too.
//!
//! A store serves what it has been sent, in an order of its own, so what must not hold up a load must not have been sent.
//! While a load is about, one part of one store is under way beside it, always; after the last load stores come back
//! step by step: each that ends lets in one more than before. So a load that follows another soon does not find the
//! line full again.
//!
//! Promises: of the stores that wait one goes on whenever another ends; none waits if no store is under way.

use crate::sync::Mutex;
use tokio::sync::Notify;

/// Who is under way to and from a store.
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Notify,
    stores_max: usize,
}

struct State {
    loads: usize,
    stores: usize,
    /// How many stores may be under way now.
    stores_now: usize,
}

impl Turns {
    /// For at most so many stores at a time, and one at least.
    pub(super) fn new(stores_max: usize) -> Self {
        let stores_max = stores_max.max(1);
        let state = Mutex::new(State { loads: 0, stores: 0, stores_now: stores_max });
        Self { state, changed: Notify::new(), stores_max }
    }

    /// A load that begins. It ends when what this gives is dropped.
    pub(super) fn load(&self) -> LoadTurn<'_> {
        let mut state = self.state.lock();
        state.loads += 1;
        state.stores_now = 1;
        LoadTurn(self)
    }

    /// Waits until a store may begin. It ends when what this gives is dropped.
    pub(super) async fn store(&self) -> StoreTurn<'_> {
        loop {
            // Asked for before it is looked whether there is a need, so that no change in between is missed.
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock();
                if state.stores < state.stores_now {
                    state.stores += 1;
                    return StoreTurn(self);
                }
            }
            changed.await;
        }
    }
}

/// See [`Turns::load`].
pub(super) struct LoadTurn<'a>(&'a Turns);

impl Drop for LoadTurn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().loads -= 1;
    }
}

/// See [`Turns::store`].
pub(super) struct StoreTurn<'a>(&'a Turns);

impl Drop for StoreTurn<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.0.state.lock();
            state.stores -= 1;
            if state.loads == 0 {
                state.stores_now = (state.stores_now + 1).min(self.0.stores_max);
            }
        }
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn beside_a_load_one_store_is_under_way_and_afterwards_they_come_back_step_by_step() {
        let turns = Turns::new(4);
        let mut under_way: Vec<_> = (0..4).filter_map(|_| turns.store().now_or_never()).collect();
        assert_eq!(under_way.len(), 4, "without loads");
        assert!(turns.store().now_or_never().is_none(), "no more than so many");

        let load = turns.load();
        let mut waiting = pin!(turns.store());
        for left in (1..4).rev() {
            under_way.pop();
            assert_eq!(under_way.len(), left);
            assert!(waiting.as_mut().now_or_never().is_none(), "{left} are under way beside a load");
        }
        under_way.pop();
        under_way.push(waiting.now_or_never().expect("one may, always"));
        let other = turns.load();
        drop(load);
        under_way.pop();
        under_way.push(turns.store().now_or_never().expect("one may, always"));
        assert!(turns.store().now_or_never().is_none(), "the other load is about");
        drop(other);
        assert!(turns.store().now_or_never().is_none(), "not before one has ended");

        for stores in 2..=4 {
            under_way.pop();
            under_way.extend(std::iter::from_fn(|| turns.store().now_or_never()));
            assert_eq!(under_way.len(), stores);
        }
        under_way.pop();
        under_way.extend(std::iter::from_fn(|| turns.store().now_or_never()));
        assert_eq!(under_way.len(), 4, "no more than so many");
    }

    #[tokio::test]
    async fn none_waits_for_ever() {
        let turns = std::sync::Arc::new(Turns::new(3));
        let tasks = (0..200_u32).map(|number| {
            let turns = std::sync::Arc::clone(&turns);
            tokio::spawn(async move {
                if number % 5 == 0 {
                    let _load = turns.load();
                    tokio::task::yield_now().await;
                } else {
                    let _store = turns.store().await;
                    tokio::task::yield_now().await;
                }
            })
        });
        let all = futures_util::future::join_all(tasks);
        let ended = tokio::time::timeout(std::time::Duration::from_mins(1), all).await.expect("all end");
        assert!(ended.into_iter().all(|task| task.is_ok()));
    }
}
