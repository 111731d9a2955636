//! Runs the models: Forebay's own threads, in one order after another. What each states stands beside it.

use forebay_models::models::{self, cache, events, mover, remote};

macro_rules! models {
    ($($module:ident: $($name:ident),+;)+) => {
        $($(
            #[test]
            fn $name() {
                $module::$name();
            }
        )+)+
    };
}

models! {
    models: staging_serves_a_crowd, staging_gives_out_every_slot_that_is_free, staging_lets_go_of_who_gives_up, staging_closes_with_a_crowd_in_line,
        staging_nudges_who_is_not_wanted, queue_loses_nothing, queue_closes_at_any_moment, queue_is_helped_out;
    mover: watch_gives_each_thing_once, watch_gives_up_what_is_put_back, batch_tells_everybody_once,
        jobs_end_once_while_they_are_cancelled;
    events: events_are_told_or_counted, events_wake_who_waits, events_end_with_their_listener;
    remote: turns_let_everybody_go, upload_puts_the_last_part_last;
    cache: cache_tells_two_callers, cache_tells_who_follows_a_copy, cache_loads_while_it_stores,
        cache_closes_at_any_moment, cache_closes_with_copies_in_line, cache_closes_though_an_engine_hangs;
}
