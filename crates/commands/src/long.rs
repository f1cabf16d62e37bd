//! Commands that would make other clients wait: commands that take many steps move to a thread of their own, and long replies
//! are written in slices.

use std::ops::Range;

use damselfly_engine::{Engine, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Entry, EntryRef};

use crate::migrate::Migration;
use crate::{Args, Result, Stop};

/// The most steps that a command may take on a thread that also serves other clients: about a millisecond. A step is the work
/// for one element, member, field or key.
const STEPS_MAX: usize = 1 << 14;

/// A reply with more elements than this is written in slices.
pub(crate) const SLICED_MIN: usize = 1 << 12;

/// True if a read-only command with this many steps should not hold locks while it takes them.
pub(crate) fn is_long(steps: usize) -> bool {
    steps > STEPS_MAX
}

/// Moves a command that is about to take that many steps to another thread, if there are too many: it starts again there. To be
/// called before the command changes anything.
#[inline]
pub(crate) fn check(tx: &Tx<'_>, steps: usize) -> Result {
    if steps > steps_max(tx) {
        return Err(Stop::Long);
    }
    Ok(())
}

/// The most steps that a command may take on its current thread, for commands that can't call [`check`] before they count them.
#[inline]
pub(crate) fn steps_max(tx: &Tx<'_>) -> usize {
    if tx.others_wait() {
        STEPS_MAX
    } else {
        usize::MAX
    }
}

/// The steps for reading or writing that many bytes of a string.
#[inline]
pub(crate) fn steps_of_bytes(bytes: usize) -> usize {
    /// About what a processor copies in the time of a step.
    const BYTES_PER_STEP: usize = 256;
    bytes / BYTES_PER_STEP
}

/// Lets `write` write the reply from the values at some keys, whose types and number of steps the caller has checked. If there
/// are many steps, `write` runs on another thread without locks, on the values of this moment; an error that it returns then is
/// missing from the statistics.
pub(crate) fn reply_from(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    places: Range<usize>,
    steps: usize,
    reply: &mut Reply<'_>,
    write: impl FnOnce(&[Option<EntryRef<'_>>], &mut Reply<'_>) -> Result + Send + 'static,
) -> Result {
    check(tx, steps)?;
    let tx = &*tx;
    if places.len() == 1 && !is_long(steps) {
        return write(&[tx.view(args.key(places.start))], reply);
    }
    let entries: Vec<_> = places.map(|place| tx.view(args.key(place))).collect();
    if !is_long(steps) {
        return write(&entries, reply);
    }
    // The copies are cheap: a copy of a large collection is a reference.
    let copies = entries
        .iter()
        .map(|entry| entry.map(|entry| entry.to_entry(b"")));
    let copies: Vec<_> = copies.collect();
    Err(Stop::SlicedReply(SlicedReply::once(move |reply| {
        let entries = copies.iter().map(|copy| copy.as_ref().map(Entry::view));
        if let Err(Stop::Error(error)) = write(&entries.collect::<Vec<_>>(), reply) {
            reply.error(error.to_bytes());
        }
    })))
}

/// The first part of a long command, which needs no locks. Its result is the rest of the command.
pub enum Unlocked {
    /// It computes.
    Compute(Box<FirstPart>),
    /// It sends keys to another server, so it takes as long as that server likes.
    Migrate(Box<Migration>),
}

/// The first part of a command that computes.
type FirstPart = dyn FnOnce(&Engine, Args<'_>) -> Rest + Send;

/// The rest of a long command. It runs with the locks that the command's row asks for.
pub type Rest = Box<dyn FnOnce(&mut Tx<'_>, Args<'_>, &mut Reply<'_>) -> Result + Send>;

impl Unlocked {
    /// The first part that `run` is.
    pub fn new<R>(run: impl FnOnce(&Engine, Args<'_>) -> R + Send + 'static) -> Self
    where
        R: FnOnce(&mut Tx<'_>, Args<'_>, &mut Reply<'_>) -> Result + Send + 'static,
    {
        Self::Compute(Box::new(|engine, args| Box::new(run(engine, args))))
    }

    /// Runs it, with the arguments of the command. The keys of a migration have been sent before.
    pub fn run(self, engine: &Engine, args: Args<'_>) -> Rest {
        match self {
            Self::Compute(run) => run(engine, args),
            Self::Migrate(migration) => Box::new(move |tx, _, reply| migration.finish(tx, reply)),
        }
    }
}

impl std::fmt::Debug for Unlocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unlocked").finish_non_exhaustive()
    }
}

/// The rest of a reply whose beginning is written. It holds no lock: its data stays as it was when the command ran.
pub struct SlicedReply(Box<WriteSome>);

/// Writes the next few elements; returns false once none are left.
type WriteSome = dyn FnMut(&mut Reply<'_>) -> bool + Send;

impl SlicedReply {
    /// The rest that `write` writes, a few elements per call, until it returns false.
    pub fn new(write: impl FnMut(&mut Reply<'_>) -> bool + Send + 'static) -> Self {
        Self(Box::new(write))
    }

    /// The rest that `write` writes in one call.
    pub fn once(write: impl FnOnce(&mut Reply<'_>) + Send + 'static) -> Self {
        let mut write = Some(write);
        Self::new(move |reply| {
            if let Some(write) = write.take() {
                write(reply);
            }
            false
        })
    }

    /// Writes about `bytes` more, but always something. Returns false once nothing is left.
    pub fn write(&mut self, reply: &mut Reply<'_>, bytes: usize) -> bool {
        let start = reply.position();
        while (self.0)(reply) {
            if reply.position() - start >= bytes {
                return true;
            }
        }
        false
    }

    /// Writes all of it.
    pub fn write_all(mut self, reply: &mut Reply<'_>) {
        while self.write(reply, usize::MAX) {}
    }
}

impl std::fmt::Debug for SlicedReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlicedReply").finish_non_exhaustive()
    }
}
