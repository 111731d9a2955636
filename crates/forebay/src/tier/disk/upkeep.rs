//! Upkeep of a cache that nobody uses: cleared, or put in order, without its configuration.
//!
//! Promises: its directories are locked as by an owner, and opened as a start opens them, which it counts as; but no data
//! file is made longer or shorter, and none is written to. In the end a checkpoint has all that is there, and the journal
//! is empty. What is deleted besides are files of names that are Forebay's own, which a death left half written. At every
//! instant what is on disk can be opened again, with the chunks of before or with those that are to stay.
//!
//! Assumes that the directories are where they were at the last start.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::data_files::DataFiles;
use super::directory::{data_path, found_by_trailers};
use super::format_file::{FORMAT_NEW_FILE, read_format};
use super::home::{Home, OsHome};
use super::journal::{CHECKPOINT_NEW_FILE, segment_path, segments_in, write_checkpoint};
use super::members::Members;
use super::namespaces::NAMESPACES_NEW_FILE;
use super::recovery::{Found, check_trailer, read_journal_in};
use super::stock::{Ground, Left, Stock, Trusted, take_in, take_stock};
use crate::catalog::{BLOCK_BYTES, CachePolicy, ChunkRecord, DRIVES_MAX, DriveBlocks, Limits, NamespaceId};
use crate::error::{Error, ErrorKind, Result};
use crate::key::ChunkKey;

/// Trailers that are read at the same time.
const READERS: usize = 8;
/// What a catalog is kept by while it is looked through. The order that was found stays, whichever this is.
const POLICY: CachePolicy = CachePolicy::Lru;

/// The directories of a cache that nobody uses. Nobody can while this is there.
pub struct Unused {
    members: Members,
    home: Arc<dyn Home>,
    /// Chunks that were found, once that is known.
    chunks: usize,
    by_trailers: OnceCell<Found>,
}

/// What putting in order did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Chunks that stay.
    pub kept_chunks: u64,
    /// Bytes they take of the data files, trailers included.
    pub kept_bytes: u64,
    /// Chunks that go, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Bytes of the data files that are free again because of that.
    pub dropped_bytes: u64,
    /// Why checkpoint and journal could not be trusted, if so: then the chunks were found by their trailers.
    pub rebuilt: Option<String>,
    /// Journal records that a death interrupted, and that were passed over.
    pub interrupted: u64,
    /// Files that go: segments of the journal, and what a death left half written.
    pub files: Vec<PathBuf>,
    /// Bytes of the file systems that they take.
    pub files_bytes: u64,
}

impl Unused {
    /// Locks the directories of the cache whose home this is.
    ///
    /// # Errors
    /// With a message that says what to do: no home of a cache, in use ([`ErrorKind::Locked`]), one of its directories is
    /// not there.
    pub fn lock(home: &Path) -> Result<Self> {
        let refused = |message: String| Err(Error::new(ErrorKind::Format, message));
        let Some(format) = read_format(home)? else {
            let what = if home.is_dir() {
                "it has no FORMAT that can be read"
            } else {
                "there is no such directory"
            };
            return refused(format!(
                "{} is no cache directory of Forebay: {what}; name the directory that local_disk names, of several the \
                 first",
                home.display()
            ));
        };
        if format.drive > 0 {
            return refused(format!(
                "{} is drive {} of the cache whose home is {}; name that directory",
                home.display(),
                format.drive,
                format.home
            ));
        }
        let mut directories = vec![home.to_owned()];
        for other in &format.drives {
            let path = PathBuf::from(&other.path);
            if !path.is_dir() {
                return refused(format!(
                    "{} was drive {} of this cache, and is not there; mount it, or start the cache with its place of now",
                    other.path, other.drive
                ));
            }
            directories.push(path);
        }
        let members = Members::gather(&directories)?;
        if read_format(home)? != Some(format) {
            let message = format!("{} was opened by somebody just now; try again", home.display());
            return Err(Error::new(ErrorKind::Locked, message));
        }
        let home: Arc<dyn Home> = Arc::new(OsHome::new(members.home()));
        Ok(Self { members, home, chunks: 0, by_trailers: OnceCell::new() })
    }

    /// Takes out all chunks, or those of a namespace; says how many those were. Their bytes stay in the data files until others
    /// are written over them.
    ///
    /// # Errors
    /// When a directory cannot be read or written; then all is as it was.
    pub fn clear(mut self, namespace: Option<NamespaceId>) -> Result<u64> {
        let found = read_journal_in(&*self.home)?;
        self.chunks = Trusted::of(found, &self)?.found.records.len();
        self.leave(|key| namespace.is_none_or(|id| key.namespace_id() == id))
    }

