//! Commands that would keep others waiting: those with much to do go to a thread of their own, and long replies are written
//! in slices.

use std::ops::Range;

use damselfly_engine::Tx;
use damselfly_protocol::Reply;
use damselfly_value::{Entry, EntryRef};

use crate::{Args, Result, Stop};

/// Steps that a command may take on a thread that serves other clients, too: about a millisecond. A step is what is done for
/// one element, member, field or key.
const STEPS_MAX: usize = 1 << 14;

/// A reply over more elements than this is written in slices.
pub(crate) const SLICED_MIN: usize = 1 << 12;

/// True for a command that takes so many steps that it should hold no lock meanwhile, if it only reads.
pub(crate) fn is_long(steps: usize) -> bool {
    steps > STEPS_MAX
}

/// Sends the command to another thread if it is about to take that many steps: it starts again there. To be called before
/// anything is done.
#[inline]
pub(crate) fn check(tx: &Tx<'_>, steps: usize) -> Result {
    if steps > steps_max(tx) {
        return Err(Stop::Long);
    }
    Ok(())
}

/// The most steps that a command may take where it runs, for one that learns too late for [`check`] how many they are.
#[inline]
pub(crate) fn steps_max(tx: &Tx<'_>) -> usize {
    if tx.others_wait() {
        STEPS_MAX
    } else {
        usize::MAX
    }
}

/// Has `write` write the reply that follows from what is at some keys, whose type and number of steps were looked at. If they are
/// many, it runs on another thread and without locks, on what is there now; statistics then miss it if it refuses.
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
    // The copies take no time where it matters: of large collections, they are references.
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

/// The rest of a reply, whose beginning is written. It holds no lock: what it shows stays as it was when the command ran.
pub struct SlicedReply(Box<WriteSome>);

/// Writes the next element or a few; false if there is none left.
type WriteSome = dyn FnMut(&mut Reply<'_>) -> bool + Send;

impl SlicedReply {
    /// A rest that `write` writes, a few elements a call, until it returns false.
    pub fn new(write: impl FnMut(&mut Reply<'_>) -> bool + Send + 'static) -> Self {
        Self(Box::new(write))
    }

    /// A rest that `write` writes at once.
    pub fn once(write: impl FnOnce(&mut Reply<'_>) + Send + 'static) -> Self {
        let mut write = Some(write);
        Self::new(move |reply| {
            if let Some(write) = write.take() {
                write(reply);
            }
            false
        })
    }

    /// Writes about `bytes` more, and some in any case. False if that was all.
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
        f.debug_struct("Rest").finish_non_exhaustive()
    }
}
