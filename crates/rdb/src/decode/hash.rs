//! Hashes.
//!
//! ```text
//! plain                | count | field | value | ... |
//! zipmap, ziplist, listpack   | string of that form: fields and values in turn |
//! deadlines            | soonest: u64 | count | deadline | field | value | ... |
//!                      a deadline is 0 for none, or counts from the soonest, which is 1
//! deadlines, 7.4 RC    | count | deadline | field | value | ... |     milliseconds since the epoch, 0 for none
//! listpack, deadlines  | soonest: u64 | string: a listpack of field, value, deadline ... |     not in 7.4 RC: soonest
//! Valkey               | count | field | value | deadline: i64 | ... |     negative for none
//! ```

use std::io::Read;

use damselfly_base::number::Decimal;
use damselfly_value::{Element, Elements, Entry, Fields, Large, NewPacked, Thresholds};

use super::{
    Decoder, Head, PACKED_BYTES_MAX, Scratch, blob, bytes_of, canonical, check_hashes,
    check_unique, hash_of, load,
};
use crate::error::{Duplicate, Fault, Form};
use crate::format::kind;
use crate::input::{Input, Result, append_text};

/// Redis's own limit on the deadline of a field.
const DEADLINE_MAX: i64 = (1 << 48) - 2;

/// A hash that grows: a listpack until it is too large for one.
struct Builder<'s> {
    thresholds: &'s Thresholds,
    /// Fields, values, and deadlines if there are any.
    elements: &'s mut Vec<u8>,
    count: u32,
    is_timed: bool,
    soonest_ms: Option<i64>,
    large: Option<Fields>,
}

impl<'s> Builder<'s> {
    fn new(thresholds: &'s Thresholds, elements: &'s mut Vec<u8>, is_timed: bool) -> Self {
        elements.clear();
        Self {
            thresholds,
            elements,
            count: 0,
            is_timed,
            soonest_ms: None,
            large: None,
        }
    }

    fn push(
        &mut self,
        field: Element<'_>,
        value: Element<'_>,
        deadline_ms: Option<i64>,
    ) -> Result<()> {
        let (field, value) = (canonical(field), canonical(value));
        let longest = field.len().max(value.len()) as u64;
        let is_small = u64::from(self.count) < load(&self.thresholds.hash_max_listpack_entries)
            && longest <= load(&self.thresholds.hash_max_listpack_value)
            && self.elements.len() <= PACKED_BYTES_MAX;
        if self.large.is_none() && !is_small {
            self.enlarge()?;
        }
        if let Some(fields) = &mut self.large {
            return set(fields, field, value, deadline_ms);
        }
        field.append_to(self.elements);
        value.append_to(self.elements);
        if self.is_timed {
            Element::Integer(deadline_ms.unwrap_or(0)).append_to(self.elements);
            self.soonest_ms = match (self.soonest_ms, deadline_ms) {
                (Some(soonest), Some(deadline)) => Some(soonest.min(deadline)),
                (soonest, deadline) => soonest.or(deadline),
            };
        }
        self.count += 1;
        Ok(())
    }

    fn stride(&self) -> u32 {
        if self.is_timed { 3 } else { 2 }
    }

    fn elements(&self) -> Elements<'_> {
        Elements {
            count: self.count * self.stride(),
            bytes: self.elements,
        }
    }

    fn enlarge(&mut self) -> Result<()> {
        let fields = large(self.elements(), self.is_timed)?;
        self.elements.clear();
        self.large = Some(fields);
        Ok(())
    }

    fn finish(
        self,
        head: Head<'_>,
        packed: &mut Vec<u8>,
        hashes: &mut Vec<u64>,
    ) -> Result<Option<Entry>> {
        if let Some(fields) = self.large {
            let large = Large::Hash(fields);
            return Ok(Some(Entry::new_large(head.key, large, head.deadline_ms)));
        }
        if self.count == 0 {
            return Ok(None);
        }
        let (elements, stride) = (self.elements(), self.stride() as usize);
        check_unique(elements, stride, hashes, Duplicate::Field)?;
        let value = if self.is_timed {
            NewPacked::TimedHash(with_soonest(elements, self.soonest_ms, packed))
        } else {
            NewPacked::Hash(elements)
        };
        Ok(Some(Entry::new_packed(head.key, value, head.deadline_ms)))
    }
}

