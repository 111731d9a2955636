//! What threads meet through: locks, conditions, flags, and the time.
//!
//! In what is shipped these are `parking_lot`'s and the standard library's, and nothing else. The crate is compiled a
//! second time as `forebay-models`, under `cfg(models)`, and there they are a model checker's, of the same names, which
//! tries one order of threads after another ([`modelled`]). Whoever waits or is waited for takes them from here, so that
//! what is tried is the code that is shipped.

#[cfg(models)]
pub(crate) mod modelled;

#[cfg(models)]
pub(crate) use modelled::{Condvar, Mutex, MutexGuard, atomic, now, spawn_on, thread};
#[cfg(models)]
pub(crate) use shuttle::{future::JoinHandle, thread_local};

#[cfg(not(models))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(models))]
pub(crate) use std::{sync::atomic, thread, thread_local};
#[cfg(not(models))]
pub(crate) use tokio::task::JoinHandle;

/// What time it is.
#[cfg(not(models))]
#[inline]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Runs `future` on the threads of this runtime.
#[cfg(not(models))]
#[inline]
pub(crate) fn spawn_on<F>(runtime: &tokio::runtime::Handle, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    runtime.spawn(future)
}
