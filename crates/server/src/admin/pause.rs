//! CLIENT PAUSE: commands are held back for a while.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError};

use damselfly_engine::Engine;

use crate::clock;

/// Whether commands are held back, and until when. Meanwhile no key is removed because it has expired or to make room.
pub struct Pause {
    /// Its settings have the end of the pause, since its sections ask for it, too.
    engine: Arc<Engine>,
    writes_only: AtomicBool,
    /// The number of pauses that were ended early.
    ended: AtomicU64,
    /// Held while a pause changes.
    wishes: Mutex<Wishes>,
}

/// What the pause follows from.
#[derive(Debug, Default)]
struct Wishes {
    /// CLIENT PAUSE: until when, and whether only commands that write are held back.
    of_clients: (i64, bool),
    /// The server itself holds writes back, for as long as it takes: FAILOVER, SHUTDOWN.
    holds_writes: bool,
}

/// Why and how long a command is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When the pause ends, in milliseconds since the epoch.
    pub until_ms: i64,
    /// Only commands that write are held back.
    pub writes_only: bool,
    /// The number of pauses that had been ended early before.
    ended: u64,
}

impl Pause {
    /// No pause.
    pub fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            writes_only: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            wishes: Mutex::default(),
        }
    }

    /// Holds commands back until `until_ms`: all, or only those that write. Extends a running pause; never shortens or weakens it.
    pub fn start(&self, now_ms: i64, until_ms: i64, writes_only: bool) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, only) = &mut wishes.of_clients;
        if *until <= now_ms {
            *only = writes_only;
        } else if !writes_only {
            *only = false;
        }
        *until = until_ms.max(*until);
        self.apply(&wishes);
    }

    /// Ends what CLIENT PAUSE has begun. The caller must wake the threads afterwards.
    pub fn end(&self) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.of_clients = (0, false);
        self.apply(&wishes);
        self.ended.fetch_add(1, Release);
    }

    /// Holds writes back for as long as it takes, or no longer. In the latter case, the caller must wake the threads afterwards.
    pub fn hold_writes(&self, holds_writes: bool) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.holds_writes = holds_writes;
        self.apply(&wishes);
        if !holds_writes {
            self.ended.fetch_add(1, Release);
        }
    }

    fn apply(&self, wishes: &Wishes) {
        let (until_ms, writes_only) = match wishes.holds_writes {
            false => wishes.of_clients,
            // Once a pause of all commands is over, this one goes on.
            true if wishes.of_clients.1 || wishes.of_clients.0 <= clock::now_ms() => {
                (i64::MAX, true)
            }
            true => (i64::MAX, false),
        };
        self.writes_only.store(writes_only, Relaxed);
        let settings = &self.engine.settings;
        settings.paused_until_ms.store(until_ms, Relaxed);
    }

    /// Milliseconds since the epoch; in the past if there is no pause.
    #[inline]
    fn until_ms(&self) -> i64 {
        self.engine.settings.paused_until_ms.load(Relaxed)
    }

    /// The pause that holds a command back, if there is one. `writes` says whether the command writes.
    #[inline]
    pub fn holds(&self, writes: bool, now_ms: i64) -> Option<Hold> {
        if self.until_ms() <= now_ms {
            return None;
        }
        self.holds_slowly(writes, now_ms)
    }

    #[cold]
    fn holds_slowly(&self, writes: bool, now_ms: i64) -> Option<Hold> {
        // Read before the rest, so that `is_over` notices if the pause is ended meanwhile.
        let ended = self.ended.load(Acquire);
        let until_ms = self.until_ms();
        let writes_only = self.writes_only.load(Relaxed);
        let holds = until_ms > now_ms && (writes || !writes_only);
        holds.then_some(Hold {
            until_ms,
            writes_only,
            ended,
        })
    }

    /// True if a command that was held back should be tried again.
    pub fn is_over(&self, hold: Hold, now_ms: i64) -> bool {
        hold.until_ms <= now_ms || hold.ended != self.ended.load(Acquire)
    }
}
