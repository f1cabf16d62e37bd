//! The table of all commands, which finds them by name.

use std::sync::{LazyLock, Mutex, PoisonError};

use damselfly_commands::memcached::MemcachedFn;
use damselfly_commands::{
    Args, Arity, At, Command, FAMILIES, Group, Keys, KeyspaceFn, Result, Run, Trait,
};
use damselfly_engine::Now;
use damselfly_protocol::Reply;

use crate::admin::command::facts;
use crate::admin::{
    acl, client, cluster, command, config, debug, info, latency, memory, module, server, slowlog,
};
use crate::dispatch::Dispatcher;
use crate::gate::Reasons;
use crate::memcached;
use crate::observers::{monitor, subscriptions};
use crate::persistence;
use crate::replication;
use crate::scripts::Finder;
use crate::scripts::{eval_commands, function_commands};
use crate::session::{Context, Session};
use crate::session::{connection_commands, transaction};
use crate::users::{Channels, OnlyKey, channels_of, only_key_of};

/// A command on the connection or the server. It takes the locks that it needs itself.
pub type SessionFn = fn(&mut Context<'_>, Args<'_>, &mut Reply<'_>) -> Result;

/// A command that changes how other commands run.
pub type DispatchFn = fn(&mut Dispatcher, &mut Session, Args<'_>, Now, &mut Reply<'_>) -> Result;

/// The function that runs a command.
#[derive(Clone, Copy)]
pub enum Handler {
    /// It works on keys, under their locks.
    Keyspace(KeyspaceFn),
    /// It works on the connection or the server.
    Session(SessionFn),
    /// It changes how other commands run.
    Dispatch(DispatchFn),
    /// It runs the script or function that the finder finds.
    Script(&'static Finder),
    /// It lists the subcommands of its container.
    Help,
    /// It works on keys, under their locks, for a memcached client.
    Memcached(MemcachedFn),
}

/// The families of commands on connections and the server.
static SESSION_FAMILIES: &[&[Command<Handler>]] = &[
    acl::COMMANDS,
    client::COMMANDS,
    cluster::COMMANDS,
    connection_commands::COMMANDS,
    info::COMMANDS,
    latency::COMMANDS,
    memory::COMMANDS,
    module::COMMANDS,
    monitor::COMMANDS,
    subscriptions::COMMANDS,
    eval_commands::COMMANDS,
    slowlog::COMMANDS,
    command::COMMANDS,
    config::COMMANDS,
    debug::COMMANDS,
    function_commands::COMMANDS,
    server::COMMANDS,
    persistence::commands::COMMANDS,
    persistence::aof::commands::COMMANDS,
    replication::commands::COMMANDS,
    replication::failover::COMMANDS,
    replication::replicaof::COMMANDS,
    transaction::COMMANDS,
];

/// The subcommand that every container has, unless it has its own.
const HELP: Command<Handler> = Command {
    name: "HELP",
    arity: Arity::Exactly(2),
    keys: Keys::None,
    traits: &[Trait::Loading, Trait::Stale],
    run: Run::Run(Handler::Help),
    group: Group::Server,
    usage: "HELP",
    summary: "Lists the subcommands.",
    since: "5.0.0",
    complexity: "O(1)",
};

/// The locks that a command needs, in the form that is quickest to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// None, or those that it takes itself.
    None,
    /// The lock of one key, which is this argument.
    One(usize),
    /// The locks of all its keys.
    Many,
    /// All locks.
    All,
}

/// How a command is treated between MULTI and EXEC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithinMulti {
    /// It is queued.
    Queued,
    /// It is refused, and EXEC with it.
    Refused,
    /// It runs at once: MULTI and WATCH, which then return an error.
    Runs,
    /// It runs at once and ends the transaction, or the connection.
    Leaves,
    /// It is EXEC.
    Executes,
}

