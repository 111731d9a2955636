//! A process: the real control plane and the real mover, with their threads' turns in our hands.
//!
//! Plans and answers go from one to the other as they do between two processes: plans as bytes, answers through a
//! mailbox from which they are taken late and in any order.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay::catalog::Plan;
use forebay::mover::{Batch, Job, Verdict};
use forebay::staging::{Shape, Staging};
use forebay::tier::disk::directory::{Directory, Opened};
use forebay::tier::disk::stepped::SteppedEngine;
use forebay::tier::disk::stock::take_stock;
use forebay::{ControlPlane, Mover, Result};
use parking_lot::Mutex;

use crate::device::{Deed, carry_one};
use crate::engine::{From, To};
use crate::machine::Machine;
use crate::setup::Setup;

/// A mover's word on a plan.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The number under which the job was given.
    pub(crate) job: u64,
    /// The plan.
    pub(crate) plan: Plan,
    /// What became of it.
    pub(crate) verdict: Verdict,
}

/// What is told from inside of the mover.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// Ends that were not taken yet.
    pub(crate) answers: VecDeque<Answer>,
    /// What the device has done wrong.
    pub(crate) deeds: Vec<Deed>,
}

/// See the module's documentation.
pub(crate) struct Process {
    /// Decides.
    pub(crate) control: ControlPlane,
    /// Does.
    pub(crate) mover: Mover,
    /// The device's side of it.
    pub(crate) engine: Arc<SteppedEngine>,
    /// What it tells.
    pub(crate) mailbox: Arc<Mutex<Mailbox>>,
    /// The buffer.
    pub(crate) staging: Arc<Staging>,
}

impl Process {
    /// Starts one.
    ///
    /// # Errors
    /// What opening the directories gives.
    pub(crate) fn start(
        machine: &Arc<Mutex<Machine>>,
        setup: &Setup,
        clock: Arc<Mutex<u64>>,
    ) -> Result<Self> {
        let mut ground = machine.lock();
        let stock = take_stock(&mut *ground, setup.policy)?;
        let home = Arc::clone(&ground.home);
        let directory = Directory::of_one_owner(home, stock.epoch, setup.journal_records_max);
        let opened = Opened { directory, stock };
        let control = ControlPlane::stepped(opened, ground.files(), setup.disk_sync, move || *clock.lock());
        let staging =
            Staging::of(Shape { slots: setup.slots, slot_bytes: setup.slot_bytes, share: setup.slots })?;
        let mailbox: Arc<Mutex<Mailbox>> = Arc::default();
        let (seen, told) = (Arc::clone(machine), Arc::clone(&mailbox));
        let engine = SteppedEngine::new(setup.room, move |engine| {
            let machine = seen.lock();
            let mut deeds = Vec::new();
            // The device works while more is submitted, or else no chunk could have more parts than there are slots.
            while machine.trouble.roll(|rng| rng.u32(..3)) == 0 && carry_one(engine, &machine, &mut deeds) {}
            told.lock().deeds.append(&mut deeds);
        });
        let always = setup.disk_sync == forebay::config::DiskSync::Always;
        let mover = Mover::stepped(
            Arc::clone(&staging),
            ground.files(),
            Box::new(Arc::clone(&engine)),
            setup.queued_chunks_max,
            always,
        );
        Ok(Self { control, mover, engine, mailbox, staging })
    }

    /// Gives the mover a chunk to be written.
    pub(crate) fn store(&self, job: u64, batch: &Arc<Batch<()>>, plan: &Plan, from: From) {
        let mailbox = Arc::clone(&self.mailbox);
        self.mover.store(Job::new(batch, sent(plan), Box::new(from), move |plan, verdict| {
            mailbox.lock().answers.push_back(Answer { job, plan, verdict });
        }));
    }

    /// Gives the mover a chunk to be read.
    pub(crate) fn load(&self, job: u64, batch: &Arc<Batch<()>>, plan: &Plan, to: To) {
        let mailbox = Arc::clone(&self.mailbox);
        self.mover.load(Job::new(batch, sent(plan), Box::new(to), move |plan, verdict| {
            mailbox.lock().answers.push_back(Answer { job, plan, verdict });
        }));
    }
}

/// The plan as it comes out at the other end.
fn sent(plan: &Plan) -> Plan {
    let received = Plan::decode(&plan.encode()).expect("a plan's bytes are a plan");
    assert_eq!(&received, plan, "a plan arrives as it was sent");
    received
}
