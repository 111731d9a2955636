//! What is in a directory: read from checkpoint and journal, or rebuilt from the chunks' own trailers.
//!
//! Promises: reads only. A record that is not whole at the end of a segment is a write that death interrupted: it
//! was never reported, and is passed over and counted. Anything else that is not sound or not there is damage, and
//! then the trailers are the truth: [`rebuild`] takes a chunk in only after its payload was checked, and of chunks
//! that overlap the newest. Assumes that nobody writes to the directory meanwhile.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::block_file::{BlockFile, read_blocks};
use super::format_file::holds;
use super::home::{Home, OsHome};
use super::journal::{CHECKPOINT_FILE, FileHeader, FileKind, segment_name, segments_in};
use super::trailer;
use crate::catalog::{AddressSpace, BLOCK_BYTES, Catalog, ChunkRecord, Entry, Extent, Extents, RECORD_BYTES};
use crate::crash_points::{Point, pass};
use crate::error::{Error, Result};
use crate::key::ChunkKey;

/// What was found in a directory.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The committed chunks, least recently stored first; to store a chunk is to use those it continues.
    pub records: Vec<ChunkRecord>,
    /// The segments that were read, ascending.
    pub segments: Vec<u64>,
    /// The number the next segment is to have.
    pub next_segment: u64,
    /// The first segment that counts: the checkpoint stands for those before.
    pub first_segment: u64,
    /// The largest epoch seen.
    pub epoch: u32,
    /// Journal records that no checkpoint covers.
    pub replayed: u64,
    /// Interrupted records that were passed over.
    pub interrupted: u64,
    /// Why checkpoint and journal could not be trusted, if so.
    pub damage: Option<String>,
}

impl Found {
    /// Whether there was neither checkpoint nor journal.
    pub fn is_empty(&self) -> bool {
        self.next_segment == 1
    }
}

/// Reads checkpoint and journal. With `damage` in the answer, its records are not to be used.
///
/// # Errors
/// When the directory cannot be read at all.
pub fn read_journal(directory: &Path) -> Result<Found> {
    read_journal_in(&OsHome::new(directory))
}

