//! What a reading looks like, in lines of a given width.
//!
//! Promises: no line is wider than asked for, and none has a control character, whatever the server said; what does not
//! fit a table stands one below the other.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::history::{Bound, History, Quantiles, ratio};
use super::reading::{Mover, Reading, Tier, Times};
use crate::figures::{age, count, size};

/// What is not known.
const DASH: &str = "-";
/// Between two things on a line, and before what goes on from the line above.
const GAP: usize = 2;
/// Loads and namespaces that are shown.
const LOADS_MAX: usize = 8;
const NAMESPACES_MAX: usize = 20;
/// Slots that are drawn; more of them are a number only.
const SLOTS_DRAWN_MAX: u64 = 24;
/// A mover's figures are said to be old after so long.
const OLD_S: f64 = 2.0;

/// How something is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// The name of something.
    Title,
    Soft,
    Good,
    Warning,
    Bad,
}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// A line.
pub(super) type Line = Vec<Span>;

fn span(tone: Tone, text: impl AsRef<str>) -> Span {
    Span { text: clean(text.as_ref()), tone }
}

fn plain(text: impl AsRef<str>) -> Span {
    span(Tone::Plain, text)
}

/// What a terminal may be given: a server that says anything else moves no cursor.
fn clean(text: &str) -> String {
    let shown = |it: char| if it.width().is_none() { '?' } else { it };
    text.chars().map(shown).collect()
}

/// Says the last reading, as it was said by the cache at `address`.
pub(super) fn frame(history: &History, address: &str, width: usize) -> Vec<Line> {
    let now = history.last();
    let mut page = Page { width, lines: Vec::new() };
    page.head(now, address);
    page.lookups(history);
    page.tiers(history);
    page.remote(now);
    now.movers.iter().for_each(|mover| page.mover(mover));
    page.loads(now);
    page.namespaces(now);
    page.lines
}

/// A line that something went wrong, in as many lines as it takes.
pub(super) fn trouble(words: &str, width: usize) -> Vec<Line> {
    let mut page = Page { width, lines: Vec::new() };
    page.words(Tone::Bad, words);
    page.lines
}

/// Text alone.
pub(super) fn text(lines: &[Line]) -> String {
    let line = |line: &Line| {
        let text: String = line.iter().map(|span| span.text.as_str()).collect();
        format!("{}\n", text.trim_end())
    };
    lines.iter().map(line).collect()
}

struct Page {
    width: usize,
    lines: Vec<Line>,
}

impl Page {
    /// Things one after the other, on as many lines as they take; all but the first are indented.
    fn flow(&mut self, items: impl IntoIterator<Item = Span>) {
        let indent = GAP.min(self.width.saturating_sub(1));
        let mut line: Line = Vec::new();
        let mut used = 0;
        // Whether nothing but the indentation stands on the line.
        let mut is_fresh = true;
        for item in items {
            if !is_fresh && used + GAP + item.text.width() > self.width {
                self.lines.push(std::mem::take(&mut line));
                line.push(plain(" ".repeat(indent)));
                (used, is_fresh) = (indent, true);
            }
            if !is_fresh {
                line.push(plain(" ".repeat(GAP)));
                used += GAP;
            }
            let item = fitting(item, self.width.saturating_sub(used));
            used += item.text.width();
            line.push(item);
            is_fresh = false;
        }
        if !line.is_empty() {
            self.lines.push(line);
        }
    }

    /// A sentence, broken between its words.
    fn words(&mut self, tone: Tone, words: &str) {
        let mut line = String::new();
        for word in clean(words).split(' ').filter(|word| !word.is_empty()) {
            if !line.is_empty() && line.width() + 1 + word.width() > self.width {
                self.lines.push(vec![span(tone, &line)]);
                line = " ".repeat(GAP);
            } else if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
            line = fitting(span(tone, &line), self.width).text;
        }
        if !line.is_empty() {
            self.lines.push(vec![span(tone, &line)]);
        }
    }

    fn blank(&mut self) {
        self.lines.push(Vec::new());
    }

