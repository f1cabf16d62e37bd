//! Pending entries of a group, which were delivered but not acknowledged: XPENDING shows them, XCLAIM and XAUTOCLAIM give them to
//! other consumers.

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_collections::stream::{ConsumerIndex, Group as ReadingGroup, Pending};
use damselfly_engine::{Create, Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, Stream, StreamId, StreamMut};

use crate::command::{
    Access, Arity::AtLeast, At::One, Command, Group, Keys, Run, Trait, reads, writes,
};
use crate::stream_groups::{
    count_change, log_acknowledged, log_deliveries, log_new_consumer, log_position,
    no_key_or_group, see_consumer,
};
use crate::stream_ids::{interval_end, interval_start, parse_exact, reply_id};
use crate::stream_ranges::reply_entry;
use crate::{Args, KeyspaceFn, Result, long};

const NONDETERMINISTIC: Trait = Trait::Tip("nondeterministic_output");

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "XPENDING",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[NONDETERMINISTIC],
        run: Run::Run(xpending),
        group: Group::Stream,
        usage: "XPENDING key group [[IDLE min-idle-time] start end count [consumer]]",
        summary: "Returns the pending entries of a group: delivered but not acknowledged.",
        since: "5.0.0",
        complexity: "O(log(N)+M) where N is how many entries are pending and M how many are looked at",
    },
    Command {
        name: "XCLAIM",
        arity: AtLeast(6),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::Fast, NONDETERMINISTIC],
        run: Run::Run(xclaim),
        group: Group::Stream,
        usage: "XCLAIM key group consumer min-idle-time id [id ...] [IDLE ms] [TIME unix-time-milliseconds] [RETRYCOUNT count] [FORCE] [JUSTID] [LASTID lastid]",
        summary: "Transfers pending entries to another consumer, as if they had been delivered to it, and returns them.",
        since: "5.0.0",
        complexity: "O(log(N)) for each id, where N is how many entries are pending",
    },
    Command {
        name: "XAUTOCLAIM",
        arity: AtLeast(6),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[Trait::Fast, NONDETERMINISTIC],
        run: Run::Run(xautoclaim),
        group: Group::Stream,
        usage: "XAUTOCLAIM key group consumer min-idle-time start [COUNT count] [JUSTID]",
        summary: "Transfers entries that have been pending for long to another consumer, and returns them and the id to continue at.",
        since: "6.2.0",
        complexity: "O(1) if COUNT is small",
    },
];

/// The arguments of XPENDING for single entries.
struct PendingQuery<'a> {
    start: StreamId,
    end: StreamId,
    count: usize,
    idle_min_ms: i64,
    consumer: Option<&'a [u8]>,
}

impl<'a> PendingQuery<'a> {
    /// `None` for a summary.
    fn parse(args: Args<'a>) -> Result<Option<Self>> {
        if args.len() == 3 {
            return Ok(None);
        }
        if !(6..=9).contains(&args.len()) {
            return Err(CommandError::Syntax.into());
        }
        let (mut idle_min_ms, mut at) = (0, 3);
        if args.is(3, "IDLE") {
            idle_min_ms = args.integer(4)?;
            if args.len() < 8 {
                return Err(CommandError::Syntax.into());
            }
            at = 5;
        }
        Ok(Some(Self {
            count: usize::try_from(args.integer(at + 2)?).unwrap_or(0),
            start: interval_start(args.at(at))?,
            end: interval_end(args.at(at + 1))?,
            idle_min_ms,
            consumer: args.get(at + 3),
        }))
    }

    /// Calls `show` with each selected entry.
    fn run(&self, group: &ReadingGroup, now_ms: i64, mut show: impl FnMut(StreamId, &Pending)) {
        if self.start > self.end {
            return;
        }
        let range = self.start..=self.end;
        let is_idle = |pending: &Pending| now_ms - pending.delivered_ms >= self.idle_min_ms;
        match self.consumer {
            None => {
                let all = group.pending().range(range);
                let idle = all.filter(|(_, pending)| is_idle(pending));
                idle.take(self.count)
                    .for_each(|(&id, pending)| show(id, pending));
            }
            Some(name) => {
                let Some(consumer) = group.find_consumer(name) else {
                    return;
                };
                let ids = group.consumer(consumer).pending().range(range);
                let all = ids.filter_map(|id| group.pending().get_key_value(id));
                let idle = all.filter(|(_, pending)| is_idle(pending));
                idle.take(self.count)
                    .for_each(|(&id, pending)| show(id, pending));
            }
        }
    }
}

