//! Which tiers a chunk is stored to.

use super::value::Value;

/// Tiers that a chunk is stored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreTo {
    /// CPU memory.
    pub memory: bool,
    /// The directories of `local_disk`.
    pub disk: bool,
    /// The store of `remote_url`.
    pub remote: bool,
}

impl StoreTo {
    /// The tiers by name, as they would be written: one as text, several as a list.
    pub(super) fn value(self) -> Value {
        let tiers = [("memory", self.memory), ("disk", self.disk), ("remote", self.remote)];
        let mut names: Vec<Value> =
            tiers.into_iter().filter(|(_, is_in)| *is_in).map(|(name, _)| name.into()).collect();
        if names.len() == 1 { names.remove(0) } else { Value::List(names) }
    }
}
