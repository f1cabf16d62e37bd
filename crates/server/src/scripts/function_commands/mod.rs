//! FUNCTION: loads, lists, deletes, dumps and restores libraries. FCALL: finds the function to call.

mod rows;

use damselfly_base::CommandError;
use damselfly_base::glob::Glob;
use damselfly_base::number::parse_integer;
use damselfly_commands::{Args, Result};
use damselfly_protocol::{Reply, Version};
use damselfly_script::{
    CallOutcome, Flags, Host, Interpreter, Library, Limits, LogLevel, RestorePolicy, Tick,
};

pub(crate) use self::rows::COMMANDS;
use crate::scripts::function_libraries::Functions;
use crate::scripts::{Finder, Kind, Program, ScriptContext, Slow};
use crate::session::Context;
use crate::shared::Shared;

/// Finds the function that FCALL calls.
static BY_NAME: Finder = Finder {
    find: find_by_name,
    flags: flags_by_name,
};

fn find_by_name(
    context: &mut ScriptContext,
    _: &Shared,
    args: Args<'_>,
) -> std::result::Result<(Program, usize), CommandError> {
    let function = context
        .functions
        .find(args.at(1))
        .ok_or_else(|| CommandError::err("Function not found"))?;
    let keys = parse_integer(args.at(2))
        .ok_or_else(|| CommandError::err("Bad number of keys provided"))?;
    let Ok(keys) = usize::try_from(keys) else {
        return Err(CommandError::err("Number of keys can't be negative"));
    };
    if keys > args.len() - 3 {
        let text = "Number of keys can't be greater than number of args";
        return Err(CommandError::err(text));
    }
    Ok((Program::Function(function), keys))
}

fn flags_by_name(shared: &Shared, args: Args<'_>) -> Option<Flags> {
    let libraries = shared.functions.libraries();
    let (library, index) = libraries.function(args.at(1))?;
    Some(library.functions().get(index)?.flags)
}

/// The host of a library while it loads. A loading library can use only the log.
struct LoadHost;

impl Host for LoadHost {
    fn call(&mut self, _: &[&[u8]], _: Version, reply: &mut Vec<u8>) -> CallOutcome {
        Reply::new(reply, Version::Resp2).error("ERR no commands while a library loads");
        CallOutcome::Replied
    }

    fn tick(&mut self) -> Tick {
        Tick::Continue
    }

    fn log(&mut self, level: LogLevel, text: &[u8]) {
        let level = match level {
            LogLevel::Debug => log::Level::Trace,
            LogLevel::Verbose => log::Level::Debug,
            LogLevel::Notice => log::Level::Info,
            LogLevel::Warning => log::Level::Warn,
        };
        log::log!(level, "{}", text.escape_ascii());
    }

    fn is_allowed(&mut self, _: &[&[u8]]) -> Option<bool> {
        None
    }

    fn set_replication(&mut self, _: u8) {}
}

/// Runs a library's code in a temporary interpreter, to learn which functions it registers. Each thread loads the library into its
/// own interpreter when it first calls one of these functions.
pub(crate) fn load_once(code: &[u8], id: u64) -> std::result::Result<Library, CommandError> {
    Interpreter::new(Limits::default())?.load_library(code, id, &mut LoadHost)
}

/// Adds a library and returns its name. It may take the place of another with the same name if `replace` is set.
///
/// # Errors
/// The code is invalid, or a name is taken.
pub(crate) fn load_library(
    functions: &Functions,
    code: &[u8],
    replace: bool,
) -> std::result::Result<String, CommandError> {
    functions.change(|libraries| {
        libraries.check(code, replace)?;
        let library = load_once(code, libraries.next_id())?;
        let name = library.name().to_owned();
        libraries.insert(library)?;
        Ok(name)
    })
}

/// Changes the libraries, counts the change and logs the request. The lock of one shard keeps such changes in the order of the log,
/// and a cut from coming between a change and its record.
///
/// # Errors
/// The shard is busy, or those of `change`.
fn change<T>(
    context: &mut Context<'_>,
    args: Args<'_>,
    change: impl FnOnce(&Functions) -> std::result::Result<T, CommandError>,
) -> Result<T> {
    const HASH_OF_FIRST_SHARD: u64 = 0;
    let (shared, counters) = (context.shared.clone(), context.counters);
    let mut tx = context.lock_one(HASH_OF_FIRST_SHARD)?;
    let changed = change(&shared.functions)?;
    tx.log_args(args.from(0));
    counters.changes.add(1);
    Ok(changed)
}

/// Repeats a command that has changed libraries on another server, or here before a restart. Its name is in lower case, as
/// `function|load`. Other subcommands change nothing.
///
/// # Errors
/// A library can't be loaded, or does not exist.
pub fn repeat(
    shared: &Shared,
    name: &str,
    args: Args<'_>,
) -> std::result::Result<(), CommandError> {
    let functions = &shared.functions;
    match name {
        "function|load" => load_library(functions, args.at(args.len() - 1), true).map(drop),
        "function|delete" => functions.change(|libraries| libraries.remove(args.at(2))),
        "function|flush" => functions.change(|libraries| {
            libraries.clear();
            Ok(())
        }),
        "function|restore" => {
            let policy = match args.get(3) {
                Some(word) if word.eq_ignore_ascii_case(b"FLUSH") => RestorePolicy::Flush,
                Some(_) | None => RestorePolicy::Replace,
            };
            functions.change(|libraries| libraries.restore(args.at(2), policy, load_once))
        }
        _ => Ok(()),
    }
}

