//! Commands and their effects. Those of bitmaps, HyperLogLogs and geographic sets are in `bit_cases.rs`.

/// Commands that are played on an empty server. A line that begins with `> ` blocks on a connection of its own.
pub struct Case {
    /// The commands.
    pub lines: &'static [&'static str],
    /// How their effects are compared.
    pub compare: Compare,
    /// A command may be refused.
    pub may_fail: bool,
}

/// How effects are compared.
pub enum Compare {
    /// With those of Redis.
    Exactly,
    /// With those of Redis, but without MULTI and EXEC: ours keep a blocked client's effects with those of the command that served it.
    Ungrouped,
    /// With these, because Redis 7.0 does not know the commands or writes something else that means the same.
    With(&'static [&'static str]),
}

const fn case(lines: &'static [&'static str], compare: Compare, may_fail: bool) -> Case {
    Case {
        lines,
        compare,
        may_fail,
    }
}

/// As in Redis.
pub const fn same(lines: &'static [&'static str]) -> Case {
    case(lines, Compare::Exactly, false)
}

/// As in Redis; some commands are refused.
pub const fn refused(lines: &'static [&'static str]) -> Case {
    case(lines, Compare::Exactly, true)
}

/// As in Redis but for MULTI and EXEC.
pub const fn serves(lines: &'static [&'static str]) -> Case {
    case(lines, Compare::Ungrouped, false)
}

/// Exactly these.
pub const fn own(lines: &'static [&'static str], expected: &'static [&'static str]) -> Case {
    case(lines, Compare::With(expected), false)
}

