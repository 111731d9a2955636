//! An inference engine: memory that chunks come from and go to, and that fails or dies on the way.

use std::sync::Arc;

use forebay::ChunkKey;
use forebay::mover::{Observer, Sink, Source, drain_to, fill_from};
use parking_lot::Mutex;

/// What an engine's thread dies with. Not told by the panic hook.
struct EngineDied;

/// How engine memory ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All of it is moved.
    Well,
    /// It cannot be used from the part on that begins at or behind this byte.
    FailsAt(usize),
    /// The engine's thread dies there.
    DiesAt(usize),
}

impl Ending {
    /// Whether nothing of it is moved.
    pub(crate) fn is_at_once(self) -> bool {
        matches!(self, Self::FailsAt(0) | Self::DiesAt(0))
    }

    fn at(self, at: usize) -> Result<(), String> {
        match self {
            Self::FailsAt(end) if at >= end => Err("engine memory is gone".into()),
            Self::DiesAt(end) if at >= end => std::panic::resume_unwind(Box::new(EngineDied)),
            _ => Ok(()),
        }
    }
}

/// What a chunk of this key and generation holds.
pub(crate) fn payload(key: &ChunkKey, generation: u64, len: usize) -> Vec<u8> {
    let seed = key.as_bytes()[8..16]
        .iter()
        .fold(generation, |seed, &byte| (seed << 7) ^ (seed >> 57) ^ u64::from(byte));
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        word = word.wrapping_mul(0xd129_0d3a_66f1_5bd5).wrapping_add(0x2545_f491_4f6c_dd1d);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Memory to store from.
pub(crate) struct From {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// How it ends.
    pub(crate) ending: Ending,
}

impl Source for From {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn fill(&mut self, at: usize, to: &mut [u8], seen: Observer<'_>) -> Result<(), String> {
        self.ending.at(at)?;
        fill_from(&self.bytes[at..at + to.len()], to, seen);
        Ok(())
    }
}

/// Memory to load into.
#[derive(Clone)]
pub(crate) struct To {
    /// Its bytes.
    pub(crate) bytes: Arc<Mutex<Vec<u8>>>,
    /// How it ends.
    pub(crate) ending: Ending,
}

impl Sink for To {
    fn len(&self) -> usize {
        self.bytes.lock().len()
    }

    fn drain(&mut self, at: usize, from: &[u8], seen: Observer<'_>) -> Result<(), String> {
        self.ending.at(at)?;
        drain_to(from, &mut self.bytes.lock()[at..at + from.len()], seen);
        Ok(())
    }
}
