//! Starting and stopping the server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use damselfly_engine::{Engine, Layout, Wake};
use mio::{Poll, Waker};

use crate::event_loop::acceptor::{self, Acceptor};
use crate::event_loop::handshakes::{self, Handshaker};
use crate::event_loop::listener::Listener;
use crate::event_loop::{WAKER, Worker};
use crate::gate::Reasons;
use crate::observers::invalidation::Invalidator;
use crate::observers::notifications::Events;
use crate::persistence::shutdown::{NotStopped, Shutdown};
use crate::persistence::{self, save_file};
use crate::registry;
use crate::replication;
use crate::resident_memory;
use crate::shared::{Shared, note_missing_limit};
use crate::signals::{Signal, Signals};
use crate::threads::Thread;
use crate::tls;
use crate::users::Users;
use damselfly_config::{Config, Supervised};

/// Shards per thread: enough that two threads rarely need the same one.
const SHARDS_PER_THREAD: usize = 64;
const SHARDS_MAX: usize = 4096;

/// The most threads that encode snapshots: one file takes no more than a few can encode.
const SAVE_THREADS_MAX: usize = 8;

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Those for long commands.
    long_threads: Vec<thread::JoinHandle<()>>,
    /// Ends after all others, which append to the log.
    log_thread: Option<thread::JoinHandle<()>>,
    /// Ends after the log.
    aof_thread: Option<thread::JoinHandle<()>>,
    pidfile: Option<PidFile>,
}

