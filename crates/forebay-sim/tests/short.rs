//! Some seeds, each to its end: as many as take a few seconds.

use forebay_sim::op::history;
use forebay_sim::run::{note_panics, run};
use forebay_sim::setup::Setup;
use forebay_sim::tally::Tally;

#[test]
fn a_thousand_seeds_keep_every_promise_and_everything_happens_in_them() {
    note_panics();
    let mut tally = Tally::default();
    for seed in 0..1000 {
        match run(&Setup::of(seed), &history(seed, 500)) {
            Ok(happened) => tally += happened,
            Err(violation) => {
                panic!("{violation:?}; `forebay-sim --seed {seed} --steps 500` shows what leads to it")
            }
        }
    }
    for (name, figure) in tally.figures() {
        assert!(figure >= 100, "{name}: {figure}");
    }
}

#[test]
fn a_seed_is_the_same_every_time() {
    note_panics();
    for seed in 0..50 {
        let (setup, history) = (Setup::of(seed), history(seed, 300));
        assert_eq!(run(&setup, &history), run(&setup, &history), "seed {seed}");
    }
}