    /// Rows in columns; the first stands to the left, the others to the right. Where they are too wide, each row is a flow
    /// with the columns' names in it.
    fn table<const N: usize>(&mut self, head: [&str; N], rows: &[[Span; N]]) {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| row[column].text.width());
            cells.chain([head[column].width()]).max().unwrap_or(0)
        });
        if widths.iter().sum::<usize>() + GAP * (N - 1) <= self.width {
            let titles = head.map(|title| span(Tone::Soft, title));
            for row in std::iter::once(&titles).chain(rows) {
                let line = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
                    let rest = " ".repeat(width - cell.text.width());
                    let text = if column == 0 {
                        format!("{}{rest}", cell.text)
                    } else {
                        format!("{}{rest}{}", " ".repeat(GAP), cell.text)
                    };
                    Span { text, tone: cell.tone }
                });
                self.lines.push(line.collect());
            }
            return;
        }
        self.flow([span(Tone::Soft, head[0])]);
        for row in rows {
            let named = row.iter().zip(head).enumerate().filter(|(_, (cell, _))| cell.text != DASH);
            self.flow(named.map(|(column, (cell, title))| match column {
                0 => cell.clone(),
                _ => Span { text: format!("{title} {}", cell.text), tone: cell.tone },
            }));
        }
    }

    fn head(&mut self, now: &Reading, address: &str) {
        let is_well = now.health.live && now.health.ready && now.health.reasons.is_empty();
        let state = match (is_well, now.health.live && now.health.ready) {
            (true, _) => span(Tone::Good, "well"),
            (false, true) => span(Tone::Warning, "degraded"),
            (false, false) => span(Tone::Bad, "ill"),
        };
        let up = age(milliseconds(now.now_unix_s - now.started_unix_s));
        self.flow([
            span(Tone::Title, format!("forebay {}", now.version)),
            plain(address),
            plain(format!("up {up}")),
            plain(&now.mode),
            state,
        ]);
        for reason in &now.health.reasons {
            self.words(if now.health.live { Tone::Warning } else { Tone::Bad }, reason);
        }
    }

    fn lookups(&mut self, history: &History) {
        let now = &history.last().lookups;
        let recent = history.share(|now| now.lookups.hit_chunks, |now| now.lookups.chunks);
        let rate = history.rate(|now| Some(now.lookups.all()));
        let times = history.times(|now| Some(&now.lookups.seconds));
        self.blank();
        self.flow([
            span(Tone::Title, "lookups"),
            plain(format!("hit rate {}", percent(recent.or_else(|| ratio(now.hit_chunks, now.chunks))))),
            plain(format!("in all {}", percent(ratio(now.hit_chunks, now.chunks)))),
            plain(format!("{}/s", rate.map_or(DASH.into(), |rate| format!("{rate:.0}")))),
            plain(format!("p50 {}", bound(times.map(|times| times.half)))),
            plain(format!("p99 {}", bound(times.map(|times| times.most)))),
            plain(format!("hit {}", now.hit)),
            plain(format!("miss {}", now.miss)),
            plain(format!("pending {}", now.pending)),
            plain(format!("busy {}", now.busy)),
        ]);
    }

    fn tiers(&mut self, history: &History) {
        let tiers = &history.last().tiers;
        let bytes = |name: &str, read: fn(&Tier) -> u64| {
            perhaps(history.rate(|now| tier_of(now, name).map(read)), per_second)
        };
        let rows: Vec<[Span; 8]> = tiers
            .iter()
            .map(|tier| {
                let (used, capacity) = (tier.used_bytes, tier.capacity_bytes);
                let fill = used.zip(capacity).and_then(|(used, capacity)| ratio(used, capacity));
                [
                    span(Tone::Title, &tier.name),
                    span(tone_of(&tier.state), &tier.state),
                    plain(tier.chunks.map_or(DASH.into(), |chunks| chunks.to_string())),
                    plain(used.map_or(DASH.into(), size)),
                    plain(capacity.map_or(DASH.into(), size)),
                    plain(percent(fill)),
                    plain(bytes(&tier.name, |tier| tier.stored_bytes)),
                    plain(bytes(&tier.name, |tier| tier.loaded_bytes)),
                ]
            })
            .collect();
        self.blank();
        self.table(["tier", "state", "chunks", "used", "capacity", "fill", "in", "out"], &rows);

        let times = |name: &str, read: fn(&Tier) -> &Times| history.times(|now| tier_of(now, name).map(read));
        let half = |times: Option<Quantiles>| plain(bound(times.map(|times| times.half)));
        let most = |times: Option<Quantiles>| plain(bound(times.map(|times| times.most)));
        let rows: Vec<[Span; 8]> = tiers
            .iter()
            .map(|tier| {
                let stores = times(&tier.name, |tier| &tier.store_seconds);
                let loads = times(&tier.name, |tier| &tier.load_seconds);
                let failed = if tier.failed() > 0 { Tone::Warning } else { Tone::Plain };
                [
                    span(Tone::Title, &tier.name),
                    half(stores),
                    most(stores),
                    half(loads),
                    most(loads),
                    plain(tier.waiting_chunks.to_string()),
                    plain(tier.removed().to_string()),
                    span(failed, tier.failed().to_string()),
                ]
            })
            .collect();
        self.blank();
        let title = if history.is_since_start() { "since start" } else { "last minute" };
        let head = [title, "store p50", "store p99", "load p50", "load p99", "waiting", "removed", "failed"];
        self.table(head, &rows);
        for tier in tiers.iter().filter(|tier| tier.pinned_chunks.is_some_and(|pinned| pinned > 0)) {
            let pinned = count(tier.pinned_chunks.unwrap_or_default(), "chunk");
            self.flow([span(Tone::Title, &tier.name), plain(format!("{pinned} pinned"))]);
        }
        // Who is not told by the health has it told here.
        let reasons = &history.last().health.reasons;
        for (tier, reason) in tiers.iter().filter_map(|tier| Some((tier, tier.reason.as_ref()?))) {
            if !reasons.iter().any(|told| told.contains(reason)) {
                self.words(Tone::Warning, &format!("{}: {reason}", tier.name));
            }
        }
    }

    fn remote(&mut self, now: &Reading) {
        let Some(remote) = &now.remote else { return };
        let failed = if remote.failed_requests > 0 { Tone::Warning } else { Tone::Plain };
        let breaker = if remote.breaker == "closed" { Tone::Plain } else { Tone::Bad };
        self.blank();
        self.flow([
            span(Tone::Title, "remote store"),
            plain(format!("requests {}", remote.requests)),
            plain(format!("in flight {}", remote.in_flight)),
            plain(format!("retries {}", remote.retries)),
            span(failed, format!("failed {}", remote.failed_requests)),
            span(breaker, format!("breaker {}", remote.breaker.replace('_', " "))),
        ]);
    }

    fn mover(&mut self, mover: &Mover) {
        let staging = &mover.staging;
        let drawn = (1..=SLOTS_DRAWN_MAX).contains(&staging.slots).then(|| {
            let used = staging.in_use.min(staging.slots);
            let draw = |mark: &str, times: u64| mark.repeat(usize::try_from(times).unwrap_or(0));
            plain(format!("[{}{}]", draw("#", used), draw(".", staging.slots - used)))
        });
        let counter = |name: &str, number: u64, tone: Tone| {
            (number > 0).then(|| span(tone, format!("{name} {number}")))
        };
        let old = (mover.age_s > OLD_S)
            .then(|| span(Tone::Soft, format!("as of {} ago", age(milliseconds(mover.age_s)))));
        let slots =
            format!("staging {} of {} slots of {}", staging.in_use, staging.slots, size(staging.slot_bytes));
        let items = [
            Some(span(Tone::Title, format!("worker {}", mover.worker))),
            Some(plain(slots)),
            drawn,
            Some(plain(format!("most {}", staging.in_use_max))),
            Some(plain(format!("loads wait {}", mover.queued.loads))),
            Some(plain(format!("stores wait {}", mover.queued.stores))),
            Some(plain(format!("copies wait {}", mover.queued.copies))),
            Some(span(Tone::Soft, &mover.io_engine)),
            counter("busy", mover.busy, Tone::Warning),
            counter("timed out", mover.timed_out, Tone::Warning),
            counter("I/O errors", mover.io_errors, Tone::Bad),
            counter("corrupt", mover.corrupt, Tone::Bad),
            old,
        ];
        self.blank();
        self.flow(items.into_iter().flatten());
    }

    fn loads(&mut self, now: &Reading) {
        let mut loads: Vec<_> = now.movers.iter().flat_map(|mover| &mover.loads_in_flight).collect();
        loads.sort_by(|one, other| other.age_s.total_cmp(&one.age_s));
        let title = span(Tone::Title, "loads in flight");
        self.blank();
        if loads.is_empty() {
            self.flow([title, plain("none")]);
            return;
        }
        let shown = loads.iter().take(LOADS_MAX).map(|load| {
            let tone = if load.age_s >= 1.0 { Tone::Warning } else { Tone::Plain };
            span(tone, format!("{} {} for {}", load.tier, size(load.bytes), seconds(load.age_s)))
        });
        self.flow([title].into_iter().chain(shown));
    }

    fn namespaces(&mut self, now: &Reading) {
        if now.namespaces.is_empty() {
            return;
        }
        self.blank();
        let figures: Vec<[String; 2]> = now
            .namespaces
            .iter()
            .map(|namespace| [count(namespace.chunks, "chunk"), size(namespace.bytes)])
            .collect();
        let widest = |at: usize| figures.iter().map(|row| row[at].width()).max().unwrap_or(0);
        let (chunks_wide, bytes_wide) = (widest(0), widest(1));
        let left = self.width.saturating_sub(chunks_wide + bytes_wide + 2 * GAP);
        let names = now.namespaces.iter().map(|namespace| clean(&namespace.name));
        let name_wide = names.clone().map(|name| name.width()).max().unwrap_or(0).min(left);
        self.flow([span(Tone::Title, "namespaces on disk, the largest first")]);
        for (name, [chunks, bytes]) in names.zip(&figures).take(NAMESPACES_MAX) {
            if left < 20 {
                self.flow([plain(name), plain(chunks), plain(bytes)]);
                continue;
            }
            let name = fitting(plain(name), name_wide).text;
            let rest = " ".repeat(name_wide - name.width());
            self.lines
                .push(vec![plain(format!("{name}{rest}  {chunks:>chunks_wide$}  {bytes:>bytes_wide$}"))]);
        }
    }
}

