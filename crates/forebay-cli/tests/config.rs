//! `forebay config`: what is refused, in which words, and that the file of an `LMCache` user passes.

mod filled;

use std::fs;

use filled::{forebay, json, printed, refused};

/// The program's `config` on a file with this text.
fn config(text: &str, more: &[&str]) -> std::process::Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forebay.yaml");
    fs::write(&path, text).unwrap();
    forebay(&[&["config", "--file", path.to_str().unwrap()], more].concat())
}

#[track_caller]
fn refused_with(text: &str, parts: &[&str]) {
    let line = refused(&config(text, &[]));
    for part in parts {
        assert!(line.contains(part), "{part:?} in {line}");
    }
}

#[test]
fn a_bad_configuration_names_the_key_and_the_remedy() {
    let disk = "local_cpu: false\nlocal_disk: /kv\n";
    refused_with(
        &format!("{disk}max_local_disk_sise: 1\n"),
        &["`max_local_disk_sise`", "did you mean `max_local_disk_size`"],
    );
    refused_with(&format!("{disk}max_local_disk_size: much\n"), &["`max_local_disk_size`", "much", "Set "]);
    refused_with(&format!("{disk}max_local_disk_size: 0\n"), &["`max_local_disk_size`", "0", "Set "]);
    refused_with("local_cpu: false\n", &["`local_disk`", "Set "]);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for arguments in [&["config", "--nonsense"][..], &["nonsense"], &["inspect"], &[]] {
        let output = forebay(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (arguments, part) in [
        (&["--help"][..], "inspect"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["verify", "--help"], "offset_bytes"),
        (&["inspect", "--help"], "interrupted_records"),
    ] {
        assert!(printed(&forebay(arguments), 0).contains(part), "{arguments:?}");
    }
}

#[test]
fn the_file_of_an_lmcache_user_passes() {
    let theirs = "chunk_size: 256\nlocal_cpu: false\nmax_local_cpu_size: 5\nlocal_disk: \"file:///mnt/kv/\"\n\
                  max_local_disk_size: 50\nremote_url: null\nremote_serde: naive\nsave_decode_cache: true\n\
                  enable_p2p: false\ncache_policy: LRU\n";
    let shown = json(&config(theirs, &["--json"]), 0);
    assert_eq!(shown["keys"]["max_local_disk_size"]["value"], 50.0);
    assert_eq!(shown["keys"]["local_disk"]["value"], "/mnt/kv/");
    assert!(printed(&config(theirs, &[]), 0).contains("max_local_disk_size"));
}
