//! Points of the way to the disk at which a test has the process die: before, after and in the middle of each step that
//! something is durable by. And the turns of background threads, at which a test has one of those die.
//!
//! Promises: with the feature `crash-points`, which only tests turn on (this crate's own, and `forebay-watch`'s), a process whose environment has
//! `FOREBAY_DIE_AT` set to `POINT:N` is killed by SIGKILL when it passes that point for the `N`th time, and a file named by
//! `FOREBAY_NOTE_POINTS` gets a line for each point that is passed. Without the feature `pass`,
//! `pass_with` and `turn` are empty functions, and nothing of this is in what is built.
//!
//! A feature, since wrappers of the seams (`Home`, `BlockFile`) would reach the journal and the data, but not `FORMAT`,
//! the space that is taken, the order among a cache's directories, nor the catalog's steps between them. That the crate is its own
//! dev-dependency turns it on for `cargo test`, in the workspace as alone, and for nothing else that is built.

macro_rules! points {
    ($($(#[$about:meta])* $point:ident,)*) => {
        /// The points. This is all of them: `tests/crash_points.rs` fails for one that no process died at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point {
            $($(#[$about])* $point,)*
        }

        impl Point {
            /// Each of them.
            pub const ALL: &[Self] = &[$(Self::$point,)*];
        }
    };
}

points! {
    /// A small file (`FORMAT`, `namespaces`) has its successor, empty.
    SmallFileCreated,
    /// Half of that is written.
    SmallFileHalfWritten,
    /// All of it is written and synced.
    SmallFileSynced,
    /// It has the file's name.
    SmallFileRenamed,
    /// The owner has signed the locks; nothing says yet which epoch has begun.
    LocksSigned,
    /// Home's `FORMAT` says which drives there are, at first without those that are new.
    HomeNoted,
    /// A further directory's `FORMAT` says which drive it is.
    DriveNoted,
    /// A data file is there and as long as it was, or empty.
    DataOpened,
    /// A data file that was too long is cut.
    DataCut,
    /// A data file has its space, its name may not be durable.
    DataPreallocated,
    /// An open cache's data file has more space, of which nothing knows yet.
    SpaceTaken,
    /// It is written down that nothing lies in blocks that are to be given up.
    SpaceToBeGivenBack,
    /// The file system has their space.
    SpaceGivenBack,
    /// A rebuild has found out what is in the data files, and goes on to look whether it is whole.
    RebuildCandidatesFound,
    /// A rebuild has checked one more chunk.
    RebuildChunkChecked,
    /// A start has noted as gone what it did not take in.
    GoneNoted,
    /// A segment's file is there, empty.
    SegmentCreated,
    /// Half of its header is written.
    SegmentHalfBegun,
    /// Its header is written, its name may not be durable.
    SegmentBegun,
    /// Entries go to a new segment, and no checkpoint stands for those before.
    SegmentChanged,
    /// Entries are about to be appended.
    JournalToBeAppended,
    /// Half of their bytes are.
    JournalHalfAppended,
    /// All of them are.
    JournalAppended,
    /// The journal is synced for each commit.
    JournalSynced,
    /// `checkpoint.new` is there, empty.
    CheckpointCreated,
    /// Half of a piece of it is written.
    CheckpointPartlyWritten,
    /// All of it is written.
    CheckpointWritten,
    /// It is synced.
    CheckpointSynced,
    /// It is `checkpoint`.
    CheckpointRenamed,
    /// And durably so; the segments that it stands for are still there.
    CheckpointNamesSynced,
    /// One of them is deleted.
    SegmentDeleted,
    /// Chunks are evicted, in memory only.
    EvictionToBeNoted,
    /// It is noted that they are, and nothing is written over them.
    EvictionNoted,
    /// A part of a chunk is with the drive.
    PartHandedOver,
    /// A part of a chunk is written.
    PartWritten,
    /// The part that has the trailer is.
    TrailerWritten,
    /// All of a chunk is written, and nothing says so.
    ChunkWritten,
    /// And synced, for each commit.
    ChunkSynced,
    /// The chunk is committed, and nobody is told.
    Committed,
    /// The data files are synced because it was time to.
    DataSyncedInTime,
    /// The segments before the one that is written are, too.
    FormerSegmentsSyncedInTime,
    /// And that one.
    JournalSyncedInTime,
    /// An end in order has given the directories back.
    GivenBack,
}

/// The process has come to `point`.
#[inline]
pub(crate) fn pass(point: Point) {
    pass_with(point, || {});
}

/// As [`pass`]; does `last` before the process dies here, and nothing otherwise.
#[inline]
pub(crate) fn pass_with(point: Point, last: impl FnOnce()) {
    #[cfg(feature = "crash-points")]
    armed::pass(point, last);
    #[cfg(not(feature = "crash-points"))]
    let _ = (point, last);
}

/// A background thread begins a turn: here it dies of a panic, if a test has said so ([`kill_thread`]).
#[inline]
pub(crate) fn turn() {
    #[cfg(feature = "crash-points")]
    armed::turn();
}

/// Has the thread of this name die at its next turn; the first of them, if there are several.
#[cfg(feature = "crash-points")]
pub fn kill_thread(name: &str) {
    armed::kill_thread(name);
}

/// When a thread last died so.
#[cfg(feature = "crash-points")]
pub fn last_death() -> Option<std::time::Instant> {
    *armed::LAST_DEATH.lock()
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use parking_lot::Mutex;
    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    struct Orders {
        /// Where to die, and at which passing.
        die_at: Option<(Point, u64)>,
        /// Where points are noted.
        notes: Option<File>,
    }

    static ORDERS: LazyLock<Orders> = LazyLock::new(|| {
        let die_at = std::env::var("FOREBAY_DIE_AT").ok().map(|text| {
            let (name, passing) = text.split_once(':').expect("FOREBAY_DIE_AT is POINT:N");
            let point = Point::ALL.iter().find(|point| format!("{point:?}") == name);
            (
                *point.expect("FOREBAY_DIE_AT names a point"),
                passing.parse().expect("FOREBAY_DIE_AT is POINT:N"),
            )
        });
        let notes = std::env::var_os("FOREBAY_NOTE_POINTS").map(|path| {
            OpenOptions::new().append(true).create(true).open(path).expect("points can be noted")
        });
        Orders { die_at, notes }
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);
    /// Threads that are to die, and whether there are any.
    static TO_DIE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    pub(super) static LAST_DEATH: Mutex<Option<std::time::Instant>> = Mutex::new(None);
    static ANY_TO_DIE: AtomicBool = AtomicBool::new(false);

    pub(super) fn kill_thread(name: &str) {
        TO_DIE.lock().push(name.to_owned());
        ANY_TO_DIE.store(true, Ordering::SeqCst);
    }

    pub(super) fn turn() {
        if !ANY_TO_DIE.load(Ordering::SeqCst) {
            return;
        }
        let me = std::thread::current();
        let mut to_die = TO_DIE.lock();
        let Some(place) = to_die.iter().position(|name| Some(name.as_str()) == me.name()) else { return };
        to_die.swap_remove(place);
        ANY_TO_DIE.store(!to_die.is_empty(), Ordering::SeqCst);
        drop(to_die);
        *LAST_DEATH.lock() = Some(std::time::Instant::now());
        panic!("a test had this thread die");
    }

    pub(super) fn pass(point: Point, last: impl FnOnce()) {
        let Orders { die_at, notes } = &*ORDERS;
        if let Some(mut notes) = notes.as_ref() {
            // In one piece, as other threads write too.
            notes.write_all(format!("{point:?}\n").as_bytes()).expect("points can be noted");
        }
        if let Some((die_at, passing)) = *die_at
            && die_at == point
            && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == passing
        {
            last();
            let _ = kill_process(getpid(), Signal::KILL);
            // The signal is on its way.
            loop {
                std::thread::park();
            }
        }
    }
}
