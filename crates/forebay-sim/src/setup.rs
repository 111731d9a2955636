//! What a run is like, drawn from its seed: sizes so small that everything is always full, and how much goes wrong.

use fastrand::Rng;
use forebay::catalog::{BLOCK_BYTES, CachePolicy};
use forebay::config::DiskSync;
use forebay::tier::disk::stepped::Room;

use crate::trouble::Rates;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Blocks of each drive.
    pub(crate) drives: Vec<u32>,
    /// Chunks the catalog may hold.
    pub(crate) chunks_max: u32,
    /// Tickets it may keep open.
    pub(crate) tickets_max: u32,
    /// What goes first.
    pub(crate) policy: CachePolicy,
    /// What a loss of power may cost.
    pub(crate) disk_sync: DiskSync,
    /// Slots of the staging buffer.
    pub(crate) slots: u32,
    /// Payload bytes of one.
    pub(crate) slot_bytes: usize,
    /// What the device takes at once.
    pub(crate) room: Room,
    /// Chunks that may wait for the mover, each way.
    pub(crate) queued_chunks_max: usize,
    /// Records after which the journal is to have a checkpoint.
    pub(crate) journal_records_max: u64,
    /// Chunks of payload blocks: the most.
    pub(crate) payload_blocks_max: u32,
    /// What goes wrong by itself.
    pub(crate) rates: Rates,
    /// Whether bits rot and sectors go stale.
    pub(crate) rots: bool,
    /// Whether the power goes.
    pub(crate) loses_power: bool,
}

impl Setup {
    /// That of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let slot_blocks = rng.usize(1..=2);
        let pieces = rng.usize(2..6);
        let chunks_max = rng.u32(6..40);
        let drives = rng.usize(1..=3);
        let policies = CachePolicy::ALL;
        Self {
            drives: (0..drives).map(|_| rng.u32(12..48)).collect(),
            chunks_max,
            tickets_max: if rng.u32(..4) == 0 { rng.u32(2..20) } else { 1000 },
            policy: policies[rng.usize(..policies.len())],
            disk_sync: match rng.u32(..3) {
                0 => DiskSync::None,
                1 => DiskSync::Always,
                _ => DiskSync::Interval(std::time::Duration::from_secs(1)),
            },
            slots: rng.u32(2..8),
            slot_bytes: slot_blocks * BLOCK_BYTES,
            room: Room { pieces, writes: rng.usize(1..pieces), piece_bytes: BLOCK_BYTES * rng.usize(1..4) },
            queued_chunks_max: rng.usize(1..12),
            journal_records_max: rng.u64(128..320).max(u64::from(chunks_max)),
            payload_blocks_max: rng.u32(1..5),
            rates: Self::rates(rng),
            rots: rng.u32(..3) == 0,
            loses_power: rng.bool(),
        }
    }

    /// A third of all runs has no trouble that does not come from deaths.
    fn rates(rng: &mut Rng) -> Rates {
        let mut rate = |most| if rng.bool() { rng.u32(..most) } else { 0 };
        let rates = Rates {
            transfer_error: rate(60),
            short_transfer: rate(300),
            lie: rate(40),
            home_error: rate(60),
            sync_error: rate(60),
            engine_error: rate(60),
        };
        if rng.u32(..3) == 0 { Rates::default() } else { rates }
    }

    /// Blocks of all drives.
    pub(crate) fn blocks(&self) -> u64 {
        self.drives.iter().map(|&blocks| u64::from(blocks)).sum()
    }
}
