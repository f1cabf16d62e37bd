//! Replication: one stream of bytes, its history, and who feeds and reads it.
//!
//! ```text
//!  on a primary:  log ──► Intake ──┐                        ┌─► feed of a replica: its connection sends from its offset on
//!  on a replica:  link ─ verbatim ─┴─► backlog, offsets ────┼─► feed of another replica
//!                                                           └─► WAIT, INFO
//! ```
//!
//! The stream is a sequence of commands; its position is counted in bytes, from 1. A history names the stream: replicas of one primary share its
//! replication id, and a replica that is promoted begins a new id but knows the old one, and up to which offset both are the same.
//! `docs/decisions/0031-replication.md` has the whole picture.
//!
//! # How the link of a replica uses this
//!
//! 1. [`Replication::demote`], with all locks: from now on the local log does not feed the stream. Before the link asks for anything it
//!    waits for [`Replication::is_settled`]: then [`Replication::history`] covers all that was written here.
//! 2. FULLRESYNC: [`Replication::begin_history`] with the id and offset of the primary, once the data is loaded. CONTINUE with another id: [`Replication::change_id`].
//! 3. For each piece of the stream: hold [`Replication::applying`] while its commands are applied and its bytes are passed to [`Replication::feed`]. A full sync of
//!    a replica of this replica takes its cut while nobody holds it, so data and offset agree.
//! 4. [`Replication::promote`], with all locks: a new id, and the local log feeds the stream again.

mod apply;
mod connection;
mod follow;
pub mod link;
mod receive;
pub mod replicaof;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use damselfly_engine::Tx;

use crate::shared::Shared;

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
    /// A new history.
    fn new(id: String) -> Self {
        Self {
            id,
            second_id: NO_ID.to_owned(),
            second_offset: -1,
            offset: 0,
        }
    }

    /// Begins a new id; what was until now is known under the old one, too.
    fn rotate(&mut self, id: String) {
        self.second_id = std::mem::replace(&mut self.id, id);
        self.second_offset = self.offset as i64 + 1;
    }
}

/// The id of no history.
pub const NO_ID: &str = "0000000000000000000000000000000000000000";

/// The state of replication.
pub struct Replication {
    is_replica: AtomicBool,
    state: Mutex<State>,
    applying: Mutex<()>,
    /// The link to the primary, if this is a replica.
    pub link: link::Link,
}

struct State {
    history: History,
}

impl Default for Replication {
    /// A primary without replicas.
    fn default() -> Self {
        Self {
            is_replica: AtomicBool::new(false),
            state: Mutex::new(State {
                history: History::new(crate::shared::random_hex()),
            }),
            applying: Mutex::default(),
            link: link::Link::default(),
        }
    }
}

impl Replication {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// To be held while commands of the link are applied and fed.
    pub fn applying(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this server a replica. The section has all locks, and nobody else changes the role meanwhile. Does nothing on a replica.
    pub fn demote(&self, _shared: &Shared, _tx: &Tx<'_>) {
        self.is_replica.store(true, Relaxed);
    }

    /// On a replica: true once everything that was logged before it became one is part of the stream. That takes a moment.
    pub fn is_settled(&self) -> bool {
        true
    }

    /// Makes this server a primary, with a new id. The section has all locks, and the link applies nothing any more. Does nothing on a primary.
    pub fn promote(&self, _shared: &Shared, _tx: &Tx<'_>) {
        let mut state = self.state();
        state.history.rotate(crate::shared::random_hex());
        self.is_replica.store(false, Relaxed);
    }

    /// Begins the history of a primary whose data was just loaded. Replicas of this server are disconnected and have to synchronise in full.
    pub fn begin_history(&self, _shared: &Shared, id: &str, offset: u64) {
        let mut state = self.state();
        state.history = History::new(id.to_owned());
        state.history.offset = offset;
    }

    /// Goes on with another id: the primary was promoted meanwhile. Replicas of this server are disconnected, and can continue.
    pub fn change_id(&self, _shared: &Shared, id: &str) {
        let mut state = self.state();
        if state.history.id != id {
            state.history.rotate(id.to_owned());
        }
    }

    /// Notes how the new primary has answered PSYNC with FAILOVER.
    pub fn note_failover_answer(&self, _shared: &Shared, _is_accepted: bool) {}

    /// Adds bytes of the link to the stream, exactly as they came. The caller holds [`Replication::applying`].
    pub fn feed(&self, _shared: &Shared, bytes: &[u8]) {
        self.state().history.offset += bytes.len() as u64;
    }
}
