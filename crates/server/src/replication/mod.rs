//! Replication: one stream of bytes, its history, and who feeds and reads it.
//!
//! ```text
//!  on a primary:  log ──► Intake ──┐                        ┌─► feed of a replica: its connection sends from its position on
//!  on a replica:  link ─ verbatim ─┴─► backlog, offsets ────┼─► feed of another replica
//!                                                           └─► WAIT, INFO
//! ```
//!
//! The stream is a sequence of commands; an offset counts its bytes. A history names the stream: replicas of one primary share its
//! replication id, and a replica that is promoted begins a new id but knows the old one, and up to which offset both are the same.
//! `docs/decisions/0031-replication.md` has the whole picture.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | the stream and its history, and who is primary |
//! | `shared_bytes.rs` | bytes that several readers read: the backlog |
//! | `intake.rs` | from the log to the stream |
//! | `feed.rs` | one replica: what it is sent and has acknowledged |
//! | `full_sync.rs` | snapshots for replicas |
//! | `commands.rs` | PSYNC, SYNC, REPLCONF, ROLE |
//! | `wait.rs` | WAIT, and replies that wait for replicas |
//! | `failover.rs` | FAILOVER |
//! | `last_wait.rs` | SHUTDOWN waits for replicas |
//! | `tick.rs` | periodic work: pings, timeouts, `min-replicas-to-write` |
//! | `link.rs` | the link of a replica to its primary |
//!
//! # How the link of a replica uses this
//!
//! 1. [`Replication::demote`], with all locks: from now on the local log does not feed the stream. Before the link asks for anything it
//!    waits for [`Replication::is_settled`]: then [`Replication::history`] covers all that was written here.
//! 2. FULLRESYNC: [`Replication::begin_history`] with the id and offset of the primary, once the data is loaded. CONTINUE with another id: [`Replication::change_id`].
//! 3. The bytes of applied commands go to [`Replication::feed`], in the section that has applied them. So data and offset agree whenever all locks are held.
//! 4. [`Replication::promote`], with all locks: a new id, and the local log feeds the stream again.

mod apply;
pub mod commands;
mod connection;
pub mod failover;
pub mod feed;
mod follow;
pub mod full_sync;
mod intake;
mod last_wait;
pub mod link;
mod receive;
pub mod replicaof;
mod requests;
mod shared_bytes;
mod tick;
pub mod wait;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_config::Config;
use damselfly_engine::Tx;
use damselfly_log::Batch;
use damselfly_log::Targets;

use self::failover::Failover;
use self::feed::Feed;
use self::full_sync::FullSync;
use self::intake::{Intake, NO_END};
use self::last_wait::LastWait;
use self::shared_bytes::{Place, SharedBytes};
use self::wait::Waits;
use crate::shared::{Shared, random_hex};

/// The smallest backlog, as in Redis.
const BACKLOG_BYTES_MIN: u64 = 16 << 10;

/// The same as [`Replication::is_replica`], for the letter in the log lines of this process.
static IS_REPLICA: AtomicBool = AtomicBool::new(false);

/// True if the server of this process is a replica.
pub fn is_replica_process() -> bool {
    IS_REPLICA.load(Relaxed)
}

/// The id of no history.
pub const NO_ID: &str = "0000000000000000000000000000000000000000";

/// Which stream this server has, and up to where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The replication id: 40 hexadecimal digits.
    pub id: String,
    /// The id before the last promotion, or zeros.
    pub second_id: String,
    /// The first offset that is not valid with the second id; -1 without one.
    pub second_offset: i64,
    /// The offset of the last byte of the stream: how many bytes it has had.
    pub offset: u64,
}

impl History {
    fn new(id: String, offset: u64) -> Self {
        Self {
            id,
            second_id: NO_ID.to_owned(),
            second_offset: -1,
            offset,
        }
    }

    /// Begins a new id; what was until now is known under the old one, too.
    fn rotate(&mut self, id: String) {
        self.second_id = std::mem::replace(&mut self.id, id);
        self.second_offset = self.offset as i64 + 1;
    }

    /// True if a replica with this id that has everything before the offset `next` has the same stream.
    fn includes(&self, id: &[u8], next: u64) -> bool {
        let is_second = id.eq_ignore_ascii_case(self.second_id.as_bytes())
            && i64::try_from(next).is_ok_and(|next| next <= self.second_offset);
        id.eq_ignore_ascii_case(self.id.as_bytes()) || is_second
    }
}

/// What INFO shows of the backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BacklogFacts {
    /// There is one.
    pub is_active: bool,
    /// The offset of its first byte.
    pub first_offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// The memory that it takes.
    pub memory: usize,
}

