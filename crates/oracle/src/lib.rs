//! The oracle: checks that Damselfly replies as Redis does.
//!
//! It does so in four ways, with one set of tools:
//!
//! - **Random sequences** ([`sequence`]): commands drawn from a table ([`rows`]) are sent to a
//!   reference and a subject, and every reply is compared (`agreement.rs`). A sequence whose replies differ is made
//!   as short as possible ([`shrink`]) and printed as a transcript.
//! - **Transcripts** ([`transcript`]): text files of commands and replies. The expected replies are
//!   recorded from the real server, and ours must give the same.
//! - **Histories** ([`history`]): some order of the concurrent calls of many clients must explain all replies.
//! - **Live fuzzing** ([`live`]): many connections send random commands in random pieces. Replies must stay in step with
//!   requests, and nothing may leak.
//!
//! [`memcached`] has random sequences and transcripts for memcached's protocol, compared with a real memcached.
//!
//! [`server`] starts the programs, [`connection`] talks to them; the tests in `tests/` use both.
#![forbid(unsafe_code)]

mod agreement;
pub mod connection;
pub mod events;
pub mod grammar;
pub mod history;
pub mod live;
pub mod memcached;
pub mod newer;
pub mod random;
pub mod rows;
pub mod scripts;
pub mod sequence;
pub mod server;
pub mod shrink;
pub mod text;
pub mod transcript;
