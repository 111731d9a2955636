//! Taking stock: from what is found in a cache's directories to a catalog, and a journal that goes on from there.
//!
//! Promises: what checkpoint and journal say is in the catalog, and where they cannot be trusted what the trailers
//! prove; the epoch is a new one, and noted before anything is written under it; what is found and not taken in is
//! noted as gone. At every instant what is on disk can be taken stock of again, with the same chunks.

use std::collections::HashSet;
use std::sync::Arc;

use super::home::Home;
use super::journal::{Journal, SEGMENT_RECORDS, delete_before, segments_in, write_checkpoint};
use super::recovery::{Found, read_journal_in};
use crate::catalog::{CachePolicy, Catalog, ChunkRecord, Drives, EPOCH_MAX, Entry, Limits};
use crate::crash_points::{Point, pass};
use crate::error::{Error, ErrorKind, Result};

/// What the directories of a cache are asked for. They are locked, and nobody else writes to them.
pub trait Ground {
    /// Where the journal is.
    fn home(&self) -> &Arc<dyn Home>;

    /// Whether any of them had a data file with something in it.
    fn have_data(&self) -> bool;

    /// The largest epoch that any of them notes.
    fn noted_epoch(&self) -> u32;

    /// What the trailers of all chunks say.
    ///
    /// # Errors
    /// When a data file cannot be read, or nothing of a cache is left.
    fn by_trailers(&self) -> Result<Found>;

    /// Notes the epoch, so that it survives a power loss, and takes the space that chunks may have.
    ///
    /// # Errors
    /// When that cannot be written, or there is no room.
    fn settle(&mut self, epoch: u32) -> Result<Limits>;

    /// Whether the chunk of this record can be on one of the drives. Asked after [`Self::settle`].
    fn holds(&self, record: &ChunkRecord) -> bool;
}

/// What there is.
#[derive(Debug)]
pub struct Stock {
    /// The chunks.
    pub catalog: Catalog,
    /// A fresh segment.
    pub journal: Journal,
    /// The segments before it that are still needed, ascending.
    pub former: Vec<u64>,
    /// The epoch that has begun.
    pub epoch: u32,
    /// Journal records that no checkpoint covers.
    pub journal_records: u64,
    /// Interrupted journal records that were passed over.
    pub interrupted: u64,
    /// Why the catalog had to be rebuilt from the trailers, if so.
    pub rebuilt: Option<String>,
}

/// Takes stock.
///
/// # Errors
/// What the directories answer.
pub fn take_stock(ground: &mut impl Ground, policy: CachePolicy) -> Result<Stock> {
    let home = Arc::clone(ground.home());
    let found = read_journal_in(&*home)?;
    // Left behind by a death right after a checkpoint.
    delete_before(&*home, found.first_segment);
    let Trusted { found, rebuilt, void } = Trusted::of(found, &*ground)?;
    let epoch = found.epoch.max(ground.noted_epoch()) + 1;
    if epoch > EPOCH_MAX {
        let message = format!(
            "{} was opened {EPOCH_MAX} times, the most its format counts; empty it",
            home.path().display()
        );
        return Err(Error::new(ErrorKind::Format, message));
    }
    let limits = ground.settle(epoch)?;

    let (catalog, left) = take_in(&found, &*ground, &limits, policy, epoch);
    let mut gone: Vec<Entry> =
        left.iter().map(|(record, _)| Entry::Remove(record.key, record.generation)).collect();
    if rebuilt.is_some() || void {
        // The old journal is not to be read again. Its successor is begun after that is so: an empty segment where none
        // was would be believed.
        let records: Vec<ChunkRecord> = catalog.committed().collect();
        write_checkpoint(&*home, epoch, found.next_segment, &records)?;
        gone.clear();
    }
    let mut journal = Journal::begin(&home, found.next_segment, epoch)?;
    journal
        .append(&gone)
        .map_err(|error| Error::io(format!("writing the journal in {}", home.path().display()), error))?;
    pass(Point::GoneNoted);
    let Found { interrupted, replayed, segments: former, .. } = found;
    let segments = segments_in(&*home).map_or(1, |segments| segments.len() as u64);
    let journal_records = replayed + gone.len() as u64 + SEGMENT_RECORDS * segments;
    Ok(Stock { catalog, journal, former, epoch, journal_records, interrupted, rebuilt })
}

