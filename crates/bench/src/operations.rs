//! The table of operations: what each one sends, in RESP and in memcached's text protocol.
//!
//! A new operation is a new row. Operations on different types use different key prefixes, so that any mix of them
//! runs without a type error.

use Part::{
    Count, Field, Integers, Key, KeyValues, Keys, Member, Number, Pairs, Sha, Transaction, Value,
    ValueBytes, Word,
};

/// A piece of a request. In RESP each piece is one or more arguments; in memcached's protocol, literal text.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// Fixed text.
    Word(&'static str),
    /// The operation's count, in decimal.
    Count,
    /// The hash of a script, which is loaded beforehand.
    Sha(&'static Script),
    /// The row's prefix and the digits of a new key number.
    Key,
    /// As many keys as the operation's count.
    Keys,
    /// As many pairs of key and value as the operation's count.
    KeyValues,
    /// A value of the configured size.
    Value,
    /// The length of the request's value in bytes, in decimal.
    ValueBytes,
    /// A random integer of nine digits: too large for any server's table of shared small integers.
    Number,
    /// A field name of eight bytes, the same for every key.
    Field,
    /// As many pairs of field (eight bytes) and value as the operation's count.
    Pairs,
    /// As many different integers under a million as the operation's count: four bytes each in binary.
    Integers,
    /// Twelve bytes with the digits of a new key number: the members of one big collection.
    Member,
    /// Must come first: the other parts are sent as many times as the operation's count, between MULTI and EXEC.
    Transaction,
}

/// A script in Lua.
#[derive(Debug)]
pub struct Script {
    /// SHA-1 of the text, in hexadecimal.
    pub sha1: &'static str,
    /// The operation that loads it.
    pub load: Operation,
}

/// One row of the table.
#[derive(Debug)]
pub struct Operation {
    /// The name in `--mix` and `--fill`. A number after it sets `count`, as in `mget16`.
    pub name: &'static str,
    /// The first four bytes of its keys.
    pub prefix: &'static str,
    /// The count of keys, pairs or members if the name contains no number.
    pub count: usize,
    /// The arguments of the RESP command.
    pub resp: &'static [Part],
    /// The text of the memcached request, line ends included; empty where there is none.
    pub memcached: &'static [Part],
}

/// The channel of the operation `publish`.
pub const CHANNEL: &str = "chn:one";

/// Reads one declared key.
static GET: Script = script(
    "d3c21d0c2b9ca22f82737626a27bcaf5d288f99f",
    &[
        Word("SCRIPT"),
        Word("LOAD"),
        Word("return redis.call('GET', KEYS[1])"),
    ],
);

/// Sets all declared keys to one value.
static SET_DECLARED: Script = script(
    "1da8110273a937cf2dd25023d7e62f0075cbe501",
    &[
        Word("SCRIPT"),
        Word("LOAD"),
        Word("for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1]) end"),
    ],
);

/// Sets all keys that follow the value to that value; none of them is declared.
static SET_UNDECLARED: Script = script(
    "545fd06fccf63a1fee3354fdb7ed684c9486bd42",
    &[
        Word("SCRIPT"),
        Word("LOAD"),
        Word("for i = 2, #ARGV do redis.call('SET', ARGV[i], ARGV[1]) end"),
    ],
);

const fn script(sha1: &'static str, load: &'static [Part]) -> Script {
    Script {
        sha1,
        load: Operation {
            name: "script-load",
            prefix: "key:",
            count: 1,
            resp: load,
            memcached: &[],
        },
    }
}

/// All operations.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        name: "ping",
        prefix: "key:",
        count: 1,
        resp: &[Word("PING")],
        memcached: &[Word("mn\r\n")],
    },
    Operation {
        name: "get",
        prefix: "key:",
        count: 1,
        resp: &[Word("GET"), Key],
        memcached: &[Word("get "), Key, Word("\r\n")],
    },
    Operation {
        name: "set",
        prefix: "key:",
        count: 1,
        resp: &[Word("SET"), Key, Value],
        memcached: &[
            Word("set "),
            Key,
            Word(" 0 0 "),
            ValueBytes,
            Word("\r\n"),
            Value,
            Word("\r\n"),
        ],
    },
    // The load of a cache: a write follows a miss, here in the same request.
    Operation {
        name: "cache",
        prefix: "key:",
        count: 1,
        resp: &[Word("SET"), Key, Value, Word("NX"), Word("GET")],
        memcached: &[],
    },
    Operation {
        name: "setex",
        prefix: "key:",
        count: 1,
        resp: &[Word("SETEX"), Key, Word("86400"), Value],
        memcached: &[
            Word("set "),
            Key,
            Word(" 0 86400 "),
            ValueBytes,
            Word("\r\n"),
            Value,
            Word("\r\n"),
        ],
    },
    Operation {
        name: "del",
        prefix: "key:",
        count: 1,
        resp: &[Word("DEL"), Key],
        memcached: &[Word("delete "), Key, Word("\r\n")],
    },
    Operation {
        name: "mget",
        prefix: "key:",
        count: 10,
        resp: &[Word("MGET"), Keys],
        memcached: &[Word("get "), Keys, Word("\r\n")],
    },
    Operation {
        name: "mset",
        prefix: "key:",
        count: 10,
        resp: &[Word("MSET"), KeyValues],
        memcached: &[],
    },
    Operation {
        name: "multi",
        prefix: "key:",
        count: 4,
        resp: &[Transaction, Word("SET"), Key, Value],
        memcached: &[],
    },
    Operation {
        name: "script",
        prefix: "key:",
        count: 4,
        resp: &[Word("EVALSHA"), Sha(&SET_DECLARED), Count, Keys, Value],
        memcached: &[],
    },
    Operation {
        name: "script-undeclared",
        prefix: "key:",
        count: 4,
        resp: &[
            Word("EVALSHA"),
            Sha(&SET_UNDECLARED),
            Word("0"),
            Value,
            Keys,
        ],
        memcached: &[],
    },
    Operation {
        name: "script-get",
        prefix: "key:",
        count: 1,
        resp: &[Word("EVALSHA"), Sha(&GET), Word("1"), Key],
        memcached: &[],
    },
    Operation {
        name: "expire",
        prefix: "key:",
        count: 1,
        resp: &[Word("EXPIRE"), Key, Word("86400")],
        memcached: &[],
    },
    Operation {
        name: "incr",
        prefix: "ctr:",
        count: 1,
        resp: &[Word("INCR"), Key],
        memcached: &[],
    },
    Operation {
        name: "counter",
        prefix: "ctr:",
        count: 1,
        resp: &[Word("SET"), Key, Number],
        memcached: &[Word("set "), Key, Word(" 0 0 9\r\n"), Number, Word("\r\n")],
    },
    Operation {
        name: "lpush",
        prefix: "lst:",
        count: 1,
        resp: &[Word("LPUSH"), Key, Value],
        memcached: &[],
    },
    Operation {
        name: "rpush",
        prefix: "lst:",
        count: 1,
        resp: &[Word("RPUSH"), Key, Value],
        memcached: &[],
    },
    Operation {
        name: "lpop",
        prefix: "lst:",
        count: 1,
        resp: &[Word("LPOP"), Key],
        memcached: &[],
    },
    Operation {
        name: "rpop",
        prefix: "lst:",
        count: 1,
        resp: &[Word("RPOP"), Key],
        memcached: &[],
    },
    Operation {
        name: "lrange",
        prefix: "lst:",
        count: 1,
        resp: &[Word("LRANGE"), Key, Word("0"), Word("9")],
        memcached: &[],
    },
    Operation {
        name: "sadd",
        prefix: "set:",
        count: 1,
        resp: &[Word("SADD"), Key, Integers],
        memcached: &[],
    },
    Operation {
        name: "srem",
        prefix: "set:",
        count: 1,
        resp: &[Word("SREM"), Key, Integers],
        memcached: &[],
    },
    Operation {
        name: "hset",
        prefix: "hsh:",
        count: 1,
        resp: &[Word("HSET"), Key, Pairs],
        memcached: &[],
    },
    Operation {
        name: "hget",
        prefix: "hsh:",
        count: 1,
        resp: &[Word("HGET"), Key, Field],
        memcached: &[],
    },
    Operation {
        name: "zadd",
        prefix: "zst:",
        count: 1,
        resp: &[Word("ZADD"), Key, Number, Value],
        memcached: &[],
    },
    Operation {
        name: "zrange",
        prefix: "zst:",
        count: 1,
        resp: &[Word("ZRANGE"), Key, Word("0"), Word("9")],
        memcached: &[],
    },
    Operation {
        name: "sadd-one",
        prefix: "one:",
        count: 1,
        resp: &[Word("SADD"), Word("one:set"), Member],
        memcached: &[],
    },
    Operation {
        name: "zadd-one",
        prefix: "one:",
        count: 1,
        resp: &[Word("ZADD"), Word("one:zset"), Number, Member],
        memcached: &[],
    },
    Operation {
        name: "hset-one",
        prefix: "one:",
        count: 1,
        resp: &[Word("HSET"), Word("one:hash"), Member, Value],
        memcached: &[],
    },
    Operation {
        name: "rpush-one",
        prefix: "one:",
        count: 1,
        resp: &[Word("RPUSH"), Word("one:list"), Value],
        memcached: &[],
    },
    // Bitmaps of 64 bytes, 4 KiB and 16 MiB, of which only the last bit is set.
    Operation {
        name: "setbit-short",
        prefix: "bit:",
        count: 1,
        resp: &[Word("SETBIT"), Word("bit:short"), Word("511"), Word("1")],
        memcached: &[],
    },
    Operation {
        name: "bitcount-short",
        prefix: "bit:",
        count: 1,
        resp: &[Word("BITCOUNT"), Word("bit:short")],
        memcached: &[],
    },
    Operation {
        name: "bitpos-short",
        prefix: "bit:",
        count: 1,
        resp: &[Word("BITPOS"), Word("bit:short"), Word("1")],
        memcached: &[],
    },
    Operation {
        name: "bitop-short",
        prefix: "bit:",
        count: 1,
        resp: &[
            Word("BITOP"),
            Word("XOR"),
            Word("bit:result"),
            Word("bit:short"),
            Word("bit:short"),
            Word("bit:short"),
        ],
        memcached: &[],
    },
    Operation {
        name: "setbit-medium",
        prefix: "bit:",
        count: 1,
        resp: &[Word("SETBIT"), Word("bit:medium"), Word("32767"), Word("1")],
        memcached: &[],
    },
    Operation {
        name: "bitcount-medium",
        prefix: "bit:",
        count: 1,
        resp: &[Word("BITCOUNT"), Word("bit:medium")],
        memcached: &[],
    },
    Operation {
        name: "bitpos-medium",
        prefix: "bit:",
        count: 1,
        resp: &[Word("BITPOS"), Word("bit:medium"), Word("1")],
        memcached: &[],
    },
    Operation {
        name: "bitop-medium",
        prefix: "bit:",
        count: 1,
        resp: &[
            Word("BITOP"),
            Word("XOR"),
            Word("bit:result"),
            Word("bit:medium"),
            Word("bit:medium"),
            Word("bit:medium"),
        ],
        memcached: &[],
    },
    Operation {
        name: "setbit-long",
        prefix: "bit:",
        count: 1,
        resp: &[
            Word("SETBIT"),
            Word("bit:long"),
            Word("134217727"),
            Word("1"),
        ],
        memcached: &[],
    },
    Operation {
        name: "bitcount-long",
        prefix: "bit:",
        count: 1,
        resp: &[Word("BITCOUNT"), Word("bit:long")],
        memcached: &[],
    },
    Operation {
        name: "bitpos-long",
        prefix: "bit:",
        count: 1,
        resp: &[Word("BITPOS"), Word("bit:long"), Word("1")],
        memcached: &[],
    },
    Operation {
        name: "bitop-long",
        prefix: "bit:",
        count: 1,
        resp: &[
            Word("BITOP"),
            Word("XOR"),
            Word("bit:result"),
            Word("bit:long"),
            Word("bit:long"),
            Word("bit:long"),
        ],
        memcached: &[],
    },
    Operation {
        name: "pfadd",
        prefix: "hll:",
        count: 1,
        resp: &[Word("PFADD"), Key, Value],
        memcached: &[],
    },
    Operation {
        name: "pfcount",
        prefix: "hll:",
        count: 1,
        resp: &[Word("PFCOUNT"), Key],
        memcached: &[],
    },
    Operation {
        name: "publish",
        prefix: "chn:",
        count: 1,
        resp: &[Word("PUBLISH"), Word(CHANNEL), Value],
        memcached: &[],
    },
];