fn xpending(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, name) = (args.key(1), args.at(2));
    let (shown, now_ms) = (PendingQuery::parse(args)?, tx.now().0);
    let pending = tx
        .peek(key)
        .and_then(Stream::view)
        .and_then(|stream| stream.group(name));
    let steps = pending.map_or(0, |group| group.pending().len());
    if shown
        .as_ref()
        .is_some_and(|shown| shown.count.min(steps) > 0)
    {
        long::check(tx, steps)?;
    }
    let stream = tx.read_as::<Stream>(key)?;
    let Some(group) = stream.and_then(|stream| stream.group(name)) else {
        return Err(no_key_or_group(key, name).into());
    };
    let Some(shown) = shown else {
        reply_summary(group, reply);
        return Ok(());
    };
    let (deferred, mut count) = (reply.deferred_array(), 0);
    shown.run(group, now_ms, |id, pending| {
        reply.array(4);
        reply_id(id, reply);
        reply.bulk(group.consumer(pending.consumer).name());
        reply.integer((now_ms - pending.delivered_ms).max(0));
        reply.integer(pending.deliveries.cast_signed());
        count += 1;
    });
    reply.finish(deferred, count);
    Ok(())
}

fn reply_summary(group: &ReadingGroup, reply: &mut Reply<'_>) {
    reply.array(4);
    reply.integer(group.pending().len() as i64);
    let ends = (
        group.pending().first_key_value(),
        group.pending().last_key_value(),
    );
    let (Some((&first, _)), Some((&last, _))) = ends else {
        reply.null();
        reply.null();
        reply.null_array();
        return;
    };
    reply_id(first, reply);
    reply_id(last, reply);
    let (deferred, mut count) = (reply.deferred_array(), 0);
    for (_, consumer) in group.consumers() {
        if !consumer.pending().is_empty() {
            reply.array(2);
            reply.bulk(consumer.name());
            reply.bulk_integer(consumer.pending().len() as i64);
            count += 1;
        }
    }
    reply.finish(deferred, count);
}

/// How entries are transferred to a consumer.
#[derive(Clone, Copy)]
struct Claim {
    idle_min_ms: i64,
    delivered_ms: i64,
    /// The new delivery count; `None` to add one to the old count.
    deliveries: Option<u64>,
    /// The reply has only ids, and the claim does not count as a delivery.
    only_ids: bool,
    now_ms: i64,
}

impl Claim {
    /// The delivery state of an entry after the claim; `None` if it may not be claimed. It may if it has been pending for long
    /// enough, or if it is not pending and `is_forced`. The caller changes its consumer.
    fn of(self, group: &ReadingGroup, id: StreamId, is_forced: bool) -> Option<Claimed> {
        let before = group.pending().get(&id);
        let deliveries = match before {
            None if !is_forced => return None,
            None => 1,
            Some(before) => {
                let idle_ms = self.now_ms - before.delivered_ms;
                if self.idle_min_ms > 0 && idle_ms < self.idle_min_ms {
                    return None;
                }
                before.deliveries
            }
        };
        let once_more = deliveries.wrapping_add(u64::from(!self.only_ids));
        Some(Claimed {
            delivered_ms: self.delivered_ms,
            deliveries: self.deliveries.unwrap_or(once_more),
        })
    }

    fn reply(self, stream: &Stream, id: StreamId, reply: &mut Reply<'_>) {
        if self.only_ids {
            reply_id(id, reply);
        } else if let Some(entry) = stream.get(id) {
            reply_entry(&entry, reply);
        }
    }
}

/// Options of XCLAIM.
struct ClaimRequest {
    claim: Claim,
    ids: Vec<StreamId>,
    is_forced: bool,
    last_id: StreamId,
}