/// A command or subcommand, with properties that are derived from its row.
pub struct Row {
    /// It is a command on keys that is treated like any other: in transactions, for restricted users and by options.
    pub is_usual: bool,
    /// The row.
    pub command: Command<Handler>,
    /// Its name in lower case; `container|subcommand` for subcommands.
    pub name: String,
    /// The name that clients use: `name`, unless `rename-command` changed it; empty if `rename-command` removed the command.
    pub called: String,
    /// [`folded`] of `called`.
    folded: u64,
    /// Its place in [`Registry::rows`]. Statistics use it as their index.
    pub index: usize,
    /// The places of its subcommands' rows.
    pub subcommands: Vec<usize>,
    /// The locks it needs.
    pub locks: Locks,
    /// It is refused while one of these reasons holds. EXEC has all reasons here: those of the queued commands count.
    pub refused_while: Reasons,
    /// It is refused when memory is short.
    pub needs_memory: bool,
    /// It is allowed before authentication.
    pub no_auth: bool,
    /// It changes keys or other data, or it may have to be replicated.
    pub writes: bool,
    /// It changes keys or function libraries.
    pub changes_data: bool,
    /// It publishes a message, which replicas publish, too.
    pub sends_messages: bool,
    /// It reads keys and changes none.
    pub only_reads: bool,
    /// A RESP2 client with subscriptions may use it.
    pub for_subscribers: bool,
    /// It needs `enable-debug-command` or `enable-module-command`.
    pub protected: bool,
    /// Scripts may not call it.
    pub not_in_scripts: bool,
    /// How it is treated between MULTI and EXEC.
    pub within_multi: WithinMulti,
    /// It runs a script or function.
    pub runs_script: bool,
    /// The index of the command of RESP that a user must be allowed to run: its own, but for commands of memcached.
    pub permission: usize,
    /// Its key, if it always has exactly one at a fixed place.
    pub only_key: Option<OnlyKey>,
    /// Its options name keys by patterns: SORT and SORT_RO.
    pub has_key_patterns: bool,
    /// The channels that it publishes or subscribes to.
    pub channels: Option<Channels>,
    /// Within a transaction it needs all locks, because it uses keys that its arguments do not name, or takes locks itself.
    pub needs_all_locks: bool,
}

impl Row {
    /// The row of a command with all that follows from it.
    pub fn new(command: Command<Handler>, name: String, index: usize, is_subcommand: bool) -> Self {
        let locks = locks_of(&command);
        let within_multi = within_multi(&command, is_subcommand);
        let on_keys = matches!(
            command.run,
            Run::Run(Handler::Keyspace(_) | Handler::Memcached(_))
        );
        let has_key_patterns = matches!(command.name, "SORT" | "SORT_RO");
        let protected = command.has(Trait::Protected);
        let is_queued = within_multi == WithinMulti::Queued;
        Self {
            is_usual: on_keys && is_queued && !has_key_patterns && !protected,
            folded: folded(name.as_bytes()),
            called: name.clone(),
            name,
            index,
            subcommands: Vec::new(),
            locks,
            refused_while: refused_while(&command),
            needs_memory: command.has(Trait::NeedsMemory),
            no_auth: command.has(Trait::NoAuth),
            changes_data: facts::writes(&command),
            sends_messages: command.has(Trait::PubSub) && command.has(Trait::MayReplicate),
            only_reads: crate::admin::command::facts::only_reads(&command),
            writes: command.keys.writes()
                || command.has(Trait::Writes)
                || command.has(Trait::MayReplicate),
            for_subscribers: crate::observers::subscriptions::FOR_SUBSCRIBERS
                .contains(&command.name),
            protected,
            not_in_scripts: command.has(Trait::NoScript),
            within_multi,
            runs_script: matches!(command.run, Run::Run(Handler::Script(_))),
            permission: index,
            only_key: only_key_of(&command, locks),
            has_key_patterns,
            channels: channels_of(&command),
            needs_all_locks: needs_all_locks(&command),
            command,
        }
    }
}