/// Counters for INFO.
#[derive(Debug, Default)]
pub struct SyncCounters {
    /// Full synchronisations.
    pub full: AtomicU64,
    /// Partial ones.
    pub partial: AtomicU64,
    /// Partial ones that were refused.
    pub refused: AtomicU64,
    /// Bytes that were sent to replicas.
    pub output_bytes: AtomicU64,
}

/// The state of replication.
pub struct Replication {
    is_replica: AtomicBool,
    state: Mutex<State>,
    /// How many replicas there are.
    feeds: AtomicUsize,
    /// See [`Replication::extra_bytes`].
    extra_bytes: AtomicU64,
    /// Clients that wait for replicas.
    waits: Waits,
    /// How many acknowledgements have come from replicas.
    pub acks: AtomicU64,
    /// FAILOVER.
    failover: Failover,
    /// SHUTDOWN.
    last_wait: LastWait,
    /// What INFO counts.
    pub counters: SyncCounters,
    /// The link to the primary, if this is a replica.
    pub link: link::Link,
}

struct State {
    history: History,
    /// The end of the stream, if somebody has needed it.
    stream: Option<SharedBytes>,
    feeds: Vec<Arc<Feed>>,
    /// Since when there has been no replica.
    alone_since: Instant,
    /// The intake that feeds the stream: where it ends.
    intake: Option<Arc<AtomicU64>>,
    /// How many intakes have still to take what was logged before they end.
    draining: usize,
    /// Snapshots that have begun, with the number of the first record that they do not have.
    cuts: VecDeque<(u64, Arc<FullSync>)>,
    /// Whoever begins to read the stream here does not know which database is selected.
    needs_select: bool,
    /// The number of the first record that is not part of the stream yet.
    merged: u64,
    /// For clients that wait: numbers of records, and the offsets at which all before are part of the stream.
    marks: VecDeque<(u64, u64)>,
    backlog_bytes: u64,
    pinged: Instant,
}

impl Default for Replication {
    /// A primary without replicas.
    fn default() -> Self {
        Self {
            is_replica: AtomicBool::new(false),
            state: Mutex::new(State {
                history: History::new(random_hex(), 0),
                stream: None,
                feeds: Vec::new(),
                alone_since: Instant::now(),
                intake: None,
                draining: 0,
                cuts: VecDeque::new(),
                needs_select: false,
                merged: 0,
                marks: VecDeque::new(),
                backlog_bytes: Config::default().repl_backlog_bytes,
                pinged: Instant::now(),
            }),
            feeds: AtomicUsize::new(0),
            extra_bytes: AtomicU64::new(0),
            waits: Waits::default(),
            acks: AtomicU64::new(0),
            failover: Failover::default(),
            last_wait: LastWait::default(),
            counters: SyncCounters::default(),
            link: link::Link::default(),
        }
    }
}

impl State {
    /// Adds bytes to the stream, if there is one.
    fn append(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        stream.append(bytes);
        self.history.offset = stream.end();
        let slowest = self.feeds.iter().filter_map(|feed| feed.position()).min();
        let oldest = stream.end().saturating_sub(self.backlog_bytes);
        stream.drop_before(oldest.min(slowest.unwrap_or(oldest)));
    }

    /// Adds the records of a batch from one number to another.
    fn append_records(&mut self, batch: &Batch, from: u64, to: u64) {
        if from >= to {
            return;
        }
        if std::mem::take(&mut self.needs_select) {
            self.append(&batch.beginning_at(from));
        }
        for piece in batch.between(from, to, Targets::REPLICAS) {
            self.append(piece);
        }
    }

    /// Sets the position of a snapshot to the end of the stream, and returns its offset.
    fn begin_full_sync_here(&mut self, sync: &FullSync) -> u64 {
        self.needs_select = true;
        sync.set_position(self.history.offset);
        self.history.offset
    }

    fn begin_stream(&mut self) {
        let offset = self.history.offset;
        self.stream.get_or_insert_with(|| SharedBytes::new(offset));
    }

    fn close_feeds(&self) {
        self.feeds.iter().for_each(|feed| feed.close());
    }
}

impl Replication {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what INFO counts to zero.
    pub fn reset_counters(&self) {
        let SyncCounters {
            full,
            partial,
            refused,
            output_bytes,
        } = &self.counters;
        for counter in [full, partial, refused, output_bytes, &self.link.input_bytes] {
            counter.store(0, Relaxed);
        }
        self.link.counters.reset();
    }

    /// True if this server follows a primary, or tries to.
    #[inline]
    pub fn is_replica(&self) -> bool {
        self.is_replica.load(Relaxed)
    }

    /// The history of the stream.
    pub fn history(&self) -> History {
        self.state().history.clone()
    }

