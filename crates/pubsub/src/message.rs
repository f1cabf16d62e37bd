//! A published message, from the publisher's thread to the receivers' threads.
//!
//! Receivers get two parts, the second of which is written once and shared by all:
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

/// Counted for each message in addition to its text.
const OVERHEAD_BYTES: usize = 128;

/// The two namespaces of channels: a name that is in both stands for two channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Channels of the whole cluster: PUBLISH.
    Cluster,
    /// Channels of one slot: SPUBLISH.
    Slot,
}

impl Scope {
    /// The part of a message before the channel, without its first byte, which depends on the protocol.
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
    /// The namespace of the channel.
    pub scope: Scope,
    /// The patterns that match the channel, if there are any.
    pub(crate) patterns: Option<Arc<[Arc<Pattern>]>>,
    /// The id of a client that already has the message, or zero.
    pub skip_client: u64,
    /// The message itself was dropped, since too many bytes were in transit: the thread disconnects its receivers.
    pub is_dropped: bool,
}

impl PublishedMessage {
    /// Creates a message; `buffer` is scratch space.
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

    /// The channel that it was published to.
    pub fn channel(&self) -> &[u8] {
        &self.text[self.channel.clone()]
    }

    /// The bytes counted for it.
    pub fn bytes(&self) -> usize {
        self.text.len() + OVERHEAD_BYTES
    }

    /// The notice to its receivers' threads that it was dropped.
    pub fn as_drop_notice(&self, buffer: &mut Vec<u8>) -> Self {
        let patterns = self.patterns.clone();
        Self {
            patterns,
            is_dropped: true,
            ..Self::new(buffer, self.scope, self.channel(), b"", self.skip_client)
        }
    }

    /// True if both are notices and all receivers of `later` are receivers of this one.
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
    fn the_text_is_channel_and_payload_as_bulk_strings() {
        let message = PublishedMessage::new(&mut Vec::new(), Scope::Cluster, b"a\r\nb", b"", 0);
        assert_eq!(&message.text[..], b"$4\r\na\r\nb\r\n$0\r\n\r\n");
        assert_eq!(message.channel(), b"a\r\nb");
        let notice = message.as_drop_notice(&mut Vec::new());
        assert!(notice.covers(&notice) && !message.covers(&notice));
    }
}