fn load(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut replace = false;
    for option in args.from(2).take(args.len() - 3) {
        if !option.eq_ignore_ascii_case(b"REPLACE") {
            return Err(CommandError::quoting("Unknown option given: ", option, "").into());
        }
        replace = true;
    }
    let code = args.at(args.len() - 1);
    let name = change(context, args, |functions| {
        load_library(functions, code, replace)
    })?;
    reply.bulk(name.as_bytes());
    Ok(())
}

fn delete(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    change(context, args, |functions| {
        functions.change(|libraries| libraries.remove(args.at(2)))
    })?;
    reply.ok();
    Ok(())
}

fn flush(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match args.len() {
        2 => {}
        3 if args.is(2, "SYNC") || args.is(2, "ASYNC") => {}
        3 => {
            let text = "FUNCTION FLUSH only supports SYNC|ASYNC option";
            return Err(CommandError::err(text).into());
        }
        _ => return Err(wrong_use(args)),
    }
    change(context, args, |functions| {
        functions.change(|libraries| {
            libraries.clear();
            Ok(())
        })
    })?;
    reply.ok();
    Ok(())
}

fn dump(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.bulk(&context.shared.functions.libraries().dump());
    Ok(())
}

fn restore(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let policy = match args.len() {
        3 => RestorePolicy::Append,
        4 if args.is(3, "APPEND") => RestorePolicy::Append,
        4 if args.is(3, "REPLACE") => RestorePolicy::Replace,
        4 if args.is(3, "FLUSH") => RestorePolicy::Flush,
        4 => {
            let text =
                "Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.";
            return Err(CommandError::err(text).into());
        }
        _ => return Err(wrong_use(args)),
    };
    change(context, args, |functions| {
        functions.change(|libraries| libraries.restore(args.at(2), policy, load_once))
    })?;
    reply.ok();
    Ok(())
}

fn wrong_use(args: Args<'_>) -> damselfly_commands::Stop {
    CommandError::quoting(
        "unknown subcommand or wrong number of arguments for '",
        args.at(1),
        "'. Try FUNCTION HELP.",
    )
    .into()
}

fn list(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (mut pattern, mut with_code) = (None, false);
    let mut words = args.from(2);
    while let Some(word) = words.next() {
        if !with_code && word.eq_ignore_ascii_case(b"WITHCODE") {
            with_code = true;
        } else if pattern.is_none() && word.eq_ignore_ascii_case(b"LIBRARYNAME") {
            let missing = || CommandError::err("library name argument was not given");
            pattern = Some(words.next().ok_or_else(missing)?);
        } else {
            return Err(CommandError::quoting("Unknown argument ", word, "").into());
        }
    }
    let libraries = context.shared.functions.libraries();
    let glob = pattern.map(Glob::ignoring_case);
    let is_shown = |name: &str| {
        let glob = glob.as_ref();
        glob.is_none_or(|glob| glob.matches(name.as_bytes()))
    };
    let shown: Vec<_> = libraries
        .iter()
        .filter(|library| is_shown(library.name()))
        .collect();
    reply.array(shown.len());
    for library in shown {
        write_library(library, with_code, reply);
    }
    Ok(())
}

fn write_library(library: &Library, with_code: bool, reply: &mut Reply<'_>) {
    reply.map(3 + usize::from(with_code));
    reply.bulk(b"library_name");
    reply.bulk(library.name().as_bytes());
    reply.bulk(b"engine");
    reply.bulk(b"LUA");
    reply.bulk(b"functions");
    reply.array(library.functions().len());
    for function in library.functions() {
        reply.map(3);
        reply.bulk(b"name");
        reply.bulk(function.name.as_bytes());
        reply.bulk(b"description");
        match &function.description {
            Some(text) => reply.bulk(text),
            None => reply.null(),
        }
        reply.bulk(b"flags");
        reply.set(function.flags.names().count());
        for name in function.flags.names() {
            reply.simple(name);
        }
    }
    if with_code {
        reply.bulk(b"library_code");
        reply.bulk(library.code());
    }
}

fn stats(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let libraries = context.shared.functions.libraries();
    let slow = context.shared.scripts.slow();
    let running = slow.iter().find(|slow| slow.kind == Kind::Function);
    if running.is_none() && !slow.is_empty() {
        return Err(Kind::Script.busy().into());
    }
    reply.map(2);
    reply.bulk(b"running_script");
    match running {
        Some(slow) => write_running(slow, reply),
        None => reply.null(),
    }
    reply.bulk(b"engines");
    reply.map(1);
    reply.bulk(b"LUA");
    reply.map(2);
    reply.bulk(b"libraries_count");
    reply.integer(libraries.len() as i64);
    reply.bulk(b"functions_count");
    reply.integer(libraries.functions_len() as i64);
    Ok(())
}

fn write_running(slow: &Slow, reply: &mut Reply<'_>) {
    reply.map(3);
    reply.bulk(b"name");
    reply.bulk(slow.name.as_bytes());
    reply.bulk(b"command");
    reply.array(slow.command.len());
    for argument in &slow.command {
        reply.bulk(argument);
    }
    reply.bulk(b"duration_ms");
    reply.integer(slow.started.elapsed().as_millis() as i64);
}

fn kill(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    context.shared.scripts.kill(Kind::Function)?;
    reply.ok();
    Ok(())
}
