//! What an engine asks for, and the answers to it: each step of the model beside that of the cache.

use std::sync::Arc;

use fastrand::Rng;
use forebay::cache::load_status;
use forebay::catalog::BLOCK_BYTES;
use forebay::control::StorePlan;
use forebay::mover::Batch;
use forebay::tier::disk::trailer::Corruption;
use forebay::{ChunkKey, LoadStatus, Reason};
use parking_lot::Mutex;

use crate::engine::{Ending, From, To, payload};
use crate::model::{Open, State};
use crate::process::Answer;
use crate::world::{GIVEN_UP, Job, KEYS, World, prompt};

impl World {
    pub(crate) fn store(&mut self, rng: &mut Rng) {
        let path = prompt(rng.u8(..KEYS));
        let from = if rng.bool() { 0 } else { rng.usize(..path.len()) };
        let parent = (from > 0 && rng.u32(..10) > 0).then(|| path[from - 1]);
        let block = u32::try_from(BLOCK_BYTES).unwrap_or(u32::MAX);
        let chunks: Vec<(ChunkKey, u32)> = path[from..]
            .iter()
            .map(|&key| {
                (key, rng.u32(1..=self.setup.payload_blocks_max) * block - [0, 1, block - 1][rng.usize(..3)])
            })
            .collect();
        self.store_chunks(&chunks, parent);
    }

    pub(crate) fn store_chunks(&mut self, chunks: &[(ChunkKey, u32)], parent: Option<ChunkKey>) {
        let was_there: Vec<_> = chunks.iter().map(|(key, _)| self.model.committed(key)).collect();
        let mut before = parent.and_then(|key| self.model.live(&key));
        let plans = self.process().control.plan_store(chunks, parent);
        if self.trouble.is_dead() {
            return;
        }
        let gone = self.process().control.inspect(|catalog| self.model.gone(catalog)).unwrap_or_default();
        self.model.evict(&gone);
        self.tally.evicted += gone.len() as u64;
        assert_eq!(plans.len(), chunks.len(), "one plan a chunk");
        let batch = Batch::new(chunks.len());
        let mut to_send = Vec::new();
        for ((&(key, length), plan), was_there) in chunks.iter().zip(plans).zip(was_there) {
            let this = match plan {
                StorePlan::Write { plan, .. } => {
                    let record = plan.record;
                    assert_eq!((record.key, record.length), (key, length), "the plan is the chunk's");
                    self.model.written(record);
                    self.model.opened(plan.ticket, Open::Write(record.generation));
                    to_send.push(plan);
                    Some(record.generation)
                }
                StorePlan::Present(_) => {
                    assert!(was_there.is_some(), "present is what is committed");
                    was_there
                }
                StorePlan::InFlight(ticket) => {
                    let Some(&Open::Write(generation)) = self.model.open.get(&ticket) else {
                        panic!("in flight under a ticket that is not that of an open write")
                    };
                    assert_eq!(self.model.chunks[&generation].record.key, key, "in flight as another chunk");
                    Some(generation)
                }
                StorePlan::Refused(Reason::Full | Reason::Busy | Reason::Journal) => None,
                StorePlan::Refused(reason) => panic!("refused as {reason:?}"),
            };
            if let (Some(before), Some(this)) = (before, this) {
                self.model.tied(before, this);
            }
            before = this;
        }
        for plan in to_send {
            let record = plan.record;
            let bytes = payload(&record.key, record.generation, record.length as usize);
            let ending = self.ending(bytes.len());
            let job = self.job(plan.ticket, record.generation, &batch, ending, None);
            self.process().store(job, &batch, &plan, From { bytes, ending });
        }
    }

    pub(crate) fn load(&mut self, rng: &mut Rng) {
        let path = prompt(rng.u8(..KEYS));
        let front = rng.usize(1..=path.len());
        self.load_keys(&path[..front]);
    }

