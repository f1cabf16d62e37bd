//! Atomic sections: what a command can do with keys under the locks that it holds.
//!
//! # How keys change
//!
//! Commands add, change and remove a key's entry through one funnel. It begins with `Tx::place_in`, which first saves the entry
//! if the section may have to undo its changes, and ends in one of three functions of `place.rs`:
//!
//! - `Present::update` changes an entry, or puts another in its place,
//! - `Present::remove` removes it,
//! - `Absent::insert` adds one.
//!
//! All functions of `changes.rs` use it, and so do commands that call `Tx::place` or `Tx::access_place_in` themselves, eviction
//! (`Tx::evict`), loading files (`bulk_load.rs`), and undo (`Tx::undo`, which ends the undo log first, so that restoring saves nothing). One function enters the
//! funnel without `place_in`: `Tx::present_in`, which saves, too, but lets nothing expire; only `Tx::store_built` uses it, to
//! remove the old key when the result is empty.
//!
//! Keys change outside the funnel in three ways:
//!
//! - **Expired entries** are removed where they are found: by `Database::place` and `Database::find`, so by reading commands, too
//!   (`Present::expire`); by `Absent::insert` where the table would grow; and by the sweep (`Database::sweep_from`), which
//!   `Engine::sweep` and `Tx::count` run. Each is reported to `Expirer::entry_expired`, after it was removed.
//! - **Expired fields** of hashes are removed with `Present::update`, but not by a command: by `Database::place` and
//!   `Database::find` (`Present::without_expired_fields`), and by the sweep (`Database::sweep_fields`). Each removal is reported to
//!   `Expirer::fields_expired`, afterwards.
//! - **Whole databases** are emptied by `Tx::flush` and swapped by `Tx::swap_databases`, under all locks. No other code uses
//!   `Tx::databases_mut` to change keys.
//!
//! None of the three is undone. The access bits of an entry also change outside the funnel, through a shared reference
//! (`Usage::note`); that does not count as a change. A table that grows or shrinks moves entries without changing them, and so does
//! `Engine::move_entries` (`moving.rs`).
//!
//! Observers learn of a change after it was made: commands report it with `Tx::changed` or `Tx::note_change`, which count it,
//! too; expiry through `Expirer`; eviction, flush and swap by themselves. Undo notifies nobody, since the changes that it reverts
//! were not announced yet.

pub(crate) mod bulk_load;
mod changes;
pub(crate) mod engine;
pub(crate) mod eviction;
pub(crate) mod expired_keys;
pub(crate) mod extras;
pub mod garbage;
pub(crate) mod held_locks;
mod items;
mod key_tracking;
pub(crate) mod keyspace_walks;
pub(crate) mod learned_eviction;
mod local_deadlines;
pub(crate) mod log_effects;
pub(crate) mod moving;
mod pending_events;
pub(crate) mod place;
pub(crate) mod serve_waiters;
pub(crate) mod snapshot;
pub(crate) mod tx;
mod undo;
mod use_of_keys;
mod watch_keys;
pub(crate) mod whole_databases;