/// The rows that have statistics, by index: all commands of RESP, then those of memcached.
pub fn counted_rows() -> impl Iterator<Item = &'static Row> {
    REGISTRY.rows().iter().chain(memcached::rows())
}

/// The name of the row with this index.
pub fn name_at(index: usize) -> &'static str {
    counted_rows().nth(index).map_or("NULL", |row| &row.name)
}

/// All commands.
pub struct Registry {
    rows: Vec<Row>,
    /// Open addressing by [`slot_of`]: the place of the row plus one; zero for an empty slot.
    slots: Box<[u16; SLOTS]>,
    renames: Vec<(String, String)>,
}

const SLOTS: usize = 2048;

/// The registry. It does not change while the process runs.
pub static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    Registry::new(&prepared).0
});

/// The values of `rename-command`, for the first use of [`REGISTRY`].
static PREPARED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Renames commands: each pair is a command and its new name; an empty name removes the command. Call this before
/// anything else uses the registry.
///
/// # Errors
/// A command does not exist, a new name is taken, or the registry is in use already.
pub fn rename(renames: &[(String, String)]) -> std::result::Result<(), String> {
    if renames.is_empty() {
        return Ok(());
    }
    let (_, problem) = Registry::new(renames);
    if let Some(problem) = problem {
        return Err(problem);
    }
    *PREPARED.lock().unwrap_or_else(PoisonError::into_inner) = renames.to_vec();
    if REGISTRY.renames != renames {
        return Err(String::from(
            "rename-command: the names of commands are fixed when a process first starts a server",
        ));
    }
    Ok(())
}

/// A number in which two names are equal only if they differ in nothing but the case of letters, and in bytes behind the eighth.
#[inline]
fn folded(name: &[u8]) -> u64 {
    let word = match name {
        [first, .., last] if name.len() < 4 => {
            let middle = u64::from(name[name.len() / 2]);
            let end = 8 * (name.len() - 1);
            u64::from(*first) | middle << (8 * (name.len() / 2)) | u64::from(*last) << end
        }
        _ => match (
            name.first_chunk::<8>(),
            name.first_chunk::<4>(),
            name.last_chunk::<4>(),
        ) {
            (Some(bytes), ..) => u64::from_le_bytes(*bytes),
            (None, Some(low), Some(high)) => {
                let (low, high) = (u32::from_le_bytes(*low), u32::from_le_bytes(*high));
                u64::from(low) | u64::from(high) << (8 * (name.len() - 4))
            }
            _ => name.first().copied().map_or(0, u64::from),
        },
    };
    lower_case(word)
}

/// The bytes of a word with the letters of ASCII in lower case.
#[inline]
fn lower_case(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let low = word & (ONES * 0x7f);
    // The top bit of each byte: it is at least 'A', it is above 'Z'. No byte carries into the next.
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let above_z = low + ONES * (0x7f - b'Z' as u64);
    let is_upper = (from_a ^ above_z) & !word & (ONES * 0x80);
    word | is_upper >> 2
}

/// Where the search for a name begins.
#[inline]
fn slot_of(folded: u64) -> usize {
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.ilog2())) as usize
}

impl Registry {
    /// All commands, and the first problem with `renames`.
    fn new(renames: &[(String, String)]) -> (Self, Option<String>) {
        let mut registry = Self {
            rows: Vec::new(),
            slots: Box::new([0; SLOTS]),
            renames: renames.to_vec(),
        };
        for command in FAMILIES.iter().copied().flatten() {
            registry.add(command.map(Handler::Keyspace), None);
        }
        for command in SESSION_FAMILIES.iter().copied().flatten() {
            registry.add(*command, None);
        }
        let problem = renames
            .iter()
            .find_map(|(name, new)| registry.rename_one(name, new).err());
        registry.fill_slots();
        (registry, problem)
    }

