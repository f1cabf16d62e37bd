//! The table `redis`: the functions with which a script accesses the server.

use damselfly_base::sha1::{hex, try_sha1};
use damselfly_protocol::Version;

use damselfly_base::{REDIS_VERSION, REDIS_VERSION_NUMBER};

use crate::c_format::{push_argument, up_to_zero};
use crate::from_reply;
use crate::host::{CallOutcome, LogLevel};
use crate::lua::{Function, Kind, Outcome, Raise, Stack, Stop};

/// Functions for scripts and libraries.
pub(crate) const FUNCTIONS: &[(&str, Function)] = &[
    ("call", call),
    ("pcall", protected_call),
    ("log", log),
    ("setresp", set_version),
    ("error_reply", error_reply),
    ("status_reply", status_reply),
    ("sha1hex", sha1_hex),
    ("set_repl", set_replication),
    ("acl_check_cmd", is_allowed),
];

/// Functions for scripts only.
pub(crate) const SCRIPT_FUNCTIONS: &[(&str, Function)] = &[
    ("replicate_commands", replicate_commands),
    ("breakpoint", breakpoint),
    ("debug", debug),
];

/// Numeric constants by name.
pub(crate) const NUMBERS: &[(&str, f64)] = &[
    ("LOG_DEBUG", 0.0),
    ("LOG_VERBOSE", 1.0),
    ("LOG_NOTICE", 2.0),
    ("LOG_WARNING", 3.0),
    ("REPL_NONE", 0.0),
    ("REPL_AOF", 1.0),
    ("REPL_SLAVE", 2.0),
    ("REPL_REPLICA", 2.0),
    ("REPL_ALL", 3.0),
    ("REDIS_VERSION_NUM", REDIS_VERSION_NUMBER as f64),
];

/// Pushes a `redis` table with `functions` and the constants.
pub(crate) fn push(stack: &mut Stack<'_>, functions: &[&[(&str, Function)]]) {
    stack.push_table(0, 32);
    for (name, function) in functions.iter().copied().flatten() {
        stack.push_function(*function, 0);
        stack.set_field(-2, name);
    }
    for (name, number) in NUMBERS {
        stack.push_number(*number);
        stack.set_field(-2, name);
    }
    stack.push_bytes(REDIS_VERSION.as_bytes());
    stack.set_field(-2, "REDIS_VERSION");
}

/// An error of this library's functions. It is a table, so that Lua adds no position.
pub(crate) fn error_table(stack: &mut Stack<'_>, text: &str) -> Raise {
    from_reply::push_field(stack, "err", text.as_bytes());
    Raise::Value
}

fn call(stack: &mut Stack<'_>) -> Outcome {
    if run_command(stack)? {
        return Err(Raise::Value);
    }
    Ok(1)
}

fn protected_call(stack: &mut Stack<'_>) -> Outcome {
    match run_command(stack) {
        Err(Raise::Value) => Ok(1),
        Err(raise) => Err(raise),
        Ok(_) => Ok(1),
    }
}

/// Calls with at most this many arguments need no allocation for them.
const ARGUMENTS_INLINE: usize = 16;

/// Runs the command in the arguments and pushes its reply. Returns whether that is an error.
fn run_command(stack: &mut Stack<'_>) -> Result<bool, Raise> {
    check_arguments(stack)?;
    let context = stack.context();
    // Taken, not borrowed, so that it stays usable after a panic of the host.
    let mut reply = context.reply.take();
    reply.clear();
    let called = with_arguments(stack, |arguments| {
        context.with_host(|host| host.call(arguments, context.version.get(), &mut reply))
    });
    stack.set_top(0);
    match called {
        Some(CallOutcome::Replied) => {
            from_reply::push(stack, &reply)?;
            let is_error = from_reply::is_error(&reply);
            if reply.capacity() <= REPLY_KEPT_BYTES_MAX {
                context.reply.replace(reply);
            }
            Ok(is_error)
        }
        Some(CallOutcome::Abort) => {
            context.stop.set(Stop::Aborted);
            Err(Raise::Stopped)
        }
        Some(CallOutcome::Kill(text)) => {
            context.stop.set(Stop::Killed(text));
            Err(Raise::Stopped)
        }
        None => Err(error_table(
            stack,
            "ERR redis.call/pcall can only be called inside a script invocation",
        )),
    }
}