/// As [`read_journal`], of a home that may be any.
///
/// # Errors
/// As there.
pub fn read_journal_in(home: &dyn Home) -> Result<Found> {
    let doing = |name: &str| format!("reading {}", home.path().join(name).display());
    let numbers = segments_in(home).map_err(|error| Error::io(doing(""), error))?;
    let mut replay = Replay::default();
    let mut found = Found { next_segment: numbers.last().map_or(1, |last| last + 1), ..Found::default() };

    let mut next = 1;
    match home.read(CHECKPOINT_FILE) {
        Ok(bytes) => match FileHeader::decode(&bytes, FileKind::Checkpoint) {
            Some(file) => {
                next = file.segment;
                found.epoch = file.epoch;
                found.next_segment = found.next_segment.max(file.segment);
                let (sound, unsound) = replay.take(&bytes[RECORD_BYTES..], &mut found.epoch);
                if sound != file.records || unsound > 0 {
                    found.damage =
                        Some(format!("{} of {} checkpoint records are not sound", unsound, file.records));
                }
            }
            None => found.damage = Some("the checkpoint's header is not sound".into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(doing(CHECKPOINT_FILE), error)),
    }
    found.first_segment = next;
    let covered = replay.records.len();
    let live: Vec<u64> = numbers.into_iter().filter(|&number| number >= next).collect();
    if live.is_empty() && next > 1 {
        found.damage.get_or_insert_with(|| format!("journal segment {next} is missing"));
    }
    found.segments.clone_from(&live);
    for (expected, number) in (next..).zip(live) {
        if number != expected {
            found.damage.get_or_insert_with(|| format!("journal segment {expected} is missing"));
        }
        let name = segment_name(number);
        let bytes = home.read(&name).map_err(|error| Error::io(doing(&name), error))?;
        match FileHeader::decode(&bytes, FileKind::Segment) {
            Some(file) if file.segment == number => {
                found.epoch = found.epoch.max(file.epoch);
                let whole = bytes.len() - bytes.len() % RECORD_BYTES;
                let torn = u64::from(whole < bytes.len());
                let (sound, unsound) = replay.take(&bytes[RECORD_BYTES..whole], &mut found.epoch);
                found.replayed += sound;
                let at_end = trailing_unsound(&bytes[RECORD_BYTES..whole]);
                found.interrupted += at_end + torn;
                if unsound > at_end {
                    found
                        .damage
                        .get_or_insert_with(|| format!("journal segment {number} holds unsound records"));
                }
            }
            // Death right after the file was made: nothing was in it yet.
            None if bytes.len() < RECORD_BYTES => found.interrupted += 1,
            _ => {
                found
                    .damage
                    .get_or_insert_with(|| format!("the header of journal segment {number} is not sound"));
            }
        }
    }
    found.records = replay.in_order(covered);
    Ok(found)
}

/// Committed chunks in the order of their last entry.
#[derive(Default)]
struct Replay {
    records: Vec<Option<ChunkRecord>>,
    places: HashMap<ChunkKey, usize>,
}

impl Replay {
    /// Takes the records of a file in; gives how many were sound and how many not.
    fn take(&mut self, bytes: &[u8], epoch: &mut u32) -> (u64, u64) {
        let (records, _) = bytes.as_chunks::<RECORD_BYTES>();
        self.places.reserve(records.len());
        self.records.reserve(records.len());
        let (mut sound, mut unsound) = (0, 0);
        for record in records {
            match Entry::decode(record) {
                Some(Entry::Put(record)) => {
                    *epoch = (*epoch).max(Catalog::epoch_of(record.generation));
                    if let Some(old) = self.places.insert(record.key, self.records.len()) {
                        self.records[old] = None;
                    }
                    self.records.push(Some(record));
                }
                Some(Entry::Remove(key, generation)) => {
                    if let Some(&place) = self.places.get(&key)
                        && self.records[place].is_some_and(|record| record.generation == generation)
                    {
                        self.records[place] = None;
                        self.places.remove(&key);
                    }
                }
                None => {
                    unsound += 1;
                    continue;
                }
            }
            sound += 1;
        }
        (sound, unsound)
    }

    /// The chunks, the first to go first: so were the first `covered` of them already, the others were stored since. Who stores
    /// a chunk uses what it continues: a prompt's front, though stored first, goes after its end.
    fn in_order(self, covered: usize) -> Vec<ChunkRecord> {
        let Self { mut records, places } = self;
        let mut newest_first = Vec::with_capacity(places.len());
        for stored in (covered..records.len()).rev() {
            let first = newest_first.len();
            let mut at = stored;
            while let Some(record) = records[at].take() {
                newest_first.push(record);
                match places.get(&record.parent) {
                    Some(&parent) => at = parent,
                    None => break,
                }
            }
            newest_first[first..].reverse();
        }
        newest_first.extend(records.into_iter().take(covered).rev().flatten());
        newest_first.reverse();
        newest_first
    }
}

fn trailing_unsound(bytes: &[u8]) -> u64 {
    let (records, _) = bytes.as_chunks::<RECORD_BYTES>();
    records.iter().rev().take_while(|record| Entry::decode(record).is_none()).count() as u64
}

/// Memory for one transfer, on a block's border.
struct Window {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Window {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        Self { memory, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Reads one chunk and checks it whole: trailer, binding and payload. `None` when it is not what `record` says.
///
/// # Errors
/// The file's, but for a file that ends too soon: that is a chunk that is not there.
pub fn check_chunk(
    file: &dyn BlockFile,
    record: &ChunkRecord,
) -> io::Result<Result<(), trailer::Corruption>> {
    let extents = record.extents.part(0, ChunkRecord::blocks(record.length));
    let mut window = Window::new(BLOCK_BYTES + record.padded_bytes());
    match read_blocks(file, &extents, window.bytes()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Err(trailer::Corruption::Truncated));
        }
        Err(error) => return Err(error),
    }
    let (payload, page) = window.bytes().split_at(record.padded_bytes());
    Ok(trailer::verify(page, record).and_then(|sum| {
        use std::hash::Hasher;
        let mut hasher = trailer::payload_hasher();
        hasher.write(payload);
        if trailer::payload_sum(record, &hasher) == sum { Ok(()) } else { Err(trailer::Corruption::Payload) }
    }))
}

/// Reads one chunk's trailer and checks that it is that of `record`. What the payload is, it does not tell.
///
/// # Errors
/// As [`check_chunk`].
pub fn check_trailer(
    file: &dyn BlockFile,
    record: &ChunkRecord,
) -> io::Result<Result<(), trailer::Corruption>> {
    let page = record.extents.part(ChunkRecord::blocks(record.length) - 1, 1);
    let mut window = Window::new(BLOCK_BYTES);
    match read_blocks(file, &page, window.bytes()) {
        Ok(()) => Ok(trailer::verify(window.bytes(), record).map(drop)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Err(trailer::Corruption::Truncated)),
        Err(error) => Err(error),
    }
}

/// A drive whose chunks are to be found by their trailers.
pub struct DriveData<'a> {
    /// Its number.
    pub drive: u8,
    /// The epoch since which it has that: chunks of an earlier one are not its own.
    pub since: u32,
    /// Its data file.
    pub file: &'a dyn BlockFile,
    /// The file's length.
    pub blocks: u32,
    /// The file's name, for messages.
    pub path: PathBuf,
}

impl DriveData<'_> {
    fn reading(&self, error: io::Error) -> Error {
        Error::io(format!("reading {}", self.path.display()), error)
    }
}

