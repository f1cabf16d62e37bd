//! The clients: what other threads can see of each connection, and how they kill or unblock it.

use std::collections::BTreeMap;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicIsize, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_engine::Tracker;
use damselfly_protocol::Version;

use crate::blocked::{BlockedClient, End};
use crate::event_loop::connection::Connection;
use crate::event_loop::parser::Protocol;
use crate::observers::invalidation::PendingInvalidation;
use crate::session::transaction::WatchRound;
use crate::threads::{Message, Thread};
use crate::users::Account;
use damselfly_config::{ClientMemory, Config, Origin};
#[cfg(doc)]
use damselfly_pubsub::Topic;

/// The names that CLIENT SETNAME and CLIENT SETINFO set.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The connection's name; empty for none.
    pub name: String,
    /// The client library.
    pub library: String,
    /// Its version.
    pub library_version: String,
}

/// One connection, as other threads see it. The thread that serves it updates the figures once per
/// batch of requests.
#[derive(Debug)]
pub struct Client {
    /// Never reused, and greater than those of all clients that connected earlier.
    pub id: u64,
    /// `ip:port`, or the path of the Unix socket.
    pub address: String,
    /// The server's end of the connection, likewise.
    pub local_address: String,
    /// Whether the client is on this machine.
    pub origin: Origin,
    /// True for Unix sockets.
    pub unix: bool,
    /// The version of TLS and the cipher; empty without TLS.
    pub encryption: String,
    /// The memory that its stream takes beside its buffers, in bytes.
    pub stream_bytes: usize,
    /// What it speaks.
    pub speaks: Protocol,
    /// The file descriptor.
    pub fd: i32,
    /// The thread that serves it.
    pub thread: usize,
    /// Its place among that thread's connections. Later connections reuse it.
    pub place: usize,
    /// When it connected, in milliseconds since the epoch.
    pub connected_ms: i64,
    /// When its last request arrived, likewise.
    pub active_ms: AtomicI64,
    /// The selected database.
    pub db: AtomicUsize,
    /// The index of its last command's row, plus one; zero before the first.
    pub last_command: AtomicUsize,
    /// Bytes of input not yet executed.
    pub input_bytes: AtomicUsize,
    /// The capacity of the input buffer, in bytes.
    pub input_capacity: AtomicUsize,
    /// Bytes of replies not yet sent.
    pub output_bytes: AtomicUsize,
    /// The capacity of the output buffer, in bytes.
    pub output_capacity: AtomicUsize,
    /// The version of RESP that it speaks: 2 or 3.
    pub protocol: AtomicU8,
    /// How many commands it has sent.
    pub commands: AtomicU64,
    /// Its subscriptions, by [`Topic`].
    pub subscriptions: [AtomicUsize; 3],
    /// The memory of its subscriptions, in bytes.
    pub subscription_bytes: AtomicUsize,
    /// It is the link to the primary.
    pub is_primary: bool,
    /// It sees all commands (MONITOR).
    pub monitor: AtomicBool,
    /// It is a replica.
    pub is_replica: AtomicBool,
    /// It is exempt from eviction (CLIENT NO-EVICT).
    pub no_evict: AtomicBool,
    /// Its commands do not record the use of keys (CLIENT NO-TOUCH).
    pub no_touch: AtomicBool,
    /// It tracks keys (CLIENT TRACKING).
    pub tracks: AtomicBool,
    /// It tracks all keys with certain prefixes.
    pub tracks_prefixes: AtomicBool,
    /// It gets no invalidations for its own changes.
    pub no_loop: AtomicBool,
    /// The id of the client that gets its invalidations, or zero.
    pub redirect: AtomicU64,
    /// That client was gone when an invalidation was due.
    pub redirect_broken: AtomicBool,
    /// It can follow redirections to another server (CLIENT CAPA).
    pub follows_redirects: AtomicBool,
    /// The bytes that it has sent.
    pub received_bytes: AtomicU64,
    /// The bytes that were sent to it.
    pub sent_bytes: AtomicU64,
    /// How many keys it watches.
    pub watched: AtomicUsize,
    /// How many commands it has queued since MULTI; -1 outside a transaction.
    pub queued: AtomicIsize,
    /// The memory of the queued commands and the watched keys, in bytes.
    pub transaction_bytes: AtomicUsize,
    /// Whether a key that it watches was changed.
    pub watch_round: WatchRound,
    /// It waits for replicas or the disk (WAIT, WAITAOF).
    pub awaits: AtomicBool,
    /// CLIENT UNBLOCK has ended this wait.
    wait_end: Mutex<Option<End>>,
    /// A pause holds it back.
    pub paused: AtomicBool,
    /// Its connection shall be closed; set by [`Clients::kill`].
    pub killed: AtomicBool,
    /// The command that waits for keys, until its connection has written the reply.
    blocked_client: Mutex<Option<Arc<BlockedClient>>>,
    names: Mutex<Names>,
    /// Its user.
    account: Mutex<Arc<Account>>,
    pending_invalidations: Mutex<Vec<PendingInvalidation>>,
}

