//! CLUSTER, READONLY, READWRITE and ASKING, which every server outside a cluster refuses with the same error.

use damselfly_base::CommandError;
use damselfly_commands::Arity::{self, AtLeast, Exactly};
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use crate::registry::Handler;
use crate::session::Context;

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "CLUSTER",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: &[],
        run: Run::Subcommands(SUBCOMMANDS),
        group: Group::Cluster,
        usage: "CLUSTER",
        summary: "A container for commands on clusters, all of which are refused.",
        since: "3.0.0",
        complexity: "Depends on subcommand.",
    },
    Command {
        name: "READONLY",
        arity: Exactly(1),
        keys: Keys::None,
        traits: ALWAYS,
        run: REFUSED,
        group: Group::Cluster,
        usage: "READONLY",
        summary: "Lets a replica in a cluster serve reads: refused outside a cluster.",
        since: "3.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "READWRITE",
        arity: Exactly(1),
        keys: Keys::None,
        traits: ALWAYS,
        run: REFUSED,
        group: Group::Cluster,
        usage: "READWRITE",
        summary: "Undoes READONLY: refused outside a cluster.",
        since: "3.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "ASKING",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[Trait::Fast, Trait::Category("connection")],
        run: REFUSED,
        group: Group::Cluster,
        usage: "ASKING",
        summary: "Follows a redirection in a cluster: refused outside a cluster.",
        since: "3.0.0",
        complexity: "O(1)",
    },
];

const REFUSED: Run<Handler> = Run::Run(Handler::Session(refuse));

const ALWAYS: &[Trait] = &[
    Trait::Loading,
    Trait::Stale,
    Trait::Fast,
    Trait::Category("connection"),
];
const CHANGES: &[Trait] = &[Trait::Admin, Trait::Stale, Trait::NoAsyncLoading];
const READS: &[Trait] = &[Trait::Stale];
const VARIES: Trait = Trait::Tip("nondeterministic_output");

fn refuse(_: &mut Context<'_>, _: Args<'_>, _: &mut Reply<'_>) -> Result {
    Err(CommandError::err("This instance has cluster support disabled").into())
}

const fn subcommand(
    name: &'static str,
    arity: Arity,
    traits: &'static [Trait],
    usage: &'static str,
    since: &'static str,
    complexity: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity,
        keys: Keys::None,
        traits,
        run: REFUSED,
        group: Group::Cluster,
        usage,
        summary: "Refused outside a cluster.",
        since,
        complexity,
    }
}

