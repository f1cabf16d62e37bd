//! Starting and stopping the server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use damselfly_engine::{Engine, Rule, Wake};
use mio::{Poll, Waker};

use crate::event_loop::listener::Listener;
use crate::event_loop::{WAKER, Worker};
use crate::observers::invalidation::Teller;
use crate::observers::notifications::Events;
use crate::registry;
use crate::shared::{Shared, Thread};
use damselfly_config::Config;

/// Shards per thread: enough that two threads rarely meet.
const SHARDS_PER_THREAD: usize = 64;
const SHARDS_MAX: usize = 4096;

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
    pidfile: Option<PathBuf>,
}

impl Server {
    /// Opens the sockets and starts the threads.
    ///
    /// # Errors
    /// One line that says what failed and what to do.
    pub fn start(config: Config, config_file: Option<PathBuf>) -> Result<Self, String> {
        registry::rename(&config.rename_commands)?;
        let threads = match config.threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let shards = match config.shards {
            0 => (threads * SHARDS_PER_THREAD)
                .next_power_of_two()
                .min(SHARDS_MAX),
            shards => shards.next_power_of_two().min(SHARDS_MAX),
        };
        let listeners = Listener::open_all(&config)?;
        let pidfile = write_pidfile(&config.pidfile)?;
        let engine = Arc::new(Engine::new(Rule {
            shards,
            databases: config.databases as usize,
        }));
        let failed = |error: io::Error| format!("Can't set up the event loop: {error}");
        let mut polls = Vec::new();
        let mut handles = Vec::new();
        for _ in 0..threads {
            let poll = Poll::new().map_err(failed)?;
            handles.push(Thread::new(
                Waker::new(poll.registry(), WAKER).map_err(failed)?,
            ));
            polls.push(poll);
        }
        let shared = Arc::new(Shared::new(engine.clone(), handles, config, config_file));
        set_wakes(&shared);
        shared.engine.set_invalidate(Box::new(Teller::new(&shared)));
        engine.set_audience(Box::new(Events::new(&shared)));
        spawn("free", || damselfly_engine::garbage::free())?;
        let mut server = Self {
            shared,
            threads: Vec::new(),
            pidfile,
        };
        let mut listeners = Some(listeners);
        for (index, poll) in polls.into_iter().enumerate() {
            let own = listeners.take().unwrap_or_default();
            let worker = Worker::new(index, server.shared.clone(), poll, own).map_err(failed)?;
            server
                .threads
                .push(spawn(&format!("worker-{index}"), move || worker.run())?);
        }
        let mut long = Vec::new();
        for index in 0..server.shared.threads.len() {
            let shared = server.shared.clone();
            let thread = spawn(&format!("long-{index}"), move || {
                crate::long_commands::run(&shared, index);
            })?;
            long.push(thread.thread().clone());
            server.threads.push(thread);
        }
        server.shared.long.set_threads(long);
        server
            .shared
            .startup_bytes
            .store(server.shared.note_memory(), Relaxed);
        Ok(server)
    }

    /// What the server's threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until the server is told to stop, by a signal that sets `signalled` or by a client, and has
    /// stopped.
    pub fn wait(mut self, signalled: &AtomicBool) {
        const LOOK: Duration = Duration::from_millis(50);
        while !self.shared.stopping.load(Relaxed) {
            if signalled.load(Relaxed) {
                log::warn!("Received a signal to end, scheduling shutdown...");
                self.shared.stop();
            }
            thread::park_timeout(LOOK);
        }
        for worker in self.threads.drain(..) {
            if worker.join().is_err() {
                log::error!(
                    "A thread ended by a bug in Damselfly. Please report this with the lines above."
                );
            }
        }
        if let Some(path) = &self.pidfile {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, String> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| format!("Can't start the thread {name}: {error}"))
}

/// Lets the engine wake threads that wait for a shard.
fn set_wakes(shared: &Arc<Shared>) {
    let threads = shared.threads.len();
    // Behind the threads that serve connections come as many for long commands.
    let wakes = (0..2 * threads)
        .map(|index| {
            // Weak, since the engine is itself part of what is shared.
            let shared = Arc::downgrade(shared);
            Box::new(move || {
                if let Some(shared) = shared.upgrade() {
                    match index.checked_sub(threads) {
                        None => shared.threads[index].wake(),
                        Some(index) => shared.long.wake(index),
                    }
                }
            }) as Wake
        })
        .collect();
    shared.engine.set_wakes(wakes);
}

fn write_pidfile(path: &str) -> Result<Option<PathBuf>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    std::fs::write(path, format!("{}\n", std::process::id()))
        .map_err(|error| format!("Can't write the pidfile {path}: {error}"))?;
    Ok(Some(Path::new(path).to_owned()))
}
