//! Keyspace notifications: the kinds of events, and which of them are wanted.
//!
//! ```text
//!   a command ─► Tx::changed(key, event) ─► pending in the section ─► EventSink, in order, before the locks are released
//!   an expired key ─► the same
//! ```
//!
//! - An event is raised where the change is made, under the lock of the key's shard, and published before that lock is
//!   released: the events of a key come in the order of its changes, whichever threads make them.
//! - While no events are wanted, raising one costs nothing: whether a shard is observed is checked in any case, for waiters and
//!   watchers. While some are wanted, they count as an observer of every shard.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A kind of events, by its letter in `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Class {
    /// `g`: commands on keys of any type.
    Generic,
    /// `$`
    String,
    /// `l`
    List,
    /// `s`
    Set,
    /// `h`
    Hash,
    /// `z`
    SortedSet,
    /// `x`: a key expired.
    Expired,
    /// `e`: a key was removed to free memory.
    Evicted,
    /// `t`
    Stream,
    /// `d`: commands on types that modules define.
    Module,
    /// `m`: a command asked for an absent key.
    Miss,
    /// `n`: a key was created.
    New,
}

impl Class {
    const ALL: [Self; 12] = [
        Self::Generic,
        Self::String,
        Self::List,
        Self::Set,
        Self::Hash,
        Self::SortedSet,
        Self::Expired,
        Self::Evicted,
        Self::Stream,
        Self::Module,
        Self::Miss,
        Self::New,
    ];

    fn letter(self) -> char {
        match self {
            Self::Generic => 'g',
            Self::String => '$',
            Self::List => 'l',
            Self::Set => 's',
            Self::Hash => 'h',
            Self::SortedSet => 'z',
            Self::Expired => 'x',
            Self::Evicted => 'e',
            Self::Stream => 't',
            Self::Module => 'd',
            Self::Miss => 'm',
            Self::New => 'n',
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }

    /// True if `A` includes the class.
    fn is_in_all(self) -> bool {
        !matches!(self, Self::Miss | Self::New)
    }
}

/// Which events are published, and on which channels: `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventMask(u32);

impl EventMask {
    const KEYSPACE: u32 = 1 << 30;
    const KEYEVENT: u32 = 1 << 31;
    const CHANNELS: u32 = Self::KEYSPACE | Self::KEYEVENT;

    /// The mask that the letters of the option describe; unknown letters are ignored.
    pub fn from_letters(letters: &str) -> Self {
        let mut bits = 0;
        for letter in letters.chars() {
            let is_meant =
                |class: &Class| class.letter() == letter || letter == 'A' && class.is_in_all();
            let classes = Class::ALL.into_iter().filter(is_meant);
            bits |= classes.map(Class::bit).sum::<u32>();
            bits |= match letter {
                'K' => Self::KEYSPACE,
                'E' => Self::KEYEVENT,
                _ => 0,
            };
        }
        let is_any = bits & Self::CHANNELS != 0 && bits & !Self::CHANNELS != 0;
        Self(if is_any { bits } else { 0 })
    }

    /// True if events go to the channels that are named after their keys: `K`.
    pub fn by_key(self) -> bool {
        self.0 & Self::KEYSPACE != 0
    }

    /// True if events go to the channels that are named after them: `E`.
    pub fn by_event(self) -> bool {
        self.0 & Self::KEYEVENT != 0
    }

    pub(crate) fn has(self, class: Class) -> bool {
        self.0 & class.bit() != 0
    }

    /// True if any event is published.
    pub(crate) fn is_any(self) -> bool {
        self.0 != 0
    }
}

/// An [`EventMask`] that all threads share.
#[derive(Debug, Default)]
pub(crate) struct AtomicEventMask(AtomicU32);

impl AtomicEventMask {
    pub(crate) fn load(&self) -> EventMask {
        EventMask(self.0.load(Relaxed))
    }