impl ClaimRequest {
    fn parse(args: Args<'_>, now_ms: i64) -> Result<Self> {
        let number = |at: usize, option: &str| {
            let invalid = || CommandError::err(format!("Invalid {option} argument for XCLAIM"));
            parse_integer(args.at(at)).ok_or_else(invalid)
        };
        let idle_min_ms = number(4, "min-idle-time")?;
        let ids = args.from(5).map_while(|id| parse_exact(id, 0).ok());
        let ids: Vec<_> = ids.collect();
        let (mut delivered_ms, mut deliveries, mut last_id) = (now_ms, None, StreamId::MIN);
        let (mut is_forced, mut only_ids) = (false, false);
        let mut at = 5 + ids.len();
        while at < args.len() {
            let has_more = at + 1 < args.len();
            if args.is(at, "FORCE") {
                is_forced = true;
            } else if args.is(at, "JUSTID") {
                only_ids = true;
            } else if has_more && args.is(at, "IDLE") {
                at += 1;
                delivered_ms = now_ms.wrapping_sub(number(at, "IDLE option")?);
            } else if has_more && args.is(at, "TIME") {
                at += 1;
                delivered_ms = number(at, "TIME option")?;
            } else if has_more && args.is(at, "RETRYCOUNT") {
                at += 1;
                deliveries = u64::try_from(number(at, "RETRYCOUNT option")?).ok();
            } else if has_more && args.is(at, "LASTID") {
                at += 1;
                last_id = parse_exact(args.at(at), 0)?;
            } else {
                let option = args.at(at);
                return Err(
                    CommandError::quoting("Unrecognized XCLAIM option '", option, "'").into(),
                );
            }
            at += 1;
        }
        if !(0..=now_ms).contains(&delivered_ms) {
            delivered_ms = now_ms;
        }
        Ok(Self {
            claim: Claim {
                idle_min_ms,
                delivered_ms,
                deliveries,
                only_ids,
                now_ms,
            },
            ids,
            is_forced,
            last_id,
        })
    }
}

/// The state of a delivery after a claim.
struct Claimed {
    delivered_ms: i64,
    deliveries: u64,
}

/// The results of a claim so far.
struct ClaimResult {
    /// The claiming consumer.
    consumer: ConsumerIndex,
    has_new_consumer: bool,
    claimed: Vec<StreamId>,
    /// Pending entries that are no longer in the stream.
    gone: Vec<StreamId>,
}

impl ClaimResult {
    /// Begins a claim by the consumer of this name, which is marked as seen, or added.
    fn begin(group: &mut ReadingGroup, consumer: &[u8], now_ms: i64) -> Self {
        let (consumer, has_new_consumer) = see_consumer(group, consumer, now_ms);
        Self {
            consumer,
            has_new_consumer,
            claimed: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Transfers an entry to the consumer, if it may be claimed.
    fn claim(&mut self, group: &mut ReadingGroup, id: StreamId, claim: Claim, is_forced: bool) {
        let Some(claimed) = claim.of(group, id, is_forced) else {
            return;
        };
        group.consumer_mut(self.consumer).active_ms = Some(claim.now_ms);
        let pending = Pending {
            consumer: self.consumer,
            delivered_ms: claimed.delivered_ms,
            deliveries: claimed.deliveries,
        };
        group.record_delivery(id, pending);
        self.claimed.push(id);
    }

    /// Drops a pending entry that is no longer in the stream.
    fn forget(&mut self, group: &mut ReadingGroup, id: StreamId) {
        if group.acknowledge(id) {
            self.gone.push(id);
        }
    }
}

fn record_claim(tx: &mut Tx<'_>, args: Args<'_>, done: &ClaimResult) {
    let (key, group) = (args.key(1), args.at(2));
    if done.has_new_consumer {
        count_change(tx, key, Some(Event::XgroupCreateconsumer));
        if done.claimed.is_empty() {
            log_new_consumer(tx, key, group, args.at(3));
        }
    }
    tx.changed_many(done.claimed.len() + done.gone.len());
    log_deliveries(tx, key, group, &done.claimed);
    log_acknowledged(tx, key, group, &done.gone);
}

fn xclaim(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, name, now_ms) = (args.key(1), args.at(2), tx.now().0);
    let stream = tx.read_as::<Stream>(key)?;
    if stream.and_then(|stream| stream.group(name)).is_none() {
        return Err(no_key_or_group(key, name).into());
    }
    let request = ClaimRequest::parse(args, now_ms)?;
    let change = |stream: &mut StreamMut<'_>| {
        let exists = |id: &StreamId| stream.view().get(*id).is_some();
        let existing: Vec<bool> = request.ids.iter().map(exists).collect();
        let done = stream.change().change_group(name, |group| {
            group.last_id = group.last_id.max(request.last_id);
            let mut done = ClaimResult::begin(group, args.at(3), now_ms);
            for (&id, exists) in request.ids.iter().zip(existing) {
                match exists {
                    true => done.claim(group, id, request.claim, request.is_forced),
                    false => done.forget(group, id),
                }
            }
            done
        })?;
        reply.array(done.claimed.len());
        for &id in &done.claimed {
            request.claim.reply(stream.view(), id, reply);
        }
        Some(done)
    };
    if let Some(Some(done)) = tx.change_used::<Stream, _>(key, Create::Never, change)? {
        record_claim(tx, args, &done);
        if request.last_id > StreamId::MIN && done.claimed.is_empty() && tx.is_logged() {
            log_position(tx, key, name);
        }
    }
    Ok(())
}

