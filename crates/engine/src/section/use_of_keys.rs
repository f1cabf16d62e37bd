//! How a section records its uses of keys, for eviction.

use damselfly_base::random;
use damselfly_eviction::{ShardState, Use};

use crate::section::tx::Tx;
use crate::shard::Shard;
use crate::shard::access::Usage;
use crate::{AccessPolicy, Key};

impl<'a> Tx<'a> {
    /// How this section records that it uses an entry of a key.
    #[inline]
    pub(crate) fn usage(&mut self, key: Key<'_>) -> Usage<'a> {
        let policy = self.engine().settings.access_policy();
        let learned = match policy {
            AccessPolicy::Recency | AccessPolicy::Frequency { .. } => None,
            AccessPolicy::Learned => Some(self.learned_use(key)),
        };
        Usage {
            policy,
            now: self.now(),
            touches: self.touches,
            learned,
        }
    }

    /// As [`Tx::usage`], if the section may create the entry.
    #[inline]
    pub(crate) fn usage_to_store(&mut self, key: Key<'_>) -> Usage<'a> {
        let policy = self.engine().settings.access_policy();
        let learned = match policy {
            AccessPolicy::Recency | AccessPolicy::Frequency { .. } => None,
            AccessPolicy::Learned => Some(self.learned_store(key)),
        };
        Usage {
            policy,
            now: self.now(),
            touches: self.touches,
            learned,
        }
    }

    #[inline(never)]
    fn learned_use(&mut self, key: Key<'_>) -> Use<'a> {
        let engine = self.engine();
        let learned = &mut self.shard_of(key).learned;
        let state = learned.get_or_insert_default();
        state.note_use(&engine.model, random_bits())
    }

    #[inline(never)]
    fn learned_store(&mut self, key: Key<'_>) -> Use<'a> {
        let (engine, db) = (self.engine(), self.db());
        let Shard {
            databases, learned, ..
        } = self.shard_of(key);
        let state: &mut ShardState = learned.get_or_insert_default();
        let entries = databases[db].len() + 1;
        state.note_store(&engine.model, key.hash, entries, random_bits())
    }
}

fn random_bits() -> u32 {
    (random::number() >> 32) as u32
}
