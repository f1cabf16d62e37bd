//! WAIT: waiting until replicas have the writes of the client. Without replicas, the wait ends with the timeout. WAITAOF is a command of
//! the server, which knows the append-only file.

use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_engine::Tx;
use damselfly_protocol::Reply;
use damselfly_value::Type;

use crate::command::{Arity::Exactly, Command, Group, Keys, Run, Trait};
use crate::{Args, KeyspaceFn, Result, Stop, Wait};

const TRAITS: &[Trait] = &[
    Trait::Blocking,
    Trait::Category("connection"),
    Trait::Tip("request_policy:all_shards"),
    Trait::Tip("response_policy:agg_min"),
];

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[Command {
    name: "WAIT",
    arity: Exactly(3),
    keys: Keys::None,
    traits: TRAITS,
    run: Run::Run(wait),
    group: Group::Generic,
    usage: "WAIT numreplicas timeout",
    summary: "Waits until a number of replicas have the client's writes, and returns how many have.",
    since: "3.0.0",
    complexity: "O(1)",
}];

fn timeout_ms(text: &[u8]) -> Result<Option<u64>> {
    let ms = parse_integer(text)
        .ok_or_else(|| CommandError::err("timeout is not an integer or out of range"))?;
    let ms = u64::try_from(ms).map_err(|_| CommandError::err("timeout is negative"))?;
    Ok(Some(ms).filter(|&ms| ms > 0))
}

/// Waits until the timeout: nothing can end the wait earlier.
fn wait_in_vain(timeout_ms: Option<u64>, reply: fn(&mut Reply<'_>)) -> Stop {
    Stop::Wait(Arc::new(Wait {
        timeout_ms,
        keys: 0..0,
        target: None,
        of: Type::String,
        has: |_, _, _| false,
        serve: |_, _, _, _| Ok(()),
        ends_if_gone: false,
        nothing: reply,
        timed_out: reply,
        args: None,
    }))
}

fn wait(_: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let none = |reply: &mut Reply<'_>| reply.integer(0);
    let replicas = args.integer(1)?;
    let timeout_ms = timeout_ms(args.at(2))?;
    if replicas > 0 {
        return Err(wait_in_vain(timeout_ms, none));
    }
    none(reply);
    Ok(())
}