/// An operation with the count that its name gives.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The row.
    pub operation: &'static Operation,
    /// How many keys, pairs or members are in one request.
    pub count: usize,
}

/// The most keys, pairs or members in one request.
pub const COUNT_MAX: usize = 1000;

impl Choice {
    /// The prefix of the keys of strings.
    pub const KEY_PREFIX: &[u8] = b"key:";

    /// The number of its replies in RESP.
    pub fn replies(self) -> u64 {
        match self.operation.resp.first() {
            Some(Transaction) => self.count as u64 + 2,
            _ => 1,
        }
    }

    /// The operations that load its scripts, which must run once beforehand.
    pub fn loads(self) -> impl Iterator<Item = Self> {
        self.operation.resp.iter().filter_map(|part| match *part {
            Sha(script) => Some(Self {
                operation: &script.load,
                count: 1,
            }),
            Word(_) | Count | Key | Keys | KeyValues | Value | ValueBytes | Number | Field
            | Pairs | Integers | Member | Transaction => None,
        })
    }

    /// Finds the operation of a name such as `get` or `mget16`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.trim_end_matches(|c: char| c.is_ascii_digit());
        let operation = OPERATIONS
            .iter()
            .find(|row| row.name == name)
            .ok_or_else(|| {
                let names: Vec<&str> = OPERATIONS.iter().map(|row| row.name).collect();
                format!(
                    "unknown operation '{name}'; expected one of {}",
                    names.join(", ")
                )
            })?;
        let digits = &text[name.len()..];
        let count = if digits.is_empty() {
            Ok(operation.count)
        } else {
            digits.parse()
        };
        match count {
            Ok(count) if (1..=COUNT_MAX).contains(&count) => Ok(Self { operation, count }),
            Ok(_) | Err(_) => Err(format!(
                "the count of '{text}' must be between 1 and {COUNT_MAX}"
            )),
        }
    }
}

