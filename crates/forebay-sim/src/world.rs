//! The world of a run: a machine, the process on it, its engine, and the model that is asked after every step.
//!
//! Everything that must be true is an assertion here or in the model; whoever runs a world catches its panics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;
use forebay::catalog::{BLOCK_BYTES, Ticket};
use forebay::control::Hit;
use forebay::mover::Batch;
use forebay::tier::disk::engine::Direction;
use forebay::{ChunkKey, Lookup};
use parking_lot::Mutex;

use crate::device::{Misdeed, carry_one};
use crate::engine::{Ending, To};
use crate::machine::Machine;
use crate::model::{Model, State};
use crate::op::{Kind, Op};
use crate::process::Process;
use crate::setup::Setup;
use crate::tally::Tally;
use crate::trouble::Trouble;

/// Keys there are. They form a tree, as prompts that share beginnings do: key `k` continues key `(k - 1) / 2`.
pub(crate) const KEYS: u8 = 40;
/// More turns than it takes to bring everything to its end.
const TURNS_MAX: u32 = 4000;

/// Something the mover was asked for.
pub(crate) struct Job {
    pub(crate) ticket: Ticket,
    pub(crate) generation: u64,
    pub(crate) batch: Arc<Batch<()>>,
    pub(crate) ending: Ending,
    /// Of a load: where it goes.
    pub(crate) to: Option<To>,
    /// The device has failed it.
    pub(crate) excused: bool,
    /// It was given up.
    pub(crate) given_up: bool,
}

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) trouble: Trouble,
    pub(crate) machine: Arc<Mutex<Machine>>,
    pub(crate) process: Option<Process>,
    pub(crate) model: Model,
    pub(crate) hits: Vec<Hit>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) next_job: u64,
    /// Memory of loads that have ended badly: nobody may touch it any more.
    pub(crate) retired: Vec<To>,
    pub(crate) clock: Arc<Mutex<u64>>,
    /// Checkpoint and journal may say what is not so, by no fault of the cache.
    pub(crate) unclean: bool,
    /// What has happened.
    pub(crate) tally: Tally,
}

/// The chunk key of this number.
pub(crate) fn key(number: u8) -> ChunkKey {
    ChunkKey::new([number + 1; 32])
}

/// The prompt that ends with key `last`, from its first chunk on.
pub(crate) fn prompt(last: u8) -> Vec<ChunkKey> {
    let mut path = vec![last];
    while let Some(&front) = path.last()
        && front > 0
    {
        path.push((front - 1) / 2);
    }
    path.into_iter().rev().map(key).collect()
}

impl World {
    /// A world on which nothing has happened.
    ///
    /// # Panics
    /// When a process does not start on an empty machine.
    pub(crate) fn new(setup: &Setup) -> Self {
        let machine = Machine::new(setup);
        let trouble = machine.trouble.clone();
        let (machine, clock) = (Arc::new(Mutex::new(machine)), Arc::<Mutex<u64>>::default());
        trouble.switch(false);
        let process =
            Process::start(&machine, setup, Arc::clone(&clock)).expect("an empty machine is enough");
        trouble.switch(true);
        Self {
            setup: setup.clone(),
            trouble,
            machine,
            process: Some(process),
            model: Model::default(),
            hits: Vec::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            retired: Vec::new(),
            clock,
            unclean: false,
            tally: Tally::default(),
        }
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("there is a process between two steps")
    }

