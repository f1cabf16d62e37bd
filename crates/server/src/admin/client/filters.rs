//! The filters of CLIENT LIST and CLIENT KILL: those of Redis 7.4, and those that Valkey 8.1 and 9 added.
//!
//! Defined by <https://valkey.io/commands/client-list/> and <https://valkey.io/commands/client-kill/>.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::{CommandError, number};
use damselfly_commands::{Args, Result};

use super::flags;
use crate::clients::{Client, Clients};
use crate::session::Context;
use crate::users::Account;

/// The types of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientType {
    Normal,
    Primary,
    Replica,
    PubSub,
}

impl ClientType {
    fn parse(word: &[u8]) -> Result<Self> {
        [
            ("NORMAL", Self::Normal),
            ("MASTER", Self::Primary),
            ("PRIMARY", Self::Primary),
            ("REPLICA", Self::Replica),
            ("SLAVE", Self::Replica),
            ("PUBSUB", Self::PubSub),
        ]
        .into_iter()
        .find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, client_type)| client_type)
        .ok_or_else(|| {
            let word = String::from_utf8_lossy(word);
            CommandError::err(format!("Unknown client type '{word}'")).into()
        })
    }

    /// The type of a client. Monitors are normal clients.
    fn of(client: &Client) -> Self {
        if client.is_primary {
            Self::Primary
        } else if client.is_replica.load(Relaxed) {
            Self::Replica
        } else if client.is_subscriber() {
            Self::PubSub
        } else {
            Self::Normal
        }
    }
}

/// All letters that can be among the flags of a client, here or in Valkey.
const FLAGS: &[u8] = b"AbBcdeEiIMNOPrRStTuUx";

/// The letters of capabilities (CLIENT CAPA).
const CAPABILITIES: &[u8] = b"r";