/// All cases.
pub const CASES: &[Case] = &[
    // Strings.
    same(&[
        "SET k v",
        "set k v nx",
        "SET k v XX GET",
        "SET k v GET KEEPTTL",
        "SETNX k v",
        "SETNX l v",
    ]),
    same(&[
        "SET k v EX 100",
        "SET k v PX 100000",
        "SET k v EXAT 9000000000",
        "SET k v PXAT 9000000000000 GET",
        "SET k v KEEPTTL",
    ]),
    same(&[
        "SETEX k 100 v",
        "PSETEX k 100000 v",
        "GETSET k w",
        "GETDEL k",
        "GETDEL k",
    ]),
    same(&[
        "SET k v",
        "GETEX k",
        "GETEX k EX 100",
        "GETEX k PERSIST",
        "GETEX k PERSIST",
        "GETEX k PXAT 1",
    ]),
    same(&[
        "INCR n",
        "INCRBY n 5",
        "DECR n",
        "DECRBY n 3",
        "INCRBYFLOAT n 1.5",
        "APPEND s abc",
        "SETRANGE s 1 x",
        "SETRANGE new 0 \"\"",
    ]),
    same(&["MSET a 1 b 2", "MSETNX a 1 c 2", "MSETNX c 1 d 2"]),
    refused(&["SET k abc", "INCR k", "LPUSH k v", "GETSET k w"]),
    // Keys.
    same(&[
        "SET a 1", "DEL a b", "DEL a", "SET a 1", "UNLINK a", "UNLINK a",
    ]),
    refused(&[
        "SET a 1",
        "RENAME a b",
        "RENAMENX b c",
        "COPY c d",
        "COPY c d",
        "COPY c d REPLACE",
        "MOVE d 3",
        "COPY c e DB 2",
        "RENAME nosuch x",
    ]),
    same(&[
        "SET k v",
        "EXPIRE k 100",
        "PEXPIRE k 100000",
        "EXPIREAT k 9000000000",
        "PEXPIREAT k 9000000000000",
        "PERSIST k",
        "PERSIST k",
        "EXPIRE k 5 XX",
    ]),
    same(&["SET k v", "EXPIRE k -1", "SET k v", "PEXPIREAT k 1"]),
    same(&[
        "SET k v",
        "RESTORE l 0 DUMP:k",
        "RESTORE l 100000 DUMP:k REPLACE",
        "RESTORE l 9000000000000 DUMP:k ABSTTL REPLACE",
        "RESTORE l 1 DUMP:k ABSTTL REPLACE",
        "RESTORE no 1 DUMP:k ABSTTL REPLACE",
    ]),
    own(
        &["SET k v", "PREPEND k a", "PREPEND l a"],
        &["SET k v", "SET k av KEEPTTL", "SET l a KEEPTTL"],
    ),
    same(&[
        "RPUSH l 3 1 2",
        "SORT l STORE d",
        "SORT nosuch STORE d",
        "SADD s b a",
        "SORT s BY nosort STORE d ALPHA",
    ]),
    same(&[
        "FLUSHDB",
        "SET a 1",
        "FLUSHALL ASYNC",
        "SWAPDB 0 1",
        "FLUSHDB SYNC",
    ]),
    same(&[
        "SET k v",
        "TOUCH k",
        "OBJECT FREQ nosuch",
        "GET k",
        "EXISTS k",
    ]),
    // An expired key.
    same(&[
        "DEBUG SET-ACTIVE-EXPIRE 0",
        "SET k v PX 1",
        "sleep 10",
        "GET k",
        "SET k v PX 1",
        "sleep 10",
        "SET k w",
        "SET l v PX 1",
        "sleep 10",
        "MSET k 1 l 2",
        "DEBUG SET-ACTIVE-EXPIRE 1",
    ]),
    own(
        &[
            "SET k v",
            "PEXPIRE k 100000",
            "EXPIRE k 50 LT",
            "EXPIRE k 200 GT",
            "EXPIRE k 9 NX",
        ],
        &[
            "SET k v",
            "PEXPIREAT k TIME",
            "PEXPIREAT k TIME",
            "PEXPIREAT k TIME",
        ],
    ),
    // Lists.
    same(&[
        "RPUSH l a b c",
        "LPUSH l z",
        "RPUSHX l d",
        "LPUSHX no x",
        "LPUSHX l y",
        "LINSERT l BEFORE a q",
        "LINSERT l BEFORE nosuch q",
        "LSET l 0 e",
        "LREM l 0 a",
        "LREM l 0 a",
        "LTRIM l 1 -1",
    ]),
    // Newer versions refuse the lowest number.
    own(
        &["RPUSH l a b a", "LREM l -9223372036854775808 a"],
        &["RPUSH l a b a", "LREM l -9223372036854775807 a"],
    ),
    same(&[
        "RPUSH l a b c d e f g",
        "LPOP l",
        "RPOP l 2",
        "LPOP l 0",
        "LMPOP 2 no l RIGHT COUNT 2",
        "LMOVE l m LEFT RIGHT",
        "RPOPLPUSH l m",
        "LPOP no",
    ]),
    same(&[
        "RPUSH l a b c d e f",
        "BLPOP l 0",
        "BRPOP no l 0",
        "BLMOVE l m LEFT RIGHT 0",
        "BRPOPLPUSH l m 0",
        "BLMPOP 0 1 l LEFT COUNT 10",
    ]),
    serves(&["> BLPOP l 0", "RPUSH l a b"]),
    serves(&["> BLPOP l 0", "> BRPOP l 0", "RPUSH l a", "RPUSH l b"]),
    serves(&[
        "> BLMOVE l m LEFT RIGHT 0",
        "> BRPOPLPUSH m o 0",
        "RPUSH l a",
    ]),
    serves(&[
        "> BLMPOP 0 1 l LEFT COUNT 2",
        "MULTI",
        "RPUSH l a b c",
        "SET k v",
        "EXEC",
    ]),
    // Sets.
    same(&[
        "SADD s a b c",
        "SADD s a",
        "SREM s a x",
        "SREM s x",
        "SMOVE s t b",
        "SMOVE s t nosuch",
    ]),
    same(&[
        "SADD s a",
        "SPOP s",
        "SADD s a b",
        "SPOP s 5",
        "SPOP s",
        "SADD s a b",
        "SPOP s 2",
    ]),
    same(&[
        "SADD s a b",
        "SADD t b c",
        "SINTERSTORE d s t",
        "SUNIONSTORE d s t",
        "SDIFFSTORE d s s",
        "SDIFFSTORE d s s",
    ]),
    // Hashes.
    same(&[
        "HSET h f v g w",
        "HSET h f v",
        "HMSET h f x",
        "HSETNX h f v",
        "HSETNX h n v",
        "HINCRBY h i 3",
        "HINCRBYFLOAT h x 1.5",
        "HDEL h f nosuch",
        "HDEL h nosuch",
    ]),
    own(
        &[
            "HSET h f v g w",
            "HEXPIRE h 100 FIELDS 2 f x",
            "HPEXPIRE h 100000 NX FIELDS 2 f g",
            "HEXPIREAT h 9000000000 FIELDS 1 f",
            "HPEXPIREAT h 9000000000000 FIELDS 1 f",
            "HPERSIST h FIELDS 1 f",
            "HPEXPIREAT h 1 FIELDS 1 f",
        ],
        &[
            "HSET h f v g w",
            "HPEXPIREAT h TIME FIELDS 1 f",
            "HPEXPIREAT h TIME FIELDS 1 g",
            "HPEXPIREAT h TIME FIELDS 1 f",
            "HPEXPIREAT h TIME FIELDS 1 f",
            "HPERSIST h FIELDS 1 f",
            "HDEL h f",
        ],
    ),
    own(
        &[
            "HSETEX h EX 100 FIELDS 2 f v g w",
            "HSETEX h KEEPTTL FIELDS 1 f x",
            "HSETEX h FNX FIELDS 1 f y",
            "HSETEX h FXX PXAT 1 FIELDS 1 f x",
            "HGETEX h EX 100 FIELDS 2 g no",
            "HGETEX h PERSIST FIELDS 1 g",
            "HGETDEL h FIELDS 2 g no",
        ],
        &[
            "MULTI",
            "HSET h f v g w",
            "HPEXPIREAT h TIME FIELDS 2 f g",
            "EXEC",
            "MULTI",
            "HSET h f x",
            "HPEXPIREAT h TIME FIELDS 1 f",
            "EXEC",
            "HDEL h f",
            "HPEXPIREAT h TIME FIELDS 1 g",
            "HPERSIST h FIELDS 1 g",
            "HDEL h g",
        ],
    ),
    own(
        &[
            "HSET h f 1",
            "HEXPIRE h 100 FIELDS 1 f",
            "HINCRBYFLOAT h f 1.5",
        ],
        &[
            "HSET h f 1",
            "HPEXPIREAT h TIME FIELDS 1 f",
            "MULTI",
            "HSET h f 2.5",
            "HPEXPIREAT h TIME FIELDS 1 f",
            "EXEC",
        ],
    ),
    own(
        &[
            "DEBUG SET-ACTIVE-EXPIRE 0",
            "HSET h f 1 g 2",
            "HPEXPIRE h 1 FIELDS 1 f",
            "sleep 10",
            "HGET h g",
            "HPEXPIRE h 1 FIELDS 1 g",
            "sleep 10",
            "HSET h x 1",
            "DEBUG SET-ACTIVE-EXPIRE 1",
        ],
        &[
            "HSET h f 1 g 2",
            "HPEXPIREAT h TIME FIELDS 1 f",
            "HDEL h f",
            "HPEXPIREAT h TIME FIELDS 1 g",
            "MULTI",
            "DEL h",
            "HSET h x 1",
            "EXEC",
        ],
    ),
    // Sorted sets.
    same(&[
        "ZADD z 1 a 2 b 3 c",
        "ZADD z XX GT 0 a",
        "ZADD z INCR 5 a",
        "ZINCRBY z 1.5 a",
        "ZREM z a no",
        "ZREM z no",
        "ZREMRANGEBYSCORE z 0 2",
        "ZREMRANGEBYRANK z 5 9",
    ]),
    same(&[
        "ZADD z 0 a 0 b 0 c",
        "ZREMRANGEBYLEX z [a [a",
        "ZREMRANGEBYRANK z 0 0",
        "ZPOPMIN z",
        "ZADD z 1 a 2 b 3 c 4 d",
        "ZPOPMAX z 2",
        "ZMPOP 2 no z MIN COUNT 10",
    ]),
    same(&[
        "ZADD z 1 a 2 b 3 c",
        "BZPOPMIN z 0",
        "BZPOPMAX z 0",
        "BZMPOP 0 1 z MAX",
    ]),
    serves(&["> BZPOPMIN z 0", "ZADD z 1 a 2 b"]),
    serves(&["> BZMPOP 0 1 z MAX COUNT 5", "ZADD z 1 a 2 b"]),
    same(&[
        "ZADD z 1 a 2 b",
        "ZADD y 3 b",
        "ZUNIONSTORE d 2 z y",
        "ZINTERSTORE d 2 z y",
        "ZDIFFSTORE d 2 z z",
        "ZRANGESTORE d z 0 -1",
        "ZRANGESTORE d no 0 -1",
        "ZRANGESTORE d no 0 -1",
    ]),
    // Streams.
    same(&[
        "XADD s 1-1 a b",
        "XADD s * c d",
        "XADD s 9000000000000-* c d",
        "XADD no NOMKSTREAM * a b",
        "XADD s NOMKSTREAM 9000000000001-1 a b",
        "XDEL s 1-1 5-5",
        "XDEL s 5-5",
        "XSETID s 9000000000009-0",
        "XSETID s 9000000000009-0 ENTRIESADDED 10 MAXDELETEDID 1-1",
    ]),
    same(&[
        "XADD s 1-1 a b",
        "XADD s MAXLEN 1 2-1 a b",
        "XADD s MAXLEN = 2 3-1 a b",
        "XTRIM s MAXLEN 1",
        "XTRIM s MINID 9",
        "XTRIM s MAXLEN 0",
    ]),
    same(&[
        "XADD s 1-1 a b",
        "XADD s MAXLEN ~ 5 2-1 a b",
        "XTRIM s MAXLEN ~ 1",
    ]),
    same(&[
        "XGROUP CREATE s g $ MKSTREAM",
        "XGROUP CREATECONSUMER s g c",
        "XGROUP CREATECONSUMER s g c",
        "XGROUP SETID s g 0",
        "XGROUP DELCONSUMER s g c",
        "XGROUP DELCONSUMER s g c",
        "XGROUP DESTROY s g",
        "XGROUP DESTROY s g",
    ]),
    // Redis 7.0 loses how many entries a group has read; later versions log it as ours does.
    own(
        &[
            "XADD s 1-1 a b",
            "XADD s 2-1 a b",
            "XGROUP CREATE s g 0",
            "XREADGROUP GROUP g c COUNT 1 STREAMS s >",
            "XREADGROUP GROUP g d NOACK STREAMS s >",
            "XACK s g 1-1",
            "XACK s g 1-1",
        ],
        &[
            "XADD s 1-1 a b",
            "XADD s 2-1 a b",
            "XGROUP CREATE s g 0",
            "MULTI",
            "XCLAIM s g c 0 1-1 TIME TIME RETRYCOUNT 1 FORCE JUSTID LASTID 1-1",
            "XGROUP SETID s g 1-1 ENTRIESREAD 1",
            "EXEC",
            "MULTI",
            "XGROUP CREATECONSUMER s g d",
            "XGROUP SETID s g 2-1 ENTRIESREAD 2",
            "EXEC",
            "XACK s g 1-1",
        ],
    ),
    own(
        &[
            "XADD s 1-1 a b",
            "XGROUP CREATE s g 0",
            "XREADGROUP GROUP g c STREAMS s >",
            "XREADGROUP GROUP g c STREAMS s 0",
        ],
        &[
            "XADD s 1-1 a b",
            "XGROUP CREATE s g 0",
            "MULTI",
            "XCLAIM s g c 0 1-1 TIME TIME RETRYCOUNT 1 FORCE JUSTID LASTID 1-1",
            "XGROUP SETID s g 1-1 ENTRIESREAD 1",
            "EXEC",
            "XCLAIM s g c 0 1-1 TIME TIME RETRYCOUNT 2 FORCE JUSTID LASTID 1-1",
        ],
    ),
    own(
        &[
            "XADD s 1-1 a b",
            "XGROUP CREATE s g 0",
            "XREADGROUP GROUP g c STREAMS s >",
            "XCLAIM s g d 0 1-1",
            "XCLAIM s g d 0 1-1 JUSTID",
            "XAUTOCLAIM s g e 0 0",
            "XCLAIM s g d 1000000 1-1",
            // Repeated as they are, these would claim the entry later.
            "XCLAIM s g f 1000000 1-1",
            "XAUTOCLAIM s g h 1000000 0",
            "XDEL s 1-1",
            "XAUTOCLAIM s g i 0 0",
        ],
        &[
            "XADD s 1-1 a b",
            "XGROUP CREATE s g 0",
            "MULTI",
            "XCLAIM s g c 0 1-1 TIME TIME RETRYCOUNT 1 FORCE JUSTID LASTID 1-1",
            "XGROUP SETID s g 1-1 ENTRIESREAD 1",
            "EXEC",
            "XCLAIM s g d 0 1-1 TIME TIME RETRYCOUNT 2 FORCE JUSTID LASTID 1-1",
            "XCLAIM s g d 0 1-1 TIME TIME RETRYCOUNT 2 FORCE JUSTID LASTID 1-1",
            "XCLAIM s g e 0 1-1 TIME TIME RETRYCOUNT 3 FORCE JUSTID LASTID 1-1",
            "XGROUP CREATECONSUMER s g f",
            "XGROUP CREATECONSUMER s g h",
            "XDEL s 1-1",
            "MULTI",
            "XGROUP CREATECONSUMER s g i",
            "XACK s g 1-1",
            "EXEC",
        ],
    ),
    own(
        &[
            "XGROUP CREATE s g $ MKSTREAM",
            "> XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
            "XADD s 1-1 a b",
        ],
        &[
            "XGROUP CREATE s g $ MKSTREAM",
            "XGROUP CREATECONSUMER s g c",
            "MULTI",
            "XADD s 1-1 a b",
            "XCLAIM s g c 0 1-1 TIME TIME RETRYCOUNT 1 FORCE JUSTID LASTID 1-1",
            "XGROUP SETID s g 1-1 ENTRIESREAD 1",
            "EXEC",
        ],
    ),
    own(
        &[
            "XADD s 1-1 a b",
            "XGROUP CREATE s g 0",
            "XREADGROUP GROUP g c STREAMS s >",
            "XDEL s 1-1",
            "XCLAIM s g d 0 1-1",
            "XADD s 2-1 a b",
            "XREADGROUP GROUP g c STREAMS s >",
            "XDEL s 2-1",
            "XAUTOCLAIM s g d 0 0",
        ],
        &[
            "XADD s 1-1 a b",
            "XGROUP CREATE s g 0",
            "MULTI",
            "XCLAIM s g c 0 1-1 TIME TIME RETRYCOUNT 1 FORCE JUSTID LASTID 1-1",
            "XGROUP SETID s g 1-1 ENTRIESREAD 1",
            "EXEC",
            "XDEL s 1-1",
            "MULTI",
            "XGROUP CREATECONSUMER s g d",
            "XACK s g 1-1",
            "EXEC",
            "XADD s 2-1 a b",
            "MULTI",
            "XCLAIM s g c 0 2-1 TIME TIME RETRYCOUNT 1 FORCE JUSTID LASTID 2-1",
            "XGROUP SETID s g 2-1 ENTRIESREAD 2",
            "EXEC",
            "XDEL s 2-1",
            "XACK s g 2-1",
        ],
    ),
    // Transactions.
    same(&[
        "MULTI", "SET a 1", "INCR n", "GET a", "EXEC", "MULTI", "SET a 1", "EXEC", "MULTI",
        "GET a", "EXEC", "MULTI", "SELECT 3", "SET x 1", "SELECT 0", "SET y 1", "EXEC",
    ]),
    same(&["MULTI", "FLUSHALL", "SET a 1", "SWAPDB 0 1", "EXEC"]),
    // Scripts.
    same(&[
        "EVAL \"redis.call('SET', KEYS[1], 1); return redis.call('INCR', KEYS[1])\" 1 k",
        "EVAL \"return redis.call('GET', KEYS[1])\" 1 k",
        "EVAL \"return redis.call('SET', KEYS[1], 2)\" 1 k",
        "EVAL \"redis.call('SADD', 's', 'x'); return redis.call('SPOP', 's')\" 0",
    ]),
    same(&[
        "EVAL \"redis.set_repl(redis.REPL_NONE); redis.call('SET', 'a', 1); redis.set_repl(redis.REPL_ALL); redis.call('SET', 'b', 1); redis.set_repl(redis.REPL_REPLICA); redis.call('SET', 'c', 1); redis.set_repl(redis.REPL_AOF); return redis.call('SET', 'd', 1)\" 0",
        "SET k v",
    ]),
    refused(&["EVAL \"redis.call('SET', 'a', 1); return redis.call('NOSUCH')\" 0"]),
    same(&[
        "EVAL \"redis.call('SELECT', 2); redis.call('SET', 'a', 1); return redis.call('SET', 'b', 1)\" 0",
        "SET k v",
    ]),
    same(&[
        "FUNCTION LOAD \"#!lua name=lib\\nredis.register_function('f', function(keys) redis.call('SET', keys[1], 1); return redis.call('EXPIRE', keys[1], 100) end)\"",
        "FCALL f 1 k",
        "FUNCTION DELETE lib",
        "FUNCTION FLUSH",
    ]),
    refused(&["FUNCTION RESTORE garbage", "SET k v"]),
    same(&[
        "MULTI",
        "EVAL \"redis.call('SET', 'a', 1); return redis.call('SET', 'b', 1)\" 0",
        "SET c 1",
        "EXEC",
    ]),
];
