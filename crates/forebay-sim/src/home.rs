//! A cache's home in memory: files of sectors, names that are durable when they were synced, calls that fail, and a
//! process that dies in the middle of one.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use forebay::catalog::{Entry, RECORD_BYTES};
use forebay::tier::disk::home::{Home, HomeFile};
use forebay::tier::disk::journal::{CHECKPOINT_FILE, FileHeader, FileKind};
use parking_lot::Mutex;

use crate::sectors::SectorFile;
use crate::trouble::{Fate, Trouble, failure};

/// What the file system gives a file at least.
const FILE_BLOCK_BYTES: usize = 4096;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct SimHome {
    state: Arc<Mutex<State>>,
    trouble: Trouble,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<SectorFile>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// What has happened to names since they were last synced, in order.
    renames: Vec<Renamed>,
    /// Records that rotted: file, number of the record in it, and what it was.
    rotten: Vec<Rotten>,
    checkpoints: u64,
}

#[derive(Debug)]
enum Renamed {
    Made(String, usize),
    Moved(String, String),
    Gone(String),
}

#[derive(Debug, Clone)]
struct Rotten {
    file: usize,
    record: usize,
    was: Option<Entry>,
}

/// What rot in checkpoint and journal is to lead to.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// It must be seen, and the trailers be read instead.
    pub(crate) must_be_seen: bool,
    /// It looks like records that death has interrupted: these are lost with it.
    pub(crate) lost: Vec<Entry>,
}