/// What is found and can be believed.
pub(super) struct Trusted {
    pub(super) found: Found,
    /// Why it is from the trailers, if so.
    pub(super) rebuilt: Option<String>,
    /// Checkpoint and journal say something, and there is no data.
    pub(super) void: bool,
}

impl Trusted {
    /// Of what checkpoint and journal say that which holds, or where they cannot be trusted what the trailers prove. Changes
    /// nothing.
    pub(super) fn of(mut found: Found, ground: &impl Ground) -> Result<Self> {
        let mut rebuilt = None;
        let mut void = false;
        if !ground.have_data() {
            // Without data, whatever the journal says is void.
            void = !found.is_empty();
            found.records.clear();
        } else if let Some(damage) =
            found.damage.take().or_else(|| found.is_empty().then(|| "it is missing".into()))
        {
            tracing::warn!(
                directory = %ground.home().path().display(),
                damage,
                "cannot use the journal; reading the chunks' trailers"
            );
            let next_segment = found.next_segment;
            found = ground.by_trailers()?;
            found.next_segment = next_segment;
            rebuilt = Some(damage);
        }
        Ok(Self { found, rebuilt, void })
    }
}

/// Why a chunk that was found is not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Its drive is lost, and has taken it with it.
    WithItsDrive,
    /// It lies past the end of its data file.
    PastTheEnd,
    /// Another one was written over it.
    WrittenOver,
    /// There are more than may be.
    TooMany,
}

/// A catalog of what was found, and what of that has no place in it. Changes nothing on disk.
pub(super) fn take_in(
    found: &Found,
    ground: &impl Ground,
    limits: &Limits,
    policy: CachePolicy,
    epoch: u32,
) -> (Catalog, Vec<(ChunkRecord, Left)>) {
    let mut catalog = Catalog::new(*limits, policy, epoch);
    let overwritten = overwritten(found.records.iter().filter(|record| ground.holds(record)), limits);
    let ends_in_time = |record: &ChunkRecord| {
        let blocks = limits.blocks.as_slice().get(usize::from(record.drive)).copied().unwrap_or(0);
        record.extents.as_slice().iter().all(|extent| extent.end() <= u64::from(blocks))
    };
    // Last used first: if not all of them have room any more those go that would have gone first.
    let mut all_left = Vec::new();
    for record in found.records.iter().rev() {
        let left = if !ground.holds(record) {
            Some(Left::WithItsDrive)
        } else if !ends_in_time(record) {
            Some(Left::PastTheEnd)
        } else if overwritten.contains(&record.generation) {
            Some(Left::WrittenOver)
        } else {
            (!catalog.restore(*record)).then_some(Left::TooMany)
        };
        all_left.extend(left.map(|left| (*record, left)));
    }
    catalog.tie_restored();
    (catalog, all_left)
}

/// Generations of chunks whose blocks a newer one has: that they went was written down, and lost with the power.
fn overwritten<'a>(records: impl Iterator<Item = &'a ChunkRecord>, limits: &Limits) -> HashSet<u64> {
    let mut newest_first: Vec<&ChunkRecord> = records.collect();
    newest_first.sort_unstable_by_key(|record| std::cmp::Reverse(record.generation));
    let mut drives = Drives::new(&limits.blocks);
    let has_no_place = |record: &&ChunkRecord| !drives.reserve(record.drive, &record.extents);
    newest_first.into_iter().filter(has_no_place).map(|record| record.generation).collect()
}
