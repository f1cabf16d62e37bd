//! The slow log: the latest commands that took long, and SLOWLOG, which shows them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use crate::registry::Handler;
use crate::session::Context;

/// One command that took long.
#[derive(Clone, Debug)]
pub struct SlowCommand {
    /// Counts up from zero.
    pub id: u64,
    /// When it ran, in seconds since the epoch.
    pub at_s: i64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// Its arguments, shortened.
    pub args: Vec<Vec<u8>>,
    /// The client's address.
    pub address: String,
    /// The client's name.
    pub name: String,
}

/// The most arguments kept of a command, the last of which then says how many more there were.
const ARGS_MAX: usize = 32;
/// The most bytes kept of an argument, which then ends with how many more there were.
const ARG_BYTES_MAX: usize = 128;

/// The latest slow commands, newest first.
#[derive(Debug, Default)]
pub struct Slowlog {
    next_id: AtomicU64,
    entries: Mutex<VecDeque<SlowCommand>>,
}

impl Slowlog {
    /// The entries, newest first.
    pub fn entries(&self) -> MutexGuard<'_, VecDeque<SlowCommand>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a command, and forgets the oldest beyond `len_max`. The id of `command` is set here.
    pub fn add(&self, mut command: SlowCommand, len_max: usize) {
        let mut entries = self.entries();
        command.id = self.next_id.fetch_add(1, Relaxed);
        entries.push_front(command);
        entries.truncate(len_max);
    }
}

/// The arguments as the slow log keeps them.
pub fn shortened<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let len = args.len();
    let kept = if len > ARGS_MAX { ARGS_MAX - 1 } else { len };
    let mut shown: Vec<Vec<u8>> = args
        .take(kept)
        .map(|arg| match arg.len().checked_sub(ARG_BYTES_MAX) {
            None | Some(0) => arg.to_vec(),
            Some(more) => [
                &arg[..ARG_BYTES_MAX],
                format!("... ({more} more bytes)").as_bytes(),
            ]
            .concat(),
        })
        .collect();
    if len > kept {
        shown.push(format!("... ({} more arguments)", len - kept).into_bytes());
    }
    shown
}

const fn subcommand(
    name: &'static str,
    traits: &'static [Trait],
    run: Handler,
    usage: &'static str,
    summary: &'static str,
    complexity: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity: Exactly(2),
        keys: Keys::None,
        traits,
        run: Run::Run(run),
        group: Group::Server,
        usage,
        summary,
        since: "2.2.12",
        complexity,
    }
}

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "SLOWLOG",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[],
    run: Run::Subcommands(&[
        Command {
            arity: AtLeast(2),
            ..subcommand(
                "GET",
                &[
                    Trait::Admin,
                    Trait::Loading,
                    Trait::Stale,
                    Trait::Tip("request_policy:all_nodes"),
                    Trait::Tip("nondeterministic_output"),
                ],
                Handler::Session(get),
                "SLOWLOG GET [count]",
                "Returns the latest entries of the slow log: 10 by default, count if given, all for -1.",
                "O(N) where N is the number of entries returned",
            )
        },
        subcommand(
            "LEN",
            &[
                Trait::Admin,
                Trait::Loading,
                Trait::Stale,
                Trait::Tip("request_policy:all_nodes"),
                Trait::Tip("response_policy:agg_sum"),
                Trait::Tip("nondeterministic_output"),
            ],
            Handler::Session(len),
            "SLOWLOG LEN",
            "Returns the number of entries in the slow log.",
            "O(1)",
        ),
        subcommand(
            "RESET",
            &[
                Trait::Admin,
                Trait::Loading,
                Trait::Stale,
                Trait::Tip("request_policy:all_nodes"),
                Trait::Tip("response_policy:all_succeeded"),
            ],
            Handler::Session(reset),
            "SLOWLOG RESET",
            "Deletes all entries of the slow log.",
            "O(N) where N is the number of entries in the slowlog",
        ),
    ]),
    group: Group::Server,
    usage: "SLOWLOG",
    summary: "Commands of the slow log.",
    since: "2.2.12",
    complexity: "Depends on subcommand.",
}];

/// The entries, once those beyond a limit that was lowered since are forgotten.
fn current<'a>(context: &'a Context<'_>) -> MutexGuard<'a, VecDeque<SlowCommand>> {
    // Not this turn's snapshot: CONFIG SET may stand before this command in the same pipeline.
    let len_max = usize::try_from(context.shared.config().slowlog_max_len).unwrap_or(usize::MAX);
    let mut entries = context.shared.slowlog.entries();
    entries.truncate(len_max);
    entries
}

fn get(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const COUNT: usize = 10;
    let count = match args.get(2) {
        Some(_) if args.len() > 3 => {
            return Err(CommandError::quoting(
                "unknown subcommand or wrong number of arguments for '",
                args.at(1),
                "'. Try SLOWLOG HELP.",
            )
            .into());
        }
        Some(count) => match parse_integer(count) {
            Some(-1) => usize::MAX,
            Some(count @ 0..) => usize::try_from(count).unwrap_or(usize::MAX),
            Some(_) | None => {
                let text = "count should be greater than or equal to -1";
                return Err(CommandError::err(text).into());
            }
        },
        None => COUNT,
    };
    let entries = current(context);
    let shown = entries.iter().take(count);
    reply.array(shown.len());
    for entry in shown {
        reply.array(6);
        reply.integer(entry.id as i64);
        reply.integer(entry.at_s);
        reply.integer(entry.took_us as i64);
        reply.array(entry.args.len());
        for arg in &entry.args {
            reply.bulk(arg);
        }
        reply.bulk(entry.address.as_bytes());
        reply.bulk(entry.name.as_bytes());
    }
    Ok(())
}

fn len(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(current(context).len() as i64);
    Ok(())
}

fn reset(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    context.shared.slowlog.entries().clear();
    reply.ok();
    Ok(())
}
