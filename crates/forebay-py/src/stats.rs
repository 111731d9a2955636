//! Figures as a plain dict.

use forebay::control::{ControlStats, RemoteStats};
use forebay::mover::MoverStats;
use pyo3::prelude::*;
use pyo3::types::PyDict;

pub(crate) fn control(out: &Bound<'_, PyDict>, stats: &ControlStats) -> PyResult<()> {
    let disk = &stats.disk;
    let counts = [
        ("chunks", disk.chunks),
        ("bytes", disk.used_bytes),
        ("capacity_bytes", disk.capacity_bytes),
        ("pinned_chunks", disk.pinned_chunks),
        ("pinned_bytes", disk.pinned_bytes),
        ("lookups", stats.lookups),
        ("hits", stats.hits),
        ("misses", stats.misses),
        ("pending", stats.pending),
        ("busy", stats.busy),
        ("lookup_chunks", stats.lookup_chunks),
        ("hit_chunks", stats.hit_chunks),
        ("stored", disk.stored),
        ("store_failed", disk.store_failed),
        ("refused_full", disk.refused_full),
        ("evictions", disk.evictions),
        ("cleared", disk.cleared),
        ("corrupt", disk.corrupt),
        ("io_failed", disk.io_failed),
        ("journal_errors", disk.journal_errors),
        ("open_tickets", disk.open_tickets),
        ("journal_interrupted", disk.journal_interrupted),
    ];
    for (name, count) in counts {
        out.set_item(name, count)?;
    }
    out.set_item("degraded", disk.degraded.is_some())?;
    out.set_item("rebuilt", disk.rebuilt.as_deref())?;
    out.set_item("direct_io", disk.direct_io)?;
    if let Some(memory) = &stats.memory {
        let counts = [
            ("memory_chunks", memory.chunks),
            ("memory_bytes", memory.used_bytes),
            ("memory_capacity_bytes", memory.capacity_bytes),
            ("memory_evictions", memory.evictions),
            ("memory_cleared", memory.cleared),
            ("memory_outgoing", memory.outgoing),
            ("memory_open_tickets", memory.open_tickets),
        ];
        for (name, count) in counts {
            out.set_item(name, count)?;
        }
    }
    if let Some(remote) = &stats.remote {
        self::remote(out, remote)?;
    }
    Ok(())
}

fn remote(out: &Bound<'_, PyDict>, stats: &RemoteStats) -> PyResult<()> {
    let requests = &stats.client.requests;
    let counts = [
        ("remote_lookups", stats.lookups),
        ("remote_unanswered", stats.unanswered),
        ("remote_stored", stats.stored),
        ("remote_store_failed", stats.store_failed),
        ("remote_refused", stats.refused),
        ("remote_loaded", stats.loaded),
        ("remote_load_failed", stats.load_failed),
        ("remote_corrupt", stats.corrupt),
        ("remote_gone", stats.gone),
        ("remote_queued", stats.queued),
        ("remote_open_tickets", stats.open_tickets),
        ("remote_requests", requests.requests),
        ("remote_requests_failed", requests.refused + requests.unavailable + requests.timed_out),
        ("remote_requests_left_alone", requests.left_alone),
        ("remote_requests_no_room", requests.no_room),
        ("remote_requests_in_flight", requests.in_flight),
        ("remote_retries", stats.client.retry.retries),
        ("remote_timeouts", stats.client.timeout.given_up),
        ("remote_breaker_opened", stats.client.breaker.opened),
        ("remote_bytes_put", requests.bytes_put),
        ("remote_bytes_got", requests.bytes_got),
    ];
    for (name, count) in counts {
        out.set_item(name, count)?;
    }
    out.set_item("remote_breaker", stats.client.breaker.state)
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
        ("queued_copies", stats.queued_copies),
        ("busy", stats.busy),
        ("corrupt", stats.corrupt),
        ("io_errors", stats.io_errors),
        ("timed_out", stats.timed_out),
    ];
    for (name, count) in counts {
        out.set_item(name, count)?;
    }
    out.set_item("io_engine", stats.io_engine.as_str())?;
    out.set_item("direct_io", stats.direct_io)
}
