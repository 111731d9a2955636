//! `docs/FORMAT.md` says what the code writes: every table of it is compared with the bytes of one example, field by
//! field, and every dump byte by byte.

use std::fmt::Write;
use std::fs;
use std::hash::Hasher;
use std::path::Path;

use forebay::ChunkKey;
use forebay::catalog::{
    BLOCK_BYTES, CachePolicy, Catalog, ChunkRecord, EXTENTS_MAX, Entry, Extent, Extents, RECORD_BYTES,
};
use forebay::tier::disk::directory::{Directory, Settings, data_path};
use forebay::tier::disk::format_file::read_format;
use forebay::tier::disk::journal::{FileHeader, FileKind};
use forebay::tier::disk::trailer::{self, FORMAT_VERSION};
use twox_hash::XxHash3_64;

const PAGE: &str = include_str!("../../../docs/FORMAT.md");

const LENGTH: u32 = 100_000;
const GENERATION: u64 = (3 << 40) | 9;
const SEGMENT: u64 = 7;

fn key() -> [u8; 32] {
    std::array::from_fn(|at| u8::try_from(at).unwrap() + 1)
}

fn parent() -> [u8; 32] {
    std::array::from_fn(|at| u8::try_from(at).unwrap() + 0xa1)
}

fn record() -> ChunkRecord {
    let extents = [Extent { start: 2, blocks: 20 }, Extent { start: 100, blocks: 6 }];
    ChunkRecord {
        key: ChunkKey::new(key()),
        parent: ChunkKey::new(parent()),
        depth: 5,
        generation: GENERATION,
        length: LENGTH,
        stored_at_ms: 1_750_000_000_000,
        drive: 0,
        extents: Extents::from_slice(&extents).unwrap(),
    }
}

fn stored() -> Vec<u8> {
    Entry::Put(record()).encode().to_vec()
}

fn gone() -> Vec<u8> {
    Entry::Remove(ChunkKey::new(key()), GENERATION).encode().to_vec()
}

/// Payload and padding as the page says: whole blocks, zeros behind the payload.
fn payload() -> Vec<u8> {
    let mut payload = vec![0x5a; LENGTH as usize];
    payload.resize(LENGTH.next_multiple_of(4096) as usize, 0);
    payload
}

/// As the code has it.
fn trailer_page() -> Vec<u8> {
    let mut hasher = trailer::payload_hasher();
    hasher.write(&payload());
    let mut page = vec![0xff; BLOCK_BYTES];
    trailer::encode(&record(), trailer::payload_sum(&record(), &hasher), &mut page);
    page
}

fn segment() -> Vec<u8> {
    FileHeader { epoch: 3, segment: SEGMENT, records: 0 }.encode(FileKind::Segment).to_vec()
}

fn checkpoint() -> Vec<u8> {
    FileHeader { epoch: 3, segment: SEGMENT, records: 1 }.encode(FileKind::Checkpoint).to_vec()
}

/// The checksum at the end of `bytes`, as the page defines it.
fn checksum(bytes: &[u8]) -> Vec<u8> {
    XxHash3_64::oneshot(&bytes[..bytes.len() - 8]).to_le_bytes().to_vec()
}

/// Compares the table under `heading` with `bytes`: rows without a gap, in which `fields` have these values.
#[track_caller]
fn compare(heading: &str, bytes: &[u8], fields: &[(&str, &[u8])]) {
    let (_, section) = PAGE.split_once(&format!("\n### {heading}\n")).expect("the heading is on the page");
    let rows = section.lines().skip_while(|line| !line.starts_with("| at ")).skip(2);
    let mut fields = fields.iter();
    let mut end = 0;
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (at, len): (usize, usize) = (cells[1].parse().unwrap(), cells[2].parse().unwrap());
        assert_eq!(at, end, "no gap before {row}");
        end = at + len;
        let zeros = vec![0; len];
        let expected = match cells[3] {
            "zero" => &zeros[..],
            name => {
                let (field, value) = fields.next().expect("a field more than there is");
                assert_eq!(name, *field);
                value
            }
        };
        assert_eq!(&bytes[at..end], expected, "{row}");
    }
    assert_eq!((end, fields.next()), (bytes.len(), None), "the table is complete");
}

