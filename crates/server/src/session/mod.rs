//! A client's session: the state that a connection keeps between commands, and the context of
//! commands on connections and the server.

pub mod connection_commands;
pub mod transaction;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_base::CommandError;
use damselfly_commands::SlicedReply;
use damselfly_engine::{Busy, Now, Tx};
use damselfly_protocol::{Reply, Version};

use crate::blocked::Blocking;
use crate::clients::Client;
use crate::dispatch;
use crate::event_loop::parser::Protocol;
use crate::long_commands::LongCommand;
use crate::memcached::{self, lru_crawler::KeyDump};
use crate::observers::client_tracking::Tracked;
use crate::observers::subscriptions::Subscriptions;
use crate::observers::{client_tracking, subscriptions};
use crate::registry::Row;
use crate::replication::feed::{Abilities, Feed};
use crate::replication::wait::StreamWait;
use crate::scripts::Plan;
use crate::session::transaction::Transaction;
use crate::shared::Shared;
use crate::statistics::ThreadCounters;
use crate::users::Login;
use damselfly_config::{Config, OutputLimit};

/// Whether replies are sent (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// All are sent.
    On,
    /// None are sent.
    Off,
    /// Neither that of the current command, CLIENT REPLY SKIP, nor that of the next one is sent.
    SkipNext,
    /// That of the current command is not sent.
    SkipThis,
}

/// Where the changes of a client have to be before its replies are sent: CLIENT DURABLE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// On disk, whatever `appendfsync` says.
    pub on_disk: bool,
    /// On so many replicas.
    pub replicas: usize,
}

/// The state that a connection keeps between commands.
pub struct Session {
    /// The part that other threads see.
    pub client: Arc<Client>,
    /// The selected database.
    pub db: usize,
    /// The version of RESP for replies.
    pub protocol: Version,
    /// Its user.
    pub login: Login,
    /// Whether replies are sent.
    pub replies: Replies,
    /// Set to close the connection once its replies are sent.
    pub closing: bool,
    /// Where its changes have to be.
    pub durability: Durability,
    /// Where they will have to be once no reply waits any more.
    later_durability: Option<Durability>,
    /// Changes of this client may be in the log that are not on disk yet.
    pub has_logged: bool,
    /// WAIT or WAITAOF waits.
    pub disk_wait: Option<DiskWait>,
    /// INFO, ROLE or PSYNC waits for a part of the stream.
    pub stream_wait: Option<StreamWait>,
    /// What it can do, if it says that it is a replica.
    pub abilities: Option<Box<Abilities>>,
    /// It is a replica, which gets the stream and no replies.
    pub feed: Option<Arc<Feed>>,
    /// Set by DEBUG SLEEP: no further requests run until then.
    pub sleeps_until: Option<Instant>,
    /// The command that waits for keys.
    pub blocking: Option<Blocking>,
    /// Its subscriptions, if it has any.
    pub subscriptions: Option<Box<Subscriptions>>,
    /// Messages to this client that its own command has caused. They are sent even if replies are off.
    pub pushes: Vec<u8>,
    /// [`follow_up`] has work to do after the reply of the current command.
    pub follow_up: bool,
    /// The options of CLIENT TRACKING, if it tracks keys.
    pub tracked: Option<Box<Tracked>>,
    /// A thread to which it has sent more messages than that thread can deliver soon.
    pub congested: Option<usize>,
    /// Its command that runs on a thread for long commands.
    pub long: Option<Arc<LongCommand>>,
    /// The rest of the last reply, if it is written in slices.
    pub rest: Option<RestOfReply>,
    /// The state of MULTI and WATCH.
    pub transaction: Transaction,
    /// The locks that its script needs, if it waits for some of them.
    pub script_plan: Option<Box<Plan>>,
}

/// The rest of a reply that is written in slices.
#[derive(Debug)]
pub enum RestOfReply {
    /// Its data is there.
    Slices(SlicedReply),
    /// A list of memcached's items, each of which is looked up when it is written.
    Keys(KeyDump),
}

impl RestOfReply {
    /// Writes the next slice. Returns false once nothing is left.
    ///
    /// # Errors
    /// If a shard is busy: nothing was written.
    pub fn write(&mut self, shared: &Shared, reply: &mut Reply<'_>) -> Result<bool, Busy> {
        match self {
            Self::Slices(slices) => Ok(slices.write(reply, dispatch::REPLY_SLICE_BYTES)),
            Self::Keys(keys) => keys.write(shared, reply),
        }
    }
}

impl Session {
    /// A new session in database 0, in RESP2.
    pub fn new(client: Arc<Client>, login: Login) -> Self {
        Self {
            client,
            db: 0,
            protocol: Version::Resp2,
            login,
            replies: Replies::On,
            closing: false,
            sleeps_until: None,
            durability: Durability::default(),
            later_durability: None,
            has_logged: false,
            disk_wait: None,
            stream_wait: None,
            abilities: None,
            feed: None,
            blocking: None,
            subscriptions: None,
            pushes: Vec::new(),
            follow_up: false,
            tracked: None,
            congested: None,
            long: None,
            rest: None,
            transaction: Transaction::default(),
            script_plan: None,
        }
    }

    /// Sets where changes have to be. Replies to earlier requests may not have been sent: they wait as they would have waited before.
    pub fn set_durability(&mut self, wanted: Durability) {
        self.durability.on_disk |= wanted.on_disk;
        self.durability.replicas = self.durability.replicas.max(wanted.replicas);
        self.later_durability = Some(wanted);
    }

