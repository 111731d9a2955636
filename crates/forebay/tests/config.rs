//! Configuration: what is accepted, what is refused and in which words, and which source wins.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay::ErrorKind;
use forebay::Result;
use forebay::config::{
    CachePolicy, Config, DirectIo, DiskSync, IoEngineChoice, KEYS, OnBusy, Origin, PEER_KEYS, Resolved,
    StoreTo, Value, Verdict, explain,
};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

/// The least that makes a configuration.
const DISK: &str = "local_disk: /kv\nmax_local_disk_size: 100\nlocal_cpu: false\n";

/// A directory with a file in it.
struct Yaml {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn yaml(text: &str) -> Yaml {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forebay.yaml");
    fs::write(&path, text).unwrap();
    Yaml { _directory: directory, path }
}

fn env(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn from_file(text: &str) -> Result<Resolved> {
    let file = yaml(text);
    Config::load::<String, Value>(Some(&file.path), [], [])
}

fn from_env(variables: &[(&str, &str)]) -> Result<Resolved> {
    let disk =
        [("FOREBAY_LOCAL_DISK", "/kv"), ("FOREBAY_MAX_LOCAL_DISK_SIZE", "1"), ("FOREBAY_LOCAL_CPU", "false")];
    let mut all = env(&disk);
    all.retain(|(name, _)| variables.iter().all(|(other, _)| name != other));
    all.extend(env(variables));
    Config::load::<String, Value>(None, all, [])
}

/// `DISK` and these lines.
fn with(lines: &str) -> Result<Resolved> {
    let mine: BTreeSet<&str> = lines.lines().filter_map(|line| line.split(':').next()).collect();
    let base = DISK.lines().filter(|line| !mine.contains(line.split(':').next().unwrap()));
    let text: Vec<&str> = base.chain(lines.lines()).collect();
    from_file(&text.join("\n"))
}

#[track_caller]
fn accepted(result: Result<Resolved>) -> Resolved {
    match result {
        Ok(resolved) => resolved,
        Err(error) => panic!("refused: {error}"),
    }
}

/// The message of a refusal, which has to hold all of `parts`.
#[track_caller]
fn refused(result: Result<Resolved>, parts: &[&str]) -> String {
    let error = result.expect_err("was accepted");
    assert_eq!(error.kind(), ErrorKind::Config);
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    message
}

#[track_caller]
fn warns(resolved: &Resolved, parts: &[&str]) {
    let found = resolved.warnings.iter().any(|warning| parts.iter().all(|part| warning.contains(part)));
    assert!(found, "no warning with {parts:?} in {:#?}", resolved.warnings);
}

#[test]
fn defaults_are_those_of_the_table() {
    let resolved = accepted(from_file(DISK));
    let expected = Config {
        chunk_size_tokens: 256,
        local_cpu: false,
        use_only_staging_buffer: false,
        max_local_cpu_bytes: 5 * GIB,
        local_disk: vec!["/kv".into()],
        max_local_disk_bytes: 100 * GIB,
        remote_url: None,
        max_remote_bytes: None,
        remote_timeout: Duration::from_secs(5),
        remote_max_requests: 32,
        remote_retries: 2,
        remote_remember: Duration::from_secs(30),
        store_to: StoreTo { memory: false, disk: true, remote: false },
        store_after: 1,
        on_busy: OnBusy::Wait,
        lookup_wait: Duration::from_secs(1),
        cache_policy: CachePolicy::Lru,
        disk_sync: DiskSync::None,
        disk_min_free_bytes: GIB,
        disk_direct_io: DirectIo::Auto,
        disk_io_engine: IoEngineChoice::Auto,
        disk_io_threads: 4,
        load_timeout: Duration::from_secs(10),
        store_timeout: Duration::from_secs(30),
        max_queued_chunks: 65536,
        http_listen: None,
        http_token: String::new(),
        salt: String::new(),
        save_decode_cache: false,
    };
    assert_eq!(resolved.config, expected);
    assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
    assert_eq!(resolved.origins.len(), KEYS.len());
    assert_eq!(resolved.origins["chunk_size"], Origin::Default);
    assert!(matches!(&resolved.origins["local_disk"], Origin::File(_)));
}

#[test]
fn a_place_to_listen_is_a_port_of_this_machine_or_an_address_with_one() {
    let listen = |value: Value| {
        accepted(Config::from_values([
            ("local_disk", "/kv".into()),
            ("max_local_disk_size", 1.into()),
            ("http_listen", value),
        ]))
    };
    let shown = |value: Value| listen(value).config.http_listen.map(|address| address.to_string());
    assert_eq!(shown(9180.into()).as_deref(), Some("127.0.0.1:9180"));
    assert_eq!(shown("9180".into()).as_deref(), Some("127.0.0.1:9180"));
    assert_eq!(shown("[::1]:0".into()).as_deref(), Some("[::1]:0"));
    assert_eq!(shown(Value::Null), None);
    for wrong in ["65536", "-1", "localhost:9180", "10.0.0.1", ":9180", "x"] {
        let given = Config::from_values([
            ("local_disk", Value::from("/kv")),
            ("max_local_disk_size", 1.into()),
            ("http_listen", wrong.into()),
        ]);
        let said = given.expect_err(wrong).to_string();
        assert!(said.contains("http_listen") && said.contains("0.0.0.0:9180"), "{said}");
    }
}

#[test]
fn every_key_can_be_set_from_every_source() {
    let samples = [
        ("chunk_size", "16"),
        ("local_cpu", "false"),
        ("use_only_staging_buffer", "true"),
        ("max_local_cpu_size", "0.25"),
        ("local_disk", "/nvme/kv"),
        ("max_local_disk_size", "2.5"),
        ("remote_url", "file:///mnt/kv"),
        ("max_remote_size", "1000"),
        ("remote_timeout_s", "2.5"),
        ("remote_max_requests", "64"),
        ("remote_retries", "0"),
        ("remote_remember_s", "60"),
        ("store_to", "disk, remote"),
        ("store_after", "2"),
        ("on_busy", "drop"),
        ("lookup_wait_s", "0.25"),
        ("cache_policy", "LRU"),
        ("disk_sync", "2.5"),
        ("disk_min_free_size", "0.5"),
        ("disk_direct_io", "off"),
        ("disk_io_engine", "threads"),
        ("disk_io_threads", "8"),
        ("load_timeout_s", "0.5"),
        ("store_timeout_s", "1.5"),
        ("max_queued_chunks", "7"),
        ("http_listen", "0.0.0.0:9180"),
        ("http_token", "open sesame"),
        ("cache_salt", "tenant"),
        ("save_decode_cache", "true"),
    ];
    assert_eq!(samples.map(|(key, _)| key).to_vec(), KEYS.iter().map(|key| key.name).collect::<Vec<_>>());

    let text = samples.map(|(key, value)| format!("{key}: {value}")).join("\n");
    let file = accepted(from_file(&text));
    let variables: Vec<_> = samples
        .iter()
        .map(|(key, value)| (format!("FOREBAY_{}", key.to_uppercase()), (*value).to_owned()))
        .collect();
    let environment = accepted(Config::load::<String, Value>(None, variables, []));
    let arguments = accepted(Config::from_values(samples));

    assert_eq!(file.config, environment.config);
    assert_eq!(file.config, arguments.config);
    assert_eq!(file.config.disk_sync, DiskSync::Interval(Duration::from_millis(2500)));
    assert_eq!(file.config.max_local_cpu_bytes, GIB / 4);
    assert_eq!(file.config.remote_url.as_deref(), Some("file:///mnt/kv"));
    assert_eq!(file.config.max_remote_bytes, Some(1000 * GIB));
    assert_eq!(file.config.remote_timeout, Duration::from_millis(2500));
    assert_eq!(file.config.remote_max_requests, 64);
    assert_eq!(file.config.remote_retries, 0);
    assert_eq!(file.config.remote_remember, Duration::from_mins(1));
    assert_eq!(file.config.store_to, StoreTo { memory: false, disk: true, remote: true });
    assert_eq!(file.config.store_after, 2);
    assert_eq!(file.config.on_busy, OnBusy::Drop);
    assert_eq!(file.config.lookup_wait, Duration::from_millis(250));
    assert_eq!(file.config.salt, "tenant");
    for key in KEYS {
        assert!(matches!(file.origins[key.name], Origin::File(_)), "{}", key.name);
        assert!(matches!(environment.origins[key.name], Origin::Environment(_)), "{}", key.name);
        assert_eq!(arguments.origins[key.name], Origin::Argument, "{}", key.name);
    }
}

#[test]
fn a_stronger_source_wins_and_null_goes_back_to_the_default() {
    let file =
        yaml(&format!("{DISK}chunk_size: 1\ndisk_io_threads: 5\nload_timeout_s: 5\nstore_timeout_s: 5\n"));
    let variables = env(&[
        ("LMCACHE_CHUNK_SIZE", "2"),
        ("FOREBAY_CHUNK_SIZE", "3"),
        ("FOREBAY_DISK_IO_THREADS", "6"),
        ("FOREBAY_LOAD_TIMEOUT_S", "6"),
        ("FOREBAY_STORE_TIMEOUT_S", "  "),
    ]);
    let overrides = [("disk_io_threads", Value::from(7)), ("load_timeout_s", Value::Null)];
    let resolved = accepted(Config::load(Some(&file.path), variables, overrides));
    assert_eq!(resolved.config.chunk_size_tokens, 3, "ours before LMCache's before the file");
    assert_eq!(resolved.origins["chunk_size"].to_string(), "env FOREBAY_CHUNK_SIZE");
    assert_eq!(resolved.config.disk_io_threads, 7);
    assert_eq!(resolved.origins["disk_io_threads"].to_string(), "argument");
    assert_eq!(resolved.config.load_timeout, Duration::from_secs(10));
    assert_eq!(resolved.origins["load_timeout_s"].to_string(), "default");
    assert_eq!(resolved.config.store_timeout, Duration::from_secs(5), "an empty variable is not set");
    assert_eq!(resolved.origins["store_timeout_s"].to_string(), format!("file {}", file.path.display()));
}

#[test]
fn the_file_is_named_by_the_environment_when_no_path_is_given() {
    let (ours, theirs) = (yaml(&format!("{DISK}chunk_size: 1")), yaml(&format!("{DISK}chunk_size: 2")));
    let name = |yaml: &Yaml| yaml.path.to_str().unwrap().to_owned();
    let mut variables = vec![("LMCACHE_CONFIG_FILE".to_owned(), name(&theirs))];
    let chunk_size = |path: Option<&Path>, variables: &[(String, String)]| {
        accepted(Config::load::<String, Value>(path, variables.to_vec(), [])).config.chunk_size_tokens
    };
    assert_eq!(chunk_size(None, &variables), 2);
    variables.push(("FOREBAY_CONFIG_FILE".to_owned(), name(&ours)));
    assert_eq!(chunk_size(None, &variables), 1);
    assert_eq!(chunk_size(Some(&theirs.path), &variables), 2);
    refused(
        Config::load::<String, Value>(Some(Path::new("/no/such.yaml")), [], []),
        &["/no/such.yaml", "cannot be read"],
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    refused(with("chunk_sise: 256"), &["`chunk_sise`", "file ", "did you mean `chunk_size`?"]);
    refused(with("max_local_disc_size: 1"), &["`max_local_disc_size`", "`max_local_disk_size`"]);
    refused(with("Local_Disk: /kv"), &["`local_disk`"]);
    refused(with("use_layerwize: true"), &["`use_layerwise`, a key of LMCache"]);
    refused(with("zzzzzzzz: 1"), &["`zzzzzzzz`", "the keys are chunk_size, local_cpu"]);
    refused(with(&format!("{}: 1", "x".repeat(1000))), &["unknown key", "the keys are"]);
    refused(Config::from_values([("local_dsk", "/kv")]), &["`local_dsk` (argument)", "`local_disk`"]);
    refused(from_env(&[("FOREBAY_CHUNK_SZE", "1")]), &["FOREBAY_CHUNK_SZE", "`chunk_size`"]);
    refused(from_env(&[("FOREBAY_chunk_size", "1")]), &["FOREBAY_chunk_size", "`chunk_size`"]);
}

#[test]
fn variables_that_are_no_keys_break_nothing() {
    let resolved = accepted(from_env(&[
        ("FOREBAY_LOG", "debug"),
        ("LMCACHE_USE_EXPERIMENTAL", "True"),
        ("LMCACHE_TRACK_USAGE", "false"),
        ("LMCACHE_LOG_LEVEL", "DEBUG"),
        ("PATH", "/bin"),
        // What Kubernetes sets for services named forebay and forebay-router.
        ("FOREBAY_SERVICE_HOST", "10.0.0.1"),
        ("FOREBAY_SERVICE_PORT", "80"),
        ("FOREBAY_SERVICE_PORT_HTTP", "80"),
        ("FOREBAY_PORT", "tcp://10.0.0.1:80"),
        ("FOREBAY_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("FOREBAY_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("FOREBAY_ROUTER_SERVICE_HOST", "10.0.0.1"),
        ("FOREBAY_ROUTER_PORT_80_TCP_PROTO", "tcp"),
    ]));
    assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
}

#[test]
fn of_lmcaches_variables_only_shared_keys_are_read() {
    let resolved = accepted(Config::load::<String, Value>(
        None,
        env(&[
            ("LMCACHE_LOCAL_DISK", "\"file:///kv/\""),
            ("LMCACHE_MAX_LOCAL_DISK_SIZE", "5"),
            ("LMCACHE_LOCAL_CPU", "False"),
            ("LMCACHE_DISK_SYNC", "always"),
            ("LMCACHE_ENABLE_P2P", "true"),
            ("LMCACHE_EXTRA_CONFIG", r#"{"use_odirect": false, "s3_region": "x"}"#),
        ]),
        [],
    ));
    assert_eq!(resolved.config.local_disk, [Path::new("/kv/")]);
    assert_eq!(resolved.config.disk_sync, DiskSync::None);
    assert_eq!(resolved.config.disk_direct_io, DirectIo::Off);
    assert_eq!(
        resolved.origins["disk_direct_io"].to_string(),
        "env LMCACHE_EXTRA_CONFIG, extra_config.use_odirect"
    );
    warns(&resolved, &["LMCACHE_DISK_SYNC", "FOREBAY_DISK_SYNC"]);
    warns(&resolved, &["`enable_p2p`", "LMCACHE_ENABLE_P2P"]);
    warns(&resolved, &["`extra_config.s3_region`"]);
    assert_eq!(resolved.warnings.len(), 3);
}

#[test]
fn wrong_values_are_refused_with_key_value_origin_and_remedy() {
    for (line, parts) in [
        (
            "chunk_size: many",
            ["`chunk_size` is \"many\"", "file ", "a whole number of tokens from 1 to 1048576"],
        ),
        ("chunk_size: 0", ["`chunk_size` is 0", "file ", "Set chunk_size to"]),
        ("chunk_size: -1", ["`chunk_size` is -1", "file ", "from 1 to"]),
        ("chunk_size: 2.5", ["`chunk_size` is 2.5", "file ", "a whole number"]),
        ("chunk_size: 1048577", ["`chunk_size` is 1048577", "file ", "1048576"]),
        ("chunk_size: 99999999999999999999", ["`chunk_size` is 1", "file ", "1048576"]),
        ("chunk_size: true", ["`chunk_size` is true", "file ", "a whole number"]),
        ("chunk_size: [256]", ["`chunk_size` is a list", "file ", "a whole number"]),
        ("max_local_cpu_size: 0", ["`max_local_cpu_size` is 0", "file ", "above 0"]),
        ("max_local_cpu_size: -0.5", ["`max_local_cpu_size` is -0.5", "file ", "above 0"]),
        ("max_local_cpu_size: .nan", ["`max_local_cpu_size` is NaN", "file ", "a number of GiB"]),
        ("max_local_cpu_size: .inf", ["`max_local_cpu_size` is inf", "file ", "at most 8192"]),
        ("max_local_cpu_size: 1e999", ["`max_local_cpu_size` is inf", "file ", "at most 8192"]),
        ("max_local_cpu_size: 1.0e-9", ["`max_local_cpu_size` is 0.000000001", "1 bytes", "least is 8192"]),
        ("max_local_cpu_size: 5GB", ["`max_local_cpu_size` is \"5GB\"", "file ", "a number of GiB"]),
        (
            "max_local_disk_size: 0",
            ["`max_local_disk_size` is 0", "file ", "Set max_local_disk_size to the disk space"],
        ),
        ("max_local_disk_size: 16385", ["`max_local_disk_size` is 16385", "file ", "at most 16384"]),
        ("disk_min_free_size: -1", ["`disk_min_free_size` is -1", "file ", "from 0"]),
        ("disk_io_engine: libaio", ["`disk_io_engine` is \"libaio\"", "file ", "auto, io_uring or threads"]),
        ("disk_io_threads: 1", ["`disk_io_threads` is 1", "file ", "from 2 to 64"]),
        ("disk_io_threads: 65", ["`disk_io_threads` is 65", "file ", "from 2 to 64"]),
        ("load_timeout_s: 0", ["`load_timeout_s` is 0", "file ", "above 0, at most 3600"]),
        ("store_timeout_s: 1.0e-30", ["`store_timeout_s` is 0.0", "file ", "least is 0.001"]),
        ("max_queued_chunks: 0", ["`max_queued_chunks` is 0", "file ", "from 1"]),
        (
            "disk_sync: sometimes",
            ["`disk_sync` is \"sometimes\"", "file ", "none, always, or a number of seconds"],
        ),
        ("disk_sync: 0", ["`disk_sync` is 0", "file ", "none, always"]),
        ("disk_direct_io: maybe", ["`disk_direct_io` is \"maybe\"", "file ", "auto or off"]),
        ("cache_policy: LRUU", ["`cache_policy` is \"LRUU\"", "file ", "did you mean LRU?"]),
        ("cache_policy: random", ["`cache_policy` is \"random\"", "file ", "Set cache_policy to LRU"]),
        ("save_decode_cache: maybe", ["`save_decode_cache` is \"maybe\"", "file ", "true or false"]),
        ("local_cpu: 2", ["`local_cpu` is 2", "file ", "true or false"]),
        ("local_disk: ''", ["`local_disk` is \"\"", "the path is empty", "Set local_disk to"]),
        ("local_disk: file://", ["`local_disk` is \"file://\"", "file ", "the path is empty"]),
        ("local_disk: s3://bucket", ["`local_disk` is \"s3://bucket\"", "file ", "remote_url"]),
        ("local_disk: /a/kv,/b/kv,", ["`local_disk` is \"/a/kv,/b/kv,\"", "file ", "write a list"]),
        ("local_disk: '/a/kv,'", ["`local_disk` is \"/a/kv,\"", "file ", "write a list"]),
        ("local_disk: /a/kv,/b/kv,c", ["`local_disk` is \"/a/kv,/b/kv,c\"", "file ", "write a list"]),
        ("local_disk: ~/kv", ["`local_disk` is \"~/kv\"", "file ", "not expanded"]),
        ("local_disk: \"/k\\0v\"", ["`local_disk` is", "file ", "NUL"]),
        ("local_disk: []", ["`local_disk` is a list", "file ", "the list is empty"]),
        ("local_disk: [/a, 7]", ["`local_disk` is a list", "file ", "or a list of up to 16"]),
        ("local_disk: [/a, ~/b]", ["`local_disk` is a list", "\"~/b\": `~` is not", "whole path"]),
        ("local_disk: [/a, /b, /a]", ["`local_disk` is a list", "file ", "/a is named twice"]),
        ("local_disk: /a,file:///a/", ["`local_disk` is \"/a,file:///a/\"", "file ", "/a/ is named twice"]),
        ("remote_url: localhost", ["`remote_url` is \"localhost\"", "file ", "scheme://"]),
        ("cache_salt: 7", ["`cache_salt` is given", "file ", "in quotes"]),
        ("max_remote_size: 1048577", ["`max_remote_size` is 1048577", "file ", "at most 1048576"]),
        ("remote_timeout_s: 0", ["`remote_timeout_s` is 0", "file ", "above 0, at most 3600"]),
        ("remote_max_requests: 0", ["`remote_max_requests` is 0", "file ", "requests from 1 to 1024"]),
        ("remote_max_requests: 1025", ["`remote_max_requests` is 1025", "file ", "from 1 to 1024"]),
        ("remote_retries: -1", ["`remote_retries` is -1", "file ", "from 0 to 10"]),
        ("remote_retries: 11", ["`remote_retries` is 11", "file ", "from 0 to 10"]),
        ("remote_remember_s: 0", ["`remote_remember_s` is 0", "file ", "above 0, at most 3600"]),
        ("store_after: 0", ["`store_after` is 0", "file ", "from 1 to 1000"]),
        ("store_after: 1001", ["`store_after` is 1001", "file ", "from 1 to 1000"]),
        ("on_busy: block", ["`on_busy` is \"block\"", "file ", "expected wait or drop"]),
        ("on_busy: true", ["`on_busy` is true", "file ", "Set on_busy to wait or drop"]),
        ("lookup_wait_s: -0.1", ["`lookup_wait_s` is -0.1", "file ", "seconds from 0 to 60"]),
        ("lookup_wait_s: 60.5", ["`lookup_wait_s` is 60.5", "file ", "seconds from 0 to 60"]),
        ("lookup_wait_s: .nan", ["`lookup_wait_s` is NaN", "file ", "seconds from 0 to 60"]),
        ("lookup_wait_s: soon", ["`lookup_wait_s` is \"soon\"", "file ", "Set lookup_wait_s to"]),
    ] {
        refused(with(line), &parts);
    }
    refused(
        from_env(&[("FOREBAY_CHUNK_SIZE", "lots")]),
        &["`chunk_size` is \"lots\" (env FOREBAY_CHUNK_SIZE)"],
    );
    refused(
        from_env(&[("LMCACHE_CHUNK_SIZE", "lots")]),
        &["`chunk_size` is \"lots\" (env LMCACHE_CHUNK_SIZE)"],
    );
}

#[test]
fn values_are_read_as_people_write_them() {
    assert_eq!(accepted(with("chunk_size: 64.0")).config.chunk_size_tokens, 64);
    assert_eq!(accepted(with("chunk_size: '64'")).config.chunk_size_tokens, 64);
    assert_eq!(
        accepted(from_file(&format!("\u{feff}{}", DISK.replace('\n', "\r\n")))).config,
        accepted(from_file(DISK)).config
    );
    assert!(accepted(with("save_decode_cache: yes")).config.save_decode_cache);
    assert!(accepted(with("save_decode_cache: 'True'")).config.save_decode_cache);
    assert!(accepted(with("save_decode_cache: 1")).config.save_decode_cache);
    assert_eq!(accepted(with("disk_direct_io: off")).config.disk_direct_io, DirectIo::Off);
    for (text, choice) in [("IO_URING", IoEngineChoice::Uring), (" threads", IoEngineChoice::Threads)] {
        assert_eq!(accepted(with(&format!("disk_io_engine: {text}"))).config.disk_io_engine, choice);
    }
    assert_eq!(accepted(with("disk_sync: always")).config.disk_sync, DiskSync::Always);
    assert_eq!(accepted(with("disk_min_free_size: 0")).config.disk_min_free_bytes, 0);
    assert_eq!(accepted(with("lookup_wait_s: 0")).config.lookup_wait, Duration::ZERO);
    assert_eq!(accepted(with("lookup_wait_s: 60")).config.lookup_wait, Duration::from_mins(1));
    assert_eq!(accepted(with("remote_retries: 0")).config.remote_retries, 0);
    assert_eq!(accepted(with("on_busy: ' WAIT'")).config.on_busy, OnBusy::Wait);
    for (text, policy) in [
        ("lru", CachePolicy::Lru),
        ("FIFO", CachePolicy::Fifo),
        ("Lfu", CachePolicy::Lfu),
        ("S3-FIFO", CachePolicy::S3Fifo),
        ("s3_fifo", CachePolicy::S3Fifo),
    ] {
        let resolved = accepted(with(&format!("cache_policy: {text}")));
        assert_eq!(resolved.config.cache_policy, policy);
        assert_eq!(resolved.config.value("cache_policy"), Some(policy.name().into()));
        assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
    }
    assert_eq!(accepted(with("max_local_disk_size: 16384")).config.max_local_disk_bytes, 1 << 44);
    for (written, path) in [
        ("/kv", "/kv"),
        ("file:///kv/", "/kv/"),
        ("file:// /kv", "/kv"),
        ("cache/kv", "cache/kv"),
        ("/a,b", "/a,b"),
    ] {
        let resolved = accepted(with(&format!("local_disk: {written}")));
        assert_eq!(resolved.config.local_disk, [Path::new(path)]);
        assert_eq!(resolved.config.value("local_disk"), Some(path.into()));
    }
}

#[test]
fn several_directories_are_a_list_or_a_text_of_whole_paths() {
    let paths = ["/a/kv", "/b/kv"].map(PathBuf::from);
    let list = accepted(with("local_disk: [/a/kv, file:///b/kv]"));
    for several in [
        list.clone(),
        accepted(with("local_disk: 'file:///a/kv, /b/kv'")),
        accepted(from_env(&[("FOREBAY_LOCAL_DISK", "/a/kv,/b/kv")])),
        accepted(from_env(&[
            ("FOREBAY_LOCAL_DISK", ""),
            ("LMCACHE_LOCAL_DISK", "file:///a/kv,file:///b/kv"),
        ])),
    ] {
        assert_eq!(several.config.local_disk, paths);
        assert!(several.warnings.is_empty(), "{:?}", several.warnings);
    }
    let shown = list.config.value("local_disk").unwrap();
    assert_eq!(shown.to_string(), "/a/kv, /b/kv");
    let again =
        Config::from_values([("local_disk", shown), ("max_local_disk_size", 1.into())]).unwrap().config;
    assert_eq!(again.local_disk, paths, "what is shown can be given");

    let with_commas = accepted(with("local_disk: ['/a,/b', c/d]"));
    assert_eq!(with_commas.config.local_disk, ["/a,/b", "c/d"].map(PathBuf::from));
    assert_eq!(accepted(with("local_disk: /a,b/c,d")).config.local_disk, [Path::new("/a,b/c,d")]);
    let most: Vec<String> = (0..17).map(|number| format!("/kv{number}")).collect();
    assert_eq!(accepted(with(&format!("local_disk: {}", most[1..].join(",")))).config.local_disk.len(), 16);
    refused(
        with(&format!("local_disk: {}", most.join(","))),
        &["`local_disk`", "17 directories", "the most is 16"],
    );
}

#[test]
fn a_tier_is_needed_and_the_disk_tier_needs_a_bound() {
    for (text, why) in [("", "memory alone"), ("local_cpu: false", "no tier to keep chunks in")] {
        refused(
            from_file(text),
            &[
                "`local_disk`",
                "`remote_url`",
                why,
                "Set local_disk to",
                "max_local_disk_size",
                "remote_url to",
            ],
        );
    }
    refused(
        from_file("local_disk: /kv"),
        &["`max_local_disk_size`", "Set max_local_disk_size to the disk space in GiB"],
    );
    refused(
        from_file("local_disk: /kv\nmax_local_disk_size: 0.0"),
        &["`max_local_disk_size` is 0", "Set max_local_disk_size"],
    );
    let both = accepted(with("remote_url: s3://bucket/prefix"));
    assert_eq!(both.config.remote_url.as_deref(), Some("s3://bucket/prefix"));
    assert_eq!(both.config.local_disk, [Path::new("/kv")]);
    assert!(both.warnings.is_empty(), "{:?}", both.warnings);

    for size in ["", "max_local_disk_size: 0", "max_local_disk_size: 0.0"] {
        let remote = accepted(from_file(&format!("remote_url: redis://host:6379\n{size}")));
        assert!(remote.config.local_disk.is_empty() && remote.config.local_cpu);
        assert_eq!(remote.config.max_local_disk_bytes, 0);
        assert_eq!(remote.config.value("max_local_disk_size"), Some(Value::Null));
        assert!(remote.warnings.is_empty(), "{:?}", remote.warnings);
    }
    let useless = accepted(from_file("remote_url: redis://host:6379\nmax_local_disk_size: 5"));
    assert_eq!(useless.config.max_local_disk_bytes, 0);
    warns(&useless, &["`max_local_disk_size` (file ", "no effect"]);
    refused(from_file("remote_url: redis://h\nmax_local_disk_size: -1"), &["`max_local_disk_size` is -1"]);
}

#[test]
fn a_remote_store_is_one_that_is_spoken() {
    for (written, read) in [
        ("s3://bucket", "s3://bucket"),
        ("redis://host:6379/1", "redis://host:6379/1"),
        ("RediSS://User:Pw@Host", "rediss://User:Pw@Host"),
        ("valkey://host", "valkey://host"),
        ("valkeys://host", "valkeys://host"),
    ] {
        let resolved = accepted(with(&format!("remote_url: {written}")));
        assert_eq!(resolved.config.remote_url.as_deref(), Some(read));
    }
    let all = "s3, redis, rediss, valkey, valkeys or file";
    for (url, why) in [
        ("redos://host", "did you mean redis://?"),
        ("zzzzzzzz://host", "no such store; Forebay speaks"),
        ("lm://host:65432", "lm:// is spoken by LMCache and not by Forebay"),
        ("mooncakestore://host:50051/", "mooncakestore:// is spoken by LMCache"),
        ("redis-sentinel://a:1,b:2", "name the server itself as redis://"),
        ("fs://host:0/mnt/kv", "file:// and the path is the same store"),
        ("unix:///run/redis.sock", "name the server as redis://"),
    ] {
        refused(
            with(&format!("remote_url: {url}")),
            &[&format!("`remote_url` is \"{url}\" (file "), why, all],
        );
    }
    for (url, why) in [
        ("file://host/kv", "an absolute path"),
        ("file://kv", "an absolute path"),
        ("file:////", "no directory of its own"),
        ("s3:///prefix", "comes the bucket, and there is none"),
        ("redis:///1", "comes the host, and there is none"),
        ("'valkey://?x=y'", "comes the host, and there is none"),
        ("file:///kv/", "local_disk names that directory too"),
    ] {
        refused(
            with(&format!("remote_url: {url}\nmax_remote_size: 1")),
            &["`remote_url` is ", why, "Set remote_url"],
        );
    }
    let message = refused(with("remote_url: lm://user:hunter2@host"), &["lm://***@host"]);
    assert!(!message.contains("hunter2"));
}

#[test]
fn a_remote_directory_needs_a_bound_and_nothing_else_takes_one() {
    refused(
        with("remote_url: file:///mnt/kv"),
        &["`max_remote_size` is not set", "Set max_remote_size to the space in GiB"],
    );
    refused(with("remote_url: file:///mnt/kv\nmax_remote_size: 0"), &["`max_remote_size` is 0", "above 0"]);
    let bounded = accepted(with("remote_url: file:///mnt/kv\nmax_remote_size: 0.5"));
    assert_eq!(bounded.config.max_remote_bytes, Some(GIB / 2));
    assert!(bounded.warnings.is_empty(), "{:?}", bounded.warnings);

    for (remote, why) in [("remote_url: s3://bucket\n", "bounds itself"), ("", "remote_url is not set")] {
        let useless = accepted(with(&format!("{remote}max_remote_size: 1")));
        assert_eq!(useless.config.max_remote_bytes, None);
        assert_eq!(useless.config.value("max_remote_size"), Some(Value::Null));
        warns(&useless, &["`max_remote_size` (file ", "has no effect", why]);
        assert_eq!(useless.warnings.len(), 1);
        refused(with(&format!("{remote}max_remote_size: -1")), &["`max_remote_size` is -1"]);
    }
}

#[test]
fn chunks_are_stored_to_configured_tiers_only() {
    let three = "local_cpu: true\nremote_url: redis://host";
    let tiers = |memory, disk, remote| StoreTo { memory, disk, remote };
    for (written, expected) in [
        ("all", tiers(true, true, true)),
        (" ALL ", tiers(true, true, true)),
        ("[all]", tiers(true, true, true)),
        ("disk", tiers(false, true, false)),
        ("[remote, memory]", tiers(true, false, true)),
        ("memory,Disk , remote", tiers(true, true, true)),
        ("disk,disk", tiers(false, true, false)),
    ] {
        let resolved = accepted(with(&format!(
            "{three}\nstore_to: {}",
            if written.starts_with('[') { written.to_owned() } else { format!("'{written}'") }
        )));
        assert_eq!(resolved.config.store_to, expected, "{written}");
        let shown = resolved.config.value("store_to").unwrap();
        let again = Config::from_values([
            ("local_disk", "/kv".into()),
            ("max_local_disk_size", 1.into()),
            ("remote_url", "redis://host".into()),
            ("store_to", shown),
        ]);
        assert_eq!(accepted(again).config.store_to, expected, "what is shown can be given");
    }
    assert_eq!(accepted(with("store_to: all")).config.store_to, tiers(false, true, false));
    assert_eq!(accepted(with("store_to: disk")).config.value("store_to"), Some("disk".into()));
    assert_eq!(accepted(with(three)).config.value("store_to").unwrap().to_string(), "memory, disk, remote");

    refused(
        with("store_to: memory"),
        &["`store_to` is \"memory\" (file ", "local_cpu is false", "Set store_to"],
    );
    refused(with("store_to: [disk, remote]"), &["`store_to` is a list", "remote_url is not set"]);
    refused(
        from_file("remote_url: redis://host\nstore_to: disk"),
        &["`store_to` is \"disk\"", "local_disk is not set"],
    );
    for (written, why) in [
        ("[]", "no tier is named"),
        ("''", "no tier is named"),
        ("' , '", "no tier is named"),
        ("'disk,'", "expected all, or one or several"),
        ("[all, disk]", "all stands alone"),
        ("dick", "did you mean disk?"),
        ("[7]", "expected all, or one or several"),
        ("7", "expected all, or one or several"),
    ] {
        refused(with(&format!("store_to: {written}")), &["`store_to` is ", "file ", why, "Set store_to to"]);
    }
}

#[test]
fn the_modes_follow_from_the_two_switches() {
    let unset = accepted(with("local_cpu: null"));
    assert!(unset.config.local_cpu && unset.warnings.is_empty());
    assert_eq!(unset.origins["local_cpu"], Origin::Default);

    let asked = accepted(with("local_cpu: true\nuse_only_staging_buffer: false"));
    assert!(asked.config.local_cpu && asked.warnings.is_empty());
    assert!(matches!(asked.origins["local_cpu"], Origin::File(_)));

    let neither = accepted(with("local_cpu: false"));
    assert!(!neither.config.local_cpu && !neither.config.use_only_staging_buffer);

    let implied = accepted(with("local_cpu: null\nuse_only_staging_buffer: true"));
    assert!(implied.config.use_only_staging_buffer && !implied.config.local_cpu);
    assert_eq!(implied.origins["local_cpu"].to_string(), "implied: use_only_staging_buffer");
    assert!(implied.warnings.is_empty());

    let said = accepted(with("use_only_staging_buffer: true"));
    assert!(said.config.use_only_staging_buffer && said.warnings.is_empty());

    refused(
        with("local_cpu: true\nuse_only_staging_buffer: true"),
        &["`local_cpu` is true (file ", "`use_only_staging_buffer` is true (file ", "Set local_cpu to false"],
    );
}

#[test]
fn a_staging_buffer_takes_what_it_can_use_and_names_the_smallest_size_that_works() {
    let slots = |size: f64, chunk_bytes: u64| {
        let size = format!("max_local_cpu_size: {size:?}");
        accepted(with(&size)).config.staging_shape(chunk_bytes).map(|shape| shape.slots)
    };
    assert_eq!(slots(0.25, 8 << 20).unwrap(), 6, "of half a chunk each");
    assert_eq!(slots(0.007_812_5, 8 << 20).unwrap(), 2, "exactly two");
    assert_eq!(slots(0.015_625, (8 << 20) - 4095).unwrap(), 4, "rounded up to whole pages");
    assert_eq!(slots(8192.0, 1).unwrap(), 128);

    let error = slots(0.007, 8 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("`max_local_cpu_size` is"), "{error}");
    assert!(
        error.to_string().contains("two are needed. Set max_local_cpu_size to 0.0078125 GiB or more"),
        "{error}"
    );

    assert!(slots(5.0, u64::MAX).unwrap_err().to_string().contains("chunk_bytes smaller"));
    assert_eq!(slots(5.0, u64::MAX / 2).unwrap(), 6, "no chunk is too large for two slots");
    assert_eq!(slots(5.0, 0).unwrap_err().kind(), ErrorKind::Argument);
}

#[test]
fn the_remote_tier_is_staged_for_as_one_more_drive() {
    let slots = |lines: &str| accepted(from_file(lines)).config.staging_shape(2 << 20).unwrap().slots;
    let (disk, remote) = ("local_disk: /kv\nmax_local_disk_size: 1\n", "remote_url: redis://host\n");
    assert_eq!(slots(disk), 12);
    assert_eq!(slots(remote), 12);
    assert_eq!(slots(&format!("{disk}{remote}")), 24);
}

#[test]
fn the_memory_tier_takes_what_staging_leaves() {
    let bytes = |lines: &str| accepted(with(lines)).config.memory_tier_bytes(2 << 20);
    let mib = |count: u64| count << 20;
    assert_eq!(bytes("local_cpu: true"), 5 * GIB - mib(24));
    assert_eq!(bytes("local_cpu: true\nremote_url: redis://host"), 5 * GIB - mib(48));
    assert_eq!(
        bytes("local_cpu: true\nremote_url: s3://bucket"),
        5 * GIB - mib(120),
        "a bucket has the share of four drives"
    );
    assert_eq!(bytes("local_cpu: false"), 0);
    assert_eq!(bytes("local_cpu: null\nuse_only_staging_buffer: true"), 0);
    assert_eq!(bytes("local_cpu: true\nmax_local_cpu_size: 0.025390625"), mib(2), "26 MiB: one chunk");
    assert_eq!(bytes("local_cpu: true\nmax_local_cpu_size: 0.0244140625"), 0, "25 MiB: less than one chunk");
    assert_eq!(bytes("local_cpu: true\nmax_local_cpu_size: 0.001"), 0, "not even staging");
    let config = accepted(with("local_cpu: true")).config;
    assert_eq!(config.memory_tier_bytes(0), 0);
    assert_eq!(config.memory_tier_bytes(u64::MAX), 0);
}

#[test]
fn secrets_are_never_shown() {
    let text = "remote_url: redis://user:hunter2@host:6379?token=hunter2\ncache_salt: hunter2\n\
                extra_config: {aws_secret_access_key: hunter2, use_odirect: true}\naudit_actual_remote_url: x://hunter2@y";
    let resolved = accepted(with(text));
    assert_eq!(resolved.config.remote_url.as_deref(), Some("redis://user:hunter2@host:6379?token=hunter2"));
    assert!(!format!("{resolved:?}").contains("hunter2"), "{resolved:?}");
    assert_eq!(resolved.config.value("remote_url"), Some("redis://***@host:6379?***".into()));
    assert_eq!(resolved.config.value("cache_salt"), Some("***".into()));
    warns(&resolved, &["`extra_config.aws_secret_access_key`", "take them out of the file"]);

    let file = yaml(&format!("{DISK}{text}"));
    let (explained, resolved) = explain(&file.path).unwrap();
    assert!(!format!("{explained:?} {resolved:?}").contains("hunter2"));
    for text in [
        "remote_url: user:hunter2@host",
        "remote_url: 'x y://user:hunter2@host'",
        "remote_url: [hunter2]",
        "cache_salt: [hunter2]",
        "extra_config: hunter2",
        "extra_config: {use_odirect: true, use_odirect: hunter2}",
        "cache_salt: 'hunter2",
        "cache_salt: {hunter2: hunter2",
    ] {
        let message = refused(with(text), &[]);
        assert!(!message.contains("hunter2"), "{message}");
    }
    let long = refused(
        with(&format!("cache_salt: {}", "hunter2".repeat(1000))),
        &["`cache_salt`", "at most 1024 bytes"],
    );
    assert!(!long.contains("hunter2"));
}

#[test]
fn extra_config_is_read_where_it_means_something() {
    let resolved = accepted(with(
        "extra_config:\n  use_odirect: false\n  disk_io_threads: 8\n  other: {1: [2]}\n  null_one:",
    ));
    assert_eq!(resolved.config.disk_direct_io, DirectIo::Off);
    assert_eq!(resolved.config.disk_io_threads, 8);
    warns(&resolved, &["`extra_config.other`", "ignored"]);
    assert_eq!(resolved.warnings.len(), 1);

    let many = accepted(with("extra_config: {disk_io_threads: 128}"));
    assert_eq!(many.config.disk_io_threads, 64);
    warns(&many, &["`extra_config.disk_io_threads` is 128", "64 is used"]);
    refused(
        with("extra_config: {disk_io_threads: 0}"),
        &["`disk_io_threads` is 0", "extra_config.disk_io_threads"],
    );

    let ours = accepted(with("disk_io_threads: 2\nextra_config: {disk_io_threads: 8}"));
    assert_eq!(ours.config.disk_io_threads, 2, "our own key wins");
    let lines = |url: &str| {
        format!("remote_url: {url}\nextra_config: {{s3_max_inflight_reqs: 2048, request_timeout: 2.5}}")
    };
    let s3 = accepted(with(&lines("S3://bucket")));
    assert_eq!(s3.config.remote_max_requests, 1024);
    assert_eq!(s3.config.remote_timeout, Duration::from_secs(5), "that is about another store");
    warns(&s3, &["`extra_config.s3_max_inflight_reqs` is 2048", "1024 is used"]);
    warns(&s3, &["`extra_config.request_timeout`", "names no Valkey server"]);
    assert_eq!(
        s3.origins["remote_max_requests"].to_string().rsplit(", ").next(),
        Some("extra_config.s3_max_inflight_reqs")
    );
    let valkey = accepted(with(&lines("valkeys://host")));
    assert_eq!(valkey.config.remote_max_requests, 32);
    assert_eq!(valkey.config.remote_timeout, Duration::from_millis(2500));
    warns(&valkey, &["`extra_config.s3_max_inflight_reqs`", "names no S3 store"]);
    assert_eq!(valkey.warnings.len(), 1);
    for (entry, why) in [
        ("tls_enable", "valkeys://"),
        ("valkey_password", "FOREBAY_REMOTE_URL"),
        ("valkey_database", "stands in remote_url"),
        ("s3_file_prefix", "s3://bucket/prefix"),
        ("s3_prefer_http2", "no such setting"),
        ("fs_connector_relative_tmp_dir", "file://"),
        ("remote_enable_mla_worker_id_as0", "each rank"),
    ] {
        warns(
            &accepted(with(&format!("extra_config: {{{entry}: 1}}"))),
            &[&format!("`extra_config.{entry}`"), why],
        );
    }
    refused(with("extra_config: {use_odirect: maybe}"), &["extra_config.use_odirect", "auto or off"]);
    refused(with("extra_config: [1]"), &["`extra_config`", "a map"]);
    assert!(accepted(with("extra_config:")).warnings.is_empty());
}

#[test]
fn the_one_place_to_store_to_of_lmcache_is_read() {
    let three = "local_cpu: true\nremote_url: redis://host";
    for (place, tiers) in [
        ("LocalCPUBackend", StoreTo { memory: true, disk: false, remote: false }),
        ("LocalDiskBackend", StoreTo { memory: false, disk: true, remote: false }),
        ("RemoteBackend", StoreTo { memory: false, disk: false, remote: true }),
    ] {
        let resolved = accepted(with(&format!("{three}\nstore_location: {place}")));
        assert_eq!(resolved.config.store_to, tiers, "{place}");
        assert!(resolved.origins["store_to"].to_string().ends_with("forebay.yaml, store_location"));
        assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
    }
    let ours = accepted(with("store_to: disk\nstore_location: RemoteBackend\nremote_url: redis://host"));
    assert_eq!(ours.config.value("store_to"), Some("disk".into()), "our own key wins");
    let variable = accepted(from_env(&[
        ("LMCACHE_STORE_LOCATION", "LocalDiskBackend"),
        ("FOREBAY_REMOTE_URL", "redis://host"),
    ]));
    assert_eq!(variable.config.value("store_to"), Some("disk".into()));

    let missing = accepted(with("store_location: RemoteBackend"));
    warns(&missing, &["`store_location` (file ", "is ignored", "remote_url is not set"]);
    assert_eq!(missing.config.value("store_to"), Some("disk".into()));
    assert_eq!(missing.origins["store_to"], Origin::Default);
    for other in ["GdsBackend", "1", "[LocalDiskBackend]"] {
        let other = accepted(with(&format!("store_location: {other}")));
        warns(&other, &["`store_location` (file ", "is ignored", "name tiers in store_to"]);
    }
    assert!(accepted(with("store_location:")).warnings.is_empty());
}

/// A file of an `LMCache` user who has a disk and a server.
const THEIRS: &str = "chunk_size: 256
local_cpu: true
max_local_cpu_size: 20
local_cpu_use_hugepages: true
local_disk: \"file:///mnt/kv/\"
max_local_disk_size: 500
remote_url: \"redis://user:hunter2@cache.example:6379\"
remote_serde: \"naive\"
cache_policy: \"LRU\"
save_decode_cache: false
save_unfull_chunk: false
pre_caching_hash_algorithm: sha256_cbor_64bit
retrieve_locations: [LocalCPUBackend, LocalDiskBackend, RemoteBackend]
store_location: null
blocking_timeout_secs: 10
lookup_timeout_ms: 3000
enable_p2p: false
enable_controller: false
lmcache_instance_id: worker-0
extra_config:
  use_odirect: true
  disk_io_threads: 8
  redis_max_connections: 150
  save_chunk_meta: false
";

#[test]
fn a_file_for_disk_and_redis_is_taken_as_it_is() {
    let file = yaml(THEIRS);
    let (explained, resolved) = explain(&file.path).unwrap();
    let resolved = accepted(resolved);
    let config = &resolved.config;
    assert!(config.local_cpu && config.local_disk == [Path::new("/mnt/kv/")]);
    assert_eq!(config.remote_url.as_deref(), Some("redis://user:hunter2@cache.example:6379"));
    assert_eq!(config.store_to, StoreTo { memory: true, disk: true, remote: true });
    assert_eq!(config.memory_tier_bytes(2 << 20), 20 * GIB - (48 << 20));
    assert_eq!((config.disk_io_threads, config.disk_direct_io), (8, DirectIo::Auto));

    let keys = |wanted: Verdict| -> Vec<&str> {
        explained.iter().filter(|it| it.verdict == Some(wanted)).map(|it| it.key.as_str()).collect()
    };
    assert_eq!(keys(Verdict::Same), ["chunk_size", "save_decode_cache"]);
    assert_eq!(
        keys(Verdict::Different),
        [
            "local_cpu",
            "max_local_cpu_size",
            "local_disk",
            "max_local_disk_size",
            "remote_url",
            "cache_policy",
            "store_location",
            "extra_config"
        ]
    );
    let ignored = keys(Verdict::NotApplicable);
    assert_eq!(ignored.len() + 10, explained.len(), "none is unknown");
    for key in ignored {
        warns(&resolved, &[&format!("`{key}` (file "), "is ignored: "]);
    }
    warns(&resolved, &["`extra_config.redis_max_connections`", "no such setting"]);
    assert!(!format!("{explained:?} {resolved:?}").contains("hunter2"));
    for it in &explained {
        for gone in ["this version has no", "not yet", "will share"] {
            assert!(!it.note.contains(gone), "{}: {}", it.key, it.note);
        }
    }
}

#[test]
fn every_key_of_lmcache_is_accepted_with_a_warning_that_says_why() {
    for peer in PEER_KEYS.iter().filter(|peer| peer.verdict == Verdict::NotApplicable) {
        let name = peer.name.replace('*', "chunk_size");
        let resolved = accepted(with(&format!("{name}: 1")));
        warns(&resolved, &[&format!("`{name}`"), "file ", peer.note]);
        assert_eq!(resolved.warnings.len(), 1);
        assert!(accepted(with(&format!("{name}:"))).warnings.is_empty(), "null asks for nothing");
    }
    for policy in ["MRU", "mru", "COST_AWARE"] {
        let resolved = accepted(with(&format!("cache_policy: {policy}")));
        assert_eq!(resolved.config.cache_policy, CachePolicy::Lru);
        warns(&resolved, &["`cache_policy`", "LRU"]);
    }
}

#[test]
fn every_key_of_the_table_is_explained_to_lmcaches_users() {
    for key in KEYS.iter().filter(|key| key.shared) {
        let peer = PEER_KEYS.iter().find(|peer| peer.name == key.name).expect(key.name);
        assert_ne!(peer.verdict, Verdict::NotApplicable);
    }
    let names: BTreeSet<&str> = PEER_KEYS.iter().map(|peer| peer.name).collect();
    assert_eq!(names.len(), PEER_KEYS.len(), "a name stands twice");
}

#[test]
fn explain_tells_the_fate_of_each_line() {
    let file = yaml(
        "chunk_size: 256\nlocal_disk: file:///kv\nenable_p2p: false\ndisk_sync: none\nchunk_sise: 1\nnuma_mode:\n",
    );
    let (explained, resolved) = explain(&file.path).unwrap();
    let verdicts: Vec<_> = explained.iter().map(|it| (it.key.as_str(), it.verdict)).collect();
    assert_eq!(
        verdicts,
        [
            ("chunk_size", Some(Verdict::Same)),
            ("local_disk", Some(Verdict::Different)),
            ("enable_p2p", Some(Verdict::NotApplicable)),
            ("disk_sync", Some(Verdict::Same)),
            ("chunk_sise", None),
            ("numa_mode", Some(Verdict::NotApplicable)),
        ]
    );
    assert!(explained[4].note.contains("`chunk_size`"));
    refused(resolved, &["`chunk_sise`"]);
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    refused(from_file("chunk_size: 1\nchunk_size: 2\n"), &["forebay.yaml", "not valid YAML", "duplicate"]);
    refused(from_file("chunk_size: [1\n"), &["forebay.yaml", "not valid YAML", "line"]);
    refused(from_file("- 1\n"), &["forebay.yaml", "a list"]);
    refused(from_file("text"), &["forebay.yaml", "`key: value` lines"]);
    refused(from_file("a: 1\n---\nb: 1\n"), &["forebay.yaml", "not valid YAML"]);
    refused(from_file(&"[".repeat(100_000)), &["forebay.yaml", "not valid YAML"]);
    refused(from_file(&"# comment\n".repeat(200_000)), &["forebay.yaml", "longer than 1048576 bytes"]);
    let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\n\
                d: &d [*c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e]\n";
    refused(from_file(bomb), &["forebay.yaml", "not valid YAML"]);
    let directory = tempfile::tempdir().unwrap();
    refused(Config::load::<String, Value>(Some(directory.path()), [], []), &["cannot be read"]);
    let binary = directory.path().join("binary");
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    refused(Config::load::<String, Value>(Some(&binary), [], []), &["not UTF-8"]);
}

#[test]
fn the_documentation_holds_both_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFIG.md");
    let document = fs::read_to_string(path).unwrap();
    for key in KEYS {
        let default =
            key.default.filter(|it| !it.is_empty()).map_or("not set".into(), |it| format!("`{it}`"));
        let row = format!("| `{}` | {} | {default} | {} |", key.name, key.kind, key.meaning);
        assert!(document.lines().any(|line| line == row), "docs/CONFIG.md lacks this line:\n{row}");
    }
    for peer in PEER_KEYS {
        let row = format!("| `{}` | {} | {} |", peer.name, peer.verdict, peer.note);
        assert!(document.lines().any(|line| line == row), "docs/CONFIG.md lacks this line:\n{row}");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Float),
        (-2i64..100).prop_map(Value::Int),
        (-1.0..100.0).prop_map(Value::Float),
        any::<String>().prop_map(Value::Text),
        "(/[a-z,~]{0,5}|file://[a-z/]{0,5}|[a-z]{1,4}://[a-z:@/?#]{0,9}|none|always|auto|off|lru|(s3|redis|file)://[a-z/]{1,5}|(all|disk|remote|memory)(,disk)?|wait|drop|1e-?[0-9]{1,3}|nan)"
            .prop_map(Value::Text),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::vec(
                ("[a-z_]{0,12}|use_odirect|disk_io_threads|s3_max_inflight_reqs|request_timeout", inner),
                0..4
            )
            .prop_map(Value::Map),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let names: Vec<String> = KEYS
        .iter()
        .map(|key| key.name.to_owned())
        .chain(["extra_config", "store_location"].map(str::to_owned))
        .collect();
    prop_oneof![8 => prop::sample::select(names), 1 => any::<String>()]
}

/// What holds for every configuration that is not refused.
fn holds_its_limits(resolved: &Resolved) {
    let config = &resolved.config;
    assert!((1..=1 << 20).contains(&config.chunk_size_tokens));
    assert!((8192..=8 << 40).contains(&config.max_local_cpu_bytes));
    let disks = config.local_disk.len();
    assert!(disks <= 16 && (disks > 0 || config.remote_url.is_some()));
    assert!((8192..=16 << 40).contains(&config.max_local_disk_bytes) == (disks > 0));
    assert!(disks > 0 || config.max_local_disk_bytes == 0);
    let is_file = config.remote_url.as_ref().is_some_and(|url| url.starts_with("file:///"));
    assert_eq!(config.max_remote_bytes.is_some(), is_file);
    assert!((1..=1024).contains(&config.remote_max_requests) && config.remote_retries <= 10);
    assert!((1..=1000).contains(&config.store_after) && config.lookup_wait <= Duration::from_mins(1));
    let StoreTo { memory, disk, remote } = config.store_to;
    assert!(memory || disk || remote);
    assert!(
        (!memory || config.local_cpu) && (!disk || disks > 0) && (!remote || config.remote_url.is_some())
    );
    assert!(config.disk_min_free_bytes <= 16 << 40);
    assert!((2..=64).contains(&config.disk_io_threads));
    assert!((1..=1 << 24).contains(&config.max_queued_chunks));
    assert!(!(config.local_cpu && config.use_only_staging_buffer));
    for wait in [config.load_timeout, config.store_timeout, config.remote_timeout, config.remote_remember] {
        assert!((Duration::from_millis(1)..=Duration::from_hours(1)).contains(&wait));
    }
    assert!(
        KEYS.iter().all(|key| config.value(key.name).is_some() && resolved.origins.contains_key(key.name))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_values_make_it_panic(entries in prop::collection::vec((any_key(), any_value()), 0..6), chunk_bytes: u64) {
        let base = [("local_disk".to_owned(), "/kv".into()), ("max_local_disk_size".to_owned(), 1.into())];
        match Config::from_values(base.into_iter().chain(entries)) {
            Ok(resolved) => {
                holds_its_limits(&resolved);
                let _ = resolved.config.staging_shape(chunk_bytes);
                prop_assert!(resolved.config.memory_tier_bytes(chunk_bytes) <= resolved.config.max_local_cpu_bytes);
                let _ = format!("{resolved:?}");
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Config),
        }
    }

    #[test]
    fn no_file_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "([a-z_]{1,20}: ?[\\PC\n]{0,20}\n){0,6}") {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("any.yaml");
        for content in [bytes, text.into_bytes()] {
            fs::write(&path, content).unwrap();
            let _ = explain(&path);
            if let Ok(resolved) = Config::load::<String, Value>(Some(&path), [], []) {
                holds_its_limits(&resolved);
            }
        }
    }

    #[test]
    fn no_environment_makes_it_panic(variables in prop::collection::vec(("(FOREBAY_|LMCACHE_)", any_key(), any::<String>()), 0..6)) {
        let variables: Vec<_> = variables
            .into_iter()
            .map(|(prefix, key, text)| (prefix + &key.to_uppercase(), text))
            .filter(|(name, _)| !name.ends_with("CONFIG_FILE"))
            .collect();
        let disk = [("local_disk", Value::from("/kv")), ("max_local_disk_size", Value::from(1))];
        if let Ok(resolved) = Config::load(None, variables, disk) {
            holds_its_limits(&resolved);
        }
    }

    #[test]
    fn the_smallest_staging_buffer_that_an_error_names_works(chunk_bytes in 1u64..1 << 36) {
        let config = |size: &str| {
            Config::from_values([("local_disk", "/kv"), ("max_local_disk_size", "1"), ("max_local_cpu_size", size)]).unwrap().config
        };
        let Err(error) = config("0.00001").staging_shape(chunk_bytes) else { return Ok(()) };
        let message = error.to_string();
        let size = message.split("Set max_local_cpu_size to ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        prop_assert_eq!(config(size).staging_shape(chunk_bytes).unwrap().slots, 2);
    }
}
