//! The building blocks of collections: packed forms, each one contiguous run of bytes, and large forms.
//!
//! | type       | packed             | large                              |
//! |------------|--------------------|------------------------------------|
//! | list       | `listpack`         | `chain`: a chain of listpacks      |
//! | set        | `intset`, `listpack` | `members`: a table               |
//! | hash       | `pairs`: a listpack  | `fields`: a table                 |
//! | sorted set | `packed_ranking`: a listpack | `ranking`: a table and a B+ tree |
//! | stream     |                    | `stream`: nodes of packed entries  |
//!
//! Nothing here knows about keys, clocks or commands; the crate `value` chooses between the forms.

mod buffer;
pub mod chain;
mod element;
mod fields;
pub mod intset;
pub mod listpack;
mod members;
pub mod packed_ranking;
pub mod pairs;
mod ranking;
mod scored;
pub mod stream;
mod tree;

pub use buffer::Buffer;
pub use chain::Chain;
pub use element::{Element, Needle};
pub use fields::{FieldRef, Fields};
pub use members::Members;
pub use packed_ranking::{PackedRanking, PackedScoredMembers, ScoredMember};
pub use ranking::{Members as RankingMembers, Ranking};
pub use scored::ScoredRef;
pub use stream::{Stream, StreamEntry, StreamId};

/// An end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The head, where index 0 is.
    Left,
    /// The tail.
    Right,
}
