use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::catalog::{Extent, Extents};
use crate::memory::{PageMemory, Pages};
use crate::staging::{Class, Staging};
use crate::tier::disk::engine::Payload;

const BLOCK: usize = BLOCK_BYTES;

/// Where a piece lies on disk, in bytes.
fn place(piece: &Piece) -> usize {
    usize::try_from(piece.offset).unwrap()
}

/// A schedule, its slots, and the ends it has told.
struct Bench {
    schedule: Schedule,
    staging: Arc<Staging>,
    ends: Arc<Mutex<Vec<(u32, bool)>>>,
}

impl Bench {
    fn new(slots: u32, payload_blocks: usize, limits: Limits) -> Self {
        let staging = Staging::new(slots, payload_blocks * BLOCK).unwrap();
        Self { schedule: Schedule::new(limits), staging, ends: Arc::default() }
    }

    /// Adds a chunk that lies in these ranges of blocks.
    fn add(&mut self, number: u32, direction: Direction, ranges: &[(u32, u32)]) {
        self.add_from(number, direction, ranges, None);
    }

    fn add_from(
        &mut self,
        number: u32,
        direction: Direction,
        ranges: &[(u32, u32)],
        pages: Option<Pages<'static>>,
    ) {
        let payload = pages.map(|pages| Payload { pages, keep: Arc::new(()) });
        self.add_kept(number, direction, ranges, payload);
    }

    fn add_kept(
        &mut self,
        number: u32,
        direction: Direction,
        ranges: &[(u32, u32)],
        payload: Option<Payload>,
    ) {
        let extents: Vec<_> = ranges.iter().map(|&(start, blocks)| Extent { start, blocks }).collect();
        let extents = Extents::from_slice(&extents).unwrap();
        let class = if direction == Direction::Read { Class::Load } else { Class::Store };
        let lease = self.staging.acquire(class, Duration::ZERO).expect("a slot is free");
        let ends = Arc::clone(&self.ends);
        let finish = move |_: Lease, outcome: io::Result<()>| ends.lock().push((number, outcome.is_ok()));
        let finish = Finish::Working(Box::new(finish));
        let ended = self.schedule.add(Transfer { direction, drive: 0, extents, lease, payload, finish });
        self.tell(ended);
    }

    fn answer(&mut self, piece: &Piece, answer: io::Result<usize>) {
        let ended = self.schedule.complete(piece.token, answer);
        self.tell(ended);
    }

    fn tell(&self, ended: Option<Ended>) {
        ended.into_iter().for_each(crate::tier::disk::engine::tell);
        assert_eq!(self.staging.usage().in_use as usize, self.schedule.transfers.len(), "slots in use");
    }

    fn pieces(&mut self) -> Vec<Piece> {
        std::iter::from_fn(|| self.schedule.next()).collect()
    }

    fn ends(&self) -> Vec<(u32, bool)> {
        self.ends.lock().clone()
    }
}

fn limits(pieces_max: usize, writes_max: usize, piece_blocks: usize) -> Limits {
    Limits { pieces_max, writes_max, piece_bytes: piece_blocks * BLOCK }
}

fn count(pieces: &[Piece], direction: Direction) -> usize {
    pieces.iter().filter(|piece| piece.direction == direction).count()
}

#[test]
fn miri_a_chunk_goes_in_pieces_of_equal_length_and_none_crosses_an_extent() {
    let mut bench = Bench::new(2, 40, limits(64, 32, 8));
    bench.add(0, Direction::Read, &[(100, 17), (50, 3), (200, 9)]);
    let pieces = bench.pieces();
    let places: Vec<_> = pieces.iter().map(|piece| (place(piece) / BLOCK, piece.len / BLOCK)).collect();
    assert_eq!(places, [(100, 9), (109, 8), (50, 3), (200, 9)]);
    // What is with the device when a schedule goes keeps its memory for good.
    pieces.iter().for_each(|piece| bench.answer(piece, Ok(piece.len)));
    assert_eq!(bench.ends(), [(0, true)]);
}

