//! What stands in the files of a directory beside the chunks.

use std::fs;
use std::path::{Path, PathBuf};

use forebay::catalog::{CachePolicy, Catalog, ChunkRecord, Entry, RECORD_BYTES};
use forebay::tier::disk::directory::{Directory, Settings};
use forebay::tier::disk::format_file::read_format;
use forebay::tier::disk::journal::{FileHeader, FileKind, segment_path};
use tempfile::TempDir;

use crate::records::{key, record};
use crate::seal;

const CAPACITY_BYTES: u64 = 4 << 20;

/// Where files cost no drive its writes, if there is such a place.
fn scratch() -> TempDir {
    let shared_memory = Path::new("/dev/shm");
    let made = if shared_memory.is_dir() { tempfile::tempdir_in(shared_memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

fn settings(directory: &Path) -> Settings {
    Settings {
        directories: vec![directory.to_owned()],
        capacity_bytes: CAPACITY_BYTES,
        min_free_bytes: 0,
        chunk_bytes: 16 << 10,
        direct_io: false,
        cache_policy: CachePolicy::Lru,
    }
}

/// A directory that was a cache's.
fn used() -> TempDir {
    let scratch = scratch();
    Directory::open(&settings(scratch.path())).expect("an empty directory becomes a cache's");
    scratch
}

/// No two chunks may have a block in common, whatever the files say.
fn check(catalog: &Catalog) {
    let mut ranges: Vec<_> = catalog
        .committed()
        .flat_map(|record| {
            record
                .extents
                .as_slice()
                .iter()
                .map(|extent| u64::from(extent.start)..extent.end())
                .collect::<Vec<_>>()
        })
        .collect();
    ranges.sort_unstable_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "two chunks overlap: {ranges:?}");
    assert!(ranges.last().is_none_or(|last| last.end * 4096 <= CAPACITY_BYTES), "{ranges:?}");
}

/// Opens it as a cache would, and again: what the first has written has to be right.
fn open_twice(directory: &Path) {
    let opened = Directory::open(&settings(directory)).expect("damage is no error");
    check(&opened.stock.catalog);
    let chunks: Vec<ChunkRecord> = opened.stock.catalog.committed().collect();
    drop(opened);
    let again = Directory::open(&settings(directory)).expect("damage is no error");
    check(&again.stock.catalog);
    assert_eq!(
        again.stock.catalog.committed().count(),
        chunks.len(),
        "chunks that were found are found again"
    );
}

/// Two files, each record of which may be sealed: the first byte says which and where one ends.
pub(crate) fn journal(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if how & 1 == 1 {
        bytes.chunks_exact_mut(RECORD_BYTES).for_each(seal);
    }
    let at = bytes.len().min(usize::from(how >> 2) * RECORD_BYTES);
    let directory = used();
    let (checkpoint, segment) = bytes.split_at(at);
    let put = |path: PathBuf, bytes: &[u8]| fs::write(path, bytes).expect("it can be written");
    fs::remove_file(segment_path(directory.path(), 1)).ok();
    if how & 2 == 2 {
        put(directory.path().join("checkpoint"), checkpoint);
    }
    put(segment_path(directory.path(), 1), segment);
    open_twice(directory.path());
}

pub(crate) fn sound_journals() -> Vec<Vec<u8>> {
    let put = |number: u32, start: u32| {
        let mut record = record();
        record.key = key(number);
        record.parent = key(number - 1);
        record.extents =
            forebay::catalog::Extents::from_slice(&[forebay::catalog::Extent { start, blocks: 3 }])
                .expect("one extent");
        Entry::Put(record).encode()
    };
    let segment = FileHeader { epoch: 1, segment: 1, records: 0 }.encode(FileKind::Segment);
    let checkpoint = FileHeader { epoch: 1, segment: 1, records: 2 }.encode(FileKind::Checkpoint);
    let removal = Entry::Remove(key(2), record().generation).encode();
    let alone = [&[0][..], &segment, &put(1, 0), &put(2, 3), &removal, &put(3, 3)].concat();
    let both =
        [&[2 | 3 << 2][..], &checkpoint, &put(1, 0), &put(2, 3), &segment, &put(4, 9), &put(5, 6)].concat();
    let mut sealed = both.clone();
    sealed[0] |= 1;
    vec![alone, both, sealed]
}

/// The file `FORMAT`. What it says may be refused, but nothing may be lost or panic for it.
pub(crate) fn format(bytes: &[u8]) {
    let directory = scratch();
    fs::write(directory.path().join("FORMAT"), bytes).expect("it can be written");
    let said = read_format(directory.path());
    let opened = Directory::open(&settings(directory.path()));
    if let Err(error) = said {
        assert!(opened.is_err(), "{error}: and yet it was opened");
    }
    if let Err(error) = opened {
        assert!(!error.to_string().is_empty());
        let left = fs::read(directory.path().join("FORMAT")).expect("it is still there");
        assert_eq!(left, bytes, "a directory that is refused is left alone");
    }
}

pub(crate) fn sound_formats() -> Vec<Vec<u8>> {
    let directory = used();
    let own = fs::read(directory.path().join("FORMAT")).expect("a cache's directory has one");
    vec![own, br#"{"forebay_format":3,"epoch":4,"cache":"c","drive":0,"since":1,"drives":[{"drive":1,"since":2,"path":"/b"}]}"#.to_vec()]
}
