//! Atomic sections: what a command may do with keys under the locks that it holds.

mod changes;
pub(crate) mod eviction;
pub(crate) mod expired_keys;
pub(crate) mod extras;
pub(crate) mod keyspace_walks;
pub(crate) mod tx;
pub(crate) mod undo;
