//! The parts that SCAN, SSCAN, HSCAN and ZSCAN share: cursor, options, reply.

use damselfly_base::glob::Glob;
use damselfly_base::number::Decimal;
use damselfly_base::{CommandError, number};
use damselfly_engine::Tx;
use damselfly_protocol::Reply;
use damselfly_value::{Collection, Element};

use crate::{Args, Result, long};

/// The options of a scan.
pub(crate) struct Options<'a> {
    /// The pattern of MATCH; `None` if everything matches.
    pub(crate) glob: Option<Glob>,
    /// COUNT: roughly how many elements to visit.
    pub(crate) count: usize,
    /// TYPE, an option of SCAN only.
    pub(crate) only_type: Option<&'a [u8]>,
    /// NOVALUES, an option of HSCAN only: the reply has no values.
    pub(crate) only_names: bool,
}

/// The options that only one of the scans has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// None.
    None,
    /// TYPE, of SCAN.
    Type,
    /// NOVALUES, of HSCAN.
    NoValues,
}

/// The cursor in an argument.
pub(crate) fn cursor(args: Args<'_>, at: usize) -> Result<u64> {
    Ok(number::parse_cursor(args.at(at)).ok_or(CommandError::InvalidCursor)?)
}

impl<'a> Options<'a> {
    /// Parses the arguments from `from` on.
    pub(crate) fn parse(args: Args<'a>, from: usize, extra: Extra) -> Result<Self> {
        const COUNT_DEFAULT: i64 = 10;
        let (mut pattern, mut count, mut only_type) = (None, COUNT_DEFAULT, None);
        let (mut only_names, mut at) = (false, from);
        while at < args.len() {
            if args.is(at, "NOVALUES") {
                if extra != Extra::NoValues {
                    let text = "NOVALUES option can only be used in HSCAN";
                    return Err(CommandError::err(text).into());
                }
                only_names = true;
                at += 1;
                continue;
            }
            let Some(value) = args.get(at + 1) else {
                return Err(CommandError::Syntax.into());
            };
            if args.is(at, "COUNT") {
                count = args.integer(at + 1)?;
                if count < 1 {
                    return Err(CommandError::Syntax.into());
                }
            } else if args.is(at, "MATCH") {
                pattern = Some(value).filter(|&pattern| pattern != b"*");
            } else if extra == Extra::Type && args.is(at, "TYPE") {
                only_type = Some(value);
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 2;
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Self {
            glob: pattern.map(Glob::new),
            count,
            only_type,
            only_names,
        })
    }

    /// True if a name matches the pattern.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.matches(name))
    }

    /// True if matching a single name may take long.
    fn may_be_slow(&self) -> bool {
        const NAME_BYTES: usize = 1 << 10;
        let glob = self.glob.as_ref();
        glob.is_some_and(|glob| glob.steps_max(NAME_BYTES) > 64 * NAME_BYTES)
    }
}

/// The number of matching steps that take about as long as visiting a key.
const STEPS_PER_KEY: usize = 64;

/// True if matching the name may take longer than about ten microseconds, too long for other clients to wait.
pub(crate) fn is_slow(glob: &Glob, name: &[u8]) -> bool {
    const STEPS_MAX: usize = 1 << 13;
    glob.steps_max(name.len()) > STEPS_MAX
}

/// Matches the names that are slow to match, while only the locks are held that the section holds throughout. `steps` counts
/// the work so far, in keys.
///
/// # Errors
/// [`Stop::Long`](crate::Stop::Long) if matching would take long and others wait for this thread.
pub(crate) fn match_slow_names(
    tx: &Tx<'_>,
    glob: Option<&Glob>,
    names: &mut Vec<Vec<u8>>,
    steps: &mut usize,
    show: &mut impl FnMut(&[u8]),
) -> Result {
    for name in names.drain(..) {
        if let Some(glob) = glob {
            *steps = steps.saturating_add(glob.steps_max(name.len()) / STEPS_PER_KEY);
            long::check(tx, *steps)?;
            if glob.matches(&name) {
                show(&name);
            }
        }
    }
    long::check(tx, *steps)
}

