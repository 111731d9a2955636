//! A store in memory, for tests: it answers at once, counts what it is asked, and fails when told to.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::sync::Mutex;
use crate::tier::remote::objects::{Answer, Fault, Objects};

/// A store in memory.
#[derive(Default)]
pub struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    stats: FakeStats,
    next_faults: VecDeque<Fault>,
    always: Option<Fault>,
}

/// What it was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FakeStats {
    /// Calls of `put`.
    pub put: u64,
    /// Calls of `get`.
    pub get: u64,
    /// Calls of `has`.
    pub has: u64,
    /// Calls of `remove`.
    pub remove: u64,
}

impl Fake {
    /// What it was asked so far.
    pub fn stats(&self) -> FakeStats {
        self.state.lock().stats
    }

    /// The names of all objects, in order.
    pub fn names(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// The bytes of an object.
    pub fn bytes_of(&self, name: &str) -> Option<Bytes> {
        self.state.lock().objects.get(name).cloned()
    }

    /// Ends the next requests with these faults, one each.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().next_faults.extend(faults);
    }

    /// Ends all requests with this fault from now on, or none.
    pub fn fail_always(&self, fault: Option<Fault>) {
        self.state.lock().always = fault;
    }

    fn answer<'a, T: Send + 'a>(
        &'a self,
        count: impl Fn(&mut FakeStats) -> &mut u64 + Send + 'a,
        work: impl FnOnce(&mut BTreeMap<String, Bytes>) -> Result<T, Fault> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let mut state = self.state.lock();
            *count(&mut state.stats) += 1;
            match state.next_faults.pop_front().or_else(|| state.always.clone()) {
                Some(fault) => Err(fault),
                None => work(&mut state.objects),
            }
        })
    }
}

impl Objects for Fake {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        self.answer(
            |stats| &mut stats.put,
            move |objects| {
                // What was given is a slot of somebody's.
                objects.insert(name.to_owned(), Bytes::copy_from_slice(&bytes));
                Ok(())
            },
        )
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        self.answer(
            |stats| &mut stats.get,
            move |objects| {
                let bytes = objects.get(name).ok_or(Fault::NotThere)?;
                if bytes.len() != into.len() {
                    return Err(Fault::OtherLength(bytes.len() as u64));
                }
                into.copy_from_slice(bytes);
                Ok(())
            },
        )
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        self.answer(|stats| &mut stats.has, move |objects| Ok(objects.contains_key(name)))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.answer(
            |stats| &mut stats.remove,
            move |objects| {
                objects.remove(name);
                Ok(())
            },
        )
    }
}
