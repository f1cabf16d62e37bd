//! The hash table that holds all data: eight bytes per slot, one cache line per bucket, one allocation per item.
//!
//! ```text
//! hash   | prefix (chose the shard) | directory bits | tag: 16 bits | ...     from the highest bit down
//!                                        |                |
//! directory ─► segment: 1..112 buckets ──┘                |
//!                bucket = tag * buckets >> 16  ◄──────────┘
//!                bucket = 8 slots of 48-bit pointer + tag + mark ─► item
//! ```
//!
//! A lookup reads a directory entry, the bucket's cache line and the item. A full bucket overflows into the next ones
//! of its segment, and a lookup continues there until it reaches a bucket that has not overflowed.
//!
//! A segment grows in place, in small steps, without reading its items: the tag determines the bucket. A segment of
//! the largest size splits in two; only then are its items read, since each tag advances by one bit of the hash. So
//! the table grows one segment at a time, without a pause and without a second table; it shrinks and merges segments
//! the same way.
//!
//! # Invariants
//!
//! - An item is k buckets after its home bucket (wrapping around in the segment) only if the k buckets from its home
//!   bucket on are full.
//! - Every segment with buckets has at least one empty slot, so every walk over its buckets ends.
//! - The occupied slots of a bucket come first.
//! - Buckets, segments and the directory are in hash order, so a position in hash order (see [`Table::position`])
//!   keeps its meaning however the table grows. Scans use it as their cursor.
//!
//! # Files
//!
//! - `item.rs`: what the table requires of an item. `slot.rs`: the only code that accesses items. `directory.rs`: the
//!   only code that accesses raw bucket memory. These three (and `prefetch.rs`) contain all `unsafe`.
//! - `segment.rs`: placing, removing and sizing within one segment.
//! - `table.rs`: the table. `entry.rs`: one lookup, then a change in place. `walk.rs`: scans, sweeps, random picks.
//!   `check.rs`: checks the invariants, for tests.

mod check;
mod directory;
mod entry;
mod item;
mod prefetch;
mod segment;
mod slot;
mod table;
mod walk;

pub use entry::{Entry, Occupied, Vacant};
pub use item::Item;
pub use prefetch::prefetch;
pub use table::{Fill, Table};
pub use walk::POSITION_BITS;
