//! Keyspace notifications: a client that receives all of a server's events.

use crate::connection::Connection;
use crate::text::render;
use damselfly_protocol::client::Value;
use std::io;
use std::net::SocketAddr;

/// All classes of `notify-keyspace-events` whose events commands can cause.
const ALL: &str = "KEAmn";

/// A client that is subscribed to all keyspace notifications.
pub struct EventListener {
    connection: Connection,
    asked: usize,
}

impl EventListener {
    /// Turns notifications on, and makes the server keep expired keys until they are accessed: otherwise events would depend on
    /// time.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses a setting.
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

    /// Returns the events since the last call, each as channel and payload. Consecutive `keymiss` events are sorted: SORT looks up the
    /// members of a set one by one, and their order is each server's own.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn drain(&mut self) -> io::Result<Vec<String>> {
        self.asked += 1;
        let token = format!("end of events {}", self.asked);
        self.connection
            .send(&crate::connection::request(&["PING", &token]))?;
        let mut events = Vec::new();
        loop {
            let Value::Array(words) = self.connection.receive()? else {
                return Err(io::Error::other("a reply that is not a message"));
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
