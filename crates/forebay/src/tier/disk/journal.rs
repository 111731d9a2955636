//! The journal: which chunks are committed, as a sequence of segments behind a checkpoint.
//!
//! Promises: when [`Journal::append`] has returned, its entries survive the death of the process; when
//! [`Journal::sync`] has returned, that of the machine. A failed append leaves no trace: the next one takes its
//! place. A checkpoint becomes the truth by one rename, after the segment it points to exists, so at every instant
//! checkpoint and segments on disk together are whole.
//!
//! Segment `n` is the file `journal.n`; the checkpoint says from which segment on to replay. Both are a header and
//! then records, all 128 bytes long (`docs/FORMAT.md`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::home::{Home, HomeFile, OsHome};
use super::trailer::FORMAT_VERSION;
use crate::catalog::{ChunkRecord, Entry, RECORD_BYTES, u32_at, u64_at};
use crate::crash_points::{Point, pass, pass_with};
use crate::error::{Error, Result};

/// What a segment takes of the space set aside for the journal, in records: a block of the file system.
pub const SEGMENT_RECORDS: u64 = 32;
/// Name of the checkpoint's file.
pub const CHECKPOINT_FILE: &str = "checkpoint";
pub(super) const CHECKPOINT_NEW_FILE: &str = "checkpoint.new";
const SEGMENT_PREFIX: &str = "journal.";
/// A checkpoint is written in pieces of this size.
const CHECKPOINT_PIECE_BYTES: usize = 1 << 20;

/// Which of the two kinds of file a header begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A journal's segment.
    Segment,
    /// A checkpoint.
    Checkpoint,
}

impl FileKind {
    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Segment => *b"FBAYJRNL",
            Self::Checkpoint => *b"FBAYCKPT",
        }
    }
}

/// The first 128 bytes of a segment or a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// The epoch that wrote it.
    pub epoch: u32,
    /// A segment's own number; in a checkpoint, the first segment to replay after it.
    pub segment: u64,
    /// Records that follow, in a checkpoint; zero in a segment, which grows.
    pub records: u64,
}

impl FileHeader {
    /// The header's bytes.
    pub fn encode(&self, kind: FileKind) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..8].copy_from_slice(&kind.magic());
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.to_le_bytes());
        out[24..32].copy_from_slice(&self.records.to_le_bytes());
        let sum = XxHash3_64::oneshot(&out[..RECORD_BYTES - 8]);
        out[RECORD_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The header in these bytes; `None` when they are no sound header of this kind and version.
    pub fn decode(bytes: &[u8], kind: FileKind) -> Option<Self> {
        let bytes = bytes.get(..RECORD_BYTES)?;
        let sound = bytes[..8] == kind.magic()
            && u32_at(bytes, 8) == FORMAT_VERSION
            && XxHash3_64::oneshot(&bytes[..RECORD_BYTES - 8]) == u64_at(bytes, RECORD_BYTES - 8);
        sound.then(|| Self {
            epoch: u32_at(bytes, 12),
            segment: u64_at(bytes, 16),
            records: u64_at(bytes, 24),
        })
    }
}

/// The file of a segment.
pub fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(segment_name(segment))
}

/// The name of a segment's file.
pub(super) fn segment_name(segment: u64) -> String {
    format!("{SEGMENT_PREFIX}{segment}")
}

/// Numbers of the segments in a directory, ascending.
///
/// # Errors
/// When the directory cannot be read.
pub fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    segments_in(&OsHome::new(directory))
}

