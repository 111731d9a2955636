//! Making a tier smaller and larger while it is used.
//!
//! Promises: what goes to make a drive smaller is what its policy says, and never what may not be evicted; so much at a time
//! as the caller says. There are never more chunks than the catalog was made for.

use super::{AddressSpace, Catalog, Entry, Extent};

/// So many times the unit may be free of a drive in smaller pieces, before those are withheld too: rather scattered
/// pieces than the loss of all chunks.
const FREE_IN_PIECES_MAX: u64 = 8;

/// What came of withholding blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// These are withheld.
    Blocks(Extent),
    /// As many chunks went as may go at a time, and no room came of it yet.
    NotYet,
    /// Nothing that is left may go now.
    Never,
}

impl Catalog {
    /// Withholds free blocks of a drive, at most `most_blocks`, in whole units if it can; evicts up to `most_chunks` chunks for
    /// that, which are added to `removed`. Nothing is stored in what is withheld until it is given out.
    pub fn withhold(
        &mut self,
        drive: u8,
        most_blocks: u32,
        unit: u32,
        most_chunks: usize,
        removed: &mut Vec<Entry>,
    ) -> Withheld {
        let unit = unit.min(most_blocks);
        let evicted_max = removed.len() + most_chunks;
        loop {
            if let Some(extent) = self.drives.withhold(drive, most_blocks, unit) {
                return Withheld::Blocks(extent);
            }
            let free = self.drives.spaces().get(usize::from(drive)).map_or(0, AddressSpace::free_blocks);
            if free > FREE_IN_PIECES_MAX * u64::from(unit)
                && let Some(extent) = self.drives.withhold(drive, most_blocks, 1)
            {
                return Withheld::Blocks(extent);
            }
            if removed.len() >= evicted_max {
                return Withheld::NotYet;
            }
            match self.evict() {
                Some(removal) => removed.push(removal),
                None => {
                    return self
                        .drives
                        .withhold(drive, most_blocks, 1)
                        .map_or(Withheld::Never, Withheld::Blocks);
                }
            }
        }
    }

    /// Blocks of a drive that were withheld, at most so many; `None` when none are.
    pub fn withheld(&self, drive: u8, most_blocks: u32) -> Option<Extent> {
        self.drives.withheld(drive, most_blocks)
    }

    /// Lets chunks be stored again in what [`Self::withheld`] has said.
    pub fn give_out(&mut self, drive: u8, extent: Extent) {
        self.drives.give_out(drive, extent);
    }

    /// Adds blocks behind the last of a drive.
    pub fn extend(&mut self, drive: u8, blocks: u32) {
        self.drives.extend(drive, blocks);
    }
}
