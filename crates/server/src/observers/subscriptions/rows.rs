//! The rows of publishing and subscribing.

use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Arity, At, Command, Group, Keys, Run, Trait};

use super::{
    channels, num_pat, num_sub, psubscribe, publish, punsubscribe, shard_channels, shard_num_sub,
    spublish, ssubscribe, subscribe, sunsubscribe, unsubscribe,
};
use crate::registry::{Handler, SessionFn};

const SUBSCRIBING: &[Trait] = &[
    Trait::PubSub,
    Trait::NoScript,
    Trait::Loading,
    Trait::Stale,
    Trait::Sentinel,
];
const PUBLISHING: &[Trait] = &[
    Trait::PubSub,
    Trait::Loading,
    Trait::Stale,
    Trait::Fast,
    Trait::Sentinel,
    Trait::MayReplicate,
];
const LOOKING: &[Trait] = &[Trait::PubSub, Trait::Loading, Trait::Stale];

/// Channels that a slot has, in a cluster.
const SHARD_CHANNELS: Keys = Keys::Slots(At::ToEnd { first: 1, step: 1 });

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "SUBSCRIBE",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: SUBSCRIBING,
        run: Run::Run(Handler::Session(subscribe)),
        group: Group::PubSub,
        usage: "SUBSCRIBE channel [channel ...]",
        summary: "Subscribes to channels.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of channels",
    },
    Command {
        name: "UNSUBSCRIBE",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: SUBSCRIBING,
        run: Run::Run(Handler::Session(unsubscribe)),
        group: Group::PubSub,
        usage: "UNSUBSCRIBE [channel [channel ...]]",
        summary: "Unsubscribes from the given channels, or from all.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of channels",
    },
    Command {
        name: "PSUBSCRIBE",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: SUBSCRIBING,
        run: Run::Run(Handler::Session(psubscribe)),
        group: Group::PubSub,
        usage: "PSUBSCRIBE pattern [pattern ...]",
        summary: "Subscribes to all channels whose names match the patterns.",
        since: "2.0.0",
        complexity: "O(N log M) where N is the number of patterns and M how many there are in all",
    },
    Command {
        name: "PUNSUBSCRIBE",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: SUBSCRIBING,
        run: Run::Run(Handler::Session(punsubscribe)),
        group: Group::PubSub,
        usage: "PUNSUBSCRIBE [pattern [pattern ...]]",
        summary: "Unsubscribes from the given patterns, or from all.",
        since: "2.0.0",
        complexity: "O(N log M) where N is the number of patterns and M how many there are in all",
    },
    Command {
        name: "SSUBSCRIBE",
        arity: AtLeast(2),
        keys: SHARD_CHANNELS,
        traits: SUBSCRIBING,
        run: Run::Run(Handler::Session(ssubscribe)),
        group: Group::PubSub,
        usage: "SSUBSCRIBE shardchannel [shardchannel ...]",
        summary: "Subscribes to shard channels.",
        since: "7.0.0",
        complexity: "O(N) where N is the number of shard channels",
    },
    Command {
        name: "SUNSUBSCRIBE",
        arity: AtLeast(1),
        keys: SHARD_CHANNELS,
        traits: SUBSCRIBING,
        run: Run::Run(Handler::Session(sunsubscribe)),
        group: Group::PubSub,
        usage: "SUNSUBSCRIBE [shardchannel [shardchannel ...]]",
        summary: "Unsubscribes from the given shard channels, or from all.",
        since: "7.0.0",
        complexity: "O(N) where N is the number of shard channels",
    },
    Command {
        name: "PUBLISH",
        arity: Exactly(3),
        keys: Keys::None,
        traits: PUBLISHING,
        run: Run::Run(Handler::Session(publish)),
        group: Group::PubSub,
        usage: "PUBLISH channel message",
        summary: "Publishes a message to a channel and returns how many clients received it.",
        since: "2.0.0",
        complexity: "O(N+M) where N is the number of the channel's subscribers and M how many patterns there are in all",
    },
    Command {
        name: "SPUBLISH",
        arity: Exactly(3),
        keys: Keys::Slots(At::One(1)),
        traits: PUBLISHING,
        run: Run::Run(Handler::Session(spublish)),
        group: Group::PubSub,
        usage: "SPUBLISH shardchannel message",
        summary: "Publishes a message to a shard channel and returns how many clients received it.",
        since: "7.0.0",
        complexity: "O(N) where N is the number of the shard channel's subscribers",
    },
    Command {
        name: "PUBSUB",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: &[],
        run: Run::Subcommands(SUBCOMMANDS),
        group: Group::PubSub,
        usage: "PUBSUB",
        summary: "Commands about channels and their subscribers.",
        since: "2.8.0",
        complexity: "Depends on subcommand",
    },
];

const fn subcommand(
    name: &'static str,
    arity: Arity,
    run: SessionFn,
    usage: &'static str,
    summary: &'static str,
    since: &'static str,
    complexity: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity,
        keys: Keys::None,
        traits: LOOKING,
        run: Run::Run(Handler::Session(run)),
        group: Group::PubSub,
        usage,
        summary,
        since,
        complexity,
    }
}

const SUBCOMMANDS: &[Command<Handler>] = &[
    subcommand(
        "CHANNELS",
        AtLeast(2),
        channels,
        "PUBSUB CHANNELS [pattern]",
        "Lists the channels that have subscribers, optionally only those that match a pattern.",
        "2.8.0",
        "O(N) where N is the number of channels that have subscribers",
    ),
    subcommand(
        "NUMSUB",
        AtLeast(2),
        num_sub,
        "PUBSUB NUMSUB [channel [channel ...]]",
        "Returns the number of subscribers of each channel, without those of patterns.",
        "2.8.0",
        "O(N) where N is the number of channels asked for",
    ),
    subcommand(
        "NUMPAT",
        Exactly(2),
        num_pat,
        "PUBSUB NUMPAT",
        "Returns the number of different patterns that have subscribers.",
        "2.8.0",
        "O(1)",
    ),
    subcommand(
        "SHARDCHANNELS",
        AtLeast(2),
        shard_channels,
        "PUBSUB SHARDCHANNELS [pattern]",
        "Lists the shard channels that have subscribers, optionally only those that match a pattern.",
        "7.0.0",
        "O(N) where N is the number of shard channels that have subscribers",
    ),
    subcommand(
        "SHARDNUMSUB",
        AtLeast(2),
        shard_num_sub,
        "PUBSUB SHARDNUMSUB [shardchannel [shardchannel ...]]",
        "Returns the number of subscribers of each shard channel.",
        "7.0.0",
        "O(N) where N is the number of shard channels asked for",
    ),
];
