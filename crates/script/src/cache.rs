//! The texts that EVALSHA finds by their SHA-1.
//!
//! What SCRIPT LOAD brought stays until SCRIPT FLUSH. What EVAL brought is remembered too, but only the last
//! so many: programs that write values into their scripts would fill the memory.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::script::Script;

/// How many scripts of EVAL are remembered.
const EVALUATED_MAX: usize = 500;

/// Texts by digest.
#[derive(Debug, Default)]
pub struct ScriptCache {
    scripts: HashMap<[u8; 20], Entry>,
    /// Digests of entries that may be forgotten, in the order of their uses, with the time of the use:
    /// stale if the entry has a later one.
    uses: VecDeque<([u8; 20], u64)>,
    evaluated: usize,
    clock: u64,
    body_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    script: Arc<Script>,
    /// When it was last used; `None` if it stays.
    last_use: Option<u64>,
}

impl ScriptCache {
    /// The script with this digest. Counts as a use.
    pub fn get(&mut self, digest: &[u8; 20]) -> Option<Arc<Script>> {
        let entry = self.scripts.get_mut(digest)?;
        let script = Arc::clone(&entry.script);
        if entry.last_use.is_some() {
            self.clock += 1;
            entry.last_use = Some(self.clock);
            self.uses.push_back((*digest, self.clock));
            self.forget_stale_uses();
        }
        Some(script)
    }

    /// Whether there is a script with this digest (SCRIPT EXISTS).
    pub fn contains(&self, digest: &[u8; 20]) -> bool {
        self.scripts.contains_key(digest)
    }

    /// Remembers a script that EVAL ran, and forgets those that were used longest ago beyond the limit.
    pub fn insert_evaluated(&mut self, script: Arc<Script>) {
        let digest = *script.digest();
        if self.get(&digest).is_some() {
            return;
        }
        self.clock += 1;
        self.body_bytes += script.body().len();
        let entry = Entry {
            script,
            last_use: Some(self.clock),
        };
        self.scripts.insert(digest, entry);
        self.uses.push_back((digest, self.clock));
        self.evaluated += 1;
        while self.evaluated > EVALUATED_MAX {
            let Some((digest, time)) = self.uses.pop_front() else {
                return;
            };
            let is_last = |entry: &Entry| entry.last_use == Some(time);
            if self.scripts.get(&digest).is_some_and(is_last)
                && let Some(entry) = self.scripts.remove(&digest)
            {
                self.body_bytes -= entry.script.body().len();
                self.evaluated -= 1;
            }
        }
    }

    /// Keeps a script until [`ScriptCache::clear`] (SCRIPT LOAD).
    pub fn insert_loaded(&mut self, script: Arc<Script>) {
        let bytes = script.body().len();
        let entry = self.scripts.entry(*script.digest()).or_insert_with(|| {
            self.body_bytes += bytes;
            Entry {
                script,
                last_use: None,
            }
        });
        if entry.last_use.take().is_some() {
            self.evaluated -= 1;
        }
    }

    /// Forgets all scripts (SCRIPT FLUSH).
    pub fn clear(&mut self) {
        *self = ScriptCache::default();
    }

    /// How many scripts there are.
    pub fn len(&self) -> usize {
        self.scripts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.scripts.is_empty()
    }

    /// Bytes of all texts.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// Keeps the list of uses at most a few times as long as the scripts it is about.
    fn forget_stale_uses(&mut self) {
        if self.uses.len() > 4 * EVALUATED_MAX {
            let scripts = &self.scripts;
            self.uses.retain(|(digest, time)| {
                scripts
                    .get(digest)
                    .is_some_and(|entry| entry.last_use == Some(*time))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(number: usize) -> Arc<Script> {
        Arc::new(Script::parse(format!("return {number}").as_bytes()).unwrap())
    }

    #[test]
    fn evaluated_scripts_are_bounded_and_the_unused_go_first() {
        let mut cache = ScriptCache::default();
        let first = script(0);
        cache.insert_evaluated(Arc::clone(&first));
        for number in 1..10_000 {
            cache.insert_evaluated(script(number));
            assert!(cache.get(first.digest()).is_some(), "{number}");
        }
        assert_eq!(cache.len(), EVALUATED_MAX);
        assert!(!cache.contains(script(1).digest()));
        assert!(cache.contains(script(9_999).digest()));
        assert!(cache.uses.len() <= 4 * EVALUATED_MAX + 1);
    }

    #[test]
    fn loaded_scripts_stay() {
        let mut cache = ScriptCache::default();
        cache.insert_evaluated(script(0));
        cache.insert_loaded(script(0));
        cache.insert_loaded(script(1));
        for number in 2..2_000 {
            cache.insert_evaluated(script(number));
        }
        assert!(cache.contains(script(0).digest()));
        assert!(cache.contains(script(1).digest()));
        assert_eq!(cache.len(), EVALUATED_MAX + 2);
        cache.clear();
        assert!(cache.is_empty());
        assert_eq!(cache.body_bytes(), 0);
    }
}
