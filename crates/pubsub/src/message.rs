//! A published message on its way from the publisher's thread to the receivers'.
//!
//! What receivers get is put together from two parts, of which the second is written once and shared by all:
//!
//! ```text
//! * or >   3 $7 message            $7 channel $5 hello        to subscribers of the channel
//! * or >   4 $8 pmessage $2 c*     $7 channel $5 hello        to subscribers of the pattern
//!          └─ head ──────────┘     └─ text ─────────┘         * in RESP2, > in RESP3
//! ```

use std::ops::Range;
use std::sync::Arc;

use damselfly_protocol::{Reply, Version};

use crate::index::Pattern;

/// What a message is counted with beside its text, in bytes.
const OVERHEAD_BYTES: usize = 128;

/// The two spaces of channels: the same name in both is two channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Channels of the whole cluster: PUBLISH.
    Cluster,
    /// Channels of one slot: SPUBLISH.
    Slot,
}

impl Scope {
    /// What stands in a message before the channel, without the first byte.
    pub fn head(self) -> &'static [u8] {
        match self {
            Self::Cluster => b"3\r\n$7\r\nmessage\r\n",
            Self::Slot => b"3\r\n$8\r\nsmessage\r\n",
        }
    }
}

/// A message for the receivers on one thread.
#[derive(Clone, Debug)]
pub struct PublishedMessage {
    /// Channel and payload as two bulk strings.
    pub text: Arc<[u8]>,
    channel: Range<usize>,
    /// The space of the channel.
    pub scope: Scope,
    /// The patterns that match the channel, if any does.
    pub(crate) patterns: Option<Arc<[Arc<Pattern>]>>,
    /// The id of a client that has the message already, or zero.
    pub skip_client: u64,
    /// Its payload was too much for what was on its way already: who should have received it is to be disconnected.
    pub is_dropped: bool,
}

impl PublishedMessage {
    /// A message; `buffer` is room to write in.
    pub fn new(
        buffer: &mut Vec<u8>,
        scope: Scope,
        channel: &[u8],
        payload: &[u8],
        skip_client: u64,
    ) -> Self {
        const BUFFER_KEPT: usize = 16 << 10;
        buffer.clear();
        let mut reply = Reply::new(buffer, Version::Resp2);
        reply.bulk(channel);
        let end = reply.position() - b"\r\n".len();
        reply.bulk(payload);
        let text = Arc::from(&buffer[..]);
        buffer.clear();
        buffer.shrink_to(BUFFER_KEPT);
        Self {
            text,
            channel: end - channel.len()..end,
            scope,
            patterns: None,
            skip_client,
            is_dropped: false,
        }
    }

    /// Where it was published.
    pub fn channel(&self) -> &[u8] {
        &self.text[self.channel.clone()]
    }

    /// What it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len() + OVERHEAD_BYTES
    }

    /// What tells the receivers that they have lost this message.
    pub fn as_drop_notice(&self, buffer: &mut Vec<u8>) -> Self {
        let patterns = self.patterns.clone();
        Self {
            patterns,
            is_dropped: true,
            ..Self::new(buffer, self.scope, self.channel(), b"", self.skip_client)
        }
    }

    /// True if `later` tells nobody of a loss to whom this does not.
    pub fn covers(&self, later: &Self) -> bool {
        self.is_dropped
            && later.is_dropped
            && self.scope == later.scope
            && self.skip_client == later.skip_client
            && self.channel() == later.channel()
            && self.patterns == later.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_two_bulk_strings_and_knows_its_channel() {
        let message = PublishedMessage::new(&mut Vec::new(), Scope::Cluster, b"a\r\nb", b"", 0);
        assert_eq!(&message.text[..], b"$4\r\na\r\nb\r\n$0\r\n\r\n");
        assert_eq!(message.channel(), b"a\r\nb");
        let notice = message.as_drop_notice(&mut Vec::new());
        assert!(notice.covers(&notice) && !message.covers(&notice));
    }
}
