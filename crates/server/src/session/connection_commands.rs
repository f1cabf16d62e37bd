//! Commands on the connection: AUTH, HELLO, PING, SELECT and their relatives.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_acl::User;
use damselfly_base::CommandError;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::{Reply, Version};

use crate::observers::client_tracking;
use crate::observers::subscriptions;
use crate::registry::Handler;
use crate::session::{Context, Durability, Replies, Session};
use crate::shared::Shared;
use crate::users::{self, Login, WrongLogin};

/// Traits that most of these commands share: always allowed, and fast.
const ALWAYS: [Trait; 4] = [Trait::NoScript, Trait::Loading, Trait::Stale, Trait::Fast];

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "PING",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: &[
            Trait::Fast,
            Trait::Sentinel,
            Trait::Tip("request_policy:all_shards"),
            Trait::Tip("response_policy:all_succeeded"),
        ],
        run: Run::Run(Handler::Session(ping)),
        group: Group::Connection,
        usage: "PING [message]",
        summary: "Returns PONG, or the message.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "ECHO",
        arity: Exactly(2),
        keys: Keys::None,
        traits: &[Trait::Loading, Trait::Stale, Trait::Fast],
        run: Run::Run(Handler::Session(echo)),
        group: Group::Connection,
        usage: "ECHO message",
        summary: "Returns the message.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "SELECT",
        arity: Exactly(2),
        keys: Keys::None,
        traits: &[Trait::Loading, Trait::Stale, Trait::Fast],
        run: Run::Run(Handler::Session(select)),
        group: Group::Connection,
        usage: "SELECT index",
        summary: "Selects the database for the commands of the connection.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "QUIT",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: &[
            ALWAYS[0],
            ALWAYS[1],
            ALWAYS[2],
            ALWAYS[3],
            Trait::NoAuth,
            Trait::AllowBusy,
            Trait::Deprecated {
                since: "7.2.0",
                instead: "just closing the connection",
            },
        ],
        run: Run::Run(Handler::Session(quit)),
        group: Group::Connection,
        usage: "QUIT",
        summary: "Closes the connection after its replies are sent.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "AUTH",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: &[
            ALWAYS[0],
            ALWAYS[1],
            ALWAYS[2],
            ALWAYS[3],
            Trait::NoAuth,
            Trait::Sentinel,
            Trait::AllowBusy,
        ],
        run: Run::Run(Handler::Session(auth)),
        group: Group::Connection,
        usage: "AUTH [username] password",
        summary: "Authenticates the connection.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of passwords of the user",
    },
    Command {
        name: "HELLO",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: &[
            ALWAYS[0],
            ALWAYS[1],
            ALWAYS[2],
            ALWAYS[3],
            Trait::NoAuth,
            Trait::Sentinel,
            Trait::AllowBusy,
        ],
        run: Run::Run(Handler::Session(hello)),
        group: Group::Connection,
        usage: "HELLO [protover [AUTH username password] [SETNAME clientname]]",
        summary: "Chooses the protocol version, authenticates and names the connection.",
        since: "6.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "RESET",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[
            ALWAYS[0],
            ALWAYS[1],
            ALWAYS[2],
            ALWAYS[3],
            Trait::NoAuth,
            Trait::AllowBusy,
        ],
        run: Run::Run(Handler::Session(reset)),
        group: Group::Connection,
        usage: "RESET",
        summary: "Resets the connection to the state of a new one.",
        since: "6.2.0",
        complexity: "O(1)",
    },
];

fn ping(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match args.len() {
        1 | 2 if context.session.awaits_messages_only() => {
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(args.get(1).unwrap_or_default());
        }
        1 => reply.simple("PONG"),
        2 => reply.bulk(args.at(1)),
        _ => return Err(CommandError::Arity(String::from("ping")).into()),
    }
    Ok(())
}

fn echo(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.bulk(args.at(1));
    Ok(())
}

fn select(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let index = args.database(1, context.shared.engine.databases())?;
    context.session.select(index);
    reply.ok();
    Ok(())
}

fn quit(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &mut *context.session;
    session.closing = true;
    leave(context.shared, session);
    reply.ok();
    Ok(())
}

/// Ends MONITOR, the transaction, all subscriptions and tracking of a client.
pub(crate) fn leave(shared: &Shared, session: &mut Session) {
    stop_monitoring(shared, &session.client);
    session.transaction.end(shared, &session.client);
    subscriptions::unsubscribe_all(shared, session);
    client_tracking::stop(shared, session);
}

