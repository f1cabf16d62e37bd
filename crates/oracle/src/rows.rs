//! The table of commands for random sequences: one row each, with its grammar and the rule for
//! comparing its replies.

mod dumps;
mod encodings;
mod server;
mod streams;

/// How two replies are compared. Errors are always compared exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Byte for byte.
    Exact,
    /// Elements in any order: KEYS follows the order of the hash table, which is each server's own.
    Unordered,
    /// Integers that may differ by this much, since they depend on when the command ran.
    Near(i64),
    /// A count of keys: Redis also counts expired keys that it has not removed yet; ours must not be higher.
    AtMost,
    /// The same types in the same places: for ids, times and random choices.
    Shape,
    /// Byte for byte, except times, which may differ a little, and the number of nodes of Redis's radix tree: for XINFO and
    /// XPENDING.
    Idle,
    /// Byte for byte, but Redis may refuse a valid score: it checks an `errno` that an earlier command may have
    /// left set.
    Sorted,
    /// A map, without the fields that identify the server: for HELLO.
    Hello,
    /// Each element by the rule of its queued command: for EXEC.
    Queued,
    /// A full iteration from cursor 0, compared as a set of keys or members: for SCAN and SSCAN.
    Scan,
    /// Random members are removed: compared as `Shape`. Then the key is deleted, since each server removed other members.
    Take,
    /// Byte for byte, but our listpack may be a hashtable, quicklist or skiplist in Redis: 7.0 has no listpacks for sets and
    /// lists, and its SORT converts sorted sets to skiplists.
    Encoding,
}

/// A group of commands that can be tested alone with `--family`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Commands on strings.
    String,
    /// Commands on lists.
    List,
    /// Commands on sets.
    Set,
    /// Commands on hashes.
    Hash,
    /// Commands on sorted sets.
    SortedSet,
    /// Commands on streams.
    Stream,
    /// Commands on the bits of strings.
    Bitmap,
    /// Commands on HyperLogLogs.
    HyperLogLog,
    /// Commands on positions in sorted sets.
    Geo,
    /// Commands on keys of any type.
    Generic,
    /// Transactions: MULTI and its relatives, mixed with commands of all other families.
    Transactions,
    /// Scripts and functions, which run commands of all other families: not in this table but in [`crate::scripts`].
    Script,
    /// Commands about the connection.
    Connection,
    /// Commands about the server.
    Server,
}

impl Family {
    /// The family called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        FAMILIES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(family, _)| *family)
    }
}

/// All families and their names.
pub const FAMILIES: &[(Family, &str)] = &[
    (Family::String, "string"),
    (Family::List, "list"),
    (Family::Set, "set"),
    (Family::Hash, "hash"),
    (Family::SortedSet, "sorted-set"),
    (Family::Stream, "stream"),
    (Family::Bitmap, "bitmap"),
    (Family::HyperLogLog, "hyperloglog"),
    (Family::Geo, "geo"),
    (Family::Generic, "generic"),
    (Family::Transactions, "transactions"),
    (Family::Script, "script"),
    (Family::Connection, "connection"),
    (Family::Server, "server"),
];

/// One command.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its family.
    pub family: Family,
    /// The whole command in the notation of [`crate::grammar`].
    pub grammar: &'static str,
    /// The rule for comparing its replies.
    pub rule: Rule,
    /// How often it is drawn, relative to the others.
    pub weight: usize,
}

const fn row(family: Family, weight: usize, rule: Rule, grammar: &'static str) -> Row {
    Row {
        family,
        grammar,
        rule,
        weight,
    }
}

use Family::{Connection, Generic, Hash, List, Set, SortedSet, String, Transactions};
use Rule::{Encoding, Exact, Hello, Near, Queued, Scan, Shape, Sorted, Take, Unordered};

/// Every command that random sequences use: [`ROWS`], and the rows of families that have a file.
pub fn all() -> impl Iterator<Item = &'static Row> {
    let in_files = [streams::ROWS, dumps::ROWS, encodings::ROWS, server::ROWS];
    ROWS.iter().chain(in_files.into_iter().flatten())
}

