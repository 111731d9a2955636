//! A chunk on disk as a source: what is copied to the remote store.
//!
//! Promises: the last part goes only if trailer and payload are what was stored. It is read piece by piece, by the thread
//! that copies, beside what the I/O engine does: one piece at a time cannot hold up loads.

use std::io;

use super::memory::{Observer, Source};
use super::why;
use crate::catalog::{BLOCK_BYTES, ChunkRecord};
use crate::checksum::PayloadHasher;
use crate::memory::PageMemory;
use crate::outcome::Reason;
use crate::tier::disk::block_file::read_blocks;
use crate::tier::disk::data_files::DataFiles;
use crate::tier::disk::trailer::{self, Corruption};

/// What is read at a time.
const WINDOW_BYTES: usize = 128 << 10;

/// See the module's documentation.
pub(super) struct Stored {
    record: ChunkRecord,
    files: DataFiles,
    /// What was read last: payload, or the trailer's page.
    window: PageMemory,
    failure: Option<Reason>,
}

impl Stored {
    pub(super) fn new(record: ChunkRecord, files: DataFiles) -> Result<Self, Reason> {
        let window = PageMemory::new(WINDOW_BYTES).map_err(|error| Reason::Engine(error.to_string()))?;
        Ok(Self { record, files, window, failure: None })
    }

    /// Reads so many bytes of whole blocks, from a block on.
    fn read(&mut self, first: u64, len: usize) -> Result<&[u8], Reason> {
        let extents = self.record.extents.part(first, (len / BLOCK_BYTES) as u64);
        let window = &mut self.window.as_mut_slice()[..len];
        let file = self.files.get(self.record.drive).map_err(|error| why(&error))?;
        match read_blocks(file, &extents, window) {
            Ok(()) => Ok(window),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Reason::Corrupt(Corruption::Truncated))
            }
            Err(error) => Err(why(&error)),
        }
    }
}

impl Source for Stored {
    fn len(&self) -> usize {
        self.record.length as usize
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        for (index, to) in to.chunks_mut(WINDOW_BYTES).enumerate() {
            let first = ((at + index * WINDOW_BYTES) / BLOCK_BYTES) as u64;
            match self.read(first, to.len().next_multiple_of(BLOCK_BYTES)) {
                Ok(piece) => {
                    to.copy_from_slice(&piece[..to.len()]);
                    seen(to);
                }
                Err(reason) => {
                    let message = reason.to_string();
                    self.failure = Some(reason);
                    return Err(message);
                }
            }
        }
        Ok(())
    }

    fn vouch(&mut self, payload: &PayloadHasher) -> Result<(), Reason> {
        if let Some(reason) = self.failure.take() {
            return Err(reason);
        }
        let record = self.record;
        let page = self.read(ChunkRecord::blocks(record.length) - 1, BLOCK_BYTES)?;
        let sum = trailer::verify(page, &record).map_err(Reason::Corrupt)?;
        if trailer::payload_sum(&record, payload) == sum {
            Ok(())
        } else {
            Err(Reason::Corrupt(Corruption::Payload))
        }
    }
}