    pub(crate) fn swap(&self, wanted: EventMask) -> EventMask {
        EventMask(self.0.swap(wanted.0, Relaxed))
    }
}

/// A kind of event on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as Redis names it: see `facts`")]
pub enum Event {
    Append,
    CopyTo,
    Del,
    Evicted,
    Expire,
    Expired,
    Georadiusstore,
    Geosearchstore,
    Hdel,
    Hexpire,
    Hexpired,
    Hincrby,
    Hincrbyfloat,
    Hpersist,
    Hset,
    Incrby,
    Incrbyfloat,
    Keymiss,
    Linsert,
    Lpop,
    Lpush,
    Lrem,
    Lset,
    Ltrim,
    MoveFrom,
    MoveTo,
    New,
    Persist,
    Pfadd,
    Prepend,
    RenameFrom,
    RenameTo,
    Restore,
    Rpop,
    Rpush,
    Sadd,
    Sdiffstore,
    Set,
    Setbit,
    Setrange,
    Sinterstore,
    Sortstore,
    Spop,
    Srem,
    Sunionstore,
    Xadd,
    Xdel,
    XgroupCreate,
    XgroupCreateconsumer,
    XgroupDelconsumer,
    XgroupDestroy,
    XgroupSetid,
    Xsetid,
    Xtrim,
    Zadd,
    Zdiffstore,
    Zincr,
    Zinterstore,
    Zpopmax,
    Zpopmin,
    Zrangestore,
    Zrem,
    Zremrangebylex,
    Zremrangebyrank,
    Zremrangebyscore,
    Zunionstore,
}

impl Event {
    /// Class and name.
    #[rustfmt::skip]
    fn facts(self) -> (Class, &'static str) {
        match self {
            Self::CopyTo => (Class::Generic, "copy_to"),
            Self::Del => (Class::Generic, "del"),
            Self::Expire => (Class::Generic, "expire"),
            Self::MoveFrom => (Class::Generic, "move_from"),
            Self::MoveTo => (Class::Generic, "move_to"),
            Self::Persist => (Class::Generic, "persist"),
            Self::RenameFrom => (Class::Generic, "rename_from"),
            Self::RenameTo => (Class::Generic, "rename_to"),
            Self::Restore => (Class::Generic, "restore"),
            Self::Expired => (Class::Expired, "expired"),
            Self::Evicted => (Class::Evicted, "evicted"),
            Self::Keymiss => (Class::Miss, "keymiss"),
            Self::New => (Class::New, "new"),
            Self::Append => (Class::String, "append"),
            Self::Incrby => (Class::String, "incrby"),
            Self::Incrbyfloat => (Class::String, "incrbyfloat"),
            Self::Pfadd => (Class::String, "pfadd"),
            Self::Prepend => (Class::String, "prepend"),
            Self::Set => (Class::String, "set"),
            Self::Setbit => (Class::String, "setbit"),
            Self::Setrange => (Class::String, "setrange"),
            Self::Linsert => (Class::List, "linsert"),
            Self::Lpop => (Class::List, "lpop"),
            Self::Lpush => (Class::List, "lpush"),
            Self::Lrem => (Class::List, "lrem"),
            Self::Lset => (Class::List, "lset"),
            Self::Ltrim => (Class::List, "ltrim"),
            Self::Rpop => (Class::List, "rpop"),
            Self::Rpush => (Class::List, "rpush"),
            Self::Sortstore => (Class::List, "sortstore"),
            Self::Sadd => (Class::Set, "sadd"),
            Self::Sdiffstore => (Class::Set, "sdiffstore"),
            Self::Sinterstore => (Class::Set, "sinterstore"),
            Self::Spop => (Class::Set, "spop"),
            Self::Srem => (Class::Set, "srem"),
            Self::Sunionstore => (Class::Set, "sunionstore"),
            Self::Hdel => (Class::Hash, "hdel"),
            Self::Hexpire => (Class::Hash, "hexpire"),
            Self::Hexpired => (Class::Hash, "hexpired"),
            Self::Hincrby => (Class::Hash, "hincrby"),
            Self::Hincrbyfloat => (Class::Hash, "hincrbyfloat"),
            Self::Hpersist => (Class::Hash, "hpersist"),
            Self::Hset => (Class::Hash, "hset"),
            Self::Xadd => (Class::Stream, "xadd"),
            Self::Xdel => (Class::Stream, "xdel"),
            Self::XgroupCreate => (Class::Stream, "xgroup-create"),
            Self::XgroupCreateconsumer => (Class::Stream, "xgroup-createconsumer"),
            Self::XgroupDelconsumer => (Class::Stream, "xgroup-delconsumer"),
            Self::XgroupDestroy => (Class::Stream, "xgroup-destroy"),
            Self::XgroupSetid => (Class::Stream, "xgroup-setid"),
            Self::Xsetid => (Class::Stream, "xsetid"),
            Self::Xtrim => (Class::Stream, "xtrim"),
            Self::Georadiusstore => (Class::SortedSet, "georadiusstore"),
            Self::Geosearchstore => (Class::SortedSet, "geosearchstore"),
            Self::Zadd => (Class::SortedSet, "zadd"),
            Self::Zdiffstore => (Class::SortedSet, "zdiffstore"),
            Self::Zincr => (Class::SortedSet, "zincr"),
            Self::Zinterstore => (Class::SortedSet, "zinterstore"),
            Self::Zpopmax => (Class::SortedSet, "zpopmax"),
            Self::Zpopmin => (Class::SortedSet, "zpopmin"),
            Self::Zrangestore => (Class::SortedSet, "zrangestore"),
            Self::Zrem => (Class::SortedSet, "zrem"),
            Self::Zremrangebylex => (Class::SortedSet, "zremrangebylex"),
            Self::Zremrangebyrank => (Class::SortedSet, "zremrangebyrank"),
            Self::Zremrangebyscore => (Class::SortedSet, "zremrangebyscore"),
            Self::Zunionstore => (Class::SortedSet, "zunionstore"),
        }
    }

    /// The name under which the event is published.
    pub fn name(self) -> &'static str {
        self.facts().1
    }

    pub(crate) fn class(self) -> Class {
        self.facts().0
    }
}

/// An event of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// The kind of event.
    pub event: Event,
    /// The database of the key.
    pub db: usize,
    /// The key.
    pub key: Box<[u8]>,
    /// It stays when the changes of its section are undone: the key, or a field of it, has expired.
    pub(crate) is_permanent: bool,
}

/// The receiver of events.
pub trait EventSink: Send + Sync {
    /// Publishes events that have happened, in this order. Called under the locks of their keys: it must not take a shard's lock,
    /// and must be quick.
    fn publish(&self, wanted: EventMask, events: &[KeyEvent]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_includes_all_classes_but_two() {
        let has = |letters: &str, class| EventMask::from_letters(letters).has(class);
        for class in Class::ALL {
            assert_eq!(has("KA", class), class.is_in_all(), "{class:?}");
            assert!(has(&format!("E{}", class.letter()), class));
        }
    }

    #[test]
    fn a_mask_without_a_channel_or_a_class_wants_nothing() {
        for letters in ["", "A", "g$mn", "K", "E", "KE"] {
            assert!(!EventMask::from_letters(letters).is_any(), "{letters}");
        }
        let wanted = EventMask::from_letters("Kg");
        assert!(wanted.is_any() && wanted.by_key() && !wanted.by_event());
    }
}