/// How many entries XAUTOCLAIM claims by default.
const CLAIMED_DEFAULT: usize = 100;
/// How many entries XAUTOCLAIM looks at for each that it may claim.
const LOOKED_AT_PER_CLAIM: usize = 10;
/// Redis's limit on the count, from the most bytes that an array of ids may have.
const CLAIMED_MAX: usize = i64::MAX as usize / 16;
/// Redis allocates memory for as many ids; from this count on, no machine has the address space.
const CLAIMED_TOO_MANY: usize = 1 << 43;

fn xautoclaim(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, name, now_ms) = (args.key(1), args.at(2), tx.now().0);
    // The look-up comes before everything else, so that a miss is recorded even if the arguments are invalid.
    tx.read(key);
    let idle_min_ms = parse_integer(args.at(4))
        .ok_or_else(|| CommandError::err("Invalid min-idle-time argument for XAUTOCLAIM"))?;
    let start = interval_start(args.at(5))?;
    let (mut count, mut only_ids, mut at) = (CLAIMED_DEFAULT, false, 6);
    while at < args.len() {
        if args.is(at, "COUNT") && at + 1 < args.len() {
            let number =
                parse_integer(args.at(at + 1)).and_then(|count| usize::try_from(count).ok());
            let number = number.filter(|count| (1..=CLAIMED_MAX).contains(count));
            count = number.ok_or_else(|| CommandError::err("COUNT must be > 0"))?;
            at += 2;
        } else if args.is(at, "JUSTID") {
            only_ids = true;
            at += 1;
        } else {
            return Err(CommandError::Syntax.into());
        }
    }
    let stream = tx.peek_as::<Stream>(key)?;
    let Some(group) = stream.and_then(|stream| stream.group(name)) else {
        return Err(no_key_or_group(key, name).into());
    };
    if count >= CLAIMED_TOO_MANY {
        let text = "Insufficient memory, failed allocating transient memory, COUNT too high.";
        return Err(CommandError::err(text).into());
    }
    let steps = count
        .saturating_mul(LOOKED_AT_PER_CLAIM)
        .min(group.pending().len());
    long::check(tx, steps)?;
    let claim = Claim {
        idle_min_ms,
        delivered_ms: now_ms,
        deliveries: None,
        only_ids,
        now_ms,
    };
    let change = |stream: &mut StreamMut<'_>| {
        let view = stream.view();
        let pending = view.group(name)?.pending().range(start..);
        let mut looked_at = Vec::new();
        let (mut left, mut next) = (count, None);
        for (&id, pending) in pending {
            if left == 0 || looked_at.len() == count.saturating_mul(LOOKED_AT_PER_CLAIM) {
                next = Some(id);
                break;
            }
            let exists = view.get(id).is_some();
            let is_idle = idle_min_ms <= 0 || now_ms - pending.delivered_ms >= idle_min_ms;
            left -= usize::from(!exists || is_idle);
            looked_at.push((id, exists));
        }
        let done = stream.change().change_group(name, |group| {
            let mut done = ClaimResult::begin(group, args.at(3), now_ms);
            for (id, exists) in looked_at {
                match exists {
                    true => done.claim(group, id, claim, false),
                    false => done.forget(group, id),
                }
            }
            done
        })?;
        reply.array(3);
        reply_id(next.unwrap_or(StreamId::MIN), reply);
        reply.array(done.claimed.len());
        for &id in &done.claimed {
            claim.reply(stream.view(), id, reply);
        }
        reply.array(done.gone.len());
        done.gone.iter().for_each(|&id| reply_id(id, reply));
        Some(done)
    };
    if let Some(Some(done)) = tx.change_used::<Stream, _>(key, Create::Never, change)? {
        record_claim(tx, args, &done);
    }
    Ok(())
}
