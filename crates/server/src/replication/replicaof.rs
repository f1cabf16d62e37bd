//! REPLICAOF and SLAVEOF.

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_commands::Arity::Exactly;
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_config::PrimaryAddress;
use damselfly_protocol::Reply;

use super::link;
use crate::admin::client;
use crate::registry::Handler;
use crate::session::Context;

const REPLICAOF: Command<Handler> = Command {
    name: "REPLICAOF",
    arity: Exactly(3),
    keys: Keys::None,
    traits: &[
        Trait::NoAsyncLoading,
        Trait::Admin,
        Trait::NoScript,
        Trait::Stale,
    ],
    run: Run::Run(Handler::Session(replicaof)),
    group: Group::Server,
    usage: "REPLICAOF <host port | NO ONE>",
    summary: "Makes this server a replica of another one, or a primary.",
    since: "5.0.0",
    complexity: "O(1)",
};

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    REPLICAOF,
    Command {
        name: "SLAVEOF",
        usage: "SLAVEOF <host port | NO ONE>",
        since: "1.0.0",
        ..REPLICAOF
    },
];

fn replicaof(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let shared = context.shared.clone();
    if args.is(1, "NO") && args.is(2, "ONE") {
        if shared.replication.is_replica() {
            link::become_primary_within(&shared, &mut context.lock_all()?);
            link::set_option(&shared, None);
            let client = client::line(&context.session.client, context.now.0);
            log::info!(
                "MASTER MODE enabled (user request from '{}')",
                client.trim_end()
            );
        }
        reply.ok();
        return Ok(());
    }
    let port = parse_integer(args.at(2)).and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| CommandError::err("Invalid master port"))?;
    let host = String::from_utf8(args.at(1).to_vec());
    let host = host.map_err(|_| CommandError::err("Invalid master host"))?;
    let current = shared.replication.link.primary();
    if current
        .is_some_and(|primary| primary.host.eq_ignore_ascii_case(&host) && primary.port == port)
    {
        log::info!(
            "REPLICAOF would result into synchronization with the master we are already connected with. No operation performed."
        );
        reply.simple("OK Already connected to specified master");
        return Ok(());
    }
    let primary = PrimaryAddress { host, port };
    link::follow(&shared, &context.lock_all()?, primary.clone(), false);
    let client = client::line(&context.session.client, context.now.0);
    log::info!(
        "REPLICAOF {}:{} enabled (user request from '{}')",
        primary.host,
        primary.port,
        client.trim_end()
    );
    link::set_option(&shared, Some(primary));
    reply.ok();
    Ok(())
}