/// A property of clients.
#[derive(Clone, Debug)]
enum Property<'a> {
    Id(Vec<u64>),
    Type(ClientType),
    User(Arc<Account>),
    Address(&'a [u8]),
    LocalAddress(&'a [u8]),
    Ip(&'a [u8]),
    Name(&'a [u8]),
    LibraryName(&'a [u8]),
    LibraryVersion(&'a [u8]),
    Flags(&'a [u8]),
    Capabilities(&'a [u8]),
    Db(i64),
    AgeMin(i64),
    IdleMin(i64),
}

impl Property<'_> {
    fn is_of(&self, client: &Client, now_ms: i64) -> bool {
        let seconds_since = |ms: i64| (now_ms - ms) / 1000;
        match self {
            Self::Id(ids) => ids.contains(&client.id),
            Self::Type(wanted) => *wanted == ClientType::of(client),
            Self::User(account) => client.is_user(account),
            Self::Address(address) => *address == client.address.as_bytes(),
            Self::LocalAddress(address) => *address == client.local_address.as_bytes(),
            Self::Ip(ip) => {
                let address = client.address.rsplit_once(':');
                address.is_some_and(|(host, _)| host.trim_matches(['[', ']']).as_bytes() == *ip)
            }
            Self::Name(name) => *name == client.names().name.as_bytes(),
            Self::LibraryName(name) => *name == client.names().library.as_bytes(),
            Self::LibraryVersion(version) => *version == client.names().library_version.as_bytes(),
            Self::Flags(letters) => {
                let flags = flags(client);
                letters
                    .iter()
                    .all(|letter| flags.as_bytes().contains(letter))
            }
            Self::Capabilities(letters) => {
                let capabilities = client.capabilities();
                letters
                    .iter()
                    .all(|letter| capabilities.as_bytes().contains(letter))
            }
            Self::Db(db) => usize::try_from(*db) == Ok(client.db.load(Relaxed)),
            Self::AgeMin(seconds) => seconds_since(client.connected_ms) >= *seconds,
            Self::IdleMin(seconds) => seconds_since(client.active_ms.load(Relaxed)) >= *seconds,
        }
    }
}

/// A filter: a client passes if it has, or lacks, every property.
#[derive(Debug, Default)]
pub(super) struct Filter<'a> {
    /// Each with its name, and true if clients must lack it.
    properties: Vec<(&'static str, bool, Property<'a>)>,
    /// Whether the calling client is spared; `None` if the request does not say.
    skips_me: Option<bool>,
}

/// The filters that have a NOT- form.
const NAMES: &[&str] = &[
    "ID", "TYPE", "USER", "ADDR", "LADDR", "IP", "NAME", "LIB-NAME", "LIB-VER", "FLAGS", "CAPA",
    "DB",
];

impl<'a> Filter<'a> {
    /// A filter for the client with this address.
    pub(super) fn by_address(address: &'a [u8]) -> Self {
        Self {
            properties: vec![("ADDR", false, Property::Address(address))],
            skips_me: Some(false),
        }
    }

    /// Parses a request, from argument 2 on. `bad_id` is the error for an id that is not a positive number.
    pub(super) fn parse(context: &Context<'_>, args: Args<'a>, bad_id: &str) -> Result<Self> {
        let (mut filter, mut at) = (Self::default(), 2);
        while at < args.len() {
            let value = args.get(at + 1).ok_or(CommandError::Syntax)?;
            if args.is(at, "SKIPME") {
                filter.skips_me = Some(match () {
                    () if value.eq_ignore_ascii_case(b"YES") => true,
                    () if value.eq_ignore_ascii_case(b"NO") => false,
                    () => return Err(CommandError::Syntax.into()),
                });
                at += 2;
                continue;
            }
            let (name, is_negated) = name_at(args, at).ok_or(CommandError::Syntax)?;
            let property = match name {
                "ID" => {
                    let ids = ids(args, at + 1, bad_id)?;
                    at += ids.len() - 1;
                    Property::Id(ids)
                }
                _ => property(context, name, value)?,
            };
            at += 2;
            // Of two filters of the same kind, the last one counts.
            filter
                .properties
                .retain(|(other, negated, _)| (*other, *negated) != (name, is_negated));
            filter.properties.push((name, is_negated, property));
        }
        Ok(filter)
    }

    /// True if the calling client is spared; by default if `skips_by_default`.
    pub(super) fn skips_me(&self, skips_by_default: bool) -> bool {
        self.skips_me.unwrap_or(skips_by_default)
    }

    /// The clients that pass: in the order of the ids that the request names, or from the oldest to the newest.
    pub(super) fn clients(&self, clients: &Clients, now_ms: i64) -> Vec<Arc<Client>> {
        let ids = self
            .properties
            .iter()
            .find_map(|(_, is_negated, property)| match property {
                Property::Id(ids) if !is_negated => Some(ids),
                _ => None,
            });
        let mut found: Vec<Arc<Client>> = match ids {
            Some(ids) => ids.iter().filter_map(|&id| clients.find(id)).collect(),
            None => clients.all(),
        };
        found.retain(|client| {
            let mut properties = self.properties.iter();
            properties
                .all(|(_, is_negated, property)| property.is_of(client, now_ms) != *is_negated)
        });
        found
    }
}

/// The name of the filter at an argument, and whether it is a NOT- form.
fn name_at(args: Args<'_>, at: usize) -> Option<(&'static str, bool)> {
    let word = args.at(at);
    let rest = word
        .split_at_checked(4)
        .filter(|(prefix, _)| prefix.eq_ignore_ascii_case(b"NOT-"))
        .map(|(_, rest)| rest);
    let others: &[&str] = match rest {
        Some(_) => &[],
        None => &["MAXAGE", "IDLE"],
    };
    let name = NAMES
        .iter()
        .chain(others)
        .find(|name| rest.unwrap_or(word).eq_ignore_ascii_case(name.as_bytes()))?;
    Some((name, rest.is_some()))
}

/// The ids from argument `first` on: one or more.
fn ids(args: Args<'_>, first: usize, bad_id: &str) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for (place, text) in args.from(first).enumerate() {
        match number::parse_integer(text).and_then(|id| u64::try_from(id).ok()) {
            Some(id) if id > 0 => ids.push(id),
            None if place > 0 && number::parse_integer(text).is_none() => break,
            Some(_) | None => return Err(CommandError::err(bad_id).into()),
        }
    }
    Ok(ids)
}

fn property<'a>(context: &Context<'_>, name: &str, value: &'a [u8]) -> Result<Property<'a>> {
    let shown = || String::from_utf8_lossy(value);
    Ok(match name {
        "TYPE" => Property::Type(ClientType::parse(value)?),
        "USER" => {
            let account = context.shared.users.find(value);
            let refused = || CommandError::err(format!("No such user '{}'", shown()));
            Property::User(account.ok_or_else(refused)?)
        }
        "ADDR" => Property::Address(value),
        "LADDR" => Property::LocalAddress(value),
        "IP" => Property::Ip(value),
        "NAME" => Property::Name(value),
        "LIB-NAME" => Property::LibraryName(value),
        "LIB-VER" => Property::LibraryVersion(value),
        "FLAGS" if !value.iter().all(|letter| FLAGS.contains(letter)) => {
            let text = format!("Unknown flags found in the provided filter: {}", shown());
            return Err(CommandError::err(text).into());
        }
        "FLAGS" => Property::Flags(value),
        "CAPA" if !value.iter().all(|letter| CAPABILITIES.contains(letter)) => {
            let text = format!("Unknown capa found in the provided filter: {}", shown());
            return Err(CommandError::err(text).into());
        }
        "CAPA" => Property::Capabilities(value),
        "DB" => {
            let databases = context.shared.engine.databases();
            let db = number::parse_integer(value)
                .filter(|&db| usize::try_from(db).is_ok_and(|db| db < databases));
            let refused = || {
                let last = databases - 1;
                CommandError::err(format!("DB number should be between 0 and {last}"))
            };
            Property::Db(db.ok_or_else(refused)?)
        }
        "MAXAGE" => Property::AgeMin(positive(value, "maxage")?),
        "IDLE" => Property::IdleMin(positive(value, "idle")?),
        _ => return Err(CommandError::Syntax.into()),
    })
}

fn positive(value: &[u8], name: &str) -> Result<i64> {
    let number = number::parse_integer(value)
        .ok_or_else(|| CommandError::err(format!("{name} is not an integer or out of range")))?;
    if number <= 0 {
        return Err(CommandError::err(format!("{name} should be greater than 0")).into());
    }
    Ok(number)
}
