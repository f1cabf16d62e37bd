//! The parts of COMMAND's replies that are derived from a row: flags, ACL categories, and the positions of keys in Redis's two
//! notations.

use damselfly_commands::{
    Access, Args, At, Command, Group, KeySpec, Keys, Run, Trait, exact_bitfield_access,
};

use crate::registry::Handler;

pub use damselfly_acl::CATEGORIES;

/// The order in which Redis lists flags.
const FLAGS: &[&str] = &[
    "write",
    "readonly",
    "denyoom",
    "admin",
    "pubsub",
    "noscript",
    "blocking",
    "loading",
    "stale",
    "skip_monitor",
    "skip_slowlog",
    "asking",
    "fast",
    "no_auth",
    "no_async_loading",
    "no_multi",
    "allow_busy",
    "no_mandatory_keys",
    "movablekeys",
];

/// True if the command changes keys or function libraries. Redis calls this flag "write".
pub fn writes(command: &Command<Handler>) -> bool {
    // A script writes only through the commands that it calls.
    command.keys.writes() && command.group != Group::Scripting || command.has(Trait::Writes)
}

/// True if the command reads keys and changes none.
pub fn only_reads(command: &Command<Handler>) -> bool {
    // WATCH names keys but reads nothing.
    let uses_keys = command.keys.any() && command.group != Group::Transactions;
    !command.keys.writes() && (uses_keys || command.has(Trait::ReadOnly))
}

/// The command's flags.
pub fn flags(command: &Command<Handler>) -> Vec<&'static str> {
    let has = |flag: &str| match flag {
        "write" => writes(command),
        "readonly" => only_reads(command),
        "movablekeys" => has_movable_keys(command),
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
        // Server commands belong to the keyspace category only if they use all keys.
        Group::Server => matches!(command.keys, Keys::All { .. }).then_some("keyspace"),
        // SORT names its categories in its row and has no others.
        Group::Generic if command.has_category() => None,
        Group::String
        | Group::List
        | Group::Set
        | Group::Hash
        | Group::SortedSet
        | Group::Bitmap
        | Group::HyperLogLog
        | Group::Geo
        | Group::Stream
        | Group::Generic
        | Group::Transactions
        | Group::PubSub
        | Group::Scripting
        | Group::Connection
        | Group::Cluster => command.group.category(),
    };
    let has = |category: &'static str| {
        let derived = match category {
            "read" => only_reads(command) && command.group != Group::Scripting,
            "write" => writes(command),
            "pubsub" => command.has(Trait::PubSub),
            "admin" => command.has(Trait::Admin),
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

/// A key specification as Redis writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// How the command uses these keys.
    pub access: Access,
    /// Their positions.
    pub place: Place,
}

/// The positions of keys among the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From one argument to another.
    Range {
        /// The first key's argument.
        first: usize,
        /// The last key's argument, relative to the first. Negative numbers count from the end: -1 is the last argument.
        last: i64,
        /// The distance from one key to the next.
        step: usize,
    },
    /// After this argument, which is the number of keys.
    Counted {
        /// The argument.
        count_at: usize,
        /// The distance from one key to the next.
        step: usize,
    },
    /// The first half of the arguments after a word.
    HalfBehind {
        /// The word.
        word: &'static str,
        /// The first argument that can be the word.
        from: usize,
    },
    /// The argument after a word.
    Behind {
        /// The word.
        word: &'static str,
        /// The first argument that can be the word.
        from: usize,
    },
    /// All arguments after a word.
    AllBehind {
        /// The word.
        word: &'static str,
        /// The last argument that can be the word; negative numbers count from the end.
        from: i64,
    },
    /// Anywhere.
    Unknown,
}

impl Spec {
    /// True if the argument at `place` is the first key, or a key that is always there.
    pub fn has(&self, place: usize) -> bool {
        match self.place {
            Place::Range { first, last, .. } => {
                let behind = place.checked_sub(first);
                behind.is_some_and(|behind| behind == 0 || behind as i64 <= last)
            }
            Place::Counted { count_at, .. } => place == count_at + 1,
            Place::HalfBehind { .. }
            | Place::Behind { .. }
            | Place::AllBehind { .. }
            | Place::Unknown => false,
        }
    }
}

