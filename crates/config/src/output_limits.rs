//! `client-output-buffer-limit`: how much output a client may leave unread.

use super::kind::{self, OptionError};

/// When a client is disconnected because of unread replies. 0 bytes mean no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimit {
    /// Above this many bytes, it is disconnected at once.
    pub hard_bytes: u64,
    /// Above this many bytes, it is disconnected after `soft_s`.
    pub soft_bytes: u64,
    /// How many seconds it may stay above `soft_bytes`.
    pub soft_s: u64,
}

/// `client-output-buffer-limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimits {
    /// Ordinary clients.
    pub normal: OutputLimit,
    /// Replicas.
    pub replica: OutputLimit,
    /// Clients that subscribe to channels, and MONITOR clients.
    pub pubsub: OutputLimit,
}

impl Default for OutputLimits {
    fn default() -> Self {
        let limit = |hard_mib: u64, soft_mib: u64, soft_s| OutputLimit {
            hard_bytes: hard_mib << 20,
            soft_bytes: soft_mib << 20,
            soft_s,
        };
        Self {
            normal: limit(0, 0, 0),
            replica: limit(256, 64, 60),
            pubsub: limit(32, 8, 60),
        }
    }
}

impl OutputLimits {
    pub(crate) fn show(&self) -> String {
        // CONFIG GET of Redis 7 replies "slave", which clients parse.
        [
            ("normal", self.normal),
            ("slave", self.replica),
            ("pubsub", self.pubsub),
        ]
        .map(|(class, l)| format!("{class} {} {} {}", l.hard_bytes, l.soft_bytes, l.soft_s))
        .join(" ")
    }

    /// Sets the limits of the classes named in `words`. On an error nothing is changed.
    pub(crate) fn update(&mut self, words: &[String]) -> Result<(), OptionError> {
        let (groups, []) = words.as_chunks::<4>() else {
            return Err(OptionError::new(
                "Wrong number of arguments in buffer limit configuration.",
            ));
        };
        let mut limits = *self;
        for [class, hard, soft, seconds] in groups {
            let limit = match class.to_ascii_lowercase().as_str() {
                "normal" => &mut limits.normal,
                "replica" | "slave" => &mut limits.replica,
                "pubsub" => &mut limits.pubsub,
                _ => {
                    return Err(OptionError::new(
                        "Invalid client class specified in buffer limit configuration.",
                    ));
                }
            };
            let (Some(hard_bytes), Some(soft_bytes), Ok(soft_s)) = (
                kind::memory(hard),
                kind::memory(soft),
                seconds.parse::<u32>(),
            ) else {
                return Err(OptionError::new(
                    "Error in hard, soft or soft_seconds setting in buffer limit configuration.",
                ));
            };
            *limit = OutputLimit {
                hard_bytes,
                soft_bytes,
                soft_s: soft_s.into(),
            };
        }
        *self = limits;
        Ok(())
    }
}
