//! The rows of DUMP, RESTORE and MIGRATE, and of WAIT.

use super::Family::Generic;
use super::Row;
use super::Rule::{Exact, Shape};
use super::row;

/// DUMP and RESTORE. The bytes of a payload are each server's own, as is the order of members in it.
pub const ROWS: &[Row] = &[
    row(Generic, 2, Shape, "DUMP key"),
    row(
        Generic,
        8,
        Exact,
        "RESTORE key ( 0 | 0 | 0 | milliseconds ) payload [ REPLACE ] [ REPLACE ] [ ABSTTL ] [ IDLETIME integer | FREQ count ]",
    ),
    row(
        Generic,
        1,
        Exact,
        "RESTORE-ASKING key 0 payload [ REPLACE ] [ ABSTTL ]",
    ),
    // These two can't wait: there are no replicas to wait for.
    row(Generic, 1, Exact, "WAIT 0 ( 0 | 1 | -1 | X )"),
    row(
        Generic,
        1,
        Exact,
        "MIGRATE 127.0.0.1 1 key count 100 ( NOSUCH | KEYS key | AUTH )",
    ),
    // A word of a grammar has no blanks and does not begin with a letter.
    row(
        Generic,
        5,
        Exact,
        "EVAL (redis.call)('RESTORE',KEYS[2],0,redis.call('DUMP',KEYS[1])or'','REPLACE') 2 key key",
    ),
];
