//! What cache mode has learned, in words.

use crate::admin::facts::Facts;
use damselfly_engine::UsageSeen;

/// The share of keys that reading commands found, since the counters were reset.
pub fn hit_ratio(facts: &Facts<'_>) -> String {
    let hits = facts.shared.total(|counters| counters.hits.read());
    let misses = facts.shared.total(|counters| counters.misses.read());
    format!("{:.4}", hits as f64 / (hits + misses).max(1) as f64)
}

/// What was learned of keys that were used so often, as a level of [`damselfly_engine::ModelView`]: how many of them are never used again as far as it is known, and after which time
/// half of the others are, in turnovers of the cache.
pub fn learned(facts: &Facts<'_>, level: usize) -> String {
    let UsageSeen {
        events,
        never_again,
        half_within,
    } = facts.shared.engine.learned().view.by_uses[level];
    if events < 1.0 {
        return String::from("unknown");
    }
    format!(
        "never_again={:.1}%,half_of_others_within={half_within:.2}_turnovers",
        never_again * 100.0
    )
}
