//! `forebay bench`: that it measures what it says, leaves nothing behind, and refuses what cannot be measured. No
//! figure that a clock gave is asserted but for being there.

mod filled;

use std::fs;
use std::path::Path;

use filled::{forebay, json, printed, refused};
use serde_json::Value;

const SMALL: [&str; 8] = ["--chunk-size", "1MiB", "--total", "64MiB", "--rounds", "2", "--staging", "8MiB"];

fn bench(dir: &Path, more: &[&str]) -> std::process::Output {
    forebay(&[&["bench", "--dir", dir.to_str().unwrap()], more].concat())
}

#[test]
fn every_figure_is_there_and_makes_sense() {
    // Not on tmpfs, where there is no drive: a directory beside the program.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let report = json(&bench(directory.path(), &[&SMALL[..], &["--json"]].concat()), 0);
    let figure = |path: [&str; 2]| {
        report[path[0]][path[1]].as_f64().unwrap_or_else(|| panic!("{path:?} is missing in {report:#}"))
    };
    for direction in ["write", "read"] {
        for name in ["gbps", "ceiling_gbps", "ratio", "cpu_s_per_gb", "p50_ms", "p99_ms"] {
            assert!(figure([direction, name]) > 0.0, "{direction}.{name} in {report:#}");
        }
        assert!(figure([direction, "p50_ms"]) <= figure([direction, "p99_ms"]));
        let [least, most] = [0, 1].map(|end| report["ratio_spread"][direction][end].as_f64().unwrap());
        let ratio = figure([direction, "ratio"]);
        assert!(least <= ratio && ratio <= most, "the median lies within the spread: {report:#}");
        assert!([2, 4, 8, 16, 32].contains(&report["ceiling_depth"][direction].as_u64().unwrap()));
    }
    let [alone, beside] = ["alone_p99_ms", "beside_stores_p99_ms"].map(|name| figure(["mixed", name]));
    assert!(alone > 0.0 && (figure(["mixed", "slowdown"]) - beside / alone).abs() < 1e-9);
    assert!(figure(["mixed", "stores_gbps"]) > 0.0, "stores ran beside the loads");
    assert_eq!((&report["wrong_chunks"], &report["rounds"]), (&0.into(), &2.into()));
    assert_eq!((&report["chunk_bytes"], &report["total_bytes"]), (&(1 << 20).into(), &(64 << 20).into()));

    let staging = report["staging_bytes"].as_u64().unwrap();
    assert!(0 < staging && staging <= 8 << 20 && staging.is_multiple_of(1 << 20), "{staging}");
    assert_eq!((&report["staging_buffer_bytes"], &report["window"]), (&(8 << 20).into(), &192.into()));
    let rss_mib = report["rss_mib"].as_f64().unwrap();
    assert!((8.0..128.0).contains(&rss_mib), "the staging buffer is resident: {rss_mib} MiB");
    assert!(report["own_buffers_mib"].as_f64().unwrap() >= 192.0, "{report}");
    let growth = report["page_cache_growth_mib"].as_f64().unwrap();
    assert!(
        report["direct_io"] == false || growth == 0.0,
        "direct I/O leaves nothing in the cache: {growth} MiB"
    );
    assert!(report["noisy"].is_boolean() && report["io_engine"].is_string());
    assert_eq!(report["threads"], Value::Null);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");

    let text = printed(&bench(directory.path(), &[&SMALL[..], &["--threads", "3"]].concat()), 0);
    for part in
        ["64.00 MiB in chunks of 1.00 MiB, 2 rounds", "\nwrite ", "\nread ", "CPU-s/GB", "page cache +"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let said = |more: &[&str]| refused(&bench(directory.path(), more));
    assert!(said(&["--chunk-size", "5000"]).contains("no multiple of 4 KiB"));
    assert!(said(&["--total", "100MiB"]).contains("less than 16 chunks of 8.00 MiB"));
    assert!(said(&["--chunk-size", "4GiB", "--total", "1TiB"]).contains("4 GiB or more"));
    let too_much = said(&["--total", "9000TiB", "--chunk-size", "1GiB"]);
    assert!(too_much.contains("are needed; free space there"), "{too_much}");
    assert!(said(&["--staging", "3MiB", "--total", "128MiB"]).contains("two are needed"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let nowhere = bench(&directory.path().join("nowhere"), &[]);
    assert!(refused(&nowhere).contains("is no directory"));

    for (more, what) in
        [(["--total", "4 gigs"], "unknown unit `gigs`"), (["--rounds", "0"], "0 is not in 1..=1000")]
    {
        let output = bench(directory.path(), &more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(what), "{said}");
    }
}

#[test]
fn the_memory_tier_is_measured_beside_a_plain_copy_and_every_chunk_is_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let report =
        json(&bench(directory.path(), &[&["--tier", "memory"][..], &SMALL[..], &["--json"]].concat()), 0);
    for direction in ["write", "read"] {
        for name in ["gbps", "ceiling_gbps", "ratio", "cpu_s_per_gb", "p50_ms", "p99_ms"] {
            assert!(report[direction][name].as_f64().is_some_and(|figure| figure > 0.0), "{report:#}");
        }
    }
    assert_eq!((&report["tier"], &report["wrong_chunks"]), (&"memory".into(), &0.into()));
    // A round of 64 MiB, and 192 MiB that may be under way: the tier is resident, the plain program's copy of it is not
    // counted, and no chunk crossed the staging buffer.
    let rss_mib = report["rss_mib"].as_f64().unwrap();
    assert!((257.0..321.0).contains(&rss_mib), "{rss_mib} MiB");
    assert_eq!(report["staging_bytes"], 0, "no chunk crossed the staging buffer");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
}
