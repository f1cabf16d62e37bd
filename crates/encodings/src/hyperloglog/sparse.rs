//! Sparse registers: runs of equal registers, in order.
//!
//! ```text
//! 00llllll            l + 1 registers are zero (1 to 64)
//! 01llllll llllllll   l + 1 registers are zero (1 to 16,384)
//! 1vvvvvll            l + 1 registers are v + 1 (1 to 4 registers, values 1 to 32)
//! ```
//!
//! Runs are split and joined exactly as Redis does it, so that both servers store the same bytes after the same commands.

use super::{
    Buffer, Corrupted, HEADER_BYTES, Histogram, REGISTERS, Registers, VALUES, dense,
    invalidate_cache, make_dense,
};

const VALUE_BIT: u8 = 0x80;
const LONG_BIT: u8 = 0x40;
const VALUE_MAX: u8 = 32;
const VALUE_RUN_MAX: usize = 4;
const SHORT_RUN_MAX: usize = 64;

/// All registers are zero.
pub(super) const ALL_ZERO: [u8; 2] = [
    LONG_BIT | ((REGISTERS - 1) >> 8) as u8,
    (REGISTERS - 1) as u8,
];

/// A run of equal registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The value of each register.
    pub value: u8,
    /// The number of registers.
    pub len: usize,
    /// The number of bytes that the run takes: 2 for the long form of zeros.
    pub bytes: usize,
}

impl Run {
    /// The first run; `None` at the end, and if it is cut off.
    fn first(bytes: &[u8]) -> Option<Self> {
        let &first = bytes.first()?;
        if first & VALUE_BIT != 0 {
            return Some(Self {
                value: (first >> 2 & 0x1f) + 1,
                len: usize::from(first & 3) + 1,
                bytes: 1,
            });
        }
        let low = usize::from(first & 0x3f);
        let (len, bytes) = match first & LONG_BIT {
            0 => (low + 1, 1),
            _ => ((low << 8 | usize::from(*bytes.get(1)?)) + 1, 2),
        };
        let value = 0;
        Some(Self { value, len, bytes })
    }
}

/// The runs of sparse registers, up to the end or to one that is cut off.
#[derive(Clone, Debug)]
pub struct Runs<'a>(&'a [u8]);

impl<'a> Runs<'a> {
    /// The runs in these bytes, which follow the header.
    pub fn new(stored: &'a [u8]) -> Self {
        Self(stored)
    }

    /// The bytes behind the runs so far: at the end none, or the first byte of a run that is cut off.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let run = Run::first(self.0)?;
        self.0 = &self.0[run.bytes..];
        Some(run)
    }
}

/// Calls `visit` with each run and the index of its first register.
///
/// # Errors
/// If the runs are not exactly as long as all registers. Stops at the first run that exceeds them.
fn visit(stored: &[u8], mut visit: impl FnMut(usize, Run)) -> Result<(), Corrupted> {
    let mut runs = Runs::new(stored);
    let mut first = 0;
    for run in runs.by_ref() {
        if run.len > REGISTERS - first {
            return Err(Corrupted);
        }
        visit(first, run);
        first += run.len;
    }
    if first == REGISTERS && runs.rest().is_empty() {
        Ok(())
    } else {
        Err(Corrupted)
    }
}

pub(super) fn merge(registers: &mut Registers, stored: &[u8]) -> Result<(), Corrupted> {
    visit(stored, |first, run| {
        if run.value > 0 {
            for register in &mut registers[first..first + run.len] {
                *register = run.value.max(*register);
            }
        }
    })
}

pub(super) fn histogram(stored: &[u8]) -> Result<Histogram, Corrupted> {
    let mut histogram = [0; VALUES];
    visit(stored, |_, run| {
        histogram[usize::from(run.value)] += run.len as u32;
    })?;
    Ok(histogram)
}

/// The run that covers a register.
struct Found {
    /// Where it begins among the stored bytes.
    at: usize,
    /// Where the run before it begins; 0 if there is none.
    before: usize,
    /// Its first register.
    first: usize,
    run: Run,
}

