//! Why a command stopped without completing, and what its client waits for.

use std::ops::Range;
use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_engine::{Busy, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::Type;

use crate::{Args, OwnedArgs, Result, SlicedReply, Unlocked};

/// Why a command stopped without completing.
#[derive(Debug)]
pub enum Stop {
    /// The client's mistake; this error is the reply.
    Error(CommandError),
    /// A shard is busy. The command did nothing and runs again when the shard is free.
    Busy(Busy),
    /// The command uses keys that are not arguments. It did nothing and runs again with all locks held.
    NeedsAllLocks,
    /// There is nothing to return yet. The command did nothing, and its client blocks.
    Wait(Arc<Wait>),
    /// The command would take long. It did nothing and runs again on a thread that serves no other clients. Returned only if
    /// [`Tx::others_wait`] is true.
    Long,
    /// As [`Stop::Long`], but this part of the command runs there first, without locks.
    LongUnlocked(Unlocked),
    /// The command shows what the log has led to, and the log is not merged up to this moment. The command did nothing and runs again when it is.
    LogBehind,
    /// The command is done and has begun its reply; this writes the rest.
    SlicedReply(SlicedReply),
}

/// The condition that a blocked client waits for.
#[derive(Clone, Debug)]
pub struct Wait {
    /// The timeout in milliseconds; `None` to wait forever.
    pub timeout_ms: Option<u64>,
    /// The arguments that are the keys to wait for.
    pub keys: Range<usize>,
    /// The argument that is another key which `serve` changes.
    pub target: Option<usize>,
    /// The type that the keys must hold.
    pub of: Type,
    /// True if a key, which holds a value of that type, has something for the client.
    pub has: fn(&mut Tx<'_>, Args<'_>, Key<'_>) -> bool,
    /// Serves the client from a key that [has](Wait::has) something, and writes the reply. If the client [must end](Wait::ends_if_gone)
    /// its wait for a key, returns the error.
    pub serve: fn(&mut Tx<'_>, Args<'_>, Key<'_>, &mut Reply<'_>) -> Result,
    /// Whether the wait ends with an error if a key is gone or holds another type.
    pub ends_if_gone: bool,
    /// Writes the reply for a client that can't block.
    pub nothing: fn(&mut Reply<'_>),
    /// Writes the reply after the timeout.
    pub timed_out: fn(&mut Reply<'_>),
    /// The request to serve later, if it differs from the one sent: some arguments (`$`) refer to the state when it was sent.
    pub args: Option<OwnedArgs>,
}

impl From<CommandError> for Stop {
    fn from(error: CommandError) -> Self {
        Self::Error(error)
    }
}

impl From<Busy> for Stop {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}
