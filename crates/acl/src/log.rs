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
    /// When it was refused last, in milliseconds since the epoch.
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
pub struct Log(VecDeque<Entry>);

impl Log {
    /// The most bytes of an object or a user name that are kept, so that clients without rights can't fill the memory.
    const TEXT_BYTES_MAX: usize = 1024;
    /// How many entries are compared with a new one.
    const COMPARED: usize = 10;

    /// Adds an entry, or counts it with an earlier one that it repeats. The oldest entries beyond `len_max` are dropped.
    pub fn add(&mut self, mut entry: Entry, len_max: usize) {
        entry.object.truncate(Self::TEXT_BYTES_MAX);
        entry.user.truncate(Self::TEXT_BYTES_MAX);
        let mut recent = self.0.iter().take(Self::COMPARED);
        if let Some(place) = recent.position(|known| known.repeats(&entry))
            && let Some(known) = self.0.remove(place)
        {
            entry.count += known.count;
            // A repetition drops no other entry, even if the limit is lower now.
            self.0.push_front(entry);
            return;
        }
        self.0.push_front(entry);
        self.0.truncate(len_max);
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The entries, newest first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.0.iter()
    }
}