    fn rename_one(&mut self, name: &str, new: &str) -> std::result::Result<(), String> {
        let (name, new) = (name.to_ascii_lowercase(), new.to_ascii_lowercase());
        let is_called = |row: &Row, name: &str| !row.name.contains('|') && row.called == name;
        if name != new && !new.is_empty() && self.rows.iter().any(|row| is_called(row, &new)) {
            return Err(format!(
                "rename-command {name}: target command name '{new}' already exists"
            ));
        }
        let row = self
            .rows
            .iter_mut()
            .find(|row| is_called(row, &name))
            .ok_or_else(|| format!("rename-command {name}: no such command"))?;
        row.folded = folded(new.as_bytes());
        row.called = new;
        Ok(())
    }

    /// Enters all commands in the hash table by the names that clients use.
    fn fill_slots(&mut self) {
        for row in &self.rows {
            if row.name.contains('|') || row.called.is_empty() {
                continue;
            }
            let mut slot = slot_of(row.folded);
            while self.slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            self.slots[slot] = row.index as u16 + 1;
        }
    }

    fn add(&mut self, command: Command<Handler>, container: Option<usize>) -> usize {
        let index = self.rows.len();
        let own_name = command.name.to_ascii_lowercase();
        let name = match container {
            Some(container) => format!("{}|{own_name}", self.rows[container].name),
            None => own_name,
        };
        self.rows
            .push(Row::new(command, name, index, container.is_some()));
        let rows = command.run.subcommands();
        if !rows.is_empty() {
            let has_own = rows.iter().any(|row| row.name == HELP.name);
            let help = (!has_own).then(|| Command {
                group: command.group,
                traits: help_traits(&command),
                ..HELP
            });
            self.rows[index].subcommands = rows
                .iter()
                .chain(&help)
                .map(|row| self.add(*row, Some(index)))
                .collect();
        }
        index
    }

    /// All rows. Those of subcommands follow the row of their container.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows of commands, without subcommands and without commands that `rename-command` removed.
    pub fn top_level(&self) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(|row| !row.name.contains('|') && !row.called.is_empty())
    }

    /// The command that clients call by this name. The case of letters does not matter.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<&Row> {
        let folded = folded(name);
        let mut slot = slot_of(folded);
        loop {
            let row = &self.rows[usize::from(self.slots[slot]).checked_sub(1)?];
            if row.folded == folded
                && row.called.len() == name.len()
                && (name.len() <= 8 || row.called.as_bytes().eq_ignore_ascii_case(name))
            {
                return Some(row);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// The command of this name in the log of another server, whatever `rename-command` calls it here.
    #[inline]
    pub fn find_original(&self, name: &[u8]) -> Option<&Row> {
        let is_it = |row: &&Row| row.name.as_bytes().eq_ignore_ascii_case(name);
        let found = self.find(name).filter(is_it);
        found.or_else(|| self.rows.iter().find(is_it))
    }

    /// A container's subcommand of this name. The case of letters does not matter.
    pub fn find_subcommand(&self, container: &Row, name: &[u8]) -> Option<&Row> {
        container
            .subcommands
            .iter()
            .map(|&index| &self.rows[index])
            .find(|row| row.command.name.as_bytes().eq_ignore_ascii_case(name))
    }
}

impl Registry {
    /// Writes the HELP text of the container that `row` belongs to.
    pub fn write_help(&self, row: &Row, reply: &mut Reply<'_>) {
        let container = row.name.split('|').next().unwrap_or_default();
        let shown: Vec<&Command<Handler>> = self
            .rows
            .iter()
            .find(|row| row.name == container)
            .map_or(&[][..], |container| &container.subcommands)
            .iter()
            .map(|&index| &self.rows[index].command)
            .collect();
        let title = container.to_uppercase();
        reply.array(1 + 2 * shown.len());
        reply.simple(&format!(
            "{title} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
        ));
        for command in shown {
            reply.simple(command.usage.trim_start_matches(&*title).trim_start());
            reply.simple(&format!("    {}", command.summary));
        }
    }
}

/// The traits of a container's HELP, which belongs to the ACL categories of the container. Leaks a
/// few bytes, once per process.
fn help_traits(container: &Command<Handler>) -> &'static [Trait] {
    let categories = container
        .traits
        .iter()
        .filter(|of_row| matches!(of_row, Trait::Category(_)));
    HELP.traits
        .iter()
        .chain(categories)
        .copied()
        .collect::<Vec<_>>()
        .leak()
}