    /// The history up to this moment, if it is known, and the database that is selected in the stream. The caller has all locks.
    ///
    /// On a primary it is known once all that was logged is part of the stream.
    pub fn history_at_cut(&self, shared: &Shared) -> Option<(History, usize)> {
        let state = self.state();
        if self.is_replica() {
            let db = self.link.stream_db.load(Relaxed);
            return Some((state.history.clone(), db));
        }
        let is_complete = state.intake.is_some() && state.merged == shared.engine.log.appended();
        // Whatever follows selects its database.
        is_complete.then(|| (state.history.clone(), 0))
    }

    /// On a primary: waits a moment until all that was logged is part of the stream. The caller has all locks.
    pub fn wait_until_merged(&self, shared: &Shared) {
        const RECHECK_INTERVAL: Duration = Duration::from_micros(200);
        const WAIT_MAX: Duration = Duration::from_secs(1);
        let started = Instant::now();
        while started.elapsed() < WAIT_MAX {
            let state = self.state();
            if state.intake.is_none() || state.merged == shared.engine.log.appended() {
                return;
            }
            drop(state);
            shared.log.wake();
            std::thread::sleep(RECHECK_INTERVAL);
        }
    }

    /// True if all records below this number are part of the stream, or if there is none that they go to.
    fn has_merged(&self, record: u64) -> bool {
        let state = self.state();
        state.intake.is_none() || state.merged >= record
    }

    /// How many bytes are kept beyond the backlog, for replicas that have not received them.
    #[inline]
    pub fn extra_bytes(&self) -> u64 {
        self.extra_bytes.load(Relaxed)
    }

    /// Updates that number after the stream has changed.
    fn note_bytes(&self, state: &State) {
        let bytes = state.stream.as_ref().map_or(0, SharedBytes::len);
        let extra = bytes.saturating_sub(state.backlog_bytes);
        self.extra_bytes.store(extra, Relaxed);
    }

    /// The replicas.
    pub fn feeds(&self) -> Vec<Arc<Feed>> {
        match self.feeds.load(Relaxed) {
            0 => Vec::new(),
            _ => self.state().feeds.clone(),
        }
    }

    /// What INFO shows of the backlog.
    pub fn backlog(&self) -> BacklogFacts {
        let state = self.state();
        state
            .stream
            .as_ref()
            .map_or_else(BacklogFacts::default, |stream| BacklogFacts {
                is_active: true,
                first_offset: stream.start() + 1,
                bytes: stream.len(),
                memory: stream.memory(),
            })
    }

    /// The offset of the last byte of the stream.
    pub fn end(&self) -> u64 {
        self.state().history.offset
    }

    /// The stream of a replica from a position on: a block, and the place in it. `None` if there is no more, or if the replica's connection
    /// shall be closed: what follows may be of another history.
    pub fn read(&self, feed: &Feed, position: u64) -> Option<Place> {
        let state = self.state();
        match feed.is_closed() {
            true => None,
            false => state.stream.as_ref()?.read(position),
        }
    }

    /// Puts changed options in force.
    pub fn apply(&self, config: &Config) {
        self.state().backlog_bytes = config.repl_backlog_bytes.max(BACKLOG_BYTES_MIN);
    }

    /// Makes this server a replica. The section has all locks, and nobody else changes the role meanwhile. Does nothing on a replica.
    pub fn demote(&self, shared: &Shared, tx: &Tx<'_>) {
        if self.is_replica.swap(true, Relaxed) {
            return;
        }
        IS_REPLICA.store(true, Relaxed);
        assert!(tx.holds_all(), "a role begins at a cut");
        let mut state = self.state();
        state.begin_stream();
        if let Some(end) = state.intake.take() {
            let log = &shared.engine.log;
            end.store(log.appended(), SeqCst);
            state.draining += 1;
            drop(state);
            // So that there is a record behind the end, which makes the intake notice it.
            log.append_one(Targets::REPLICAS, 0, [&b"PING"[..]].into_iter(), 0);
            shared.log.wake();
        }
    }

    /// On a replica: true once everything that was logged before it became one is part of the stream. That takes a moment.
    pub fn is_settled(&self) -> bool {
        self.state().draining == 0
    }

    /// Makes this server a primary, with a new id. The section has all locks, and the link applies nothing any more. Does nothing on a primary.
    pub fn promote(self: &Arc<Self>, shared: &Shared, tx: &Tx<'_>) {
        if !self.is_replica.swap(false, Relaxed) {
            return;
        }
        IS_REPLICA.store(false, Relaxed);
        let mut state = self.state();
        state.history.rotate(random_hex());
        // They ask again, and continue with the new id.
        state.close_feeds();
        let has_stream = state.stream.is_some();
        drop(state);
        if has_stream {
            self.attach(shared, tx);
        }
    }

