//! Waiting for replicas: WAIT, WAITAOF and CLIENT DURABLE.
//!
//! A client waits for a record of the log, and replicas acknowledge offsets of the stream. Marks connect the two: while somebody waits, each batch of the log
//! leaves the number of its last record and the offset behind it, and asks the replicas for an acknowledgement.
//!
//! INFO and ROLE show the offset. Whoever has seen the reply to a change finds it in there, as with Redis: clients compare offsets to learn
//! whether a replica has it. So these two wait for the merge ([`StreamWait`]). PSYNC with FAILOVER waits for what is still on its way from the old primary.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use damselfly_commands::{Result, Stop};

use super::{Replication, State};
use crate::session::Context;
use crate::shared::Shared;

/// The command that asks replicas for an acknowledgement.
pub(super) const GETACK: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n";

/// The most marks that are kept. Without the oldest, clients wait a little longer than necessary.
const MARKS_MAX: usize = 1 << 16;

/// INFO and ROLE wait no longer than this, should the merge be held up. Usually it takes a millisecond.
const MERGE_WAIT_MAX: Duration = Duration::from_millis(50);

/// PSYNC with FAILOVER waits no longer than this for what the old primary has sent. Usually that is in the buffer of the socket.
const HANDOVER_WAIT_MAX: Duration = Duration::from_secs(2);

/// What INFO, ROLE or PSYNC waits for.
#[derive(Clone, Copy, Debug)]
pub struct StreamWait {
    part: Part,
    /// When it gives up.
    until: Instant,
}

/// A part of the stream.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// All records below this number.
    Records(u64),
    /// What the primary sends, up to this offset.
    Received(u64),
}

impl StreamWait {
    fn new(part: Part, wait_max: Duration) -> Self {
        Self {
            part,
            until: Instant::now() + wait_max,
        }
    }

    /// True if the wait is over.
    pub fn is_over(&self, shared: &Shared) -> bool {
        let replication = &shared.replication;
        let has_part = match self.part {
            Part::Records(record) => replication.has_merged(record),
            Part::Received(offset) => {
                replication.end() >= offset || !replication.link.is_connected()
            }
        };
        has_part || self.until <= Instant::now()
    }
}

/// Returns at once if all changes up to now are part of the stream, or if the command has waited for that already. Within a transaction or a script
/// it does not wait.
///
/// # Errors
/// [`Stop::LogBehind`]: the command has to wait.
pub fn wait_for_merge(context: &mut Context<'_>) -> Result {
    let records = Part::Records(context.shared.engine.log.appended());
    wait_for(context, StreamWait::new(records, MERGE_WAIT_MAX))
}

/// The same for what the primary of this replica sends, up to an offset.
///
/// # Errors
/// [`Stop::LogBehind`]: the command has to wait.
pub fn wait_for_handover(context: &mut Context<'_>, offset: u64) -> Result {
    wait_for(
        context,
        StreamWait::new(Part::Received(offset), HANDOVER_WAIT_MAX),
    )
}

fn wait_for(context: &mut Context<'_>, wait: StreamWait) -> Result {
    if context.lent.is_some() {
        return Ok(());
    }
    let wait = context.session.stream_wait.take().unwrap_or(wait);
    if wait.is_over(context.shared) {
        return Ok(());
    }
    context.shared.log.wake();
    context.session.stream_wait = Some(wait);
    Err(Stop::LogBehind)
}

/// How many clients wait.
#[derive(Debug, Default)]
pub(super) struct Waits(AtomicUsize);

impl State {
    /// Adds a mark, and asks for an acknowledgement.
    fn mark(&mut self) {
        let mark = (self.merged, self.history.offset);
        let online = self.feeds.iter().filter(|feed| feed.is_online());
        let oldest = online.map(|feed| feed.acked()).min().unwrap_or(0);
        while self.marks.len() >= MARKS_MAX
            || self
                .marks
                .get(1)
                .is_some_and(|&(_, offset)| offset <= oldest)
        {
            self.marks.pop_front();
        }
        if self.marks.back() != Some(&mark) {
            self.marks.push_back(mark);
            self.append(GETACK);
        }
    }

    /// The offset behind this record, if it is part of the stream already.
    fn offset_of(&self, record: u64) -> Option<u64> {
        let place = self.marks.partition_point(|&(number, _)| number < record);
        self.marks.get(place).map(|&(_, offset)| offset)
    }
}

impl Replication {
    /// True if clients wait for replicas.
    pub fn has_waiting(&self) -> bool {
        self.waits.0.load(SeqCst) > 0
    }

    /// Notes that a client waits for replicas, which are asked at once.
    pub fn begin_wait(&self) {
        self.waits.0.fetch_add(1, SeqCst);
        let mut state = self.state();
        if state.stream.is_some() {
            state.mark();
            state.feeds.iter().for_each(|feed| feed.wake());
        }
    }

    /// Notes that it waits no longer.
    pub fn end_wait(&self) {
        let mut state = self.state();
        if self.waits.0.fetch_sub(1, SeqCst) == 1 {
            state.marks.clear();
        }
    }

    /// Adds a mark if somebody waits.
    pub(super) fn mark_if_waiting(&self, state: &mut State) {
        if self.has_waiting() {
            state.mark();
        }
    }

    /// How many replicas have all records below this number: in memory, and on disk. Only right while somebody waits.
    pub fn replicas_with(&self, record: u64) -> (usize, usize) {
        let state = self.state();
        let Some(offset) = state.offset_of(record) else {
            return (0, 0);
        };
        let count = |acked: &dyn Fn(&super::feed::Feed) -> u64| {
            let mut online = state.feeds.iter();
            let has = online
                .by_ref()
                .filter(|feed| feed.is_online() && acked(feed) >= offset);
            has.count()
        };
        (
            count(&|feed| feed.acked()),
            count(&|feed| feed.acked_on_disk()),
        )
    }

    /// The number of records that at least `replicas` of them have.
    pub fn record_on(&self, replicas: usize) -> u64 {
        let state = self.state();
        let online = state.feeds.iter().filter(|feed| feed.is_online());
        let mut acked: Vec<u64> = online.map(|feed| feed.acked()).collect();
        acked.sort_unstable_by(|one, other| other.cmp(one));
        let Some(&offset) = replicas.checked_sub(1).and_then(|place| acked.get(place)) else {
            return 0;
        };
        let behind = state.marks.partition_point(|&(_, at)| at <= offset);
        let mark = behind
            .checked_sub(1)
            .and_then(|place| state.marks.get(place));
        mark.map_or(0, |&(record, _)| record)
    }
}
