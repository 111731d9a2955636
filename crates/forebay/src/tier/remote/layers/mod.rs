//! What makes a store safe to wait for, a layer at a time. Each is a store over a store, and counts what it does.
//!
//! From the outside in: [`counted`], [`breaker`], [`retry`], [`timeout`], [`bounded`]. The breaker is outside, so that
//! a request that was tried several times counts once, and one that is left alone costs nothing. The timeout is inside
//! the retries, so that each try has its own; and the bound is inside the timeout, so that waiting for a turn counts
//! as waiting, and a request that sleeps between two tries has no turn.

pub mod bounded;
pub mod breaker;
pub mod counted;
pub mod retry;
pub mod timeout;
