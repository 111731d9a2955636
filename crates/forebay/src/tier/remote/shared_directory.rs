//! Keeps a shared directory below a capacity: removes what was stored longest ago.
//!
//! Promises: only what has the shape of our [names](super::names) is touched, and what is left over of interrupted writes;
//! no symbolic link is followed, and what vanishes meanwhile is no error, so several machines may do this at a time. A
//! chunk goes as a whole, its end first, so that one half removed is not found.
//!
//! `Kept` is a store in such a directory that has it trimmed as it grows. What it has written since the last trimming
//! began to list the directory is bounded; what comes too fast waits for the next one, and is turned away when that
//! takes too long: outside all other layers, so that no request is under way meanwhile. So one or two who write to a directory never pass its capacity by more than an object each, however
//! slow the listing is.
//!
//! Assumes: the clocks of those who write agree roughly, as far as the age of chunks is to be right; what can be
//! removed is enough.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::library::INCOMING;
use super::objects::{Answer, Fault, Objects};
use crate::crash_points::turn;
use crate::crew::Crew;
use crate::error::{Error, Result};
use crate::sync::{Condvar, Mutex, MutexGuard, now};

/// A write that has not ended for so long was interrupted.
const LEFT_OVER_AFTER: Duration = Duration::from_hours(1);

/// A directory that nobody here writes to is trimmed so often.
const PERIOD: Duration = Duration::from_mins(1);
/// It is trimmed again after one part in so many of its capacity was written here, by [`Kept`].
const TRIMMED_AFTER: u64 = 32;
/// And to so many such parts below its capacity: for what is written meanwhile, here and elsewhere.
const LEFT_EMPTY: u64 = 4;
/// Of which each who writes may have so many written that no trimming has seen: two have them all.
const UNSEEN_MOST: u64 = LEFT_EMPTY / 2;

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

/// A thread that trims a directory every so often.
pub struct Trimmer {
    crew: Crew,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Told after each trimming, after each write, and at the end.
    trimmed: Notify,
}

#[derive(Default)]
struct State {
    closed: bool,
    is_due: bool,
    rounds: u64,
    last: Option<Trimmed>,
    written: WrittenBytes,
}

/// Bytes that one [`Kept`] writes, as far as no trimming has counted them.
#[derive(Default)]
struct WrittenBytes {
    under_way: u64,
    /// Written, and not there yet when the last trimming that has ended began.
    unseen: u64,
    /// Since the last trimming was asked for.
    since_asked: u64,
}

impl WrittenBytes {
    fn not_counted(&self) -> u64 {
        self.under_way + self.unseen
    }
}

impl Trimmer {
    /// Trims `root` to `capacity_bytes` now and after each `period`, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(root: PathBuf, capacity_bytes: u64, period: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let crew = Crew::default();
        let keeping = Arc::clone(&shared);
        crew.spawn("forebay-trim".to_owned(), move || keep(&keeping, &root, capacity_bytes, period))?;
        Ok(Self { crew, shared })
    }

    /// Its thread, if that died of a panic.
    pub fn dead_threads(&self) -> Vec<String> {
        self.crew.dead()
    }

    /// Trims now, or again if it is at it.
    pub fn trim_soon(&self) {
        self.shared.state.lock().is_due = true;
        self.shared.changed.notify_all();
    }

    /// How often it has trimmed, and what it found last, if that succeeded.
    pub fn last(&self) -> (u64, Option<Trimmed>) {
        let state = self.shared.state.lock();
        (state.rounds, state.last)
    }

    /// Waits until it has trimmed `rounds` times, at most until `deadline`; says whether it has.
    pub fn wait(&self, rounds: u64, deadline: Instant) -> bool {
        let mut state = self.shared.state.lock();
        while state.rounds < rounds {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                return state.rounds >= rounds;
            }
        }
        true
    }

    /// Ends the thread, and waits for that at most until `deadline`.
    pub fn shutdown(&self, deadline: Instant) {
        self.shared.close();
        self.crew.join(deadline);
    }
}

impl Shared {
    /// A trimming has ended, at whose beginning so much was there unseen.
    fn saw(&self, state: &mut State, there_bytes: u64) {
        state.written.unseen -= there_bytes;
        self.trimmed.notify_waiters();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        self.trimmed.notify_waiters();
    }
}

