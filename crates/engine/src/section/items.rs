//! Items: strings with what memcached's clients keep with them. A change of a string's value by any other command drops that.
//!
//! A CAS number exists only if a client has asked for it since the value changed. Each shard counts its own: the numbers of a key never
//! repeat, not even after the key was gone, or in a later process.

use damselfly_value::{Attributes, EntryRef, NewValue};

use crate::section::changes::USE_OF_ITEM;
use crate::section::tx::Tx;
use crate::shard::access;
use crate::{Deadline, Event, Key, Place};

impl Tx<'_> {
    /// Stores a value with attributes under a key, replacing any other, and notes the change. The new value counts as not used yet.
    #[inline]
    pub fn store_item(
        &mut self,
        key: Key<'_>,
        value: NewValue<'_>,
        attributes: Attributes,
        deadline: Deadline,
        event: Event,
    ) {
        self.store_with::<USE_OF_ITEM>(key, value, attributes, deadline, event);
    }

    /// Replaces the attributes of a string, without a change of its value.
    pub fn set_attributes(&mut self, key: Key<'_>, attributes: Attributes) {
        if let Place::Present(mut present) = self.place(key) {
            present.update(|entry| entry.set_attributes(attributes));
        }
    }

    /// A CAS number that no value of this key has ever had.
    pub fn next_cas(&mut self, key: Key<'_>) -> u64 {
        /// The first number is the time, so that it exceeds all numbers of an earlier process.
        const NUMBERS_PER_MS_LOG2: u32 = 20;
        let index = self.engine().shard_of(key.hash);
        let (first, step) = (
            (self.now().0.unsigned_abs() << NUMBERS_PER_MS_LOG2) | index as u64,
            self.engine().shards() as u64,
        );
        let last = &mut self.shard_of(key).last_cas;
        *last = match *last {
            0 => first,
            last => last.wrapping_add(step),
        };
        *last
    }

    /// The CAS number of the string at a key, which gets one if it has none; `None` if there is no entry.
    pub fn cas(&mut self, key: Key<'_>) -> Option<u64> {
        let attributes = self.peek(key)?.attributes();
        if attributes.cas.is_some() {
            return attributes.cas;
        }
        let cas = Some(self.next_cas(key));
        self.set_attributes(key, Attributes { cas, ..attributes });
        cas
    }

    /// Records a use of a key whose value is about to be replaced or changed.
    pub fn note_replacement(&mut self, key: Key<'_>) {
        let usage = self.usage(key);
        if let Some(entry) = self.peek(key) {
            usage.note_replaced(entry);
        }
    }

    /// Records a use of a key that does not return its value.
    pub fn note_unread(&mut self, key: Key<'_>) {
        let usage = self.usage(key);
        if let Some(entry) = self.peek(key) {
            usage.note_unread(entry);
        }
    }

    /// True if an entry was used since its value was stored.
    pub fn is_used(&self, entry: EntryRef<'_>) -> bool {
        access::is_used(self.engine().settings.access_policy(), entry.access())
    }

    /// How many seconds ago an entry was last used.
    pub fn unused_seconds(&self, entry: EntryRef<'_>) -> i64 {
        let policy = self.engine().settings.access_policy();
        access::unused_seconds(policy, entry.access(), self.now().0)
    }
}