/// The command's key specifications. Adjacent keys that are used alike share one.
pub fn key_specs(command: &Command<Handler>) -> Vec<Spec> {
    let slots;
    let declared = match command.keys {
        Keys::Args(specs) => specs,
        Keys::Slots(at) => {
            let access = Access::NotKey;
            slots = [KeySpec { at, access }];
            &slots[..]
        }
        Keys::None | Keys::All { .. } => &[],
    };
    let mut specs: Vec<Spec> = Vec::new();
    for declared in declared {
        let access = declared.access;
        let (first, last, step) = match declared.at {
            At::One(place) => (place, 0, 1),
            At::ToEnd { first, step } => (first, -1, step),
            At::ToLastButOne(first) => (first, -2, 1),
            At::Counted(count_at) => {
                let place = Place::Counted { count_at, step: 1 };
                specs.push(Spec { access, place });
                continue;
            }
            At::CountedPairs(count_at) => {
                let place = Place::Counted { count_at, step: 2 };
                specs.push(Spec { access, place });
                continue;
            }
            At::HalfBehind {
                word,
                usually_from: from,
                ..
            } => {
                let place = Place::HalfBehind { word, from };
                specs.push(Spec { access, place });
                continue;
            }
            At::OneUnless { place, .. } => (place, 0, 1),
            At::AllBehind { word, .. } => {
                // As in Redis: the word is the last option, and its keys are the last arguments.
                let place = Place::AllBehind { word, from: -2 };
                specs.push(Spec { access, place });
                continue;
            }
            // As in Redis, which does not say more if a command uses other keys, too.
            At::Behind { .. } if command.has(Trait::TouchesArbitraryKeys) => {
                let place = Place::Unknown;
                specs.push(Spec { access, place });
                continue;
            }
            At::Behind { word, from, .. } => {
                let place = Place::Behind { word, from };
                specs.push(Spec { access, place });
                continue;
            }
        };
        if let Some(before) = specs.last_mut()
            && before.access == access
            && last == 0
            && let Place::Range {
                first: first_before,
                last: last_before @ 0..,
                ..
            } = &mut before.place
            && *first_before + *last_before as usize + 1 == first
        {
            *last_before += 1;
            continue;
        }
        let place = Place::Range { first, last, step };
        specs.push(Spec { access, place });
    }
    if command.has(Trait::TouchesArbitraryKeys) && !specs.is_empty() {
        let spec = Spec {
            access: Access::Read,
            place: Place::Unknown,
        };
        specs.insert(1, spec);
    }
    specs
}

/// True if a client that knows only [`range`] can't find all keys.
fn has_movable_keys(command: &Command<Handler>) -> bool {
    let is_range = |spec: &Spec| matches!(spec.place, Place::Range { .. });
    !key_specs(command).iter().all(is_range)
}

/// The first key, the last key and the step: the older notation, which can express only one range.
pub fn range(command: &Command<Handler>) -> (i64, i64, i64) {
    let mut specs = key_specs(command).into_iter().map(|spec| spec.place);
    let Some(Place::Range { first, last, step }) = specs.next() else {
        return (0, 0, 0);
    };
    if last < 0 {
        return (first as i64, last, step as i64);
    }
    let mut end = first as i64 + last;
    for place in specs {
        match place {
            Place::Range { first, last, .. } if first as i64 == end + 1 => {
                if last < 0 {
                    end = last;
                    break;
                }
                end = first as i64 + last;
            }
            Place::Range { .. }
            | Place::Counted { .. }
            | Place::HalfBehind { .. }
            | Place::Behind { .. }
            | Place::AllBehind { .. }
            | Place::Unknown => break,
        }
    }
    (first as i64, end, step as i64)
}

/// Resolves an access of a command that depends on the options of a request: SET with GET also returns the old value.
pub fn exactly(command: &Command<Handler>, access: Access, args: Args<'_>) -> Access {
    match access {
        Access::Variable if command.name == "BITFIELD" => exact_bitfield_access(args),
        Access::Variable if (3..args.len()).any(|at| args.is(at, "GET")) => Access::ReadUpdate,
        Access::Variable => Access::Overwrite,
        Access::Take | Access::TakeSome => Access::Take,
        Access::Read
        | Access::ReadNoting
        | Access::ReadCaching
        | Access::ReadConverting
        | Access::ReadInsert
        | Access::Look
        | Access::Overwrite
        | Access::Create
        | Access::ReadUpdate
        | Access::Update
        | Access::Insert
        | Access::Shrink
        | Access::Remove
        | Access::NotKey => access,
    }
}
