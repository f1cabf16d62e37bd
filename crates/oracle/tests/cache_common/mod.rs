//! Shared by the tests of eviction: a server with little memory.
#![allow(dead_code, reason = "each test uses a part")]

use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Kind, Program, Server};

use crate::memory_common::text;

pub const KIB: usize = 1024;
pub const VALUE_BYTES: usize = KIB;
/// Memory that a server may need besides its data during a test.
pub const SLACK_BYTES: usize = 256 * KIB;

/// A server with little memory, and a connection to it.
pub struct Cache {
    pub server: Server,
    pub connection: Connection,
    pub limit: usize,
}

impl Cache {
    pub fn new(policy: &str, kib: usize) -> Self {
        Self::with(&["--maxmemory-policy", policy], kib)
    }

    pub fn with(options: &[&str], kib: usize) -> Self {
        let mut cache = Self::start(options);
        cache.limit_to(kib);
        cache
    }

    /// With this limit from the start.
    pub fn with_limit(options: &[&str], bytes: usize) -> Self {
        let maxmemory = bytes.to_string();
        let mut cache = Self::start(&[options, &["--maxmemory", &maxmemory]].concat());
        cache.limit = bytes;
        cache
    }

    fn start(options: &[&str]) -> Self {
        let program = Program::subject();
        let mut arguments = Vec::new();
        if program.kind() == Kind::Damselfly {
            arguments.extend(["--threads", "2"]);
        }
        arguments.extend(options);
        let server = Server::start(&program, &arguments).unwrap();
        let connection = server.connect();
        Self {
            server,
            connection,
            limit: 0,
        }
    }

    /// Sets the limit to `kib` above the current memory use.
    pub fn limit_to(&mut self, kib: usize) {
        self.limit = self.info("used_memory") + kib * KIB;
        let limit = self.limit.to_string();
        assert_eq!(self.run(&["CONFIG", "SET", "maxmemory", &limit]), "OK");
    }

    /// Stops evictions, so that even the commands that ask for counts cause none.
    pub fn end_limit(&mut self) {
        assert_eq!(self.run(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    }

    pub fn run(&mut self, arguments: &[&str]) -> String {
        let reply = self.connection.call(arguments);
        text(&reply.unwrap_or_else(|error| panic!("{error}\n{}", self.server.log())))
    }

    pub fn number(&mut self, arguments: &[&str]) -> usize {
        let text = self.run(arguments);
        text.parse()
            .unwrap_or_else(|_| panic!("{arguments:?}: {text}"))
    }

    /// A numeric field of INFO.
    pub fn info(&mut self, field: &str) -> usize {
        let info = self.run(&["INFO", "everything"]);
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == field).unwrap();
        value.parse().unwrap()
    }

    /// Sets keys to values of [`VALUE_BYTES`], with a TTL if there is one; returns the replies that are not OK.
    pub fn fill(
        &mut self,
        names: impl Iterator<Item = String>,
        deadline_s: Option<u32>,
    ) -> Vec<String> {
        let value = "x".repeat(VALUE_BYTES);
        let deadline = deadline_s.map(|seconds| seconds.to_string());
        let mut refusals = Vec::new();
        for name in names {
            let mut arguments = vec!["SET", &name, &value];
            if let Some(deadline) = &deadline {
                arguments.extend(["EX", deadline]);
            }
            refusals.extend(Some(self.run(&arguments)).filter(|reply| reply != "OK"));
        }
        refusals
    }

    /// How many of the `count` keys with this prefix exist.
    pub fn left(&mut self, prefix: &str, count: usize) -> usize {
        let names: Vec<String> = numbered(prefix, count).collect();
        let mut arguments = vec!["EXISTS"];
        arguments.extend(names.iter().map(String::as_str));
        self.number(&arguments)
    }
}

pub fn numbered(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{prefix}{number}"))
}
