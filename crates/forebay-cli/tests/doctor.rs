//! `forebay doctor`: that each thing it states is so, by the command that it names or another.

mod filled;

use std::fs;
use std::process::Command;

use filled::{forebay, json, printed, refused};
use serde_json::Value;

fn said_by(command: &str) -> String {
    let ended = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(ended.status.success(), "{command}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

fn finding<'a>(examined: &'a Value, what: &str) -> &'a Value {
    let findings = examined["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["what"] == what)
        .unwrap_or_else(|| panic!("{what} in {examined:#}"))
}

#[test]
fn what_it_finds_is_what_other_commands_find() {
    // A name that a shell and YAML would both misread.
    let directory =
        tempfile::Builder::new().prefix("it's a dir #1 ").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().to_str().unwrap();
    let ended = forebay(&["doctor", path, "--json"]);
    let code = ended.status.code();
    let examined: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let bad = examined["findings"].as_array().unwrap().iter().any(|finding| finding["verdict"] == "bad");
    assert_eq!(code, Some(i32::from(bad)), "{examined:#}");

    for what in ["file system", "huge pages", "open files"] {
        let finding = finding(&examined, what);
        let seen = said_by(finding["see"].as_str().unwrap());
        let found = finding["found"].as_str().unwrap();
        assert!(seen.contains(found), "{what}: {found}, and the command says {seen}");
    }
    let locked = said_by("ulimit -l");
    let found = finding(&examined, "memory that may be locked")["found"].as_str().unwrap();
    match locked.parse::<u64>() {
        Ok(kib) => assert!(found.ends_with('B') && kib > 0, "{found}, and the shell says {locked} KiB"),
        Err(_) => assert_eq!((found, locked.as_str()), ("unlimited", "unlimited")),
    }
    let works = finding(&examined, "direct I/O")["found"] == "works";
    let see = finding(&examined, "direct I/O")["see"].as_str().unwrap().to_owned();
    let direct = Command::new("sh").args(["-c", &see]).output().unwrap().status.success();
    assert_eq!(works, direct, "direct I/O: {see}");
    let drive = finding(&examined, "the drive")["found"].as_str().unwrap();
    let read: f64 = drive.split(' ').next().unwrap().parse().unwrap();
    assert!(read > 0.0, "{drive}");
    let see = finding(&examined, "the drive")["see"].as_str().unwrap();
    assert!(see.contains("fio --name=drive ") && see.contains(r"/it'\''s a dir #1 "), "{see}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");

    // What it advises is a configuration.
    let file = directory.path().join("forebay.yaml");
    let keys = examined["configuration"].as_array().unwrap();
    let lines =
        keys.iter().map(|pair| format!("{}: {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
    fs::write(&file, lines.collect::<String>()).unwrap();
    let shown = json(&forebay(&["config", "--file", file.to_str().unwrap(), "--json"]), 0);
    assert!(shown.to_string().contains("a dir #1"), "{shown:#}");
}

#[test]
fn memory_is_no_drive() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let examined =
        json(&forebay(&["doctor", directory.path().to_str().unwrap(), "--no-measure", "--json"]), 1);
    assert_eq!(finding(&examined, "file system")["found"], "tmpfs");
    assert_eq!(finding(&examined, "file system")["verdict"], "bad");
    let text = printed(&forebay(&["doctor", directory.path().to_str().unwrap(), "--no-measure"]), 1);
    for part in
        ["BAD", "this is memory, not a drive", "A configuration for it:", "use_only_staging_buffer: true"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_is_no_directory_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(refused(&forebay(&["doctor", file.path().to_str().unwrap()])).contains("no directory"));
    assert!(refused(&forebay(&["doctor", "/nowhere/at/all"])).contains("/nowhere/at/all"));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let commands = ["inspect", "verify", "config", "replay", "bench", "doctor", "completions", "man"];
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&forebay(&["completions", shell]), 0);
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
    }
    let page = printed(&forebay(&["man"]), 0);
    assert!(page.contains(".TH forebay 1"), "{page}");
    let directory = tempfile::tempdir().unwrap();
    printed(&forebay(&["man", "--dir", directory.path().to_str().unwrap()]), 0);
    for command in commands {
        assert!(directory.path().join(format!("forebay-{command}.1")).exists(), "{command}");
    }
}
