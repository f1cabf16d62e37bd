//! The classic storage commands, `touch` and `delete`, and storing an item in general.

use damselfly_base::CommandError;
use damselfly_engine::{Deadline, Event, Key, Tx};
use damselfly_protocol::memcached::{item_bytes, number};
use damselfly_value::{Attributes, NewValue, Text};

use std::sync::atomic::Ordering::Relaxed;

use super::meta_set::flags_and_mode;
use super::{Class, Expiry, Output, is_quiet};
use crate::{Args, Result};

/// Under which condition an item is stored, and what happens to an old value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
}

/// A request to store an item.
pub(super) struct Store<'a> {
    pub(super) key: Key<'a>,
    pub(super) data: &'a [u8],
    pub(super) flags: u32,
    pub(super) expiry: Expiry,
    pub(super) mode: Mode,
    /// The CAS number that the old item must have.
    pub(super) cas: Option<u64>,
    /// An old item with a higher number is replaced, too, and the new one is stale.
    pub(super) accepts_stale: bool,
    /// The CAS number of the new item, if the client chooses it.
    pub(super) new_cas: Option<u64>,
    /// The expiry of an item that appending creates; `None` if it creates none.
    pub(super) vivify: Option<Expiry>,
}

/// What became of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stored,
    NotStored,
    Exists,
    NotFound,
}

/// How the CAS number of a request compares with the old item's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    NotAsked,
    Equal,
    Stale,
    Different,
}