#[test]
fn a_payload_that_lies_elsewhere_goes_from_there_and_the_trailer_from_the_slot() {
    let mut bench = Bench::new(2, 40, limits(64, 32, 8));
    let mut memory = PageMemory::new(40 * BLOCK).unwrap();
    let start = memory.as_mut_ptr() as usize;
    let pages = |memory: &mut PageMemory, blocks| {
        // SAFETY: the memory outlives the schedule's use of it.
        Pages::of(memory, blocks * BLOCK).map(|pages| unsafe { pages.detach() })
    };
    let payload = pages(&mut memory, 28);
    bench.add_from(0, Direction::Read, &[(100, 17), (50, 3), (200, 9)], payload);
    let pieces = bench.pieces();
    let in_file: Vec<_> = pieces.iter().map(|piece| (place(piece) / BLOCK, piece.len / BLOCK)).collect();
    assert_eq!(in_file, [(100, 9), (109, 8), (50, 3), (200, 9)]);
    let in_memory = pieces.iter().map(|piece| (piece.memory.as_ptr() as usize - start) / BLOCK);
    assert_eq!(in_memory.collect::<Vec<_>>(), [0, 9, 17, 20]);
    let (slots, len) = bench.staging.range();
    let tails: Vec<_> = pieces.iter().filter_map(|piece| piece.tail).collect();
    let (trailer, bytes) = pieces[3].tail.expect("the last piece ends with it");
    assert!((trailer.as_ptr() as usize).wrapping_sub(slots.as_ptr() as usize) < len, "in the slot");
    assert_eq!((tails.len(), bytes), (1, BLOCK));
    pieces.iter().for_each(|piece| bench.answer(piece, Ok(piece.len)));
    assert_eq!(bench.ends(), [(0, true)]);
    // All of it lies elsewhere: a part of a chunk without its trailer.
    let payload = pages(&mut memory, 29);
    bench.add_from(1, Direction::Read, &[(100, 29)], payload);
    let pieces = bench.pieces();
    assert_eq!((pieces[0].tail, pieces[0].memory.as_ptr() as usize), (None, start));
    pieces.iter().for_each(|piece| bench.answer(piece, Ok(piece.len)));
    let payload = pages(&mut memory, 30);
    bench.add_from(2, Direction::Read, &[(100, 29)], payload);
    assert_eq!(bench.ends(), [(0, true), (1, true), (2, false)], "a payload that is longer");
}

#[test]
fn guarantee_8_beside_a_read_one_piece_of_writes_is_with_the_device() {
    let mut bench = Bench::new(16, 63, limits(64, 32, 8));
    (0..6).for_each(|number| bench.add(number, Direction::Write, &[(number * 64, 64)]));
    let mut writes = bench.pieces();
    assert_eq!(writes.len(), 32, "without a load, as many as there may be");
    bench.add(9, Direction::Read, &[(1000, 64)]);
    let reads = bench.pieces();
    assert_eq!((count(&reads, Direction::Read), reads.len()), (8, 8), "the load goes at once");
    // As the writes before it end, they are replaced by one.
    for (ended, piece) in writes.drain(..).enumerate() {
        bench.answer(&piece, Ok(piece.len));
        assert_eq!(bench.pieces().len(), usize::from(ended == 31), "after {ended}");
    }
    reads.iter().for_each(|piece| bench.answer(piece, Ok(piece.len)));
    // The prompt's next load comes after a pause in which little is written.
    let again = bench.pieces();
    assert!(again.len() < 2, "the device is full of writes when the next load comes");
}

