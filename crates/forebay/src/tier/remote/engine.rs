//! Carries parts of chunks between leased slots and a remote store.
//!
//! Promises: returns at once; each part's end is told on threads of its own, and on one that serves the network only when
//! more wait than were thought possible, or when its threads have died; a slot is not given back while a request may
//! still touch it. An upload's last part is put only after all others are there, so that a chunk is never there in part; once
//! it was handed over, a shutdown waits for it as for what is under way.
//!
//! An end that cannot be told (the network's threads are gone) is dropped: what it holds must see to itself then.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::client::{Client, Task};
use super::names::Names;
use super::objects::Fault;
use super::turns::Turns;
use crate::crew::Crew;
use crate::error::Result;
use crate::key::ChunkKey;
use crate::staging::Lease;
use crate::sync::Mutex;
use crate::tellers::Tellers;

/// What is called when a part has been put.
pub(crate) type OnPut = Box<dyn FnOnce(Result<(), Fault>) + Send>;
/// What is called with the slot when a part has been got, or not.
pub(crate) type OnGot = Box<dyn FnOnce(Lease, Result<(), Fault>) + Send>;

/// See the module's documentation.
pub(crate) struct RemoteEngine {
    client: Arc<Client>,
    names: Names,
    turns: Arc<Turns>,
    ends: Tellers,
    crew: Crew,
}

impl RemoteEngine {
    /// An engine for at most `slots` parts under way, of chunks that `names` are of.
    pub(crate) fn start(client: Arc<Client>, names: Names, slots: u32) -> Result<Arc<Self>> {
        // Each end stands for a part, and each part has a slot, or had one a moment ago.
        let ends = Tellers::new(2 * slots as usize);
        let turns = Arc::new(Turns::new(slots as usize));
        let engine = Self { client, names, turns, ends, crew: Crew::default() };
        engine.ends.start(&engine.crew, "forebay-ends")?;
        Ok(Arc::new(engine))
    }

    /// The parts of a chunk to be put.
    pub(crate) fn upload(self: &Arc<Self>, key: ChunkKey) -> Arc<Upload> {
        Arc::new(Upload { engine: Arc::clone(self), key, state: Mutex::default() })
    }

    /// Fills the first `len` bytes of a slot with a part: the last one, or that of this number.
    pub(crate) fn get(&self, key: &ChunkKey, part: Option<usize>, mut lease: Lease, len: usize, got: OnGot) {
        let name = self.name(key, part);
        let (client, turns, ends) = (Arc::clone(&self.client), Arc::clone(&self.turns), self.ends.clone());
        self.client.spawn(async move {
            let turn = turns.load();
            let outcome = client.objects().get(&name, &mut lease.bytes()[..len]).await;
            drop(turn);
            ends.tell(Box::new(move || got(lease, outcome)));
        });
    }

    /// Removes the end of a chunk that cannot be loaded, and calls `then`: it would be found again by everybody. Whoever
    /// is told after that can store the chunk anew.
    pub(crate) fn remove(&self, key: &ChunkKey, then: Box<dyn FnOnce() + Send>) {
        let name = self.names.end(key);
        let (client, ends) = (Arc::clone(&self.client), self.ends.clone());
        self.client.spawn(async move {
            if let Err(fault) = client.objects().remove(&name).await {
                tracing::debug!(%fault, "a chunk that cannot be loaded was not removed");
            }
            ends.tell(then);
        });
    }

    /// Its threads that died of a panic.
    pub(crate) fn dead_threads(&self) -> Vec<String> {
        self.crew.dead()
    }

    /// Ends the threads once all that was begun has been told, at the latest by `deadline`.
    pub(crate) fn shutdown(&self, deadline: Instant) {
        self.client.shutdown(deadline);
        self.ends.close();
        self.crew.join(deadline);
    }

    fn put(&self, name: String, lease: Lease, len: usize, put: OnPut) {
        let (client, turns, ends) = (Arc::clone(&self.client), Arc::clone(&self.turns), self.ends.clone());
        let bytes = Bytes::from_owner(Filled { lease, len });
        self.client.spawn(async move {
            let turn = turns.store().await;
            let outcome = client.objects().put(&name, bytes).await;
            drop(turn);
            ends.tell(Box::new(move || put(outcome)));
        });
    }

    fn name(&self, key: &ChunkKey, part: Option<usize>) -> String {
        part.map_or_else(|| self.names.end(key), |part| self.names.part(key, part))
    }
}

impl Drop for RemoteEngine {
    /// Ends the threads, which may be in a caller's code, and does not wait for that.
    fn drop(&mut self) {
        self.ends.close();
    }
}

/// The front of a slot, as a store that sends it sees it.
struct Filled {
    lease: Lease,
    len: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.lease.as_slice()[..self.len]
    }
}