impl Store<'_> {
    /// The condition of a CAS number replaces that of the mode.
    fn is_cas(&self) -> bool {
        self.cas.is_some() && matches!(self.mode, Mode::Set | Mode::Replace)
    }

    pub(super) fn run(
        &self,
        tx: &mut Tx<'_>,
        output: &mut Output<'_>,
    ) -> std::result::Result<Outcome, CommandError> {
        if self.cas.is_none() && self.mode == Mode::Set {
            self.store(tx, Attributes::of_flags(self.flags), self.expiry);
            return Ok(Outcome::Stored);
        }
        let Some(old) = tx.peek(self.key) else {
            return Ok(self.run_absent(tx, output));
        };
        let (is_text, old_expiry) = (old.text().is_some(), Expiry::of(old));
        let needs_text = self.cas.is_some() || matches!(self.mode, Mode::Append | Mode::Prepend);
        if needs_text && !is_text && self.mode != Mode::Add {
            return Err(CommandError::WrongType);
        }
        let attributes = old.attributes();
        let compared = self.compare(tx);
        match self.mode {
            Mode::Add => {
                tx.note_unread(self.key);
                Ok(Outcome::NotStored)
            }
            Mode::Append | Mode::Prepend
                if matches!(compared, Compared::NotAsked | Compared::Equal) =>
            {
                Ok(self.join(tx, attributes.flags))
            }
            Mode::Append | Mode::Prepend => Ok(Outcome::Exists),
            Mode::Set | Mode::Replace if !self.is_cas() => {
                self.store(tx, Attributes::of_flags(self.flags), self.expiry);
                Ok(Outcome::Stored)
            }
            Mode::Set | Mode::Replace => {
                let mut new = Attributes::of_flags(self.flags);
                match compared {
                    Compared::Equal => self.store(tx, new, self.expiry),
                    Compared::Stale => {
                        (new.is_stale, new.is_claimed) = (true, attributes.is_claimed);
                        self.store(tx, new, old_expiry);
                    }
                    Compared::NotAsked | Compared::Different => {
                        output.mismatch(Class::Cas);
                        return Ok(Outcome::Exists);
                    }
                }
                output.hit(Class::Cas);
                Ok(Outcome::Stored)
            }
        }
    }

    fn compare(&self, tx: &mut Tx<'_>) -> Compared {
        let Some(wanted) = self.cas.filter(|&cas| cas != 0) else {
            return Compared::NotAsked;
        };
        let old = match self.accepts_stale {
            // The item gets a number, if it has none, which is higher than that of any earlier value.
            true => tx.cas(self.key),
            false => tx.peek(self.key).and_then(|old| old.attributes().cas),
        };
        match old {
            Some(old) if old == wanted => Compared::Equal,
            Some(old) if self.accepts_stale && wanted < old => Compared::Stale,
            _ => Compared::Different,
        }
    }

    fn run_absent(&self, tx: &mut Tx<'_>, output: &mut Output<'_>) -> Outcome {
        let attributes = Attributes::of_flags(self.flags);
        match (self.mode, self.vivify) {
            _ if self.is_cas() => {
                output.miss(Class::Cas);
                Outcome::NotFound
            }
            (Mode::Set | Mode::Add, _) => {
                self.store(tx, attributes, self.expiry);
                Outcome::Stored
            }
            (Mode::Append | Mode::Prepend, Some(expiry)) => {
                self.store(tx, attributes, expiry);
                Outcome::Stored
            }
            (Mode::Replace | Mode::Append | Mode::Prepend, _) => Outcome::NotStored,
        }
    }

    #[inline]
    fn store(&self, tx: &mut Tx<'_>, attributes: Attributes, expiry: Expiry) {
        let attributes = Attributes {
            cas: self.new_cas,
            ..attributes
        };
        let value = NewValue::compact(self.data);
        store_item(tx, self.key, value, attributes, expiry, Event::Set);
    }

    /// Adds the data to the old string, which keeps its flags and its expiry.
    fn join(&self, tx: &mut Tx<'_>, flags: u32) -> Outcome {
        let old_len = tx
            .peek(self.key)
            .and_then(|old| old.text())
            .map_or(0, Text::len);
        let (added, len) = (self.data.len(), old_len + self.data.len());
        let bytes = item_bytes(self.key.bytes.len(), len, flags != 0);
        if bytes > tx.engine().settings.item_bytes_max.load(Relaxed) {
            return Outcome::NotStored;
        }
        tx.note_replacement(self.key);
        match self.mode {
            Mode::Append => tx.edit_used(self.key, len, Event::Append, |bytes| {
                bytes[old_len..].copy_from_slice(self.data);
            }),
            _ => tx.edit_used(self.key, len, Event::Prepend, |bytes| {
                bytes.copy_within(..old_len, added);
                bytes[..added].copy_from_slice(self.data);
            }),
        }
        let attributes = Attributes {
            cas: self.new_cas,
            ..Attributes::of_flags(flags)
        };
        if attributes != Attributes::NONE {
            tx.set_attributes(self.key, attributes);
        }
        Outcome::Stored
    }
}

/// Stores an item, and does not keep it if it has expired already.
#[inline]
pub(super) fn store_item(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    value: NewValue<'_>,
    attributes: Attributes,
    expiry: Expiry,
    event: Event,
) {
    match expiry {
        Expiry::Never => tx.store_item(key, value, attributes, Deadline::Clear, event),
        Expiry::At(moment) => {
            tx.store_item(key, value, attributes, Deadline::At(moment), event);
            tx.event(key, Event::Expire);
        }
        Expiry::Past => {
            tx.remove(key);
        }
    }
}

pub(super) fn set(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    store(tx, args, Mode::Set, output)
}

pub(super) fn add(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    store(tx, args, Mode::Add, output)
}

pub(super) fn replace(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    store(tx, args, Mode::Replace, output)
}

pub(super) fn append(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    store(tx, args, Mode::Append, output)
}

pub(super) fn prepend(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    store(tx, args, Mode::Prepend, output)
}

/// Arguments: name, key, flags, expiry, length, perhaps `noreply`, data.
#[inline]
fn store(tx: &mut Tx<'_>, args: Args<'_>, mode: Mode, output: &mut Output<'_>) -> Result {
    store_with(tx, args, mode, None, output)
}