#[rustfmt::skip] // One line per subcommand.
static SUBCOMMANDS: &[Command<Handler>] = &[
    subcommand("ADDSLOTS", AtLeast(3), CHANGES, "CLUSTER ADDSLOTS slot [slot ...]", "3.0.0", "O(N) where N is the total number of hash slot arguments"),
    subcommand("ADDSLOTSRANGE", AtLeast(4), CHANGES, "CLUSTER ADDSLOTSRANGE start-slot end-slot [start-slot end-slot ...]", "7.0.0", "O(N) where N is the total number of the slots between the start slot and end slot arguments."),
    subcommand("BUMPEPOCH", Exactly(2), &[Trait::Admin, Trait::Stale, Trait::NoAsyncLoading, VARIES], "CLUSTER BUMPEPOCH", "3.0.0", "O(1)"),
    subcommand("COUNT-FAILURE-REPORTS", Exactly(3), &[Trait::Admin, Trait::Stale, VARIES], "CLUSTER COUNT-FAILURE-REPORTS node-id", "3.0.0", "O(N) where N is the number of failure reports"),
    subcommand("COUNTKEYSINSLOT", Exactly(3), READS, "CLUSTER COUNTKEYSINSLOT slot", "3.0.0", "O(1)"),
    subcommand("DELSLOTS", AtLeast(3), CHANGES, "CLUSTER DELSLOTS slot [slot ...]", "3.0.0", "O(N) where N is the total number of hash slot arguments"),
    subcommand("DELSLOTSRANGE", AtLeast(4), CHANGES, "CLUSTER DELSLOTSRANGE start-slot end-slot [start-slot end-slot ...]", "7.0.0", "O(N) where N is the total number of the slots between the start slot and end slot arguments."),
    subcommand("FAILOVER", AtLeast(2), CHANGES, "CLUSTER FAILOVER [FORCE | TAKEOVER]", "3.0.0", "O(1)"),
    subcommand("FLUSHSLOTS", Exactly(2), CHANGES, "CLUSTER FLUSHSLOTS", "3.0.0", "O(1)"),
    subcommand("FORGET", Exactly(3), CHANGES, "CLUSTER FORGET node-id", "3.0.0", "O(1)"),
    subcommand("GETKEYSINSLOT", Exactly(4), &[Trait::Stale, VARIES], "CLUSTER GETKEYSINSLOT slot count", "3.0.0", "O(N) where N is the number of requested keys"),
    subcommand("HELP", Exactly(2), &[Trait::Loading, Trait::Stale], "CLUSTER HELP", "5.0.0", "O(1)"),
    subcommand("INFO", Exactly(2), &[Trait::Stale, VARIES], "CLUSTER INFO", "3.0.0", "O(1)"),
    subcommand("KEYSLOT", Exactly(3), READS, "CLUSTER KEYSLOT key", "3.0.0", "O(N) where N is the number of bytes in the key"),
    subcommand("LINKS", Exactly(2), &[Trait::Stale, VARIES], "CLUSTER LINKS", "7.0.0", "O(N) where N is the total number of Cluster nodes"),
    subcommand("MEET", AtLeast(4), CHANGES, "CLUSTER MEET ip port [cluster-bus-port]", "3.0.0", "O(1)"),
    subcommand("MYID", Exactly(2), READS, "CLUSTER MYID", "3.0.0", "O(1)"),
    subcommand("MYSHARDID", Exactly(2), &[Trait::Stale, VARIES], "CLUSTER MYSHARDID", "7.2.0", "O(1)"),
    subcommand("NODES", Exactly(2), &[Trait::Stale, VARIES], "CLUSTER NODES", "3.0.0", "O(N) where N is the total number of Cluster nodes"),
    subcommand("REPLICAS", Exactly(3), &[Trait::Admin, Trait::Stale, VARIES], "CLUSTER REPLICAS node-id", "5.0.0", "O(N) where N is the number of replicas."),
    subcommand("REPLICATE", Exactly(3), CHANGES, "CLUSTER REPLICATE node-id", "3.0.0", "O(1)"),
    subcommand("RESET", AtLeast(2), &[Trait::Admin, Trait::NoScript, Trait::Stale], "CLUSTER RESET [HARD | SOFT]", "3.0.0", "O(N) where N is the number of known nodes. The command may execute a FLUSHALL as a side effect."),
    subcommand("SAVECONFIG", Exactly(2), CHANGES, "CLUSTER SAVECONFIG", "3.0.0", "O(1)"),
    subcommand("SET-CONFIG-EPOCH", Exactly(3), CHANGES, "CLUSTER SET-CONFIG-EPOCH config-epoch", "3.0.0", "O(1)"),
    subcommand("SETSLOT", AtLeast(4), CHANGES, "CLUSTER SETSLOT slot <STABLE | IMPORTING node-id | MIGRATING node-id | NODE node-id>", "3.0.0", "O(1)"),
    subcommand("SHARDS", Exactly(2), &[Trait::Loading, Trait::Stale, VARIES], "CLUSTER SHARDS", "7.0.0", "O(N) where N is the total number of cluster nodes"),
    subcommand("SLAVES", Exactly(3), &[Trait::Admin, Trait::Stale, VARIES, Trait::Deprecated { since: "5.0.0", instead: "CLUSTER REPLICAS" }], "CLUSTER SLAVES node-id", "3.0.0", "O(N) where N is the number of replicas."),
    subcommand("SLOTS", Exactly(2), &[Trait::Loading, Trait::Stale, VARIES, Trait::Deprecated { since: "7.0.0", instead: "CLUSTER SHARDS" }], "CLUSTER SLOTS", "3.0.0", "O(N) where N is the total number of Cluster nodes"),
];
