//! The journal: which chunks are committed, as a sequence of segments behind a checkpoint.
//!
//! Promises: when [`Journal::append`] has returned, its entries survive the death of the process; when
//! [`Journal::sync`] has returned, that of the machine. A failed append leaves no trace: the next one takes its
//! place. A checkpoint becomes the truth by one rename, after the segment it points to exists, so at every instant
//! checkpoint and segments on disk together are whole.
//!
//! Segment `n` is the file `journal.n`; the checkpoint says from which segment on to replay. Both are a header and
//! then records, all 128 bytes long (`docs/FORMAT.md`).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

use super::trailer::FORMAT_VERSION;
use crate::catalog::{ChunkRecord, Entry, RECORD_BYTES, u32_at, u64_at};
use crate::error::{Error, Result};

/// What a segment takes of the space set aside for the journal, in records: a block of the file system.
pub const SEGMENT_RECORDS: u64 = 32;
/// Name of the checkpoint's file.
pub const CHECKPOINT_FILE: &str = "checkpoint";
const CHECKPOINT_NEW_FILE: &str = "checkpoint.new";
const SEGMENT_PREFIX: &str = "journal.";

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
    directory.join(format!("{SEGMENT_PREFIX}{segment}"))
}

/// Numbers of the segments in a directory, ascending.
///
/// # Errors
/// When the directory cannot be read.
pub fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(SEGMENT_PREFIX));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The segment that is being written.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    epoch: u32,
    segment: u64,
    file: File,
    end: u64,
}

impl Journal {
    /// Begins segment `segment`; one of that number that may lie there is void and is replaced.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(directory: &Path, segment: u64, epoch: u32) -> Result<Self> {
        let path = segment_path(directory, segment);
        let doing = || format!("beginning the journal segment {}", path.display());
        let file = File::create(&path).map_err(|error| Error::io(doing(), error))?;
        let header = FileHeader { epoch, segment, records: 0 }.encode(FileKind::Segment);
        file.write_all_at(&header, 0)
            .and_then(|()| File::open(directory)?.sync_all())
            .map_err(|error| Error::io(doing(), error))?;
        let end = header.len() as u64;
        Ok(Self { directory: directory.to_owned(), epoch, segment, file, end })
    }

    /// Adds entries.
    ///
    /// # Errors
    /// The file's; then none of them counts as added.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(entries.len() * RECORD_BYTES);
        entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.encode()));
        if let Err(error) = self.file.write_all_at(&bytes, self.end) {
            // What was written of them must not be replayed.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Makes what was appended survive a power loss.
    ///
    /// # Errors
    /// The file's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// A second handle of the segment's file, to [`File::sync_data`] without holding the journal.
    ///
    /// # Errors
    /// When there are no more file descriptors.
    pub fn sync_handle(&self) -> io::Result<File> {
        self.file.try_clone()
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
        let (directory, segment, epoch) = (self.directory.clone(), self.segment + 1, self.epoch);
        move || Self::begin(&directory, segment, epoch)
    }
}

/// Writes a checkpoint (records in the order in which they would be evicted) and deletes the segments it makes void.
///
/// # Errors
/// When it cannot be written; the former checkpoint and its segments then stay the truth.
pub fn write_checkpoint(directory: &Path, epoch: u32, segment: u64, records: &[ChunkRecord]) -> Result<()> {
    let path = directory.join(CHECKPOINT_NEW_FILE);
    let write = || -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        out.write_all(
            &FileHeader { epoch, segment, records: records.len() as u64 }.encode(FileKind::Checkpoint),
        )?;
        for record in records {
            out.write_all(&Entry::Put(*record).encode())?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&path, directory.join(CHECKPOINT_FILE))?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| Error::io(format!("writing the checkpoint {}", path.display()), error))?;
    delete_before(directory, segment);
    Ok(())
}

/// Deletes the segments before `segment`, which a checkpoint stands for.
pub fn delete_before(directory: &Path, segment: u64) {
    for old in segments(directory).unwrap_or_default().into_iter().filter(|&number| number < segment) {
        if let Err(error) = fs::remove_file(segment_path(directory, old)) {
            tracing::warn!(segment = old, %error, "could not delete a journal segment that is no longer needed");
        }
    }
}
