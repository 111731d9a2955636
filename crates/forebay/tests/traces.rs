//! Tracing: each chunk's way is a span of its own, with what happened on it, and ends once, with a line that says all by itself.

mod support;

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::Mutex;
use support::{Home, PATIENCE, bytes_of, load, prompt, store_all};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// One chunk's way.
#[derive(Default, Clone, Debug)]
struct Way {
    name: &'static str,
    fields: HashMap<&'static str, String>,
    events: Vec<String>,
}

#[derive(Default, Clone)]
struct Traced(Arc<Mutex<Ways>>);

#[derive(Default)]
struct Ways {
    open: HashMap<u64, Way>,
    ended: Vec<Way>,
    /// What was said of chunks outside of their spans.
    lines: Vec<Way>,
}

impl Visit for Way {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").unwrap();
        self.fields.insert(field.name(), text.trim_matches('"').to_owned());
    }
}

/// What an event says.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>> Layer<S> for Traced {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut way = Way { name: attributes.metadata().name(), ..Way::default() };
        attributes.record(&mut way);
        if attributes.metadata().target() == "forebay::chunk" {
            assert!(self.0.lock().open.insert(id.into_u64(), way).is_none());
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some(way) = self.0.lock().open.get_mut(&id.into_u64()) {
            values.record(way);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(span) = context.event_span(event) else {
            if event.metadata().target() == "forebay::chunk" {
                assert_eq!(*event.metadata().level(), Level::DEBUG);
                let mut line = Way::default();
                event.record(&mut line);
                self.0.lock().lines.push(line);
            }
            return;
        };
        assert_eq!(*event.metadata().level(), Level::TRACE);
        let mut message = Message(String::new());
        event.record(&mut message);
        if let Some(way) = self.0.lock().open.get_mut(&span.id().into_u64()) {
            way.events.push(message.0);
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let mut ways = self.0.lock();
        // Its number may be another's from now on.
        let ended = ways.open.remove(&id.into_u64());
        ways.ended.extend(ended);
    }
}

/// One test alone in its process: spans are made on threads of the cache, so the subscriber is everybody's.
#[test]
fn a_chunks_way_is_a_span_that_says_what_happened_and_how_it_ended() {
    const CHUNK: usize = 12 << 20;
    let traced = Traced::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(traced.clone())).unwrap();
    let home = Home::new(CHUNK, 4, 64 << 20);
    let cache = home.open();
    let wanted = prompt(1, 1);
    store_all(&cache, &wanted, CHUNK);
    let _ = load(&cache, &wanted, CHUNK);
    let file = std::fs::File::options().read(true).write(true).open(home.data()).unwrap();
    let payload = bytes_of(&wanted[0], CHUNK);
    let mut on_disk = vec![0; 16 << 20];
    let read = file.read_at(&mut on_disk, 0).unwrap();
    let at = on_disk[..read].windows(64).position(|window| window == &payload[..64]).expect("it is there");
    file.write_all_at(&[!payload[0]], at as u64).unwrap();
    let _ = load(&cache, &wanted, CHUNK);
    cache.close(PATIENCE);
    drop(cache);

    assert!(traced.0.lock().open.is_empty(), "each has ended");
    let ways = std::mem::take(&mut traced.0.lock().ended);
    let is_of_it = |way: &Way| {
        let [tier, key, bytes] = ["tier", "key", "bytes"].map(|field| way.fields[field].as_str());
        (tier, key, bytes) == ("disk", &wanted[0].to_string(), &CHUNK.to_string())
    };
    let of = |name: &str, outcome: &str| -> Way {
        let found: Vec<&Way> =
            ways.iter().filter(|way| way.name == name && way.fields["outcome"] == outcome).collect();
        assert!(found.len() == 1 && is_of_it(found[0]), "{name} {outcome}: {ways:?}");
        found[0].clone()
    };
    assert_eq!(ways.len(), 3, "{ways:?}");
    let stored = of("store", "done").events;
    assert_eq!(stored.first().unwrap(), "it has a slot");
    assert_eq!(stored.iter().filter(|event| *event == "a part was written").count(), 3, "{stored:?}");
    assert!(stored.iter().any(|event| event == "all of it is with the device"));
    assert_eq!(stored.last().unwrap(), "it is in the journal, and found from now on");
    let loaded = of("load", "done").events;
    assert_eq!(loaded.first().unwrap(), "it has a slot");
    assert_eq!(loaded.iter().filter(|event| *event == "a part was checked and copied").count(), 3);
    of("load", "corrupt");

    let lines = std::mem::take(&mut traced.0.lock().lines);
    let mut said: Vec<[&str; 2]> =
        lines.iter().map(|line| ["message", "outcome"].map(|field| line.fields[field].as_str())).collect();
    // Whoever waits for a chunk is told before its line is written.
    said.sort_unstable();
    assert_eq!(said, [["load", "corrupt"], ["load", "done"], ["store", "done"]]);
    for line in &lines {
        assert!(is_of_it(line) && line.fields["microseconds"].parse::<u64>().unwrap() > 0, "{line:?}");
    }
}
