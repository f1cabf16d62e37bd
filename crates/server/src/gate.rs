//! The gate: reasons why the server as a whole refuses commands, in one word that every command checks.
//!
//! Each row of the registry has the reasons that concern it ([`Row::refused_while`](crate::registry::Row)). A command passes if none
//! of them holds at this moment; that is one load and one AND. `dispatch/refusal.rs` picks the error.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// A set of reasons to refuse a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons(u8);

impl Reasons {
    /// No reason.
    pub const NONE: Self = Self(0);
    /// A file is being loaded.
    pub const LOADING: Self = Self(1);
    /// The last save failed, and `stop-writes-on-bgsave-error` is set.
    pub const SAVING_FAILED: Self = Self(1 << 1);
    /// The append-only file can't be written.
    pub const LOG_FAILED: Self = Self(1 << 2);
    /// Fewer replicas keep up than `min-replicas-to-write` says.
    pub const TOO_FEW_REPLICAS: Self = Self(1 << 3);
    /// A replica is read-only.
    pub const READ_ONLY: Self = Self(1 << 4);
    /// A replica has no link to its primary, and `replica-serve-stale-data` is off.
    pub const STALE: Self = Self(1 << 5);
    /// The data of the primary is being loaded beside the old data, which can be used meanwhile.
    pub const ASYNC_LOADING: Self = Self(1 << 6);
    /// All reasons.
    pub const ALL: Self = Self(u8::MAX);

    /// True if there is no reason.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The reasons of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The reasons that are not in the other set.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The reasons that are in both sets.
    #[inline]
    #[must_use]
    pub const fn in_common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The reasons that hold now.
#[derive(Debug, Default)]
pub struct Gate(AtomicU8);

impl Gate {
    /// Refuses commands for these reasons from now on.
    pub fn close(&self, reasons: Reasons) {
        self.0.fetch_or(reasons.0, Relaxed);
    }

    /// Drops these reasons.
    pub fn open(&self, reasons: Reasons) {
        self.0.fetch_and(!reasons.0, Relaxed);
    }

    /// Those of `reasons` that hold now.
    #[inline]
    pub fn holding(&self, reasons: Reasons) -> Reasons {
        Reasons(self.0.load(Relaxed)).in_common(reasons)
    }

    /// True while a file is being loaded, even one beside the data that clients use.
    #[inline]
    pub fn is_loading_any(&self) -> bool {
        let loading = Reasons::LOADING.and(Reasons::ASYNC_LOADING);
        !self.holding(loading).is_empty()
    }

    /// True while a file is being loaded.
    #[inline]
    pub fn is_loading(&self) -> bool {
        !self.holding(Reasons::LOADING).is_empty()
    }
}
