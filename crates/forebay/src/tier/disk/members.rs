//! Which directory is which drive of a cache.
//!
//! Promises: the first directory is home, the others are known by their `FORMAT`, in whatever order and wherever they
//! are now. One that is new gets the lowest number that is free, one that is not named any more loses its number. What
//! belongs to another cache, or is named twice, is refused with nothing changed in it but its `LOCK`. All are locked.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::directory::{data_path, not_ours};
use super::format_file::{Format, OtherDrive, holds, read_format, write_format};
use super::journal::{CHECKPOINT_FILE, segments};
use super::lock::Lock;
use super::namespaces::hex;
use super::trailer::FORMAT_VERSION;
use crate::catalog::{ChunkRecord, DRIVES_MAX};
use crate::crash_points::{Point, pass};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of the name of a cache.
const CACHE_ID_BYTES: usize = 8;

/// A directory, and which drive it is.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) drive: u8,
    pub(super) path: PathBuf,
    /// The epoch since which it is this drive; `None`: from now on. What is of an earlier one is not in it.
    pub(super) since: Option<u32>,
    /// Length of its data file, as it was found.
    pub(super) data_bytes: u64,
}

/// All directories of a cache.
#[derive(Debug)]
pub(super) struct Members {
    /// Home first.
    list: Vec<Member>,
    locks: Vec<Lock>,
    /// Empty for a cache that has no name yet.
    cache: String,
    epoch: u32,
    home_is_noted: bool,
}

impl Members {
    /// Locks the directories, makes those that are not there, and finds out which drives they are.
    ///
    /// # Errors
    /// With a message that says what to do, when they are not the directories of one cache or cannot be used.
    pub(super) fn gather(directories: &[PathBuf]) -> Result<Self> {
        let Some(home) = directories.first() else {
            return Err(refused(
                "local_disk names no directory; name the one that is to hold the cache".into(),
            ));
        };
        for path in directories {
            fs::create_dir_all(path).map_err(|error| {
                let path = path.display();
                Error::io(
                    format!("using {path} as local_disk: it must be a directory that this user may write to"),
                    error,
                )
            })?;
        }
        refuse_two_names_of_one(directories)?;
        let locks = directories.iter().map(|path| Lock::take(path)).collect::<Result<Vec<_>>>()?;
        let formats = directories.iter().map(|path| read_format(path)).collect::<Result<Vec<_>>>()?;
        let cache = cache_of(directories, &formats)?;
        let known = formats[0].as_ref().map(|format| format.drives.as_slice());

        // Of two that have the same number only one can be right where home does not know: the one used last.
        let mut order: Vec<usize> = (1..directories.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(formats[at].as_ref().map(|format| format.epoch)));
        let home_since = formats[0].as_ref().map_or(0, |format| format.since);
        let mut numbers: Vec<Option<(u8, u32)>> = vec![None; directories.len()];
        numbers[0] = Some((0, home_since));
        for at in order {
            let number = number_of(&directories[at], formats[at].as_ref(), &cache, known)?;
            numbers[at] =
                number.filter(|(drive, _)| numbers.iter().flatten().all(|(other, _)| other != drive));
        }
        for gone in known.into_iter().flatten() {
            if !numbers.contains(&Some((gone.drive, gone.since))) {
                if directories.iter().any(|listed| listed.as_os_str() == gone.path.as_str()) {
                    return Err(refused(format!(
                        "{} was drive {} of this cache, and holds nothing of it now; if its drive is not mounted, \
                         mount it and start again; to give up its chunks, start once without it in local_disk",
                        gone.path, gone.drive
                    )));
                }
                tracing::warn!(
                    drive = gone.drive,
                    directory = gone.path,
                    "not in local_disk any more: the chunks on it are given up"
                );
            }
        }
        let mut taken: Vec<u8> = numbers.iter().flatten().map(|(drive, _)| *drive).collect();
        let mut list = Vec::with_capacity(directories.len());
        for (path, number) in directories.iter().zip(numbers) {
            let data_bytes = data_bytes(path);
            let (drive, since) = number.map_or_else(
                || {
                    let free = (0..u8::MAX).find(|drive| !taken.contains(drive)).unwrap_or(u8::MAX);
                    taken.push(free);
                    (free, None)
                },
                |(drive, since)| (drive, Some(since).filter(|_| data_bytes > 0)),
            );
            list.push(Member { drive, path: path.clone(), since, data_bytes });
        }
        if usize::from(taken.iter().copied().max().unwrap_or(0)) >= DRIVES_MAX {
            return Err(refused(format!(
                "local_disk names {} directories, {} first, and the most is {DRIVES_MAX}",
                directories.len(),
                home.display()
            )));
        }
        let epoch = formats.iter().flatten().map(|format| format.epoch).max().unwrap_or(0);
        Ok(Self { list, locks, cache, epoch, home_is_noted: formats[0].is_some() })
    }