/// The same elements after the earliest deadline, with which a timed hash begins.
fn with_soonest<'p>(
    elements: Elements<'_>,
    soonest_ms: Option<i64>,
    packed: &'p mut Vec<u8>,
) -> Elements<'p> {
    packed.clear();
    Element::Integer(soonest_ms.unwrap_or(0)).append_to(packed);
    packed.extend_from_slice(elements.bytes);
    Elements {
        count: elements.count + 1,
        bytes: packed,
    }
}

fn set(
    fields: &mut Fields,
    field: Element<'_>,
    value: Element<'_>,
    deadline_ms: Option<i64>,
) -> Result<()> {
    let mut scratch = Decimal::new();
    let is_new = fields.set(field.text(&mut scratch), canonical(value), deadline_ms);
    is_new
        .then_some(())
        .ok_or(Fault::Duplicate(Duplicate::Field))
}

fn deadline_of(number: i64) -> Result<Option<i64>> {
    match number {
        0 => Ok(None),
        1..=DEADLINE_MAX => Ok(Some(number)),
        _ => Err(Fault::BadDeadline),
    }
}

/// A large hash of checked fields and values, and of deadlines if it is timed.
fn large(elements: Elements<'_>, is_timed: bool) -> Result<Fields> {
    let (mut fields, mut each) = (Fields::new(), blob::each(elements));
    while let (Some(field), Some(value)) = (each.next(), each.next()) {
        let deadline_ms = match each_deadline(&mut each, is_timed) {
            Some(number) => deadline_of(number)?,
            None => None,
        };
        set(&mut fields, field, value, deadline_ms)?;
    }
    Ok(fields)
}

fn each_deadline<'e>(each: &mut impl Iterator<Item = Element<'e>>, is_timed: bool) -> Option<i64> {
    if !is_timed {
        return None;
    }
    match each.next() {
        Some(Element::Integer(number)) => Some(number),
        Some(Element::Bytes(_)) | None => None,
    }
}

