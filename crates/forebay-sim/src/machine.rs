//! What outlives a process: drives, home, and the epoch that was noted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use forebay::Result;
use forebay::catalog::{BLOCK_BYTES, ChunkRecord, DriveBlocks, Limits};
use forebay::tier::disk::block_file::BlockFile;
use forebay::tier::disk::data_files::DataFiles;
use forebay::tier::disk::home::Home;
use forebay::tier::disk::recovery::{DriveData, Found, rebuild};
use forebay::tier::disk::stock::Ground;
use parking_lot::Mutex;

use crate::home::SimHome;
use crate::sectors::SectorFile;
use crate::setup::Setup;
use crate::trouble::{Fate, Trouble, failure};

/// A drive's data file.
#[derive(Debug, Clone)]
pub(crate) struct Drive {
    file: Arc<Mutex<SectorFile>>,
    trouble: Trouble,
    syncs: Arc<Mutex<u64>>,
}

impl Drive {
    /// Its sectors.
    pub(crate) fn sectors<T>(&self, act: impl FnOnce(&mut SectorFile) -> T) -> T {
        act(&mut self.file.lock())
    }
}

impl BlockFile for Drive {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let file = self.file.lock();
        let bytes = file.bytes().get(at..).unwrap_or_default();
        let read = buffer.len().min(bytes.len());
        buffer[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn write_at(&self, _buffer: &[u8], _offset: u64) -> io::Result<usize> {
        Err(io::Error::other("pieces are carried out by the device"))
    }

    fn sync(&self) -> io::Result<()> {
        match self.trouble.call(true)? {
            Fate::Done => {
                self.file.lock().sync();
                *self.syncs.lock() += 1;
                Ok(())
            }
            Fate::Fails | Fate::Dies => Err(self.trouble.roll(failure)),
        }
    }

    fn is_direct(&self) -> bool {
        true
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The drives.
    pub(crate) drives: Vec<Drive>,
    /// The directory with the journal.
    pub(crate) home: Arc<SimHome>,
    /// What goes wrong.
    pub(crate) trouble: Trouble,
    home_as_seen: Arc<dyn Home>,
    limits: Limits,
    noted_epoch: u32,
    syncs: Arc<Mutex<u64>>,
    rebuilds: AtomicU64,
}

impl Machine {
    /// A machine on which nothing was ever stored.
    pub(crate) fn new(setup: &Setup) -> Self {
        let trouble = Trouble::new(setup.rates);
        let home = Arc::new(SimHome::new(trouble.clone()));
        let syncs: Arc<Mutex<u64>> = Arc::default();
        let drive = |&blocks: &u32| Drive {
            file: Arc::new(Mutex::new(SectorFile::zeroed(blocks as usize * BLOCK_BYTES))),
            trouble: trouble.clone(),
            syncs: Arc::clone(&syncs),
        };
        let blocks = DriveBlocks::from_slice(&setup.drives).expect("a run has a drive");
        Self {
            drives: setup.drives.iter().map(drive).collect(),
            home_as_seen: Arc::clone(&home) as _,
            home,
            trouble,
            limits: Limits { blocks, chunks_max: setup.chunks_max, tickets_max: setup.tickets_max },
            noted_epoch: 0,
            syncs,
            rebuilds: AtomicU64::new(0),
        }
    }

    /// The data files as the mover has them.
    pub(crate) fn files(&self) -> DataFiles {
        let mut drives = self.drives.iter();
        let mut files = DataFiles::default();
        for (number, drive) in (0..).zip(drives.by_ref()) {
            files.set(number, Arc::new(drive.clone()));
        }
        files
    }

    /// Syncs of data files that were done.
    pub(crate) fn syncs(&self) -> u64 {
        *self.syncs.lock()
    }

    /// How often the trailers were asked.
    pub(crate) fn rebuilds(&self) -> u64 {
        self.rebuilds.load(Ordering::Relaxed)
    }

    /// The power goes.
    pub(crate) fn lose_power(&self, rng: &mut Rng) {
        self.home.lose_power(rng);
        self.drives.iter().for_each(|drive| drive.sectors(|sectors| sectors.lose_power(rng)));
    }
}

impl Ground for Machine {
    fn home(&self) -> &Arc<dyn Home> {
        &self.home_as_seen
    }

    fn have_data(&self) -> bool {
        self.noted_epoch > 0
    }

    fn noted_epoch(&self) -> u32 {
        self.noted_epoch
    }

    fn by_trailers(&self) -> Result<Found> {
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
        let data: Vec<DriveData<'_>> = (0..)
            .zip(&self.drives)
            .map(|(drive, file)| DriveData {
                drive,
                since: 0,
                file,
                blocks: self.limits.blocks.as_slice()[usize::from(drive)],
                path: "simulated".into(),
            })
            .collect();
        rebuild(&data)
    }

    fn settle(&mut self, epoch: u32) -> Result<Limits> {
        self.noted_epoch = epoch;
        Ok(self.limits)
    }

    fn holds(&self, record: &ChunkRecord) -> bool {
        usize::from(record.drive) < self.drives.len()
    }
}
