//! Our server in this process, and its log.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use damselfly_config::{Allow, Config, SavePoints};
use damselfly_engine::Now;
use damselfly_log::{Batch, Targets};
use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{ScratchFolder, free_port};
use damselfly_server::log_thread::Consumer;
use damselfly_server::signals::Signals;

/// Collects the log.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    has_begun: bool,
}

impl Consumer for Collector {
    fn targets(&self) -> Targets {
        Targets::FILE
    }

    fn take(&mut self, batch: &Arc<Batch>, cut: u64) -> bool {
        let mut bytes = self.bytes.lock().unwrap();
        if !std::mem::replace(&mut self.has_begun, true) {
            bytes.extend(batch.beginning_at(cut));
        }
        for (_, more) in batch.after(cut, self.targets()) {
            bytes.extend_from_slice(more);
        }
        true
    }

    fn is_full(&self) -> bool {
        false
    }

    fn is_urgent(&self) -> bool {
        true
    }
}

/// Our server, and the log so far.
pub struct Subject {
    server: Option<damselfly_server::start::Server>,
    log: Arc<Mutex<Vec<u8>>>,
    port: u16,
    memcached_port: u16,
    _folder: ScratchFolder,
}

impl Subject {
    /// A server with that many threads.
    pub fn start(threads: usize) -> Self {
        let folder = ScratchFolder::create().unwrap();
        let (port, memcached_port) = (free_port().unwrap(), free_port().unwrap());
        let config = Config {
            port,
            memcached_port,
            threads,
            dir: folder.path().display().to_string(),
            save: SavePoints(Vec::new()),
            enable_debug_command: Allow::Yes,
            ..Config::default()
        };
        let server = damselfly_server::start::Server::start(config, None).unwrap();
        server.load(&Signals::default()).unwrap();
        let (shared, log) = (server.shared(), Arc::new(Mutex::new(Vec::new())));
        let collector = Collector {
            bytes: log.clone(),
            has_begun: false,
        };
        let tx = loop {
            // The sweep may have a lock.
            if let Ok(tx) = shared.engine.lock_all(0, Now(0)) {
                break tx;
            }
            std::thread::yield_now();
        };
        shared.log.attach(&tx, Box::new(collector));
        drop(tx);
        Self {
            server: Some(server),
            log,
            port,
            memcached_port,
            _folder: folder,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Where it listens for memcached's clients.
    pub fn memcached(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.memcached_port).into()
    }

    /// A new connection.
    pub fn connect(&self) -> Connection {
        Connection::open(self.address()).unwrap()
    }

    /// The log since the last call.
    pub fn take(&self) -> Vec<u8> {
        let shared = self.server.as_ref().unwrap().shared();
        let (appended, started) = (shared.engine.log.appended(), Instant::now());
        while shared.log.records.load(Relaxed) < appended {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "the merge stands still"
            );
            std::thread::yield_now();
        }
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shared().stop();
            server.wait(&Signals::default());
        }
    }
}