impl Drop for Trimmer {
    /// Ends the thread and does not wait for that: it may be in the kernel, on a mount that is gone.
    fn drop(&mut self) {
        self.shared.close();
    }
}

fn keep(shared: &Shared, root: &Path, capacity_bytes: u64, period: Duration) {
    let mut state = shared.state.lock();
    while !state.closed {
        turn();
        state.is_due = false;
        let there_bytes = state.written.unseen;
        let trimmed = MutexGuard::unlocked(&mut state, || trim(root, capacity_bytes));
        if let Err(error) = &trimmed {
            tracing::warn!(%error, "trimming the shared directory");
        }
        state.rounds += 1;
        state.last = trimmed.ok();
        shared.changed.notify_all();
        // Also of one that failed: there is no more to be had by waiting for the next.
        shared.saw(&mut state, there_bytes);
        let next = now() + period;
        while !state.closed && !state.is_due && !shared.changed.wait_until(&mut state, next).timed_out() {}
    }
}

/// A store in a directory, which is trimmed as it grows.
pub(super) struct Kept {
    inner: Arc<dyn Objects>,
    trimmer: Trimmer,
    /// After how many bytes it is trimmed again.
    step_bytes: u64,
    /// For how long what is written waits for a trimming.
    patience: Duration,
}

impl Kept {
    /// Its thread, if that died of a panic.
    pub(super) fn dead_threads(&self) -> Vec<String> {
        self.trimmer.dead_threads()
    }

    /// Keeps `root`, where `inner` puts its objects, below `capacity_bytes`. What is put waits `patience` for the room that
    /// a trimming makes.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn below(
        capacity_bytes: u64,
        root: PathBuf,
        inner: Arc<dyn Objects>,
        patience: Duration,
    ) -> Result<Self> {
        let step_bytes = capacity_bytes / TRIMMED_AFTER;
        let trimmer = Trimmer::start(root, capacity_bytes - LEFT_EMPTY * step_bytes, PERIOD)?;
        Ok(Self { inner, trimmer, step_bytes, patience })
    }

    /// Trims no more; waits for the end of that at most until `deadline`.
    pub(super) fn shutdown(&self, deadline: Instant) {
        self.trimmer.shutdown(deadline);
    }

    /// Room for an object of so many bytes; one that is greater than all the room has it alone.
    async fn room(&self, bytes: u64) -> Room<'_> {
        let shared = &*self.trimmer.shared;
        loop {
            let mut trimmed = pin!(shared.trimmed.notified());
            // From here on nothing is missed.
            trimmed.as_mut().enable();
            {
                let mut state = shared.state.lock();
                let not_counted = state.written.not_counted();
                if state.closed || not_counted == 0 || not_counted + bytes <= UNSEEN_MOST * self.step_bytes {
                    state.written.under_way += bytes;
                    return Room { kept: self, bytes };
                }
                // What is unseen is seen by the next one, and what is under way is unseen when it ends.
                if state.written.unseen > 0 {
                    state.is_due = true;
                    shared.changed.notify_all();
                }
            }
            trimmed.await;
        }
    }
}

/// Of an object that is being written; dropped, it may be there.
struct Room<'a> {
    kept: &'a Kept,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let shared = &*self.kept.trimmer.shared;
        let mut state = shared.state.lock();
        let written = &mut state.written;
        written.under_way -= self.bytes;
        written.unseen += self.bytes;
        written.since_asked += self.bytes;
        if written.since_asked >= self.kept.step_bytes {
            written.since_asked = 0;
            state.is_due = true;
            shared.changed.notify_all();
        }
        drop(state);
        // Who waits asks for a trimming now that there is something for it to see.
        shared.trimmed.notify_waiters();
    }
}

impl Objects for Kept {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            let room = self.room(bytes.len() as u64);
            let _room = timeout(self.patience, room).await.map_err(|_| Fault::NoRoom)?;
            self.inner.put(name, bytes).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, into: &'a mut [u8]) -> Answer<'a, ()> {
        self.inner.get(name, into)
    }