impl Client {
    /// True if it may not use keys: it is a monitor or a replica.
    #[inline]
    pub fn is_keyless(&self) -> bool {
        self.monitor.load(Relaxed) || self.is_replica.load(Relaxed)
    }

    /// How the tracking table refers to it.
    pub fn tracker(&self) -> Tracker {
        Tracker {
            thread: self.thread as u32,
            place: self.place as u32,
            id: self.id,
        }
    }

    /// Invalidations that its own command has caused and that are not sent yet.
    pub fn pending_invalidations(&self) -> MutexGuard<'_, Vec<PendingInvalidation>> {
        self.pending_invalidations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// True if it speaks memcached's protocol.
    pub fn is_memcached(&self) -> bool {
        self.speaks == Protocol::Memcached
    }

    /// The version of RESP that it speaks.
    pub fn version(&self) -> Version {
        Version::from_number(self.protocol.load(Relaxed).into()).unwrap_or_default()
    }

    /// Its user.
    pub fn account(&self) -> Arc<Account> {
        self.account_slot().clone()
    }

    /// Sets its user.
    pub fn set_account(&self, account: Arc<Account>) {
        *self.account_slot() = account;
    }

    /// True if its user is this one.
    pub fn is_user(&self, account: &Arc<Account>) -> bool {
        Arc::ptr_eq(&self.account_slot(), account)
    }

    fn account_slot(&self) -> MutexGuard<'_, Arc<Account>> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its names.
    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blocked_client(&self) -> MutexGuard<'_, Option<Arc<BlockedClient>>> {
        self.blocked_client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or clears the command that waits for keys.
    pub fn set_blocked_client(&self, blocked_client: Option<Arc<BlockedClient>>) {
        *self.blocked_client() = blocked_client;
    }

    /// How CLIENT UNBLOCK has ended its wait for replicas or the disk. Its thread has to be woken.
    pub fn wait_end(&self) -> MutexGuard<'_, Option<End>> {
        self.wait_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends its wait for keys, replicas or the disk; false if it does not wait.
    pub fn unblock(&self, end: End) -> bool {
        if self.awaits.load(Relaxed) {
            *self.wait_end() = Some(end);
            return true;
        }
        let blocked_client = self.blocked_client().clone();
        blocked_client.is_some_and(|blocked_client| blocked_client.unblock(end))
    }

    /// The command that waits for keys, if nothing has ended the wait.
    pub fn waiting_command(&self) -> Option<Arc<BlockedClient>> {
        self.blocked_client()
            .clone()
            .filter(|blocked_client| !blocked_client.is_claimed())
    }

    /// True if it waits for keys, for replicas or the disk, or for the end of a pause.
    pub fn is_blocked(&self) -> bool {
        self.paused.load(Relaxed) || self.awaits.load(Relaxed) || self.waiting_command().is_some()
    }

    /// Its capabilities, a letter each.
    pub fn capabilities(&self) -> &'static str {
        match self.follows_redirects.load(Relaxed) {
            true => "r",
            false => "",
        }
    }

    /// Counts bytes that it has sent, and bytes that were sent to it. Only its thread may call this.
    pub fn count_bytes(&self, received: u64, sent: u64) {
        let add = |total: &AtomicU64, more| total.store(total.load(Relaxed) + more, Relaxed);
        add(&self.received_bytes, received);
        add(&self.sent_bytes, sent);
    }

    /// True if it has subscriptions.
    pub fn is_subscriber(&self) -> bool {
        self.subscriptions
            .iter()
            .any(|count| count.load(Relaxed) > 0)
    }

    /// The memory of the client and its connection, in bytes, including buffers.
    pub fn memory(&self) -> usize {
        let names = self.names();
        size_of::<Connection>()
            + size_of::<Self>()
            + self.stream_bytes
            + self.address.len()
            + self.local_address.len()
            + names.name.len()
            + names.library.len()
            + names.library_version.len()
            + self.subscription_bytes.load(Relaxed)
            + self.input_capacity.load(Relaxed)
            + self.output_capacity.load(Relaxed)
            + self.transaction_bytes.load(Relaxed)
    }
}

