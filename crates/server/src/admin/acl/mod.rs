//! ACL: shows and changes users. What the rules mean is in the crate `acl`, what a change does to connections in `users/`.

mod rows;

use std::fmt::Write as _;

use damselfly_acl::{CATEGORIES, Denied, Request as _, Selector, User, is_valid_name};
use damselfly_base::{CommandError, number};
use damselfly_commands::{Args, Result};
use damselfly_protocol::Reply;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::admin::command::facts;
use crate::registry::REGISTRY;
use crate::session::Context;
use crate::users::{self, Asked, catalogue};

pub(crate) use rows::COMMANDS;

/// Redis's error for a known subcommand with too many arguments.
fn malformed(args: Args<'_>) -> CommandError {
    let name = String::from_utf8_lossy(args.at(1));
    CommandError::err(format!(
        "unknown subcommand or wrong number of arguments for '{name}'. Try ACL HELP."
    ))
}

/// An error text on one line.
fn on_one_line(text: &str) -> CommandError {
    CommandError::err(text.replace(['\r', '\n'], " "))
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn cat(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match args.len() {
        2 => {
            reply.array(CATEGORIES.len());
            CATEGORIES
                .iter()
                .for_each(|name| reply.bulk(name.as_bytes()));
        }
        3 => {
            let wanted = args.at(2);
            let known = CATEGORIES.iter().find(|name| args.is(2, name));
            let category = known.ok_or_else(|| {
                let wanted = shown(&wanted[..wanted.len().min(128)]);
                on_one_line(&format!("Unknown category '{wanted}'"))
            })?;
            let rows = REGISTRY.rows().iter();
            let names: Vec<_> = rows
                .filter(|row| facts::categories(&row.command).contains(category))
                .map(|row| row.name.as_bytes())
                .collect();
            reply.array(names.len());
            names.iter().for_each(|name| reply.bulk(name));
        }
        _ => return Err(malformed(args).into()),
    }
    Ok(())
}

fn set_user(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let name = args.at(2);
    if !is_valid_name(name) {
        let text = "Usernames can't contain spaces or null characters";
        return Err(CommandError::err(text).into());
    }
    let (shared, own_id) = (context.shared, context.session.client.id);
    let set = shared.users.set(shared, name, args.from(3), own_id);
    context.session.closing |= set.map_err(|error| on_one_line(&error))?;
    reply.ok();
    Ok(())
}

fn del_user(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.from(2).any(|name| name == users::DEFAULT) {
        let text = "The 'default' user cannot be removed";
        return Err(CommandError::err(text).into());
    }
    let (shared, own_id) = (context.shared, context.session.client.id);
    let (deleted, closes_own) = shared.users.delete(shared, args.from(2), own_id);
    context.session.closing |= closes_own;
    reply.integer(deleted as i64);
    Ok(())
}

/// Writes three fields about a selector.
fn write_selector(reply: &mut Reply<'_>, selector: &Selector) {
    for (field, text) in [
        ("commands", selector.command_rules(catalogue())),
        ("keys", selector.keys_text()),
        ("channels", selector.channels_text()),
    ] {
        reply.bulk(field.as_bytes());
        reply.bulk(&text);
    }
}

fn get_user(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let Some(account) = context.shared.users.find(args.at(2)) else {
        reply.null();
        return Ok(());
    };
    let user = account.user();
    reply.map(6);
    reply.bulk(b"flags");
    let flags = user.flags();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"passwords");
    let passwords = user.password_digests();
    reply.array(passwords.len());
    passwords.for_each(|digest| reply.bulk(digest.as_bytes()));
    write_selector(reply, user.root());
    reply.bulk(b"selectors");
    reply.array(user.selectors().len());
    for selector in user.selectors() {
        reply.map(3);
        write_selector(reply, selector);
    }
    Ok(())
}

fn list(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let all = context.shared.users.all();
    reply.array(all.len());
    all.iter()
        .for_each(|account| reply.bulk(&users::line(account)));
    Ok(())
}

fn users(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let all = context.shared.users.all();
    reply.array(all.len());
    all.iter().for_each(|account| reply.bulk(account.name()));
    Ok(())
}

fn who_am_i(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.bulk(context.session.login.account().name());
    Ok(())
}

fn load(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (shared, own_id) = (context.shared, context.session.client.id);
    context.session.closing |= shared.users.load(shared, own_id)?;
    reply.ok();
    Ok(())
}

