//! Keyspace notifications: what happens to keys, told to whoever asked for it.
//!
//! ```text
//!   a command ─► Tx::changed(key, event) ─► kept in the section ─► Audience, in order, before the locks are released
//!   a key that has ended ─► the same
//! ```
//!
//! - An event is raised where the change is made, under the lock of the key's shard, and told before that lock is
//!   released: the events of a key come in the order of its changes, whichever threads make them.
//! - While nobody asks for events, raising one costs nothing: the look at whether a shard is observed is made anyway for those
//!   who wait or watch. While somebody does, every shard counts an observer.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A kind of events, by its letter in `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Class {
    /// `g`: of keys of any type.
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
    /// `x`: a key came to its end.
    Expired,
    /// `e`: a key was removed to free memory.
    Evicted,
    /// `t`
    Stream,
    /// `d`: of types that modules define.
    Module,
    /// `m`: a key that was asked for is not there.
    Miss,
    /// `n`: a key is new.
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

    /// Whether `A` stands for it, too.
    fn is_in_all(self) -> bool {
        !matches!(self, Self::Miss | Self::New)
    }
}

/// Which events are told, and on which channels: `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventMask(u32);

impl EventMask {
    const KEYSPACE: u32 = 1 << 30;
    const KEYEVENT: u32 = 1 << 31;
    const CHANNELS: u32 = Self::KEYSPACE | Self::KEYEVENT;

    /// What the letters of the option say; unknown ones say nothing.
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

    /// True if events go to the channels of their keys: `K`.
    pub fn by_key(self) -> bool {
        self.0 & Self::KEYSPACE != 0
    }

    /// True if keys go to the channels of their events: `E`.
    pub fn by_event(self) -> bool {
        self.0 & Self::KEYEVENT != 0
    }

    pub(crate) fn has(self, class: Class) -> bool {
        self.0 & class.bit() != 0
    }

    /// True if anything is told at all.
    pub(crate) fn is_any(self) -> bool {
        self.0 != 0
    }
}

/// [`EventMask`], as all threads see it.
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

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as Redis names it: see `facts`")]
pub enum Event {
    Append,
    CopyTo,
    Del,
    Evicted,
    Expire,
    Expired,
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
    Prepend,
    RenameFrom,
    RenameTo,
    Rpop,
    Rpush,
    Sadd,
    Sdiffstore,
    Set,
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
            Self::Expired => (Class::Expired, "expired"),
            Self::Evicted => (Class::Evicted, "evicted"),
            Self::Keymiss => (Class::Miss, "keymiss"),
            Self::New => (Class::New, "new"),
            Self::Append => (Class::String, "append"),
            Self::Incrby => (Class::String, "incrby"),
            Self::Incrbyfloat => (Class::String, "incrbyfloat"),
            Self::Prepend => (Class::String, "prepend"),
            Self::Set => (Class::String, "set"),
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

    /// Its name, as it is published.
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
    /// What happened.
    pub event: Event,
    /// The database of the key.
    pub db: usize,
    /// The key.
    pub key: Box<[u8]>,
    /// It is not undone with the changes of its section: the key has come to its end.
    pub(crate) lasts: bool,
}

/// Who is told of events.
pub trait EventSink: Send + Sync {
    /// These events have happened, in this order. Called under the locks of their keys: it must take none of a shard, and be
    /// quick.
    fn tell(&self, wanted: EventMask, events: &[KeyEvent]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stands_for_all_classes_but_two() {
        let has = |letters: &str, class| EventMask::from_letters(letters).has(class);
        for class in Class::ALL {
            assert_eq!(has("KA", class), class.is_in_all(), "{class:?}");
            assert!(has(&format!("E{}", class.letter()), class));
        }
    }

    #[test]
    fn nothing_is_told_without_a_channel_or_without_a_class() {
        for letters in ["", "A", "g$mn", "K", "E", "KE"] {
            assert!(!EventMask::from_letters(letters).is_any(), "{letters}");
        }
        let wanted = EventMask::from_letters("Kg");
        assert!(wanted.is_any() && wanted.by_key() && !wanted.by_event());
    }
}