fn find(stored: &[u8], register: usize) -> Result<Found, Corrupted> {
    let (mut at, mut before, mut first) = (0, 0, 0);
    for run in Runs::new(stored) {
        if register < first + run.len {
            return Ok(Found {
                at,
                before,
                first,
                run,
            });
        }
        before = at;
        at += run.bytes;
        first += run.len;
    }
    Err(Corrupted)
}

/// The bytes of a few runs.
#[derive(Default)]
struct Written {
    /// Two long runs of zeros and a value between them.
    bytes: [u8; 5],
    len: usize,
}

impl Written {
    fn push(&mut self, value: u8, len: usize) {
        if len == 0 {
            return;
        }
        let low = (len - 1) as u8;
        match value {
            0 if len > SHORT_RUN_MAX => {
                self.push_byte(LONG_BIT | ((len - 1) >> 8) as u8);
                self.push_byte(low);
            }
            0 => self.push_byte(low),
            value => self.push_byte(value_run(value, len)),
        }
    }

    fn push_byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

fn value_run(value: u8, len: usize) -> u8 {
    VALUE_BIT | (value - 1) << 2 | (len - 1) as u8
}

pub(super) fn raise(
    buffer: &mut impl Buffer,
    register: usize,
    rank: u8,
    sparse_bytes_max: usize,
) -> Result<bool, Corrupted> {
    if rank > VALUE_MAX {
        return promote(buffer, register, rank);
    }
    let bytes = buffer.bytes();
    let len = bytes.len();
    let found = find(&bytes[HEADER_BYTES..], register)?;
    let Found { first, run, .. } = found;
    if run.value >= rank {
        return Ok(false);
    }
    let mut new = Written::default();
    new.push(run.value, register - first);
    new.push(rank, 1);
    new.push(run.value, first + run.len - 1 - register);
    let new_len = len + new.len - run.bytes;
    if new_len > len && new_len > sparse_bytes_max {
        return promote(buffer, register, rank);
    }
    let at = HEADER_BYTES + found.at;
    let (rest, moved) = (at + run.bytes, at + new.len);
    let bytes = if new_len > len {
        let bytes = buffer.resize(new_len);
        bytes.copy_within(rest..len, moved);
        bytes
    } else {
        let bytes = buffer.bytes();
        bytes.copy_within(rest..len, moved);
        buffer.resize(new_len)
    };
    bytes[at..moved].copy_from_slice(&new.bytes[..new.len]);
    join_runs(buffer, HEADER_BYTES + found.before);
    invalidate_cache(buffer.bytes());
    Ok(true)
}

/// Joins neighbouring runs of the same value, for a few runs from `at` on.
fn join_runs(buffer: &mut impl Buffer, mut at: usize) {
    /// The run before the changed one, the three that a split leaves at most, and the one behind.
    const STEPS: usize = 5;
    let bytes = buffer.bytes();
    let mut len = bytes.len();
    for _ in 0..STEPS {
        let Some(run) = Run::first(&bytes[at..len]) else {
            break;
        };
        let next = Run::first(&bytes[at + run.bytes..len]);
        match next {
            Some(next)
                if run.value > 0
                    && next.value == run.value
                    && run.len + next.len <= VALUE_RUN_MAX =>
            {
                bytes[at + 1] = value_run(run.value, run.len + next.len);
                bytes.copy_within(at + 1..len, at);
                len -= 1;
            }
            Some(_) | None => at += run.bytes,
        }
    }
    if len < bytes.len() {
        buffer.resize(len);
    }
}

/// Makes the registers dense, since sparse ones can't hold a new value.
fn promote(buffer: &mut impl Buffer, register: usize, rank: u8) -> Result<bool, Corrupted> {
    make_dense(buffer)?;
    Ok(dense::raise(
        &mut buffer.bytes()[HEADER_BYTES..],
        register,
        rank,
    ))
}