#[test]
fn guarantee_8_writes_come_back_step_by_step_after_the_last_read() {
    let mut bench = Bench::new(16, 63, limits(64, 32, 8));
    bench.add(9, Direction::Read, &[(1000, 8)]);
    let reads = bench.pieces();
    reads.iter().for_each(|piece| bench.answer(piece, Ok(piece.len)));
    let mut with_device = VecDeque::new();
    let mut most = Vec::new();
    for round in 0..200_u32 {
        while bench.staging.usage().in_use < 14 {
            bench.add(round, Direction::Write, &[(0, 64)]);
        }
        with_device.extend(bench.pieces());
        most.push(with_device.len());
        let piece: Piece = with_device.pop_front().expect("a write always goes on");
        bench.answer(&piece, Ok(piece.len));
    }
    assert_eq!(most[0], 1);
    assert!(most.windows(2).all(|pair| pair[1] <= pair[0] + 1), "no faster than one by one: {most:?}");
    assert_eq!(*most.last().unwrap(), 32, "in the end all of them");
}

#[test]
fn guarantee_9_a_write_goes_on_beside_reads_without_end() {
    let mut bench = Bench::new(8, 15, limits(4, 2, 4));
    let mut with_device = VecDeque::new();
    bench.add(1000, Direction::Write, &[(0, 16)]);
    let mut reads = 0;
    while bench.ends().iter().all(|&(number, _)| number != 1000) {
        while bench.staging.usage().in_use < 6 {
            bench.add(reads, Direction::Read, &[(0, 16)]);
            reads += 1;
        }
        assert!(reads < 100, "the write is starved");
        with_device.extend(bench.pieces());
        assert!(with_device.len() <= 4);
        let piece: Piece = with_device.pop_front().unwrap();
        bench.answer(&piece, Ok(piece.len));
    }
}

#[test]
fn what_stops_short_is_gone_on_with_and_an_end_inside_a_block_is_an_error() {
    let mut bench = Bench::new(3, 15, limits(8, 4, 16));
    bench.add(1, Direction::Write, &[(10, 16)]);
    let piece = bench.pieces().remove(0);
    bench.answer(&piece, Ok(5 * BLOCK));
    let rest = bench.pieces().remove(0);
    assert_eq!((place(&rest), rest.len), (15 * BLOCK, 11 * BLOCK));
    assert_eq!(rest.memory.as_ptr() as usize, piece.memory.as_ptr() as usize + 5 * BLOCK);
    bench.answer(&rest, Err(io::ErrorKind::Interrupted.into()));
    let again = bench.pieces().remove(0);
    assert_eq!((again.offset, again.len), (rest.offset, rest.len));
    bench.answer(&again, Ok(again.len));
    assert_eq!(bench.ends(), [(1, true)]);
    for (number, moved) in [(2, 100), (3, 0), (4, BLOCK + 1)] {
        bench.add(number, Direction::Read, &[(10, 16)]);
        let piece = bench.pieces().remove(0);
        bench.answer(&piece, Ok(moved));
        assert_eq!(bench.ends().last(), Some(&(number, false)));
    }
}

#[test]
fn an_answer_to_no_piece_changes_nothing() {
    let mut bench = Bench::new(2, 15, limits(8, 4, 4));
    bench.add(1, Direction::Read, &[(10, 16)]);
    let pieces = bench.pieces();
    assert_eq!(pieces.len(), 4);
    // The same answer twice, and answers nobody waits for.
    for piece in &pieces[..3] {
        bench.answer(piece, Ok(piece.len));
        bench.answer(piece, Ok(piece.len));
    }
    assert!(bench.schedule.complete(0, Ok(BLOCK)).is_none());
    assert!(bench.schedule.complete(u64::MAX, Ok(BLOCK)).is_none());
    assert_eq!(bench.ends(), [], "three of four pieces are there");
    bench.answer(&pieces[3], Ok(pieces[3].len));
    assert_eq!(bench.ends(), [(1, true)]);
}

#[test]
fn a_chunk_that_its_slot_cannot_hold_is_refused() {
    let mut bench = Bench::new(2, 15, limits(8, 4, 4));
    bench.add(1, Direction::Write, &[(0, 17)]);
    assert_eq!(bench.ends(), [(1, false)]);
    assert!(bench.schedule.is_idle());
}

