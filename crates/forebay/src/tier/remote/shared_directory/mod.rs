//! Keeps a shared directory below a capacity: removes what was stored longest ago.
//!
//! Promises: only what has the shape of our [names](super::names) is touched, and what is left over of interrupted writes;
//! no symbolic link is followed, and what vanishes meanwhile is no error, so several machines may do this at a time. A
//! chunk goes as a whole, its end first, so that one half removed is not found.
//!
//! `kept` is a store in such a directory, and has it trimmed as it grows.
//!
//! Assumes: the clocks of those who write agree roughly, as far as the age of chunks is to be right; what can be
//! removed is enough.

mod kept;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(super) use kept::Kept;
pub use kept::Trimmer;

use super::library::INCOMING;
use crate::error::{Error, Result};

/// A write that has not ended for so long was interrupted.
const LEFT_OVER_AFTER: Duration = Duration::from_hours(1);

/// What one trimming found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Bytes of objects before.
    pub bytes_before: u64,
    /// Bytes of objects afterwards; as far as others have not changed them.
    pub bytes_after: u64,
    /// Chunks removed.
    pub chunks: u64,
    /// Objects removed.
    pub objects: u64,
    /// Left-overs of interrupted writes removed.
    pub left_over: u64,
}

/// A chunk, as it is cut for one slot size.
struct Chunk {
    directory: PathBuf,
    slot_kib: u64,
    /// When its newest part was stored.
    stored: SystemTime,
    /// Its parts and their bytes, the end last.
    parts: Vec<(Part, u64)>,
}

/// What a part is called. The end is the greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    End,
}

impl Chunk {
    fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    fn path(&self, part: Part) -> PathBuf {
        self.directory.join(match part {
            Part::Number(number) => format!("{}-{number}", self.slot_kib),
            Part::End => format!("{}-end", self.slot_kib),
        })
    }
}

/// Removes the oldest chunks of `root` until no more than `capacity_bytes` are left. What cannot be removed stays, and
/// newer chunks go in its place.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) when `root` cannot be read, or when a chunk could not be removed for another
/// reason than that it is gone: the first one's, after all others were tried.
pub fn trim(root: &Path, capacity_bytes: u64) -> Result<Trimmed> {
    trim_by(root, capacity_bytes, remove, |path| fs::remove_file(path).is_ok())
}

/// What [`trim`] would do now.
///
/// # Errors
/// As there, of reading.
pub fn trim_dry(root: &Path, capacity_bytes: u64) -> Result<Trimmed> {
    trim_by(root, capacity_bytes, |chunk| Ok(chunk.parts.len() as u64), |_| true)
}

/// `remove` says how many objects of a chunk it has removed, `remove_left_over` whether it has removed a file.
fn trim_by(
    root: &Path,
    capacity_bytes: u64,
    remove: impl Fn(&Chunk) -> Result<u64>,
    remove_left_over: impl Fn(&Path) -> bool,
) -> Result<Trimmed> {
    let mut chunks = Vec::new();
    let namespaces =
        entries(root).map_err(|error| Error::io(format!("reading {}", root.display()), error))?;
    for namespace in namespaces.into_iter().filter(|entry| is_directory(entry) && is_hex(entry, 16)) {
        for key in
            quietly(entries(&namespace.path())).filter(|entry| is_directory(entry) && is_hex(entry, 64))
        {
            chunks.extend(chunks_in(&key.path()));
        }
    }
    let bytes_before = chunks.iter().map(Chunk::bytes).sum();
    let mut trimmed = Trimmed { bytes_before, bytes_after: bytes_before, ..Trimmed::default() };
    let order = |chunk: &Chunk| (chunk.stored, chunk.directory.clone(), chunk.slot_kib);
    chunks.sort_by_cached_key(order);
    let removed = remove_oldest(chunks, capacity_bytes, &mut trimmed, remove);
    trimmed.left_over = each_left_over(root, remove_left_over);
    removed.map(|()| trimmed)
}

