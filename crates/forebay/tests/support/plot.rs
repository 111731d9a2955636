//! A control plane over a home of the test's own, and nothing else: no data files, no mover.

#![allow(unreachable_pub, reason = "as in `support`")]

use std::sync::Arc;

use forebay::catalog::{CachePolicy, ChunkRecord, Limits, Plan};
use forebay::config::DiskSync;
use forebay::control::StorePlan;
use forebay::outcome::Reason;
use forebay::tier::disk::data_files::DataFiles;
use forebay::tier::disk::directory::{Directory, Opened};
use forebay::tier::disk::home::Home;
use forebay::tier::disk::recovery::Found;
use forebay::tier::disk::stock::{Ground, take_stock};
use forebay::{ChunkKey, ControlPlane, Result};

struct Plot {
    home: Arc<dyn Home>,
    chunks_max: u32,
}

impl Ground for Plot {
    fn home(&self) -> &Arc<dyn Home> {
        &self.home
    }

    fn have_data(&self) -> bool {
        true
    }

    fn noted_epoch(&self) -> u32 {
        0
    }

    fn by_trailers(&self) -> Result<Found> {
        Ok(Found { next_segment: 1, ..Found::default() })
    }

    fn settle(&mut self, _epoch: u32) -> Result<Limits> {
        let chunks_max = self.chunks_max;
        Ok(Limits { blocks: 1000.into(), chunks_max, tickets_max: 100 })
    }

    fn holds(&self, _record: &ChunkRecord) -> bool {
        true
    }
}

/// A process with room for so many chunks and a checkpoint after so many records, without threads.
pub fn open(
    home: Arc<dyn Home>,
    chunks_max: u32,
    journal_records_max: u64,
    disk_sync: DiskSync,
) -> ControlPlane {
    let mut plot = Plot { home: Arc::clone(&home), chunks_max };
    let stock = take_stock(&mut plot, CachePolicy::Lru).unwrap();
    let directory = Directory::of_one_owner(home, stock.epoch, journal_records_max);
    ControlPlane::stepped(Opened { directory, stock }, DataFiles::default(), disk_sync, || 0)
}

pub fn key(number: u8) -> ChunkKey {
    ChunkKey::new([number; 32])
}

/// The plan to store a chunk of this number, which continues none.
pub fn plan(control: &ControlPlane, number: u8) -> Result<Plan, Reason> {
    match control.plan_store(&[(key(number), 1)], None).remove(0) {
        StorePlan::Write { plan, .. } => Ok(plan),
        StorePlan::Refused(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}