    /// The directories and their drives, home first.
    pub(super) fn list(&self) -> &[Member] {
        &self.list
    }

    /// The directory that has the journal.
    pub(super) fn home(&self) -> &Path {
        &self.list[0].path
    }

    /// Whether home has a `FORMAT` that can be understood.
    pub(super) fn home_is_noted(&self) -> bool {
        self.home_is_noted
    }

    /// The largest epoch that any of them notes.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether any of them had a data file with something in it.
    pub(super) fn have_data(&self) -> bool {
        self.list.iter().any(|member| member.data_bytes > 0)
    }

    /// Whether the chunk of this record can be on one of the drives. To be asked after [`Self::settle`].
    pub(super) fn hold(&self, record: &ChunkRecord) -> bool {
        self.list.iter().any(|member| member.since.is_some_and(|since| holds(record, member.drive, since)))
    }

    /// Notes in all directories what they are from this epoch on. Home goes first: what it does not name is no drive. One
    /// that is new it names last, when that says so itself: named before, and left empty by a death, it would be taken
    /// for a drive that is not mounted.
    pub(super) fn settle(&mut self, epoch: u32) -> Result<()> {
        let known: Vec<u8> = self.list[1..]
            .iter()
            .filter(|member| member.since.is_some())
            .map(|member| member.drive)
            .collect();
        for (lock, member) in self.locks.iter_mut().zip(&mut self.list) {
            let path = member.path.display();
            lock.sign().map_err(|error| Error::io(format!("signing the lock of {path}"), error))?;
            member.since.get_or_insert(epoch);
        }
        pass(Point::LocksSigned);
        if self.cache.is_empty() {
            self.cache = new_cache_id(&whole(self.home()));
        }
        self.note_home(epoch, |member| known.contains(&member.drive))?;
        let home = whole(self.home());
        for member in &self.list[1..] {
            write_format(&member.path, &Format { home: home.clone(), ..self.format_of(member, epoch) })?;
            pass(Point::DriveNoted);
        }
        if known.len() + 1 < self.list.len() {
            self.note_home(epoch, |_| true)?;
        }
        Ok(())
    }

    /// Notes in home what it is, and those of the others that are to be named.
    fn note_home(&self, epoch: u32, is_named: impl Fn(&Member) -> bool) -> Result<()> {
        let others = self.list[1..].iter().filter(|member| is_named(member)).map(|member| OtherDrive {
            drive: member.drive,
            since: member.since.unwrap_or(epoch),
            path: whole(&member.path),
        });
        let format = Format { drives: others.collect(), ..self.format_of(&self.list[0], epoch) };
        write_format(self.home(), &format)?;
        pass(Point::HomeNoted);
        Ok(())
    }

    /// What every directory notes of itself.
    fn format_of(&self, member: &Member, epoch: u32) -> Format {
        Format {
            forebay_format: FORMAT_VERSION,
            epoch,
            cache: self.cache.clone(),
            drive: member.drive,
            since: member.since.unwrap_or(epoch),
            home: String::new(),
            drives: Vec::new(),
        }
    }

