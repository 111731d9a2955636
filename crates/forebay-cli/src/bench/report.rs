//! What a benchmark says, as JSON and as a table.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use super::mixed::Mixed;
use super::rig::{Direction, Own, Pass};
use crate::figures::{gb_per_s, mib, size, table};
use crate::quantiles::{median, percentile, range};
use crate::scratch::Shape;
use crate::stream::Moved;

/// The ceiling itself varied by more than this factor from round to round: the machine was too noisy for its ratios.
pub(super) const NOISY_FACTOR: f64 = 2.0;

/// One plain program in one direction, round by round.
#[derive(Debug, Clone, Default)]
struct Plain {
    gbps: Vec<f64>,
    cpu: Duration,
}

/// One direction, round by round.
#[derive(Debug)]
pub(super) struct Rounds {
    /// Plain programs, one of which is the ceiling.
    plain: Vec<Plain>,
    gbps: Vec<f64>,
    latencies: Vec<Duration>,
    bytes: u64,
    cpu: Duration,
}

impl Rounds {
    /// For so many plain programs.
    pub(super) fn beside(ceilings: usize) -> Self {
        let plain = vec![Plain::default(); ceilings];
        Self { plain, gbps: Vec::new(), latencies: Vec::new(), bytes: 0, cpu: Duration::ZERO }
    }

    /// A round: what each plain program took for the same bytes.
    pub(super) fn add(&mut self, passes: &[Pass], moved: Moved) {
        let rate = |time: Duration| gb_per_s(moved.bytes, time.as_secs_f64());
        for (plain, pass) in self.plain.iter_mut().zip(passes) {
            plain.gbps.push(rate(pass.time));
            plain.cpu += pass.cpu;
        }
        self.gbps.push(rate(moved.time));
        self.latencies.extend(moved.latencies);
        self.bytes += moved.bytes;
        self.cpu += moved.cpu;
    }

    /// Which of the plain programs is the ceiling: that with the best median.
    pub(super) fn best(&self) -> usize {
        let medians = self.plain.iter().map(|plain| median(&plain.gbps)).enumerate();
        medians.max_by(|one, two| one.1.total_cmp(&two.1)).map_or(0, |(best, _)| best)
    }

    fn ceiling(&self) -> &Plain {
        &self.plain[self.best()]
    }

    fn ratios(&self) -> Vec<f64> {
        self.ratios_to(self.ceiling())
    }

    fn ratios_to(&self, plain: &Plain) -> Vec<f64> {
        let share = |(gbps, ceiling): (&f64, &f64)| if *ceiling > 0.0 { gbps / ceiling } else { 0.0 };
        self.gbps.iter().zip(&plain.gbps).map(share).collect()
    }

    /// The median share of each plain program.
    fn plain_ratios(&self) -> Vec<f64> {
        self.plain.iter().map(|plain| median(&self.ratios_to(plain))).collect()
    }

    /// The median of each plain program.
    fn plain_gbps(&self) -> Vec<f64> {
        self.plain.iter().map(|plain| median(&plain.gbps)).collect()
    }

    fn per_gb(&self, cpu: Duration) -> f64 {
        let rate = gb_per_s(self.bytes, cpu.as_secs_f64());
        if rate > 0.0 { rate.recip() } else { 0.0 }
    }

    fn at_ms(&mut self, percent: usize) -> f64 {
        percentile(&mut self.latencies, percent).as_secs_f64() * 1e3
    }

    fn is_noisy(&self) -> bool {
        let [least, most] = range(&self.ceiling().gbps);
        most > NOISY_FACTOR * least
    }

    fn json(&mut self) -> serde_json::Value {
        json!({
            "gbps": median(&self.gbps),
            "ceiling_gbps": median(&self.ceiling().gbps),
            "ratio": median(&self.ratios()),
            "cpu_s_per_gb": self.per_gb(self.cpu),
            "p50_ms": self.at_ms(50),
            "p99_ms": self.at_ms(99),
        })
    }

    fn row(&mut self, what: &str) -> [String; 8] {
        let ratios = self.ratios();
        let [least, most] = range(&ratios);
        [
            what.to_owned(),
            format!("{:.2}", median(&self.gbps)),
            format!("{:.2}", median(&self.ceiling().gbps)),
            format!("{:.0} %", 100.0 * median(&ratios)),
            format!("{:.0} to {:.0} %", 100.0 * least, 100.0 * most),
            format!("{:.3}", self.per_gb(self.cpu)),
            format!("{:.2} ms", self.at_ms(50)),
            format!("{:.2} ms", self.at_ms(99)),
        ]
    }
}

/// All that was measured.
pub(super) struct Report {
    pub(super) shape: Shape,
    pub(super) total_bytes: u64,
    pub(super) rounds: u32,
    pub(super) own: Own,
    pub(super) write: Rounds,
    pub(super) read: Rounds,
    pub(super) mixed: Mixed,
    pub(super) resident_bytes: u64,
    /// The most of the staging buffer that was ever in use, all of it, and how much lies on huge pages.
    pub(super) staging_bytes: u64,
    pub(super) staging_buffer_bytes: u64,
    pub(super) staging_huge_bytes: u64,
    pub(super) window: usize,
    /// The measurement's own buffers.
    pub(super) own_bytes: usize,
    /// Whether chunks are copied from and to staging slots.
    pub(super) copied: bool,
    pub(super) retries: u64,
    pub(super) wrong: u64,
}

