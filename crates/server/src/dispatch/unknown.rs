//! What is said to a command that there is not.

use damselfly_base::CommandError;
use damselfly_commands::Args;

use crate::registry::Row;
use crate::session::Session;

#[cold]
pub(super) fn unknown_command(session: &mut Session, args: Args<'_>) -> CommandError {
    /// Redis shows at most this many bytes of the name, and about as many of the arguments.
    const SHOWN_BYTES_MAX: usize = 128;
    let name = args.at(0);
    if [b"post".as_slice(), b"host:"]
        .iter()
        .any(|word| name.eq_ignore_ascii_case(word))
    {
        log::warn!(
            "Possible SECURITY ATTACK detected. It looks like somebody is sending POST or Host: commands to Damselfly. This is likely due to an attacker attempting to use Cross Protocol Scripting to compromise your instance. Connection from {} aborted.",
            session.client.address
        );
        session.closing = true;
    }
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

/// What C would print of these bytes: up to the first zero byte, and `bytes_max` at most.
pub(super) fn c_text(bytes: &[u8], bytes_max: usize) -> &[u8] {
    let shown = &bytes[..bytes.len().min(bytes_max)];
    shown.split(|&byte| byte == 0).next().unwrap_or_default()
}

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