impl State {
    fn apply(names: &mut BTreeMap<String, usize>, change: &Renamed) {
        match change {
            Renamed::Made(name, file) => {
                names.insert(name.clone(), *file);
            }
            Renamed::Moved(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Renamed::Gone(name) => {
                names.remove(name);
            }
        }
    }

    fn change(&mut self, change: Renamed) {
        Self::apply(&mut self.names, &change);
        self.renames.push(change);
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl SimHome {
    /// An empty one.
    pub(crate) fn new(trouble: Trouble) -> Self {
        Self { state: Arc::default(), trouble }
    }

    /// Bytes of all files, in blocks of the file system.
    pub(crate) fn bytes(&self) -> usize {
        let state = self.state.lock();
        state
            .names
            .values()
            .map(|&file| state.files[file].bytes().len().next_multiple_of(FILE_BLOCK_BYTES))
            .sum()
    }

    /// How often a checkpoint became the truth.
    pub(crate) fn checkpoints(&self) -> u64 {
        self.state.lock().checkpoints
    }

    /// The power goes.
    pub(crate) fn lose_power(&self, rng: &mut Rng) {
        let state = &mut *self.state.lock();
        // A file system keeps the order of what happens to names.
        let survive = rng.usize(..=state.renames.len());
        let renames = std::mem::take(&mut state.renames);
        renames[..survive].iter().for_each(|change| State::apply(&mut state.durable_names, change));
        state.names = state.durable_names.clone();
        state.files.iter_mut().for_each(|file| file.lose_power(rng));
        // What has rotted may be another record now, and whatever is lost is excused.
        state.rotten.clear();
    }

    /// A bit of a file flips. Whether there was one.
    pub(crate) fn rot(&self, rng: &mut Rng) -> bool {
        let state = &mut *self.state.lock();
        let all: Vec<usize> = state.names.values().copied().collect();
        let Some(&file) = rng.choice(&all) else { return false };
        let len = state.files[file].bytes().len();
        if len == 0 {
            return false;
        }
        let (at, bit) = (rng.usize(..len), rng.u32(..8));
        let record = at / RECORD_BYTES;
        if !state.rotten.iter().any(|rotten| (rotten.file, rotten.record) == (file, record)) {
            let bytes = state.files[file].bytes().get(record * RECORD_BYTES..(record + 1) * RECORD_BYTES);
            let was = bytes.and_then(|bytes| Entry::decode(bytes.try_into().ok()?));
            state.rotten.push(Rotten { file, record, was });
            state.files[file].flip(at, bit);
            return true;
        }
        false
    }

    /// What the rot in the files that are to be read now must lead to.
    pub(crate) fn damage(&self) -> Damage {
        let state = self.state.lock();
        let mut damage = Damage::default();
        let mut first = 1;
        if let Some(&checkpoint) = state.names.get(CHECKPOINT_FILE) {
            damage.must_be_seen |= state.rotten.iter().any(|rotten| rotten.file == checkpoint);
            let header = FileHeader::decode(state.files[checkpoint].bytes(), FileKind::Checkpoint);
            first = header.map_or(first, |header| header.segment);
        }
        for (name, &file) in &state.names {
            let number = name.strip_prefix("journal.").and_then(|number| number.parse::<u64>().ok());
            if number.is_none_or(|number| number < first) {
                continue;
            }
            let (all, _) = state.files[file].bytes().as_chunks::<RECORD_BYTES>();
            let records = all.len();
            let is_hurt = |record| {
                let is_rotten = |rotten: &Rotten| (rotten.file, rotten.record) == (file, record);
                state.rotten.iter().any(is_rotten) || Entry::decode(&all[record]).is_none()
            };
            for rotten in state.rotten.iter().filter(|rotten| rotten.file == file && rotten.record < records)
            {
                // A record that was not sound before is one that something else has hurt.
                let is_at_end = rotten.record > 0 && (rotten.record..records).all(is_hurt);
                damage.must_be_seen |= !is_at_end && (rotten.was.is_some() || rotten.record == 0);
                damage.lost.extend(rotten.was);
            }
        }
        damage
    }
}

impl Home for SimHome {
    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        match self.trouble.call(false)? {
            Fate::Done => Ok(self.state.lock().names.keys().cloned().collect()),
            Fate::Fails | Fate::Dies => Err(self.trouble.roll(failure)),
        }
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        match self.trouble.call(false)? {
            Fate::Done => {
                let state = self.state.lock();
                Ok(state.files[state.find(name)?].bytes().to_vec())
            }
            Fate::Fails | Fate::Dies => Err(self.trouble.roll(failure)),
        }
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn HomeFile>> {
        let fate = self.trouble.call(false)?;
        if fate == Fate::Fails || (fate == Fate::Dies && self.trouble.roll(Rng::bool)) {
            return Err(self.trouble.roll(failure));
        }
        let mut state = self.state.lock();
        let file = state.files.len();
        state.files.push(SectorFile::default());
        state.change(Renamed::Made(name.to_owned(), file));
        drop(state);
        if fate == Fate::Dies {
            return Err(self.trouble.roll(failure));
        }
        Ok(Arc::new(SimFile { state: Arc::clone(&self.state), file, trouble: self.trouble.clone() }))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        match self.trouble.call(true)? {
            Fate::Done => {
                let state = &mut *self.state.lock();
                let file = state.find(name)?;
                state.files[file].sync();
                Ok(())
            }
            Fate::Fails | Fate::Dies => Err(self.trouble.roll(failure)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let fate = self.trouble.call(false)?;
        if fate == Fate::Fails || (fate == Fate::Dies && self.trouble.roll(Rng::bool)) {
            return Err(self.trouble.roll(failure));
        }
        let mut state = self.state.lock();
        state.find(from)?;
        state.checkpoints += u64::from(to == CHECKPOINT_FILE);
        state.change(Renamed::Moved(from.to_owned(), to.to_owned()));
        if fate == Fate::Dies { Err(io::Error::other("died")) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let fate = self.trouble.call(false)?;
        if fate != Fate::Done {
            return Err(self.trouble.roll(failure));
        }
        let mut state = self.state.lock();
        state.find(name)?;
        state.change(Renamed::Gone(name.to_owned()));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        match self.trouble.call(true)? {
            Fate::Done => {
                let state = &mut *self.state.lock();
                state.renames.clear();
                state.durable_names = state.names.clone();
                Ok(())
            }
            Fate::Fails | Fate::Dies => Err(self.trouble.roll(failure)),
        }
    }
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    file: usize,
    trouble: Trouble,
}

impl HomeFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fate = self.trouble.call(false)?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let written = match fate {
            Fate::Done => bytes.len(),
            Fate::Fails | Fate::Dies => self.trouble.roll(|rng| rng.usize(..=bytes.len())),
        };
        let state = &mut *self.state.lock();
        state.files[self.file].write(at, &bytes[..written]);
        // Rot is written over.
        let (first, end) = (at / RECORD_BYTES, (at + written) / RECORD_BYTES);
        state.rotten.retain(|rotten| rotten.file != self.file || !(first..end).contains(&rotten.record));
        if fate == Fate::Done { Ok(()) } else { Err(self.trouble.roll(failure)) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.trouble.call(false)? {
            Fate::Done => {
                let len = usize::try_from(len).map_err(io::Error::other)?;
                self.state.lock().files[self.file].set_len(len);
                Ok(())
            }
            Fate::Fails | Fate::Dies => Err(self.trouble.roll(failure)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.trouble.call(true)? {
            Fate::Done => {
                self.state.lock().files[self.file].sync();
                Ok(())
            }
            Fate::Fails | Fate::Dies => Err(self.trouble.roll(failure)),
        }
    }
}