/// Finds the chunks of these drives by their trailers. Reads all of the data files, and each chunk once more.
///
/// # Errors
/// When a data file cannot be read.
pub fn rebuild(drives: &[DriveData<'_>]) -> Result<Found> {
    let mut all = Vec::new();
    for (at, drive) in drives.iter().enumerate() {
        let candidates = candidates(drive).map_err(|error| drive.reading(error))?;
        all.extend(candidates.into_iter().map(|record| (at, record)));
    }
    all.sort_unstable_by_key(|(_, record)| std::cmp::Reverse(record.generation));
    pass(Point::RebuildCandidatesFound);
    let mut found = Found { next_segment: 1, ..Found::default() };
    let mut spaces: Vec<_> = drives.iter().map(|drive| AddressSpace::new(drive.blocks)).collect();
    let mut replay = Replay::default();
    for (at, record) in all {
        found.epoch = found.epoch.max(Catalog::epoch_of(record.generation));
        if replay.places.contains_key(&record.key) || !spaces[at].reserve(&record.extents) {
            continue;
        }
        if check_chunk(drives[at].file, &record).map_err(|error| drives[at].reading(error))?.is_ok() {
            replay.places.insert(record.key, replay.records.len());
            replay.records.push(Some(record));
        } else {
            spaces[at].free(&record.extents);
        }
        pass(Point::RebuildChunkChecked);
    }
    // The least recently stored first, as the journal has them.
    replay.records.reverse();
    let last = replay.records.len().saturating_sub(1);
    replay.places.values_mut().for_each(|place| *place = last - *place);
    found.records = replay.in_order(0);
    Ok(found)
}

/// Records of all blocks that look like the last of a chunk of this drive.
fn candidates(drive: &DriveData<'_>) -> io::Result<Vec<ChunkRecord>> {
    const WINDOW_BLOCKS: u32 = 1024;
    let (file, blocks) = (drive.file, drive.blocks);
    let mut window = Window::new(WINDOW_BLOCKS as usize * BLOCK_BYTES);
    let mut candidates = Vec::new();
    for start in (0..blocks).step_by(WINDOW_BLOCKS as usize) {
        let extent = Extent { start, blocks: WINDOW_BLOCKS.min(blocks - start) };
        let Some(extents) = Extents::from_slice(&[extent]) else { continue };
        let bytes = &mut window.bytes()[..extent.byte_len()];
        let bytes = match read_blocks(file, &extents, bytes) {
            Ok(()) => &*bytes,
            // The file was cut inside this window: take it block by block.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                candidates.extend((0..extent.blocks).filter_map(|block| single_block(file, start + block)));
                continue;
            }
            Err(error) => return Err(error),
        };
        for (block, page) in (start..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            candidates.extend(candidate(page, block));
        }
    }
    candidates.retain(|record| holds(record, drive.drive, drive.since));
    Ok(candidates)
}

fn single_block(file: &dyn BlockFile, block: u32) -> Option<ChunkRecord> {
    let mut window = Window::new(BLOCK_BYTES);
    let extents = Extents::from_slice(&[Extent { start: block, blocks: 1 }])?;
    read_blocks(file, &extents, window.bytes()).ok()?;
    candidate(window.bytes(), block)
}

/// The record of a trailer page, if it is one that says it lies here.
fn candidate(page: &[u8], block: u32) -> Option<ChunkRecord> {
    let (record, _) = trailer::decode(page)?;
    let last = record.extents.part(ChunkRecord::blocks(record.length) - 1, 1);
    (last.as_slice().first()?.start == block).then_some(record)
}
