//! The device: carries pieces out in any order, or stops short, fails, and lies.
//!
//! What it has done wrong is written down, so that the model knows whom to excuse.

use std::io;

use fastrand::Rng;
use forebay::catalog::BLOCK_BYTES;
use forebay::tier::disk::engine::Direction;
use forebay::tier::disk::stepped::{SteppedEngine, WithDevice};

use crate::machine::Machine;
use crate::trouble::{Trouble, failure};

/// Something that a piece was answered with, or that was done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misdeed {
    /// It was told that it failed, or that it ended inside a block.
    Failed,
    /// It was told that a write was done, which was not as it should be.
    Lied,
}

/// What was done wrong, to which piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deed {
    /// What.
    pub(crate) misdeed: Misdeed,
    /// To whom.
    pub(crate) piece: WithDevice,
}

/// Carries out one piece that is with the device, and notes what it does wrong; `false` if there is none.
pub(crate) fn carry_one(engine: &SteppedEngine, machine: &Machine, deeds: &mut Vec<Deed>) -> bool {
    let pieces = engine.give_out();
    let Some(piece) = machine.trouble.roll(|rng| rng.choice(&pieces).copied()) else { return false };
    let (answer, moved, misdeed) = answer(&machine.trouble, piece);
    move_bytes(engine, machine, piece, moved);
    engine.complete(piece.token, answer);
    deeds.extend(misdeed.map(|misdeed| Deed { misdeed, piece }));
    true
}

/// What the device says, how many bytes it moves, and what is wrong with that.
fn answer(trouble: &Trouble, piece: WithDevice) -> (io::Result<usize>, usize, Option<Misdeed>) {
    let len = piece.len;
    if trouble.strikes(|rates| rates.transfer_error) {
        let (error, moved) = trouble.roll(|rng| (failure(rng), rng.usize(..=len)));
        return (Err(error), moved, Some(Misdeed::Failed));
    }
    if trouble.strikes(|rates| rates.short_transfer) {
        return match trouble.roll(|rng| rng.u32(..20)) {
            // It ends inside a block: with direct I/O that cannot be gone on from.
            0 => {
                let moved =
                    trouble.roll(|rng| rng.usize(..len / BLOCK_BYTES)) * BLOCK_BYTES + BLOCK_BYTES / 2;
                (Ok(moved), moved, Some(Misdeed::Failed))
            }
            1 => (Err(io::ErrorKind::Interrupted.into()), 0, None),
            _ => {
                let moved = trouble.roll(|rng| rng.usize(1..=len / BLOCK_BYTES)) * BLOCK_BYTES;
                (Ok(moved), moved, None)
            }
        };
    }
    if piece.direction == Direction::Write && trouble.strikes(|rates| rates.lie) {
        return (Ok(len), trouble.roll(|rng| rng.usize(..len)), Some(Misdeed::Lied));
    }
    (Ok(len), len, None)
}

fn move_bytes(engine: &SteppedEngine, machine: &Machine, piece: WithDevice, moved: usize) {
    let drive = &machine.drives[usize::from(piece.drive)];
    let start = usize::try_from(piece.offset).expect("a small drive");
    drive.sectors(|sectors| {
        engine.memory_of(piece.token, |at, memory| {
            let len = memory.len().min(moved.saturating_sub(at));
            match piece.direction {
                Direction::Write => sectors.write(start + at, &memory[..len]),
                Direction::Read => {
                    memory[..len].copy_from_slice(&sectors.bytes()[start + at..start + at + len]);
                }
            }
        });
    });
}

/// The process has died: what is with the device ends somehow, and nobody hears of it.
pub(crate) fn abandon(engine: &SteppedEngine, machine: &Machine, rng: &mut Rng) {
    let dead = || io::Error::other("nobody waits for it");
    for piece in engine.give_out() {
        if piece.direction == Direction::Write {
            let drive = &machine.drives[usize::from(piece.drive)];
            let start = usize::try_from(piece.offset).expect("a small drive");
            drive.sectors(|sectors| {
                engine
                    .memory_of(piece.token, |at, memory| sectors.write_interrupted(start + at, memory, rng));
            });
        }
        engine.complete(piece.token, Err(dead()));
    }
    loop {
        let pieces = engine.give_out();
        if pieces.is_empty() {
            return;
        }
        pieces.iter().for_each(|piece| engine.complete(piece.token, Err(dead())));
    }
}
