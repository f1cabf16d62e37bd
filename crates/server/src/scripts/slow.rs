//! Slow scripts: those that run for longer than `busy-reply-threshold`.
//!
//! Their own thread goes on serving other clients, between instructions of the script; all threads go on with whatever
//! needs none of the locks that the script holds. Who needs one is told that the server is busy.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use damselfly_base::CommandError;

use super::Scripts;

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A script.
    Script,
    /// A function.
    Function,
}

impl Kind {
    /// What somebody is told who can't go on because of it.
    pub fn busy(self) -> CommandError {
        let kill = match self {
            Self::Script => "SCRIPT",
            Self::Function => "FUNCTION",
        };
        CommandError::Text(format!(
            "BUSY Redis is busy running a script. You can only call {kill} KILL or SHUTDOWN NOSAVE."
        ))
    }
}

/// A slow script, as all threads see it.
#[derive(Debug)]
pub struct Slow {
    /// What it is.
    pub kind: Kind,
    /// The name of the function, or the SHA-1 of the script.
    pub name: String,
    /// The request that runs it.
    pub command: Vec<Vec<u8>>,
    /// When it began.
    pub started: Instant,
    /// It has called a command that writes.
    pub has_written: AtomicBool,
    /// It is to end.
    pub killed: AtomicBool,
    /// The shards that it holds; `None` for all.
    locks: Mutex<Option<Vec<usize>>>,
}

impl Slow {
    /// One that has just become slow.
    pub fn new(kind: Kind, name: String, command: Vec<Vec<u8>>, started: Instant) -> Self {
        Self {
            kind,
            name,
            command,
            started,
            has_written: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            locks: Mutex::new(Some(Vec::new())),
        }
    }

    fn locks(&self) -> MutexGuard<'_, Option<Vec<usize>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which shards it holds.
    pub fn set_locks(&self, shards: Option<Vec<usize>>) {
        *self.locks() = shards;
    }

    fn holds(&self, shard: usize) -> bool {
        let locks = self.locks();
        locks.as_ref().is_none_or(|shards| shards.contains(&shard))
    }
}

/// All slow scripts.
#[derive(Debug, Default)]
pub(super) struct SlowScripts {
    count: AtomicUsize,
    list: Mutex<Vec<Arc<Slow>>>,
}

impl SlowScripts {
    fn list(&self) -> MutexGuard<'_, Vec<Arc<Slow>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a slow script in the list for as long as it runs.
pub(super) struct Listed<'s> {
    scripts: &'s Scripts,
    pub slow: Arc<Slow>,
}

impl<'s> Listed<'s> {
    pub fn new(scripts: &'s Scripts, slow: Arc<Slow>) -> Self {
        scripts.slow.list().push(slow.clone());
        scripts.slow.count.fetch_add(1, Relaxed);
        Self { scripts, slow }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let list = &self.scripts.slow;
        list.list().retain(|slow| !Arc::ptr_eq(slow, &self.slow));
        list.count.fetch_sub(1, Relaxed);
    }
}

impl Scripts {
    /// The slow scripts.
    pub fn slow(&self) -> Vec<Arc<Slow>> {
        match self.slow.count.load(Relaxed) {
            0 => Vec::new(),
            _ => self.slow.list().clone(),
        }
    }

    /// What somebody is told who met a shard that a slow script holds; `None` if none does.
    pub fn busy(&self, shard: usize) -> Option<CommandError> {
        let slow = self.slow();
        let holder = slow.iter().find(|slow| slow.holds(shard))?;
        Some(holder.kind.busy())
    }

    /// Ends the slow scripts of a kind that have written nothing.
    ///
    /// # Errors
    /// None runs, or all that do have written.
    pub fn kill(&self, kind: Kind) -> Result<(), CommandError> {
        let all = self.slow();
        let of_kind: Vec<_> = all.iter().filter(|slow| slow.kind == kind).collect();
        if of_kind.is_empty() {
            return Err(match all.first() {
                Some(other) => other.kind.busy(),
                None => CommandError::Text("NOTBUSY No scripts in execution right now.".into()),
            });
        }
        let mut killed = false;
        for slow in of_kind {
            if !slow.has_written.load(Relaxed) {
                slow.killed.store(true, Relaxed);
                killed = true;
            }
        }
        if !killed {
            return Err(CommandError::Text(String::from(
                "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.",
            )));
        }
        Ok(())
    }
}
