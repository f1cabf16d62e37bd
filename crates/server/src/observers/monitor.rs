//! MONITOR: shows a client every command that the server runs.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_commands::Arity::Exactly;
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use crate::clients::Client;
use crate::clock;
use crate::registry::{Handler, Row};
use crate::session::{Context, Session};
use crate::shared::Shared;
use crate::threads::Message;
use crate::users;

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "MONITOR",
    arity: Exactly(1),
    keys: Keys::None,
    traits: &[Trait::Admin, Trait::NoScript, Trait::Loading, Trait::Stale],
    run: Run::Run(Handler::Session(monitor)),
    group: Group::Server,
    usage: "MONITOR",
    summary: "Streams every command that the server runs.",
    since: "1.0.0",
    complexity: "",
}];

fn monitor(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    // As in Redis, a client that already monitors gets no reply.
    if context
        .shared
        .clients
        .start_monitoring(&context.session.client)
    {
        context.shared.monitors.fetch_add(1, Relaxed);
        users::recheck(context.shared, context.session);
        reply.ok();
    }
    Ok(())
}

/// Appends a command that ran to the `lines` for monitors. If the client itself is a monitor, the line also follows its reply.
#[cold]
pub fn show(
    lines: &mut Vec<u8>,
    session: &Session,
    row: &Row,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) {
    if row.command.has(Trait::Admin) || row.command.has(Trait::SkipMonitor) {
        return;
    }
    let line = line(session, row, args);
    lines.extend_from_slice(format!("+{line}\r\n").as_bytes());
    if session.client.monitor.load(Relaxed) && !session.closing {
        reply.simple(&line);
    }
}

/// Sends lines about commands of the client `from` to all other monitors.
#[cold]
pub fn send(shared: &Shared, lines: &[u8], from: u64) {
    let lines: Arc<[u8]> = lines.into();
    let monitors = shared.clients.monitors();
    for (index, thread) in shared.threads.iter().enumerate() {
        let is_shown = |client: &&Arc<Client>| {
            client.thread == index && client.id != from && !client.killed.load(Relaxed)
        };
        let mut shown = monitors.iter().filter(is_shown).peekable();
        if shown.peek().is_none() {
            continue;
        }
        match shared.pubsub.admit(index, lines.len()) {
            Some(bytes) => thread.send(Message::Monitored {
                lines: lines.clone(),
                from,
                bytes,
            }),
            None => shown.for_each(|client| shared.clients.cut_off(client, &shared.threads)),
        }
    }
}

/// Appends a command that runs a script to the `lines` for monitors.
#[cold]
pub fn show_script(lines: &mut Vec<u8>, session: &Session, row: &Row, args: Args<'_>) {
    lines.push(b'+');
    lines.extend_from_slice(line(session, row, args).as_bytes());
    lines.extend_from_slice(b"\r\n");
}

/// Appends a command that a script called to the `lines` for monitors.
#[cold]
pub fn show_called(lines: &mut Vec<u8>, db: usize, row: &Row, args: Args<'_>) {
    if !row.command.has(Trait::Admin) && !row.command.has(Trait::SkipMonitor) {
        lines.push(b'+');
        lines.extend_from_slice(line_of(db, "lua", row, args).as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
}

/// Appends a command of the primary to the `lines` for monitors: its database, and the primary's address.
#[cold]
pub fn show_applied(lines: &mut Vec<u8>, (db, address): (usize, &str), row: &Row, args: Args<'_>) {
    lines.push(b'+');
    lines.extend_from_slice(line_of(db, address, row, args).as_bytes());
    lines.extend_from_slice(b"\r\n");
}

fn line(session: &Session, row: &Row, args: Args<'_>) -> String {
    let client = &session.client;
    let (kind, address) = if client.unix {
        ("unix:", client.address.trim_end_matches(":0"))
    } else {
        ("", client.address.as_str())
    };
    line_of(session.db, &format!("{kind}{address}"), row, args)
}

fn line_of(db: usize, from: &str, row: &Row, args: Args<'_>) -> String {
    let now_us = clock::now_us();
    let mut line = format!(
        "{}.{:06} [{db} {from}]",
        now_us / 1_000_000,
        now_us % 1_000_000
    );
    for arg in without_secrets(row, args) {
        line.push_str(" \"");
        quote(&mut line, arg);
        line.push('"');
    }
    line
}

/// Options whose values are passwords, or the name of a user as whom this server logs in elsewhere: those that Redis calls sensitive.
const SECRET_OPTIONS: &[&str] = &[
    "requirepass",
    "masteruser",
    "masterauth",
    "tls-key-file-pass",
    "tls-client-key-file-pass",
];

/// The arguments of a request, with `(redacted)` in place of passwords.
pub fn without_secrets<'a>(row: &Row, args: Args<'a>) -> Vec<&'a [u8]> {
    let mut shown: Vec<&[u8]> = args.from(0).collect();
    let mut hide = |places: std::ops::Range<usize>| {
        let end = places.end.min(args.len());
        for arg in shown.iter_mut().take(end).skip(places.start) {
            *arg = b"(redacted)";
        }
    };
    match row.name.as_str() {
        "auth" | "memcached|authenticate" => hide(1..args.len()),
        "acl|setuser" | "acl|deluser" | "acl|getuser" => hide(2..args.len()),
        "hello" => {
            let mut place = 2;
            while place < args.len() {
                if args.is(place, "AUTH") {
                    hide(place + 1..place + 3);
                    place += 3;
                } else {
                    place += 1 + usize::from(args.is(place, "SETNAME"));
                }
            }
        }
        "migrate" => {
            let mut place = 6;
            while place < args.len() && !args.is(place, "KEYS") {
                let secrets = match () {
                    () if args.is(place, "AUTH") => 1,
                    () if args.is(place, "AUTH2") => 2,
                    () => 0,
                };
                hide(place + 1..place + 1 + secrets);
                place += 1 + secrets;
            }
        }
        "config|set" => {
            for name in (2..args.len()).step_by(2) {
                if SECRET_OPTIONS.iter().any(|secret| args.is(name, secret)) {
                    hide(name + 1..name + 2);
                }
            }
        }
        _ => {}
    }
    shown
}

/// Writes bytes as `redis-cli` quotes them.
fn quote(line: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => {
                line.push('\\');
                line.push(byte as char);
            }
            b'\n' => line.push_str("\\n"),
            b'\r' => line.push_str("\\r"),
            b'\t' => line.push_str("\\t"),
            0x07 => line.push_str("\\a"),
            0x08 => line.push_str("\\b"),
            b' '..=b'~' => line.push(byte as char),
            _ => {
                let _ = write!(line, "\\x{byte:02x}");
            }
        }
    }
}