/// Numbers of the segments in a home, ascending.
///
/// # Errors
/// When it cannot be read.
pub fn segments_in(home: &dyn Home) -> io::Result<Vec<u64>> {
    let number = |name: String| name.strip_prefix(SEGMENT_PREFIX)?.parse::<u64>().ok();
    let mut numbers: Vec<u64> = home.list()?.into_iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes a segment that is not written any more survive a power loss, if no checkpoint has made it void.
///
/// # Errors
/// The file's.
pub fn sync_segment(home: &dyn Home, segment: u64) -> io::Result<()> {
    match home.sync(&segment_name(segment)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

/// The segment that is being written.
#[derive(Debug)]
pub struct Journal {
    home: Arc<dyn Home>,
    epoch: u32,
    segment: u64,
    file: Arc<dyn HomeFile>,
    end: u64,
    /// The last append has failed.
    is_torn: bool,
}

impl Journal {
    /// Begins segment `segment`; one of that number that may lie there is void and is replaced.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(home: &Arc<dyn Home>, segment: u64, epoch: u32) -> Result<Self> {
        let header = FileHeader { epoch, segment, records: 0 }.encode(FileKind::Segment);
        let begin = || -> io::Result<_> {
            let file = home.create(&segment_name(segment))?;
            pass(Point::SegmentCreated);
            pass_with(Point::SegmentHalfBegun, || drop(file.write_at(&header[..RECORD_BYTES / 2], 0)));
            file.write_at(&header, 0)?;
            pass(Point::SegmentBegun);
            home.sync_names()?;
            Ok(file)
        };
        let file = begin().map_err(|error| {
            let path = segment_path(home.path(), segment);
            Error::io(format!("beginning the journal segment {}", path.display()), error)
        })?;
        Ok(Self { home: Arc::clone(home), epoch, segment, file, end: header.len() as u64, is_torn: false })
    }

    /// Adds entries.
    ///
    /// # Errors
    /// The file's; then none of them counts as added.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let append = self.to_append(entries);
        let outcome = append.write(false);
        self.appended(&append, outcome.is_ok());
        outcome
    }

    /// What adds entries when it is written, without holding the journal. One at a time, and [`Self::appended`] behind it.
    pub fn to_append(&self, entries: &[Entry]) -> Append {
        let mut bytes = Vec::with_capacity(entries.len() * RECORD_BYTES);
        entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.encode()));
        Append { file: Arc::clone(&self.file), bytes, at: self.end, is_behind_torn: self.is_torn }
    }

    /// Takes in what was to be written, and whether it was.
    pub fn appended(&mut self, append: &Append, is_written: bool) {
        self.is_torn = !is_written;
        if is_written {
            self.end = append.at + append.bytes.len() as u64;
        }
    }

    /// Makes what was appended survive a power loss.
    ///
    /// # Errors
    /// The file's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// The segment's file, to [`HomeFile::sync`] without holding the journal.
    pub fn sync_handle(&self) -> Arc<dyn HomeFile> {
        Arc::clone(&self.file)
    }

    /// Whether there are no records in its segment.
    pub fn is_empty(&self) -> bool {
        self.end == RECORD_BYTES as u64
    }

    /// Its segment's number.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// Begins the segment after this one, when called; needs nothing of this journal then.
    pub fn next_segment(&self) -> impl FnOnce() -> Result<Self> + use<> {
        let (home, segment, epoch) = (Arc::clone(&self.home), self.segment + 1, self.epoch);
        move || Self::begin(&home, segment, epoch)
    }
}

/// Entries on their way to the end of a segment.
#[derive(Debug)]
pub struct Append {
    file: Arc<dyn HomeFile>,
    bytes: Vec<u8>,
    at: u64,
    /// What was written there before has failed, and some of it may still be there.
    is_behind_torn: bool,
}

impl Append {
    /// Writes them, and with `sync` makes them survive a power loss.
    ///
    /// # Errors
    /// The file's; then none of them counts as added, and what there is of them is not replayed once it could be cut off.
    pub fn write(&self, sync: bool) -> io::Result<()> {
        if self.is_behind_torn {
            self.file.set_len(self.at)?;
        }
        pass(Point::JournalToBeAppended);
        pass_with(Point::JournalHalfAppended, || {
            // Whole records and a torn one, if there are several.
            let half = self.bytes.len().min(self.bytes.len() / 2 + RECORD_BYTES / 4);
            drop(self.file.write_at(&self.bytes[..half], self.at));
        });
        let write = || {
            self.file.write_at(&self.bytes, self.at)?;
            pass(Point::JournalAppended);
            if sync {
                self.file.sync()?;
                pass(Point::JournalSynced);
            }
            Ok(())
        };
        write().inspect_err(|_: &io::Error| drop(self.file.set_len(self.at)))
    }
}

/// Writes a checkpoint (records in the order in which they would be evicted) and deletes the segments it makes void.
///
/// # Errors
/// When it cannot be written; the former checkpoint and its segments then stay the truth.
pub fn write_checkpoint(home: &dyn Home, epoch: u32, segment: u64, records: &[ChunkRecord]) -> Result<()> {
    let write = || -> io::Result<()> {
        let file = home.create(CHECKPOINT_NEW_FILE)?;
        pass(Point::CheckpointCreated);
        let header = FileHeader { epoch, segment, records: records.len() as u64 };
        let (mut piece, mut end) = (header.encode(FileKind::Checkpoint).to_vec(), 0);
        for records in records.chunks(CHECKPOINT_PIECE_BYTES / RECORD_BYTES) {
            records.iter().for_each(|record| piece.extend_from_slice(&Entry::Put(*record).encode()));
            file.write_at(&piece, end)?;
            end += piece.len() as u64;
            piece.clear();
        }
        pass_with(Point::CheckpointPartlyWritten, || drop(file.write_at(&piece[..piece.len() / 2], end)));
        file.write_at(&piece, end)?;
        pass(Point::CheckpointWritten);
        file.sync()?;
        pass(Point::CheckpointSynced);
        home.rename(CHECKPOINT_NEW_FILE, CHECKPOINT_FILE)?;
        pass(Point::CheckpointRenamed);
        home.sync_names()
    };
    write().map_err(|error| {
        let path = home.path().join(CHECKPOINT_NEW_FILE);
        Error::io(format!("writing the checkpoint {}", path.display()), error)
    })?;
    pass(Point::CheckpointNamesSynced);
    delete_before(home, segment);
    Ok(())
}

/// Deletes the segments before `segment`, which a checkpoint stands for.
pub fn delete_before(home: &dyn Home, segment: u64) {
    for old in segments_in(home).unwrap_or_default().into_iter().filter(|&number| number < segment) {
        if let Err(error) = home.remove(&segment_name(old)) {
            tracing::warn!(segment = old, %error, "could not delete a journal segment that is no longer needed");
        }
        pass(Point::SegmentDeleted);
    }
}