    /// Does what an operation says, and checks everything.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub(crate) fn apply(&mut self, op: Op) {
        let rng = &mut Rng::with_seed(op.dice);
        self.trouble.begin(op.dice ^ 1);
        *self.clock.lock() += rng.u64(..1000);
        let failed = self.journal_failed();
        match op.kind {
            Kind::Store => self.store(rng),
            Kind::Lookup => self.lookup(&prompt(rng.u8(..KEYS))),
            Kind::LetGo => self.let_go(rng),
            Kind::Load => self.load(rng),
            Kind::TakeStore => {
                self.process().mover.store_next();
            }
            Kind::TakeLoad => {
                self.process().mover.load_next();
            }
            Kind::Device => {
                self.device();
            }
            Kind::Deliver => {
                self.deliver(rng);
            }
            Kind::AnswerAgain => self.answer_again(rng),
            Kind::Cancel => self.cancel(rng),
            Kind::GiveUp => self.give_up(),
            Kind::Keep => {
                self.keep();
            }
            Kind::Rot => self.rot(rng),
            Kind::Stale => self.go_stale(rng),
            Kind::RotHome => self.rot_home(rng),
            Kind::Kill => self.recover(false, rng),
            Kind::KillSoon => self.trouble.die_in(rng.u32(..12)),
            Kind::PowerLoss if self.setup.loses_power => self.recover(true, rng),
            Kind::PowerLoss => {}
            Kind::Settle => self.settle(rng),
        }
        self.unclean |= self.journal_failed() > failed;
        if self.trouble.is_dead() {
            self.recover(false, rng);
        }
        self.hear_deeds();
        self.check();
        self.tally.failed_calls = self.trouble.home_failed();
        self.tally.note(self.model.open.len() as u64);
        self.tally.note(self.model.chunks.keys().fold(0, |sum, generation| sum.rotate_left(7) ^ generation));
    }

    /// Calls for files that failed, and times that the journal had no room: then it owes what has happened.
    fn journal_failed(&self) -> u64 {
        self.trouble.home_failed() + self.process().control.stats().disk.journal_errors
    }

    fn check(&self) {
        let check = |catalog: &_| self.model.check(catalog, &self.setup);
        self.process().control.inspect(check).expect("there is a disk");
        if !self.unclean {
            let home = Arc::clone(&self.machine.lock().home);
            let records =
                2 * (u64::from(self.setup.chunks_max) + 1) + 2 * (self.setup.journal_records_max + 1);
            let most = usize::try_from(records).unwrap_or(usize::MAX) * forebay::catalog::RECORD_BYTES
                + 4 * BLOCK_BYTES;
            assert!(home.bytes() <= most, "home has {} bytes, and may have {most}", home.bytes());
        }
    }

    /// Notes what the device has done wrong, and to whom.
    pub(crate) fn hear_deeds(&mut self) {
        let deeds = std::mem::take(&mut self.process().mailbox.lock().deeds);
        for deed in deeds {
            let Some(generation) = self.model.at(deed.piece.drive, Model::block_of(deed.piece.offset)) else {
                continue;
            };
            let chunk = self.model.chunk(generation);
            match (deed.piece.direction, deed.misdeed) {
                (Direction::Write, Misdeed::Failed) => chunk.failed = true,
                (_, Misdeed::Lied) => chunk.doubtful = true,
                (Direction::Read, Misdeed::Failed) => {
                    self.jobs
                        .values_mut()
                        .filter(|job| job.generation == generation)
                        .for_each(|job| job.excused = true);
                }
            }
        }
    }

    /// The device answers once. Whether there was anything to answer.
    pub(crate) fn device(&self) -> bool {
        let process = self.process();
        let machine = self.machine.lock();
        let mut deeds = Vec::new();
        let was_busy = carry_one(&process.engine, &machine, &mut deeds);
        process.mailbox.lock().deeds.append(&mut deeds);
        was_busy
    }

    fn lookup(&mut self, keys: &[ChunkKey]) {
        let found: Vec<u64> = keys.iter().map_while(|key| self.model.committed(key)).collect();
        match self.process().control.lookup(keys) {
            Lookup::Hit(hit) => {
                assert_eq!(hit.chunks(), found.len(), "a hit is the whole committed front");
                found.iter().for_each(|&generation| self.model.chunk(generation).users += 1);
                self.model.hits.push(found);
                self.hits.push(hit);
            }
            Lookup::Miss => {
                assert!(self.model.live(&keys[0]).is_none(), "a miss though the first chunk is there");
            }
            Lookup::Pending => {
                let first = self.model.live(&keys[0]).expect("pending is what is written");
                assert_eq!(self.model.chunks[&first].state, State::Writing);
            }
            Lookup::Busy => assert!(!found.is_empty() && self.tickets_left() == 0, "busy without a reason"),
        }
    }

    pub(crate) fn tickets_left(&self) -> usize {
        (self.setup.tickets_max as usize).saturating_sub(self.model.open.len() + self.model.hits.len())
    }

    fn let_go(&mut self, rng: &mut Rng) {
        if !self.hits.is_empty() {
            let at = rng.usize(..self.hits.len());
            drop(self.hits.swap_remove(at));
            let chunks = self.model.hits.swap_remove(at);
            chunks.into_iter().for_each(|generation| self.model.stop_using(generation));
        }
    }

    fn cancel(&mut self, rng: &mut Rng) {
        let batches: Vec<_> = self.jobs.values().map(|job| Arc::clone(&job.batch)).collect();
        if let Some(batch) = rng.choice(&batches) {
            self.process().mover.cancel(batch);
        }
    }

    fn give_up(&mut self) {
        self.jobs.values_mut().for_each(|job| job.given_up = true);
        self.process().mover.give_up_loads();
    }

    /// The keeper's turn. Whether there was anything to do.
    pub(crate) fn keep(&mut self) -> bool {
        let home = Arc::clone(&self.machine.lock().home);
        let before = (self.trouble.home_failed(), home.checkpoints(), self.machine.lock().syncs());
        let was_busy = self.process().control.keep_once();
        if self.trouble.is_dead() || self.trouble.home_failed() > before.0 {
            return was_busy;
        }
        if home.checkpoints() > before.1 {
            self.tally.checkpoints += 1;
            self.unclean = false;
        }
        if self.machine.lock().syncs() > before.2 {
            let committed = self.model.chunks.values_mut().filter(|chunk| chunk.state == State::Committed);
            committed.for_each(|chunk| chunk.durable = !chunk.doubtful);
        }
        was_busy
    }

    fn rot(&mut self, rng: &mut Rng) {
        if self.setup.rots {
            let drive = rng.usize(..self.setup.drives.len());
            let at = rng.usize(..self.setup.drives[drive] as usize * BLOCK_BYTES);
            self.machine.lock().drives[drive].sectors(|sectors| sectors.flip(at, rng.u32(..8)));
            self.doubt(drive, at);
        }
    }

    fn go_stale(&mut self, rng: &mut Rng) {
        if self.setup.rots {
            let drive = rng.usize(..self.setup.drives.len());
            let sector =
                rng.usize(..self.setup.drives[drive] as usize * BLOCK_BYTES / crate::sectors::SECTOR_BYTES);
            if self.machine.lock().drives[drive].sectors(|sectors| sectors.go_stale(sector)) {
                self.doubt(drive, sector * crate::sectors::SECTOR_BYTES);
            }
        }
    }

    fn doubt(&mut self, drive: usize, at: usize) {
        let drive = u8::try_from(drive).expect("few drives");
        if let Some(generation) = self.model.at(drive, (at / BLOCK_BYTES) as u64) {
            let chunk = self.model.chunk(generation);
            (chunk.doubtful, chunk.durable) = (true, false);
        }
    }

    fn rot_home(&mut self, rng: &mut Rng) {
        if self.setup.rots && self.machine.lock().home.rot(rng) {
            self.unclean = true;
        }
    }

    /// Brings everything that is under way to its end, which must come.
    pub(crate) fn settle(&mut self, rng: &mut Rng) {
        while !self.hits.is_empty() {
            self.let_go(rng);
        }
        let mut turns = 0;
        loop {
            let mut busy = self.process().mover.store_next();
            busy |= self.process().mover.load_next();
            busy |= self.device();
            busy |= self.deliver(rng);
            if self.trouble.is_dead() {
                return;
            }
            if !busy {
                break;
            }
            turns += 1;
            assert!(turns < TURNS_MAX, "no end comes");
        }
        let process = self.process();
        assert!(self.jobs.is_empty(), "{} chunks were never answered", self.jobs.len());
        assert!(process.engine.is_idle(), "the engine has something to do, and the device nothing");
        assert_eq!(process.staging.usage().in_use, 0, "slots are lost");
        assert!(self.model.open.is_empty() && self.model.hits.is_empty());
        let left: BTreeSet<_> = self
            .model
            .chunks
            .values()
            .filter(|chunk| chunk.state != State::Committed)
            .map(|chunk| chunk.record.generation)
            .collect();
        assert!(left.is_empty(), "nothing is under way, and these are not whole: {left:?}");
        for to in self.retired.drain(..) {
            assert!(
                to.bytes.lock().iter().all(|&byte| byte == GIVEN_UP),
                "a load that was over has touched engine memory"
            );
        }
    }
}

/// What engine memory is filled with after a load that has ended badly.
pub(crate) const GIVEN_UP: u8 = 0xEE;