fn locks_of(command: &Command<Handler>) -> Locks {
    match command.keys {
        Keys::None | Keys::Slots(_) => Locks::None,
        Keys::All { .. } => Locks::All,
        Keys::Args([spec]) => match spec.at {
            At::One(place) => Locks::One(place),
            At::ToEnd { .. }
            | At::ToLastButOne(_)
            | At::Counted(_)
            | At::CountedPairs(_)
            | At::HalfBehind { .. }
            | At::OneUnless { .. }
            | At::AllBehind { .. }
            | At::Behind { .. } => Locks::Many,
        },
        Keys::Args(_) => Locks::Many,
    }
}

fn within_multi(command: &Command<Handler>, is_subcommand: bool) -> WithinMulti {
    match command.name {
        _ if command.has(Trait::NoMulti) => WithinMulti::Refused,
        _ if is_subcommand => WithinMulti::Queued,
        "EXEC" => WithinMulti::Executes,
        "DISCARD" | "RESET" | "QUIT" => WithinMulti::Leaves,
        "MULTI" | "WATCH" => WithinMulti::Runs,
        _ => WithinMulti::Queued,
    }
}

fn refused_while(command: &Command<Handler>) -> Reasons {
    if command.name == "EXEC" {
        return Reasons::ALL;
    }
    let mut reasons = Reasons::NONE;
    if !command.has(Trait::Loading) {
        reasons = reasons.and(Reasons::LOADING);
    }
    if command.has(Trait::NoAsyncLoading) {
        reasons = reasons.and(Reasons::ASYNC_LOADING);
    }
    if !command.has(Trait::Stale) || matches!(command.run, Run::Run(Handler::Script(_))) {
        reasons = reasons.and(Reasons::STALE);
    }
    // As in Redis, PING shows to monitoring that something is wrong. Of scripts, the flags decide.
    let may_write = facts::writes(command) || matches!(command.run, Run::Run(Handler::Script(_)));
    if may_write {
        reasons = reasons.and(Reasons::READ_ONLY);
    }
    if may_write || command.name == "PING" {
        reasons = reasons.and(Reasons::SAVING_FAILED).and(Reasons::LOG_FAILED);
    }
    if may_write {
        reasons = reasons.and(Reasons::TOO_FEW_REPLICAS);
    }
    reasons
}

/// Commands of the server group that use no keys.
const LOCKLESS: &[&str] = &["TIME", "LASTSAVE", "LOLWUT"];

