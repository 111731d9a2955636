//! Death, and what comes after it: the next process must find what was promised, and nothing that never was.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use forebay::catalog::{ChunkRecord, Entry};

use crate::device::abandon;
use crate::model::State;
use crate::process::Process;
use crate::world::{KEYS, World, key};

/// Starts that may fail or die before all trouble ends.
const STARTS_MAX: u32 = 6;

impl World {
    /// The process dies, the power goes with it or not, and another process starts.
    pub(crate) fn recover(&mut self, power: bool, rng: &mut Rng) {
        // Whatever it was at when it died, it has not told.
        let midway = self.trouble.is_dead();
        self.trouble.kill();
        let process = self.process.take().expect("there is a process");
        let committed = |catalog: &forebay::catalog::Catalog| -> BTreeSet<u64> {
            catalog.committed().map(|record| record.generation).collect()
        };
        let last_known = process.control.inspect(committed).expect("there is a disk");
        abandon(&process.engine, &self.machine.lock(), rng);
        let Process { control, mover, staging, mailbox, .. } = process;
        drop(mover);
        assert_eq!(staging.usage().in_use, 0, "slots are lost when a process ends");
        self.hits.clear();
        drop((control, mailbox));
        self.jobs.clear();
        self.retired.clear();
        let damage = self.machine.lock().home.damage();
        if power {
            self.machine.lock().lose_power(rng);
            self.unclean = true;
        }
        let unclean = self.unclean;
        let (process, rebuilt) = self.start(rng);
        let recovered: Vec<ChunkRecord> =
            process.control.inspect(|catalog| catalog.committed().collect()).expect("there is a disk");
        assert!(power || !damage.must_be_seen || rebuilt, "rot in checkpoint or journal was not seen");

        self.tally.deaths += 1;
        self.tally.midway += u64::from(midway);
        self.tally.power_losses += u64::from(power);
        self.tally.rebuilds += u64::from(rebuilt);

        // What must be there.
        let found: BTreeSet<u64> = recovered.iter().map(|record| record.generation).collect();
        // Evicted chunks that come back, since that they went was not durable or has rotted, may take the place of older ones.
        let may_come_back =
            rebuilt || power || damage.lost.iter().any(|entry| matches!(entry, Entry::Remove(..)));
        let is_crowded = may_come_back && recovered.len() >= self.setup.chunks_max as usize;
        let lost = |record: &ChunkRecord| !rebuilt && damage.lost.contains(&Entry::Put(*record));
        for (generation, chunk) in &self.model.chunks {
            let promised = chunk.state == State::Committed
                && last_known.contains(generation)
                && if power { chunk.durable } else { chunk.told }
                && !(rebuilt && chunk.doubtful);
            // Its trailers may say that the chunk was stored again, and they do not say which store was reported.
            let is_newer =
                |other: &ChunkRecord| other.key == chunk.record.key && other.generation > *generation;
            let excused = is_crowded || lost(&chunk.record) || (rebuilt && recovered.iter().any(is_newer));
            assert!(!promised || excused || found.contains(generation), "lost (power: {power}): {chunk:?}");
        }
        // What may be there.
        for record in &recovered {
            let planned = self.model.ever.get(&record.generation);
            assert_eq!(planned, Some(record), "a chunk comes back that never was");
            let known = last_known.contains(&record.generation)
                || (midway && self.model.chunks.contains_key(&record.generation));
            assert!(known || power || unclean || rebuilt, "a chunk comes back that was gone: {record:?}");
        }
        self.model.restart(&recovered, !power);
        self.unclean |= rebuilt;
        self.process = Some(process);
    }

    fn start(&mut self, rng: &mut Rng) -> (Process, bool) {
        let rebuilds = self.machine.lock().rebuilds();
        for start in 0.. {
            self.trouble.bury();
            self.trouble.switch(start < STARTS_MAX);
            if start < STARTS_MAX && rng.u32(..4) == 0 {
                self.trouble.die_in(rng.u32(..16));
            }
            let failed = self.trouble.home_failed();
            let started = Process::start(&self.machine, &self.setup, Arc::clone(&self.clock));
            self.unclean |= self.trouble.home_failed() > failed || self.trouble.is_dead();
            if let Ok(process) = started
                && !self.trouble.is_dead()
            {
                self.trouble.bury();
                self.trouble.switch(true);
                return (process, self.machine.lock().rebuilds() > rebuilds);
            }
            assert!(start < STARTS_MAX, "no process starts any more");
        }
        unreachable!("the loop has an end")
    }

    /// No more trouble: everything comes to its end, the cache works, and each chunk is what it was or is not there.
    pub(crate) fn finish(&mut self) {
        let rng = &mut Rng::with_seed(1);
        self.trouble.begin(2);
        if self.trouble.is_dead() {
            self.recover(false, rng);
        }
        self.trouble.bury();
        self.trouble.switch(false);
        self.settle(rng);
        for turn in 0.. {
            if !self.keep() {
                break;
            }
            assert!(turn < 4, "the keeper has no end");
        }
        self.store_chunks(&[(key(KEYS), 1)], None);
        self.settle(rng);
        let there = self.model.committed(&key(KEYS)).is_some();
        assert!(there || self.setup.slots < 2, "a healthy cache does not store a small chunk");
        self.recover(false, rng);
        self.trouble.switch(false);
        for number in 0..=KEYS {
            self.load_keys(&[key(number)]);
            self.settle(rng);
        }
    }
}
