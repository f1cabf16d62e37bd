//! DEBUG DIGEST: the same digest as Redis's for the same data.

use damselfly_base::double::DoubleText;
use damselfly_base::sha1;
use damselfly_commands::{Args, Result};
use damselfly_engine::{Cursor, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{EntryRef, Side, StreamId, Text, Type, Value};

/// A digest under construction.
///
/// The digest of all data is the XOR of the digests of the keys, so their order does not matter.
#[derive(Default)]
pub struct Digest([u8; 20]);

impl Digest {
    /// Adds bytes; the order of additions does not matter.
    pub fn add(&mut self, bytes: &[u8]) {
        for (own, other) in self.0.iter_mut().zip(sha1::sha1(bytes)) {
            *own ^= other;
        }
    }

    /// Adds another digest; the order of additions does not matter.
    pub fn add_digest(&mut self, other: &Self) {
        self.add(&other.0);
    }

    /// Adds bytes so that the result depends on everything added before them.
    pub fn mix(&mut self, bytes: &[u8]) {
        self.add(bytes);
        self.0 = sha1::sha1(&self.0);
    }

    /// Adds the value of an entry, and whether it has a deadline.
    pub fn add_value(&mut self, entry: EntryRef<'_>) {
        self.mix(&redis_number(entry.type_of()).to_be_bytes());
        match entry.value() {
            Value::Text(Text::Integer(number)) => self.mix(number.to_string().as_bytes()),
            Value::Text(Text::Bytes { bytes, .. }) => self.mix(bytes),
            Value::Text(Text::Packed(packed)) => self.mix(&packed.to_vec()),
            Value::Hash(hash) => hash.for_each(|pair| {
                let mut field = Self::default();
                field.mix(&pair.field.to_vec());
                field.mix(&pair.value.to_vec());
                self.add_digest(&field);
            }),
            Value::List(list) => {
                let mut walk = list.walk(0, Side::Left);
                while let Some(element) = walk.step() {
                    self.mix(&element.to_vec());
                }
            }
            Value::Set(set) => set.for_each(|member| self.add(&member.to_vec())),
            Value::SortedSet(set) => set.iter().for_each(|scored| {
                let mut member = Self::default();
                member.mix(&scored.member.to_vec());
                member.mix(DoubleText::new(scored.score).as_bytes());
                self.add_digest(&member);
            }),
            Value::Stream(stream) => {
                for entry in stream.walk(StreamId::MIN, StreamId::MAX) {
                    self.mix(format!("{}.{}", entry.id.ms, entry.id.seq).as_bytes());
                    for (name, value) in entry.pairs() {
                        self.mix(&name.to_vec());
                        self.mix(&value.to_vec());
                    }
                }
            }
        }
        if entry.has_deadline() {
            self.add(b"!!expire!!");
        }
    }

    /// As hexadecimal digits.
    pub fn hex(&self) -> String {
        sha1::hex(&self.0)
    }
}

/// DEBUG DIGEST. It locks one shard at a time, for some ten microseconds, unless all are locked already.
pub fn digest_shards(tx: &mut Tx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (engine, mut all) = (tx.engine(), Digest::default());
    for db in 0..engine.databases() {
        let mut has_keys = false;
        for shard in 0..engine.shards() {
            has_keys |= tx.with_shard(shard, |tx| !tx.databases(shard)[db].is_empty())?;
        }
        if has_keys {
            all.mix(&(db as u32).to_be_bytes());
            digest_database(tx, db, &mut all)?;
        }
    }
    reply.simple(&all.hex());
    Ok(())
}

fn digest_database(tx: &mut Tx<'_>, db: usize, all: &mut Digest) -> Result {
    const ENTRIES_PER_LOCK: usize = 256;
    let (mut cursor, mut entries) = (Cursor(0), Vec::new());
    loop {
        // A copy takes a tenth of the time of a digest, and large collections are shared.
        cursor = tx.scan(db, cursor, ENTRIES_PER_LOCK, |entry| {
            entries.push(entry.to_entry(entry.key()));
        })?;
        for entry in entries.drain(..) {
            let mut one = Digest::default();
            one.mix(entry.view().key());
            one.add_value(entry.view());
            all.add_digest(&one);
        }
        if cursor == Cursor(0) {
            return Ok(());
        }
    }
}

/// Redis's number for a type.
fn redis_number(of: Type) -> u32 {
    match of {
        Type::String => 0,
        Type::List => 1,
        Type::Set => 2,
        Type::SortedSet => 3,
        Type::Hash => 4,
        Type::Stream => 6,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use damselfly_commands::{OwnedArgs, Stop};
    use damselfly_engine::{Busy, Deadline, Engine, Key, Layout, Now, Patience};
    use damselfly_protocol::Version;
    use damselfly_value::NewValue;

    use super::*;

    /// Counts the locks that are asked for, and stops the server before number `last`.
    struct Stopping {
        asked: Cell<usize>,
        last: usize,
    }

    impl Patience for Stopping {
        fn wait(&self, _: Busy) -> bool {
            unreachable!("nothing else takes locks")
        }

        fn is_over(&self) -> bool {
            self.asked.set(self.asked.get() + 1);
            self.asked.get() > self.last
        }
    }

    /// How many locks a digest asks for if the server stops before lock number `last`, and whether it is computed.
    fn locks(engine: &Engine, last: usize) -> (usize, bool) {
        let stopping = Stopping {
            asked: Cell::new(0),
            last,
        };
        let (mut output, no_args) = (Vec::new(), OwnedArgs::copy(std::iter::empty()));
        let mut tx = engine.lock_none_patiently(0, Now(0), &stopping);
        let mut reply = Reply::new(&mut output, Version::Resp2);
        match digest_shards(&mut tx, no_args.borrow(), &mut reply) {
            Ok(()) => (stopping.asked.get(), true),
            Err(Stop::Busy(_)) => (stopping.asked.get(), false),
            Err(stop) => panic!("{stop:?}"),
        }
    }

    /// The bug: SIGTERM waited for the end of DEBUG DIGEST, ten seconds with five million keys. The cause: it looked at nothing else
    /// meanwhile. The fix: it locks a few entries at a time, and does not take the next lock once the server is stopping.
    #[test]
    fn a_digest_ends_at_its_next_lock_once_the_server_is_stopping() {
        let engine = Engine::new(Layout {
            shards: 4,
            databases: 1,
        });
        for number in 0..10_000 {
            let key = format!("key:{number}");
            let key = Key::new(key.as_bytes());
            let mut tx = engine.lock_one(key.hash, 0, Now(0)).unwrap();
            tx.store(key, NewValue::compact(b"v"), Deadline::Clear);
        }
        let (all, is_computed) = locks(&engine, usize::MAX);
        assert!(is_computed);
        assert!(all >= 30, "{all} locks are too few to stop in between");
        for last in 0..all {
            let (asked, is_computed) = locks(&engine, last);
            assert!(!is_computed);
            // A scan that has found some entries returns these first.
            assert!(asked <= last + 2, "{asked} instead of {last}");
        }
    }
}
