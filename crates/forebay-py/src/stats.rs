//! Figures as a plain dict.

use forebay::control::ControlStats;
use forebay::mover::MoverStats;
use pyo3::prelude::*;
use pyo3::types::PyDict;

pub(crate) fn control(out: &Bound<'_, PyDict>, stats: &ControlStats) -> PyResult<()> {
    let counts = [
        ("chunks", stats.chunks),
        ("bytes", stats.used_bytes),
        ("capacity_bytes", stats.capacity_bytes),
        ("lookups", stats.lookups),
        ("hits", stats.hits),
        ("misses", stats.misses),
        ("pending", stats.pending),
        ("busy", stats.busy),
        ("lookup_chunks", stats.lookup_chunks),
        ("hit_chunks", stats.hit_chunks),
        ("stored", stats.stored),
        ("store_failed", stats.store_failed),
        ("refused_full", stats.refused_full),
        ("evictions", stats.evictions),
        ("corrupt", stats.corrupt),
        ("io_failed", stats.io_failed),
        ("journal_errors", stats.journal_errors),
        ("open_tickets", stats.open_tickets),
        ("journal_interrupted", stats.journal_interrupted),
    ];
    for (name, count) in counts {
        out.set_item(name, count)?;
    }
    out.set_item("degraded", stats.degraded)?;
    out.set_item("rebuilt", stats.rebuilt.as_deref())?;
    out.set_item("direct_io", stats.direct_io)
}

pub(crate) fn mover(out: &Bound<'_, PyDict>, stats: &MoverStats) -> PyResult<()> {
    let staging = stats.staging;
    let slot_bytes = staging.slot_bytes as u64;
    let counts = [
        ("staging_slots", u64::from(staging.slots)),
        ("staging_slot_bytes", slot_bytes),
        ("staging_bytes", u64::from(staging.slots) * slot_bytes),
        ("staging_in_use", u64::from(staging.in_use)),
        ("staging_in_use_max", u64::from(staging.in_use_max)),
        ("staging_bytes_max", u64::from(staging.in_use_max) * slot_bytes),
        ("staging_huge_bytes", staging.huge_bytes as u64),
        ("written_bytes", stats.written_bytes),
        ("read_bytes", stats.read_bytes),
        ("queued_stores", stats.queued_stores),
        ("queued_loads", stats.queued_loads),
        ("busy", stats.busy),
        ("corrupt", stats.corrupt),
        ("io_errors", stats.io_errors),
        ("timed_out", stats.timed_out),
    ];
    for (name, count) in counts {
        out.set_item(name, count)?;
    }
    out.set_item("io_engine", stats.io_engine)?;
    out.set_item("direct_io", stats.direct_io)
}
