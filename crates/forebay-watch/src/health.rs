//! Whether all is well, and what is not.
//!
//! A cache that is ill makes inference slower and nothing else: so no engine is to be taken out of service because a tier
//! does not answer, and `/readyz` is green as long as the cache is open. `/healthz` is red when something ended that only a
//! new start brings back.

use forebay::outcome::Tier;
use serde::Serialize;

use crate::figures::Figures;

/// How a tier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TierState {
    /// It does all it is there for.
    Ok,
    /// It does less.
    Degraded,
    /// It does nothing.
    Down,
}

/// How one tier is, and why.
#[derive(Debug, Clone, Serialize)]
pub struct TierHealth {
    /// [`Tier::name`].
    pub tier: &'static str,
    /// How it is.
    pub state: TierState,
    /// Whether what is on it is found, and more can be stored; a store that is about to be tried again counts as up.
    pub is_up: bool,
    /// Why, if it is not well.
    pub reason: Option<String>,
}

/// How all is.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// Nothing has ended that only a new start brings back.
    pub live: bool,
    /// A tier answers, as far as is known.
    pub ready: bool,
    /// What is not well, in words.
    pub reasons: Vec<String>,
    /// Each tier.
    pub tiers: Vec<TierHealth>,
    /// Threads that died of a panic.
    pub threads_dead: Vec<String>,
}

impl Health {
    /// What these figures mean.
    pub fn of(figures: &Figures) -> Self {
        let tiers: Vec<TierHealth> = figures.tiers().map(|tier| of_tier(figures, tier)).collect();
        let mut threads_dead = figures.control.dead_threads.clone();
        threads_dead.extend(figures.workers.iter().flat_map(|worker| worker.stats.dead_threads.clone()));
        let ring_is_dead = figures.workers.iter().any(|worker| is_dead(&worker.stats.io_engine));
        let of_tiers =
            tiers.iter().filter_map(|tier| Some(format!("{}: {}", tier.tier, tier.reason.as_ref()?)));
        let of_threads = threads_dead
            .iter()
            .map(|name| format!("the thread {name} died; what it did is not done until the next start"));
        Self {
            live: threads_dead.is_empty() && !ring_is_dead,
            ready: tiers.iter().any(|tier| tier.state != TierState::Down),
            reasons: of_tiers.chain(of_threads).collect(),
            tiers,
            threads_dead,
        }
    }
}

fn is_dead(io_engine: &str) -> bool {
    io_engine.ends_with("(dead)")
}

fn of_tier(figures: &Figures, tier: Tier) -> TierHealth {
    let (state, reason) = match tier {
        Tier::Memory => (TierState::Ok, None),
        Tier::Disk => of_disk(figures),
        Tier::Remote => of_remote(figures),
    };
    let is_up = match tier {
        Tier::Memory | Tier::Disk => state == TierState::Ok,
        Tier::Remote => state != TierState::Down,
    };
    TierHealth { tier: tier.name(), state, is_up, reason }
}

fn of_disk(figures: &Figures) -> (TierState, Option<String>) {
    if let Some(worker) = figures.workers.iter().find(|worker| is_dead(&worker.stats.io_engine)) {
        let reason = format!(
            "io_uring of worker {} has failed; nothing is read or written until the next start",
            worker.number
        );
        return (TierState::Down, Some(reason));
    }
    match figures.control.disk.degraded {
        Some(reason) => (TierState::Degraded, Some(reason.to_owned())),
        None => (TierState::Ok, None),
    }
}

fn of_remote(figures: &Figures) -> (TierState, Option<String>) {
    match figures.control.remote.as_ref().map(|remote| remote.client.breaker.state) {
        Some("open") => {
            (TierState::Down, Some("the store does not answer, and is left alone for a while".to_owned()))
        }
        Some("half_open") => (
            TierState::Degraded,
            Some("the store did not answer; the next request tries it again".to_owned()),
        ),
        _ => (TierState::Ok, None),
    }
}