impl Decoder<'_> {
    pub(super) fn hash<R: Read>(
        &mut self,
        input: &mut Input<R>,
        of: u8,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let Scratch {
            elements,
            packed,
            hashes,
            ..
        } = &mut self.scratch;
        if of == kind::HASH {
            let mut hash = Builder::new(self.thresholds, elements, false);
            for _ in 0..input.length()? {
                input.string_to(packed)?;
                hash.push(Element::Bytes(packed), input.string()?, None)?;
            }
            return hash.finish(head, packed, hashes);
        }
        let blob = bytes_of(input.string()?);
        elements.clear();
        hashes.clear();
        let (pairs, form) = match of {
            kind::HASH_LISTPACK => {
                let pairs = blob::listpack_with(blob, |index, element| {
                    if index.is_multiple_of(2) {
                        hashes.push(hash_of(element));
                    }
                    Ok(())
                })?;
                (pairs, Form::Listpack)
            }
            kind::HASH_ZIPMAP => {
                let count = blob::zipmap(blob, elements)?;
                let bytes = elements;
                (Elements { count, bytes }, Form::Zipmap)
            }
            _ => {
                let count = blob::ziplist(blob, elements)?;
                let bytes = elements;
                (Elements { count, bytes }, Form::Ziplist)
            }
        };
        if !pairs.count.is_multiple_of(2) {
            return Err(odd(form));
        }
        if is_large(self.thresholds, pairs, 2) {
            let large = Large::Hash(large(pairs, false)?);
            return Ok(Some(Entry::new_large(head.key, large, head.deadline_ms)));
        }
        if form == Form::Listpack {
            check_hashes(pairs, 2, hashes, Duplicate::Field)?;
        } else {
            check_unique(pairs, 2, hashes, Duplicate::Field)?;
        }
        let value = NewPacked::Hash(pairs);
        Ok((pairs.count > 0).then(|| Entry::new_packed(head.key, value, head.deadline_ms)))
    }

    pub(super) fn timed_hash<R: Read>(
        &mut self,
        input: &mut Input<R>,
        of: u8,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let has_soonest = matches!(of, kind::HASH_DEADLINES | kind::HASH_LISTPACK_DEADLINES);
        let soonest_ms = if has_soonest { input.u64_le()? } else { 0 };
        if matches!(
            of,
            kind::HASH_LISTPACK_DEADLINES | kind::HASH_LISTPACK_DEADLINES_PRE_GA
        ) {
            return self.timed_listpack(bytes_of(input.string()?), head);
        }
        let Scratch {
            elements,
            packed,
            hashes,
            ..
        } = &mut self.scratch;
        let mut hash = Builder::new(self.thresholds, elements, true);
        for _ in 0..input.length()? {
            let stored = input.length()?;
            let deadline = match (stored, has_soonest) {
                (0, _) => Some(0),
                (_, true) => (stored - 1).checked_add(soonest_ms),
                (_, false) => Some(stored),
            };
            let deadline = deadline.and_then(|deadline| i64::try_from(deadline).ok());
            let deadline_ms = deadline_of(deadline.ok_or(Fault::BadDeadline)?)?;
            packed.clear();
            append_text(input.string()?, packed);
            hash.push(Element::Bytes(packed), input.string()?, deadline_ms)?;
        }
        hash.finish(head, packed, hashes)
    }

    fn timed_listpack(&mut self, blob: &[u8], head: Head<'_>) -> Result<Option<Entry>> {
        let elements = blob::listpack(blob)?;
        if !elements.count.is_multiple_of(3) {
            return Err(odd(Form::Listpack));
        }
        let mut soonest_ms: Option<i64> = None;
        for element in blob::each(elements).skip(2).step_by(3) {
            let Element::Integer(deadline) = element else {
                return Err(Fault::BadDeadline);
            };
            if let Some(deadline) = deadline_of(deadline)? {
                soonest_ms = Some(soonest_ms.map_or(deadline, |soonest| soonest.min(deadline)));
            }
        }
        if is_large(self.thresholds, elements, 3) {
            let large = Large::Hash(large(elements, true)?);
            return Ok(Some(Entry::new_large(head.key, large, head.deadline_ms)));
        }
        check_unique(elements, 3, &mut self.scratch.hashes, Duplicate::Field)?;
        let timed = with_soonest(elements, soonest_ms, &mut self.scratch.packed);
        let value = NewPacked::TimedHash(timed);
        Ok((elements.count > 0).then(|| Entry::new_packed(head.key, value, head.deadline_ms)))
    }

    pub(super) fn hash_of_valkey<R: Read>(
        &mut self,
        input: &mut Input<R>,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let Scratch {
            elements,
            packed,
            hashes,
            ..
        } = &mut self.scratch;
        let mut value = Vec::new();
        let mut hash = Builder::new(self.thresholds, elements, true);
        for _ in 0..input.length()? {
            input.string_to(packed)?;
            input.string_to(&mut value)?;
            let deadline = input.u64_le()?.cast_signed().max(0);
            let deadline_ms = deadline_of(deadline)?;
            hash.push(Element::Bytes(packed), Element::Bytes(&value), deadline_ms)?;
        }
        hash.finish(head, packed, hashes)
    }
}

/// Whether a listpack is too large for a small hash.
fn is_large(thresholds: &Thresholds, elements: Elements<'_>, stride: u32) -> bool {
    let fields = u64::from(elements.count / stride);
    fields > load(&thresholds.hash_max_listpack_entries) || elements.bytes.len() > PACKED_BYTES_MAX
}

fn odd(form: Form) -> Fault {
    Fault::Packed {
        form,
        at: 0,
        problem: "a field without value",
    }
}
