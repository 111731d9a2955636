//! The figures as Prometheus reads them: `OpenMetrics` text, by `prometheus-client`.
//!
//! `docs/METRICS.md` says what each of them is for; a test compares.

use std::collections::BTreeMap;

use forebay::Reason;
use forebay::histogram::{BOUNDS_NS, Times};
use forebay::outcome::Tier;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::figures::Figures;
use crate::health::Health;

/// What the text is, in a response's `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// A metric, with all its samples.
#[derive(Debug)]
pub struct Family {
    /// Its name, without what its kind and unit add.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    unit: Option<Unit>,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    Counters(Vec<(Labels, u64)>),
    Gauges(Vec<(Labels, u64)>),
    Histograms(Vec<(Labels, Times)>),
}

impl Family {
    /// The whole name, as it is asked for: of a histogram, without what its parts add.
    pub fn full_name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let kind = if matches!(self.samples, Samples::Counters(_)) { "_total" } else { "" };
        format!("{}{unit}{kind}", self.name)
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let kind = match self.samples {
            Samples::Counters(_) => MetricType::Counter,
            Samples::Gauges(_) => MetricType::Gauge,
            Samples::Histograms(_) => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        match &self.samples {
            Samples::Counters(samples) => each(&mut metric, samples, |metric, value| {
                metric.encode_counter::<NoLabelSet, u64, f64>(value, None)
            }),
            Samples::Gauges(samples) => each(&mut metric, samples, |metric, value| {
                metric.encode_gauge(&i64::try_from(*value).unwrap_or(i64::MAX))
            }),
            Samples::Histograms(samples) => each(&mut metric, samples, encode_times),
        }
    }
}

