//! A control plane of the disk tier without threads: the keeper's turns are the owner's to take. For simulators and tests.

use std::time::Duration;

use super::{ControlPlane, Counters, DiskPlane, Sightings};
use crate::catalog::Catalog;
use crate::config::{DiskSync, StoreTo};
use crate::error::Result;
use crate::events::Announcer;
use crate::tier::disk::data_files::DataFiles;
use crate::tier::disk::directory::Opened;

impl ControlPlane {
    /// A control plane over directories that are open, with a clock that gives milliseconds since 1970.
    pub fn stepped(
        opened: Opened,
        data: DataFiles,
        disk_sync: DiskSync,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let announcer = Announcer::default();
        Self {
            memory: None,
            disk: Some(DiskPlane::stepped(opened, data, disk_sync, Box::new(clock), &announcer)),
            remote: None,
            store_to: StoreTo { memory: false, disk: true, remote: false },
            sightings: Sightings::new(1),
            counters: Counters::default(),
            announcer,
        }
    }

    /// Starts the threads that keep and write the journal, once. Nobody waits for it longer than `patience`.
    ///
    /// # Errors
    /// When there are no more threads to be had.
    pub fn start(&self, patience: Duration) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.start(patience))
    }

    /// What the keeper does when a checkpoint is due or it is time to sync. Whether there was anything to do.
    pub fn keep_once(&self) -> bool {
        self.disk.as_ref().is_some_and(DiskPlane::keep_once)
    }

    /// Shows the disk tier's catalog, if there is one.
    pub fn inspect<T>(&self, look: impl FnOnce(&Catalog) -> T) -> Option<T> {
        self.disk.as_ref().map(|disk| disk.inspect(look))
    }
}
