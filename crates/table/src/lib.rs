//! The hash table everything stands on: eight bytes a slot, one cache line a bucket, one allocation an item.
//!
//! ```text
//! hash   | prefix (chose the shard) | directory bits | tag: 16 bits | ...     from the highest bit down
//!                                        |                |
//! directory ─► segment: 1..112 buckets ──┘                |
//!                bucket = tag * buckets >> 16  ◄──────────┘
//!                bucket = 8 slots of 48-bit pointer + tag + mark ─► item
//! ```
//!
//! A lookup reads a directory entry, the bucket's cache line and the item. A bucket that is full overflows into the
//! next ones of its segment, and a lookup walks on until it sees a bucket with room.
//!
//! A segment grows in place, in small steps, by its slots alone: the tag tells the bucket. At the largest step it
//! splits in two, and only then its items are read, since each tag moves on by one bit. So the table grows a segment
//! at a time, without a pause and never with two tables; it shrinks and merges segments the same way.
//!
//! # Invariants
//!
//! - An item lives k buckets after its home bucket (wrapping around in the segment) only if the k buckets from its
//!   home on are full.
//! - Every segment with buckets has at least one empty slot, so every walk over its buckets ends.
//! - The occupied slots of a bucket come first.
//! - Buckets, segments and the directory are in hash order, so a position in hash order (see [`Table::position`])
//!   means the same before and after any growth: that is the cursor of a scan.
//!
//! # Where things are
//!
//! - `item.rs`: what the table asks of an item. `slot.rs`: the only code that touches items. `directory.rs`: the only
//!   code that touches raw bucket memory. These three (and `prefetch.rs`) hold all `unsafe`.
//! - `segment.rs`: placing, removing and sizing within one segment.
//! - `table.rs`: the table. `entry.rs`: find once, then change. `walk.rs`: scans, sweeps, random picks.
//!   `check.rs`: the invariants, for tests.

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
