//! The rows of bitmaps, HyperLogLogs and positions.

use super::Family::{Bitmap, Geo, HyperLogLog};
use super::Row;
use super::Rule::{Encoding, Exact};
use super::row;

/// Commands on what is encoded in strings and scores. The operations of BITOP that are newer than Redis 7.0 are missing.
pub const ROWS: &[Row] = &[
    row(Bitmap, 6, Exact, "SET key value"),
    row(Bitmap, 3, Exact, "GET key"),
    row(Bitmap, 3, Encoding, "OBJECT ENCODING key"),
    row(Bitmap, 12, Exact, "SETBIT key bit-offset ( 0 | 1 )"),
    row(Bitmap, 6, Exact, "GETBIT key bit-offset"),
    row(
        Bitmap,
        6,
        Exact,
        "BITCOUNT key [ index index [ BYTE | BIT ] ]",
    ),
    row(Bitmap, 2, Exact, "BITCOUNT key integer integer BIT"),
    row(
        Bitmap,
        8,
        Exact,
        "BITPOS key ( 0 | 1 ) [ index [ index [ BYTE | BIT ] ] ]",
    ),
    row(Bitmap, 2, Exact, "BITPOS key ( 0 | 1 ) integer integer BIT"),
    row(Bitmap, 8, Exact, "BITOP ( AND | OR | XOR ) key ( key )+"),
    row(Bitmap, 2, Exact, "BITOP NOT key key"),
    row(
        Bitmap,
        10,
        Exact,
        "BITFIELD key ( SET field-type field-offset integer )+ ( GET field-type field-offset )+",
    ),
    row(
        Bitmap,
        10,
        Exact,
        "BITFIELD key ( OVERFLOW ( WRAP | SAT | FAIL ) INCRBY field-type field-offset integer )+ [ SET field-type field-offset integer ]",
    ),
    row(
        Bitmap,
        4,
        Exact,
        "( BITFIELD | BITFIELD_RO ) key ( GET field-type field-offset )+",
    ),
    row(HyperLogLog, 12, Exact, "PFADD key ( member )+"),
    row(HyperLogLog, 12, Exact, "PFADD key ( value )+"),
    row(HyperLogLog, 2, Exact, "PFADD key"),
    row(HyperLogLog, 8, Exact, "PFCOUNT key"),
    row(HyperLogLog, 5, Exact, "PFCOUNT ( key )+"),
    row(HyperLogLog, 6, Exact, "PFMERGE key ( key )+"),
    row(HyperLogLog, 1, Exact, "PFMERGE key"),
    row(
        HyperLogLog,
        6,
        Exact,
        "PFDEBUG ( ENCODING | DECODE | DECODE | TODENSE ) key",
    ),
    row(HyperLogLog, 1, Exact, "PFDEBUG GETREG key"),
    row(HyperLogLog, 4, Exact, "GET key"),
    row(HyperLogLog, 2, Encoding, "OBJECT ENCODING key"),
    row(HyperLogLog, 1, Exact, "SET key value"),
    row(
        Geo,
        30,
        Exact,
        "GEOADD key [ NX | XX ] [ CH ] ( longitude latitude member )+",
    ),
    row(Geo, 2, Exact, "ZADD key ( score member )+"),
    row(Geo, 4, Exact, "ZRANGE key 0 -1 WITHSCORES"),
    row(Geo, 5, Exact, "GEOPOS key ( member )+"),
    row(Geo, 5, Exact, "GEOHASH key ( member )+"),
    row(Geo, 6, Exact, "GEODIST key member member [ unit ]"),
    row(
        Geo,
        20,
        Exact,
        "GEOSEARCH key ( FROMMEMBER member | FROMLONLAT longitude latitude ) ( BYRADIUS distance unit | BYBOX distance distance unit ) [ ASC | DESC ] [ COUNT count | COUNT count ANY ] [ WITHCOORD ] [ WITHDIST ] [ WITHHASH ]",
    ),
    row(
        Geo,
        8,
        Exact,
        "GEOSEARCHSTORE key key ( FROMMEMBER member | FROMLONLAT longitude latitude ) ( BYRADIUS distance unit | BYBOX distance distance unit ) [ ASC | DESC ] [ COUNT count | COUNT count ANY ] [ STOREDIST ]",
    ),
    row(
        Geo,
        6,
        Exact,
        "( GEORADIUS | GEORADIUS_RO ) key longitude latitude distance unit [ ASC | DESC ] [ COUNT count | COUNT count ANY ] [ WITHCOORD ] [ WITHDIST ] [ WITHHASH ] [ STORE key | STOREDIST key ]",
    ),
    row(
        Geo,
        6,
        Exact,
        "( GEORADIUSBYMEMBER | GEORADIUSBYMEMBER_RO ) key member distance unit [ ASC | DESC ] [ COUNT count ] [ WITHCOORD ] [ WITHDIST ] [ STORE key | STOREDIST key ]",
    ),
];
