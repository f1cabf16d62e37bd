//! Our server as a primary, with a real Redis as its replica.

mod access;
#[path = "../../../tls/tests/common/mod.rs"]
mod certificates;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/link_proxy.rs"]
mod link_proxy;
#[path = "../common/replicas.rs"]
mod replicas;
mod roles;
mod snapshots;
mod stream;
mod waiting;

use common::say;
use damselfly_oracle::connection::Connection;

/// Some data of every type.
fn write_all_types(connection: &mut Connection, name: &str) {
    for command in [
        "SET string-# value",
        "SETEX passing-# 1000 value",
        "APPEND string-# more",
        "RPUSH list-# a b c 1 2 3",
        "LMOVE list-# other-# LEFT RIGHT",
        "SADD set-# a b c",
        "SPOP set-#",
        "SADD numbers-# 1 2 3",
        "HSET hash-# field value other 1",
        "HINCRBYFLOAT hash-# other 0.5",
        "ZADD sorted-# 1 a 2.5 b 3 c",
        "ZPOPMIN sorted-#",
        "XADD stream-# * field value",
        "XADD stream-# * field value",
        "XGROUP CREATE stream-# group 0",
        "XREADGROUP GROUP group consumer COUNT 1 STREAMS stream-# >",
        "PFADD log-# a b c",
        "SETBIT bits-# 7 1",
        "GEOADD places-# 13.361389 38.115556 Palermo",
        "INCRBYFLOAT float-# 10.5",
        "RENAME float-# number-#",
        "COPY list-# copy-#",
    ] {
        say(connection, &command.replace('#', name));
    }
}
