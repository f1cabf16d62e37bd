//! DUMP payloads: a value without its key.
//!
//! ```text
//! | type: u8 | value ... | version: u16 | checksum: u64 |        numbers little-endian; the checksum is over all before it
//! ```

use damselfly_value::{Entry, EntryRef, Thresholds};

use crate::checksum::Checksum;
use crate::decode::{Decoder, Dialect, Head};
use crate::encode::{Encoder, WriteOptions, version_needed};
use crate::error::{Fault, RdbError};
use crate::format::{DUMP_FOOTER_BYTES, REDIS_VERSION_MAX, VALKEY_VERSION_MAX, VALKEY_VERSION_MIN};
use crate::input::{Input, Result};

/// The payload of an entry's value, in the lowest version that can express it.
pub fn dump(entry: EntryRef<'_>, compress: bool) -> Vec<u8> {
    let version = version_needed(entry);
    let mut encoder = Encoder::new(WriteOptions { version, compress });
    let mut payload = Vec::new();
    encoder
        .value(entry, &mut payload)
        .expect("the version is what the entry needs");
    payload.extend_from_slice(&(version as u16).to_le_bytes());
    let checksum = Checksum::of(&payload);
    payload.extend_from_slice(&checksum.to_le_bytes());
    payload
}

/// An entry with this key and the value of a payload.
///
/// # Errors
/// If the payload has a wrong checksum or an unknown version ([`Fault::Checksum`], [`Fault::Version`], and
/// [`Fault::NoFooter`] if it is shorter than both), or its value is broken (any other).
pub fn restore(
    key: &[u8],
    payload: &[u8],
    deadline_ms: Option<i64>,
    thresholds: &Thresholds,
) -> std::result::Result<Entry, RdbError> {
    let head = Head { key, deadline_ms };
    let mut offset = 0;
    decode(payload, head, thresholds, &mut offset).map_err(|fault| RdbError {
        offset,
        key: Some(key.to_vec()),
        fault,
    })
}

fn decode(
    payload: &[u8],
    head: Head<'_>,
    thresholds: &Thresholds,
    offset: &mut u64,
) -> Result<Entry> {
    let footer_at = payload.len().checked_sub(DUMP_FOOTER_BYTES);
    let (value, footer) = payload.split_at(footer_at.ok_or(Fault::NoFooter)?);
    let (version, checksum) = footer.split_at(2);
    let version = u16::from_le_bytes([version[0], version[1]]).into();
    let dialect = match version {
        1..=REDIS_VERSION_MAX => Dialect::Redis,
        VALKEY_VERSION_MIN..=VALKEY_VERSION_MAX => Dialect::Valkey,
        _ => return Err(Fault::Version(version)),
    };
    let stored = u64::from_le_bytes(checksum.try_into().expect("eight bytes"));
    let computed = Checksum::of(&payload[..payload.len() - checksum.len()]);
    if stored != computed {
        return Err(Fault::Checksum { stored, computed });
    }
    let mut input = Input::of_bytes(value);
    let entry = input
        .byte()
        .and_then(|kind| Decoder::new(thresholds).entry(&mut input, kind, dialect, head));
    *offset = input.mark();
    let entry = entry?.ok_or(Fault::Empty)?;
    match input.is_at_end()? {
        true => Ok(entry),
        false => Err(Fault::Trailing),
    }
}