/// Writes the reply of a scan: the next cursor, then a list. `fill` writes the elements of the list, and returns the cursor and
/// the number of elements.
///
/// # Errors
/// The errors of `fill`; nothing is written then.
pub(crate) fn write(
    reply: &mut Reply<'_>,
    fill: impl FnOnce(&mut Reply<'_>) -> Result<(u64, usize)>,
) -> Result {
    // The next cursor comes first in the reply but is known last, so the elements go to a buffer of their own.
    let mut found = Vec::new();
    let mut list = Reply::new(&mut found, reply.version());
    let mark = list.deferred_array();
    let (next, count) = fill(&mut list)?;
    list.finish(mark, count);
    reply.array(2);
    reply.bulk_display(next);
    reply.raw(&found);
    Ok(())
}

/// The elements that a scan of a collection has found so far.
pub(crate) struct ScanResult<'l, 'o, 'r> {
    options: &'l Options<'o>,
    list: &'l mut Reply<'r>,
    seen: usize,
    shown: usize,
    scratch: Decimal,
}

impl ScanResult<'_, '_, '_> {
    /// True if the reply has no values.
    pub(crate) fn only_names(&self) -> bool {
        self.options.only_names
    }

    /// Visits an element; if its name matches, `write` writes it, as `elements` elements of the reply.
    pub(crate) fn take(
        &mut self,
        name: Element<'_>,
        elements: usize,
        write: impl FnOnce(&mut Reply<'_>),
    ) {
        self.seen += 1;
        if self.options.matches(name.text(&mut self.scratch)) {
            write(self.list);
            self.shown += elements;
        }
    }
}

/// SSCAN, HSCAN and ZSCAN. `len` returns the size of the collection. `step` passes the elements at a cursor to [`ScanResult`] and
/// returns the next cursor.
pub(crate) fn scan<C: Collection + 'static>(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    extra: Extra,
    len: impl FnOnce(C::Ref<'_>) -> usize,
    step: impl Fn(C::Ref<'_>, u64, &mut ScanResult<'_, '_, '_>) -> u64 + Send + 'static,
) -> Result {
    let cursor = cursor(args, 2)?;
    let Some(collection) = tx.read_as::<C>(args.key(1))? else {
        reply.array(2);
        reply.bulk(b"0");
        reply.array(0);
        return Ok(());
    };
    let options = Options::parse(args, 3, extra)?;
    let steps = match options.may_be_slow() {
        true => usize::MAX,
        false => options.count.min(len(collection)),
    };
    if !long::is_long(steps) {
        return collect(collection, cursor, &options, step, reply);
    }
    let request = args.to_owned();
    long::reply_from(tx, args, 1..2, steps, reply, move |entries, reply| {
        let options = Options::parse(request.borrow(), 3, extra)?;
        match entries[0].and_then(C::view) {
            Some(collection) => collect(collection, cursor, &options, step, reply),
            None => Ok(()),
        }
    })
}

/// Visits elements from a cursor on, and replies with those that match.
fn collect<R: Copy>(
    collection: R,
    mut cursor: u64,
    options: &Options<'_>,
    step: impl Fn(R, u64, &mut ScanResult<'_, '_, '_>) -> u64,
    reply: &mut Reply<'_>,
) -> Result {
    /// A call visits at most this many buckets for each element of COUNT: a collection that has shrunk may have many empty ones.
    const BUCKETS_PER_ELEMENT: usize = 10;
    write(reply, |list| {
        let mut found = ScanResult {
            options,
            list,
            seen: 0,
            shown: 0,
            scratch: Decimal::new(),
        };
        for _ in 0..options.count.saturating_mul(BUCKETS_PER_ELEMENT) {
            cursor = step(collection, cursor, &mut found);
            if cursor == 0 || found.seen >= options.count {
                break;
            }
        }
        Ok((cursor, found.shown))
    })
}
