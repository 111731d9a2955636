//! `forebay top`: that it shows what `/api/now` says, and leaves the terminal as it was.

mod filled;
mod running;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use filled::{CHUNK_BYTES, fill, forebay, namespace, printed, refused};
use forebay::Cache;
use parking_lot::Mutex;
use running::{Running, Seat};
use serde_json::Value;

fn load(cache: &Cache, keys: &[forebay::ChunkKey]) {
    let buffer = || Box::new(Arc::new(Mutex::new(vec![0_u8; CHUNK_BYTES as usize])));
    let outcomes =
        cache.load(keys.iter().map(|key| (*key, buffer() as _)).collect(), None).wait(None).unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.status == forebay::LoadStatus::Loaded));
}

/// Its words, one space between them.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[expect(clippy::cast_precision_loss, reason = "two decimals")]
fn mib(bytes: &Value) -> String {
    format!("{:.2} MiB", bytes.as_u64().unwrap() as f64 / f64::from(1 << 20))
}

#[test]
fn one_frame_says_what_the_cache_says() {
    let running = Running::start("");
    let keys = fill(&running.cache);
    load(&running.cache, &keys[..4]);
    drop(running.cache.lookup(&keys));
    drop(running.cache.lookup(&keys[2..]));
    drop(running.cache.lookup(&namespace().chunk_keys(&[9; 32], 16, &[]).unwrap()));
    let now = running.now();
    for columns in ["80", "40"] {
        let output = forebay_with(
            &[("COLUMNS", columns)],
            &["top", &running.address(), "--once", "--interval", "0.2"],
        );
        let text = printed(&output, 0);
        let (said, disk) = (words(&text), &now["tiers"][0]);
        let lookups = &now["lookups"];
        let staging = &now["movers"][0]["staging"];
        let used = disk["used_bytes"].as_f64().unwrap() / disk["capacity_bytes"].as_f64().unwrap();
        let hits = lookups["hit_chunks"].as_f64().unwrap() / lookups["chunks"].as_f64().unwrap();
        for figure in [
            format!("hit rate {:.1} %", 100.0 * hits),
            format!("hit {} miss {} pending 0 busy 0", lookups["hit"], lookups["miss"]),
            mib(&disk["capacity_bytes"]),
            format!("{:.1} %", 100.0 * used),
            format!("staging 0 of {} slots", staging["slots"]),
            format!("most {}", staging["in_use_max"]),
            now["movers"][0]["io_engine"].as_str().unwrap().to_owned(),
            "loads in flight none".into(),
            "0/s".into(),
            "staging only well".into(),
        ] {
            assert!(said.contains(&figure), "{figure}:\n{text}");
        }
        assert_eq!((&disk["chunks"], lookups["hit"].as_u64()), (&6.into(), Some(2)));
        assert!(
            said.contains(if columns == "80" {
                "disk ok 6 624.00 KiB"
            } else {
                "disk state ok chunks 6 used 624.00 KiB"
            }),
            "{text}"
        );
        assert!(said.contains(&format!("a-model ({})", id(&now))), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= columns.parse().unwrap()), "{text}");
        assert!(!text.contains('\u{1b}'), "plain text");
    }
}

fn id(now: &Value) -> String {
    let name = now["namespaces"][0]["name"].as_str().unwrap();
    name.split_once('(').unwrap().1.trim_end_matches(')').to_owned()
}

