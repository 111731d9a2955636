//! Guarantees 3 and 4 under load: two slots, sixteen threads, prompts of one to five hundred chunks, for a minute.

mod support;

use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::{LoadStatus, Reason, StoreStatus};
use support::*;

const CHUNK: usize = 8 * KIB;
const THREADS: u32 = 16;
const PROMPTS: u32 = 60;
const STALL_MAX: Duration = Duration::from_secs(5);

/// Notes each end of a chunk, and the longest time without any.
struct Progress {
    last: StdMutex<(Instant, Duration)>,
    chunks: AtomicU64,
}

impl Progress {
    fn note(&self) {
        let mut last = self.last.lock().unwrap();
        let gap = last.0.elapsed();
        *last = (Instant::now(), last.1.max(gap));
        self.chunks.fetch_add(1, Ordering::Relaxed);
    }
}

fn random(state: &mut u64, below: u32) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    u32::try_from((*state >> 33) % u64::from(below)).unwrap()
}

#[test]
fn guarantee_3_and_4_two_slots_under_sixteen_threads_for_a_minute() {
    let home = Home::new(CHUNK, 2, 128 << 20);
    let cache = home.open();
    let progress =
        Progress { last: StdMutex::new((Instant::now(), Duration::ZERO)), chunks: AtomicU64::new(0) };
    let wrong = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_mins(1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (cache, progress, wrong) = (&cache, &progress, &wrong);
            scope.spawn(move || {
                let mut state = u64::from(thread) + 1;
                while Instant::now() < end {
                    // Threads share prompts: they store what others load, at the same time.
                    let keys = prompt(random(&mut state, PROMPTS), 1 + random(&mut state, 500) as usize);
                    if random(&mut state, 2) == 0 {
                        for outcome in store(cache, &keys, CHUNK) {
                            progress.note();
                            let fine = matches!(outcome.status, StoreStatus::Stored | StoreStatus::Present)
                                || matches!(outcome.reason, Some(Reason::Full | Reason::InFlight));
                            assert!(fine, "{outcome:?}");
                        }
                    } else {
                        let hit = cache.lookup(&keys);
                        let there = &keys[..hit.chunks()];
                        for (key, (outcome, bytes)) in there.iter().zip(load(cache, there, CHUNK)) {
                            progress.note();
                            // Pinned, so all of it is there.
                            assert_eq!(outcome.status, LoadStatus::Loaded, "{outcome:?}");
                            wrong.fetch_add(u64::from(bytes != bytes_of(key, CHUNK)), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let stall = progress.last.lock().unwrap().1;
    let stats = cache.stats();
    println!(
        "{} chunks ended, longest time without one {stall:?}, {} evicted, {} slots at most",
        progress.chunks.load(Ordering::Relaxed),
        stats.control.disk.evictions,
        stats.mover.staging.in_use_max
    );
    assert_eq!(wrong.load(Ordering::Relaxed), 0, "wrong bytes");
    assert!(stall < STALL_MAX, "nothing ended for {stall:?}");
    assert!(stats.control.disk.evictions > 0, "the disk was never full: the test is too small");
    assert_eq!(stats.mover.staging.in_use_max, 2);
    assert_nothing_leaked(&cache);
}
