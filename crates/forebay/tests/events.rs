//! Events: who applies them to a list of their own has, when all is at rest, exactly what is there.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use forebay::catalog::NamespaceId;
use forebay::events::{Cause, Change, Event, Events};
use forebay::outcome::Tier;
use forebay::{Cache, ChunkKey, Lookup, Namespace, Value};
use parking_lot::Mutex;
use support::{Home, KIB, PATIENCE, bytes_of, config_with, load, prompt, store, store_all};

const CHUNK: usize = 16 * KIB;

/// What a router would believe.
#[derive(Default)]
struct Listed {
    on: HashSet<(Tier, ChunkKey)>,
    removed: BTreeMap<&'static str, usize>,
}

impl Listed {
    fn apply(&mut self, events: &[Event]) {
        for event in events {
            match event.change {
                Change::Stored => assert!(self.on.insert((event.tier, event.key)), "stored twice: {event:?}"),
                Change::Removed(cause) => {
                    assert!(self.on.remove(&(event.tier, event.key)), "it was not there: {event:?}");
                    *self.removed.entry(cause.name()).or_default() += 1;
                }
            }
        }
    }

    fn read(&mut self, events: &Events) {
        let news = events.take();
        assert_eq!(news.lost, 0);
        self.apply(&news.events);
    }

    fn count(&self, tier: Tier) -> u64 {
        self.on.iter().filter(|(on, _)| *on == tier).count() as u64
    }

    fn assert_is_what_is_there(&self, cache: &Cache, keys: &[ChunkKey]) {
        let stats = cache.stats().control;
        assert_eq!(self.count(Tier::Disk), stats.disk.chunks);
        assert_eq!(self.count(Tier::Memory), stats.memory.map_or(0, |memory| memory.chunks));
        for key in keys {
            let is_there = matches!(cache.lookup(&[*key]), Lookup::Hit(_));
            let is_listed = [Tier::Memory, Tier::Disk].iter().any(|tier| self.on.contains(&(*tier, *key)));
            assert_eq!(is_there, is_listed, "{key}");
        }
    }
}

fn namespace(name: &str) -> NamespaceId {
    Namespace::of_model(name).id()
}

/// Stores and loads more than there is room for, and clears now and then.
fn drive(cache: &Cache, events: &Events) -> (Listed, Vec<ChunkKey>) {
    let mut listed = Listed::default();
    let mut keys = BTreeSet::new();
    for round in 0_u32..120 {
        let wanted = prompt(round * 7 % 50, 1 + round as usize % 9);
        keys.extend(wanted.iter().copied());
        store(cache, &wanted, CHUNK);
        let _ = load(cache, &wanted[..wanted.len() / 2], CHUNK);
        if round % 40 == 20 {
            cache.clear(Some(namespace("test")));
        }
        listed.read(events);
    }
    (listed, keys.into_iter().collect())
}

#[test]
fn a_list_made_of_events_is_what_is_on_disk() {
    let home = Home::new(CHUNK, 4, 2 << 20);
    let cache = home.open();
    store_all(&cache, &prompt(1000, 3), CHUNK);
    cache.clear(None);
    let events = cache.events();
    let (mut listed, keys) = drive(&cache, &events);
    listed.assert_is_what_is_there(&cache, &keys);
    assert!(listed.removed["capacity"] > 20 && listed.removed["cleared"] > 20, "{:?}", listed.removed);

    // Another program writes over one of them.
    let wanted = prompt(2000, 1);
    store_all(&cache, &wanted, CHUNK);
    let file = std::fs::File::options().read(true).write(true).open(home.data()).unwrap();
    let mut on_disk = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut on_disk, 0).unwrap();
    let payload = bytes_of(&wanted[0], CHUNK);
    let at = on_disk.windows(64).position(|window| window == &payload[..64]).expect("it is there");
    file.write_all_at(&[!payload[0]], at as u64).unwrap();
    let _ = load(&cache, &wanted, CHUNK);
    listed.read(&events);
    assert_eq!(listed.removed["unsound"], 1);
    listed.assert_is_what_is_there(&cache, &wanted);

    cache.close(PATIENCE);
    assert!(events.take().is_last);
}

#[test]
fn each_tier_is_told_of_for_itself() {
    let directory = tempfile::TempDir::new().unwrap();
    let config = config_with(
        directory.path(),
        CHUNK,
        // The staging buffer's and, beside it, room for some chunks.
        1024,
        2 << 20,
        [("local_cpu", Value::from(true)), ("use_only_staging_buffer", Value::from(false))],
    );
    let cache = Cache::open(&config, CHUNK as u64, None).unwrap();
    assert!(cache.stats().control.memory.is_some(), "there is a memory tier");
    let events = cache.events();
    let (mut listed, keys) = drive(&cache, &events);
    // What goes on to disk is told when it is there, which stores wait for.
    listed.read(&events);
    listed.assert_is_what_is_there(&cache, &keys);
    assert!(listed.count(Tier::Memory) > 0 && listed.count(Tier::Disk) > 0);
}

#[test]
fn a_listener_may_call_the_cache_and_hears_the_end() {
    let home = Home::new(CHUNK, 4, 2 << 20);
    let cache = Arc::new(home.open());
    let heard = Arc::new(Mutex::new((Listed::default(), false)));
    let (list, asked) = (Arc::clone(&heard), Arc::downgrade(&cache));
    let listener = cache
        .events()
        .listen(move |news| {
            for event in &news.events {
                if let Some(cache) = asked.upgrade() {
                    // A cache that is closed meanwhile is busy.
                    let is_found = !matches!(cache.lookup(&[event.key]), Lookup::Miss);
                    assert!(is_found || event.change == Change::Removed(Cause::Capacity));
                }
            }
            let mut list = list.lock();
            list.0.apply(&news.events);
            list.1 = news.is_last;
        })
        .unwrap();
    let wanted = prompt(1, 5);
    store_all(&cache, &wanted, CHUNK);
    cache.close(PATIENCE);
    assert!(listener.end(PATIENCE));
    let heard = heard.lock();
    assert_eq!(heard.0.on.len(), 5);
    assert!(heard.1, "it was told that there is no more");
}