fn forebay_with(variables: &[(&str, &str)], arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_forebay"))
        .env_remove("FOREBAY_HTTP_TOKEN")
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn under_load_it_shows_how_much_goes_and_counts_as_the_cache_does() {
    let running = Running::start("");
    let keys = fill(&running.cache);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                drop(running.cache.lookup(&keys));
                load(&running.cache, &keys);
            }
        });
        let before = running.now();
        // Where it listens is found out where the cache finds it out.
        let place = [("FOREBAY_HTTP_LISTEN", &*running.address())];
        let text = printed(&forebay_with(&place, &["top", "--once", "--interval", "0.5"]), 0);
        let after = running.now();
        over.store(true, Ordering::Relaxed);
        let words: Vec<&str> = text.split_whitespace().collect();
        // The first is that of the rate.
        let hits: u64 = words[words.iter().rposition(|it| *it == "hit").unwrap() + 1].parse().unwrap();
        let range = before["lookups"]["hit"].as_u64().unwrap()..=after["lookups"]["hit"].as_u64().unwrap();
        assert!(
            range.contains(&hits) && before["lookups"]["hit"] != after["lookups"]["hit"],
            "{hits} {range:?}"
        );
        let disk = text.lines().find(|line| line.starts_with("disk")).unwrap();
        assert!(
            disk.contains("0 B/s") && disk.matches("B/s").count() == 2,
            "in, and nothing goes in: {text}"
        );
        assert!(!disk.trim_end().ends_with(" 0 B/s"), "out: {text}");
        assert!(!text.contains("p99 -"), "{text}");
    });
}

#[test]
fn where_nothing_answers_it_says_so_and_ends() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let line = refused(&forebay(&["top", &nobody, "--once"]));
    assert!(line.contains(&nobody) && line.contains("http_listen") && line.contains("refused"), "{line}");
    // It listens, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let line = refused(&forebay(&["top", &silent.local_addr().unwrap().to_string(), "--once"]));
    assert!(line.contains("no answer in time"), "{line}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let running = Running::start("");
    drop(running.cache);
    let line = refused(&forebay(&["top", &running.server.address().to_string(), "--once"]));
    assert!(line.contains("the cache is closed"), "{line}");
    assert!(refused(&forebay(&["top", &nobody])).contains("--once"), "the output is no terminal");
}

#[test]
fn a_key_ends_it_and_the_terminal_is_as_it_was() {
    let running = Running::start("");
    fill(&running.cache);
    for (key, columns) in [("q", 80), ("\u{3}", 40)] {
        let mut seat = Seat::new(columns, 50);
        let before = seat.modes();
        let mut top = seat.run(&["top", &running.address(), "--interval", "0.2"], &[]);
        seat.wait_for("a-model");
        assert_ne!(seat.modes(), before, "keys come at once and are not shown");
        assert!(seat.seen().contains("\u{1b}[38;"), "in colour");
        seat.type_in(key);
        assert_eq!(seat.end_of(&mut top), Some(0), "{key:?}");
        assert_eq!(seat.modes(), before, "{key:?}");
        let seen = seat.seen();
        assert!(seen.starts_with("\u{1b}[?1049h") && seen.contains("\u{1b}[?25l"), "{seen:?}");
        let end = seen.split("\u{1b}[?2026l").last().unwrap();
        for sequence in ["\u{1b}[?25h", "\u{1b}[?7h", "\u{1b}[?1049l"] {
            assert!(end.contains(sequence), "{end:?}");
        }
        for row in seat.rows() {
            assert!(row.chars().count() <= usize::from(columns), "{row:?}");
        }
    }
}

#[test]
fn a_signal_ends_it_as_well_and_a_cache_that_ends_does_not() {
    let Running { server, cache, address, home: _home } = Running::start("");
    fill(&cache);
    let mut seat = Seat::new(80, 50);
    let before = seat.modes();
    let mut top = seat.run(&["top", &address, "--interval", "0.2"], &[("NO_COLOR", "1")]);
    seat.wait_for("a-model");
    server.close();
    seat.wait_for("this is what it said last");
    assert!(!seat.seen().contains("\u{1b}[38;5;"), "no colour: {:?}", seat.seen());
    let pid = rustix::process::Pid::from_child(&top);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(seat.end_of(&mut top), Some(0));
    assert_eq!(seat.modes(), before);
    assert!(seat.seen().contains("\u{1b}[?1049l"));
}
