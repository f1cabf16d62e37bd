//! A record that is being made: the effects of one section so far, as RESP commands.
//!
//! ```text
//! payload: part, part, ...      a part: | u64 LE: the targets in the lowest byte, above it the length | commands |
//! ```
//!
//! Nearly every record has one part. Effects with other targets than the one before begin a new one.

use crate::batch::Targets;
use crate::ring::Head;

const PART_HEAD_BYTES: usize = 8;
const LENGTH_SHIFT: u32 = 8;

/// A buffer that is larger than this is not kept for the next record.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// The effects of one section.
#[derive(Debug)]
pub struct Record {
    payload: Vec<u8>,
    /// Where the current part begins.
    part: usize,
    /// The targets of the current part.
    part_targets: Targets,
    effects: usize,
    /// The database of the first effect, and of the last.
    databases: (u16, u16),
    /// How many effects the commands of the section have added or replaced with nothing.
    by_commands: usize,
    /// The effects are independent of each other.
    is_loose: bool,
    /// Where effects of commands go from now on.
    targets: Targets,
    /// Keys whose expiry was found while the section could be rolled back: it stays anyway. Each with its database.
    kept: Option<Box<Record>>,
    /// The number that was taken before the end of the section.
    pub(crate) number: Option<u64>,
}

/// A point to which a record can be cut back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    bytes: usize,
    part: usize,
    part_targets: Targets,
    effects: usize,
    databases: (u16, u16),
}

impl Default for Record {
    fn default() -> Self {
        Self {
            payload: Vec::new(),
            part: 0,
            part_targets: Targets::ALL,
            effects: 0,
            databases: (0, 0),
            by_commands: 0,
            is_loose: false,
            targets: Targets::ALL,
            kept: None,
            number: None,
        }
    }
}

impl Record {
    /// Adds a command that a command of the section causes: it goes where [`Record::set_targets`] says.
    pub fn add<'a>(&mut self, db: usize, args: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.by_commands += 1;
        self.write(db, self.targets, args);
    }

    /// The same with other targets.
    pub fn add_for<'a>(
        &mut self,
        targets: Targets,
        db: usize,
        args: impl ExactSizeIterator<Item = &'a [u8]>,
    ) {
        self.by_commands += 1;
        self.write(db, self.targets.and(targets), args);
    }

    /// Notes that the effects of the current command are complete, even if there are none.
    pub fn note_complete(&mut self) {
        self.by_commands += 1;
    }

    /// Adds a command that no command has caused: expiry and eviction.
    pub fn add_own<'a>(&mut self, db: usize, args: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.write(db, Targets::ALL, args);
    }

    /// The same, but it stays when the record is cut back, and precedes everything else.
    pub fn add_kept<'a>(&mut self, db: usize, args: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.kept.get_or_insert_default().add_own(db, args);
    }

    /// How many effects commands have added or replaced with nothing: it tells whether the last command has.
    #[inline]
    pub fn by_commands(&self) -> usize {
        self.by_commands
    }

    /// Sets where effects of commands go from now on.
    pub fn set_targets(&mut self, targets: Targets) {
        self.targets = targets;
    }

    /// Notes that the effects need not be applied together.
    pub fn set_loose(&mut self) {
        self.is_loose = true;
    }

    /// The point to which [`Record::cut_back`] can return.
    pub fn mark(&self) -> Mark {
        Mark {
            bytes: self.payload.len(),
            part: self.part,
            part_targets: self.part_targets,
            effects: self.effects,
            databases: self.databases,
        }
    }

    /// Drops all effects since `mark`, except those that were kept.
    pub fn cut_back(&mut self, mark: Mark) {
        self.payload.truncate(mark.bytes);
        (self.part, self.part_targets) = (mark.part, mark.part_targets);
        (self.effects, self.databases) = (mark.effects, mark.databases);
        if mark.bytes > mark.part {
            self.note_part_length();
        }
    }

    /// True if it says nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty() && self.kept.is_none() && self.number.is_none()
    }

    fn write<'a>(
        &mut self,
        db: usize,
        targets: Targets,
        args: impl ExactSizeIterator<Item = &'a [u8]>,
    ) {
        if targets.is_empty() {
            return;
        }
        let db = db as u16;
        if self.effects == 0 {
            self.databases = (db, db);
        } else if self.databases.1 != db {
            self.begin_part(Targets::ALL);
            write_select(&mut self.payload, db);
            self.databases.1 = db;
        }
        self.effects += 1;
        self.begin_part(targets);
        write_command(&mut self.payload, args);
        self.note_part_length();
    }

    #[inline]
    fn begin_part(&mut self, targets: Targets) {
        if self.payload.is_empty() || self.part_targets != targets {
            if !self.payload.is_empty() {
                self.note_part_length();
            }
            (self.part, self.part_targets) = (self.payload.len(), targets);
            self.payload.extend_from_slice(&part_head(targets, 0));
        }
    }

    #[inline]
    fn note_part_length(&mut self) {
        let length = self.payload.len() - self.part - PART_HEAD_BYTES;
        let place = &mut self.payload[self.part..self.part + PART_HEAD_BYTES];
        place.copy_from_slice(&part_head(self.part_targets, length));
    }

    /// Puts the kept effects first.
    #[cold]
    pub(crate) fn join_kept(&mut self) {
        let Some(mut joined) = self.kept.take() else {
            return;
        };
        for (targets, commands) in parts(&self.payload) {
            let db = self.databases.0;
            if joined.databases.1 != db {
                joined.begin_part(Targets::ALL);
                write_select(&mut joined.payload, db);
            }
            // Changes of database within the rest are commands of it.
            joined.databases.1 = self.databases.0;
            joined.begin_part(targets);
            joined.payload.extend_from_slice(commands);
            joined.note_part_length();
        }
        if self.effects > 0 {
            joined.databases.1 = self.databases.1;
        }
        joined.effects += self.effects;
        (joined.is_loose, joined.number) = (self.is_loose, self.number);
        *self = *joined;
    }

    #[inline]
    pub(crate) fn has_kept(&self) -> bool {
        self.kept.is_some()
    }

    pub(crate) fn head(&self, number: u64, time_ms: i64) -> Head {
        Head {
            number,
            bytes: self.payload.len(),
            databases: self.databases,
            is_transaction: self.effects > 1 && !self.is_loose,
            time_ms,
        }
    }

    #[inline]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(crate) fn take_payload(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.payload)
    }

    /// Empties it for the next section.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.payload.clear();
        self.payload.shrink_to(KEPT_BYTES_MAX);
        (self.part, self.part_targets) = (0, Targets::ALL);
        (self.effects, self.by_commands, self.is_loose) = (0, 0, false);
        (self.targets, self.number) = (Targets::ALL, None);
    }
}