    /// Puts it in order: drops what a start would drop, and chunks whose trailer is not theirs, deletes what is left over of
    /// a death, and writes all of that down. With `dry_run` nothing is changed, and what is said is what would be.
    ///
    /// # Errors
    /// When a directory cannot be read or written; then no chunk is lost.
    pub fn collect(mut self, dry_run: bool) -> Result<Collected> {
        let found = read_journal_in(&*self.home)?;
        let (files, left_over) = self.void_files()?;
        let mut collected = Collected { interrupted: found.interrupted, ..Collected::default() };
        for file in &files {
            collected.files_bytes += fs::symlink_metadata(file).map_or(0, |about| about.blocks() * 512);
        }
        collected.files = files;
        let Trusted { found, rebuilt, .. } = Trusted::of(found, &self)?;
        collected.rebuilt = rebuilt;
        self.chunks = found.records.len();
        let (catalog, left) = take_in(&found, &self, &self.limits(), POLICY, 0);
        let records: Vec<ChunkRecord> = catalog.committed().collect();
        drop((catalog, found));
        for (_, why) in left {
            let why = match why {
                Left::WithItsDrive => "drive lost",
                Left::PastTheEnd => "past the end",
                Left::WrittenOver => "written over",
                Left::TooMany => "too many",
            };
            *collected.dropped.entry(why).or_default() += 1;
        }
        let mut bad = HashSet::new();
        for (record, why) in records.iter().zip(self.check(&records)?) {
            let bytes = record.extents.blocks() * BLOCK_BYTES as u64;
            match why {
                None => {
                    collected.kept_chunks += 1;
                    collected.kept_bytes += bytes;
                }
                Some(why) => {
                    *collected.dropped.entry(why).or_default() += 1;
                    collected.dropped_bytes += bytes;
                    bad.insert(record.key);
                }
            }
        }
        if !dry_run {
            self.leave(|key| bad.contains(key))?;
            for path in left_over {
                match fs::remove_file(&path) {
                    // The new checkpoint has taken its place.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => {
                        removed.map_err(|error| Error::io(format!("removing {}", path.display()), error))?;
                    }
                }
            }
        }
        Ok(collected)
    }

    /// Opens it as a start does, takes out what `which` says, and writes a checkpoint of the rest; says how many it took out.
    fn leave(mut self, which: impl Fn(&ChunkKey) -> bool) -> Result<u64> {
        let Stock { mut catalog, journal, epoch, .. } = take_stock(&mut self, POLICY)?;
        let removed = catalog.clear_some(0, u32::MAX, which).0.len() as u64;
        // One that has records is no successor of a checkpoint that has them too.
        let segment =
            if journal.is_empty() { journal.segment() } else { journal.next_segment()()?.segment() };
        let records: Vec<ChunkRecord> = catalog.committed().collect();
        write_checkpoint(&*self.home, epoch, segment, &records)?;
        Ok(removed)
    }

    /// Room as it is found.
    fn limits(&self) -> Limits {
        let mut blocks = [0; DRIVES_MAX];
        let mut count = 1;
        for member in self.members.list() {
            let at = usize::from(member.drive);
            blocks[at] = u32::try_from(member.data_bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
            count = count.max(at + 1);
        }
        let blocks = DriveBlocks::from_slice(&blocks[..count]).unwrap_or_else(|| blocks[0].into());
        let chunks_max = u32::try_from(self.chunks).unwrap_or(u32::MAX - 1);
        Limits { blocks, chunks_max, tickets_max: 0 }
    }

    /// The files that nothing needs once there is a checkpoint; and those of them that no checkpoint takes away.
    fn void_files(&self) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let home = self.home.path();
        let names = [CHECKPOINT_NEW_FILE, FORMAT_NEW_FILE, NAMESPACES_NEW_FILE].map(|name| home.join(name));
        let others = self.members.list()[1..].iter().map(|member| member.path.join(FORMAT_NEW_FILE));
        let is_file = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|about| about.is_file());
        let left_over: Vec<PathBuf> = names.into_iter().chain(others).filter(is_file).collect();
        let segments = segments_in(&*self.home)
            .map_err(|error| Error::io(format!("reading {}", home.display()), error))?;
        let mut files: Vec<PathBuf> = segments.into_iter().map(|number| segment_path(home, number)).collect();
        files.extend(left_over.iter().cloned());
        Ok((files, left_over))
    }

    /// Reads the trailers of these chunks; says of each why it is not right, if it is not.
    fn check(&self, records: &[ChunkRecord]) -> Result<Vec<Option<&'static str>>> {
        let there = self.members.list().iter().filter(|member| member.data_bytes > 0);
        let paths: Vec<_> = there.map(|member| (member.drive, data_path(&member.path))).collect();
        let files = DataFiles::open(&paths, true)?;
        // In the order in which they lie on the drives.
        let mut order: Vec<usize> = (0..records.len()).collect();
        let place = |record: &ChunkRecord| {
            (record.drive, record.extents.as_slice().first().map_or(0, |extent| extent.start))
        };
        order.sort_unstable_by_key(|&at| place(&records[at]));
        let next = AtomicUsize::new(0);
        let read = || {
            let mut bad = Vec::new();
            while let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let record = &records[at];
                let checked = files.get(record.drive).and_then(|file| check_trailer(file, record));
                match checked {
                    Ok(Ok(())) => {}
                    Ok(Err(corruption)) => bad.push((at, corruption.name())),
                    Err(_) => bad.push((at, "unreadable")),
                }
            }
            bad
        };
        let mut bad = vec![None; records.len()];
        thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS.min(records.len())).map(|_| scope.spawn(read)).collect();
            for reader in readers {
                let found = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                found.into_iter().for_each(|(at, why)| bad[at] = Some(why));
            }
        });
        Ok(bad)
    }
}

impl Ground for Unused {
    fn home(&self) -> &Arc<dyn Home> {
        &self.home
    }

    fn have_data(&self) -> bool {
        self.members.have_data()
    }

    fn noted_epoch(&self) -> u32 {
        self.members.epoch()
    }

    fn by_trailers(&self) -> Result<Found> {
        if let Some(found) = self.by_trailers.get() {
            return Ok(found.clone());
        }
        let found = found_by_trailers(self.members.list(), true)?;
        Ok(self.by_trailers.get_or_init(|| found).clone())
    }

    fn settle(&mut self, epoch: u32) -> Result<Limits> {
        self.members.settle(epoch)?;
        Ok(self.limits())
    }

    fn holds(&self, record: &ChunkRecord) -> bool {
        self.members.hold(record)
    }
}
