//! Comparing replies: when two replies agree.

use crate::newer;
use crate::rows::Rule;
use crate::sequence::Step;
use crate::text::render;
use damselfly_protocol::client::Value;
use std::io;

/// A reply, or the error that came instead.
pub(crate) type Outcome = Result<Value, io::ErrorKind>;

/// Records the comparison rules of the commands in the open transaction.
pub(crate) fn note_queued(queued: &mut Vec<Rule>, step: &Step, reply: &Outcome) {
    if *reply != Ok(Value::Simple(b"QUEUED".to_vec())) {
        let begins = step.is("MULTI") && *reply == Ok(Value::Simple(b"OK".to_vec()));
        let ends = ["EXEC", "DISCARD", "RESET"];
        if begins || ends.iter().any(|name| step.is(name)) {
            queued.clear();
        }
        return;
    }
    queued.push(step.rule);
    if step.rule == Rule::Take {
        // The DEL that follows it.
        queued.push(Rule::Exact);
    }
}

/// Compares two replies to EXEC.
pub(crate) fn agree_all(queued: &[Rule], reference: &Outcome, subject: &Outcome) -> bool {
    let (Ok(Value::Array(theirs)), Ok(Value::Array(ours))) = (reference, subject) else {
        return reference == subject;
    };
    let agrees = |((theirs, ours), rule): ((&Value, &Value), &Rule)| {
        // A single call of an iteration returns different keys on each server.
        *rule == Rule::Scan || agree(*rule, &Ok(theirs.clone()), &Ok(ours.clone()))
    };
    theirs.len() == ours.len()
        && theirs.len() == queued.len()
        && theirs.iter().zip(ours).zip(queued).all(agrees)
}

/// True if our reply agrees with the reference's, by the rule of its command.
pub(crate) fn agree(rule: Rule, reference: &Outcome, subject: &Outcome) -> bool {
    let (Ok(reference), Ok(subject)) = (reference, subject) else {
        return reference == subject;
    };
    match rule {
        Rule::Exact | Rule::Scan | Rule::Queued => reference == subject,
        Rule::Unordered => sorted(reference) == sorted(subject),
        Rule::Near(tolerance) => match (reference, subject) {
            // Negative replies are special answers, not times.
            (Value::Integer(theirs), Value::Integer(ours)) if *theirs >= 0 && *ours >= 0 => {
                theirs.abs_diff(*ours) <= tolerance.unsigned_abs()
            }
            _ => reference == subject,
        },
        Rule::AtMost => match (reference, subject) {
            (Value::Integer(theirs), Value::Integer(ours)) => (0..=*theirs).contains(ours),
            _ => reference == subject,
        },
        Rule::Shape | Rule::Take => same_shape(reference, subject),
        Rule::Idle => same_but_for_times(reference, &newer::without_new_fields(subject)),
        Rule::Sorted => reference == subject || is_stale_error(reference),
        Rule::Encoding => {
            reference == subject
                || [&b"hashtable"[..], b"quicklist", b"skiplist"]
                    .map(|name| Value::Bulk(name.to_vec()))
                    .contains(reference)
                    && *subject == Value::Bulk(b"listpack".to_vec())
        }
        Rule::Hello => without_identity(reference) == without_identity(subject),
    }
}

/// True for Redis's refusal to sort, which may be due to an `errno` that an earlier command has left set.
pub(crate) fn is_stale_error(reference: &Value) -> bool {
    let complaint = b"ERR One or more scores can't be converted into double";
    *reference == Value::Error(complaint.to_vec())
}

/// The text of a reply with scores as a listpack shows them. Redis's SORT converts a sorted set to a skiplist, which keeps the sign of a
/// zero score, and in which ZSCAN shows large integers as other doubles, unlike in a listpack.
pub(crate) fn plain_scores(outcome: &Outcome) -> String {
    let text = show(outcome).replace("\"-0\"", "\"0\"");
    let text = text.replace("(double) -0", "(double) 0");
    text.replace("1e+17", "100000000000000000")
}

fn sorted(value: &Value) -> Value {
    let mut value = value.clone();
    match &mut value {
        Value::Array(items) | Value::Set(items) => items.sort_by_key(render),
        Value::Map(pairs) => pairs.sort_by_key(|(key, _)| render(key)),
        _ => {}
    }
    value
}

fn same_shape(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Array(left), Value::Array(right)) | (Value::Set(left), Value::Set(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| same_shape(left, right))
        }
        (Value::Bulk(_), Value::Bulk(_))
        | (Value::Integer(_), Value::Integer(_))
        | (Value::Double(_), Value::Double(_)) => true,
        _ => left == right,
    }
}

