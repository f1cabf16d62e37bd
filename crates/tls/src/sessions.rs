//! The sessions that clients may resume: bounded in number and age.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::server::StoresServerSessions;

/// The most sessions, if the option sets no limit.
const COUNT_MAX: usize = 1 << 20;

/// A store for sessions. Clients know only the random names of theirs.
#[derive(Debug)]
pub struct Sessions {
    count_max: usize,
    lifetime: Duration,
    stored: Mutex<Stored>,
}

#[derive(Debug, Default)]
struct Stored {
    by_name: HashMap<Vec<u8>, Session>,
    /// The names in the order of their storing. Some may be gone.
    order: VecDeque<(Vec<u8>, u64)>,
    last_number: u64,
}

#[derive(Debug)]
struct Session {
    number: u64,
    ends: Instant,
    secrets: Vec<u8>,
}

impl Sessions {
    /// A store of at most `count_max` sessions, or of as many as are sensible if that is zero.
    pub fn new(count_max: usize, lifetime: Duration) -> Self {
        Self {
            count_max: match count_max {
                0 => COUNT_MAX,
                count_max => count_max.min(COUNT_MAX),
            },
            lifetime,
            stored: Mutex::default(),
        }
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    /// Removes the oldest name, and its session unless that was replaced.
    fn remove_oldest(&mut self) {
        if let Some((name, number)) = self.order.pop_front()
            && self
                .by_name
                .get(&name)
                .is_some_and(|session| session.number == number)
        {
            self.by_name.remove(&name);
        }
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, name: Vec<u8>, secrets: Vec<u8>) -> bool {
        let now = Instant::now();
        let stored = &mut *self.stored();
        while stored.order.len() >= self.count_max {
            stored.remove_oldest();
        }
        stored.last_number += 1;
        let number = stored.last_number;
        stored.order.push_back((name.clone(), number));
        stored.by_name.insert(
            name,
            Session {
                number,
                ends: now + self.lifetime,
                secrets,
            },
        );
        true
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        let stored = self.stored();
        let session = stored.by_name.get(name)?;
        (session.ends > Instant::now()).then(|| session.secrets.clone())
    }

    fn take(&self, name: &[u8]) -> Option<Vec<u8>> {
        let session = self.stored().by_name.remove(name)?;
        (session.ends > Instant::now()).then_some(session.secrets)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_sessions_make_way() {
        let sessions = Sessions::new(2, Duration::from_secs(60));
        for name in [b"a", b"b", b"b", b"c"] {
            sessions.put(name.to_vec(), name.to_vec());
        }
        assert_eq!(sessions.get(b"a"), None);
        assert_eq!(sessions.get(b"b"), Some(b"b".to_vec()));
        assert_eq!(sessions.take(b"c"), Some(b"c".to_vec()));
        assert_eq!(sessions.take(b"c"), None, "it was taken");
        for number in 0..100_u8 {
            sessions.put(vec![number], vec![number]);
        }
        let stored = sessions.stored();
        assert!(stored.by_name.len() <= 2 && stored.order.len() <= 2);
    }

    #[test]
    fn old_sessions_are_not_resumed() {
        let sessions = Sessions::new(0, Duration::ZERO);
        sessions.put(b"a".to_vec(), b"a".to_vec());
        assert_eq!(sessions.get(b"a"), None);
        assert_eq!(sessions.take(b"a"), None);
    }
}