proptest! {
    /// However short the device stops: what lies in two places arrives as one, every byte once.
    #[test]
    fn a_chunk_whose_payload_lies_elsewhere_is_written_whole(
        extents in prop::collection::vec(1_u32..12, 1..=3),
        stops in prop::collection::vec(0_usize..12, 0..20),
    ) {
        let blocks: usize = extents.iter().map(|&blocks| blocks as usize).sum();
        let mut bench = Bench::new(2, 1, limits(3, 3, 4));
        let mut payload = PageMemory::new(33 * BLOCK).unwrap();
        let expected: Vec<u8> = (0..blocks).map(|block| u8::try_from(100 + block).unwrap()).collect();
        for (block, bytes) in payload.chunks_mut(BLOCK).take(blocks - 1).enumerate() {
            bytes.fill(expected[block]);
        }
        let mut start = 0;
        let ranges: Vec<_> = extents
            .iter()
            .map(|&blocks| {
                start += blocks + 7;
                (start - blocks, blocks)
            })
            .collect();
        let first = payload.as_ptr() as usize;
        // SAFETY: the memory outlives the schedule's use of it.
        let pages = Pages::of(&mut payload, (blocks - 1) * BLOCK).map(|pages| unsafe { pages.detach() });
        bench.add_from(0, Direction::Write, &ranges, pages);
        let mut file = [0; 100];
        let mut stops = stops.into_iter();
        let mut with_device = VecDeque::new();
        loop {
            with_device.extend(bench.pieces());
            let Some(piece) = with_device.pop_front() else { break };
            let piece: Piece = piece;
            let may = stops.next().map_or(piece.len, |blocks| (blocks * BLOCK).clamp(BLOCK, piece.len));
            let mut block = place(&piece) / BLOCK;
            let mut left = may;
            for (start, len) in piece.ranges() {
                if (start.as_ptr() as usize).wrapping_sub(first) >= payload.len() {
                    // SAFETY: the trailer page, in the slot; a range is the device's until it answers.
                    unsafe { start.write(expected[blocks - 1]) };
                }
                for at in (0..len.min(left)).step_by(BLOCK) {
                    prop_assert_eq!(file[block], 0, "written twice");
                    // SAFETY: as above.
                    file[block] = unsafe { start.add(at).read() };
                    block += 1;
                }
                left -= len.min(left);
            }
            bench.answer(&piece, Ok(may));
        }
        prop_assert_eq!(bench.ends(), [(0, true)]);
        let written: Vec<u8> = ranges
            .iter()
            .flat_map(|&(start, blocks)| file[start as usize..(start + blocks) as usize].to_vec())
            .collect();
        prop_assert_eq!(written, expected);
        prop_assert_eq!(file.iter().filter(|&&byte| byte != 0).count(), blocks, "nothing beside it");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Read(Vec<u32>),
    Write(Vec<u32>),
    Device,
    Answer { which: usize, how: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let blocks = || prop::collection::vec(1_u32..9, 1..=3);
    prop_oneof![
        blocks().prop_map(Step::Read),
        blocks().prop_map(Step::Write),
        Just(Step::Device),
        (any::<usize>(), 0_u8..8).prop_map(|(which, how)| Step::Answer { which, how }),
    ]
}

proptest! {
    /// Whatever comes in whatever order: every byte of a chunk that ends well was moved once, a chunk ends once and
    /// not while a piece of it is with the device, and the limits hold.
    #[test]
    fn every_byte_is_moved_once_and_every_chunk_ends_once(steps in prop::collection::vec(step(), 1..200)) {
        let limits = limits(6, 3, 4);
        let mut bench = Bench::new(5, 27, limits);
        let mut device: Vec<Piece> = Vec::new();
        let mut added = 0_u32;
        let mut failed = std::collections::HashSet::new();
        let mut moved: HashMap<u32, usize> = HashMap::new();
        let mut sizes: HashMap<u32, usize> = HashMap::new();
        // A chunk's place on disk tells it apart: a thousand blocks each.
        let chunk_of = |piece: &Piece| u32::try_from(piece.offset / (1000 * BLOCK as u64)).unwrap();
        let finish = |steps: Vec<Step>| steps.into_iter().chain((0..2000).flat_map(|which| {
            [Step::Device, Step::Answer { which, how: 1 }]
        }));
        for step in finish(steps) {
            match step {
                Step::Read(ref blocks) | Step::Write(ref blocks) => {
                    let usage = bench.staging.usage();
                    let read = matches!(step, Step::Read(_));
                    if usage.in_use + 1 + u32::from(!read) > usage.slots {
                        continue;
                    }
                    let mut start = added * 1000;
                    let ranges: Vec<_> = blocks
                        .iter()
                        .map(|&blocks| {
                            start += blocks + 50;
                            (start - blocks, blocks)
                        })
                        .collect();
                    sizes.insert(added, blocks.iter().map(|&blocks| blocks as usize).sum());
                    let direction = if read { Direction::Read } else { Direction::Write };
                    bench.add(added, direction, &ranges);
                    added += 1;
                }
                Step::Device => {
                    device.extend(bench.pieces());
                    prop_assert!(device.len() <= limits.pieces_max);
                    prop_assert!(count(&device, Direction::Write) <= limits.writes_max);
                    let waits = [Direction::Read, Direction::Write].map(|way| bench.schedule.waits(way));
                    prop_assert!(waits == [false; 2] || !device.is_empty(), "nobody's answer would go on with it");
                }
                Step::Answer { which, how } => {
                    if device.is_empty() {
                        continue;
                    }
                    let piece = device.swap_remove(which % device.len());
                    let chunk = chunk_of(&piece);
                    let blocks = piece.len / BLOCK;
                    match how {
                        0 => {
                            failed.insert(chunk);
                            bench.answer(&piece, Err(io::Error::from_raw_os_error(5)));
                        }
                        2 if blocks > 1 => {
                            *moved.entry(chunk).or_default() += 1;
                            bench.answer(&piece, Ok(BLOCK));
                        }
                        3 => bench.answer(&piece, Err(io::ErrorKind::Interrupted.into())),
                        _ => {
                            *moved.entry(chunk).or_default() += blocks;
                            bench.answer(&piece, Ok(piece.len));
                        }
                    }
                    for (ended, _) in bench.ends() {
                        prop_assert!(device.iter().all(|piece| chunk_of(piece) != ended), "its piece is out");
                    }
                }
            }
        }
        let mut ends = bench.ends();
        ends.sort_unstable();
        let expected: Vec<_> = (0..added).map(|chunk| (chunk, !failed.contains(&chunk))).collect();
        prop_assert_eq!(ends, expected);
        for chunk in (0..added).filter(|chunk| !failed.contains(chunk)) {
            prop_assert_eq!(moved.get(&chunk), sizes.get(&chunk));
        }
        prop_assert!(bench.schedule.is_idle());
        prop_assert_eq!(bench.staging.usage().in_use, 0);
    }
}

#[test]
fn what_the_device_may_be_at_is_not_given_back_when_it_is_given_up() {
    let mut bench = Bench::new(3, 15, limits(8, 4, 4));
    let keep: Arc<dyn Send + Sync> = Arc::new(());
    let kept = Arc::downgrade(&keep);
    let mut memory = PageMemory::new(15 * BLOCK).unwrap();
    // SAFETY: nobody touches it: there is no device here.
    let pages = Pages::of(&mut memory, 15 * BLOCK).map(|pages| unsafe { pages.detach() }).unwrap();
    bench.add_kept(1, Direction::Write, &[(0, 16)], Some(Payload { pages, keep }));
    bench.add(2, Direction::Read, &[(100, 16)]);
    bench.pieces();
    let Bench { schedule, staging, ends } = bench;
    drop(schedule);
    assert_eq!(staging.usage().in_use, 2, "slots that the device may write to");
    assert!(kept.upgrade().is_some(), "memory that the device may read");
    assert_eq!(Arc::strong_count(&ends), 1, "what was to be told was dropped, and so answers for itself");
}