fn needs_all_locks(command: &Command<Handler>) -> bool {
    let (Run::Run(handler) | Run::Either(handler, _)) = command.run else {
        return false;
    };
    match handler {
        Handler::Keyspace(_) => match locks_of(command) {
            Locks::One(_) | Locks::Many => command.has(Trait::TouchesArbitraryKeys),
            Locks::None | Locks::All => true,
        },
        // Commands on connections use no keys.
        Handler::Session(_) => {
            let is_of_server = command.group == Group::Server && !LOCKLESS.contains(&command.name);
            is_of_server || command.has(Trait::Writes)
        }
        Handler::Script(_) => true,
        Handler::Dispatch(_) | Handler::Help | Handler::Memcached(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_any_case_and_names_are_unique() {
        let mut names = std::collections::HashSet::new();
        for row in REGISTRY.rows() {
            assert!(names.insert(row.name.clone()), "{} occurs twice", row.name);
        }
        for row in REGISTRY.top_level() {
            for name in [row.name.to_uppercase(), row.name.clone()] {
                assert_eq!(
                    REGISTRY.find(name.as_bytes()).map(|found| found.index),
                    Some(row.index)
                );
            }
        }
        // Only the case of letters may differ.
        for row in REGISTRY.top_level() {
            for (at, byte) in
                (0..row.name.len()).flat_map(|at| (0..=255).map(move |byte| (at, byte)))
            {
                let mut name = row.name.clone().into_bytes();
                name[at] = byte;
                let expected = REGISTRY
                    .top_level()
                    .find(|row| row.name.as_bytes().eq_ignore_ascii_case(&name));
                assert_eq!(
                    REGISTRY.find(&name).map(|row| &row.name),
                    expected.map(|row| &row.name)
                );
            }
            assert!(
                REGISTRY
                    .find(format!("{}\0", row.name).as_bytes())
                    .is_none()
            );
        }
        assert!(REGISTRY.find(b"nosuchcommand").is_none());
        assert!(REGISTRY.find(b"").is_none());
    }

    #[test]
    fn renamed_commands_are_found_by_their_new_names_only() {
        let renames = [
            ("GET", "Fetch"),
            ("flushall", ""),
            ("set", "get"),
            ("TTL", "ttl"),
        ]
        .map(|(name, new)| (name.to_owned(), new.to_owned()));
        let (registry, problem) = Registry::new(&renames);
        assert_eq!(problem, None);
        let name_of = |called: &[u8]| registry.find(called).map(|row| row.name.as_str());
        assert_eq!(name_of(b"fetch"), Some("get"));
        assert_eq!(name_of(b"GET"), Some("set"));
        assert_eq!(name_of(b"set"), None);
        assert_eq!(name_of(b"ttl"), Some("ttl"));
        assert_eq!(name_of(b"flushall"), None);
        assert!(registry.top_level().all(|row| row.name != "flushall"));
        for (name, new, problem) in [
            ("nosuch", "x", "rename-command nosuch: no such command"),
            (
                "get",
                "SET",
                "rename-command get: target command name 'set' already exists",
            ),
        ] {
            let renames = [(name.to_owned(), new.to_owned())];
            assert_eq!(Registry::new(&renames).1.as_deref(), Some(problem));
        }
    }

    #[test]
    fn rows_agree_with_their_usage() {
        for row in REGISTRY.rows() {
            let command = &row.command;
            let words: Vec<_> = command.usage.split(' ').collect();
            let full_name = row.name.replace('|', " ").to_uppercase();
            let is_help = matches!(command.run, Run::Run(Handler::Help));
            assert!(
                is_help || command.usage.starts_with(&full_name),
                "{}: {}",
                row.name,
                command.usage
            );
            assert!(
                command.summary.ends_with('.'),
                "{}: {}",
                row.name,
                command.summary
            );
            let required = required_words(&words);
            match command.run {
                // The dispatcher relies on this: without a subcommand there is nothing to run.
                Run::Subcommands(_) => assert!(!command.arity.allows(1), "{}", row.name),
                Run::Either(..) | Run::Run(Handler::Help) => {}
                Run::Run(_) => assert_eq!(
                    required,
                    command.arity.signed().unsigned_abs() as usize,
                    "{}: arity and usage `{}` differ",
                    row.name,
                    command.usage
                ),
            }
        }
    }

    /// The number of words in a usage outside brackets. A choice in angle brackets counts as its first
    /// alternative.
    fn required_words(words: &[&str]) -> usize {
        let (mut depth, mut count) = (0_i32, 0);
        // For each choice around the word, whether it is past its first alternative.
        let mut choices: Vec<bool> = Vec::new();
        for word in words {
            let opens = word.matches('[').count() as i32;
            let closes = word.matches(']').count() as i32;
            choices.extend(word.matches('<').map(|_| false));
            if *word == "|" {
                choices
                    .last_mut()
                    .into_iter()
                    .for_each(|is_past| *is_past = true);
            } else if depth == 0 && opens == 0 && !choices.contains(&true) {
                count += 1;
            }
            depth += opens - closes;
            choices.truncate(choices.len() - word.matches('>').count());
        }
        count
    }
}
