//! What commands on the deadlines of fields write to the log.

use damselfly_engine::{Key, Tx};

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

/// Logs HSETEX, whose fields begin at `first`, with an absolute deadline and without its condition.
pub(crate) fn log_set(tx: &mut Tx<'_>, args: Args<'_>, first: usize, deadline: NewDeadline) {
    let key = args.key(1);
    let moment = match deadline {
        NewDeadline::None | NewDeadline::Keep => String::new(),
        NewDeadline::At(moment) if is_past(moment, tx.expiry_time()) => {
            let fields: Vec<&[u8]> = args.from(first).step_by(2).collect();
            log_removed(tx, key, &fields);
            return;
        }
        NewDeadline::At(moment) => moment.to_string(),
    };
    let option: &[&[u8]] = match deadline {
        NewDeadline::None => &[],
        NewDeadline::Keep => &[b"KEEPTTL"],
        NewDeadline::At(_) => &[b"PXAT", moment.as_bytes()],
    };
    let count = ((args.len() - first) / 2).to_string();
    let mut logged: Vec<&[u8]> = vec![b"HSETEX", key.bytes];
    logged.extend(option);
    logged.extend([&b"FIELDS"[..], count.as_bytes()]);
    logged.extend(args.from(first));
    tx.log_effect(&logged);
}