/// Arguments: name, key, flags, expiry, length, CAS number, perhaps `noreply`, data.
pub(super) fn cas(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let cas = number::unsigned(args.at(5));
    store_with(tx, args, Mode::Set, cas, output)
}

#[inline]
fn store_with(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    mode: Mode,
    cas: Option<u64>,
    output: &mut Output<'_>,
) -> Result {
    let data_at = args.len() - 1;
    let is_quiet = is_quiet(args, data_at);
    let store = Store {
        key: args.key(1),
        data: args.at(data_at),
        // The parser has checked both numbers.
        flags: number::unsigned_32(args.at(2)).unwrap_or_default(),
        expiry: Expiry::new(number::signed(args.at(3)).unwrap_or_default(), tx.now()),
        mode,
        cas,
        accepts_stale: false,
        new_cas: None,
        vivify: None,
    };
    let stored = match store.run(tx, output) {
        Ok(stored) => stored,
        Err(_) if is_quiet => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    output.line_unless(
        is_quiet,
        match stored {
            Outcome::Stored => "STORED",
            Outcome::NotStored => "NOT_STORED",
            Outcome::Exists => "EXISTS",
            Outcome::NotFound => "NOT_FOUND",
        },
    );
    Ok(())
}

pub(super) fn touch(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let (key, is_quiet) = (args.key(1), is_quiet(args, args.len()));
    let Some(exptime) = number::signed(args.at(2)) else {
        output.line_unless(is_quiet, "CLIENT_ERROR invalid exptime argument");
        return Ok(());
    };
    if tx.access(key).is_none() {
        output.miss(Class::Touch);
        output.line_unless(is_quiet, "NOT_FOUND");
        return Ok(());
    }
    output.hit(Class::Touch);
    Expiry::new(exptime, tx.now()).apply(tx, key);
    output.line_unless(is_quiet, "TOUCHED");
    Ok(())
}

pub(super) fn delete(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    // A key may have this name.
    let is_quiet = args.len() > 2 && is_quiet(args, args.len());
    let text = match tx.remove(args.key(1)) {
        Some(_) => {
            output.hit(Class::Delete);
            "DELETED"
        }
        None => {
            output.miss(Class::Delete);
            "NOT_FOUND"
        }
    };
    output.line_unless(is_quiet, text);
    Ok(())
}

/// True if a refused storage command wants no reply. Its data is not among its arguments.
fn refused_is_quiet(args: Args<'_>) -> bool {
    args.at(0) != b"ms" && is_quiet(args, args.len())
}

pub(super) fn too_large(_: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let text = "SERVER_ERROR object too large for cache";
    output.line_unless(refused_is_quiet(args), text);
    Ok(())
}

pub(super) fn too_large_to_set(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    if args.at(0) == b"ms"
        && let Err(error) = flags_and_mode(args, args.len())
    {
        output.line(error);
        return Ok(());
    }
    // Nobody shall read a value that its writer believes to be replaced.
    tx.remove(args.key(1));
    too_large(tx, args, output)
}

/// The error of a request that would store something while memory is short.
pub(super) const OUT_OF_MEMORY_ERROR: &str = "SERVER_ERROR out of memory storing object";

/// Arguments: those of any command that needs memory.
pub(super) fn out_of_memory(tx: &mut Tx<'_>, args: Args<'_>, output: &mut Output<'_>) -> Result {
    let name = args.at(0);
    if name == b"ms"
        && let Err(error) = flags_and_mode(args, args.len() - 1)
    {
        output.line(error);
        return Ok(());
    }
    if matches!(name, b"set" | b"ms") {
        tx.remove(args.key(1));
    }
    let is_meta = name.len() == 2;
    let end = match name {
        b"incr" | b"decr" => args.len(),
        _ => args.len() - 1,
    };
    let text = match name {
        b"incr" | b"decr" => "SERVER_ERROR out of memory",
        _ => OUT_OF_MEMORY_ERROR,
    };
    output.line_unless(!is_meta && is_quiet(args, end), text);
    Ok(())
}
