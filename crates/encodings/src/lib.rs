//! What clients keep in a plain string or in a score: bitmaps and bit fields, HyperLogLogs, positions on the globe.
//!
//! | in        | what             | module                             |
//! |-----------|------------------|------------------------------------|
//! | a string  | single bits      | [`bits`], [`bit_operations`]       |
//! | a string  | integers of any width | [`bit_fields`]                |
//! | a string  | a HyperLogLog    | [`hyperloglog`]                    |
//! | a score   | a position       | [`geohash`], [`geo_shape`]         |
//!
//! These are pure functions of bytes and numbers. Nothing here knows about keys, entries or commands. Any client can store any
//! bytes and any score, so nothing here trusts them.

pub mod bit_fields;
pub mod bit_operations;
pub mod bits;
pub mod geo_shape;
pub mod geohash;
pub mod hyperloglog;
