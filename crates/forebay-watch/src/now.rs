//! The figures as the page reads them: JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use forebay::histogram::{BOUNDS_NS, Times};
use forebay::outcome::Tier;
use serde_json::{Value, json};

use crate::figures::{Figures, Worker};
use crate::health::{Health, TierHealth};
use crate::metrics::{capacity_bytes, chunks, seconds, used_bytes};

/// What the page shows, of a cache that is open since `started`.
pub fn now(figures: &Figures, started: SystemTime) -> Value {
    let control = &figures.control;
    let health = Health::of(figures);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started_unix_s": unix_seconds(started),
        "now_unix_s": unix_seconds(SystemTime::now()),
        "health": { "live": health.live, "ready": health.ready, "reasons": health.reasons },
        "threads_dead": health.threads_dead,
        "mode": if control.memory.is_some() { "memory tier" } else { "staging only" },
        "lookups": {
            "hit": control.hits,
            "miss": control.misses,
            "pending": control.pending,
            "busy": control.busy_lookups,
            "chunks": control.lookup_chunks,
            "hit_chunks": control.hit_chunks,
            "seconds": times(&control.lookup_times),
        },
        "tiers": figures.tiers().zip(&health.tiers).map(|(tier, health)| of_tier(figures, tier, health)).collect::<Vec<_>>(),
        "remote": control.remote.as_ref().map(|remote| {
            let requests = &remote.client.requests;
            json!({
                "requests": requests.requests,
                "failed_requests": requests.refused + requests.unavailable + requests.timed_out,
                "retries": remote.client.retry.retries,
                "breaker": remote.client.breaker.state,
                "in_flight": requests.in_flight,
            })
        }),
        "namespaces": control.disk.namespaces.iter().map(|namespace| {
            let model = namespace.model.as_deref().unwrap_or("a model that was not noted");
            json!({
                "name": format!("{model} ({})", namespace.id),
                "chunks": namespace.chunks,
                "bytes": namespace.bytes,
            })
        }).collect::<Vec<_>>(),
        "movers": figures.workers.iter().map(of_worker).collect::<Vec<_>>(),
    })
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn times(times: &Times) -> Value {
    let bounds = BOUNDS_NS.iter().map(|&bound_ns| json!(seconds(bound_ns))).chain([Value::Null]);
    let mut sum = 0;
    let counts = times.counts.iter().map(|count| {
        sum += count;
        sum
    });
    let buckets: Vec<Value> = bounds.zip(counts).map(|(bound, count)| json!([bound, count])).collect();
    json!({ "count": times.count(), "sum_s": seconds(times.sum_ns), "buckets": buckets })
}

fn of_tier(figures: &Figures, tier: Tier, health: &TierHealth) -> Value {
    let traffic = figures.traffic(tier);
    let control = &figures.control;
    let removed = match tier {
        Tier::Memory => json!({
            "capacity": control.memory.map(|memory| memory.evictions),
            "cleared": control.memory.map(|memory| memory.cleared),
        }),
        Tier::Disk => json!({
            "capacity": control.disk.evictions,
            "cleared": control.disk.cleared,
            "corrupt": control.disk.corrupt,
            "unreadable": control.disk.io_failed,
        }),
        Tier::Remote => json!({ "corrupt": control.remote.as_ref().map(|remote| remote.corrupt) }),
    };
    json!({
        "tier": tier.name(),
        "state": health.state,
        "reason": health.reason,
        "chunks": chunks(figures, tier),
        "used_bytes": used_bytes(figures, tier),
        "capacity_bytes": capacity_bytes(figures, tier),
        "pinned_chunks": (tier == Tier::Disk).then_some(control.disk.pinned_chunks),
        "stored_chunks": traffic.stores.chunks,
        "stored_bytes": traffic.stores.bytes,
        "loaded_chunks": traffic.loads.chunks,
        "loaded_bytes": traffic.loads.bytes,
        "failed_stores": traffic.stores.failures.values().sum::<u64>(),
        "failed_loads": traffic.loads.failures.values().sum::<u64>(),
        "removed_chunks": removed,
        "waiting_chunks": figures.waiting(tier),
        "store_seconds": times(&traffic.stores.times),
        "load_seconds": times(&traffic.loads.times),
    })
}

fn of_worker(worker: &Worker) -> Value {
    let stats = &worker.stats;
    let loads = stats
        .loads_under_way
        .iter()
        .map(|load| json!({ "tier": load.tier, "bytes": load.bytes, "age_s": load.age.as_secs_f64() }));
    json!({
        "worker": worker.number,
        "age_s": worker.age.as_secs_f64(),
        "staging": {
            "slots": stats.staging.slots,
            "slot_bytes": stats.staging.slot_bytes,
            "in_use": stats.staging.in_use,
            "in_use_max": stats.staging.in_use_max,
        },
        "queued": {
            "loads": stats.queued_loads,
            "stores": stats.queued_stores,
            "copies": stats.queued_copies,
        },
        "io_engine": stats.io_engine,
        "direct_io": stats.direct_io,
        "busy": stats.busy,
        "corrupt": stats.corrupt,
        "io_errors": stats.io_errors,
        "timed_out": stats.timed_out,
        "loads_in_flight": loads.collect::<Vec<_>>(),
    })
}
