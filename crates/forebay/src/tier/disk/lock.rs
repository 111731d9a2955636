//! Who may use a directory: one owner, or any number of readers while it has none.
//!
//! The kernel holds the lock (`flock` on the file `LOCK`), so it ends with the process however that ends. The file
//! holds the owner's process id, for messages only.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, ErrorKind, Result};

const LOCK_FILE: &str = "LOCK";
/// A look at a directory holds the lock for microseconds; an owner does not fail for that.
const READERS_PATIENCE: Duration = Duration::from_millis(200);

/// Ownership of a directory, until this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// Who took it.
    process: u32,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A forked child may hold a copy of the descriptor; this ends the lock for all of them. What a child drops is not
        // its own.
        if self.process == std::process::id() {
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl Lock {
    /// Takes a directory over.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when another process owns it or reads it.
    pub fn take(directory: &Path) -> Result<Self> {
        let path = directory.join(LOCK_FILE);
        let doing = || format!("locking {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io(doing(), error))?;
        let deadline = Instant::now() + READERS_PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file, process: std::process::id() }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(READERS_PATIENCE / 20);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => break,
                Err(error) => return Err(Error::io(doing(), error)),
            }
        }
        let message = match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                format!("{} is being read (forebay verify?); wait until that ends", directory.display())
            }
            Err(_) => format!(
                "{} is in use by {}; stop it, or give this one another local_disk",
                directory.display(),
                owner_in(&mut file)
            ),
        };
        Err(Error::new(ErrorKind::Locked, message))
    }

    /// Notes who the owner is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

/// Keeps owners away while the directory is read, and changes nothing in it. `None` when it has no lock file: then
/// nobody has ever owned it where it is now.
///
/// # Errors
/// [`ErrorKind::Locked`] when a process owns it.
pub fn lock_for_reading(directory: &Path) -> Result<Option<File>> {
    let path = directory.join(LOCK_FILE);
    let doing = || format!("locking {}", path.display());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(doing(), error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let owner = owner_in(&mut file);
            let message = format!("{} is in use by {owner}; stop it and try again", directory.display());
            Err(Error::new(ErrorKind::Locked, message))
        }
        Err(error) => Err(Error::io(doing(), error)),
    }
}

/// Who owns a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Its process id, if it is to be told.
    pub pid: Option<u32>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            None => f.write_str("another process"),
            Some(pid) if Path::new("/proc").join(pid.to_string()).exists() => write!(f, "process {pid}"),
            Some(pid) => write!(f, "a child of process {pid}, which is dead"),
        }
    }
}

/// Who owns a directory now, if anybody does.
pub fn owner(directory: &Path) -> Option<Owner> {
    let mut file = File::open(directory.join(LOCK_FILE)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => Some(owner_in(&mut file)),
    }
}

fn owner_in(file: &mut File) -> Owner {
    let mut pid = String::new();
    let _ = file.take(32).read_to_string(&mut pid);
    Owner { pid: pid.trim().parse().ok() }
}