/// Parses `set:1,get:10` into operations and weights; a missing weight is one.
pub fn parse_mix(text: &str) -> Result<Vec<(Choice, u64)>, String> {
    text.split(',')
        .map(|item| {
            let (name, weight) = item.split_once(':').unwrap_or((item, "1"));
            match weight.parse() {
                Ok(weight @ 1..=1_000_000) => Ok((Choice::parse(name)?, weight)),
                Ok(_) | Err(_) => Err(format!(
                    "the weight of '{item}' must be between 1 and 1000000"
                )),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_contain_no_digits() {
        let mut names: Vec<&str> = OPERATIONS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(
            names
                .iter()
                .all(|name| !name.contains(|c: char| c.is_ascii_digit()))
        );
    }

    #[test]
    fn prefixes_have_four_bytes() {
        assert!(OPERATIONS.iter().all(|row| row.prefix.len() == 4));
    }

    #[test]
    fn a_mix_has_names_counts_and_weights() {
        let mix = parse_mix("set:1,get:10,mget16").unwrap();
        let seen: Vec<_> = mix
            .iter()
            .map(|(choice, weight)| (choice.operation.name, choice.count, *weight))
            .collect();
        assert_eq!(seen, [("set", 1, 1), ("get", 1, 10), ("mget", 16, 1)]);
    }

    #[test]
    fn a_transaction_gets_a_reply_to_each_of_its_requests() {
        assert_eq!(Choice::parse("multi4").unwrap().replies(), 6);
        assert_eq!(Choice::parse("mset4").unwrap().replies(), 1);
    }

    #[test]
    fn invalid_mixes_are_rejected() {
        for mix in ["", "frob", "set:0", "set:x", "mget0", "mget99999"] {
            assert!(parse_mix(mix).is_err(), "{mix}");
        }
    }
}
