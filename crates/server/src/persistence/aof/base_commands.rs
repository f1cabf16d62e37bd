//! A base of the append-only file as commands, for `aof-use-rdb-preamble no`: each key as what creates it.

use damselfly_base::double::DoubleText;
use damselfly_protocol::client::write_command;
use damselfly_value::{EntryRef, Side, Stream, StreamId, Text, Value};

use crate::memcached::attributes_message;

/// How many elements one command adds at most, as in Redis.
const ELEMENTS_MAX: usize = 64;

/// A text is handed over when it is as long as this.
const SLICE_BYTES: usize = 256 << 10;

/// Receives a part of the commands. They need not be next to each other in the file, but must follow a SELECT.
pub type Output<'a, E> = &'a mut dyn FnMut(&mut Vec<u8>) -> Result<(), E>;

/// Writes the commands that create an entry.
///
/// # Errors
/// Those of `output`.
pub fn write_entry<E>(entry: EntryRef<'_>, output: Output<'_, E>) -> Result<(), E> {
    let mut commands = Commands {
        key: entry.key(),
        out: Vec::new(),
        output,
        failed: None,
    };
    match entry.value() {
        Value::Text(text) => commands.text(text, entry),
        Value::Hash(hash) => {
            let mut all = Vec::new();
            let mut deadlines = Vec::new();
            hash.for_each(|pair| {
                let field = pair.field.to_vec();
                deadlines.extend(pair.deadline_ms.map(|moment| (field.clone(), moment)));
                all.extend([field, pair.value.to_vec()]);
                commands.add_when_full(b"HMSET", &mut all, 2);
            });
            commands.add(b"HMSET", &mut all);
            for (field, moment) in deadlines {
                let moment = moment.to_string();
                let key = commands.key;
                let words: [&[u8]; 6] = [
                    b"HPEXPIREAT",
                    key,
                    moment.as_bytes(),
                    b"FIELDS",
                    b"1",
                    &field,
                ];
                commands.command(&words);
            }
        }
        Value::List(list) => {
            let (mut walk, mut all) = (list.walk(0, Side::Left), Vec::new());
            while let Some(element) = walk.step() {
                all.push(element.to_vec());
                commands.add_when_full(b"RPUSH", &mut all, 1);
            }
            commands.add(b"RPUSH", &mut all);
        }
        Value::Set(set) => {
            let mut all = Vec::new();
            set.for_each(|member| {
                all.push(member.to_vec());
                commands.add_when_full(b"SADD", &mut all, 1);
            });
            commands.add(b"SADD", &mut all);
        }
        Value::SortedSet(set) => {
            let mut all = Vec::new();
            for scored in set.iter() {
                let score = DoubleText::new(scored.score);
                all.extend([score.as_bytes().to_vec(), scored.member.to_vec()]);
                commands.add_when_full(b"ZADD", &mut all, 2);
            }
            commands.add(b"ZADD", &mut all);
        }
        Value::Stream(stream) => commands.stream(stream),
    }
    let is_text = matches!(entry.value(), Value::Text(_));
    if let Some(moment) = entry.deadline_ms().filter(|_| !is_text) {
        let key = commands.key;
        commands.command(&[b"PEXPIREAT", key, moment.to_string().as_bytes()]);
    }
    commands.end()
}

struct Commands<'a, E> {
    key: &'a [u8],
    out: Vec<u8>,
    output: Output<'a, E>,
    failed: Option<E>,
}

impl<E> Commands<'_, E> {
    fn command(&mut self, words: &[&[u8]]) {
        write_command(&mut self.out, words);
        if self.out.len() >= SLICE_BYTES {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if self.failed.is_none() && !self.out.is_empty() {
            self.failed = (self.output)(&mut self.out).err();
        }
        self.out.clear();
    }

    fn end(mut self) -> Result<(), E> {
        self.hand_over();
        self.failed.map_or(Ok(()), Err)
    }

    /// Adds these words to the key, if there are any.
    fn add(&mut self, name: &[u8], words: &mut Vec<Vec<u8>>) {
        if !words.is_empty() {
            let mut all = vec![name, self.key];
            all.extend(words.iter().map(Vec::as_slice));
            self.command(&all);
            words.clear();
        }
    }

    fn add_when_full(&mut self, name: &[u8], words: &mut Vec<Vec<u8>>, words_per_element: usize) {
        if words.len() >= ELEMENTS_MAX * words_per_element {
            self.add(name, words);
        }
    }

    fn text(&mut self, text: Text<'_>, entry: EntryRef<'_>) {
        let (number, unpacked);
        let value = match text {
            Text::Integer(integer) => {
                number = integer.to_string();
                number.as_bytes()
            }
            Text::Bytes { bytes, .. } => bytes,
            Text::Packed(packed) => {
                unpacked = packed.to_vec();
                &unpacked
            }
        };
        let key = self.key;
        match entry.deadline_ms() {
            None => self.command(&[b"SET", key, value]),
            Some(moment) => {
                self.command(&[b"SET", key, value, b"PXAT", moment.to_string().as_bytes()]);
            }
        }
        if let Some(message) = attributes_message(entry.attributes(), key) {
            self.command(&[b"ECHO", &message]);
        }
    }

    fn stream(&mut self, stream: &Stream) {
        let key = self.key;
        for entry in stream.walk(StreamId::MIN, StreamId::MAX) {
            let id = entry.id.to_string();
            let mut words = vec![id.into_bytes()];
            for (name, value) in entry.pairs() {
                words.extend([name.to_vec(), value.to_vec()]);
            }
            self.add(b"XADD", &mut words);
        }
        if stream.is_empty() {
            // An empty stream can't be created otherwise.
            self.command(&[b"XADD", key, b"MAXLEN", b"0", b"0-1", b"x", b"y"]);
        }
        let (last, deleted) = (stream.last_id(), stream.deleted_max());
        let (last, deleted, added) = (
            last.to_string(),
            deleted.to_string(),
            stream.added().to_string(),
        );
        self.command(&[
            b"XSETID",
            key,
            last.as_bytes(),
            b"ENTRIESADDED",
            added.as_bytes(),
            b"MAXDELETEDID",
            deleted.as_bytes(),
        ]);
        for (name, group) in stream.groups() {
            let last = group.last_id.to_string();
            let read = group.entries_read.and_then(|read| i64::try_from(read).ok());
            let read = read.unwrap_or(-1).to_string();
            self.command(&[
                b"XGROUP",
                b"CREATE",
                key,
                name,
                last.as_bytes(),
                b"ENTRIESREAD",
                read.as_bytes(),
            ]);
            for (_, consumer) in group.consumers() {
                self.command(&[b"XGROUP", b"CREATECONSUMER", key, name, consumer.name()]);
            }
            for (id, pending) in group.pending() {
                self.command(&[
                    b"XCLAIM",
                    key,
                    name,
                    group.consumer(pending.consumer).name(),
                    b"0",
                    id.to_string().as_bytes(),
                    b"TIME",
                    pending.delivered_ms.to_string().as_bytes(),
                    b"RETRYCOUNT",
                    pending.deliveries.to_string().as_bytes(),
                    b"JUSTID",
                    b"FORCE",
                ]);
            }
        }
    }
}