/// Commands that random sequences use. INFO, COMMAND, CLIENT LIST, MEMORY, LATENCY and SLOWLOG are missing, because their replies
/// describe the server itself; transcripts cover them.
pub const ROWS: &[Row] = &[
    row(String, 4, Exact, "APPEND key value"),
    row(String, 4, Exact, "DECR key"),
    row(String, 3, Exact, "DECRBY key integer"),
    row(String, 12, Exact, "GET key"),
    row(String, 3, Exact, "GETDEL key"),
    row(
        String,
        5,
        Exact,
        "GETEX key [ EX seconds | PX milliseconds | EXAT seconds-at | PXAT milliseconds-at | PERSIST ] [ PERSIST ]",
    ),
    row(String, 5, Exact, "GETRANGE key index index"),
    row(String, 3, Exact, "GETSET key value"),
    row(String, 5, Exact, "INCR key"),
    row(String, 6, Exact, "INCRBY key integer"),
    row(String, 8, Exact, "INCRBYFLOAT key float"),
    row(
        String,
        4,
        Exact,
        "LCS key key [ LEN ] [ IDX ] [ MINMATCHLEN count ] [ WITHMATCHLEN ]",
    ),
    row(String, 4, Exact, "MGET ( key )+"),
    row(String, 4, Exact, "MSET ( key value )+"),
    row(String, 3, Exact, "MSETNX ( key value )+"),
    row(String, 3, Exact, "PSETEX key milliseconds value"),
    row(String, 14, Exact, "SET key value"),
    row(
        String,
        12,
        Exact,
        "SET key value [ EX seconds | PX milliseconds | EXAT seconds-at | PXAT milliseconds-at | KEEPTTL ] [ NX | XX ] [ GET ]",
    ),
    row(String, 3, Exact, "SETEX key seconds value"),
    row(String, 3, Exact, "SETNX key value"),
    row(String, 5, Exact, "SETRANGE key offset value"),
    row(String, 4, Exact, "STRLEN key"),
    row(String, 2, Exact, "SUBSTR key index index"),
    row(List, 8, Exact, "LPUSH key ( member )+"),
    row(List, 8, Exact, "RPUSH key ( member )+"),
    row(List, 3, Exact, "LPUSHX key ( member )+"),
    row(List, 3, Exact, "RPUSHX key ( member )+"),
    row(
        List,
        5,
        Exact,
        "LINSERT key ( BEFORE | AFTER ) member member",
    ),
    row(List, 3, Exact, "LLEN key"),
    row(List, 4, Exact, "LINDEX key index"),
    row(List, 6, Exact, "LRANGE key index index"),
    row(List, 6, Exact, "LRANGE key 0 -1"),
    row(
        List,
        6,
        Exact,
        "LPOS key member [ RANK index | RANK integer ] [ COUNT index | COUNT integer ] [ MAXLEN index | MAXLEN integer ]",
    ),
    row(List, 5, Exact, "LSET key index member"),
    row(List, 5, Exact, "LREM key ( index | integer ) member"),
    row(List, 3, Exact, "LTRIM key index index"),
    row(List, 4, Exact, "LPOP key [ index | integer ]"),
    row(List, 4, Exact, "RPOP key [ index | integer ]"),
    row(
        List,
        3,
        Exact,
        "LMPOP count ( key )+ ( LEFT | RIGHT ) [ COUNT count ]",
    ),
    row(
        List,
        2,
        Exact,
        "LMPOP 1 key ( LEFT | RIGHT ) [ COUNT integer ]",
    ),
    row(
        List,
        2,
        Exact,
        "LMPOP 2 key key ( LEFT | RIGHT ) [ COUNT index ]",
    ),
    row(
        List,
        5,
        Exact,
        "LMOVE key key ( LEFT | RIGHT ) ( LEFT | RIGHT )",
    ),
    row(List, 3, Exact, "RPOPLPUSH key key"),
    row(
        List,
        2,
        Exact,
        "( BLPOP | BRPOP ) ( key )+ ( 0.001 | 0.001 | float )",
    ),
    row(
        List,
        2,
        Exact,
        "BLMPOP ( 0.001 | 0.001 | float ) count ( key )+ ( LEFT | RIGHT ) [ COUNT count ]",
    ),
    row(
        List,
        2,
        Exact,
        "BLMOVE key key ( LEFT | RIGHT ) ( LEFT | RIGHT ) ( 0.001 | 0.001 | float )",
    ),
    row(
        List,
        1,
        Exact,
        "BRPOPLPUSH key key ( 0.001 | 0.001 | float )",
    ),
    row(Set, 20, Exact, "SADD key ( member )+"),
    row(Set, 8, Exact, "SREM key ( member )+"),
    row(Set, 4, Exact, "SCARD key"),
    row(Set, 6, Exact, "SISMEMBER key member"),
    row(Set, 4, Exact, "SMISMEMBER key ( member )+"),
    row(Set, 6, Unordered, "SMEMBERS key"),
    row(Set, 6, Exact, "SMOVE key key member"),
    row(Set, 3, Take, "SPOP key [ count ]"),
    row(Set, 3, Take, "SPOP key 9223372036854775807"),
    row(Set, 4, Shape, "SRANDMEMBER key [ index ]"),
    row(
        Set,
        4,
        Scan,
        "SSCAN key 0 [ MATCH pattern ] [ COUNT count ]",
    ),
    row(Set, 6, Unordered, "SINTER ( key )+"),
    row(Set, 4, Exact, "SINTERCARD 1 key [ LIMIT count ]"),
    row(Set, 4, Exact, "SINTERCARD 2 key key [ LIMIT count ]"),
    row(Set, 2, Exact, "SINTERCARD count ( key )+ [ LIMIT integer ]"),
    row(Set, 5, Exact, "SINTERSTORE key ( key )+"),
    row(Set, 6, Unordered, "SUNION ( key )+"),
    row(Set, 5, Exact, "SUNIONSTORE key ( key )+"),
    row(Set, 6, Unordered, "SDIFF ( key )+"),
    row(Set, 5, Exact, "SDIFFSTORE key ( key )+"),
    row(Hash, 20, Exact, "HSET key ( member value )+"),
    row(Hash, 5, Exact, "HSET key ( member integer )+"),
    row(Hash, 3, Exact, "HMSET key ( member value )+"),
    row(Hash, 4, Exact, "HSETNX key member value"),
    row(Hash, 8, Exact, "HGET key member"),
    row(Hash, 4, Exact, "HMGET key ( member )+"),
    row(Hash, 5, Unordered, "HGETALL key"),
    row(Hash, 3, Unordered, "HKEYS key"),
    row(Hash, 3, Unordered, "HVALS key"),
    row(Hash, 4, Exact, "HLEN key"),
    row(Hash, 3, Exact, "HEXISTS key member"),
    row(Hash, 3, Exact, "HSTRLEN key member"),
    row(Hash, 8, Exact, "HDEL key ( member )+"),
    row(Hash, 6, Exact, "HINCRBY key member integer"),
    row(Hash, 6, Exact, "HINCRBYFLOAT key member float"),
    row(Hash, 3, Shape, "HRANDFIELD key [ index [ WITHVALUES ] ]"),
    row(
        Hash,
        3,
        Scan,
        "HSCAN key 0 [ MATCH pattern ] [ COUNT count ]",
    ),
    row(
        SortedSet,
        30,
        Exact,
        "ZADD key [ NX | XX ] [ GT | LT ] [ CH ] ( score member )+",
    ),
    row(
        SortedSet,
        6,
        Exact,
        "ZADD key [ NX | XX | GT | LT ] INCR score member",
    ),
    row(SortedSet, 6, Exact, "ZINCRBY key score member"),
    row(SortedSet, 8, Exact, "ZREM key ( member )+"),
    row(SortedSet, 4, Exact, "ZCARD key"),
    row(SortedSet, 6, Exact, "ZSCORE key member"),
    row(SortedSet, 4, Exact, "ZMSCORE key ( member )+"),
    row(SortedSet, 6, Exact, "ZRANK key member"),
    row(SortedSet, 4, Exact, "ZREVRANK key member"),
    row(
        SortedSet,
        8,
        Exact,
        "ZRANGE key index index [ REV ] [ WITHSCORES ]",
    ),
    row(
        SortedSet,
        4,
        Exact,
        "ZREVRANGE key index index [ WITHSCORES ]",
    ),
    row(
        SortedSet,
        8,
        Exact,
        "ZRANGE key score-end score-end BYSCORE [ REV ] [ WITHSCORES ] [ LIMIT index index ]",
    ),
    row(
        SortedSet,
        6,
        Exact,
        "ZRANGEBYSCORE key score-end score-end [ WITHSCORES ] [ LIMIT index index ]",
    ),
    row(
        SortedSet,
        6,
        Exact,
        "ZREVRANGEBYSCORE key score-end score-end [ WITHSCORES ] [ LIMIT index index ]",
    ),
    row(
        SortedSet,
        5,
        Exact,
        "ZRANGESTORE key key index index [ REV ] [ LIMIT index index ]",
    ),
    row(
        SortedSet,
        5,
        Exact,
        "ZRANGESTORE key key score-end score-end BYSCORE [ REV ] [ LIMIT index index ]",
    ),
    row(SortedSet, 6, Exact, "ZCOUNT key score-end score-end"),
    row(SortedSet, 2, Exact, "ZREMRANGEBYRANK key index index"),
    row(
        SortedSet,
        2,
        Exact,
        "ZREMRANGEBYSCORE key score-end score-end",
    ),
    row(SortedSet, 10, Exact, "ZADD lex-key ( 0 lex-member )+"),
    row(SortedSet, 5, Exact, "ZREM lex-key ( lex-member )+"),
    row(
        SortedSet,
        5,
        Exact,
        "ZRANGE lex-key lex-end lex-end BYLEX [ REV ] [ LIMIT index index ] [ WITHSCORES ]",
    ),
    row(
        SortedSet,
        5,
        Exact,
        "ZRANGEBYLEX lex-key lex-end lex-end [ LIMIT index index ]",
    ),
    row(
        SortedSet,
        5,
        Exact,
        "ZREVRANGEBYLEX lex-key lex-end lex-end [ LIMIT index index ]",
    ),
    row(
        SortedSet,
        3,
        Exact,
        "ZRANGESTORE lex-key lex-key lex-end lex-end BYLEX [ REV ] [ LIMIT index index ]",
    ),
    row(SortedSet, 4, Exact, "ZLEXCOUNT lex-key lex-end lex-end"),
    row(
        SortedSet,
        3,
        Exact,
        "ZREMRANGEBYLEX lex-key lex-end lex-end",
    ),
    row(SortedSet, 4, Exact, "ZPOPMIN key [ count ]"),
    row(SortedSet, 4, Exact, "ZPOPMAX key [ count ]"),
    row(
        SortedSet,
        2,
        Exact,
        "( BZPOPMIN | BZPOPMAX ) ( key )+ ( 0.001 | 0.001 | float )",
    ),
    row(
        SortedSet,
        2,
        Exact,
        "BZMPOP ( 0.001 | 0.001 | float ) count ( key )+ ( MIN | MAX ) [ COUNT count ]",
    ),
    row(
        SortedSet,
        4,
        Exact,
        "ZMPOP 2 key key ( MIN | MAX ) [ COUNT count ]",
    ),
    row(
        SortedSet,
        2,
        Exact,
        "ZMPOP count ( key )+ ( MIN | MAX ) [ COUNT integer ]",
    ),
    row(
        SortedSet,
        4,
        Shape,
        "ZRANDMEMBER key [ index [ WITHSCORES ] ]",
    ),
    row(
        SortedSet,
        4,
        Scan,
        "ZSCAN key 0 [ MATCH pattern ] [ COUNT count ]",
    ),
    row(
        SortedSet,
        8,
        Exact,
        "ZUNION 2 key key [ WEIGHTS score score ] [ AGGREGATE ( SUM | MIN | MAX ) ] [ WITHSCORES ]",
    ),
    row(
        SortedSet,
        6,
        Exact,
        "ZUNIONSTORE key 3 key key key [ WEIGHTS score score score ] [ AGGREGATE ( SUM | MIN | MAX ) ]",
    ),
    row(
        SortedSet,
        8,
        Exact,
        "ZINTER 2 key key [ WEIGHTS score score ] [ AGGREGATE ( SUM | MIN | MAX ) ] [ WITHSCORES ]",
    ),
    row(
        SortedSet,
        5,
        Exact,
        "ZINTERSTORE key 2 key key [ WEIGHTS score score ] [ AGGREGATE ( SUM | MIN | MAX ) ]",
    ),
    row(SortedSet, 4, Exact, "ZINTERCARD 2 key key [ LIMIT count ]"),
    row(SortedSet, 6, Exact, "ZDIFF 2 key key [ WITHSCORES ]"),
    row(SortedSet, 4, Exact, "ZDIFFSTORE key 2 key key"),
    row(
        SortedSet,
        3,
        Exact,
        "( ZUNION | ZINTER | ZDIFF | ZINTERCARD ) count ( key )+ [ WITHSCORES ] [ LIMIT integer ]",
    ),
    row(
        Generic,
        4,
        Sorted,
        "SORT key [ ASC | DESC ] [ LIMIT index count ]",
    ),
    row(
        Generic,
        1,
        Sorted,
        "SORT_RO key [ ASC | DESC ] [ LIMIT index count ]",
    ),
    // Without STORE, Redis compares texts only up to a zero byte.
    row(
        Generic,
        3,
        Exact,
        "SORT key ALPHA [ ASC | DESC ] [ LIMIT index count ] STORE key",
    ),
    row(
        Generic,
        2,
        Sorted,
        "SORT key BY * [ ASC | DESC ] [ GET # ] [ GET * ]",
    ),
    row(
        Generic,
        1,
        Sorted,
        "SORT key BY *->1 GET *->1 GET # [ STORE key ]",
    ),
    row(Generic, 2, Unordered, "SORT key BY NOSORT [ GET # ]"),
    row(Generic, 1, Exact, "SORT key BY NOSORT ALPHA STORE key"),
    row(
        Generic,
        4,
        Exact,
        "COPY key key [ DB database ] [ REPLACE ]",
    ),
    row(Generic, 5, Exact, "DEL ( key )+"),
    row(Generic, 4, Exact, "EXISTS ( key )+"),
    row(
        Generic,
        6,
        Exact,
        "EXPIRE key seconds [ NX | XX | GT | LT ] [ XX | GT ]",
    ),
    row(
        Generic,
        4,
        Exact,
        "EXPIREAT key seconds-at [ NX | XX | GT | LT ] [ XX | LT ]",
    ),
    row(Generic, 3, Near(1), "EXPIRETIME key"),
    row(Generic, 3, Unordered, "KEYS pattern"),
    row(Generic, 3, Exact, "MOVE key database"),
    row(Generic, 5, Encoding, "OBJECT ENCODING key"),
    row(Generic, 1, Exact, "OBJECT FREQ key"),
    row(Generic, 1, Shape, "OBJECT IDLETIME key"),
    row(Generic, 1, Shape, "OBJECT REFCOUNT key"),
    row(Generic, 4, Exact, "PERSIST key"),
    row(
        Generic,
        4,
        Exact,
        "PEXPIRE key milliseconds [ NX | XX | GT | LT ]",
    ),
    row(
        Generic,
        3,
        Exact,
        "PEXPIREAT key milliseconds-at [ NX | XX | GT | LT ]",
    ),
    row(Generic, 3, Near(1000), "PEXPIRETIME key"),
    row(Generic, 4, Near(1000), "PTTL key"),
    row(Generic, 2, Shape, "RANDOMKEY"),
    row(Generic, 5, Exact, "RENAME key key"),
    row(Generic, 4, Exact, "RENAMENX key key"),
    row(
        Generic,
        4,
        Scan,
        "SCAN 0 [ MATCH pattern ] [ COUNT count ] [ TYPE type ]",
    ),
    row(Generic, 3, Exact, "TOUCH ( key )+"),
    row(Generic, 6, Near(1), "TTL key"),
    row(Generic, 4, Exact, "TYPE key"),
    row(Generic, 3, Exact, "UNLINK ( key )+"),
    row(Transactions, 8, Exact, "MULTI"),
    row(Transactions, 8, Queued, "EXEC"),
    row(Transactions, 1, Exact, "DISCARD"),
    row(Transactions, 8, Exact, "WATCH ( key )+"),
    row(Transactions, 1, Exact, "UNWATCH"),
    row(Connection, 3, Exact, "ECHO value"),
    row(Connection, 4, Exact, "PING [ value ]"),
    row(Connection, 4, Exact, "SELECT database"),
    row(
        Connection,
        3,
        Hello,
        "HELLO [ 2 | 3 | 3 | integer ] [ AUTH name value ] [ SETNAME name ]",
    ),
    row(Connection, 2, Exact, "CLIENT GETNAME"),
    row(Connection, 2, Exact, "CLIENT SETNAME name"),
    row(Connection, 1, Shape, "CLIENT ID"),
    row(Connection, 1, Exact, "CLIENT NO-EVICT ( ON | OFF | value )"),
    row(Connection, 1, Exact, "CLIENT UNPAUSE"),
    row(
        Connection,
        1,
        Exact,
        "CLIENT UNBLOCK integer [ TIMEOUT | ERROR ]",
    ),
    row(Connection, 1, Exact, "RESET"),
    row(Connection, 2, Exact, "AUTH value [ value ]"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::{generate, parse};
    use crate::random::Random;

    #[test]
    fn every_grammar_parses_and_generates() {
        for row in all() {
            assert!(
                !generate(&parse(row.grammar), &mut Random::new(1)).is_empty(),
                "{}",
                row.grammar
            );
            assert!(row.weight > 0, "{} would never be drawn", row.grammar);
        }
    }

    #[test]
    fn families_are_found_by_name() {
        for (family, name) in FAMILIES {
            assert_eq!(Family::named(name), Some(*family));
            let has_rows = all().any(|row| row.family == *family);
            assert!(has_rows || *family == Family::Script);
        }
        assert_eq!(Family::named("fishes"), None);
    }
}