    pub(crate) fn load_keys(&mut self, keys: &[ChunkKey]) {
        let lengths: Vec<(ChunkKey, u32)> = keys.iter().map(|&key| (key, 1)).collect();
        let plans = self.process().control.plan_load(&lengths);
        assert_eq!(plans.len(), keys.len(), "one plan a chunk");
        let batch = Batch::new(keys.len());
        let mut to_send = Vec::new();
        for (key, plan) in keys.iter().zip(plans) {
            let there = self.model.committed(key);
            match plan {
                Ok(plan) => {
                    assert!(plan.write_back.is_none(), "there is no memory tier");
                    let generation = there.expect("only what is committed is read");
                    assert_eq!(
                        plan.read.record, self.model.chunks[&generation].record,
                        "the plan is the chunk's"
                    );
                    self.model.chunk(generation).users += 1;
                    self.model.opened(plan.read.ticket, Open::Read(generation));
                    to_send.push(plan.read);
                }
                Err(Reason::NotThere) => assert!(there.is_none(), "what is there can be read"),
                Err(Reason::Busy) => {
                    assert!(there.is_some() && self.tickets_left() == 0, "busy without a reason");
                }
                Err(reason) => panic!("not to be loaded: {reason:?}"),
            }
        }
        for plan in to_send {
            let (generation, len) = (plan.record.generation, plan.record.length as usize);
            let to = To { bytes: Arc::new(Mutex::new(vec![0; len])), ending: self.ending(len) };
            let job = self.job(plan.ticket, generation, &batch, to.ending, Some(to.clone()));
            self.process().load(job, &batch, &plan, to);
        }
    }

    fn ending(&self, len: usize) -> Ending {
        if !self.trouble.strikes(|rates| rates.engine_error) {
            return Ending::Well;
        }
        let (at, dies) = self.trouble.roll(|rng| (rng.usize(..len), rng.bool()));
        if dies { Ending::DiesAt(at) } else { Ending::FailsAt(at) }
    }

    fn job(
        &mut self,
        ticket: forebay::catalog::Ticket,
        generation: u64,
        batch: &Arc<Batch<()>>,
        ending: Ending,
        to: Option<To>,
    ) -> u64 {
        self.next_job += 1;
        let batch = Arc::clone(batch);
        let job = Job { ticket, generation, batch, ending, to, excused: false, given_up: false };
        self.jobs.insert(self.next_job, job);
        self.next_job
    }

    /// The control plane hears an answer, any of those there are. Whether there was one.
    pub(crate) fn deliver(&mut self, rng: &mut Rng) -> bool {
        if self.trouble.is_dead() {
            return false;
        }
        self.hear_deeds();
        let answer = {
            let mut mailbox = self.process().mailbox.lock();
            if mailbox.answers.is_empty() {
                return false;
            }
            let at = rng.usize(..mailbox.answers.len());
            mailbox.answers.remove(at)
        };
        let Some(Answer { job, plan, verdict }) = answer else { return false };
        let job = self.jobs.remove(&job).expect("a chunk is answered once");
        assert_eq!(plan.ticket, job.ticket, "the answer is to what was asked");
        let others = self.jobs.values().any(|other| Arc::ptr_eq(&other.batch, &job.batch));
        assert!(others || job.batch.is_released(), "a batch is answered, and its engine memory still in use");
        match (&verdict, &job.to) {
            (Ok(()), None) => self.tally.stored += 1,
            (Ok(()), Some(_)) => self.tally.loaded += 1,
            (Err(Reason::Corrupt(_)), _) => self.tally.damaged += 1,
            (Err(_), _) => self.tally.unsuccessful += 1,
        }
        match job.to.clone() {
            None => self.store_ended(&job, &verdict),
            Some(to) => self.load_ended(&job, to, verdict),
        }
        true
    }