fn save(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    context.shared.users.save(context.shared)?;
    reply.ok();
    Ok(())
}

fn gen_pass(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const BITS_MAX: i64 = 4096;
    let bits = match args.len() {
        2 => 256,
        3 => args.integer(2)?,
        _ => return Err(malformed(args).into()),
    };
    if !(1..=BITS_MAX).contains(&bits) {
        return Err(CommandError::err(format!(
            "ACL GENPASS argument must be the number of bits for the output password, a positive number up to {BITS_MAX}"
        ))
        .into());
    }
    let digits = (bits as usize).div_ceil(4);
    let bytes = secret(digits.div_ceil(2)).map_err(|error| {
        log::error!("The operating system gives no random numbers: {error}");
        CommandError::err("no random numbers are available")
    })?;
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    reply.bulk(text.as_bytes());
    Ok(())
}

/// Random bytes that nobody can guess.
fn secret(len: usize) -> std::result::Result<Vec<u8>, rustix::io::Errno> {
    let (mut bytes, mut filled) = (vec![0; len], 0);
    while filled < len {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

fn log(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const SHOWN_DEFAULT: i64 = 10;
    let users = &context.shared.users;
    let count = match args.len() {
        2 => SHOWN_DEFAULT,
        3 if args.is(2, "RESET") => {
            users.with_log(|log| log.clear());
            reply.ok();
            return Ok(());
        }
        3 => number::parse_integer(args.at(2)).ok_or(CommandError::NotInteger)?,
        _ => return Err(malformed(args).into()),
    };
    let now_ms = context.now.0;
    users.with_log(|log| {
        let count = usize::try_from(count).unwrap_or(0).min(log.entries().len());
        reply.array(count);
        for entry in log.entries().take(count) {
            reply.map(10);
            reply.bulk(b"count");
            reply.integer(entry.count as i64);
            reply.bulk(b"reason");
            reply.bulk(entry.reason.name().as_bytes());
            reply.bulk(b"context");
            reply.bulk(entry.context.name().as_bytes());
            reply.bulk(b"object");
            reply.bulk(&entry.object);
            reply.bulk(b"username");
            reply.bulk(&entry.user);
            reply.bulk(b"age-seconds");
            reply.double((now_ms - entry.at_ms) as f64 / 1000.0);
            reply.bulk(b"client-info");
            reply.bulk(entry.client.trim_end().as_bytes());
            reply.bulk(b"entry-id");
            reply.integer(entry.id as i64);
            reply.bulk(b"timestamp-created");
            reply.integer(entry.created_ms);
            reply.bulk(b"timestamp-last-updated");
            reply.integer(entry.at_ms);
        }
    });
    Ok(())
}

fn dry_run(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let account = context.shared.users.find(args.at(2));
    let account =
        account.ok_or_else(|| on_one_line(&format!("User '{}' not found", shown(args.at(2)))))?;
    let request = args.behind(3);
    let row = match REGISTRY.find(request.at(0)) {
        Some(container) if !container.subcommands.is_empty() && request.len() > 1 => {
            REGISTRY.find_subcommand(container, request.at(1))
        }
        found => found,
    };
    let row =
        row.ok_or_else(|| on_one_line(&format!("Command '{}' not found", shown(request.at(0)))))?;
    if !row.command.arity.allows(request.len()) {
        return Err(CommandError::Arity(row.name.clone()).into());
    }
    match check(&account.user(), row, request) {
        None => reply.ok(),
        Some(text) => reply.bulk(&text),
    }
    Ok(())
}

/// What DRYRUN returns for a request that a user may not run.
fn check(user: &User, row: &'static crate::registry::Row, args: Args<'_>) -> Option<Vec<u8>> {
    let asked = Asked { row, args };
    let denied = user.check(&asked).err()?;
    let about = |place: usize, what: &[u8]| {
        [
            b"This user has no permissions to access the '".as_slice(),
            // As in Redis, up to the first zero byte.
            args.at(place)
                .split(|&byte| byte == 0)
                .next()
                .unwrap_or_default(),
            what,
        ]
        .concat()
    };
    Some(match denied {
        Denied::Command => format!(
            "This user has no permissions to run the '{}' command",
            REGISTRY.rows()[asked.command()].name
        )
        .into(),
        Denied::Key(place) => about(place, b"' key"),
        Denied::Channel(place) => about(place, b"' channel"),
    })
}
