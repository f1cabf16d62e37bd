//! Why a command did not do its work, and what a client waits for.

use std::ops::Range;
use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_engine::{Busy, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::Type;

use crate::{Args, OwnedArgs, Result, SlicedReply};

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Stop {
    /// The client's error: the reply.
    Error(CommandError),
    /// A shard is busy: nothing was done, and the command runs again when the shard is free.
    Busy(Busy),
    /// It uses keys that are no arguments: nothing was done, and the command runs again under all locks.
    NeedsAllLocks,
    /// There is nothing for it yet: nothing was done, and the client waits.
    Wait(Arc<Wait>),
    /// It would take long: nothing was done, and the command runs again where no other client waits for its thread. Only where
    /// [`Tx::others_wait`].
    Long,
    /// All is done and the reply begun; this writes the rest of it.
    SlicedReply(SlicedReply),
}

/// What a client waits for whose command found nothing.
#[derive(Clone, Debug)]
pub struct Wait {
    /// For how long, in milliseconds; `None` for as long as it takes.
    pub timeout_ms: Option<u64>,
    /// The arguments that are the keys to wait for.
    pub keys: Range<usize>,
    /// The argument that is a key which serving changes, too.
    pub target: Option<usize>,
    /// What they have to hold.
    pub of: Type,
    /// True if a key that holds such a collection has what is wanted.
    pub has: fn(&mut Tx<'_>, Args<'_>, Key<'_>) -> bool,
    /// Takes what is wanted from a key that [has](Wait::has) it, and replies.
    pub serve: fn(&mut Tx<'_>, Args<'_>, Key<'_>, &mut Reply<'_>) -> Result,
    /// The error that ends the waiting if a key is gone or holds something else; `None` if that ends nothing.
    pub gone: Option<&'static str>,
    /// Replies where a client can't wait.
    pub nothing: fn(&mut Reply<'_>),
    /// The request to serve later, where that is not the one that was made: some arguments mean what was there then.
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
