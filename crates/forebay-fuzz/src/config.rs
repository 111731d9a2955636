//! Configuration files, and the URLs in them.

use std::io::Write;

use forebay::config::{Config, KEYS, Value};
use forebay::tier::remote::url::Place;

/// A file of keys. Whatever is in it, it is a configuration or one clear error.
pub(crate) fn file(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("it can be written");
    match Config::load::<String, Value>(Some(file.path()), [], []) {
        Ok(resolved) => {
            // What is shown of it is a configuration again, but for what must not be shown.
            let shown = KEYS.iter().filter_map(|key| {
                let value = resolved.value(key.name)?;
                let is_secret = matches!(key.name, "remote_url" | "cache_salt");
                (!is_secret && !matches!(value, Value::Null)).then(|| (key.name.to_owned(), value))
            });
            let secret = ["remote_url", "cache_salt"]
                .iter()
                .any(|key| resolved.value(key).is_some_and(|value| !matches!(value, Value::Null)));
            if !secret {
                let again = Config::from_values(shown).expect("what is shown can be read");
                assert_eq!(again.config, resolved.config);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

pub(crate) fn sound_files() -> Vec<Vec<u8>> {
    [
        "local_disk: /nvme/kv\nmax_local_disk_size: 100\nlocal_cpu: false\n",
        "local_disk: [/a, file:///b]\nmax_local_disk_size: 1.5\nuse_only_staging_buffer: true\ncache_policy: LFU\ndisk_sync: 5\n",
        "remote_url: s3://bucket/prefix\nstore_to: [remote]\nlocal_cpu: no\nlookup_wait_s: 0.5\n",
        "chunk_size: 256\nlocal_cpu: True\nmax_local_cpu_size: 5\nlocal_disk: \"file:///kv\"\nmax_local_disk_size: 10\nremote_serde: naive\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// The URL of a store. What it is shown as holds no password.
pub(crate) fn url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Place::parse(text) {
        Ok(place) => {
            let shown = format!("{place} {place:?}");
            if let Place::Server(server) = &place
                && let Some(password) = server.password.as_deref().filter(|password| password.len() >= 8)
            {
                assert!(!shown.contains(password), "the password is shown");
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(text.len() < 24 || !message.contains(text), "the URL is quoted: {message}");
        }
    }
}

pub(crate) fn sound_urls() -> Vec<Vec<u8>> {
    [
        "s3://bucket/a/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1",
        "redis://user:a%40secret%3Aword@host:6379/3",
        "rediss://[::1]:6380,other:6381/0?cluster=true",
        "valkey://:longpassword@host",
        "file:///shared/mount/a%20b",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