impl Report {
    fn is_noisy(&self) -> bool {
        self.write.is_noisy() || self.read.is_noisy()
    }

    pub(super) fn json(&mut self) -> serde_json::Value {
        let [alone_p50, beside_p50] = self.mixed.load_ms(50);
        let [alone_p99, beside_p99] = self.mixed.load_ms(99);
        let mut all = json!({
            "write": self.write.json(),
            "read": self.read.json(),
            "mixed": {
                "alone_p50_ms": alone_p50,
                "alone_p99_ms": alone_p99,
                "beside_stores_p50_ms": beside_p50,
                "beside_stores_p99_ms": beside_p99,
                "slowdown": self.mixed.slowdown(),
                "stores_gbps": gb_per_s(self.mixed.stores.bytes, self.mixed.stores.time.as_secs_f64()),
            },
            "rss_mib": mib(self.resident_bytes),
            "staging_bytes": self.staging_bytes,
            "staging_buffer_bytes": self.staging_buffer_bytes,
            "staging_huge_bytes": self.staging_huge_bytes,
            "own_buffers_mib": mib(self.own_bytes as u64),
            "chunk_bytes": self.shape.chunk_bytes,
            "total_bytes": self.total_bytes,
            "threads": self.shape.threads,
            "window": self.window,
            "rounds": self.rounds,
            "ratio_spread": { "write": range(&self.write.ratios()), "read": range(&self.read.ratios()) },
            "ceiling_spread": {
                "write": range(&self.write.ceiling().gbps),
                "read": range(&self.read.ceiling().gbps),
            },
            "ceiling_cpu_s_per_gb": {
                "write": self.write.per_gb(self.write.ceiling().cpu),
                "read": self.read.per_gb(self.read.ceiling().cpu),
            },
            "ceiling_depth": { "write": self.own.ceiling_depth[0], "read": self.own.ceiling_depth[1] },
            "copied": self.copied,
            "io_engine": self.own.io_engine,
            "ceiling_engine": self.own.ceiling_engine,
            "noisy": self.is_noisy(),
            "retries": self.retries,
            "wrong_chunks": self.wrong,
        });
        if let Some(all) = all.as_object_mut() {
            all.extend(self.own.json.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            if self.write.plain.len() > 1 {
                let gbps = json!({ "write": self.write.plain_gbps(), "read": self.read.plain_gbps() });
                let ratios = json!({ "write": self.write.plain_ratios(), "read": self.read.plain_ratios() });
                all.insert("ceilings_gbps".to_owned(), gbps);
                all.insert("ceilings_ratio".to_owned(), ratios);
            }
        }
        all
    }

    pub(super) fn tell(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} in chunks of {}, {} rounds, {} chunks under way by {}{}; ceiling: {}, depth {} write, {} read\n",
            size(self.total_bytes),
            size(self.shape.chunk_bytes.into()),
            self.rounds,
            self.window,
            self.own.io_engine,
            if self.copied { ", copied" } else { "" },
            self.own.ceiling_engine,
            self.own.ceiling_depth[0],
            self.own.ceiling_depth[1],
        )?;
        let head = ["", " GB/s", " ceiling", " share", " of rounds", " CPU-s/GB", " p50", " p99"];
        let rows = [self.write.row("write"), self.read.row("read")];
        write!(out, "{}", table(head, &rows))?;
        let [alone, beside] = self.mixed.load_ms(99);
        writeln!(
            out,
            "\nOne load at a time, p99: {alone:.2} ms alone, {beside:.2} ms beside stores at {:.2} GB/s: {:.1} times",
            gb_per_s(self.mixed.stores.bytes, self.mixed.stores.time.as_secs_f64()),
            self.mixed.slowdown(),
        )?;
        writeln!(
            out,
            "Resident {} (staging {}, of which {} were in use at most) and {} of the benchmark's buffers{}",
            size(self.resident_bytes),
            size(self.staging_buffer_bytes),
            size(self.staging_bytes),
            size(self.own_bytes as u64),
            self.own.memory,
        )?;
        let (write, read) = (self.write.plain_ratios(), self.read.plain_ratios());
        for (plain, (write, read)) in self.own.plain_names.iter().zip(write.into_iter().zip(read)) {
            writeln!(out, "Beside {plain}: write {:.0} %, read {:.0} %", 100.0 * write, 100.0 * read)?;
        }
        self.own.notes.iter().try_for_each(|note| writeln!(out, "{note}"))?;
        for (what, rounds, direction) in
            [("writing", &self.write, Direction::Write), ("reading", &self.read, Direction::Read)]
        {
            if rounds.is_noisy() {
                let [least, most] = range(&rounds.ceiling().gbps);
                let shown = if direction == Direction::Write { "write" } else { "read" };
                writeln!(
                    out,
                    "TOO NOISY to tell: the ceiling itself went from {least:.2} to {most:.2} GB/s {what}. Of the {shown} \
                     line, only processor time is worth something."
                )?;
            }
        }
        if self.wrong > 0 {
            writeln!(out, "{} loaded chunks held WRONG BYTES.", self.wrong)?;
        }
        Ok(())
    }
}
