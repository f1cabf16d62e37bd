//! MONITOR: showing a client every command that the server runs.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_commands::Arity::Exactly;
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use crate::registry::{Handler, Row};
use crate::session::{Context, Session};
use crate::shared::{self, Message, Shared};

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "MONITOR",
    arity: Exactly(1),
    keys: Keys::None,
    traits: &[Trait::Admin, Trait::NoScript, Trait::Loading, Trait::Stale],
    run: Run::Run(Handler::Session(monitor)),
    group: Group::Server,
    usage: "MONITOR",
    summary: "Shows every command that the server runs, as it runs.",
    since: "1.0.0",
    complexity: "",
}];

fn monitor(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if !context.session.client.monitor.swap(true, Relaxed) {
        context.shared.monitors.fetch_add(1, Relaxed);
    }
    reply.ok();
    Ok(())
}

/// Sends a command that ran to all clients that monitor.
#[cold]
pub fn feed(shared: &Shared, session: &Session, row: &Row, args: Args<'_>) {
    if row.command.has(Trait::Admin) || row.command.has(Trait::SkipMonitor) {
        return;
    }
    let now_us = shared::now_us();
    let client = &session.client;
    let from = if client.unix { "unix:" } else { "" };
    let address = if client.unix {
        client.address.trim_end_matches(":0")
    } else {
        &client.address
    };
    let mut line = format!(
        "+{}.{:06} [{} {from}{address}]",
        now_us / 1_000_000,
        now_us % 1_000_000,
        session.db
    );
    for (place, arg) in args.from(0).enumerate() {
        let secret = place > 0 && row.name == "auth";
        line.push_str(" \"");
        if secret {
            line.push_str("(redacted)");
        } else {
            quote(&mut line, arg);
        }
        line.push('"');
    }
    line.push_str("\r\n");
    let bytes: Arc<[u8]> = line.into_bytes().into();
    for monitor in shared
        .clients
        .all()
        .iter()
        .filter(|client| client.monitor.load(Relaxed))
    {
        shared.threads[monitor.thread].send(Message::Deliver {
            client: monitor.id,
            bytes: bytes.clone(),
        });
    }
}

/// Writes bytes in the notation of redis-cli.
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
