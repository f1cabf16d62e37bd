//! Unknown commands: their errors, and HTTP requests among them.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use damselfly_base::CommandError;
use damselfly_commands::Args;
use damselfly_engine::Now;

use crate::clients::Client;
use crate::registry::Row;

/// True for a line of an HTTP request, which an attacker may have made a browser send. The connection is closed without any reply.
#[cold]
pub(super) fn is_attack(args: Args<'_>) -> bool {
    let words = [b"post".as_slice(), b"host:"];
    words
        .iter()
        .any(|word| args.at(0).eq_ignore_ascii_case(word))
}

/// Logs an attack, at most once per interval, so that attackers cannot flood the log.
#[cold]
pub(super) fn log_attack(client: &Client, now: Now) {
    const INTERVAL_MS: i64 = 60_000;
    static LOGGED_MS: AtomicI64 = AtomicI64::new(0);
    if now.0.abs_diff(LOGGED_MS.load(Relaxed)) <= INTERVAL_MS as u64 {
        return;
    }
    LOGGED_MS.store(now.0, Relaxed);
    log::warn!(
        "Possible SECURITY ATTACK detected. It looks like somebody is sending POST or Host: commands to Damselfly. This is likely due to an attacker attempting to use Cross Protocol Scripting to compromise your instance. Connection from {} aborted.",
        client.address
    );
}

/// The error for an unknown command.
#[cold]
pub(super) fn unknown_command(args: Args<'_>) -> CommandError {
    /// As in Redis, the most bytes shown of the name, and about as many of the arguments.
    const SHOWN_BYTES_MAX: usize = 128;
    let name = args.at(0);
    let mut listed = Vec::new();
    for arg in args.from(1) {
        if listed.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let room = SHOWN_BYTES_MAX - listed.len();
        listed.extend_from_slice(b"'");
        listed.extend_from_slice(c_text(arg, room));
        listed.extend_from_slice(b"' ");
    }
    let name = c_text(name, SHOWN_BYTES_MAX);
    CommandError::quoting(
        "unknown command '",
        &[name, b"', with args beginning with: ", &listed].concat(),
        "",
    )
}

/// The bytes up to the first zero byte, as C prints them, and at most `bytes_max`.
pub(super) fn c_text(bytes: &[u8], bytes_max: usize) -> &[u8] {
    let shown = &bytes[..bytes.len().min(bytes_max)];
    shown.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The error for an unknown subcommand.
#[cold]
pub(super) fn unknown_subcommand(container: &Row, name: &[u8]) -> CommandError {
    const SHOWN_BYTES_MAX: usize = 128;
    let container = format!("'. Try {} HELP.", container.command.name);
    CommandError::quoting(
        "unknown subcommand '",
        &[c_text(name, SHOWN_BYTES_MAX), container.as_bytes()].concat(),
        "",
    )
}
