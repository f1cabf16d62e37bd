//! The oracle: proves that Damselfly answers as Redis does.
//!
//! Four ways, one set of tools:
//!
//! - **Random sequences** ([`sequence`]): commands drawn from a table ([`rows`]) are sent to a
//!   reference and a subject, and every reply is compared (`agreement.rs`). A difference is made as short as
//!   possible ([`shrink`]) and printed as a transcript.
//! - **Transcripts** ([`transcript`]): text files of commands and replies. The expectations are
//!   recorded from the real server and then hold for ours.
//! - **Histories** ([`history`]): calls of many clients at once must have an order that explains them.
//! - **Live fuzzing** ([`live`]): many connections send anything in random pieces; replies stay in step, and nothing leaks.
//!
//! [`server`] starts the programs, [`connection`] talks to them; the tests in `tests/` use both.
#![forbid(unsafe_code)]

mod agreement;
pub mod connection;
pub mod events;
pub mod grammar;
pub mod history;
pub mod live;
pub mod random;
pub mod rows;
pub mod scripts;
pub mod sequence;
pub mod server;
pub mod shrink;
pub mod text;
pub mod transcript;