/// True if two replies differ only in times and in the number of radix tree nodes.
fn same_but_for_times(left: &Value, right: &Value) -> bool {
    const TOLERANCE_MS: u64 = 2000;
    /// All counts are far below this; times since the epoch, and idle times of entries that claim to be that old, are above.
    const TIME_MIN: i64 = 1 << 40;
    /// The number of elements of a pending entry: id, consumer, idle time, delivery count.
    const PENDING: usize = 4;
    let all = |left: &[Value], right: &[Value]| {
        let pending = left.len() == PENDING && matches!(left[2], Value::Integer(_));
        let is_named = |at: usize, names: &[&str]| {
            let name = at.checked_sub(1).and_then(|at| left.get(at));
            names
                .iter()
                .any(|known| name == Some(&Value::Bulk(known.as_bytes().to_vec())))
        };
        let same = |at: usize| {
            if is_named(at, &["radix-tree-nodes"]) {
                return true;
            }
            match (&left[at], &right[at]) {
                (Value::Integer(theirs), Value::Integer(ours)) => {
                    if is_named(at, newer::UNCOMPARED_TIMES) {
                        return true;
                    }
                    let is_time = pending && at == 2 || theirs.unsigned_abs() > TIME_MIN as u64;
                    theirs == ours || is_time && theirs.abs_diff(*ours) < TOLERANCE_MS
                }
                (theirs, ours) => same_but_for_times(theirs, ours),
            }
        };
        left.len() == right.len() && (0..left.len()).all(same)
    };
    match (left, right) {
        (Value::Array(left), Value::Array(right)) => all(left, right),
        (Value::Map(left), Value::Map(right)) => {
            let flat = |pairs: &[(Value, Value)]| -> Vec<Value> {
                let pairs = pairs.iter().cloned();
                pairs.flat_map(|(name, value)| [name, value]).collect()
            };
            all(&flat(left), &flat(right))
        }
        _ => left == right,
    }
}

/// The fields of HELLO except the server's name and version and the connection's id.
fn without_identity(reply: &Value) -> Vec<(Value, Value)> {
    let pairs: Vec<(Value, Value)> = match reply {
        Value::Map(pairs) => pairs.clone(),
        Value::Array(items) => items
            .chunks_exact(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect(),
        other => vec![(other.clone(), other.clone())],
    };
    let identity = |key: &Value| {
        [b"server".as_slice(), b"version", b"id"]
            .iter()
            .any(|name| *key == Value::Bulk(name.to_vec()))
    };
    pairs
        .into_iter()
        .filter(|(key, _)| !identity(key))
        .collect()
}

/// The outcome as text for people.
pub(crate) fn show(outcome: &Outcome) -> String {
    match outcome {
        Ok(value) => render(value),
        Err(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            "(connection closed)".into()
        }
        Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => "(no reply)".into(),
        Err(kind) => format!("({kind})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.into())
    }

    #[test]
    fn each_rule_can_fail() {
        let differ = |rule, theirs: Value, ours: Value| !agree(rule, &Ok(theirs), &Ok(ours));
        assert!(differ(Rule::Exact, bulk("1"), Value::Integer(1)));
        assert!(differ(
            Rule::Unordered,
            Value::Array(vec![bulk("a")]),
            Value::Array(vec![bulk("b")])
        ));
        assert!(!differ(
            Rule::Unordered,
            Value::Array(vec![bulk("a"), bulk("b")]),
            Value::Array(vec![bulk("b"), bulk("a")])
        ));
        assert!(differ(
            Rule::Near(1),
            Value::Integer(10),
            Value::Integer(12)
        ));
        assert!(!differ(
            Rule::Near(1),
            Value::Integer(10),
            Value::Integer(9)
        ));
        assert!(differ(
            Rule::Near(1),
            Value::Integer(-1),
            Value::Integer(-2)
        ));
        assert!(differ(Rule::Shape, Value::Integer(1), bulk("1")));
        let double = |text: &str| Value::Double(text.into());
        assert!(differ(Rule::Shape, double("1"), bulk("1")));
        assert!(!differ(Rule::Shape, double("1"), double("2")));
        assert!(differ(
            Rule::Shape,
            Value::Error(b"ERR a".to_vec()),
            Value::Error(b"ERR b".to_vec())
        ));
        assert!(differ(
            Rule::Hello,
            Value::Map(vec![(bulk("proto"), Value::Integer(2))]),
            Value::Map(vec![(bulk("proto"), Value::Integer(3))])
        ));
        assert!(!differ(
            Rule::Hello,
            Value::Map(vec![(bulk("id"), Value::Integer(2))]),
            Value::Map(vec![(bulk("id"), Value::Integer(3))])
        ));
        assert!(!agree(
            Rule::Exact,
            &Ok(Value::Integer(1)),
            &Err(io::ErrorKind::UnexpectedEof)
        ));
    }
}