/// The maximum capacity of a reply buffer that is kept for the next command.
const REPLY_KEPT_BYTES_MAX: usize = 64 * 1024;

/// Checks that there is at least one argument, and that all are strings or numbers.
fn check_arguments(stack: &mut Stack<'_>) -> Result<(), Raise> {
    let count = stack.top();
    let is_allowed = |index| matches!(stack.kind(index), Kind::String | Kind::Number);
    let problem = if count == 0 {
        "ERR Please specify at least one argument for this redis lib call"
    } else if !(1..=count).all(is_allowed) {
        "ERR Lua redis lib command arguments must be strings or integers"
    } else {
        return stack.check_texts();
    };
    // There may be so many arguments that the stack has no room for the error.
    stack.set_top(0);
    Err(error_table(stack, problem))
}

/// Calls `body` with all arguments, which are strings or numbers, as bytes. Pushes nothing onto the stack.
fn with_arguments<R>(stack: &Stack<'_>, body: impl FnOnce(&[&[u8]]) -> R) -> R {
    let count = stack.top() as usize;
    // The texts of all numbers, concatenated, and where each ends.
    let (mut numbers, mut ends) = (Vec::new(), Vec::new());
    for index in 1..=count as i32 {
        if stack.kind(index) == Kind::Number {
            push_argument(&mut numbers, stack.number(index).unwrap_or_default());
            ends.push(numbers.len());
        }
    }
    let mut ends = ends.into_iter();
    let mut start = 0;
    let mut argument = |index: usize| match stack.kind(index as i32 + 1) {
        Kind::Number => {
            let end = ends.next().unwrap_or(start);
            let text = &numbers[start..end];
            start = end;
            text
        }
        Kind::None
        | Kind::Nil
        | Kind::Boolean
        | Kind::LightUserdata
        | Kind::String
        | Kind::Userdata
        | Kind::Table
        | Kind::Function
        | Kind::Thread => stack.bytes(index as i32 + 1).unwrap_or_default(),
    };
    let mut inline = [&[][..]; ARGUMENTS_INLINE];
    if let Some(inline) = inline.get_mut(..count) {
        for (index, place) in inline.iter_mut().enumerate() {
            *place = argument(index);
        }
        return body(inline);
    }
    body(&(0..count).map(argument).collect::<Vec<_>>())
}

pub(crate) fn log(stack: &mut Stack<'_>) -> Outcome {
    let count = stack.top();
    if count < 2 {
        return Err(error_table(
            stack,
            "ERR redis.log() requires two arguments or more.",
        ));
    }
    let Some(level) = stack.to_number(1) else {
        return Err(error_table(
            stack,
            "ERR First argument must be a number (log level).",
        ));
    };
    let level = match level as i32 {
        0 => LogLevel::Debug,
        1 => LogLevel::Verbose,
        2 => LogLevel::Notice,
        3 => LogLevel::Warning,
        _ => return Err(error_table(stack, "ERR Invalid debug level.")),
    };
    stack.check_texts()?;
    let mut line = Vec::new();
    for index in 2..=count {
        if let Some(text) = stack.text(index) {
            if index > 2 {
                line.push(b' ');
            }
            line.extend_from_slice(text);
        }
    }
    stack.context().with_host(|host| host.log(level, &line));
    Ok(0)
}

