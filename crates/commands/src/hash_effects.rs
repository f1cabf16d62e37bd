//! What commands on the deadlines of fields write to the log.

use damselfly_engine::{Key, Tx};
use damselfly_value::Hash;

use crate::Args;
use crate::expiry::is_past;
use crate::hash_expiry::NewDeadline;

/// Logs that fields got this deadline.
pub(crate) fn log_deadline(tx: &mut Tx<'_>, key: Key<'_>, fields: &[&[u8]], deadline_ms: i64) {
    if tx.is_logged() && !fields.is_empty() {
        let (deadline, count) = (deadline_ms.to_string(), fields.len().to_string());
        let head = [
            b"HPEXPIREAT",
            key.bytes,
            deadline.as_bytes(),
            b"FIELDS",
            count.as_bytes(),
        ];
        tx.log_effect(&[&head, fields].concat());
    }
}

/// Logs that fields were removed.
pub(crate) fn log_removed(tx: &mut Tx<'_>, key: Key<'_>, fields: &[&[u8]]) {
    if tx.is_logged() && !fields.is_empty() {
        tx.log_effect(&[&[b"HDEL", key.bytes], fields].concat());
    }
}

/// Logs fields that lost their deadline.
pub(crate) fn log_persisted(tx: &mut Tx<'_>, key: Key<'_>, fields: &[&[u8]]) {
    if tx.is_logged() && !fields.is_empty() {
        let count = fields.len().to_string();
        let head = [b"HPERSIST", key.bytes, b"FIELDS", count.as_bytes()];
        tx.log_effect(&[&head, fields].concat());
    }
}

/// Logs HSETEX, whose fields begin at `first`, as commands that Redis 7 has.
pub(crate) fn log_set(tx: &mut Tx<'_>, args: Args<'_>, first: usize, deadline: NewDeadline) {
    let key = args.key(1);
    let fields: Vec<&[u8]> = args.from(first).step_by(2).collect();
    if let NewDeadline::At(moment) = deadline
        && is_past(moment, tx.expiry_time())
    {
        log_removed(tx, key, &fields);
        return;
    }
    let pairs: Vec<&[u8]> = args.from(first).collect();
    // This removes deadlines.
    tx.log_effect(&[&[b"HSET", key.bytes], &pairs[..]].concat());
    match deadline {
        NewDeadline::None => {}
        NewDeadline::At(moment) => log_deadline(tx, key, &fields, moment),
        NewDeadline::Keep => {
            for field in fields {
                let hash = tx.peek_as::<Hash>(key).ok().flatten();
                let pair = hash.and_then(|hash| hash.get(field));
                if let Some(kept) = pair.and_then(|pair| pair.deadline_ms) {
                    log_deadline(tx, key, &[field], kept);
                }
            }
        }
    }
}
