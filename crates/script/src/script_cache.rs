//! The scripts that EVALSHA finds by their SHA-1.
//!
//! Scripts of SCRIPT LOAD stay until SCRIPT FLUSH. Scripts of EVAL are cached too, but only the most recently used
//! ones: programs that embed values in their scripts would fill the memory.
//!
//! ```text
//!   ScriptCache: digest ──► CachedScript ◄── each thread records its uses here, and checks here whether
//!                                            the cache has dropped the script
//! ```
//!
//! So using a script takes no lock, and no thread uses a script that the cache has dropped. Uses are ordered by a clock
//! that advances by two with each added script; uses between two additions get the odd number.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::script::Script;

/// How many scripts of EVAL are cached, as in Redis 7.4.
const EVALUATED_MAX: usize = 500;

/// A script in the cache.
#[derive(Debug)]
pub struct CachedScript {
    script: Arc<Script>,
    clock: Arc<AtomicU64>,
    /// The clock's value at the last use.
    last_use: AtomicU64,
    is_forgotten: AtomicBool,
}

impl CachedScript {
    /// The script.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Whether the cache has dropped it: EVALSHA must not find it any more.
    #[inline]
    pub fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Acquire)
    }

    /// Records a use, which delays the eviction.
    #[inline]
    pub fn note_use(&self) {
        let now = self.clock.load(Relaxed) + 1;
        if self.last_use.load(Relaxed) < now {
            self.last_use.fetch_max(now, Relaxed);
        }
    }
}

#[derive(Debug)]
struct Entry {
    script: Arc<CachedScript>,
    /// It was added by SCRIPT LOAD, so it is never evicted.
    is_loaded: bool,
}

/// A use of a script: its time, the time when the script was added, and the digest. The script's last use may be later.
type Use = (u64, u64, [u8; 20]);

/// Scripts by digest.
#[derive(Debug, Default)]
pub struct ScriptCache {
    scripts: HashMap<[u8; 20], Entry>,
    /// One use of each script that may be evicted, and of some that SCRIPT LOAD has added since.
    uses: BinaryHeap<Reverse<Use>>,
    evaluated: usize,
    clock: Arc<AtomicU64>,
    body_bytes: usize,
    evicted: u64,
}

impl ScriptCache {
    /// The script with this digest. Counts as a use.
    pub fn get(&self, digest: &[u8; 20]) -> Option<Arc<CachedScript>> {
        let script = &self.scripts.get(digest)?.script;
        script.note_use();
        Some(script.clone())
    }

    /// Whether the cache has a script with this digest (SCRIPT EXISTS).
    pub fn contains(&self, digest: &[u8; 20]) -> bool {
        self.scripts.contains_key(digest)
    }

    /// Adds a script that EVAL ran, and evicts the least recently used scripts beyond the limit.
    pub fn insert_evaluated(&mut self, script: Arc<Script>) -> Arc<CachedScript> {
        if let Some(script) = self.get(script.digest()) {
            return script;
        }
        let digest = *script.digest();
        let (script, now) = self.insert(script, false);
        self.uses.push(Reverse((now, now, digest)));
        self.evaluated += 1;
        while self.evaluated > EVALUATED_MAX && self.evict() {}
        script
    }

    /// Adds a script that stays until [`ScriptCache::clear`] (SCRIPT LOAD).
    pub fn insert_loaded(&mut self, script: Arc<Script>) {
        if !self.mark_loaded(script.digest()) {
            self.insert(script, true);
        }
    }

    /// Makes a script of the cache stay until [`ScriptCache::clear`]; returns false if there is none with this digest.
    pub fn mark_loaded(&mut self, digest: &[u8; 20]) -> bool {
        let Some(entry) = self.scripts.get_mut(digest) else {
            return false;
        };
        self.evaluated -= usize::from(!std::mem::replace(&mut entry.is_loaded, true));
        true
    }

    /// Adds a script. Returns it with the time of the addition.
    fn insert(&mut self, script: Arc<Script>, is_loaded: bool) -> (Arc<CachedScript>, u64) {
        let now = self.clock.fetch_add(2, Relaxed) + 2;
        self.body_bytes += script.body().len();
        let digest = *script.digest();
        let script = Arc::new(CachedScript {
            script,
            clock: self.clock.clone(),
            last_use: AtomicU64::new(now),
            is_forgotten: AtomicBool::new(false),
        });
        let entry = Entry {
            script: script.clone(),
            is_loaded,
        };
        self.scripts.insert(digest, entry);
        (script, now)
    }

    /// Evicts the least recently used script; if several were last used at the same time, the one added first. Returns
    /// false if there is none.
    fn evict(&mut self) -> bool {
        while let Some(Reverse((time, number, digest))) = self.uses.pop() {
            let script = match self.scripts.get(&digest) {
                Some(entry) if !entry.is_loaded => &entry.script,
                Some(_) | None => continue,
            };
            let last_use = script.last_use.load(Relaxed);
            if last_use > time {
                self.uses.push(Reverse((last_use, number, digest)));
                continue;
            }
            script.is_forgotten.store(true, Release);
            self.body_bytes -= script.script.body().len();
            self.scripts.remove(&digest);
            self.evaluated -= 1;
            self.evicted += 1;
            return true;
        }
        false
    }

    /// Drops all scripts (SCRIPT FLUSH).
    pub fn clear(&mut self) {
        for entry in self.scripts.values() {
            entry.script.is_forgotten.store(true, Release);
        }
        *self = ScriptCache {
            clock: self.clock.clone(),
            evicted: self.evicted,
            ..ScriptCache::default()
        };
    }

    /// How many scripts there are.
    pub fn len(&self) -> usize {
        self.scripts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.scripts.is_empty()
    }

    /// Bytes of all texts.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// How many scripts of EVAL were evicted since the start or the last reset.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Resets [`ScriptCache::evicted`] to zero.
    pub fn reset_evicted(&mut self) {
        self.evicted = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(number: usize) -> Arc<Script> {
        Arc::new(Script::parse(format!("return {number}").as_bytes()).unwrap())
    }

    #[test]
    fn the_least_recently_used_evaluated_scripts_are_evicted() {
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
        assert_eq!(cache.uses.len(), EVALUATED_MAX);
        assert_eq!(cache.evicted(), (10_000 - EVALUATED_MAX) as u64);
        cache.reset_evicted();
        assert_eq!(cache.evicted(), 0);
    }

    #[test]
    fn a_use_recorded_outside_the_cache_counts_and_dropped_scripts_are_marked() {
        let mut cache = ScriptCache::default();
        let used = cache.insert_evaluated(script(0));
        let unused = cache.insert_evaluated(script(1));
        for number in 2..10_000 {
            cache.insert_evaluated(script(number));
            if number % (EVALUATED_MAX - 1) == 0 {
                used.note_use();
            }
            assert!(!used.is_forgotten(), "{number}");
        }
        assert!(unused.is_forgotten());
        assert!(cache.contains(used.script().digest()));
        // An evicted script that runs again gets a new entry.
        assert!(!cache.insert_evaluated(script(1)).is_forgotten());
        cache.clear();
        assert!(used.is_forgotten());
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