    /// The locks: the directories are this one's for as long as they are held.
    pub(super) fn into_locks(self) -> Vec<Lock> {
        self.locks
    }
}

/// A directory's whole path, for whoever reads it elsewhere.
fn whole(path: &Path) -> String {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

/// Length of a directory's data file; zero where there is none.
fn data_bytes(directory: &Path) -> u64 {
    fs::metadata(data_path(directory)).map_or(0, |data| data.len())
}

fn refuse_two_names_of_one(directories: &[PathBuf]) -> Result<()> {
    let mut seen: HashMap<(u64, u64), &Path> = HashMap::new();
    for path in directories {
        let metadata =
            fs::metadata(path).map_err(|error| Error::io(format!("looking at {}", path.display()), error))?;
        if let Some(other) = seen.insert((metadata.dev(), metadata.ino()), path) {
            return Err(refused(format!(
                "{} and {} are the same directory; name each directory of local_disk once",
                other.display(),
                path.display()
            )));
        }
    }
    Ok(())
}

/// The name of the cache whose home is first in the list; empty when it has none yet.
fn cache_of(directories: &[PathBuf], formats: &[Option<Format>]) -> Result<String> {
    let home = &directories[0];
    if let Some(format) = &formats[0] {
        if format.drive > 0 {
            return Err(refused(format!(
                "{} is drive {} of the cache whose home is {}; name home first in local_disk, or an empty directory \
                 for a cache of its own",
                home.display(),
                format.drive,
                format.home
            )));
        }
        return Ok(format.cache.clone());
    }
    let mut others = directories.iter().zip(formats).skip(1);
    let Some((path, format)) =
        others.find_map(|(path, format)| Some((path, format.as_ref().filter(|format| format.drive > 0)?)))
    else {
        return Ok(String::new());
    };
    let has_journal = home.join(CHECKPOINT_FILE).exists() || segments(home).is_ok_and(|all| !all.is_empty());
    if has_journal || data_bytes(home) > 0 {
        // It has lost its own word for it: the others have it.
        return Ok(format.cache.clone());
    }
    Err(refused(format!(
        "{} has nothing in it, and {} is drive {} of the cache whose home was {}; name home first in local_disk, or if \
         that is lost, empty the other directories",
        home.display(),
        path.display(),
        format.drive,
        format.home
    )))
}

/// The drive that a directory which is not home has been, and since when; `None` for one that is new to the cache.
/// `known` are the drives that home notes.
fn number_of(
    path: &Path,
    format: Option<&Format>,
    cache: &str,
    known: Option<&[OtherDrive]>,
) -> Result<Option<(u8, u32)>> {
    let Some(format) = format else {
        if data_bytes(path) == 0 {
            return Ok(None);
        }
        // It has lost its own word for it: home has it.
        let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let noted = known.into_iter().flatten().find(|other| Path::new(&other.path) == place);
        return noted.map(|other| Some((other.drive, other.since))).ok_or_else(|| not_ours(path));
    };
    if format.drive == 0 {
        return Err(refused(format!(
            "{} is the home of a cache, and only the first directory of local_disk may be; take it off the list, or \
             empty it to use it here",
            path.display()
        )));
    }
    if cache.is_empty() || format.cache != cache {
        return Err(refused(format!(
            "{} is drive {} of another cache, whose home was {}; take it off local_disk, or empty it to use it here",
            path.display(),
            format.drive,
            format.home
        )));
    }
    let is_known = known.is_none_or(|known| {
        known.iter().any(|other| (other.drive, other.since) == (format.drive, format.since))
    });
    Ok((is_known && usize::from(format.drive) < DRIVES_MAX).then_some((format.drive, format.since)))
}

/// What no other cache is called: it is made once, at a moment and a place of its own.
fn new_cache_id(home: &str) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mut hash = Sha256::new();
    hash.update(since.to_le_bytes());
    hash.update(std::process::id().to_le_bytes());
    hash.update(home.as_bytes());
    hex(&hash.finalize()[..CACHE_ID_BYTES])
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}