/// Encodes samples, those without labels as they are.
fn each<T>(
    metric: &mut MetricEncoder<'_>,
    samples: &[(Labels, T)],
    encode: fn(&mut MetricEncoder<'_>, &T) -> std::fmt::Result,
) -> std::fmt::Result {
    samples.iter().try_for_each(|(labels, value)| match labels.as_slice() {
        [] => encode(metric, value),
        _ => encode(&mut metric.encode_family(labels)?, value),
    })
}

fn encode_times(metric: &mut MetricEncoder<'_>, times: &Times) -> std::fmt::Result {
    let bounds_s = BOUNDS_NS.iter().map(|&bound_ns| seconds(bound_ns)).chain([f64::MAX]);
    let counts = times.counts.iter().copied().chain(std::iter::repeat(0));
    let buckets: Vec<(f64, u64)> = bounds_s.zip(counts).collect();
    metric.encode_histogram::<NoLabelSet>(seconds(times.sum_ns), times.count(), &buckets, None)
}

#[expect(clippy::cast_precision_loss, reason = "to be read by people; exact up to some hundred days")]
pub(crate) fn seconds(time_ns: u64) -> f64 {
    time_ns as f64 / 1e9
}

/// All metrics, of these figures.
#[expect(clippy::too_many_lines, reason = "a list, read from top to bottom")]
pub fn families(figures: &Figures) -> Vec<Family> {
    use Samples::{Counters, Gauges, Histograms};

    let control = &figures.control;
    let health = Health::of(figures);
    let tiers: Vec<Tier> = figures.tiers().collect();
    let traffic: Vec<_> = tiers.iter().map(|&tier| (tier, figures.traffic(tier))).collect();
    let by_tier = |value: &dyn Fn(Tier) -> Option<u64>| -> Vec<(Labels, u64)> {
        tiers.iter().filter_map(|&tier| Some((of_tier(tier), value(tier)?))).collect()
    };
    let by_worker = |value: &dyn Fn(&forebay::mover::MoverStats) -> u64| -> Vec<(Labels, u64)> {
        figures.workers.iter().map(|worker| (of_worker(worker.number), value(&worker.stats))).collect()
    };
    let failures =
        |of: &dyn Fn(&forebay::mover::TierTraffic) -> &forebay::mover::WayStats| -> Vec<(Labels, u64)> {
            let of_one = |(tier, traffic): &(Tier, _)| {
                let labels = of_tier(*tier);
                // What has not happened yet is zero, so that its rate is known when it does.
                let none = Reason::CODES_OF_JOBS.map(|reason| (reason.to_owned(), 0));
                let mut failures = BTreeMap::from(none);
                failures.extend(of(traffic).failures.clone());
                failures.into_iter().map(move |(reason, count)| {
                    ([labels.clone(), vec![("reason", reason.replace(' ', "_"))]].concat(), count)
                })
            };
            traffic.iter().flat_map(of_one).collect()
        };
    let results = |pairs: &[(&str, u64)]| -> Vec<(Labels, u64)> {
        pairs.iter().map(|(result, count)| (vec![("result", (*result).to_owned())], *count)).collect()
    };
    let family = |name, help, unit, samples| Family { name, help, unit, samples };
    let bytes = || Some(Unit::Bytes);

    let mut removed = Vec::new();
    for &tier in &tiers {
        let causes = match tier {
            Tier::Memory => {
                let memory = control.memory.unwrap_or_default();
                vec![("capacity", memory.evictions), ("cleared", memory.cleared)]
            }
            Tier::Disk => vec![
                ("capacity", control.disk.evictions),
                ("cleared", control.disk.cleared),
                ("corrupt", control.disk.corrupt),
                ("unreadable", control.disk.io_failed),
            ],
            Tier::Remote => {
                vec![("corrupt", control.remote.as_ref().map(|remote| remote.corrupt).unwrap_or_default())]
            }
        };
        for (cause, count) in causes {
            removed.push(([of_tier(tier), vec![("cause", cause.to_owned())]].concat(), count));
        }
    }

    let mut all = vec![
        family(
            "forebay_build",
            "The version that runs; always 1",
            None,
            Gauges(vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)]),
        ),
        family(
            "forebay_lookups",
            "Lookups, by how they were answered",
            None,
            Counters(results(&[
                ("hit", control.hits),
                ("miss", control.misses),
                ("pending", control.pending),
                ("busy", control.busy_lookups),
            ])),
        ),
        family(
            "forebay_lookup_chunks",
            "Chunks that were asked for in lookups that hit or missed",
            None,
            Counters(vec![(vec![], control.lookup_chunks)]),
        ),
        family(
            "forebay_lookup_hit_chunks",
            "Chunks that were found in lookups",
            None,
            Counters(vec![(vec![], control.hit_chunks)]),
        ),
        family(
            "forebay_lookup_duration",
            "How long lookups took",
            Some(Unit::Seconds),
            Histograms(vec![(vec![], control.lookup_times.clone())]),
        ),
        family(
            "forebay_chunks",
            "Chunks that are on a tier",
            None,
            Gauges(by_tier(&|tier| chunks(figures, tier))),
        ),
        family(
            "forebay_used",
            "Bytes that chunks take on a tier, trailers included",
            bytes(),
            Gauges(by_tier(&|tier| used_bytes(figures, tier))),
        ),
        family(
            "forebay_capacity",
            "Bytes that chunks may take on a tier",
            bytes(),
            Gauges(by_tier(&|tier| capacity_bytes(figures, tier))),
        ),
        family(
            "forebay_pinned_chunks",
            "Chunks that are kept from eviction because somebody asked for it",
            None,
            Gauges(by_tier(&|tier| (tier == Tier::Disk).then_some(control.disk.pinned_chunks))),
        ),
        family(
            "forebay_pinned",
            "Bytes that pinned chunks take, trailers included",
            bytes(),
            Gauges(by_tier(&|tier| (tier == Tier::Disk).then_some(control.disk.pinned_bytes))),
        ),
        family(
            "forebay_stored_chunks",
            "Chunks that were written to a tier",
            None,
            Counters(traffic.iter().map(|(tier, traffic)| (of_tier(*tier), traffic.stores.chunks)).collect()),
        ),
        family(
            "forebay_stored",
            "Payload bytes that were written to a tier",
            bytes(),
            Counters(traffic.iter().map(|(tier, traffic)| (of_tier(*tier), traffic.stores.bytes)).collect()),
        ),
        family(
            "forebay_store_duration",
            "How long a chunk took to a tier, its wait included",
            Some(Unit::Seconds),
            Histograms(
                traffic
                    .iter()
                    .map(|(tier, traffic)| (of_tier(*tier), traffic.stores.times.clone()))
                    .collect(),
            ),
        ),
        family(
            "forebay_store_failures",
            "Chunks that were not written to a tier, by reason",
            None,
            Counters(failures(&|traffic| &traffic.stores)),
        ),
        family(
            "forebay_loaded_chunks",
            "Chunks that were loaded from a tier and found right",
            None,
            Counters(traffic.iter().map(|(tier, traffic)| (of_tier(*tier), traffic.loads.chunks)).collect()),
        ),
        family(
            "forebay_loaded",
            "Payload bytes that were loaded from a tier and found right",
            bytes(),
            Counters(traffic.iter().map(|(tier, traffic)| (of_tier(*tier), traffic.loads.bytes)).collect()),
        ),
        family(
            "forebay_load_duration",
            "How long a chunk took from a tier to the engine, its wait included",
            Some(Unit::Seconds),
            Histograms(
                traffic.iter().map(|(tier, traffic)| (of_tier(*tier), traffic.loads.times.clone())).collect(),
            ),
        ),
        family(
            "forebay_load_failures",
            "Chunks that were not loaded from a tier, by reason",
            None,
            Counters(failures(&|traffic| &traffic.loads)),
        ),
        family("forebay_removed_chunks", "Chunks that left a tier, by cause", None, Counters(removed)),
        family(
            "forebay_waiting_chunks",
            "Chunks on their way to a tier from the one before it",
            None,
            Gauges(by_tier(&|tier| Some(figures.waiting(tier)))),
        ),
        family(
            "forebay_refused_full",
            "Stores that the disk refused because nothing could be evicted for them",
            None,
            Counters(vec![(vec![], control.disk.refused_full)]),
        ),
        family(
            "forebay_journal_errors",
            "Times that the journal could not be written",
            None,
            Counters(vec![(vec![], control.disk.journal_errors)]),
        ),
        family(
            "forebay_open_tickets",
            "Plans and lookups that are open on a tier",
            None,
            Gauges(by_tier(&|tier| open_tickets(figures, tier))),
        ),
        family(
            "forebay_tier_up",
            "1, or 0 where a tier is down or stores nothing",
            None,
            Gauges(
                health
                    .tiers
                    .iter()
                    .map(|tier| (vec![("tier", tier.tier.to_owned())], u64::from(tier.is_up)))
                    .collect(),
            ),
        ),
        family(
            "forebay_dead_threads",
            "Background threads that died",
            None,
            Gauges(vec![(vec![], health.threads_dead.len() as u64)]),
        ),
        family(
            "forebay_staging",
            "Bytes of the staging buffer",
            bytes(),
            Gauges(by_worker(&|stats| u64::from(stats.staging.slots) * stats.staging.slot_bytes as u64)),
        ),
        family(
            "forebay_staging_used",
            "Bytes of the staging buffer that chunks cross now",
            bytes(),
            Gauges(by_worker(&|stats| u64::from(stats.staging.in_use) * stats.staging.slot_bytes as u64)),
        ),
        family(
            "forebay_staging_used_max",
            "The most bytes of the staging buffer that were ever in use",
            bytes(),
            Gauges(by_worker(&|stats| u64::from(stats.staging.in_use_max) * stats.staging.slot_bytes as u64)),
        ),
        family(
            "forebay_queued_chunks",
            "Chunks that wait to be moved, by what for",
            None,
            Gauges(
                figures
                    .workers
                    .iter()
                    .flat_map(|worker| {
                        let stats = &worker.stats;
                        [
                            ("load", stats.queued_loads),
                            ("store", stats.queued_stores),
                            ("copy", stats.queued_copies),
                        ]
                        .map(|(way, count)| {
                            ([of_worker(worker.number), vec![("way", way.to_owned())]].concat(), count)
                        })
                    })
                    .collect(),
            ),
        ),
        family(
            "forebay_busy",
            "Chunks turned away because the buffer or a queue was full",
            None,
            Counters(by_worker(&|stats| stats.busy)),
        ),
        family(
            "forebay_load_timeouts",
            "Loads given up because a device did not answer in time",
            None,
            Counters(by_worker(&|stats| stats.timed_out)),
        ),
    ];
    if let Some(remote) = &control.remote {
        let (client, requests) = (&remote.client, &remote.client.requests);
        all.extend([
            family(
                "forebay_remote_requests",
                "Requests to the remote store, by how they ended",
                None,
                Counters(results(&[
                    ("ok", requests.ok),
                    ("not_there", requests.not_there),
                    ("other_length", requests.other_length),
                    ("timed_out", requests.timed_out),
                    ("left_alone", requests.left_alone),
                    ("no_room", requests.no_room),
                    ("refused", requests.refused),
                    ("unavailable", requests.unavailable),
                    ("dropped", requests.dropped),
                ])),
            ),
            family(
                "forebay_remote_requests_in_flight",
                "Requests to the remote store that are under way",
                None,
                Gauges(vec![(vec![], requests.in_flight)]),
            ),
            family(
                "forebay_remote_retries",
                "Requests to the remote store that were tried again",
                None,
                Counters(vec![(vec![], client.retry.retries)]),
            ),
            family(
                "forebay_remote_breaker_open",
                "Whether the remote store is left alone because it did not answer",
                None,
                Gauges(vec![(vec![], u64::from(client.breaker.state == "open"))]),
            ),
            family(
                "forebay_remote_breaker_opened",
                "Times that the remote store was found not to answer",
                None,
                Counters(vec![(vec![], client.breaker.opened)]),
            ),
        ]);
    }
    all
}