fn set_version(stack: &mut Stack<'_>) -> Outcome {
    if stack.top() != 1 {
        return Err(error_table(
            stack,
            "ERR redis.setresp() requires one argument.",
        ));
    }
    let version = match stack.to_number(1).unwrap_or_default() as i64 {
        2 => Version::Resp2,
        3 => Version::Resp3,
        _ => return Err(error_table(stack, "ERR RESP version must be 2 or 3.")),
    };
    stack.context().version.set(version);
    Ok(0)
}

const WRONG_ARGUMENTS: &[u8] = b"ERR wrong number or type of arguments";

fn error_reply(stack: &mut Stack<'_>) -> Outcome {
    let text = match stack.bytes(1) {
        Some(text) if stack.top() == 1 => error_text(text),
        _ => WRONG_ARGUMENTS.to_vec(),
    };
    from_reply::push_field(stack, "err", &text);
    Ok(1)
}

/// An error text with an error code: its first word, or `ERR` if it is a single word. Ends at the first zero byte.
fn error_text(text: &[u8]) -> Vec<u8> {
    let text = up_to_zero(text);
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (code, message) = match text.iter().position(|&byte| byte == b' ') {
        Some(space) => (&text[..space], &text[space + 1..]),
        None => (&b"ERR"[..], text),
    };
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = message.iter().position(|byte| !is_end(byte));
    let end = message.iter().rposition(|byte| !is_end(byte));
    let message = match (start, end) {
        (Some(start), Some(end)) => &message[start..=end],
        _ => &[],
    };
    [code, b" ", message].concat()
}

fn status_reply(stack: &mut Stack<'_>) -> Outcome {
    match stack.bytes(1) {
        Some(_) if stack.top() == 1 => {
            stack.push_table(0, 1);
            stack.insert(1);
            stack.set_field(1, "ok");
        }
        _ => from_reply::push_field(stack, "err", WRONG_ARGUMENTS),
    }
    Ok(1)
}

/// Hashing this many bytes takes about as long as one instruction.
const SHA1_BYTES_PER_STEP: usize = 8;

fn sha1_hex(stack: &mut Stack<'_>) -> Outcome {
    if stack.top() != 1 {
        return Err(error_table(stack, "ERR wrong number of arguments"));
    }
    let context = stack.context();
    let text = stack.text(1).unwrap_or_default();
    let digest = try_sha1(text, |block| {
        context.spend(block.len() / SHA1_BYTES_PER_STEP)
    })?;
    stack.push_bytes(hex(&digest).as_bytes());
    Ok(1)
}

fn set_replication(stack: &mut Stack<'_>) -> Outcome {
    if stack.top() != 1 {
        return Err(error_table(
            stack,
            "ERR redis.set_repl() requires two arguments.",
        ));
    }
    let targets = stack.to_number(1).unwrap_or_default() as i32;
    let Ok(targets @ 0..=3) = u8::try_from(targets) else {
        return Err(error_table(
            stack,
            "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
        ));
    };
    stack
        .context()
        .with_host(|host| host.set_replication(targets));
    Ok(0)
}

fn is_allowed(stack: &mut Stack<'_>) -> Outcome {
    check_arguments(stack)?;
    let context = stack.context();
    let allowed = with_arguments(stack, |arguments| {
        context.with_host(|host| host.is_allowed(arguments))
    });
    stack.set_top(0);
    match allowed.flatten() {
        Some(allowed) => {
            stack.push_boolean(allowed);
            Ok(1)
        }
        None => Err(error_table(
            stack,
            "ERR Invalid command passed to redis.acl_check_cmd()",
        )),
    }
}

/// Older scripts call this to have their effects replicated, which is always the case here.
fn replicate_commands(stack: &mut Stack<'_>) -> Outcome {
    stack.push_boolean(true);
    Ok(1)
}

/// Does nothing: there is no debugger.
fn breakpoint(stack: &mut Stack<'_>) -> Outcome {
    stack.push_boolean(false);
    Ok(1)
}

/// Does nothing: there is no debugger.
fn debug(_: &mut Stack<'_>) -> Outcome {
    Ok(0)
}