/// The facts about a new connection.
pub struct NewClient {
    /// See [`Client::id`].
    pub id: u64,
    /// See [`Client::address`].
    pub address: String,
    /// See [`Client::local_address`].
    pub local_address: String,
    /// See [`Client::origin`].
    pub origin: Origin,
    /// See [`Client::unix`].
    pub unix: bool,
    /// See [`Client::encryption`].
    pub encryption: String,
    /// See [`Client::stream_bytes`].
    pub stream_bytes: usize,
    /// See [`Client::speaks`].
    pub speaks: Protocol,
    /// See [`Client::fd`].
    pub fd: i32,
    /// See [`Client::thread`].
    pub thread: usize,
    /// See [`Client::place`].
    pub place: usize,
    /// See [`Client::account`].
    pub account: Arc<Account>,
    /// See [`Client::connected_ms`].
    pub now_ms: i64,
    /// See [`Client::is_primary`].
    pub is_primary: bool,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    last_id: AtomicU64,
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    monitors: Mutex<Vec<Arc<Client>>>,
    /// Evicted clients that were not closed yet at the last check: their ids, and when they were evicted.
    evicted: Mutex<Vec<(u64, Instant)>>,
    /// While memory is short: when the clients' memory may be checked again.
    next_check: Mutex<Option<Instant>>,
}

/// A check of all clients' memory may take one part in so many of the time.
const CHECK_SHARE: u32 = 20;

/// The longest interval between two checks, since one may take long only because its thread was interrupted.
const CHECK_INTERVAL_MAX: Duration = Duration::from_millis(10);

/// For this long, the memory of an evicted client counts as about to be freed. A client that runs a script is closed only after the
/// script.
const CLOSING_MAX: Duration = Duration::from_millis(100);

