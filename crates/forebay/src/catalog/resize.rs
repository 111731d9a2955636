//! Making a tier smaller and larger while it is used.
//!
//! Promises: what goes to make it smaller is what its policy says, wherever that lies, and never what may not be evicted; so
//! much at a time as the caller says. So no more goes than must, and drives are not always as much smaller as each other.
//! There are never more chunks than the catalog was made for.

use super::{Catalog, Entry, Extent};

/// What came of withholding blocks.
#[derive(Debug, Default)]
pub struct Withheld {
    /// What is withheld, and of which drive. [`Catalog::give_out`] takes it back from the end.
    pub extents: Vec<(u8, Extent)>,
    /// Whether no block is free, and nothing that is left may go now.
    pub is_stuck: bool,
}

impl Catalog {
    /// Withholds free blocks, at most `blocks`, in whole units if it can; evicts up to `most_chunks` chunks for that, which
    /// are added to `removed`. Nothing is stored in what is withheld until it is given out.
    pub fn withhold(
        &mut self,
        blocks: u32,
        unit: u32,
        most_chunks: usize,
        removed: &mut Vec<Entry>,
    ) -> Withheld {
        let evicted_max = removed.len() + most_chunks;
        let mut withheld = Withheld::default();
        let mut left = blocks;
        while left > 0 {
            let mut found = self.drives.withhold(left, unit.min(left));
            if found.is_none() {
                if removed.len() >= evicted_max {
                    break;
                }
                if let Some(removal) = self.evict() {
                    removed.push(removal);
                    continue;
                }
                found = self.drives.withhold(left, 1);
            }
            let Some((drive, extent)) = found else {
                withheld.is_stuck = true;
                break;
            };
            left -= extent.blocks;
            withheld.extents.push((drive, extent));
        }
        withheld
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