/// A file that holds the process id. It is removed when this is dropped.
struct PidFile(PathBuf);

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Server {
    /// Opens the sockets and starts the threads. If there is a snapshot, clients can't use keys before [`Server::load`] has loaded it.
    ///
    /// # Errors
    /// One line that says what failed and what the user can do.
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
        let encryption =
            tls::load(&config).map_err(|why| format!("Failed to configure TLS: {why}"))?;
        let users = Users::new(&config)?;
        let listeners = Listener::open_all(&config)?;
        let pidfile = write_pidfile(&config);
        save_file::remove_leftovers(Path::new(&config.dir));
        save_file::remove_leftovers(&persistence::aof::folder(&config));
        let has_data = config.appendonly || persistence::start::has_snapshot(&config);
        let engine = Arc::new(Engine::new(Layout {
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
        let shared = Arc::new(Shared::new(
            engine.clone(),
            handles,
            config,
            config_file,
            users,
        ));
        note_missing_limit(&shared.config());
        if has_data {
            // Before any client can connect.
            shared.gate.close(Reasons::LOADING);
        }
        let accepting = Poll::new().map_err(failed)?;
        let acceptor = Acceptor::new(&accepting, listeners).map_err(failed)?;
        assert!(
            shared.acceptor.set(acceptor).is_ok(),
            "the acceptor is set once"
        );
        shared.tls.install(encryption);
        replication::link::start(&shared);
        set_wakes(&shared);
        shared
            .engine
            .set_invalidation_sink(Box::new(Invalidator::new(&shared)));
        engine.set_event_sink(Box::new(Events::new(&shared)));
        spawn("free", || damselfly_engine::garbage::free())?;
        let mut server = Self {
            shared,
            threads: Vec::new(),
            long_threads: Vec::new(),
            log_thread: None,
            aof_thread: None,
            pidfile,
        };
        for (index, poll) in polls.into_iter().enumerate() {
            let worker = Worker::new(index, server.shared.clone(), poll);
            server
                .threads
                .push(spawn(&format!("worker-{index}"), move || worker.run())?);
        }
        for index in 0..server.shared.threads.len() {
            let shared = server.shared.clone();
            let thread = spawn(&format!("long-{index}"), move || {
                crate::long_commands::run(&shared, index);
            })?;
            server.long_threads.push(thread);
        }
        let long = server.long_threads.iter();
        let long = long.map(|handle| handle.thread().clone()).collect();
        server.shared.long.set_threads(long);
        for index in 0..server
            .shared
            .threads
            .len()
            .div_ceil(2)
            .min(SAVE_THREADS_MAX)
        {
            let shared = server.shared.clone();
            server
                .threads
                .push(spawn(&format!("save-{index}"), move || {
                    save_file::run(&shared, index);
                })?);
        }
        server.start_handshakers()?;
        let shared = server.shared.clone();
        server
            .threads
            .push(spawn("replica", move || replication::link::run(&shared))?);
        let shared = server.shared.clone();
        server.log_thread = Some(spawn("log", move || shared.log.run(&shared.engine))?);
        let shared = server.shared.clone();
        server.aof_thread = Some(spawn("aof", move || persistence::aof::run(&shared))?);
        let shared = server.shared.clone();
        server.threads.push(spawn("acceptor", move || {
            acceptor::run(&shared, accepting)
        })?);
        server
            .shared
            .startup_bytes
            .store(server.shared.note_memory(), Relaxed);
        let shared = Arc::downgrade(&server.shared);
        spawn("memory", move || resident_memory::watch(&shared))?;
        Ok(server)
    }

    /// Starts the threads for TLS handshakes. They sleep until there are some.
    fn start_handshakers(&mut self) -> Result<(), String> {
        let count = handshakes::thread_count(self.shared.threads.len());
        let failed = |error: io::Error| format!("Can't set up the event loop: {error}");
        let (mut handshakers, mut polls) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let poll = Poll::new().map_err(failed)?;
            handshakers.push(Handshaker::new(&poll).map_err(failed)?);
            polls.push(poll);
        }
        assert!(
            self.shared.tls.handshakers.set(handshakers).is_ok(),
            "the handshakers are set once"
        );
        for (index, poll) in polls.into_iter().enumerate() {
            let shared = self.shared.clone();
            let run = move || handshakes::run(&shared, index, poll);
            self.threads.push(spawn(&format!("tls-{index}"), run)?);
        }
        Ok(())
    }

    /// The state that the server's threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Loads the snapshot, if there is one. A signal or a client may stop the server meanwhile; [`Server::is_stopping`] is then true.
    ///
    /// # Errors
    /// The snapshot can't be loaded: one line that says why and what the user can do. The server must then be stopped.
    pub fn load(&self, signals: &Signals) -> Result<(), String> {
        if !self.shared.gate.is_loading() {
            return Ok(());
        }
        let stop = || self.is_stopping() || signals.ending().is_some();
        let loaded = match self.shared.config().appendonly {
            true => persistence::aof::load::start(&self.shared, &stop).map(|is_done| {
                if is_done {
                    self.shared.gate.open(Reasons::LOADING);
                }
            }),
            false => persistence::start::load_into(&self.shared, &stop).map(|()| {
                if !stop() {
                    replication::link::continue_history(&self.shared);
                    self.shared.gate.open(Reasons::LOADING);
                }
            }),
        };
        if let Some(signal) = signals.ending() {
            log::warn!("Received {signal} during loading, exiting now.");
            self.shared.stop();
        }
        loaded
    }

    /// True if the server shall stop.
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Relaxed)
    }

    /// Waits for a signal or a client to stop the server.
    pub fn wait_for_stop(&self, signals: &Signals) {
        const POLL_INTERVAL: Duration = Duration::from_millis(50);
        while !self.shared.stopping.load(Relaxed) {
            if let Some(signal) = signals.ending() {
                log::warn!(
                    "Received {signal}, shutting down. A second signal ends the process at once."
                );
                if self.end(signal) {
                    return;
                }
                signals.forget();
            }
            if signals.take_hangup() {
                self.shared.tls.reload(&self.shared.config());
            }
            thread::park_timeout(POLL_INTERVAL);
        }
    }

    /// Saves if that is configured, and makes the server stop. False if it can't save, so that it goes on.
    fn end(&self, signal: Signal) -> bool {
        const RETRY_INTERVAL: Duration = Duration::from_millis(1);
        const EXPECTED_MAX: Duration = Duration::from_secs(1);
        let config = self.shared.config();
        let shutdown = Shutdown {
            flags: match signal {
                Signal::Interrupt => config.shutdown_on_sigint,
                Signal::Terminate => config.shutdown_on_sigterm,
            },
            waits_for_scripts: true,
        };
        let (started, mut is_late) = (Instant::now(), false);
        loop {
            match shutdown.run(&self.shared) {
                Ok(Ok(())) => return true,
                Ok(Err(NotStopped::Aborted)) => return false,
                Ok(Err(NotStopped::NotSaved | NotStopped::Script(_))) => {
                    log::error!(
                        "Error trying to save the DB, can't exit. Free space or mend the folder and send the signal again, or use SHUTDOWN NOSAVE to stop without saving the data."
                    );
                    return false;
                }
                Err(_) if self.shared.stopping.load(Relaxed) => return true,
                Err(_) => thread::sleep(RETRY_INTERVAL),
            }
            if !is_late && started.elapsed() > EXPECTED_MAX {
                is_late = true;
                log::warn!(
                    "Waiting for a script or a command before the final save: it has changed keys, and half of its changes must not be saved. A second signal, or SHUTDOWN NOSAVE, ends the process at once, without saving."
                );
            }
        }
    }

    /// Waits for a signal or a client to stop the server, and then for all its threads to end. Returns the state that they shared:
    /// dropping it frees all keys one by one, which a process that is about to exit need not do.
    pub fn wait(mut self, signals: &Signals) -> Arc<Shared> {
        const POLL_INTERVAL: Duration = Duration::from_millis(1);
        const EXPECTED_MAX: Duration = Duration::from_secs(2);
        self.wait_for_stop(signals);
        let (stop_requested, mut is_late) = (Instant::now(), false);
        let is_running = |handle: &thread::JoinHandle<()>| !handle.is_finished();
        while self
            .threads
            .iter()
            .chain(&self.long_threads)
            .any(is_running)
        {
            let is_overdue = stop_requested.elapsed() > EXPECTED_MAX;
            if is_overdue && !self.threads.iter().any(is_running) {
                // Its client gets no reply, so it does not matter that it does not run to its end.
                log::warn!("A long command is still running. It is given up.");
                self.long_threads.retain(thread::JoinHandle::is_finished);
                break;
            }
            if !is_late && is_overdue {
                is_late = true;
                log::warn!(
                    "A thread is still busy. Two signals (SIGTERM or SIGINT) end the process at once."
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
        let (log, aof) = (self.log_thread.take(), self.aof_thread.take());
        self.shared.log.end();
        let logs = log.into_iter().chain(
            std::iter::once_with(|| {
                self.shared.aof.end();
                aof
            })
            .flatten(),
        );
        let all = self.threads.drain(..).chain(self.long_threads.drain(..));
        for worker in all.chain(logs) {
            if worker.join().is_err() {
                log::error!(
                    "A thread panicked because of a bug in Damselfly. Please report this with the lines above."
                );
            }
        }
        drop(self.pidfile.take());
        self.shared
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
    // The threads that serve connections come first, then as many threads for long commands.
    let wakes = (0..=2 * threads)
        .map(|index| {
            // Weak, because `Shared` owns the engine.
            let shared = Arc::downgrade(shared);
            Box::new(move || {
                if let Some(shared) = shared.upgrade() {
                    match index.checked_sub(threads) {
                        None => shared.threads[index].wake(),
                        Some(index) if index == threads => shared.replication.link.wake(),
                        Some(index) => shared.long.wake(index),
                    }
                }
            }) as Wake
        })
        .collect();
    shared.engine.set_wakes(wakes);
}

/// Where a server in the background writes its process id unless `pidfile` names a file.
const PIDFILE: &str = "/var/run/damselfly.pid";

fn write_pidfile(config: &Config) -> Option<PidFile> {
    let is_in_background = config.daemonize && config.supervised == Supervised::No;
    let path = match config.pidfile.as_str() {
        "" if is_in_background => PIDFILE,
        "" => return None,
        path => path,
    };
    match std::fs::write(path, format!("{}\n", std::process::id())) {
        // Absolute, because CONFIG SET dir may change the working directory later.
        Ok(()) => Some(PidFile(
            std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)),
        )),
        Err(error) => {
            // As in Redis: the server is of use without the file.
            log::warn!("Can't write the pidfile {path}: {error}");
            None
        }
    }
}