/// The head of a part. A script can have effects of many gigabytes.
#[inline]
fn part_head(targets: Targets, length: usize) -> [u8; PART_HEAD_BYTES] {
    ((length as u64) << LENGTH_SHIFT | u64::from(targets.bits())).to_le_bytes()
}

#[inline]
fn read_part_head(head: [u8; PART_HEAD_BYTES]) -> (Targets, usize) {
    let head = u64::from_le_bytes(head);
    let length = (head >> LENGTH_SHIFT) as usize;
    (Targets::from_bits(head as u8), length)
}

/// The parts of a payload: the targets and the commands of each.
pub(crate) fn parts(mut payload: &[u8]) -> impl Iterator<Item = (Targets, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = payload.split_first_chunk::<PART_HEAD_BYTES>()?;
        let (targets, length) = read_part_head(*head);
        let (commands, rest) = rest.split_at_checked(length)?;
        payload = rest;
        Some((targets, commands))
    })
}

/// Appends a command in RESP.
#[inline]
pub(crate) fn write_command<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    write_length(out, b'*', args.len());
    for arg in args {
        out.reserve(arg.len() + 24);
        write_length(out, b'$', arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

pub(crate) fn write_select(out: &mut Vec<u8>, db: u16) {
    let number = db.to_string();
    write_command(out, [b"SELECT", number.as_bytes()].into_iter());
}

#[inline]
fn write_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    if length < 10 {
        out.extend_from_slice(&[kind, b'0' + length as u8, b'\r', b'\n']);
        return;
    }
    let (mut digits, mut at, mut left) = ([0; 20], 20, length);
    while left > 0 {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: of the effects of a script that took more than 4 GiB, the log had only the beginning, and then bytes from the middle of a
    /// value. Cause: the length of a part had 32 bits.
    #[test]
    fn a_part_may_be_longer_than_four_gibibytes() {
        for length in [0, 1, u32::MAX as usize, 5 << 32, 1 << 55] {
            let head = part_head(Targets::FILE, length);
            assert_eq!(read_part_head(head), (Targets::FILE, length));
        }
    }
}
