//! Objects of a remote store that may hold anything: a load gives what was stored, or says that it does not.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use forebay::config::Config;
use forebay::tier::remote::client::{Client, Settings};
use forebay::tier::remote::names::Names;
use forebay::tier::remote::objects::Objects;
use forebay::tier::remote::wrappers::fake::Fake;
use forebay::{Cache, ChunkKey, LoadStatus, StoreStatus, Value};
use futures_util::FutureExt;
use parking_lot::Mutex;

use crate::records::key;
use crate::seal;

const CHUNK_BYTES: usize = 10_000;
const PATIENCE: Duration = Duration::from_mins(1);

struct Shop {
    cache: Cache,
    fake: Arc<Fake>,
    key: ChunkKey,
    name: String,
    payload: Vec<u8>,
    sound: Bytes,
}

static SHOP: LazyLock<Shop> = LazyLock::new(|| {
    let fake = Arc::new(Fake::default());
    let settings = Settings {
        url: String::new(),
        timeout: PATIENCE,
        requests_max: 4,
        retries: 0,
        breaker_failures: u32::MAX,
        breaker_rest: Duration::from_secs(1),
    };
    let client = Client::over(fake.clone(), &settings).expect("a client");
    let config = Config::from_values([
        ("remote_url", Value::from("redis://127.0.0.1:1")),
        // What a load did not find is not to be taken for absent when it is there again.
        ("remote_remember_s", 0.001.into()),
        ("local_cpu", false.into()),
        ("use_only_staging_buffer", true.into()),
    ]);
    let config = config.expect("a configuration").config;
    let cache = Cache::open_over(&config, CHUNK_BYTES as u64, None, |file| file, Some(Arc::new(client)))
        .expect("a cache");
    let key = key(1);
    let payload: Vec<u8> = (0..CHUNK_BYTES).map(|at| u8::try_from(at * 31 % 251).unwrap_or(0)).collect();
    let stored = cache.store(vec![(key, Box::new(payload.clone()))], None, None).expect("a store");
    assert_eq!(stored.wait(Some(PATIENCE)).expect("it ends")[0].status, StoreStatus::Stored);
    let name = Names::of(cache.stats().mover.staging.slot_bytes).end(&key);
    let sound = fake.bytes_of(&name).expect("it is there");
    Shop { cache, fake, key, name, payload, sound }
});

/// Whether a load of the chunk gives it.
fn loads(shop: &Shop) -> bool {
    let buffer = Arc::new(Mutex::new(vec![0xEE; CHUNK_BYTES]));
    let loading = shop.cache.load(vec![(shop.key, Box::new(Arc::clone(&buffer)))], None);
    let is_loaded = loading.wait(Some(PATIENCE)).expect("it ends")[0].status == LoadStatus::Loaded;
    assert!(!is_loaded || *buffer.lock() == shop.payload, "wrong bytes");
    is_loaded
}

/// The first byte says whether what follows is the object, or is laid over the sound one, and whether its trailer is sealed.
pub(crate) fn object(bytes: &[u8]) {
    let shop = &*SHOP;
    let Some((how, bytes)) = bytes.split_first() else { return };
    let mut object = if how & 1 == 1 { shop.sound.to_vec() } else { bytes.to_vec() };
    if how & 1 == 1 && bytes.len() > 2 {
        let at = usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % object.len();
        let over = bytes[2..].iter().take(object.len() - at);
        object[at..].iter_mut().zip(over).for_each(|(to, over)| *to ^= over);
    }
    if how & 2 == 2 && object.len() >= 4096 {
        let page = object.len() - 4096;
        seal(&mut object[page..]);
    }
    let is_sound = object == shop.sound;
    if is_sound {
        std::thread::sleep(Duration::from_millis(2));
    }
    shop.fake.put(&shop.name, object.into()).now_or_never().expect("at once").expect("it takes all");
    let is_loaded = loads(shop);
    assert!(is_loaded || !is_sound, "what was stored is not loaded");
    // A forger's trailer may differ in what proves nothing, such as the time of the store.
    assert!(!is_loaded || is_sound || how & 2 == 2, "damage is not seen");
}

pub(crate) fn sound_objects() -> Vec<Vec<u8>> {
    let whole = [&[0][..], &SHOP.sound].concat();
    vec![whole, vec![1], vec![3, 0, 0, 1], vec![3, 0, 48, 1], vec![3, 16, 47, 4, 0, 9]]
}