#[test]
fn the_tables_are_what_is_written() {
    let stored = stored();
    let word = |value: u32| value.to_le_bytes();
    compare(
        "Record of a stored chunk",
        &stored,
        &[
            ("kind", &[1]),
            ("extents", &[2]),
            ("drive", &[0]),
            ("depth", &word(5)),
            ("generation", &GENERATION.to_le_bytes()),
            ("key", &key()),
            ("parent", &parent()),
            ("length", &word(LENGTH)),
            ("stored at", &1_750_000_000_000_u64.to_le_bytes()),
            ("start 1", &word(2)),
            ("blocks 1", &word(20)),
            ("start 2", &word(100)),
            ("blocks 2", &word(6)),
            ("start 3", &word(0)),
            ("blocks 3", &word(0)),
            ("checksum", &checksum(&stored)),
        ],
    );
    let gone = gone();
    let fields: [(&str, &[u8]); 4] = [
        ("kind", &[2]),
        ("generation", &GENERATION.to_le_bytes()),
        ("key", &key()),
        ("checksum", &checksum(&gone)),
    ];
    compare("Record of a chunk that is gone", &gone, &fields);

    // Of the whole record, seeded with the hash of payload and padding.
    let payload_sum = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&payload()), &stored);
    let page = trailer_page();
    compare(
        "Trailer page",
        &page,
        &[
            ("magic", b"FOREBAY\x03"),
            ("version", &word(3)),
            ("record", &stored),
            ("payload checksum", &payload_sum.to_le_bytes()),
            ("checksum", &checksum(&page)),
        ],
    );
    for (heading, bytes, magic, records) in [
        ("Segment header", segment(), b"FBAYJRNL", 0_u64),
        ("Checkpoint header", checkpoint(), b"FBAYCKPT", 1),
    ] {
        let fields: [(&str, &[u8]); 6] = [
            ("magic", magic),
            ("version", &word(3)),
            ("epoch", &word(3)),
            ("segment", &SEGMENT.to_le_bytes()),
            ("records", &records.to_le_bytes()),
            ("checksum", &checksum(&bytes)),
        ];
        compare(heading, &bytes, &fields);
    }
}

/// Bytes as the page shows them: 16 to a line behind their offset, lines of zeros left out.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (line, bytes) in bytes.chunks(16).enumerate().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
    {
        write!(text, "{:04x} ", line * 16).unwrap();
        for byte in bytes {
            write!(text, " {byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_dumps_are_what_is_written() {
    for (name, bytes) in [
        ("stored", stored()),
        ("trailer", trailer_page()),
        ("gone", gone()),
        ("segment", segment()),
        ("checkpoint", checkpoint()),
    ] {
        let (_, rest) = PAGE.split_once(&format!("\n```hex {name}\n")).expect("the dump is on the page");
        let (shown, _) = rest.split_once("```").unwrap();
        assert_eq!(shown, dump(&bytes), "the dump of {name} is to be:\n{}", dump(&bytes));
    }
}

#[test]
fn what_is_written_is_read_back() {
    let record_bytes: [u8; RECORD_BYTES] = stored().try_into().unwrap();
    assert_eq!(Entry::decode(&record_bytes), Some(Entry::Put(record())));
    let gone_bytes: [u8; RECORD_BYTES] = gone().try_into().unwrap();
    assert_eq!(Entry::decode(&gone_bytes), Some(Entry::Remove(ChunkKey::new(key()), GENERATION)));
    assert!(trailer::verify(&trailer_page(), &record()).is_ok());
    assert!(FileHeader::decode(&segment(), FileKind::Segment).is_some());
    assert_eq!(FileHeader::decode(&checkpoint(), FileKind::Segment), None);
}

#[test]
fn the_limits_are_those_of_the_code() {
    assert_eq!((BLOCK_BYTES, EXTENTS_MAX, RECORD_BYTES, FORMAT_VERSION), (4096, 3, 128, 3));
    assert_eq!(Catalog::epoch_of(GENERATION), 3);
    assert_eq!(Catalog::epoch_of(u64::MAX), (1 << 24) - 1);
    let last = Extent { start: u32::MAX, blocks: 1 };
    assert_eq!(last.byte_start() + 4096, 16 << 40);
}

#[test]
fn capacity_is_divided_as_the_example_says() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        directories: vec![directory.path().to_owned()],
        capacity_bytes: 8 << 20,
        min_free_bytes: 0,
        chunk_bytes: u64::from(LENGTH),
        direct_io: false,
        cache_policy: CachePolicy::Lru,
    };
    let opened = Directory::open(&settings).unwrap();
    assert_eq!(opened.directory.journal_records_max(), 1180);
    assert_eq!(fs::metadata(data_path(directory.path())).unwrap().len(), 7_716_864);
    for part in ["`chunks_max` 1180", "1884 blocks long,\n7716864 bytes"] {
        assert!(PAGE.contains(part), "{part:?}");
    }
    for file in files_in(directory.path()) {
        let file = file.replace("journal.1", "journal.N");
        assert!(PAGE.contains(&format!("| `{file}` |")), "{file}");
    }
}

