//! `forebay replay`: what it finds against an independent model, on disk and simulated, and what it refuses.

mod filled;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use filled::{forebay, json, printed, refused};
use serde_json::Value;
use twox_hash::XxHash3_64;

/// A cache of blocks as a list, the least recently used first: of a prompt the last block counts as used first, and
/// a block of the request at hand is not evicted for it. Gives (blocks, blocks hit, evictions).
fn tiny_lru(requests: &[Vec<u64>], capacity: usize) -> (usize, usize, usize) {
    let mut list: Vec<u64> = Vec::new();
    let (mut blocks, mut hit, mut evictions) = (0, 0, 0);
    for request in requests {
        blocks += request.len();
        hit += request.iter().take_while(|id| list.contains(id)).count();
        let own: HashSet<u64> = request.iter().copied().collect();
        let mut kept: Vec<u64> = list.iter().copied().filter(|id| !own.contains(id)).collect();
        while kept.len() + own.len() > capacity {
            kept.remove(0);
            evictions += 1;
        }
        kept.extend(request.iter().rev());
        list = kept;
    }
    (blocks, hit, evictions)
}

fn ids(trace: &Path) -> Vec<Vec<u64>> {
    let text = fs::read_to_string(trace).unwrap();
    text.lines()
        .map(|line| {
            let request: Value = serde_json::from_str(line).unwrap();
            request["hash_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
        })
        .collect()
}

fn line(ids: &[u64]) -> String {
    format!("{}\n", serde_json::json!({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":ids}))
}

fn generated(directory: &Path, requests: &str) -> std::path::PathBuf {
    let path = directory.join("trace.jsonl");
    let arguments = ["replay", "--generate", "--requests", requests, "--seed", "3", "--output"];
    let said = printed(&forebay(&[&arguments[..], &[path.to_str().unwrap()]].concat()), 0);
    assert_eq!(said, "");
    path
}

fn simulated(trace: &Path, capacity: &str) -> Value {
    let trace = trace.to_str().unwrap();
    json(&forebay(&["replay", trace, "--capacity-chunks", capacity, "--simulate", "--json"]), 0)
}

#[test]
fn a_trace_worked_out_by_hand() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.jsonl");
    // Room for four. The second prompt shares two blocks and takes the last place; the third evicts block 4, then
    // block 3 (their prompts' ends) and no block before them; the fourth finds 1 and 2, not 3.
    let text = [line(&[1, 2, 3]), line(&[1, 2, 4]), line(&[5, 6]), line(&[1, 2, 3])].concat();
    fs::write(&trace, text).unwrap();
    let report = simulated(&trace, "4");
    assert_eq!((&report["requests"], &report["blocks"]), (&4.into(), &11.into()));
    assert_eq!((&report["hit_blocks"], &report["evictions"]), (&4.into(), &3.into()), "{report}");
    assert!((report["hit_rate"].as_f64().unwrap() - 4.0 / 11.0).abs() < 1e-12);
    assert_eq!((&report["loaded_bytes"], &report["stored_bytes"]), (&(4 << 21).into(), &(7 << 21).into()));
    let trace = trace.to_str().unwrap();
    let text = printed(&forebay(&["replay", trace, "--capacity-chunks", "4", "--simulate"]), 0);
    assert!(
        text.contains("4 requests, 4 chunks of 2.00 MiB each, lru, simulated: hit rate 0.3636"),
        "{text}"
    );
}

#[test]
fn simulated_it_finds_what_an_independent_lru_finds() {
    let directory = tempfile::tempdir().unwrap();
    let trace = generated(directory.path(), "500");
    let requests = ids(&trace);
    let distinct: HashSet<u64> = requests.iter().flatten().copied().collect();
    let mut rates = Vec::new();
    for capacity in [200, 1000, 4000, distinct.len()] {
        let (blocks, hit, evictions) = tiny_lru(&requests, capacity);
        let report = simulated(&trace, &capacity.to_string());
        let found = ["blocks", "hit_blocks", "evictions"].map(|field| report[field].as_u64().unwrap());
        assert_eq!(found, [blocks, hit, evictions].map(|it| it as u64), "capacity {capacity}");
        assert_eq!((&report["refused_chunks"], &report["present_chunks"]), (&0.into(), &0.into()));
        assert_eq!((&report["load_gbps"], &report["load_ms"]["p50"]), (&Value::Null, &Value::Null));
        rates.push(report["hit_rate"].as_f64().unwrap());
    }
    assert!(rates.is_sorted() && rates[0] < rates[3], "{rates:?}");
}

#[test]
fn on_a_directory_every_byte_is_compared_and_the_same_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let trace = generated(directory.path(), "60");
    let dir = directory.path().join("drive");
    fs::create_dir(&dir).unwrap();
    let [trace_name, dir_name] = [&trace, &dir].map(|path| path.to_str().unwrap());
    let arguments = [
        "replay",
        trace_name,
        "--capacity-chunks",
        "300",
        "--dir",
        dir_name,
        "--chunk-size",
        "12KiB",
        "--staging",
        "100KiB",
        "--limit",
        "50",
    ];
    let report = json(&forebay(&[&arguments[..], &["--json"]].concat()), 0);
    let requests = ids(&trace);
    let (blocks, hit, evictions) = tiny_lru(&requests[..50], 300);
    assert!(hit > 0 && evictions > 0, "the trace must load and evict something");
    let found = ["blocks", "hit_blocks", "evictions"].map(|field| report[field].as_u64().unwrap());
    assert_eq!(found, [blocks, hit, evictions].map(|it| it as u64));
    assert_eq!((&report["mode"], &report["requests"]), (&"real".into(), &50.into()));
    assert_eq!((&report["wrong_chunks"], &report["refused_chunks"]), (&0.into(), &0.into()));
    let bytes = |chunks: usize| Value::from(chunks as u64 * 12 * 1024);
    assert_eq!((&report["loaded_bytes"], &report["stored_bytes"]), (&bytes(hit), &bytes(blocks - hit)));
    for figure in ["load_gbps", "store_gbps", "cpu_s", "seconds"] {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{figure} in {report}");
    }
    for times in ["lookup_us", "load_ms"] {
        let [p50, p99] = ["p50", "p99"].map(|it| report[times][it].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99, "{times} in {report}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing is left");
    let text = printed(&forebay(&arguments), 0);
    assert!(text.ends_with("Every byte loaded was the one stored.\n"), "{text}");
}

#[test]
fn each_policy_finds_the_same_on_a_directory_as_simulated() {
    let directory = tempfile::tempdir().unwrap();
    let trace = generated(directory.path(), "80");
    let dir = directory.path().join("drive");
    fs::create_dir(&dir).unwrap();
    let [trace, dir] = [&trace, &dir].map(|path| path.to_str().unwrap());
    let mut found = HashSet::new();
    for policy in ["lru", "fifo", "LFU", "s3_fifo"] {
        let replay = |more: &[&str]| {
            let arguments = ["replay", trace, "--capacity-chunks", "150", "--json", "--policy", policy];
            let report = json(&forebay(&[&arguments[..], more].concat()), 0);
            assert_eq!((&report["wrong_chunks"], &report["refused_chunks"]), (&0.into(), &0.into()));
            assert_eq!(report["policy"], policy.to_ascii_lowercase().replace('_', "-"));
            ["hit_blocks", "evictions"].map(|field| report[field].as_u64().unwrap())
        };
        let simulated = replay(&["--simulate"]);
        assert_eq!(replay(&["--dir", dir, "--chunk-size", "12KiB", "--staging", "100KiB"]), simulated);
        found.insert(simulated);
    }
    assert!(found.len() >= 3, "policies differ: {found:?}");
}

#[test]
fn a_made_up_trace_is_the_same_everywhere() {
    let first = forebay(&["replay", "--generate", "--requests", "200", "--seed", "5"]);
    let text = printed(&first, 0);
    assert_eq!(text.lines().count(), 200);
    assert_eq!(text, printed(&forebay(&["replay", "--generate", "--requests", "200", "--seed", "5"]), 0));
    assert_ne!(text, printed(&forebay(&["replay", "--generate", "--requests", "200"]), 0));
    // A change of the generator makes figures that were published incomparable: it has to be meant.
    assert_eq!(XxHash3_64::oneshot(text.as_bytes()), 481_445_537_265_252_133);
}

#[test]
fn what_cannot_be_replayed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.jsonl");
    fs::write(&trace, format!("{}{{\"timestamp\": 1\n", line(&[1]))).unwrap();
    let name = trace.to_str().unwrap();
    let simulate = ["--capacity-chunks", "4", "--simulate"];
    let replay = |trace: &str, more: &[&str]| forebay(&[&["replay", trace], more].concat());
    let said = refused(&replay(name, &simulate));
    assert!(said.contains("trace.jsonl, line 2: EOF while parsing an object"), "{said}");
    assert!(refused(&replay("/nowhere.jsonl", &simulate)).contains("reading the trace /nowhere.jsonl"));

    fs::write(&trace, line(&[1, 2])).unwrap();
    let huge = [&simulate[..], &["--chunk-size", "5GiB"]].concat();
    assert!(refused(&replay(name, &huge)).contains("4 GiB or more"));
    let many = ["--capacity-chunks", "9000000000", "--simulate"];
    assert!(refused(&replay(name, &many)).contains("16 TiB"));
    let nowhere = ["--capacity-chunks", "4", "--dir", "/nowhere"];
    assert!(refused(&replay(name, &nowhere)).contains("/nowhere is no directory"));
    let dir = directory.path().to_str().unwrap();
    let no_staging = ["--capacity-chunks", "4", "--dir", dir, "--staging", "1MiB"];
    assert!(refused(&replay(name, &no_staging)).contains("max_local_cpu_size"));
    let too_much = ["--capacity-chunks", "4000", "--dir", dir, "--chunk-size", "1GiB"];
    assert!(refused(&replay(name, &too_much)).contains("are needed"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left but the trace");

    // What the command line itself cannot be is told with its usage.
    for (more, what) in [
        (
            &["--capacity-chunks", "4", "--simulate", "--policy", "clock"][..],
            "no such policy; it has lru, fifo, lfu, s3-fifo",
        ),
        (&["--simulate"][..], "--capacity-chunks <N>"),
        (&["--capacity-chunks", "4"][..], "--dir <DIR>"),
        (&["--capacity-chunks", "4", "--simulate", "--chunk-size", "2Mib!"][..], "write a size like 8MiB"),
        (&["--capacity-chunks", "4", "--simulate", "--dir", dir][..], "cannot be used with"),
    ] {
        let output = replay(name, more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(what), "{said}");
    }
}
