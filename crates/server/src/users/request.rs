//! A request as the rules of users see it.

use damselfly_acl::{Channel, Key, KeyUse, Request};
use damselfly_commands::{Access, Args, At, Command, KeySpec, Keys};

use crate::admin::command::facts;
use crate::registry::{Handler, Locks, Row};

/// A request of a client.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The row of its command.
    pub row: &'static Row,
    /// Its arguments.
    pub args: Args<'a>,
}

/// The channels that a command publishes or subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Which arguments they are.
    at: At,
    /// They are patterns.
    are_patterns: bool,
}

/// The channels of a command. Unsubscribing needs no rights.
pub fn channels_of(command: &Command<Handler>) -> Option<Channels> {
    let all = At::ToEnd { first: 1, step: 1 };
    let (at, are_patterns) = match command.name {
        "PUBLISH" | "SPUBLISH" => (At::One(1), false),
        "SUBSCRIBE" | "SSUBSCRIBE" => (all, false),
        "PSUBSCRIBE" => (all, true),
        _ => return None,
    };
    Some(Channels { at, are_patterns })
}

/// The only key of a command.
#[derive(Clone, Copy, Debug)]
pub struct OnlyKey {
    /// The argument that it is.
    place: usize,
    /// What the row says about its use.
    access: Access,
    /// How the command uses it; `None` if that depends on its options.
    used: Option<KeyUse>,
}

/// The key of a command that always has exactly one, at a fixed place.
pub fn only_key_of(command: &Command<Handler>, locks: Locks) -> Option<OnlyKey> {
    let (Locks::One(place), Keys::Args([spec])) = (locks, command.keys) else {
        return None;
    };
    let used = match spec.access {
        Access::NotKey => return None,
        Access::Variable => None,
        _ if may_compare(command) => None,
        access => Some(used(command, access, Args::new(&[], &[], None))),
    };
    Some(OnlyKey {
        place,
        access: spec.access,
        used,
    })
}

/// What a command does to the value of a key. Its keys are also protected if it only looks at metadata.
fn used(command: &Command<Handler>, access: Access, args: Args<'_>) -> KeyUse {
    let used = match facts::exactly(command, access, args) {
        Access::Read | Access::ReadNoting | Access::ReadCaching | Access::ReadConverting => {
            KeyUse::READ
        }
        Access::Look => KeyUse::NONE,
        Access::Overwrite
        | Access::Create
        | Access::Update
        | Access::Insert
        | Access::Shrink
        | Access::Remove => KeyUse::WRITE,
        Access::ReadUpdate
        | Access::ReadInsert
        | Access::Take
        | Access::TakeSome
        | Access::Variable => KeyUse::BOTH,
        Access::NotKey => KeyUse::NONE,
    };
    match may_compare(command) && compares(command, args) {
        true => used.or(KeyUse::READ),
        false => used,
    }
}

/// True for commands that can write depending on the value.
fn may_compare(command: &Command<Handler>) -> bool {
    matches!(command.name, "SET" | "DELEX" | "DELIFEQ")
}

/// True if such a command compares the value with an argument. Its client can guess the value, so it must have the right to read it.
fn compares(command: &Command<Handler>, args: Args<'_>) -> bool {
    const OPTIONS: [&str; 4] = ["IFEQ", "IFNE", "IFDEQ", "IFDNE"];
    let is_option = |at| OPTIONS.iter().any(|option| args.is(at, option));
    match command.name {
        "DELIFEQ" => true,
        // Its third argument is the value.
        "SET" => (3..args.len()).any(is_option),
        _ => (2..args.len()).any(is_option),
    }
}

impl Asked<'_> {
    /// How the command uses a key.
    fn used(&self, access: Access) -> KeyUse {
        used(&self.row.command, access, self.args)
    }

    fn specs(&self) -> &'static [KeySpec] {
        match self.row.command.keys {
            Keys::Args([spec]) if spec.access == Access::NotKey => &[],
            Keys::Args(specs) => specs,
            // Commands that use all keys are not limited by patterns, as in Redis: only by their own names.
            Keys::None | Keys::Slots(_) | Keys::All { .. } => &[],
        }
    }

    /// True if keys that must be there are missing, or their number is wrong. Such a request fails without using any key, so as in Redis it is not
    /// refused for its keys.
    fn is_malformed(&self) -> bool {
        let specs = self.specs().iter();
        let len = self.args.len();
        specs.map(|spec| spec.at).any(|at| match at {
            At::One(place) => place >= len,
            // There may be none: PFMERGE can do with its destination. Redis 7.0 takes that for malformed, and checks no key.
            At::ToEnd { first, .. } => first > len,
            At::ToLastButOne(first) => first + 1 >= len,
            At::Counted(_) | At::CountedPairs(_) => at.places(self.args).next().is_none(),
            At::HalfBehind { .. }
            | At::OneUnless { .. }
            | At::AllBehind { .. }
            | At::Behind { .. } => false,
        })
    }
}