#[test]
fn capacity_is_divided_among_directories_as_the_example_says() {
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<_> = ["a", "b", "c"].map(|name| directory.path().join(name)).into();
    let settings = Settings {
        directories: paths.clone(),
        capacity_bytes: 24 << 20,
        min_free_bytes: 0,
        chunk_bytes: u64::from(LENGTH),
        direct_io: false,
        cache_policy: CachePolicy::Lru,
    };
    let _opened = Directory::open(&settings).unwrap();
    let blocks = |path| fs::metadata(data_path(path)).unwrap().len() / 4096;
    let (home, others) = (blocks(&paths[0]), [blocks(&paths[1]), blocks(&paths[2])]);
    assert_eq!((home, others), (1836, [2040; 2]));
    for part in ["`data` is 1836 blocks long at home", "2040 in each of the others"] {
        assert!(PAGE.contains(part), "{part:?}");
    }
    for file in files_in(&paths[1]) {
        assert!(["LOCK", "FORMAT", "data"].contains(&&*file), "{file}");
    }
}

fn files_in(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

/// What the page shows as `FORMAT` is what the code reads it as, and writes again.
#[test]
fn the_formats_shown_are_those_of_the_code() {
    let shown: Vec<_> = PAGE
        .split("\n```json\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("\n```"))
        .map(|(text, _)| text)
        .filter(|text| text.contains("forebay_format"))
        .collect();
    let read = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("FORMAT"), text).unwrap();
        read_format(directory.path()).unwrap().expect("it can be understood")
    };
    let formats: Vec<_> = shown.iter().map(|text| read(text)).collect();
    assert_eq!(formats.iter().map(|format| format.drive).collect::<Vec<_>>(), [0, 1]);
    for (format, text) in formats.iter().zip(&shown) {
        let compact: String = text.lines().map(str::trim).collect();
        assert_eq!(serde_json::to_string(format).unwrap(), compact.replace(": ", ":"));
    }
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        directories: vec![directory.path().join("home"), directory.path().join("other")],
        capacity_bytes: 32 << 20,
        min_free_bytes: 0,
        chunk_bytes: u64::from(LENGTH),
        direct_io: false,
        cache_policy: CachePolicy::Lru,
    };
    drop(Directory::open(&settings).unwrap());
    let written = |at: usize| read_format(&settings.directories[at]).unwrap().unwrap();
    let (home, other) = (written(0), written(1));
    assert_eq!((home.epoch, home.drive, home.since, home.cache.len()), (1, 0, 1, 16));
    assert_eq!((other.drive, other.since, &other.cache), (1, 1, &home.cache));
    assert!(other.home.ends_with("/home") && home.drives[0].path.ends_with("/other"));
    assert_eq!((home.drives[0].drive, home.drives[0].since), (1, 1));
}
