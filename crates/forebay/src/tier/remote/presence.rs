//! How much of a chain of objects is there, in few round trips.
//!
//! A chain is stored from its front, and loses its end first, so what is there of it is mostly a front part. That is
//! searched by asking for several objects at a time: with 32, the front of 1,000 is known after two round trips.
//!
//! Promises: the last object of what is called the front was said to be there. Where a chain has gaps, objects before
//! it may be missing; whoever reads finds out.

use futures_util::future::try_join_all;

use super::objects::{Fault, Objects};

/// How many requests at a time are enough for chains of a thousand in two round trips.
pub const WIDTH: usize = 32;

/// How many of `names` are there, from the front on, asking for at most `width` at a time.
///
/// # Errors
/// The first fault of a request; nothing is known then.
pub async fn front(objects: &dyn Objects, names: &[String], width: usize) -> Result<usize, Fault> {
    // All before `low` are taken to be there, the one at `high` is not, or is none.
    let (mut low, mut high) = (0, names.len());
    while low < high {
        let answers = high - low + 1;
        let asked = width.clamp(1, high - low);
        let probes: Vec<usize> =
            (1..=asked).map(|probe| low + share(answers, probe, asked + 1) - 1).collect();
        let there = try_join_all(probes.iter().map(|at| objects.has(&names[*at]))).await?;
        let found = there.iter().position(|is_there| !is_there);
        if let Some(missing) = found {
            high = probes[missing];
        }
        match found.unwrap_or(probes.len()) {
            0 => {}
            count => low = probes[count - 1] + 1,
        }
    }
    Ok(low)
}

/// `whole * part / parts`, for parts that are no more than the whole.
fn share(whole: usize, part: usize, parts: usize) -> usize {
    // In this order nothing overflows, and neighbouring parts differ by one at least.
    whole / parts * part + whole % parts * part / parts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::time::Instant;

    use super::*;
    use crate::tier::remote::layers::bounded::Bounded;
    use crate::tier::remote::wrappers::delay::Delay;
    use crate::tier::remote::wrappers::fake::Fake;

    const TRIP: Duration = Duration::from_millis(10);

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("0123456789abcdef/{number:064x}/0")).collect()
    }

    /// The front of `names` in a store that has those of which `is_there` says so, and the round trips it took.
    async fn search(names: &[String], width: usize, is_there: impl Fn(usize) -> bool) -> (usize, u128) {
        let fake = Arc::new(Fake::default());
        for (_, name) in names.iter().enumerate().filter(|(index, _)| is_there(*index)) {
            fake.put(name, Bytes::new()).await.unwrap();
        }
        let bounded = Bounded::new(Arc::new(Delay::new(fake, TRIP)), names.len().max(1));
        let began = Instant::now();
        let found = front(&bounded, names, width).await.unwrap();
        assert!(bounded.stats().most_under_way <= width as u64);
        (found, began.elapsed().as_millis() / TRIP.as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn every_front_of_every_short_chain_is_found_with_every_width() {
        for len in 0..12 {
            let names = names(len);
            for there in 0..=len {
                for width in [1, 2, 3, 5, 32] {
                    let (found, trips) = search(&names, width, |index| index < there).await;
                    assert_eq!(found, there, "{there} of {len} by {width}");
                    assert!(width < len || trips <= 1, "{trips} trips for {there} of {len} by {width}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_are_known_after_two_round_trips_and_four_thousand_after_three() {
        for (len, most) in [(1000, 2), (1088, 2), (4000, 3), (30_000, 3)] {
            let names = names(len);
            for there in [0, 1, 2, 29, 30, 31, 32, 33, len / 3, len / 2, len - 2, len - 1, len] {
                let (found, trips) = search(&names, WIDTH, |index| index < there).await;
                assert_eq!(found, there, "of {len}");
                assert!(trips <= most, "{trips} round trips for {there} of {len}");
            }
        }
        let (found, trips) = search(&names(1000), 1, |index| index < 700).await;
        assert_eq!((found, trips <= 10), (700, true), "one at a time is a binary search");
    }

    #[tokio::test(start_paused = true)]
    async fn with_gaps_the_last_of_the_front_is_there() {
        let names = names(200);
        for seed in 0..60_usize {
            let is_there = |index: usize| !(index * 7919 + seed * 104_729).is_multiple_of(3 + seed % 5);
            for width in [1, 4, 32] {
                let (found, _) = search(&names, width, is_there).await;
                assert!(found == 0 || is_there(found - 1), "{found} with seed {seed}");
            }
        }
    }

    #[tokio::test]
    async fn a_fault_ends_the_search() {
        let fake = Fake::default();
        fake.fail_next([Fault::TimedOut]);
        assert_eq!(front(&fake, &names(5), WIDTH).await, Err(Fault::TimedOut));
        assert_eq!(front(&fake, &[], WIDTH).await, Ok(0));
        assert_eq!(front(&fake, &names(5), 0).await, Ok(0), "no width at all is taken as one");
    }
}