impl Request for Asked<'_> {
    #[inline]
    fn command(&self) -> usize {
        self.row.permission
    }

    #[inline]
    fn is_always_allowed(&self) -> bool {
        self.row.no_auth
    }

    fn first_argument(&self) -> Option<&[u8]> {
        self.args.get(1)
    }

    #[inline]
    fn only_key(&self) -> Option<Key<'_>> {
        let OnlyKey {
            place,
            access,
            used,
        } = self.row.only_key?;
        let name = self.args.get(place)?;
        let used = used.unwrap_or_else(|| self.used(access));
        Some(Key { place, name, used })
    }

    fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        let args = self.args;
        let specs = match self.is_malformed() {
            true => &[],
            false => self.specs(),
        };
        specs
            .iter()
            .filter(|spec| spec.access != Access::NotKey)
            .flat_map(move |spec| {
                let used = self.used(spec.access);
                spec.at.places(args).map(move |place| (place, used))
            })
            .map(move |(place, used)| Key {
                place,
                name: args.at(place),
                used,
            })
    }

    #[inline]
    fn has_channels(&self) -> bool {
        self.row.channels.is_some()
    }

    fn channels(&self) -> impl Iterator<Item = Channel<'_>> {
        let args = self.args;
        self.row.channels.into_iter().flat_map(move |channels| {
            channels.at.places(args).map(move |place| Channel {
                place,
                name: args.at(place),
                is_pattern: channels.are_patterns,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memcached;
    use crate::registry::REGISTRY;
    use damselfly_commands::OwnedArgs;

    /// Otherwise the keys that are there would not be checked.
    #[test]
    fn no_request_with_enough_arguments_lacks_keys() {
        for row in REGISTRY.rows().iter().chain(memcached::rows()) {
            // The number of arguments that every argument here also is, if it counts keys.
            let len = row.command.arity.signed().unsigned_abs() as usize;
            for len in len..len + 4 {
                let args = OwnedArgs::copy(std::iter::repeat_n(b"1".as_slice(), len));
                let args = args.borrow();
                let asked = Asked { row, args };
                let has_counts = asked
                    .specs()
                    .iter()
                    .any(|spec| matches!(spec.at, At::Counted(_) | At::CountedPairs(_)));
                let is_fine =
                    has_counts || row.name.starts_with("memcached|") || !asked.is_malformed();
                assert!(is_fine, "{} with {len} arguments", row.name);
            }
        }
    }

    /// Bug: with `rename-command BITFIELD bf`, `bf key GET u8 0` needed the right to write the key, not to read it. Cause: the command
    /// was recognised by the name that the client had used. Fix: its row says what it is. Bug: SET, DELEX and DELIFEQ compared values with
    /// guesses of users who may only write. Fix: what compares, reads.
    #[test]
    fn options_count_whatever_a_command_is_called() {
        for (name, words, expected) in [
            ("bitfield", "bf key GET u8 0", KeyUse::READ),
            ("bitfield", "bf key SET u8 0 1", KeyUse::BOTH),
            ("set", "bitfield key value", KeyUse::WRITE),
            ("set", "s key value GET", KeyUse::BOTH),
            ("set", "set key value IFEQ guess", KeyUse::BOTH),
            ("set", "set key IFEQ KEEPTTL", KeyUse::WRITE),
            ("delex", "delex key", KeyUse::WRITE),
            ("delex", "delex key IFDEQ 0123456789abcdef", KeyUse::BOTH),
            ("delifeq", "delifeq key guess", KeyUse::BOTH),
            ("del", "del key", KeyUse::WRITE),
        ] {
            let row = REGISTRY.find(name.as_bytes()).unwrap();
            let args = OwnedArgs::copy(words.split(' ').map(str::as_bytes));
            let args = args.borrow();
            let asked = Asked { row, args };
            let key = asked.only_key().or_else(|| asked.keys().next());
            let key = key.unwrap_or_else(|| panic!("{words}: no key"));
            assert_eq!(key.used, expected, "{words}");
        }
    }

    #[test]
    fn uses_of_keys_agree_with_the_flags_of_key_specifications() {
        for access in [
            Access::Read,
            Access::ReadNoting,
            Access::ReadCaching,
            Access::ReadConverting,
            Access::ReadInsert,
            Access::Look,
            Access::Overwrite,
            Access::Create,
            Access::ReadUpdate,
            Access::Update,
            Access::Insert,
            Access::Shrink,
            Access::Take,
            Access::TakeSome,
            Access::Remove,
            Access::NotKey,
        ] {
            let flags = access.flags();
            let reads = flags.contains(&"access");
            let writes = ["insert", "update", "delete"]
                .iter()
                .any(|flag| flags.contains(flag));
            let expected = match (reads, writes) {
                (false, false) => KeyUse::NONE,
                (true, false) => KeyUse::READ,
                (false, true) => KeyUse::WRITE,
                (true, true) => KeyUse::BOTH,
            };
            let command = &REGISTRY.rows()[0].command;
            let used = used(command, access, Args::new(&[], &[], None));
            assert_eq!(used, expected, "{access:?}");
        }
    }
}
