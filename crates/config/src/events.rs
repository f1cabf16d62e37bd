//! The value of `notify-keyspace-events`.

use super::kind::OptionError;

/// The letters of `notify-keyspace-events`, in the order and form in which Redis shows them.
pub(crate) fn events(letters: &str) -> Result<String, OptionError> {
    const ALL: &str = "g$lshzxetd";
    const SHOWN: &str = "g$lshzxetdnKEm";
    if letters.chars().any(|c| !"Ag$lshzxeKEtmdn".contains(c)) {
        return Err(OptionError::new(
            "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.",
        ));
    }
    let has = |c| letters.contains(c);
    let all = has('A') || ALL.chars().all(has);
    // `A` does not include `n` (new keys), but Redis does not show `n` next to `A`.
    let hidden = |c: char| all && (ALL.contains(c) || c == 'n');
    let mut shown = String::from(if all { "A" } else { "" });
    shown.extend(SHOWN.chars().filter(|c| has(*c) && !hidden(*c)));
    Ok(shown)
}
