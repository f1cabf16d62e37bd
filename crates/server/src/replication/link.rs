//! The link of a replica to its primary.

use damselfly_config::Config;
use damselfly_protocol::Reply;

use crate::shared::Shared;

/// The link.
#[derive(Default)]
pub struct Link;

impl Link {
    /// True if the data is that of the primary.
    pub fn is_connected(&self) -> bool {
        false
    }

    /// The database that is selected in the stream.
    pub fn stream_db(&self) -> u16 {
        0
    }
}

/// ROLE of a replica.
pub fn role_reply(_: &Shared, _: &Config, reply: &mut Reply<'_>) {
    reply.array(0);
}

/// Makes this server a primary.
pub fn become_primary(_: &Shared) {}
