//! A trace through the catalog alone: what would be found, stored and evicted, with no byte moved.

use std::time::Instant;

use forebay::catalog::{CachePolicy, Catalog, ChunkRecord, Limits, LookupDecision, StoreDecision};
use forebay::{ChunkKey, Error, ErrorKind, Result};

use super::{Replayed, Step};

/// A catalog of so many chunks, each of which is on disk as soon as it is planned.
pub(super) struct Simulated {
    catalog: Catalog,
    chunk_bytes: u32,
}

impl Simulated {
    pub(super) fn new(chunks: u64, chunk_bytes: u32, policy: CachePolicy) -> Result<Self> {
        let blocks = chunks.checked_mul(ChunkRecord::room_blocks(chunk_bytes));
        let limits = blocks.and_then(|blocks| u32::try_from(blocks).ok()).map(|blocks| Limits {
            blocks: blocks.into(),
            chunks_max: u32::try_from(chunks).unwrap_or(u32::MAX),
            // One request at a time: its chunks, and a lookup.
            tickets_max: u32::MAX,
        });
        let limits = limits.ok_or_else(|| {
            let message =
                format!("{chunks} chunks of {chunk_bytes} bytes are more than the 16 TiB of a tier");
            Error::new(ErrorKind::Argument, message)
        })?;
        Ok(Self { catalog: Catalog::new(limits, policy, 1), chunk_bytes })
    }
}

impl Replayed for Simulated {
    fn request(&mut self, keys: &[ChunkKey], now_ms: u64) -> Result<Step> {
        let begin = Instant::now();
        let decision = self.catalog.lookup(keys);
        let lookup = begin.elapsed();
        let hit = match decision {
            LookupDecision::Hit { chunks, ticket } => {
                self.catalog.release(ticket);
                chunks
            }
            LookupDecision::Miss => 0,
            LookupDecision::Pending | LookupDecision::Busy => {
                let message = "the catalog was busy though nothing was under way: please report this";
                return Err(Error::new(ErrorKind::Closed, message));
            }
        };
        let mut step = Step { hit, lookup, ..Step::default() };
        let rest: Vec<(ChunkKey, u32)> = keys[hit..].iter().map(|key| (*key, self.chunk_bytes)).collect();
        let parent = hit.checked_sub(1).map(|last| keys[last]);
        let mut removed = Vec::new();
        let evicted_before = self.catalog.counts().evicted;
        for decision in self.catalog.plan_store(&rest, parent, now_ms, &mut removed) {
            match decision {
                StoreDecision::Write(plan) => {
                    self.catalog.commit(plan.ticket);
                    step.stored.chunks += 1;
                    step.stored.bytes += u64::from(self.chunk_bytes);
                }
                StoreDecision::Present | StoreDecision::InFlight(_) => step.stored.present += 1,
                StoreDecision::Full | StoreDecision::Busy => step.stored.refused += 1,
            }
        }
        step.loaded.chunks = hit as u64;
        step.loaded.bytes = hit as u64 * u64::from(self.chunk_bytes);
        step.evicted = self.catalog.counts().evicted - evicted_before;
        Ok(step)
    }
}
