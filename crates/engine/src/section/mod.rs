//! Atomic sections: what a command can do with keys under the locks that it holds.
//!
//! # How keys change
//!
//! Commands add, change and remove a key's entry through one funnel. It begins with [`Tx::place_in`], which first saves the entry
//! if the section may have to undo its changes, and ends in one of three functions of `place.rs`:
//!
//! - [`Present::update`](crate::Present::update) changes an entry, or puts another in its place,
//! - [`Present::remove`](crate::Present::remove) removes it,
//! - `Absent::insert` adds one.
//!
//! All functions of `changes.rs` use it, and so do eviction (`Tx::evict`) and undo (`Tx::undo`, whose restored entries must not
//! be saved again). One function enters the funnel without `place_in`: `Tx::present_in`, which saves, too, but lets nothing
//! expire; only `Tx::store_built` uses it, to remove the old key when the result is empty.
//!
//! The rest changes keys outside the funnel:
//!
//! - **Expired entries** are removed where they are found: by `Database::place` and `Database::find`, so by reading commands, too
//!   (`Present::expire`); by `Absent::insert` where the table would grow; and by the sweep (`Database::sweep_from`), which
//!   [`Engine::sweep`](crate::Engine::sweep) and [`Tx::count`] run. Each is reported to `Expirer::entry_expired`, after it was
//!   removed.
//! - **Expired fields** of hashes are removed with `Present::update`, but not after `place_in`: by `Database::place` and
//!   `Database::find` (`Present::without_expired_fields`), and by the sweep (`Database::sweep_fields`). Each time is reported to
//!   `Expirer::fields_expired`.
//! - **Whole databases** are emptied by [`Tx::flush`] and exchanged by [`Tx::swap_databases`], under all locks. No other code uses
//!   `Tx::databases_mut` to change keys.
//!
//! Neither expiry nor these two are saved for undo. The access bits of an entry change in place, through a shared reference
//! (`Usage::note`, and `Tx::store_built`, which keeps those of the old entry); SCAN positions, growth and shrinking of a table
//! move entries without changing them.
//!
//! Observers learn of a change after it was made: commands report it with [`Tx::changed`] or `Tx::note_change`, which count it,
//! too; expiry through `Expirer`; eviction, flush and swap by themselves. Undo notifies nobody, since the changes that it reverts
//! were not announced yet.

mod changes;
pub(crate) mod engine;
pub(crate) mod eviction;
pub(crate) mod expired_keys;
pub(crate) mod extras;
pub mod garbage;
pub(crate) mod held_locks;
mod key_tracking;
pub(crate) mod keyspace_walks;
mod pending_events;
pub(crate) mod place;
pub(crate) mod serve_waiters;
pub(crate) mod tx;
mod undo;
mod watch_keys;
pub(crate) mod whole_databases;
