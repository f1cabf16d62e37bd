//! The rows of stream commands.

use super::Family::Stream;
use super::Row;
use super::Rule::{Encoding, Exact, Idle};
use super::row;

/// Commands on streams. In none of them does the server choose an id by its clock.
pub const ROWS: &[Row] = &[
    row(Stream, 30, Exact, "XADD key new-id ( member value )+"),
    row(Stream, 20, Exact, "XADD key new-id A member B member"),
    row(
        Stream,
        10,
        Exact,
        "XADD key [ NOMKSTREAM ] [ MAXLEN count | MAXLEN ~ count | MAXLEN = count | MINID stream-id | MINID ~ stream-id ] [ LIMIT count ] new-id ( member value )+",
    ),
    row(Stream, 4, Exact, "XLEN key"),
    row(Stream, 6, Exact, "XDEL key ( stream-id )+"),
    row(
        Stream,
        3,
        Exact,
        "XTRIM key ( MAXLEN | MINID ) [ ~ | = ] ( count | stream-id ) [ LIMIT integer ]",
    ),
    row(
        Stream,
        4,
        Exact,
        "XRANGE key interval-id interval-id [ COUNT count | COUNT integer ]",
    ),
    row(Stream, 5, Exact, "XRANGE key - +"),
    row(
        Stream,
        4,
        Exact,
        "XREVRANGE key interval-id interval-id [ COUNT count | COUNT integer ]",
    ),
    row(Stream, 3, Exact, "XREVRANGE key + -"),
    row(
        Stream,
        5,
        Exact,
        "XREAD [ COUNT integer | COUNT count ] [ BLOCK 1 ] STREAMS key ( stream-id | $ )",
    ),
    row(
        Stream,
        3,
        Exact,
        "XREAD [ COUNT count ] STREAMS key key stream-id ( stream-id | $ | > )",
    ),
    row(
        Stream,
        2,
        Exact,
        "XSETID key stream-id [ ENTRIESADDED integer | ENTRIESADDED count ] [ MAXDELETEDID stream-id ]",
    ),
    row(Stream, 4, Idle, "XINFO STREAM key"),
    row(Stream, 4, Idle, "XINFO STREAM key FULL [ COUNT integer ]"),
    row(Stream, 4, Exact, "XINFO GROUPS key"),
    row(Stream, 3, Idle, "XINFO CONSUMERS key group"),
    row(
        Stream,
        8,
        Exact,
        "XGROUP CREATE key group ( stream-id | $ ) [ MKSTREAM ] [ ENTRIESREAD integer ]",
    ),
    row(
        Stream,
        4,
        Exact,
        "XGROUP SETID key group ( stream-id | $ ) [ ENTRIESREAD integer ]",
    ),
    row(Stream, 1, Exact, "XGROUP DESTROY key group"),
    row(Stream, 3, Exact, "XGROUP CREATECONSUMER key group consumer"),
    row(Stream, 2, Exact, "XGROUP DELCONSUMER key group consumer"),
    row(
        Stream,
        12,
        Exact,
        "XREADGROUP GROUP group consumer [ COUNT count ] [ NOACK ] [ BLOCK 1 ] STREAMS key >",
    ),
    row(
        Stream,
        5,
        Exact,
        "XREADGROUP GROUP group consumer [ COUNT integer ] [ NOACK ] STREAMS key ( stream-id | 0 | $ )",
    ),
    row(
        Stream,
        3,
        Exact,
        "XREADGROUP GROUP group consumer [ COUNT count ] STREAMS key key ( stream-id | > ) >",
    ),
    row(Stream, 6, Exact, "XACK key group ( stream-id )+"),
    row(Stream, 3, Exact, "XPENDING key group"),
    row(
        Stream,
        5,
        Idle,
        "XPENDING key group [ IDLE ( 0 | 10000000 | -7 | X ) ] interval-id interval-id count [ consumer ]",
    ),
    row(Stream, 4, Idle, "XPENDING key group - + 20 [ consumer ]"),
    row(
        Stream,
        8,
        Exact,
        "XCLAIM key group consumer ( 0 | 0 | 10000000 | -7 | X ) ( stream-id )+ [ IDLE seconds ] [ TIME milliseconds ] [ RETRYCOUNT integer ] [ FORCE ] [ JUSTID ] [ LASTID stream-id ]",
    ),
    row(
        Stream,
        6,
        Exact,
        "XAUTOCLAIM key group consumer ( 0 | 0 | 10000000 | -7 | X ) interval-id [ COUNT integer | COUNT count ] [ JUSTID ]",
    ),
    row(Stream, 2, Exact, "DEL key"),
    row(Stream, 2, Exact, "COPY key key [ REPLACE ]"),
    row(Stream, 2, Exact, "RENAME key key"),
    row(Stream, 1, Exact, "TYPE key"),
    row(Stream, 1, Encoding, "OBJECT ENCODING key"),
    row(Stream, 1, Exact, "DEBUG DIGEST-VALUE key"),
    row(
        Stream,
        2,
        Exact,
        "CONFIG SET ( Stream-node-max-entries | Stream-node-max-bytes ) ( 0 | 2 | 3 | 100 | 4096 )",
    ),
];
