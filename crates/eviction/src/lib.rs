//! Which entry of a cache is needed least: a rank that is learned while the cache runs, so that nobody has to choose a policy.
//!
//! ```text
//!                  24 bits per entry             one model for all shards
//!  use of a key ──► History ──(class, age)──► hits[class][age] ──────┐
//!  key evicted ───► Ghosts                                           │
//!                     │  └─ a few, now and then ─► presence[class][age] ┴─ learn ─► rank[class][age]
//!                     │     and the candidates                                          │
//!                     └── used again: the key gets its history back                     ▼
//!                         (3 bytes each, two for three entries)   evict the first neighbour below a threshold
//! ```
//!
//! The rank is a Gittins index (J. C. Gittins, "Bandit processes and dynamic allocation indices", J. R. Stat. Soc. B 41(2), 1979):
//! the highest rate of hits that an entry can achieve from its present age on, over all times at which one may give up on it. How likely a use is at each age is
//! estimated per class of entries: hits divided by the time that entries spend at that age (the occurrence-exposure rate of
//! life tables). That time is estimated from the entries that evictions come across, and from a few ghosts.
//! Beckmann, Chen and Cidon, "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI 2018, learn a similar rank; it looks only at
//! the whole remaining life of an entry.
//!
//! The newest entry is the first candidate of the next eviction, so one that is worth less than what it displaces (a huge value, or one of a scan) goes at
//! once: that is how the cache refuses admission.
//!
//! Ages are counted in ticks. A shard's clock ticks 64 times while it serves as many uses as it has entries, so ages
//! are relative to the size of the cache, and 14 bits are enough for 256 times that size.
//!
//! This crate does no I/O, reads no clock and takes no lock. A [`ShardState`] belongs to a shard and is used under its lock; the [`Model`] consists of atomic
//! counters that all shards share.

mod choice;
mod clock;
mod ghosts;
mod history;
mod model;
mod pace;
mod shard;

pub use choice::{CANDIDATES, CANDIDATES_MAX, Search};
pub use clock::{TICKS_PER_SIZE, Tick};
pub use history::History;
pub use model::{Candidate, Model, ModelView, UsageSeen};
pub use shard::{ShardState, Use};
