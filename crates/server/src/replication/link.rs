//! The link of a replica to its primary, on a thread of its own.
//!
//! ```text
//!            REPLICAOF          connected          FULLRESYNC           loaded
//!   none ───────────► connect ───────────► handshake ─────► transfer ─────────► connected: the stream is applied
//!                        ▲                     │ CONTINUE ─────────────────────────►│
//!                        └──────────── a second later, if anything fails ◄──────────┘
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `link.rs` | the state, changes of the role, what INFO and ROLE show |
//! | `follow.rs` | the thread: handshake, acknowledgements |
//! | `connection.rs` | the socket |
//! | `receive.rs` | a full synchronisation |
//! | `requests.rs`, `apply.rs` | the stream: what it says, and doing it |
//!
//! Whoever changes the role holds all locks, and so does the thread at least one when it applies something: it sees at once that its
//! connection is out of date ([`Link::is_current`]).

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{
    AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_config::{Config, PrimaryAddress};
use damselfly_engine::{Busy, Engine, Now, Tx};
use damselfly_log::Targets;
use damselfly_protocol::Reply;

use crate::blocked::End;
use crate::clock;
use crate::gate::Reasons;
use crate::shared::Shared;
use crate::statistics::ThreadCounters;

/// How long the start of the server waits for the log before it looks again.
const CONGESTED_INTERVAL: Duration = Duration::from_millis(1);

/// The thread looks whether the server stops after this long.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How far the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// This server is a primary.
    None,
    /// It has to connect.
    Connect,
    /// It is connecting.
    Connecting,
    /// The two introduce each other.
    Handshake,
    /// A full synchronisation is in progress.
    Transfer,
    /// The stream is applied.
    Connected,
}

impl Phase {
    const ALL: [Self; 6] = [
        Self::None,
        Self::Connect,
        Self::Connecting,
        Self::Handshake,
        Self::Transfer,
        Self::Connected,
    ];

    /// The word that ROLE shows.
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Connect => "connect",
            Self::Connecting => "connecting",
            Self::Handshake => "handshake",
            Self::Transfer => "sync",
            Self::Connected => "connected",
        }
    }
}

/// The link.
pub struct Link {
    state: Mutex<State>,
    changed: Condvar,
    /// Grows when the primary changes.
    generation: AtomicU64,
    /// The thread that applies the stream.
    applying: Mutex<Option<Thread>>,
    phase: AtomicU8,
    /// The database that the stream has selected, at the offset of the history.
    pub stream_db: AtomicUsize,
    /// Commands of the primary that failed.
    pub errors: AtomicU64,
    /// What the thread of the link has done.
    pub counters: ThreadCounters,
    /// Bytes that were read from primaries.
    pub input_bytes: AtomicU64,
    /// The offset of the last byte that was read.
    pub(super) read_to: AtomicU64,
    /// When something last arrived, in milliseconds since the epoch.
    pub(super) last_read_ms: AtomicI64,
    /// When the link broke, in milliseconds since the epoch; zero if it never was up.
    down_since_ms: AtomicI64,
    /// The transfer in progress: all bytes, as far as known, and those that have arrived.
    pub(super) transfer_total: AtomicU64,
    pub(super) transfer_read: AtomicU64,
}

#[derive(Default)]
struct State {
    primary: Option<PrimaryAddress>,
    /// The socket in use, to end a wait for it.
    socket: Option<TcpStream>,
    /// The next request for the stream asks the primary to become one: FAILOVER.
    fails_over: bool,
    /// The data is that of the history, so the primary may be asked to continue it.
    has_history: bool,
}

