//! LCS: the longest common subsequence of two strings, by dynamic programming over a table of
//! (m+1) × (n+1) lengths.

use damselfly_base::CommandError;
use damselfly_engine::Tx;
use damselfly_protocol::Reply;

use crate::command::{Arity::AtLeast, At::One, Command, Group, Keys, Run, reads};
use crate::strings::{Scratch, text_of};
use crate::{Args, KeyspaceFn, Result, SlicedReply, Stop, long};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[Command {
    name: "LCS",
    arity: AtLeast(3),
    keys: Keys::Args(&[reads(One(1)), reads(One(2))]),
    traits: &[],
    run: Run::Run(lcs),
    group: Group::String,
    usage: "LCS key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
    summary: "Finds the longest common subsequence of two strings.",
    since: "7.0.0",
    complexity: "O(N*M) where N and M are the lengths of the strings",
}];

#[derive(Default)]
struct Options {
    len: bool,
    index: bool,
    with_match_len: bool,
    match_len_min: i64,
}

impl Options {
    fn parse(args: Args<'_>) -> Result<Self> {
        let mut options = Self::default();
        let mut at = 3;
        while at < args.len() {
            if args.is(at, "IDX") {
                options.index = true;
            } else if args.is(at, "LEN") {
                options.len = true;
            } else if args.is(at, "WITHMATCHLEN") {
                options.with_match_len = true;
            } else if args.is(at, "MINMATCHLEN") && at + 1 < args.len() {
                options.match_len_min = args.integer(at + 1)?.max(0);
                at += 1;
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 1;
        }
        if options.index && options.len {
            return Err(CommandError::err(
                "If you want both the length and indexes, please just use IDX.",
            )
            .into());
        }
        Ok(options)
    }
}

/// A run of bytes that both strings share: its start in each, and its length.
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

/// The number of cells that take as long as one step.
const CELLS_PER_STEP: usize = 16;

fn lcs(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut text = |at: usize| {
        let mut scratch = Scratch::default();
        match tx.read_text(args.key(at)) {
            Ok(text) => Ok(text.map(|text| text_of(text, &mut scratch).to_vec())),
            Err(_) => Err(CommandError::err(
                "The specified keys must contain string values",
            )),
        }
    };
    // Both keys are looked up before either is refused.
    let (a, b) = (text(1), text(2));
    let (a, b) = (a?.unwrap_or_default(), b?.unwrap_or_default());
    let options = Options::parse(args)?;
    let bytes_max = tx
        .engine()
        .settings
        .bulk_bytes_max
        .load(std::sync::atomic::Ordering::Relaxed);
    let cells = (a.len() + 1).saturating_mul(b.len() + 1);
    if cells.saturating_mul(size_of::<u32>()) > bytes_max {
        return Err(CommandError::err(
            "Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        )
        .into());
    }
    let steps = cells / CELLS_PER_STEP;
    long::check(tx, steps)?;
    let rest = SlicedReply::once(move |reply| write(&a, &b, &options, reply));
    if long::is_long(steps) {
        return Err(Stop::SlicedReply(rest));
    }
    rest.write_all(reply);
    Ok(())
}

/// Computes the longest common subsequence of both strings and writes the reply.
fn write(a: &[u8], b: &[u8], options: &Options, reply: &mut Reply<'_>) {
    let cells = (a.len() + 1) * (b.len() + 1);
    let lengths = lengths(a, b, cells);
    let total = lengths[cells - 1] as usize;
    if options.len {
        reply.integer(total as i64);
        return;
    }
    let (common, matches) = trace(a, b, &lengths);
    if !options.index {
        reply.bulk(&common);
        return;
    }
    let shown = || {
        matches
            .iter()
            .filter(|found| found.len as i64 >= options.match_len_min)
    };
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(shown().count());
    for found in shown() {
        reply.array(if options.with_match_len { 3 } else { 2 });
        for start in [found.a, found.b] {
            reply.array(2);
            reply.integer(start as i64);
            reply.integer((start + found.len - 1) as i64);
        }
        if options.with_match_len {
            reply.integer(found.len as i64);
        }
    }
    reply.bulk(b"len");
    reply.integer(total as i64);
}

/// Cell (i, j), at `i * (b.len() + 1) + j`, is the length of the longest common subsequence of the
/// first i bytes of `a` and the first j of `b`.
fn lengths(a: &[u8], b: &[u8], cells: usize) -> Vec<u32> {
    let width = b.len() + 1;
    let mut lengths = vec![0_u32; cells];
    for (i, byte) in a.iter().enumerate() {
        for (j, other) in b.iter().enumerate() {
            let above = i * width + j;
            lengths[above + width + 1] = if byte == other {
                lengths[above] + 1
            } else {
                lengths[above + 1].max(lengths[above + width])
            };
        }
    }
    lengths
}

/// Walks back from the last cell. Returns the subsequence, and its runs with the last one first.
fn trace(a: &[u8], b: &[u8], lengths: &[u32]) -> (Vec<u8>, Vec<Match>) {
    let width = b.len() + 1;
    let (mut i, mut j) = (a.len(), b.len());
    let (mut common, mut matches) = (Vec::new(), Vec::<Match>::new());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            (i, j) = (i - 1, j - 1);
            common.push(a[i]);
            match matches.last_mut() {
                Some(run) if run.a == i + 1 && run.b == j + 1 => {
                    (run.a, run.b, run.len) = (i, j, run.len + 1);
                }
                Some(_) | None => matches.push(Match { a: i, b: j, len: 1 }),
            }
        } else if lengths[(i - 1) * width + j] > lengths[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    common.reverse();
    (common, matches)
}