fn of_tier(tier: Tier) -> Labels {
    vec![("tier", tier.name().to_owned())]
}

fn of_worker(number: u32) -> Labels {
    vec![("worker", number.to_string())]
}

/// Chunks on a tier, if that is known.
pub(crate) fn chunks(figures: &Figures, tier: Tier) -> Option<u64> {
    match tier {
        Tier::Memory => Some(figures.control.memory?.chunks),
        Tier::Disk => Some(figures.control.disk.chunks),
        Tier::Remote => None,
    }
}

/// Bytes they take.
pub(crate) fn used_bytes(figures: &Figures, tier: Tier) -> Option<u64> {
    match tier {
        Tier::Memory => Some(figures.control.memory?.used_bytes),
        Tier::Disk => Some(figures.control.disk.used_bytes),
        Tier::Remote => None,
    }
}

/// Bytes they may take.
pub(crate) fn capacity_bytes(figures: &Figures, tier: Tier) -> Option<u64> {
    match tier {
        Tier::Memory => Some(figures.control.memory?.capacity_bytes),
        Tier::Disk => Some(figures.control.disk.capacity_bytes),
        Tier::Remote => None,
    }
}

fn open_tickets(figures: &Figures, tier: Tier) -> Option<u64> {
    match tier {
        Tier::Memory => Some(figures.control.memory?.open_tickets),
        Tier::Disk => Some(figures.control.disk.open_tickets),
        Tier::Remote => Some(figures.control.remote.as_ref()?.open_tickets),
    }
}

#[derive(Debug)]
struct Snapshot(Figures);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        families(&self.0).iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

/// The text.
pub fn text(figures: &Figures) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(figures.clone())));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}
