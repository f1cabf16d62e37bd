//! What COMMAND tells of a row that the row does not say in so many words: flags, ACL categories, and
//! where keys are in Redis's two notations.

use damselfly_commands::{Access, At, Command, Group, Keys, Run, Trait};

use crate::registry::Handler;

/// The order in which Redis lists flags.
const FLAGS: &[&str] = &[
    "write",
    "readonly",
    "denyoom",
    "admin",
    "noscript",
    "blocking",
    "loading",
    "stale",
    "skip_monitor",
    "skip_slowlog",
    "fast",
    "no_auth",
    "no_async_loading",
    "no_multi",
    "allow_busy",
];

/// The order in which Redis lists categories; every one that there is.
pub const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

fn writes(command: &Command<Handler>) -> bool {
    command.keys.writes()
}

fn only_reads(command: &Command<Handler>) -> bool {
    !writes(command) && (command.keys.any() || command.has(Trait::ReadOnly))
}

/// The command's flags.
pub fn flags(command: &Command<Handler>) -> Vec<&'static str> {
    let has = |flag: &str| match flag {
        "write" => writes(command),
        "readonly" => only_reads(command),
        flag => command
            .traits
            .iter()
            .any(|of_row| of_row.flag() == Some(flag)),
    };
    FLAGS.iter().copied().filter(|flag| has(flag)).collect()
}

/// The ACL categories of the command.
pub fn categories(command: &Command<Handler>) -> Vec<&'static str> {
    let is_container = matches!(command.run, Run::Subcommands(_));
    let of_group = match command.group {
        // Of the commands about the server only those that touch all keys are about the keyspace.
        Group::Server => matches!(command.keys, Keys::All { .. }).then_some("keyspace"),
        Group::String | Group::Generic | Group::Connection => command.group.category(),
    };
    let has = |category: &'static str| {
        let derived = match category {
            "read" => only_reads(command),
            "write" => writes(command),
            "admin" => command.has(Trait::Admin) || command.has(Trait::AdminCategory),
            "dangerous" => command.has(Trait::Admin) || command.has(Trait::Dangerous),
            "fast" => command.has(Trait::Fast),
            "slow" => !command.has(Trait::Fast),
            "blocking" => command.has(Trait::Blocking),
            category => of_group == Some(category) && !is_container,
        };
        derived || command.has(Trait::Category(category))
    };
    CATEGORIES
        .iter()
        .copied()
        .filter(|category| has(category))
        .collect()
}

/// The tips for proxies.
pub fn tips(command: &Command<Handler>) -> Vec<&'static str> {
    command
        .traits
        .iter()
        .filter_map(|of_row| {
            if let Trait::Tip(tip) = of_row {
                Some(*tip)
            } else {
                None
            }
        })
        .collect()
}

/// A key specification as Redis writes it: keys from one argument to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// What the command does to these keys.
    pub access: Access,
    /// The first key's argument.
    pub first: usize,
    /// How many arguments behind the first the last key is; -1 for the last argument.
    pub last: i64,
    /// From one key to the next.
    pub step: usize,
}

impl Range {
    /// True if the argument at `place` is the first key, or one that always follows it.
    pub fn has(&self, place: usize) -> bool {
        let behind = place.checked_sub(self.first);
        behind.is_some_and(|behind| behind == 0 || behind as i64 <= self.last)
    }
}

/// The command's key specifications. Neighbours that are used alike are one.
pub fn key_specs(command: &Command<Handler>) -> Vec<Range> {
    let specs = match command.keys {
        Keys::Args(specs) => specs,
        Keys::None | Keys::All { .. } => &[],
    };
    let mut ranges: Vec<Range> = Vec::new();
    for spec in specs {
        let (first, last, step) = match spec.at {
            At::One(place) => (place, 0, 1),
            At::ToEnd { first, step } => (first, -1, step),
        };
        let access = spec.access;
        match ranges.last_mut() {
            Some(before)
                if before.access == access
                    && last == 0
                    && before.last >= 0
                    && before.first + before.last as usize + 1 == first =>
            {
                before.last += 1;
            }
            Some(_) | None => ranges.push(Range {
                access,
                first,
                last,
                step,
            }),
        }
    }
    ranges
}

/// First key, last key and step: the older notation, which knows one range only.
pub fn range(command: &Command<Handler>) -> (i64, i64, i64) {
    let mut specs = key_specs(command).into_iter();
    let Some(first) = specs.next() else {
        return (0, 0, 0);
    };
    if first.last < 0 {
        return (first.first as i64, -1, first.step as i64);
    }
    let mut last = first.first as i64 + first.last;
    for spec in specs {
        if spec.first as i64 != last + 1 || spec.last < 0 {
            break;
        }
        last = spec.first as i64 + spec.last;
    }
    (first.first as i64, last, first.step as i64)
}
