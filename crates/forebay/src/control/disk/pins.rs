//! Pinning: keeping chunks from eviction for as long as somebody asks for it.
//!
//! Promises: at most half of the capacity is pinned, so the cache goes on; a few chunks are looked at, then all other calls have
//! their turn. What comes later is not pinned, and a restart knows of no pins.

use super::{DiskPlane, LOOKED_AT_ONCE, State};
use crate::catalog::NamespaceId;
use crate::error::Result;
use crate::key::ChunkKey;

/// One block of so many may be pinned.
pub(super) const PINNED_ONE_OF: u64 = 2;

/// Which chunks are pinned, or are not any more.
#[derive(Debug, Clone, Copy)]
pub enum Pinning<'a> {
    /// These.
    Keys(&'a [ChunkKey]),
    /// All that are there of a namespace.
    Namespace(NamespaceId),
    /// All that are there.
    All,
}

impl Pinning<'_> {
    fn is_meant(self, key: &ChunkKey) -> bool {
        match self {
            Pinning::Keys(keys) => keys.contains(key),
            Pinning::Namespace(id) => key.namespace_id() == id,
            Pinning::All => true,
        }
    }
}

/// What came of pinning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Of the chunks that were asked for, those that are pinned now.
    pub chunks: u64,
    /// Those that are not: they are not there, or half of the capacity is pinned.
    pub left_out: u64,
}

/// Blocks that may be pinned: of the capacity that is, or that will be soon.
fn pinned_max_blocks(state: &State) -> u64 {
    let blocks = state.catalog.space().blocks();
    state.target_blocks.map_or(blocks, |target| target.min(blocks)) / PINNED_ONE_OF
}

impl DiskPlane {
    /// Keeps chunks from being evicted, each with those it continues.
    pub(in super::super) fn pin(&self, which: Pinning<'_>) -> Result<Pinned> {
        self.pin_what_is_continued()?;
        let mut pinned = Pinned::default();
        if let Pinning::Keys(keys) = which {
            for keys in keys.chunks(LOOKED_AT_ONCE as usize) {
                let mut state = self.open_state()?;
                let most = pinned_max_blocks(&state);
                let kept = keys.iter().filter(|key| state.catalog.keep(key, most)).count() as u64;
                pinned.chunks += kept;
                pinned.left_out += keys.len() as u64 - kept;
            }
            return Ok(pinned);
        }
        self.each_place(|state, from| {
            let most = pinned_max_blocks(state);
            let (kept, left_out, next) =
                state.catalog.keep_some(from, LOOKED_AT_ONCE, most, |key| which.is_meant(key));
            pinned.chunks += kept;
            pinned.left_out += left_out;
            next
        })?;
        Ok(pinned)
    }

    /// Lets chunks be evicted again; says how many were pinned.
    pub(in super::super) fn unpin(&self, which: Pinning<'_>) -> Result<u64> {
        let mut unpinned = 0;
        if let Pinning::Keys(keys) = which {
            for keys in keys.chunks(LOOKED_AT_ONCE as usize) {
                let mut state = self.open_state()?;
                unpinned += keys.iter().filter(|key| state.catalog.let_go(key)).count() as u64;
            }
        } else {
            self.each_place(|state, from| {
                let (let_go, next) =
                    state.catalog.let_some_go(from, LOOKED_AT_ONCE, |key| which.is_meant(key));
                unpinned += let_go;
                next
            })?;
        }
        self.pin_what_is_continued()?;
        Ok(unpinned)
    }

    /// Has all count that cannot be evicted because of what is pinned.
    fn pin_what_is_continued(&self) -> Result<()> {
        self.each_place(|state, from| state.catalog.keep_what_is_continued(from, LOOKED_AT_ONCE))
    }

    /// Looks at all places of the catalog, a few at a time; `look` says where to go on.
    fn each_place(&self, mut look: impl FnMut(&mut State, u32) -> Option<u32>) -> Result<()> {
        let mut from = Some(0);
        while let Some(place) = from {
            from = look(&mut *self.open_state()?, place);
        }
        Ok(())
    }
}
