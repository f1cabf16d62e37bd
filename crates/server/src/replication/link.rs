//! The link of a replica to its primary.

/// The link.
#[derive(Default)]
pub struct Link;