/// Removes `chunks`, one after the other, until what is left fits.
fn remove_oldest(
    chunks: impl IntoIterator<Item = Chunk>,
    capacity_bytes: u64,
    trimmed: &mut Trimmed,
    remove: impl Fn(&Chunk) -> Result<u64>,
) -> Result<()> {
    let mut first_error = None;
    for chunk in chunks {
        if trimmed.bytes_after <= capacity_bytes {
            break;
        }
        match remove(&chunk) {
            Ok(objects) => {
                trimmed.objects += objects;
                trimmed.bytes_after -= chunk.bytes();
                trimmed.chunks += 1;
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn entries(directory: &Path) -> io::Result<Vec<DirEntry>> {
    // What fails in the middle has vanished or will fail again: the next trimming sees it.
    Ok(fs::read_dir(directory)?.filter_map(io::Result::ok).collect())
}

fn quietly(entries: io::Result<Vec<DirEntry>>) -> impl Iterator<Item = DirEntry> {
    entries.unwrap_or_default().into_iter()
}

fn is_directory(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

fn is_hex(entry: &DirEntry, len: usize) -> bool {
    let name = entry.file_name();
    name.len() == len && name.as_encoded_bytes().iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What an entry is, itself and not what it points to.
fn file(entry: &DirEntry) -> Option<Metadata> {
    entry.metadata().ok().filter(Metadata::is_file)
}

fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The slot size and the part that a name tells, if it is one of ours.
fn part_of(entry: &DirEntry) -> Option<(u64, Part)> {
    let name = entry.file_name();
    let (slot_kib, part) = name.to_str()?.split_once('-')?;
    let part = if part == "end" { Part::End } else { Part::Number(number(part)?) };
    Some((number(slot_kib)?, part))
}

/// The chunks in the directory of a key: one for each slot size that it was cut for.
fn chunks_in(directory: &Path) -> impl Iterator<Item = Chunk> {
    let mut chunks: BTreeMap<u64, Chunk> = BTreeMap::new();
    for entry in quietly(entries(directory)) {
        if let (Some((slot_kib, part)), Some(about)) = (part_of(&entry), file(&entry)) {
            let chunk = chunks.entry(slot_kib).or_insert_with(|| Chunk {
                directory: directory.to_owned(),
                slot_kib,
                stored: SystemTime::UNIX_EPOCH,
                parts: Vec::new(),
            });
            chunk.parts.push((part, about.len()));
            chunk.stored = chunk.stored.max(about.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        }
    }
    chunks.into_values().map(|mut chunk| {
        chunk.parts.sort_unstable();
        chunk
    })
}

fn remove(chunk: &Chunk) -> Result<u64> {
    let mut removed = 0;
    for (part, _) in chunk.parts.iter().rev() {
        let path = chunk.path(*part);
        match fs::remove_file(&path) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("removing {}", path.display()), error)),
        }
    }
    // Not empty if somebody stores it anew at this moment, or it is there for another slot size, and then it stays.
    let _ = fs::remove_dir(&chunk.directory);
    Ok(removed)
}

/// Files of writes that were interrupted long ago, wherever below they lie; their directories stay. Gives how many of them
/// `remove` has removed.
fn each_left_over(root: &Path, remove: impl Fn(&Path) -> bool) -> u64 {
    let mut removed = 0;
    let mut seen = HashSet::new();
    let mut directories = vec![root.join(INCOMING)];
    if fs::symlink_metadata(&directories[0]).is_ok_and(|about| !about.is_dir()) {
        return 0;
    }
    while let Some(directory) = directories.pop() {
        if !seen.insert(directory.clone()) {
            continue;
        }
        for entry in quietly(entries(&directory)) {
            if is_directory(&entry) {
                directories.push(entry.path());
            } else if let Some(about) = file(&entry) {
                let age = about.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
                if age >= LEFT_OVER_AFTER && remove(&entry.path()) {
                    removed += 1;
                }
            }
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    const NAMESPACE: &str = "0123456789abcdef";

    fn key(number: u64) -> String {
        format!("{number:064x}")
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn object(path: &Path, bytes: u64, modified: SystemTime) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_len(bytes).unwrap();
        file.set_modified(modified).unwrap();
    }

    /// `count` chunks of two parts of 50 bytes; the higher the number, the newer.
    pub(super) fn directory(count: u64) -> TempDir {
        let root = TempDir::new().unwrap();
        for number in 0..count {
            for part in ["2048-0", "2048-end"] {
                object(&root.path().join(NAMESPACE).join(key(number)).join(part), 50, at(number));
            }
        }
        root
    }

    #[test]
    fn the_end_of_a_chunk_goes_first_whatever_its_other_parts_are_called() {
        let root = TempDir::new().unwrap();
        let directory = root.path().join(NAMESPACE).join(key(1));
        for part in ["2048-10", "2048-end", "2048-9", "512-end"] {
            object(&directory.join(part), 50, at(1));
        }
        let chunks: Vec<Chunk> = chunks_in(&directory).collect();
        let names = |chunk: &Chunk| -> Vec<String> {
            let name = |(part, _): &(Part, u64)| chunk.path(*part).file_name().unwrap().display().to_string();
            chunk.parts.iter().rev().map(name).collect()
        };
        let order: Vec<_> = chunks.iter().map(names).collect();
        assert_eq!(order, [vec!["512-end"], vec!["2048-end", "2048-10", "2048-9"]]);
        // What is in the way of one goes no further than to it.
        fs::remove_file(directory.join("2048-10")).unwrap();
        fs::create_dir(directory.join("2048-10")).unwrap();
        assert!(remove(&chunks[1]).is_err());
        assert!(!directory.join("2048-end").exists() && directory.join("2048-9").exists());
    }

    #[test]
    fn a_key_that_is_cut_for_two_slot_sizes_is_two_chunks() {
        let root = directory(2);
        let namespace = root.path().join(NAMESPACE);
        object(&namespace.join(key(0)).join("512-end"), 50, at(9));
        let done = trim(root.path(), 150).unwrap();
        assert_eq!((done.bytes_after, done.chunks, done.objects), (150, 1, 2));
        assert!(namespace.join(key(0)).join("512-end").exists());
        assert!(!namespace.join(key(0)).join("2048-end").exists());
    }

    pub(super) fn left(root: &TempDir) -> Vec<u64> {
        let mut left: Vec<u64> = entries(&root.path().join(NAMESPACE))
            .unwrap()
            .iter()
            .map(|entry| u64::from_str_radix(entry.file_name().to_str().unwrap(), 16).unwrap())
            .collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let root = directory(10);
        let nothing = Trimmed { bytes_before: 1000, bytes_after: 1000, ..Trimmed::default() };
        assert_eq!(trim(root.path(), 1000).unwrap(), nothing);
        let done = trim(root.path(), 650).unwrap();
        assert_eq!(
            done,
            Trimmed { bytes_before: 1000, bytes_after: 600, chunks: 4, objects: 8, left_over: 0 }
        );
        assert_eq!(left(&root), [4, 5, 6, 7, 8, 9]);
        assert_eq!(trim(root.path(), 0).unwrap().bytes_after, 0);
        assert!(left(&root).is_empty());
    }

    #[test]
    fn a_chunk_is_as_new_as_its_newest_part() {
        let root = directory(3);
        object(&root.path().join(NAMESPACE).join(key(0)).join("2048-0"), 50, at(99));
        trim(root.path(), 100).unwrap();
        assert_eq!(left(&root), [0]);
    }

    #[test]
    fn what_is_not_ours_is_not_touched_and_no_link_is_followed() {
        let root = directory(2);
        let elsewhere = directory(2);
        let namespace = root.path().join(NAMESPACE);
        let others = [
            root.path().join("README"),
            root.path().join("0123456789ABCDEF").join(key(7)).join("2048-0"),
            root.path().join("other").join(key(7)).join("2048-end"),
            namespace.join("short").join("2048-end"),
            namespace.join(key(0)).join("notes"),
            namespace.join(key(0)).join("0"),
            namespace.join(key(0)).join("2048-"),
            namespace.join(key(0)).join("2048-00"),
            namespace.join(key(0)).join("2048-ends"),
            namespace.join(key(0)).join("-end"),
        ];
        for path in &others {
            object(path, 10, at(0));
        }
        symlink(elsewhere.path().join(NAMESPACE), root.path().join("f".repeat(16))).unwrap();
        symlink(elsewhere.path().join(NAMESPACE).join(key(0)), namespace.join(key(8))).unwrap();
        let linked = elsewhere.path().join(NAMESPACE).join(key(0)).join("2048-0");
        symlink(linked, namespace.join(key(1)).join("2048-7")).unwrap();
        let done = trim(root.path(), 0).unwrap();
        assert_eq!((done.bytes_before, done.bytes_after, done.chunks, done.objects), (200, 0, 2, 4));
        for path in &others {
            assert!(path.exists(), "{}", path.display());
        }
        assert_eq!(trim(elsewhere.path(), u64::MAX).unwrap().bytes_before, 200);
    }

    #[test]
    fn left_overs_of_writes_go_when_they_are_old() {
        let root = directory(1);
        let incoming = root.path().join(INCOMING);
        object(&incoming.join("old"), 10, at(0));
        object(&incoming.join("deeper").join("old"), 10, at(0));
        object(&incoming.join("new"), 10, SystemTime::now());
        assert_eq!(trim(root.path(), u64::MAX).unwrap().left_over, 2);
        assert!(incoming.join("new").exists() && !incoming.join("old").exists());
    }

    #[test]
    fn several_may_trim_and_store_at_a_time() {
        let root = directory(200);
        std::thread::scope(|scope| {
            let trimmers: Vec<_> = (0..4).map(|_| scope.spawn(|| trim(root.path(), 2000))).collect();
            for number in 0..200 {
                object(&root.path().join(NAMESPACE).join(key(1000 + number)).join("2048-end"), 1, at(5000));
            }
            for trimmer in trimmers {
                trimmer.join().unwrap().unwrap();
            }
        });
        let done = trim(root.path(), 2200).unwrap();
        assert!(done.bytes_after <= 2200);
        assert!(left(&root).contains(&1199), "the newest stay");
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error_with_its_name() {
        let error = trim(Path::new("/there/is/no/such/directory"), 0).unwrap_err();
        assert!(error.to_string().contains("/there/is/no/such/directory"));
    }

    #[test]
    fn what_cannot_be_removed_is_told_and_newer_ones_go_in_its_place() {
        let root = directory(4);
        let in_the_way = root.path().join(NAMESPACE).join(key(0)).join("2048-end");
        // The parts that were listed are files; that one is none any more is like one that belongs to somebody else.
        let chunks: Vec<Chunk> = chunks_in(in_the_way.parent().unwrap()).collect();
        fs::remove_file(&in_the_way).unwrap();
        fs::create_dir(&in_the_way).unwrap();
        let others = (1..4)
            .flat_map(|number| chunks_in(&root.path().join(NAMESPACE).join(key(number))).collect::<Vec<_>>());
        let mut done = Trimmed { bytes_after: 400, ..Trimmed::default() };
        let error = remove_oldest(chunks.into_iter().chain(others), 250, &mut done, remove).unwrap_err();
        assert!(error.to_string().contains("2048-end"), "{error}");
        assert_eq!((done.bytes_after, done.chunks), (200, 2));
        assert_eq!(left(&root), [0, 3]);
    }
}