impl Clients {
    fn by_id(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new id, greater than all earlier ones.
    pub fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Relaxed) + 1
    }

    /// Adds a client.
    pub fn add(&self, new: NewClient) -> Arc<Client> {
        let client = Arc::new(Client {
            id: new.id,
            address: new.address,
            local_address: new.local_address,
            origin: new.origin,
            unix: new.unix,
            encryption: new.encryption,
            stream_bytes: new.stream_bytes,
            speaks: new.speaks,
            fd: new.fd,
            thread: new.thread,
            place: new.place,
            connected_ms: new.now_ms,
            active_ms: AtomicI64::new(new.now_ms),
            db: AtomicUsize::new(0),
            last_command: AtomicUsize::new(0),
            input_bytes: AtomicUsize::new(0),
            input_capacity: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            output_capacity: AtomicUsize::new(0),
            protocol: AtomicU8::new(2),
            commands: AtomicU64::new(0),
            subscriptions: Default::default(),
            subscription_bytes: AtomicUsize::new(0),
            is_primary: new.is_primary,
            monitor: AtomicBool::new(false),
            is_replica: AtomicBool::new(false),
            no_evict: AtomicBool::new(new.is_primary),
            no_touch: AtomicBool::new(false),
            tracks: AtomicBool::new(false),
            tracks_prefixes: AtomicBool::new(false),
            no_loop: AtomicBool::new(false),
            redirect: AtomicU64::new(0),
            redirect_broken: AtomicBool::new(false),
            follows_redirects: AtomicBool::new(false),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            watched: AtomicUsize::new(0),
            queued: AtomicIsize::new(-1),
            transaction_bytes: AtomicUsize::new(0),
            watch_round: WatchRound::default(),
            awaits: AtomicBool::new(false),
            wait_end: Mutex::default(),
            paused: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            blocked_client: Mutex::new(None),
            names: Mutex::new(Names::default()),
            account: Mutex::new(new.account),
            pending_invalidations: Mutex::default(),
        });
        self.by_id().insert(client.id, client.clone());
        client
    }

    /// Removes a client whose connection is closed.
    pub fn remove(&self, id: u64) {
        self.by_id().remove(&id);
    }

    fn monitors_list(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        self.monitors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clients that use MONITOR.
    pub fn monitors(&self) -> Vec<Arc<Client>> {
        self.monitors_list().clone()
    }

    /// Turns MONITOR on for a client; false if it was on.
    pub fn start_monitoring(&self, client: &Arc<Client>) -> bool {
        let starts = !client.monitor.swap(true, Relaxed);
        if starts {
            self.monitors_list().push(client.clone());
        }
        starts
    }

    /// Turns MONITOR off for a client; false if it was off.
    pub fn stop_monitoring(&self, client: &Client) -> bool {
        let stops = client.monitor.swap(false, Relaxed);
        if stops {
            self.monitors_list().retain(|other| other.id != client.id);
        }
        stops
    }

    /// Makes the thread that serves a client close its connection; false if the client was killed before.
    pub fn kill(&self, client: &Arc<Client>, threads: &[Thread]) -> bool {
        let kills = !client.killed.swap(true, Relaxed);
        if kills {
            if let Some(blocked_client) = client.blocked_client().clone() {
                blocked_client.cancel();
            }
            threads[client.thread].send(Message::ClientChanged(client.clone()));
        }
        kills
    }

    /// Kills a client on another thread for which a message was dropped, because that thread has too much to deliver.
    pub fn cut_off(&self, client: &Arc<Client>, threads: &[Thread]) {
        if self.kill(client, threads) {
            log::warn!(
                "Client {} closed for overcoming of output buffer limits: its thread does not deliver.",
                client.address
            );
        }
    }

    /// Kills the largest clients, except those with CLIENT NO-EVICT, until the rest take no more memory
    /// than `maxmemory-clients` allows. Returns how many it killed.
    pub fn evict(&self, config: &Config, threads: &[Thread]) -> u64 {
        let bytes_max = match config.maxmemory_clients {
            ClientMemory::Bytes(bytes) => bytes,
            ClientMemory::Percent(percent) => config.maxmemory_bytes / 100 * u64::from(percent),
        };
        let bytes_max = match usize::try_from(bytes_max) {
            Ok(0) | Err(_) => return 0,
            Ok(bytes_max) => bytes_max,
        };
        let mut all: Vec<_> = self
            .all()
            .into_iter()
            .filter(|client| !client.killed.load(Relaxed) && !client.is_replica.load(Relaxed))
            .map(|client| (client.memory(), client))
            .collect();
        let mut total: usize = all.iter().map(|(bytes, _)| bytes).sum();
        if total <= bytes_max {
            return 0;
        }
        all.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut evicted = self.evicted();
        let mut count = 0;
        for (bytes, client) in all {
            if total <= bytes_max {
                break;
            }
            if !client.no_evict.load(Relaxed) && self.kill(&client, threads) {
                log::info!("Evicting client {} of {bytes} bytes", client.address);
                evicted.push((client.id, Instant::now()));
                count += 1;
                total -= bytes;
            }
        }
        count
    }

    fn evicted(&self) -> MutexGuard<'_, Vec<(u64, Instant)>> {
        self.evicted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while evicted clients are not closed yet, so that their memory is about to be freed.
    pub fn has_unclosed_evictions(&self) -> bool {
        let mut evicted = self.evicted();
        if !evicted.is_empty() {
            let by_id = self.by_id();
            evicted.retain(|(id, since)| by_id.contains_key(id) && since.elapsed() < CLOSING_MAX);
        }
        !evicted.is_empty()
    }

    /// As [`Clients::evict`], but does nothing if another thread does it at this moment, or if the last time was so recent that it would take too large a
    /// part of the time.
    pub fn evict_if_due(&self, config: &Config, threads: &[Thread]) -> u64 {
        let Ok(mut next) = self.next_check.try_lock() else {
            return 0;
        };
        let started = Instant::now();
        if next.is_some_and(|next| started < next) {
            return 0;
        }
        let evicted = self.evict(config, threads);
        let ended = Instant::now();
        let pause = (ended - started) * CHECK_SHARE;
        *next = Some(ended + pause.min(CHECK_INTERVAL_MAX));
        evicted
    }

    /// All clients, oldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.by_id().values().cloned().collect()
    }

    /// The client with this id.
    pub fn find(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id().get(&id).cloned()
    }

    /// How many clients there are.
    pub fn count(&self) -> usize {
        self.by_id().len()
    }
}