    /// Notes that no reply waits any more.
    pub fn take_later_durability(&mut self) {
        if let Some(wanted) = self.later_durability.take() {
            self.durability = wanted;
        }
    }

    /// The limit on replies that the client leaves unread.
    pub fn output_limit(&self, config: &Config) -> OutputLimit {
        let limits = config.client_output_buffer_limit;
        // Like a subscriber, a MONITOR client receives output that other clients cause. By default there is no
        // limit for normal clients, so one that does not read would use up all memory.
        if self.subscriptions.is_some() || self.client.monitor.load(Relaxed) {
            limits.pubsub
        } else {
            limits.normal
        }
    }

    /// Writes an error in the protocol of the connection.
    #[cold]
    pub fn write_error(&self, reply: &mut Reply<'_>, error: &CommandError) {
        match self.client.speaks {
            Protocol::Resp => reply.error(error.to_bytes()),
            Protocol::Memcached => memcached::write_error(reply.buffer(), error),
        }
    }

    /// Selects a database.
    pub fn select(&mut self, db: usize) {
        self.db = db;
        self.client.db.store(db, Relaxed);
    }

    /// True between MULTI and the end of EXEC.
    pub fn is_in_transaction(&self) -> bool {
        self.client.queued.load(Relaxed) >= 0
    }

    /// Sets the version of RESP.
    pub fn set_protocol(&mut self, protocol: Version) {
        self.protocol = protocol;
        self.client.protocol.store(protocol.number(), Relaxed);
    }
}

/// Adds the messages to this client that its own command has caused. The reply of the command begins at `mark`.
#[cold]
pub fn follow_up(session: &mut Session, row: Option<&Row>, mark: usize, reply: &mut Reply<'_>) {
    session.follow_up = false;
    if !session.pushes.is_empty() {
        subscriptions::write_pushes(session, mark, reply);
    }
    client_tracking::follow_up(session, row, reply);
}

/// The command that a client waits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// WAIT: replicas have the changes.
    Replicas,
    /// WAITAOF: they are on disk here, if this is true, and on the disks of replicas.
    Disks {
        /// They have to be on disk here, too.
        local: bool,
    },
}

/// WAIT and WAITAOF: what a client waits for.
#[derive(Clone, Copy, Debug)]
pub struct DiskWait {
    /// The thread of the client.
    pub thread: usize,
    /// It waits for all records below this number.
    pub record: u64,
    /// Where they have to be.
    pub awaited: Awaited,
    /// On how many replicas.
    pub replicas: usize,
    /// When it gives up.
    pub until: Option<Instant>,
}

impl DiskWait {
    /// True if the records are wherever they have to be.
    pub fn is_complete(&self, shared: &Shared) -> bool {
        let (have, have_on_disk) = match self.replicas {
            0 => (0, 0),
            _ => shared.replication.replicas_with(self.record),
        };
        match self.awaited {
            Awaited::Replicas => have >= self.replicas,
            Awaited::Disks { local } => {
                have_on_disk >= self.replicas && (!local || shared.aof.has(self.record))
            }
        }
    }

    /// True if the wait is over.
    pub fn is_over(&self, shared: &Shared) -> bool {
        self.until.is_some_and(|until| until <= Instant::now()) || self.is_complete(shared)
    }

    /// Writes the reply.
    pub fn write_reply(&self, shared: &Shared, reply: &mut Reply<'_>) {
        let (have, have_on_disk) = shared.replication.replicas_with(self.record);
        match self.awaited {
            Awaited::Replicas => reply.integer(have as i64),
            Awaited::Disks { .. } => {
                reply.array(2);
                reply.integer(shared.aof.has(self.record).into());
                reply.integer(have_on_disk as i64);
            }
        }
    }

    /// The client waits no longer.
    pub fn end(&self, shared: &Shared) {
        shared.replication.end_wait();
        if self.awaited != Awaited::Replicas {
            shared.aof.add_waiting(&shared.threads[self.thread], -1);
        }
    }
}

/// The context of commands on connections and the server.
pub struct Context<'a> {
    /// The state that all threads share.
    pub shared: &'a Arc<Shared>,
    /// The configuration, as of the start of this turn.
    pub config: &'a Config,
    /// The counters of this thread.
    pub counters: &'a ThreadCounters,
    /// The client's session.
    pub session: &'a mut Session,
    /// The index of this thread.
    pub thread: usize,
    /// The time.
    pub now: Now,
    /// True within a script or a transaction, in which time stands still.
    pub is_time_frozen: bool,
    /// The section with all locks, if the command is part of a transaction that holds them.
    pub lent: Option<Tx<'a>>,
}

impl Context<'_> {
    /// A section without locks, which visits shards one by one. Within a transaction, the one that it lends.
    pub fn section(&mut self) -> Tx<'_> {
        match &mut self.lent {
            Some(tx) => tx.lend(),
            None => self.shared.engine.lock_none(self.session.db, self.now),
        }
    }

    /// A section with at least the lock of the shard of `hash`.
    ///
    /// # Errors
    /// The shard is busy.
    pub fn lock_one(&mut self, hash: u64) -> std::result::Result<Tx<'_>, Busy> {
        match &mut self.lent {
            Some(tx) => Ok(tx.lend()),
            None => self.shared.engine.lock_one(hash, self.session.db, self.now),
        }
    }

    /// A section with all locks.
    ///
    /// # Errors
    /// A shard is busy.
    pub fn lock_all(&mut self) -> std::result::Result<Tx<'_>, Busy> {
        match &mut self.lent {
            Some(tx) => Ok(tx.lend()),
            None => self.shared.engine.lock_all(self.session.db, self.now),
        }
    }
}
