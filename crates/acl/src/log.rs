//! The log of refused requests and logins (ACL LOG).

use std::collections::VecDeque;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its command.
    Command,
    /// One of its keys.
    Key,
    /// One of its channels.
    Channel,
    /// The password or the user is wrong.
    Login,
}

impl Reason {
    /// The word that ACL LOG shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Key => "key",
            Self::Channel => "channel",
            Self::Login => "auth",
        }
    }
}

/// Where a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// It came from a client.
    TopLevel,
    /// It was queued, or about to run, in a transaction.
    Multi,
    /// A script called it.
    Lua,
}

impl Context {
    /// The word that ACL LOG shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::TopLevel => "toplevel",
            Self::Multi => "multi",
            Self::Lua => "lua",
        }
    }
}

/// Something that was refused, once or more often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How often.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// Where.
    pub context: Context,
    /// The command, key or channel; of a login, the name of the command as the client wrote it.
    pub object: Vec<u8>,
    /// The name of the user.
    pub user: Vec<u8>,
    /// The number of the entry, counted from the start of the server.
    pub id: u64,
    /// When it was refused first, in milliseconds since the epoch.
    pub created_ms: i64,
    /// When it was refused last, likewise.
    pub at_ms: i64,
    /// The client, in the form of CLIENT INFO.
    pub client: String,
}

impl Entry {
    /// True if this happened within a minute of `other`, and is otherwise the same.
    fn repeats(&self, other: &Self) -> bool {
        const GROUPED_MS: u64 = 60_000;
        self.reason == other.reason
            && self.context == other.context
            && self.at_ms.abs_diff(other.at_ms) <= GROUPED_MS
            && self.object == other.object
            && self.user == other.user
    }
}

/// The log, newest first.
#[derive(Debug, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    next_id: u64,
}

/// A refusal that is not in the log yet.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// Where.
    pub context: Context,
    /// See [`Entry::object`].
    pub object: Vec<u8>,
    /// See [`Entry::user`].
    pub user: Vec<u8>,
    /// See [`Entry::client`].
    pub client: String,
}

impl Log {
    /// The most bytes of an object or a user name that are kept, so that clients without rights can't fill the memory.
    const TEXT_BYTES_MAX: usize = 1024;
    /// How many entries are compared with a new one.
    const COMPARED: usize = 10;

    /// Adds an entry for what was refused at `now_ms`, or counts it with an earlier one that it repeats. The oldest entries beyond `len_max`
    /// are dropped.
    pub fn add(&mut self, refused: Refused, now_ms: i64, len_max: usize) {
        let mut entry = Entry {
            count: 1,
            reason: refused.reason,
            context: refused.context,
            object: refused.object,
            user: refused.user,
            id: self.next_id,
            created_ms: now_ms,
            at_ms: now_ms,
            client: refused.client,
        };
        entry.object.truncate(Self::TEXT_BYTES_MAX);
        entry.user.truncate(Self::TEXT_BYTES_MAX);
        let mut recent = self.entries.iter().take(Self::COMPARED);
        if let Some(place) = recent.position(|known| known.repeats(&entry))
            && let Some(known) = self.entries.remove(place)
        {
            entry.count += known.count;
            (entry.id, entry.created_ms) = (known.id, known.created_ms);
            // As in Redis, a repetition drops no other entry, even if the limit is lower now.
            self.entries.push_front(entry);
            return;
        }
        self.next_id += 1;
        self.entries.push_front(entry);
        self.entries.truncate(len_max);
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The entries, newest first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(object: &str) -> Refused {
        Refused {
            reason: Reason::Key,
            context: Context::TopLevel,
            object: object.into(),
            user: b"user".to_vec(),
            client: String::new(),
        }
    }

    #[test]
    fn repetitions_within_a_minute_are_counted_together() {
        let mut log = Log::default();
        for (object, now_ms) in [("a", 0), ("b", 1), ("a", 60_000), ("a", 120_001)] {
            log.add(refused(object), now_ms, 10);
        }
        let seen: Vec<_> = log
            .entries()
            .map(|entry| (entry.object[0], entry.count, entry.id, entry.created_ms))
            .collect();
        assert_eq!(
            seen,
            [(b'a', 1, 2, 120_001), (b'a', 2, 0, 0), (b'b', 1, 1, 1)]
        );
    }

    #[test]
    fn the_oldest_entries_and_the_ends_of_long_texts_are_dropped() {
        let mut log = Log::default();
        let long = "x".repeat(1 << 20);
        for object in ["a", "b", &long] {
            log.add(refused(object), 0, 2);
        }
        let lens: Vec<_> = log.entries().map(|entry| entry.object.len()).collect();
        assert_eq!(lens, [Log::TEXT_BYTES_MAX, 1]);
        log.clear();
        assert_eq!(log.entries().len(), 0);
    }
}
