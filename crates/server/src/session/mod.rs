//! A client's session: what a connection remembers between commands, and the commands that
//! concern connections and the server.

pub mod connection_commands;
pub mod transaction;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_commands::SlicedReply;
use damselfly_engine::{Busy, Now, Tx};
use damselfly_protocol::{Reply, Version};

use crate::blocked::Blocking;
use crate::clients::Client;
use crate::long_commands::LongCommand;
use crate::observers::client_tracking::Tracked;
use crate::observers::subscriptions::Subscriptions;
use crate::observers::{client_tracking, subscriptions};
use crate::registry::Row;
use crate::scripts::Plan;
use crate::session::transaction::Transaction;
use crate::shared::Shared;
use crate::statistics::ThreadCounters;
use damselfly_config::{Config, OutputLimit};

/// Whether replies are sent (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// They are.
    On,
    /// Not until further notice.
    Off,
    /// Not that of the command that runs now and asked for it, nor the next one.
    SkipNext,
    /// Not that of the command that runs now.
    SkipThis,
}

/// What a connection remembers between commands.
pub struct Session {
    /// What other threads see of it.
    pub client: Arc<Client>,
    /// The selected database.
    pub db: usize,
    /// The version of RESP that replies are in.
    pub protocol: Version,
    /// False until a password is given where one is required.
    pub authenticated: bool,
    /// Whether replies are sent.
    pub replies: Replies,
    /// Set to close the connection once its replies are sent.
    pub closing: bool,
    /// Set to run nothing further until then (DEBUG SLEEP).
    pub sleeps_until: Option<Instant>,
    /// The command that waits for keys.
    pub blocking: Option<Blocking>,
    /// What it has subscribed to, if to anything.
    pub subscriptions: Option<Box<Subscriptions>>,
    /// Messages that its own command has caused, to be sent whether or not replies are.
    pub pushes: Vec<u8>,
    /// Something follows the reply of the command that runs: see [`follow_up`].
    pub follow_up: bool,
    /// What it has asked for with CLIENT TRACKING, if it tracks keys.
    pub tracked: Option<Box<Tracked>>,
    /// A thread to which it has published more than that can deliver soon.
    pub congested: Option<usize>,
    /// Its command that runs elsewhere.
    pub long: Option<Arc<LongCommand>>,
    /// What is still to be written of the last reply.
    pub rest: Option<SlicedReply>,
    /// MULTI and WATCH.
    pub transaction: Transaction,
    /// Which locks its script needs that waits for some.
    pub script_plan: Option<Box<Plan>>,
}

impl Session {
    /// A new session in database 0, in RESP2.
    pub fn new(client: Arc<Client>, config: &Config) -> Self {
        Self {
            client,
            db: 0,
            protocol: Version::Resp2,
            authenticated: config.requirepass.is_empty(),
            replies: Replies::On,
            closing: false,
            sleeps_until: None,
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

    /// True if the client has yet to give the password that the server requires.
    #[inline]
    pub fn must_authenticate(&self, config: &Config) -> bool {
        !self.authenticated && !config.requirepass.is_empty()
    }

    /// How much the client may leave unread.
    pub fn output_limit(&self, config: &Config) -> OutputLimit {
        let limits = config.client_output_buffer_limit;
        // A client that monitors is sent what others do, as a subscriber is; with the usual lack of a
        // limit for ordinary clients, one that does not read would take all memory.
        if self.subscriptions.is_some() || self.client.monitor.load(Relaxed) {
            limits.pubsub
        } else {
            limits.normal
        }
    }

    /// Selects a database.
    pub fn select(&mut self, db: usize) {
        self.db = db;
        self.client.db.store(db, Relaxed);
    }

    /// Chooses the version of RESP.
    pub fn set_protocol(&mut self, protocol: Version) {
        self.protocol = protocol;
        self.client.protocol.store(protocol.number(), Relaxed);
    }
}

/// Adds what goes with the reply of a command, which was written from `mark` on: messages that the client has caused to itself.
#[cold]
pub fn follow_up(session: &mut Session, row: Option<&Row>, mark: usize, reply: &mut Reply<'_>) {
    session.follow_up = false;
    if !session.pushes.is_empty() {
        subscriptions::give_pushes(session, row, mark, reply);
    }
    client_tracking::follow_up(session, row, reply);
}

/// What a session command may use.
pub struct Context<'a> {
    /// What all threads share.
    pub shared: &'a Arc<Shared>,
    /// The configuration, as of the start of this turn.
    pub config: &'a Config,
    /// The counters of this thread.
    pub counters: &'a ThreadCounters,
    /// The session of the client that asks.
    pub session: &'a mut Session,
    /// The number of this thread.
    pub thread: usize,
    /// The time.
    pub now: Now,
    /// All locks, if the command is part of a transaction that uses keys.
    pub lent: Option<Tx<'a>>,
}

impl Context<'_> {
    /// A section over nothing, for a look at shards one by one; within a transaction over all.
    pub fn section(&mut self) -> Tx<'_> {
        match &mut self.lent {
            Some(tx) => tx.lend(),
            None => self.shared.engine.lock_none(self.session.db, self.now),
        }
    }

    /// A section over one shard at least.
    ///
    /// # Errors
    /// If it is busy.
    pub fn lock_one(&mut self, hash: u64) -> std::result::Result<Tx<'_>, Busy> {
        match &mut self.lent {
            Some(tx) => Ok(tx.lend()),
            None => self.shared.engine.lock_one(hash, self.session.db, self.now),
        }
    }

    /// A section over everything.
    ///
    /// # Errors
    /// If a shard is busy.
    pub fn lock_all(&mut self) -> std::result::Result<Tx<'_>, Busy> {
        match &mut self.lent {
            Some(tx) => Ok(tx.lend()),
            None => self.shared.engine.lock_all(self.session.db, self.now),
        }
    }
}
