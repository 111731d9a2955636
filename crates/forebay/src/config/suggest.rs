//! The nearest known name to one that is not known.

use super::keys::KEYS;
use super::peers::PEER_KEYS;

/// Least likeness (0 to 1) at which a name is worth suggesting: half of its letters.
const LIKENESS_MIN: f64 = 0.5;

/// What to say after "unknown key `name`": the nearest key, or all of them when none is near.
pub(super) fn remedy(name: &str) -> String {
    let name = name.to_lowercase();
    let ours = nearest(&name, KEYS.iter().map(|key| key.name));
    let theirs = nearest(&name, PEER_KEYS.iter().map(|key| key.name));
    match (ours, theirs) {
        (Some((likeness, ours)), theirs) if theirs.is_none_or(|(other, _)| likeness >= other) => {
            format!("did you mean `{ours}`?")
        }
        (_, Some((_, theirs))) => format!("did you mean `{theirs}`, a key of LMCache?"),
        _ => {
            let all: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            format!("the keys are {}", all.join(", "))
        }
    }
}

/// The most alike of `names` that is alike enough, and how alike it is.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<(f64, &'a str)> {
    // Names are short; text that is not cannot be a slip of the hand, and comparing it would be slow.
    if name.len() > 64 {
        return None;
    }
    names
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
}