/// What the thread shall do.
pub(super) struct Task {
    pub(super) primary: PrimaryAddress,
    pub(super) generation: u64,
    pub(super) fails_over: bool,
    pub(super) has_history: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            generation: AtomicU64::new(0),
            applying: Mutex::default(),
            phase: AtomicU8::new(0),
            stream_db: AtomicUsize::new(0),
            errors: AtomicU64::new(0),
            counters: ThreadCounters::new(),
            input_bytes: AtomicU64::new(0),
            read_to: AtomicU64::new(0),
            last_read_ms: AtomicI64::new(0),
            down_since_ms: AtomicI64::new(0),
            transfer_total: AtomicU64::new(0),
            transfer_read: AtomicU64::new(0),
        }
    }
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Relaxed))]
    }

    /// True while the stream is applied.
    pub fn is_connected(&self) -> bool {
        self.phase() == Phase::Connected
    }

    /// The primary, if this server is a replica.
    pub fn primary(&self) -> Option<PrimaryAddress> {
        self.state().primary.clone()
    }

    /// True while the link is that of this generation.
    #[inline]
    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.generation.load(SeqCst) == generation
    }

    /// Notes how far the link of this generation is. Does nothing if it is out of date.
    pub(super) fn set_phase(&self, shared: &Shared, generation: u64, phase: Phase) {
        let state = self.state();
        if !self.is_current(generation) {
            return;
        }
        let before = self.phase();
        self.phase.store(phase as u8, Relaxed);
        match (before, phase) {
            (_, Phase::Connected) => self.down_since_ms.store(0, Relaxed),
            (Phase::Connected, _) => self.down_since_ms.store(clock::now_ms(), Relaxed),
            _ => {}
        }
        drop(state);
        shared.apply_link_state();
    }

    /// Notes whether the data is that of the history.
    pub(super) fn set_has_history(&self, has_history: bool) {
        self.state().has_history = has_history;
    }

    /// Notes that the primary has answered a request that asked it to become one.
    pub(super) fn forget_failover(&self) {
        self.state().fails_over = false;
    }

    /// Notes the socket in use; false if the generation is out of date.
    pub(super) fn set_socket(&self, generation: u64, socket: Option<TcpStream>) -> bool {
        let mut state = self.state();
        let is_current = self.is_current(generation);
        if is_current {
            state.socket = socket;
        }
        is_current
    }

    /// Waits for something to do; `None` when the server stops.
    pub(super) fn next_task(&self, shared: &Shared) -> Option<Task> {
        let mut state = self.state();
        loop {
            if shared.stopping.load(Relaxed) {
                return None;
            }
            // While the server loads its own file, there is nothing to compare with a primary.
            if let Some(primary) = &state.primary
                && !shared.gate.is_loading()
            {
                return Some(Task {
                    primary: primary.clone(),
                    generation: self.generation.load(SeqCst),
                    fails_over: state.fails_over,
                    has_history: state.has_history,
                });
            }
            let waited = self.changed.wait_timeout(state, RECHECK_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until then, or until the link of this generation is out of date.
    pub(super) fn pause(&self, shared: &Shared, generation: u64, until: Instant) {
        let mut state = self.state();
        while self.is_current(generation) && !shared.stopping.load(Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left.min(RECHECK_INTERVAL));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a busy shard.
    pub(super) fn wait_for_shard(&self, shared: &Shared, busy: Busy) {
        if !shared.engine.wait(busy, waker(shared)) {
            thread::park_timeout(RECHECK_INTERVAL);
        }
    }

    fn applying(&self) -> MutexGuard<'_, Option<Thread>> {
        self.applying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the calling thread applies the stream from now on.
    pub(super) fn begin_applying(&self) {
        *self.applying() = Some(thread::current());
    }

    /// Wakes the thread that applies the stream, because the shard that it waits for is free.
    pub fn wake(&self) {
        if let Some(thread) = &*self.applying() {
            thread.unpark();
        }
    }

    /// Ends a wait for the socket, because the server stops or CLIENT KILL wants it.
    pub fn interrupt(&self) {
        if let Some(socket) = &self.state().socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Ends the connection of this generation.
    pub(super) fn interrupt_connection(&self, generation: u64) {
        let state = self.state();
        if self.is_current(generation)
            && let Some(socket) = &state.socket
        {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Makes the next connection go to another primary, or none.
    fn redirect(&self, primary: Option<PrimaryAddress>, fails_over: bool) {
        let mut state = self.state();
        self.generation.fetch_add(1, SeqCst);
        if let Some(socket) = state.socket.take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let phase = match primary {
            Some(_) => Phase::Connect,
            None => Phase::None,
        };
        if self.is_connected() {
            self.down_since_ms.store(clock::now_ms(), Relaxed);
        }
        if phase == Phase::None {
            self.down_since_ms.store(0, Relaxed);
        }
        self.phase.store(phase as u8, Relaxed);
        (state.primary, state.fails_over) = (primary, fails_over);
        drop(state);
        self.changed.notify_all();
        self.wake();
    }

    /// Refuses commands, or allows them again, as the options of a replica say.
    pub fn apply(&self, shared: &Shared, is_replica: bool, config: &Config) {
        let set = |reason, holds| match holds {
            true => shared.gate.close(reason),
            false => shared.gate.open(reason),
        };
        let is_writable = is_replica && !config.replica_read_only;
        shared.engine.set_notes_local_deadlines(is_writable);
        set(Reasons::READ_ONLY, is_replica && config.replica_read_only);
        let is_stale = is_replica && !self.is_connected();
        set(Reasons::STALE, is_stale && !config.replica_serve_stale_data);
    }

    /// For how many seconds the link has been down; `None` if it is up or never was.
    pub fn down_s(&self) -> Option<i64> {
        let since = self.down_since_ms.load(Relaxed);
        (since > 0).then(|| (clock::now_ms() - since).max(0) / 1000)
    }

    /// Seconds since something last arrived.
    pub fn idle_s(&self) -> i64 {
        (clock::now_ms() - self.last_read_ms.load(Relaxed)).max(0) / 1000
    }

    /// The transfer in progress: all bytes, or 0 if that is not known, and those that have arrived.
    pub fn transfer(&self) -> (u64, u64) {
        let (total, read) = (&self.transfer_total, &self.transfer_read);
        (total.load(Relaxed), read.load(Relaxed))
    }

    /// The offset of the last byte that was read.
    pub fn read_offset(&self, shared: &Shared) -> u64 {
        let applied = shared.replication.history().offset;
        self.read_to.load(Relaxed).max(applied)
    }
}

/// The number under which the engine wakes the thread of the link.
pub fn waker(shared: &Shared) -> usize {
    2 * shared.threads.len()
}

/// Makes this server a replica of `primary`, or a replica of another one than before. With `fails_over`, the primary is asked to become one.
/// The section has all locks; the caller changes the option `replicaof` afterwards.
pub fn follow(shared: &Shared, tx: &Tx<'_>, primary: PrimaryAddress, fails_over: bool) {
    assert!(tx.holds_all(), "the role changes under all locks");
    let (replication, link) = (&shared.replication, &shared.replication.link);
    log::info!("Connecting to MASTER {}:{}", primary.host, primary.port);
    if !replication.is_replica() {
        replication.demote(shared, tx);
        link.set_has_history(true);
        link.stream_db.store(0, Relaxed);
        let settings = &shared.engine.settings;
        settings.leaves_expired.store(true, Relaxed);
    }
    link.redirect(Some(primary), fails_over);
    for client in shared.clients.all() {
        let text = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";
        client.unblock(End::Failed(CommandError::Text(text.to_owned())));
    }
}

/// Makes this server a primary, which continues the history under a new id. Does nothing on a primary. The section has all locks; the
/// caller changes the option `replicaof` afterwards.
pub fn become_primary_within(shared: &Shared, tx: &mut Tx<'_>) {
    assert!(tx.holds_all(), "the role changes under all locks");
    let (replication, link) = (&shared.replication, &shared.replication.link);
    if !replication.is_replica() {
        return;
    }
    link.redirect(None, false);
    let settings = &shared.engine.settings;
    settings.leaves_expired.store(false, Relaxed);
    tx.forget_local_deadlines();
    replication.promote(shared, tx);
}

/// The same from outside a section. Waits for busy shards.
pub fn become_primary(shared: &Shared) {
    become_primary_within(shared, &mut lock_all(shared));
    set_option(shared, None);
}

/// Sets the option `replicaof` to what the role is. Refuses commands, or allows them, as the role demands.
pub fn set_option(shared: &Shared, primary: Option<PrimaryAddress>) {
    let changed = shared.change_config(|old| {
        Ok::<_, std::convert::Infallible>(Config {
            replicaof: primary,
            ..old.clone()
        })
    });
    match changed {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

/// A section with all locks, from a thread that may wait.
pub(crate) fn lock_all(shared: &Shared) -> Tx<'_> {
    lock_all_of(&shared.engine)
}

/// The same for any engine.
pub(super) fn lock_all_of(engine: &Engine) -> Tx<'_> {
    loop {
        match engine.lock_all(0, Now(clock::now_ms())) {
            Ok(tx) => return tx,
            Err(_) => thread::yield_now(),
        }
    }
}

/// Begins to follow the primary of the configuration, before the server has clients and data.
pub fn start(shared: &Shared) {
    if let Some(primary) = shared.config().replicaof.clone() {
        follow(shared, &lock_all(shared), primary, false);
        shared.replication.link.set_has_history(false);
        shared.apply_link_state();
    }
}

/// Continues the history of the snapshot that was loaded at start: as a replica, or as a primary whose replicas may continue.
pub fn continue_history(shared: &Shared) {
    let progress = &shared.loading.progress;
    let expired = progress.take_expired();
    let Some((id, offset)) = progress.history() else {
        return;
    };
    let (replication, link) = (&shared.replication, &shared.replication.link);
    if !replication.is_replica() {
        match expired {
            Some(expired) => {
                replication.resume(shared, &lock_all(shared), &id, offset);
                send_removals(shared, &expired);
            }
            None => log::warn!(
                "More keys have expired since the snapshot than the replication backlog could hold: replicas will synchronise in full."
            ),
        }
        return;
    }
    replication.begin_history(shared, &id, offset);
    link.stream_db.store(progress.stream_db(), Relaxed);
    link.set_has_history(true);
}

/// Makes replicas that continue the history of the snapshot remove the keys that had expired when it was loaded.
fn send_removals(shared: &Shared, expired: &[(usize, Box<[u8]>)]) {
    let log = &shared.engine.log;
    let name = shared.engine.settings.name_of_expiry();
    for (db, key) in expired {
        while log.is_congested() {
            shared.log.wake();
            thread::sleep(CONGESTED_INTERVAL);
        }
        log.append_one(
            Targets::REPLICAS,
            *db,
            [name, key].into_iter(),
            clock::now_ms(),
        );
    }
    // Replicas that come now find all of it.
    shared.replication.wait_until_merged(shared);
}

/// ROLE on a replica.
pub fn role_reply(shared: &Shared, reply: &mut Reply<'_>) {
    let link = &shared.replication.link;
    let (host, port) = link
        .primary()
        .map_or_else(Default::default, |primary| (primary.host, primary.port));
    let offset = match link.is_connected() {
        true => shared.replication.history().offset as i64,
        false => -1,
    };
    reply.array(5);
    reply.bulk(b"slave");
    reply.bulk(host.as_bytes());
    reply.integer(i64::from(port));
    reply.bulk(link.phase().word().as_bytes());
    reply.integer(offset);
}

/// The thread of the link.
pub fn run(shared: &Arc<Shared>) {
    super::follow::run(shared);
}