fn tier_of<'a>(now: &'a Reading, name: &str) -> Option<&'a Tier> {
    now.tiers.iter().find(|tier| tier.name == name)
}

fn tone_of(state: &str) -> Tone {
    match state {
        "ok" => Tone::Good,
        "down" => Tone::Bad,
        _ => Tone::Warning,
    }
}

/// As much of it as there is room for.
fn fitting(span: Span, width: usize) -> Span {
    if span.text.width() <= width {
        return span;
    }
    let mut text = String::new();
    let mut used = 0;
    for it in span.text.chars() {
        used += it.width().unwrap_or(0);
        // One place is for the dots.
        if used + 1 > width {
            break;
        }
        text.push(it);
    }
    if width > 0 {
        text.push('…');
    }
    Span { text, tone: span.tone }
}

fn perhaps<T>(value: Option<T>, say: impl Fn(T) -> String) -> String {
    value.map_or_else(|| DASH.to_owned(), say)
}

fn percent(share: Option<f64>) -> String {
    perhaps(share, |share| format!("{:.1} %", share * 100.0))
}

fn bound(bound: Option<Bound>) -> String {
    perhaps(bound, |bound| match bound {
        Bound::About(time) => seconds(time),
        Bound::Over(time) => format!("> {}", seconds(time)),
    })
}

