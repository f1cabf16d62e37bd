//! Who is connected: what other threads may know of a connection, and may ask of it.

use std::collections::BTreeMap;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Origin;

/// What CLIENT SETNAME and CLIENT SETINFO set.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The connection's name; empty for none.
    pub name: String,
    /// The client library.
    pub library: String,
    /// Its version.
    pub library_version: String,
}

/// One connection, as other threads see it. The owning thread keeps the figures current, once per
/// batch of requests.
#[derive(Debug)]
pub struct Client {
    /// Never reused.
    pub id: u64,
    /// `ip:port`, or the path of the Unix socket.
    pub address: String,
    /// The server's end, likewise.
    pub local_address: String,
    /// Whether it comes from this machine.
    pub origin: Origin,
    /// True for Unix sockets.
    pub unix: bool,
    /// The file descriptor.
    pub fd: i32,
    /// The thread that serves it.
    pub thread: usize,
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
    /// Bytes set aside for input, used or not.
    pub input_capacity: AtomicUsize,
    /// Bytes of replies not yet sent.
    pub output_bytes: AtomicUsize,
    /// Bytes set aside for replies, used or not.
    pub output_capacity: AtomicUsize,
    /// 2 or 3.
    pub protocol: AtomicU8,
    /// Commands executed.
    pub commands: AtomicU64,
    /// It watches all commands (MONITOR).
    pub monitor: AtomicBool,
    /// It is exempt from eviction (CLIENT NO-EVICT).
    pub no_evict: AtomicBool,
    /// It leaves no trace on the age of keys (CLIENT NO-TOUCH).
    pub no_touch: AtomicBool,
    /// It waits for something: a pause, DEBUG SLEEP, keys.
    pub blocked: AtomicBool,
    /// The id of the last one, once more; changes when [`Clients::kill`] wants it gone.
    pub killed: AtomicBool,
    /// Requests to end its waiting: 0 for none, 1 as by a timeout, 2 with an error.
    pub unblock: AtomicU32,
    names: Mutex<Names>,
}

impl Client {
    /// Its names.
    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a connection when it is made.
pub struct NewClient {
    /// See [`Client::address`].
    pub address: String,
    /// See [`Client::local_address`].
    pub local_address: String,
    /// See [`Client::origin`].
    pub origin: Origin,
    /// See [`Client::unix`].
    pub unix: bool,
    /// See [`Client::fd`].
    pub fd: i32,
    /// See [`Client::thread`].
    pub thread: usize,
    /// See [`Client::connected_ms`].
    pub now_ms: i64,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Clients {
    last_id: AtomicU64,
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Clients {
    fn by_id(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection.
    pub fn add(&self, new: NewClient) -> Arc<Client> {
        let client = Arc::new(Client {
            id: self.last_id.fetch_add(1, Relaxed) + 1,
            address: new.address,
            local_address: new.local_address,
            origin: new.origin,
            unix: new.unix,
            fd: new.fd,
            thread: new.thread,
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
            monitor: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            unblock: AtomicU32::new(0),
            names: Mutex::new(Names::default()),
        });
        self.by_id().insert(client.id, client.clone());
        client
    }

    /// Removes a connection that is closed.
    pub fn remove(&self, id: u64) {
        self.by_id().remove(&id);
    }

    /// All connections, oldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.by_id().values().cloned().collect()
    }

    /// The connection of this id.
    pub fn find(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id().get(&id).cloned()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_id().len()
    }
}