    fn store_ended(&mut self, job: &Job, verdict: &Result<(), Reason>) {
        let chunk = self.model.chunk(job.generation);
        let failed = chunk.failed;
        match verdict {
            Ok(()) => {
                assert!(!failed && !job.ending.is_at_once(), "stored, though not all of it was written");
            }
            Err(Reason::Io(_)) => assert!(failed || self.unclean_or_failing(), "an error from nowhere"),
            Err(reason) => Self::is_excused(job, reason),
        }
        let always = self.setup.disk_sync == forebay::config::DiskSync::Always;
        let written = verdict.is_ok();
        let told = self.process().control.finish_store(job.ticket, written);
        if self.trouble.is_dead() {
            return;
        }
        self.model.close(job.ticket);
        match told {
            Ok(_) if written => {
                let chunk = self.model.chunk(job.generation);
                (chunk.state, chunk.told) = (State::Committed, true);
                chunk.durable = always && !chunk.doubtful;
            }
            Ok(_) | Err(Reason::Journal) => self.model.remove(job.generation),
            Err(reason) => panic!("an open write is answered with {reason:?}"),
        }
    }

    fn load_ended(&mut self, job: &Job, to: To, verdict: Result<(), Reason>) {
        let chunk = &self.model.chunks[&job.generation];
        let doubtful = chunk.doubtful;
        let (key, len) = (chunk.record.key, chunk.record.length as usize);
        match &verdict {
            Ok(()) => {
                assert!(*to.bytes.lock() == payload(&key, job.generation, len), "WRONG BYTES in {chunk:?}");
            }
            Err(Reason::Corrupt(corruption)) => {
                let cut = *corruption == Corruption::Truncated;
                assert!(
                    doubtful || job.excused,
                    "a sound chunk was found damaged ({corruption:?}): {chunk:?}"
                );
                assert!(!cut || job.excused, "no drive was cut");
            }
            Err(Reason::Io(_)) => assert!(job.excused, "an error from nowhere"),
            Err(reason) => Self::is_excused(job, reason),
        }
        if verdict.is_err() {
            to.bytes.lock().fill(GIVEN_UP);
            self.retired.push(to);
        }
        let (status, reason) = load_status(verdict);
        let was_open = self.process().control.finish_load(job.ticket, status, reason.as_ref());
        if self.trouble.is_dead() {
            return;
        }
        assert!(was_open, "an open read is taken for closed");
        self.model.close(job.ticket);
        if matches!((status, reason), (LoadStatus::Miss, _) | (_, Some(Reason::Io(_)))) {
            self.model.drop_chunk(job.generation);
        }
        self.model.stop_using(job.generation);
    }

    fn unclean_or_failing(&self) -> bool {
        self.unclean || self.trouble.home_failed() > 0
    }

    fn is_excused(job: &Job, reason: &Reason) {
        let excused = match reason {
            Reason::Busy => true,
            Reason::Cancelled => job.batch.is_cancelled(),
            Reason::TimedOut => job.to.is_some() && job.given_up,
            Reason::Engine(_) => matches!(job.ending, Ending::FailsAt(_)),
            Reason::Abandoned => matches!(job.ending, Ending::DiesAt(_)),
            _ => false,
        };
        assert!(excused, "ended as {reason:?} without a reason");
    }

    /// A ticket that was answered, or is of another kind, is refused.
    pub(crate) fn answer_again(&mut self, rng: &mut Rng) {
        let control = &self.process().control;
        let corrupt = Reason::Corrupt(Corruption::Payload);
        if let Some(&ticket) = rng.choice(&self.model.closed) {
            assert_eq!(
                control.finish_store(ticket, rng.bool()),
                Err(Reason::Unknown),
                "answered twice as a store"
            );
            assert!(
                !control.finish_load(ticket, LoadStatus::Miss, Some(&corrupt)),
                "answered twice as a load"
            );
            assert!(!control.finish_load(ticket, LoadStatus::Loaded, None), "answered twice as a load");
        }
        for (&ticket, open) in &self.model.open {
            match open {
                Open::Write(_) => {
                    assert!(
                        !control.finish_load(ticket, LoadStatus::Miss, Some(&corrupt)),
                        "a store answered as a load"
                    );
                    assert!(
                        !control.finish_load(ticket, LoadStatus::Loaded, None),
                        "a store answered as a load"
                    );
                }
                Open::Read(_) => {
                    assert_eq!(
                        control.finish_store(ticket, true),
                        Err(Reason::Unknown),
                        "a load answered as a store"
                    );
                }
            }
        }
    }
}