/// A rate as drives and networks are sold: `1.20 GB/s`.
fn per_second(rate: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")];
    match UNITS.iter().find(|(unit, _)| rate >= *unit) {
        Some((unit, name)) => format!("{} {name}", digits(rate / unit)),
        None => format!("{rate:.0} B/s"),
    }
}

/// A time: `42 µs`, `1.20 ms`, `3.00 s`.
fn seconds(time: f64) -> String {
    const UNITS: [(f64, &str); 2] = [(1.0, "s"), (1e-3, "ms")];
    match UNITS.iter().find(|(unit, _)| time >= *unit) {
        Some((unit, name)) => format!("{} {name}", digits(time / unit)),
        None => format!("{} µs", digits(time * 1e6)),
    }
}

/// Three digits, so that a width stays about what it was.
fn digits(number: f64) -> String {
    if number >= 99.95 {
        format!("{number:.0}")
    } else if number >= 9.995 {
        format!("{number:.1}")
    } else {
        format!("{number:.2}")
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what is no time is none")]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(second: u64, loaded_bytes: u64) -> Reading {
        let times = json!({ "count": 100, "buckets": [[0.001, 50], [0.002, 100], [null, 100]] });
        let tier = |name: &str, state: &str| {
            json!({
                "tier": name, "state": state, "chunks": 1234, "used_bytes": 8_u64 << 30, "capacity_bytes": 10_u64 << 30, "pinned_chunks": 12,
                "stored_bytes": 1_000_000 * second, "loaded_bytes": loaded_bytes, "failed_stores": 1, "failed_loads": 2,
                "removed_chunks": { "capacity": 7, "corrupt": null, "cleared": 1 }, "waiting_chunks": 3,
                "store_seconds": times, "load_seconds": times,
            })
        };
        let now = json!({
            "version": "0.1.0", "started_unix_s": 1000.0, "now_unix_s": 1000 + second,
            "health": { "live": true, "ready": true, "reasons": ["remote: the store does not answer, and is left alone for a while"] },
            "mode": "staging only",
            "lookups": { "hit": 3, "miss": 1, "pending": 0, "busy": 0, "chunks": 8, "hit_chunks": 6, "seconds": times },
            "tiers": [tier("disk", "ok"), { "tier": "remote", "state": "down", "chunks": null, "stored_bytes": 0 }],
            "remote": { "requests": 9, "failed_requests": 5, "retries": 2, "breaker": "half_open", "in_flight": 1 },
            "namespaces": [{ "name": "m\u{1b}[2J\r\n\u{9b}31m (0123456789abcdef)", "chunks": 1234, "bytes": 8_u64 << 30 },
                           { "name": "模型".repeat(60), "chunks": 1, "bytes": 5 }],
            "movers": [{
                "worker": 0, "age_s": 5.0, "staging": { "slots": 6, "slot_bytes": 2 << 20, "in_use": 2, "in_use_max": 5 },
                "queued": { "loads": 4, "stores": 5, "copies": 6 }, "io_engine": "io_uring", "busy": 0, "corrupt": 1,
                "loads_in_flight": [{ "tier": "disk", "bytes": 2 << 20, "age_s": 0.0042 }, { "tier": "disk", "bytes": 1 << 20, "age_s": 2.5 }],
            }],
        });
        serde_json::from_value(now).unwrap()
    }

    fn shown(width: usize) -> String {
        let mut history = History::new(reading(10, 0), true);
        history.note(reading(11, 1_200_000_000));
        text(&frame(&history, "127.0.0.1:9180", width))
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_none_moves_its_cursor() {
        for width in [1, 2, 7, 20, 39, 40, 41, 79, 80, 81, 120, 300] {
            let text = shown(width);
            for line in text.lines() {
                assert!(line.width() <= width, "{width}: {line:?}");
                assert!(!line.contains(|it: char| it.is_control()), "{line:?}");
            }
        }
    }

    #[test]
    fn all_of_it_is_there_at_80_and_at_40() {
        for width in [80, 40] {
            let text = shown(width);
            let words: Vec<&str> = text.split_whitespace().collect();
            let joined = words.join(" ");
            for figure in [
                "forebay 0.1.0 127.0.0.1:9180 up 11 s staging only degraded",
                "the store does not answer",
                "hit rate 75.0 %",
                "p50 1.00 ms",
                "8.00 GiB",
                "80.0 %",
                "1.20 GB/s",
                "1.00 MB/s",
                "staging 2 of 6 slots of 2.00 MiB [##....]",
                "disk 12 chunks pinned",
                "stores wait 5",
                "corrupt 1",
                "as of 5 s ago",
                "breaker half open",
                "disk 1.00 MiB for 2.50 s",
                "m?[2J???31m",
                "1234 chunks 8.00 GiB",
            ] {
                assert!(joined.contains(figure), "{figure} at {width}:\n{text}");
            }
            assert_eq!(joined.matches("does not answer").count(), 1, "{text}");
        }
        assert!(shown(80).contains("tier    state  chunks"), "{}", shown(80));
        assert!(shown(40).contains("disk  state ok  chunks 1234"), "{}", shown(40));
    }

    #[test]
    fn times_and_rates_have_three_digits() {
        assert_eq!(
            [0.000_042, 0.0012, 0.0999, 3.0, 250.0].map(seconds),
            ["42.0 µs", "1.20 ms", "99.9 ms", "3.00 s", "250 s"]
        );
        assert_eq!([0.0, 999.0, 1.2e9, 345e6].map(per_second), ["0 B/s", "999 B/s", "1.20 GB/s", "345 MB/s"]);
    }
}
