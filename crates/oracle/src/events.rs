//! Keyspace notifications of a server: what a client hears that has subscribed to all of them.

use crate::connection::Connection;
use crate::text::render;
use damselfly_protocol::client::Value;
use std::io;
use std::net::SocketAddr;

/// All letters of the option that commands can cause events of.
const ALL: &str = "KEAmn";

/// A client that hears all keyspace notifications.
pub struct Ear {
    connection: Connection,
    asked: usize,
}

impl Ear {
    /// Turns notifications on, and makes the server leave keys in place whose end has come until somebody looks at them: else
    /// events would depend on the time.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let mut connection = Connection::open(address)?;
        let mut set = |words: &[&str]| match connection.call(words)? {
            Value::Error(text) => Err(io::Error::other(String::from_utf8_lossy(&text))),
            _ => Ok(()),
        };
        set(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"])?;
        set(&["CONFIG", "SET", "notify-keyspace-events", ALL])?;
        set(&["PSUBSCRIBE", "__key*@*__:*"])?;
        Ok(Self {
            connection,
            asked: 0,
        })
    }

    /// The events since the last call, each as channel and payload. Misses in a row come in an order that does not depend on
    /// that of a set's members, which SORT looks up one by one.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn hear(&mut self) -> io::Result<Vec<String>> {
        self.asked += 1;
        let token = format!("heard all {}", self.asked);
        self.connection
            .send(&crate::connection::request(&["PING", &token]))?;
        let mut events = Vec::new();
        loop {
            let Value::Array(words) = self.connection.receive()? else {
                return Err(io::Error::other("no message"));
            };
            if words.last() == Some(&Value::Bulk(token.clone().into_bytes())) {
                let is_miss = |event: &String| event.contains("keymiss");
                for run in events.chunk_by_mut(|a, b| is_miss(a) && is_miss(b)) {
                    run.sort();
                }
                return Ok(events);
            }
            let words: Vec<String> = words.iter().skip(2).map(render).collect();
            events.push(words.join(" "));
        }
    }
}