/// Makes the connection a user, if name and password are right. `command` is the name of the command as the client wrote it.
///
/// # Errors
/// They are wrong.
pub(crate) fn log_in(
    context: &mut Context<'_>,
    user: &[u8],
    password: &[u8],
    command: &[u8],
) -> Result {
    let within = match context.session.is_in_transaction() {
        true => users::Context::Multi,
        false => users::Context::TopLevel,
    };
    let Session { login, client, .. } = &mut *context.session;
    login
        .log_in(context.shared, client, (user, password), within, command)
        .map_err(|WrongLogin| {
            let text = "WRONGPASS invalid username-password pair or user is disabled.";
            CommandError::Text(text.to_owned()).into()
        })
}

fn default_user(context: &Context<'_>) -> Arc<User> {
    context.shared.users.default_account().user()
}

fn auth(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match args.len() {
        2 if default_user(context).has_no_password() => {
            return Err(CommandError::err(
                "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            )
            .into());
        }
        2 => log_in(context, users::DEFAULT, args.at(1), args.at(0))?,
        3 => log_in(context, args.at(1), args.at(2), args.at(0))?,
        _ => return Err(CommandError::Syntax.into()),
    }
    reply.ok();
    Ok(())
}

/// Returns the name as text. Refuses names that would make CLIENT LIST ambiguous.
pub(crate) fn check_name(name: &[u8], what: &str) -> Result<String> {
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err(CommandError::err(format!(
            "{what} cannot contain spaces, newlines or special characters."
        ))
        .into());
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn hello(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut protocol = context.session.protocol;
    if args.len() > 1 {
        let number = damselfly_base::number::parse_integer(args.at(1)).ok_or_else(|| {
            CommandError::err("Protocol version is not an integer or out of range")
        })?;
        protocol = Version::from_number(number).ok_or_else(|| {
            CommandError::Text(String::from("NOPROTO unsupported protocol version"))
        })?;
    }
    // Nothing takes effect before everything is known to be right.
    let (mut at, mut login, mut client_name) = (2, None, None);
    while at < args.len() {
        if args.is(at, "AUTH") && at + 2 < args.len() {
            login = Some((args.at(at + 1), args.at(at + 2)));
            at += 3;
        } else if args.is(at, "SETNAME") && at + 1 < args.len() {
            client_name = Some(check_name(args.at(at + 1), "Client names")?);
            at += 2;
        } else {
            let error = CommandError::quoting("Syntax error in HELLO option '", args.at(at), "'");
            return Err(error.into());
        }
    }
    if let Some((user, password)) = login {
        log_in(context, user, password, args.at(0))?;
    }
    if !context.session.login.is_authenticated() {
        return Err(CommandError::Text(String::from(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ))
        .into());
    }
    if let Some(name) = client_name {
        context.session.client.names().name = name;
    }
    context.session.set_protocol(protocol);
    reply.set_version(protocol);
    reply.map(7);
    for (field, value) in [("server", "redis"), ("version", crate::REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(protocol.number().into());
    reply.bulk(b"id");
    reply.integer(context.session.client.id as i64);
    let role = match context.shared.replication.is_replica() {
        true => "replica",
        false => "master",
    };
    for (field, value) in [("mode", "standalone"), ("role", role)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

fn reset(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &mut *context.session;
    if session.feed.is_some() {
        return Err(CommandError::err("can only reset normal client connections").into());
    }
    leave(context.shared, session);
    session.client.no_evict.store(false, Relaxed);
    session.client.no_touch.store(false, Relaxed);
    session.set_durability(Durability::default());
    session.client.names().name.clear();
    let account = context.shared.users.default_account().clone();
    session.client.set_account(account.clone());
    session.login = Login::new(&context.shared.users, account);
    if session.replies != Replies::SkipThis {
        session.replies = Replies::On;
    }
    session.select(0);
    session.set_protocol(Version::Resp2);
    reply.set_version(Version::Resp2);
    reply.simple("RESET");
    Ok(())
}

/// Turns MONITOR off for a client, if it was on.
fn stop_monitoring(shared: &Shared, client: &crate::clients::Client) {
    if shared.clients.stop_monitoring(client) {
        shared.monitors.fetch_sub(1, Relaxed);
    }
}
