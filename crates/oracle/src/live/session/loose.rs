//! Requests of connections whose replies are not matched: in any order and state, those of replicas, and bytes that are no requests.

use super::{Expect, Request, Session};
use crate::live::commands::words;

impl Session<'_> {
    /// Any request, without tracking its replies: for connections whose replies are not matched.
    pub fn anything(&mut self) -> Request {
        let mut request = match self.random.below(40) {
            0..24 => self.plain(),
            24 => self.waiting(),
            25 => {
                let arguments = self.commands.waiting_forever(&mut self.random);
                self.request(&arguments, Expect::One)
            }
            26 => self.acts_upon_others(),
            27 => self.mistake(),
            28 => self.inline(),
            29 => self.subscribe(),
            30 => self.unsubscribe(),
            31 => self.replication(),
            _ => {
                let steered: &[&[&str]] = &[
                    &["MULTI"],
                    &["MULTI"],
                    &["EXEC"],
                    &["EXEC"],
                    &["DISCARD"],
                    &["RESET"],
                    &["QUIT"],
                    &["HELLO", "2"],
                    &["HELLO", "3"],
                    &["CLIENT", "REPLY", "OFF"],
                    &["CLIENT", "REPLY", "SKIP"],
                    &["CLIENT", "REPLY", "ON"],
                    &["MONITOR"],
                ];
                let weight = if self.random.one_in(3) {
                    steered.len()
                } else {
                    4
                };
                let arguments = steered[self.random.below(weight)];
                self.request(&words(arguments), Expect::One)
            }
        };
        request.waits = true;
        request
    }

    /// A command of a replica or about replicas. Most have no reply, or more than a reply.
    fn replication(&mut self) -> Request {
        const OF_REPLICAS: &[&[&str]] = &[
            &["SYNC"],
            &["PSYNC", "?", "-1"],
            &["PSYNC", "0123456789abcdef0123456789abcdef01234567", "1"],
            &["REPLCONF", "LISTENING-PORT", "1"],
            &["REPLCONF", "CAPA", "eof", "CAPA", "psync2"],
            &["REPLCONF", "RDB-ONLY", "1"],
            &["REPLCONF", "ACK", "100"],
            &["REPLCONF", "GETACK", "*"],
        ];
        /// These close the connections of replicas, and make the server refuse writes for a time.
        const OF_ROLES: &[&[&str]] = &[
            &["REPLICAOF", "127.0.0.1", "1"],
            &["SLAVEOF", "nosuch.invalid", "6379"],
            &["FAILOVER", "TIMEOUT", "20"],
            &["FAILOVER", "ABORT"],
        ];
        let commands = match self.conditions.closes && self.random.one_in(4) {
            true => OF_ROLES,
            false => OF_REPLICAS,
        };
        let arguments = *self.random.pick(commands);
        self.request(&words(arguments), Expect::One)
    }

    /// Bytes that are not a valid request, after which the server may close the connection.
    pub fn garbage(&mut self) -> Vec<u8> {
        let fixed: &[&[u8]] = &[
            b"*1\r\n$-5\r\n",
            b"*99999999999\r\n",
            b"*3\r\n:1\r\n",
            b"*2\r\n$3\r\nGET\r\n$999999999999\r\n",
            b"GET \"unbalanced\r\n",
            b"*-7\r\n$4\r\nPING\r\n",
            b"$4\r\nPING\r\n",
            b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
        ];
        match self.random.below(3) {
            0 => self.random.pick(fixed).to_vec(),
            1 => {
                let count = 1 + self.random.below(300);
                let bytes = (0..count).map(|_| self.random.bits().to_le_bytes()[0]);
                bytes.collect()
            }
            _ => {
                let mut bytes = self.plain().bytes;
                let at = self.random.below(bytes.len());
                bytes[at] ^= 1 << self.random.below(8);
                bytes
            }
        }
    }
}