    fn has<'a>(&'a self, name: &'a str) -> Answer<'a, bool> {
        self.inner.has(name)
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.inner.remove(name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::tier::remote::wrappers::fake::Fake;

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
    fn directory(count: u64) -> TempDir {
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

    fn left(root: &TempDir) -> Vec<u64> {
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

    /// A store of a capacity of 320 bytes, whose trimmer has no thread: [`a_trimming`] is one.
    fn kept(inner: &Arc<Fake>) -> Kept {
        let trimmer = Trimmer { crew: Crew::default(), shared: Arc::default() };
        Kept { inner: inner.clone(), trimmer, step_bytes: 10, patience: Duration::from_millis(20) }
    }

    /// What a trimming that begins now and ends later is told of what was written.
    fn a_trimming(kept: &Kept) -> impl FnOnce() {
        let there_bytes = kept.trimmer.shared.state.lock().written.unseen;
        move || kept.trimmer.shared.saw(&mut kept.trimmer.shared.state.lock(), there_bytes)
    }

    #[tokio::test]
    async fn what_is_written_faster_than_it_is_trimmed_waits_and_is_turned_away() {
        let inner = Arc::new(Fake::default());
        let kept = kept(&inner);
        let put = |name, len| kept.put(name, Bytes::from(vec![0; len]));
        put("a", 12).await.unwrap();
        assert!(kept.trimmer.shared.state.lock().is_due, "a step was written");
        // It begins to list after a was written, and before b was.
        let ends = a_trimming(&kept);
        put("b", 8).await.unwrap();
        assert_eq!(put("c", 1).await, Err(Fault::NoRoom));
        assert_eq!(inner.names().len(), 2);
        ends();
        // Of the 20 bytes that may be there unseen b has 8.
        put("c", 12).await.unwrap();
        assert_eq!(put("d", 1).await, Err(Fault::NoRoom));
        // What is greater than all the room has it alone.
        a_trimming(&kept)();
        put("e", 100).await.unwrap();
        assert_eq!(put("f", 1).await, Err(Fault::NoRoom));
        a_trimming(&kept)();
        // A trimming that began before an object was there has not seen it, though it ends afterwards.
        let (under_way, ends) = (kept.room(15).await, a_trimming(&kept));
        assert_eq!(put("f", 6).await, Err(Fault::NoRoom));
        drop(under_way);
        ends();
        assert_eq!(put("f", 6).await, Err(Fault::NoRoom));
        a_trimming(&kept)();
        put("f", 6).await.unwrap();
        // Who waited for what was under way has a trimming asked for when that ends, though it was no step.
        a_trimming(&kept)();
        let under_way = kept.room(1).await;
        let mut waiting = pin!(kept.room(20));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        kept.trimmer.shared.state.lock().is_due = false;
        drop(under_way);
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        assert!(kept.trimmer.shared.state.lock().is_due);
    }

    #[tokio::test]
    async fn who_waits_for_a_trimming_goes_on_when_it_ends_or_there_will_be_none() {
        let inner = Arc::new(Fake::default());
        let kept = Kept { patience: Duration::from_mins(1), ..kept(&inner) };
        let full = || async { drop(kept.room(20).await) };
        full().await;
        let mut waiting = pin!(kept.room(20));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        a_trimming(&kept)();
        drop(timeout(Duration::from_secs(10), waiting).await.expect("it was told"));
        let mut waiting = pin!(kept.room(20));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        kept.shutdown(Instant::now());
        drop(timeout(Duration::from_secs(10), waiting).await.expect("it was told"));
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

    #[test]
    fn the_trimmer_trims_every_so_often_and_ends_when_told() {
        let patience = Duration::from_mins(1);
        let root = directory(10);
        let trimmer = Trimmer::start(root.path().to_owned(), 500, Duration::from_millis(1)).unwrap();
        assert!(trimmer.wait(3, Instant::now() + patience));
        assert_eq!(left(&root).len(), 5);
        trimmer.shutdown(Instant::now() + patience);
        let (rounds, last) = trimmer.last();
        assert_eq!(last.map(|done| done.bytes_after), Some(500));
        assert_eq!(trimmer.last().0, rounds);

        let trimmer = Trimmer::start(root.path().to_owned(), 500, Duration::from_hours(1)).unwrap();
        assert!(trimmer.wait(1, Instant::now() + patience));
        let began = Instant::now();
        drop(trimmer);
        assert!(began.elapsed() < Duration::from_mins(1), "it does not wait for its period to end");
    }
}
