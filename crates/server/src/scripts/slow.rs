//! Slow scripts: those that have run for longer than `busy-reply-threshold`.
//!
//! The script's thread keeps serving other clients between instructions of the script. All threads keep serving requests that need
//! none of the locks that the script holds; a client that needs one gets the error BUSY.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use damselfly_base::CommandError;

use super::Scripts;

/// The kind of a running program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A script.
    Script,
    /// A function.
    Function,
}

impl Kind {
    /// The error for a client that needs a lock of a slow program of this kind.
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

/// The values of [`Slow::fate`]: undecided; the script has written; the script was killed.
const OPEN: u8 = 0;
const WRITES: u8 = 1;
const KILLED: u8 = 2;

/// A slow script, as all threads see it.
#[derive(Debug)]
pub struct Slow {
    /// Script or function.
    pub kind: Kind,
    /// The name of the function, or the SHA-1 of the script.
    pub name: String,
    /// The request that runs it.
    pub command: Vec<Vec<u8>>,
    /// When it began.
    pub started: Instant,
    /// Whether it has written or was killed. Only one can happen, and the first decides.
    fate: AtomicU8,
    /// The shards that it holds; `None` for all.
    locks: Mutex<Option<Vec<usize>>>,
}

impl Slow {
    /// An entry for a script that has just become slow.
    pub fn new(kind: Kind, name: String, command: Vec<Vec<u8>>, started: Instant) -> Self {
        Self {
            kind,
            name,
            command,
            started,
            fate: AtomicU8::new(OPEN),
            locks: Mutex::new(Some(Vec::new())),
        }
    }

    /// Sets the fate. False if another fate was decided before.
    fn decide(&self, fate: u8) -> bool {
        let decided = self.fate.compare_exchange(OPEN, fate, Relaxed, Relaxed);
        decided.is_ok() || decided == Err(fate)
    }

    /// Call this before the script first calls a command that writes. False if it may not, because it was killed.
    pub fn begin_writing(&self) -> bool {
        self.decide(WRITES)
    }

    /// Kills the script. False if it has written, and so can't be killed.
    pub fn kill(&self) -> bool {
        self.decide(KILLED)
    }

    /// True if the script was killed and must end.
    pub fn is_killed(&self) -> bool {
        self.fate.load(Relaxed) == KILLED
    }

    fn locks(&self) -> MutexGuard<'_, Option<Vec<usize>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the shards that it holds; `None` for all.
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

    /// The error for a client that needs `shard`; `None` if no slow script holds it.
    pub fn busy(&self, shard: usize) -> Option<CommandError> {
        let slow = self.slow();
        let holder = slow.iter().find(|slow| slow.holds(shard))?;
        Some(holder.kind.busy())
    }

    /// Kills the slow scripts of a kind that have written nothing.
    ///
    /// # Errors
    /// No such script runs, or all of them have written.
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
            killed |= slow.kill();
        }
        if !killed {
            return Err(CommandError::Text(String::from(
                "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.",
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bug: a script could end half done. The cause: KILL first checked that the script had not written, and marked it as killed
    /// a moment later; in between the script could write. The fix: one atomic value decides between the two.
    #[test]
    fn a_script_that_is_killed_does_not_write() {
        for _ in 0..1000 {
            let slow = Slow::new(Kind::Script, String::new(), Vec::new(), Instant::now());
            let (writes, kills) = std::thread::scope(|scope| {
                let kills = scope.spawn(|| slow.kill());
                (slow.begin_writing(), kills.join().unwrap())
            });
            assert_ne!(writes, kills);
            assert_eq!((slow.begin_writing(), slow.kill()), (writes, kills));
            assert_eq!(slow.is_killed(), kills);
        }
    }
}