    /// Continues the history of the snapshot that a primary has loaded, under a new id. The section has all locks.
    pub fn resume(self: &Arc<Self>, shared: &Shared, tx: &Tx<'_>, id: &str, offset: u64) {
        self.begin_history(shared, id, offset);
        self.state().history.rotate(random_hex());
        self.attach(shared, tx);
    }

    /// Begins to feed the stream from the log, and returns the number of the first record.
    fn attach(self: &Arc<Self>, shared: &Shared, tx: &Tx<'_>) -> u64 {
        let end = Arc::new(AtomicU64::new(NO_END));
        let intake = Intake {
            replication: self.clone(),
            end: end.clone(),
        };
        let cut = shared.log.attach(tx, Box::new(intake));
        let mut state = self.state();
        state.intake = Some(end);
        state.needs_select = true;
        state.merged = cut;
        cut
    }

    /// Notes a snapshot that has just begun in this section.
    fn note_cut(self: &Arc<Self>, shared: &Shared, tx: &Tx<'_>, sync: &Arc<FullSync>) {
        let mut state = self.state();
        if state.stream.is_none() {
            // Nobody has this history: changes so far were not part of the stream.
            state.history = History::new(random_hex(), state.history.offset);
            state.begin_stream();
        }
        let needs_intake = state.intake.is_none() && !self.is_replica();
        drop(state);
        let record = match needs_intake {
            true => self.attach(shared, tx),
            false => shared.engine.log.appended(),
        };
        let mut state = self.state();
        if state.intake.is_some() && state.merged < record {
            state.cuts.push_back((record, sync.clone()));
            return;
        }
        let offset = state.begin_full_sync_here(sync);
        let id = state.history.id.clone();
        drop(state);
        sync.announce(&id, offset);
    }

    /// Begins the history of a primary whose data was just loaded. Replicas of this server are disconnected and have to synchronise in full.
    pub fn begin_history(&self, _: &Shared, id: &str, offset: u64) {
        let mut state = self.state();
        state.history = History::new(id.to_owned(), offset);
        state.stream = Some(SharedBytes::new(offset));
        state.close_feeds();
    }

    /// Goes on with another id: the primary was promoted meanwhile. Replicas of this server are disconnected, and can continue.
    pub fn change_id(&self, _: &Shared, id: &str) {
        let mut state = self.state();
        if state.history.id != id {
            state.history.rotate(id.to_owned());
            state.close_feeds();
        }
    }

    /// Adds bytes of the link to the stream, exactly as they came. The section that has applied them still has its locks.
    pub fn feed(&self, _: &Shared, bytes: &[u8]) {
        let mut state = self.state();
        state.begin_stream();
        state.append(bytes);
        self.note_bytes(&state);
        state.feeds.iter().for_each(|feed| feed.wake());
    }

    /// Adds a replica that continues behind the offset that it has, if it can: the line to answer with, or why it can't.
    fn continue_feed(&self, feed: &Arc<Feed>, id: &[u8], next: u64) -> Result<(), &'static str> {
        let mut state = self.state();
        if !state.history.includes(id, next) {
            return Err(
                match id.eq_ignore_ascii_case(state.history.second_id.as_bytes()) {
                    true => "it has more of the second replication id than this server",
                    false => "the replication ids differ",
                },
            );
        }
        let Some(stream) = &state.stream else {
            return Err("there is no backlog");
        };
        let position = next.wrapping_sub(1);
        if !(stream.start()..=stream.end()).contains(&position) {
            return Err("the backlog does not have this offset");
        }
        feed.begin_at(position);
        let line = match feed.abilities.psync2 {
            true => format!("+CONTINUE {}\r\n", state.history.id),
            false => "+CONTINUE\r\n".to_owned(),
        };
        feed.go_online(line.into_bytes());
        state.feeds.push(feed.clone());
        self.feeds.store(state.feeds.len(), Relaxed);
        Ok(())
    }

    /// Adds a replica that waits for a full synchronisation.
    fn add_feed(&self, feed: &Arc<Feed>) {
        let mut state = self.state();
        state.feeds.push(feed.clone());
        self.feeds.store(state.feeds.len(), Relaxed);
    }

    /// Removes a replica whose connection is closed.
    pub fn remove_feed(&self, feed: &Arc<Feed>) {
        let mut state = self.state();
        state.feeds.retain(|other| !Arc::ptr_eq(other, feed));
        self.feeds.store(state.feeds.len(), Relaxed);
        state.alone_since = Instant::now();
        // What only this replica needed is not needed any more.
        state.append(b"");
        self.note_bytes(&state);
        drop(state);
        feed.leave();
    }

    /// Begins a new history at the same offset, which no replica knows.
    pub fn forget_history(&self) {
        let mut state = self.state();
        state.history = History::new(random_hex(), state.history.offset);
    }

    /// Closes the connections to all replicas.
    pub fn disconnect_replicas(&self) {
        self.state().close_feeds();
    }
}