/// A chunk on its way to the store.
pub(crate) struct Upload {
    engine: Arc<RemoteEngine>,
    key: ChunkKey,
    state: Mutex<Uploading>,
}

#[derive(Default)]
struct Uploading {
    under_way: u32,
    fault: Option<Fault>,
    /// Waits for those under way.
    end: Option<LastPart>,
}

struct LastPart {
    lease: Lease,
    len: usize,
    put: OnPut,
    /// Between the end of the part before it and its own request nothing else says that there is one to come.
    to_come: Task,
}

impl Upload {
    /// Puts the first `len` bytes of a slot as the part of this number.
    pub(crate) fn part(self: &Arc<Self>, part: usize, lease: Lease, len: usize, put: OnPut) {
        self.state.lock().under_way += 1;
        let mut under_way = UnderWay { upload: Arc::clone(self), outcome: Err(lost()) };
        let name = self.engine.name(&self.key, Some(part));
        let put: OnPut = Box::new(move |outcome| {
            under_way.outcome.clone_from(&outcome);
            put(outcome);
            drop(under_way);
        });
        self.engine.put(name, lease, len, put);
    }

    /// Puts the last part when all others are there. If one is not, this one fails as that one did.
    pub(crate) fn end(self: &Arc<Self>, lease: Lease, len: usize, put: OnPut) {
        let to_come = self.engine.client.to_come();
        self.state.lock().end = Some(LastPart { lease, len, put, to_come });
        self.go_on();
    }

    fn go_on(&self) {
        let mut state = self.state.lock();
        if state.under_way > 0 {
            return;
        }
        let Some(LastPart { lease, len, put, to_come }) = state.end.take() else { return };
        let fault = state.fault.take();
        drop(state);
        match fault {
            None => {
                self.engine.put(self.engine.name(&self.key, None), lease, len, put);
                drop(to_come);
            }
            Some(fault) => {
                drop(lease);
                // Whoever is told may be who shuts down.
                drop(to_come);
                put(Err(fault));
            }
        }
    }
}

/// A part that is being put; when it is dropped it is not any more, however that came.
struct UnderWay {
    upload: Arc<Upload>,
    outcome: Result<(), Fault>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        {
            let mut state = self.upload.state.lock();
            state.under_way -= 1;
            if let Err(fault) = &self.outcome {
                state.fault.get_or_insert_with(|| fault.clone());
            }
        }
        self.upload.go_on();
    }
}

/// How a part ends whose end nobody told.
fn lost() -> Fault {
    Fault::Unavailable("the request was given up".into())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::super::client::Settings;
    use super::super::wrappers::fake::Fake;
    use super::*;
    use crate::catalog::BLOCK_BYTES;
    use crate::staging::{Class, Staging};

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn a_shutdown_waits_for_the_last_part_whose_turn_has_not_come() {
        let settings = Settings {
            url: String::new(),
            timeout: LONG,
            requests_max: 4,
            retries: 0,
            breaker_failures: 1,
            breaker_rest: LONG,
        };
        let fake = Arc::new(Fake::default());
        let client = Arc::new(Client::over(fake.clone(), &settings).unwrap());
        let (key, names) = (ChunkKey::NONE, Names::of(BLOCK_BYTES));
        let staging = Staging::new(3, BLOCK_BYTES).unwrap();
        let engine = RemoteEngine::start(client, names, 3).unwrap();
        let slot = || staging.acquire(Class::Store, LONG).unwrap();

        let (tell, told) = channel();
        let (let_go, held) = channel::<()>();
        let (entered, is_entered) = channel();
        let upload = engine.upload(key);
        let tell_of_part = tell.clone();
        let of_part = move |outcome: Result<(), Fault>| {
            entered.send(()).unwrap();
            held.recv_timeout(LONG).unwrap();
            tell_of_part.send(("part", outcome.is_ok())).unwrap();
        };
        upload.part(0, slot(), 1, Box::new(of_part));
        upload.end(slot(), 1, Box::new(move |outcome| tell.send(("end", outcome.is_ok())).unwrap()));
        drop(upload);
        // The part is there, and is being told: no request is under way.
        is_entered.recv_timeout(LONG).unwrap();
        let closing = {
            let engine = Arc::clone(&engine);
            thread::spawn(move || engine.shutdown(Instant::now() + LONG))
        };
        thread::sleep(Duration::from_millis(100));
        let_go.send(()).unwrap();
        closing.join().unwrap();
        assert_eq!(told.iter().collect::<Vec<_>>(), [("part", true), ("end", true)]);
        assert_eq!(fake.names(), [names.part(&key, 0), names.end(&key)]);
    }
}
