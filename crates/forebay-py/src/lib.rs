//! The native half of the Python package `forebay`: types and conversions, no logic of its own.
//!
//! `python/forebay/_native.pyi` is its contract. Everything that may wait lets go of the GIL first; what is called
//! on Forebay's threads takes it only to run the caller's Python.

#![expect(clippy::needless_pass_by_value, reason = "Python's arguments arrive by value")]

mod cache;
mod config;
mod error;
mod events;
mod exit;
mod handle;
mod items;
mod keys;
mod memory;
mod plane;
mod seen;
mod stats;

use pyo3::prelude::*;

/// The module `forebay._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Unless the program around us has its own subscriber.
    forebay_cli::log_to_stderr();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("Error", module.py().get_type::<error::Error>())?;
    module.add_class::<config::Config>()?;
    module.add_class::<keys::Namespace>()?;
    module.add_class::<cache::Cache>()?;
    module.add_class::<cache::Lookup>()?;
    module.add_class::<handle::Handle>()?;
    module.add_class::<handle::StoreOutcome>()?;
    module.add_class::<handle::LoadOutcome>()?;
    module.add_class::<events::Event>()?;
    module.add_class::<events::Events>()?;
    module.add_class::<events::Listener>()?;
    module.add_class::<plane::ControlPlane>()?;
    module.add_class::<plane::ChunkPlan>()?;
    module.add_class::<plane::Mover>()?;
    module.add_class::<plane::Transfer>()?;
    module.add_class::<memory::PageBuffer>()?;
    module.add_class::<memory::PagedMemory>()?;
    module.add_class::<memory::PagedChunk>()?;
    module.add_function(wrap_pyfunction!(keys::chunk_keys, module)?)?;
    module.add_function(wrap_pyfunction!(keys::chunk_keys_from_blocks, module)?)?;
    module.add_function(wrap_pyfunction!(run_cli, module)?)?;
    let close_all = wrap_pyfunction!(exit::close_all, module)?;
    module.py().import("atexit")?.call_method1("register", (close_all,))?;
    Ok(())
}

/// The command line, for the script that the wheel installs. Gives the exit code.
#[pyfunction]
fn run_cli(py: Python<'_>, arguments: Vec<String>) -> u8 {
    py.detach(|| forebay_cli::run(arguments))
}
