//! The subscribers to one name on one thread.

use std::collections::BTreeMap;

/// Up to this many are in an array. More are in a tree, so that removing many of them one by one takes no quadratic time.
const FEW_MAX: usize = 32;

/// Subscribers: the places of their connections, each with the number of the first message in the thread's inbox after it
/// subscribed.
pub enum Receivers {
    /// Unordered.
    Few(Vec<(usize, u64)>),
    /// By place.
    Many(BTreeMap<usize, u64>),
}

impl Default for Receivers {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Receivers {
    /// Adds a subscriber that is not there yet.
    pub fn add(&mut self, place: usize, since: u64) {
        match self {
            Self::Few(few) if few.len() < FEW_MAX => {
                if few.is_empty() {
                    few.reserve_exact(1);
                }
                few.push((place, since));
            }
            Self::Few(few) => {
                let mut many: BTreeMap<_, _> = few.drain(..).collect();
                many.insert(place, since);
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                many.insert(place, since);
            }
        }
    }

    /// True if this is a subscriber.
    pub fn contains(&self, place: usize) -> bool {
        match self {
            Self::Few(few) => few.iter().any(|&(other, _)| other == place),
            Self::Many(many) => many.contains_key(&place),
        }
    }

    /// Removes a subscriber.
    pub fn remove(&mut self, place: usize) {
        match self {
            Self::Few(few) => few.retain(|&(other, _)| other != place),
            Self::Many(many) => {
                many.remove(&place);
            }
        }
    }

    /// True if there are no subscribers.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    /// Calls `deliver_to` with the place of each subscriber that had subscribed before the message with this number arrived.
    pub fn for_each(&self, number: u64, mut deliver_to: impl FnMut(usize)) {
        let mut deliver_if_older = |place, since| {
            if since <= number {
                deliver_to(place);
            }
        };
        match self {
            Self::Few(few) => few
                .iter()
                .for_each(|&(place, since)| deliver_if_older(place, since)),
            Self::Many(many) => many
                .iter()
                .for_each(|(&place, &since)| deliver_if_older(place, since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_array_and_the_tree_behave_alike() {
        let mut receivers = Receivers::default();
        for place in 0..3 * FEW_MAX {
            receivers.add(place, place as u64);
            receivers.remove(place.wrapping_sub(FEW_MAX));
        }
        let mut seen = Vec::new();
        receivers.for_each(u64::MAX, |place| seen.push(place));
        seen.sort_unstable();
        assert_eq!(seen, (2 * FEW_MAX..3 * FEW_MAX).collect::<Vec<_>>());
        receivers.for_each(2 * FEW_MAX as u64 - 1, |place| panic!("{place} came later"));
        seen.iter().for_each(|&place| receivers.remove(place));
        assert!(receivers.is_empty());
    }
}
