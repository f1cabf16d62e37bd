//! Clients that observe the commands of others: subscribers, clients that track keys (client-side caching), and monitors.
//!
//! Changes to keys reach their observers at one place in the engine: each change passes `Tx::note_change`, which records it in the
//! section if its shard is observed, and the end of the section (`Tx::finish_with_extras`) announces the recorded changes. The
//! engine has a trait for each kind of observer, and the server implements them:
//!
//! ```text
//!   when                              the engine calls                          the server, for whom
//!   at the change                     Watcher::key_changed                      session/transaction.rs  WATCH
//!   after the section's commands      Waiter::serve                             blocked.rs              BLPOP
//!   before the locks are released     EventSink::publish                        notifications.rs        subscribers
//!                                     InvalidationSink::invalidate              invalidation.rs         CLIENT TRACKING
//!                                     Waiter::queue_message                     blocked.rs              BLPOP
//!   after the locks are released      InvalidationSink::wake, Waiter::wake      the same
//! ```
//!
//! - An observer that must see every change, in the order of the changes, is called before the release, in `Tx::announce`. A log of
//!   changes belongs there. Such a call only queues: it must be quick and lock no shard.
//! - A script that may still be rolled back announces nothing before its changes are certain to stay (`engine/undo.rs`).
//! - While no key of a shard is observed, a change pays for all of this with one look at one word.
//!
//! MONITOR is not part of this: the dispatcher shows commands, not changes ([`monitor`]).

pub mod client_tracking;
pub mod invalidation;
pub mod monitor;
pub mod notifications;
pub mod subscriptions;
