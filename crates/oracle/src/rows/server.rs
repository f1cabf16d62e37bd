//! The rows of commands about the server.

use super::Family::Server;
use super::Row;
use super::Rule::{AtMost, Exact, Shape};
use super::row;

/// Commands about the server, about clusters, and mistakes in names.
pub const ROWS: &[Row] = &[
    row(Server, 3, AtMost, "DBSIZE"),
    row(Server, 1, Exact, "FLUSHDB [ ASYNC | SYNC | value ]"),
    row(Server, 1, Exact, "FLUSHALL [ ASYNC | SYNC | value ]"),
    row(Server, 3, Exact, "SWAPDB database database"),
    row(Server, 3, Exact, "CONFIG GET option"),
    row(Server, 4, Exact, "CONFIG SET ( option setting )+"),
    row(Server, 1, Exact, "CONFIG NOTHING value"),
    row(Server, 1, Shape, "TIME"),
    row(Server, 1, Exact, "DEBUG ( JMAP | value )"),
    row(
        Server,
        1,
        Exact,
        "CLUSTER ( INFO | MYID | HELP | RESET | NODES | SLOTS | KEYSLOT key | ADDSLOTS integer | GETKEYSINSLOT integer count | value )",
    ),
    row(Server, 1, Exact, "( READONLY | READWRITE | ASKING )"),
    row(
        Server,
        1,
        Exact,
        "MODULE ( LIST | LOAD value | LOADEX value CONFIG value value | UNLOAD value | value )",
    ),
    row(Server, 1, Exact, "NOSUCHCOMMAND ( value )+"),
    row(
        Server,
        1,
        Exact,
        "( OBJECT | CLIENT | CONFIG ) value [ key ]",
    ),
];
