//! The corpus of each target, and mutations of it: a short run of what `make fuzz` does for long.

use std::fs;
use std::path::Path;

use forebay_fuzz::{TARGETS, Target};

/// Numbers that are the same on every machine, so that what fails can be tried again (`SplitMix64`, Steele and others, 2014).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        number ^= number >> 31;
        usize::try_from(number % most.max(1) as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }
}

/// One of `all`, with a few changes.
fn mutated(numbers: &mut Numbers, all: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = all[numbers.below(all.len())].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        match numbers.below(7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, numbers.byte()),
            2 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            3 if at < bytes.len() => bytes[at] = b"\x00\x01\x7F\x80\xFF/:\n"[numbers.below(8)],
            4 if at < bytes.len() => {
                bytes.remove(at);
            }
            5 => {
                let other = &all[numbers.below(all.len())];
                let from = numbers.below(other.len() + 1);
                let piece = other[from..][..numbers.below(other.len() - from + 1)].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.extend_from_within(at..),
        }
        bytes.truncate(64 << 10);
    }
    bytes
}

fn run(target: &Target) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let mut all = (target.sound)();
    let mut kept: Vec<_> =
        fs::read_dir(&corpus).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    kept.sort();
    all.extend(kept.iter().map(|path| fs::read(path).expect("it can be read")));
    all.iter().for_each(|bytes| (target.feed)(bytes));
    let mut numbers = Numbers(0);
    for _ in 0..target.thousands * 1000 {
        let bytes = mutated(&mut numbers, &all);
        let caught = std::panic::catch_unwind(|| (target.feed)(&bytes));
        if caught.is_err() {
            let path = std::env::temp_dir().join(format!("forebay-fuzz-{}", target.name));
            fs::write(&path, &bytes).expect("it can be written");
            panic!(
                "{}: fails for what is in {}; keep it in {}",
                target.name,
                path.display(),
                corpus.display()
            );
        }
    }
}

macro_rules! each {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            run(forebay_fuzz::target(stringify!($name)));
        })*

        #[test]
        fn none_is_left_out() {
            assert_eq!([$(stringify!($name)),*], TARGETS.each_ref().map(|target| target.name));
        }
    };
}

each!(entry, trailer, plan, journal, format, config, url, keys, object);
