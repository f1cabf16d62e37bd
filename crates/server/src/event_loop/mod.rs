//! The event loop of one thread.
//!
//! A turn: wait for events, read and run the requests of ready connections, send all replies, do
//! periodic work. Nothing in a turn blocks; a connection that can't proceed gets another try in a later turn.

mod accept;
pub mod acceptor;
pub mod connection;
mod contention;
mod deliver_invalidations;
mod feeds;
pub mod handshakes;
mod inbox;
pub mod input;
pub mod listener;
pub mod open_files;
pub mod parser;
mod requests;
mod run_script;
mod sending;
mod spares;
mod stalled;
pub mod stream;
mod timers;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use slab::Slab;

use self::contention::Contention;
use self::spares::SpareOutputs;
use crate::clock::{self, TurnTime};
use crate::dispatch::Dispatcher;
use crate::event_loop::connection::Connection;
use crate::event_loop::input::{Batch, Next, Stall};
use crate::persistence::saver::Saver;
use crate::resident_memory::Mover;
use crate::shared::Shared;

/// The token of the waker. All other tokens are places of connections.
pub const WAKER: Token = Token(usize::MAX);

/// The most bytes read from one connection before the next one has its turn.
const READ_BYTES: usize = 64 << 10;

/// The longest wait for events, and so the interval of periodic work.
pub const TICK: Duration = Duration::from_millis(100);

/// The log message for a panic.
const BUG: &str = "A command failed because of a bug in Damselfly; its connection is closed. Please report this with the lines above.";

/// One thread: its connections and its event loop.
pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    dispatcher: Dispatcher,
    poll: Poll,
    /// Boxed, so that a closed one leaves no more than its place.
    connections: Slab<Box<Connection>>,
    /// Connections to serve in this turn.
    ready: VecDeque<usize>,
    /// Stalled connections, except those that wait for keys.
    stalled: Vec<usize>,
    /// The timeouts of connections that wait for keys.
    deadlines: BTreeSet<(Instant, usize)>,
    /// Connections whose replies wait for the disk or for replicas, and how far these were when they were last looked at.
    held: Vec<usize>,
    progress_before: u64,
    /// How many of `held` the disk knows.
    held_before: usize,
    /// The replicas know that connections of `held` wait for them.
    waits_for_replicas: bool,
    /// Connections of replicas.
    feeds: Vec<usize>,
    /// Connections with replies to send.
    unflushed: Vec<usize>,
    buffer: Vec<u8>,
    /// For encrypted bytes; empty before the first connection with TLS.
    scratch: Vec<u8>,
    batch: Batch,
    spare_outputs: SpareOutputs,
    turn_time: TurnTime,
    /// A buffer for the replies of scripts.
    script_reply: Vec<u8>,
    /// There may be more of a file to load.
    has_chunks: bool,
    /// How many turns were taken within scripts.
    nested_turns: u64,
    /// Where the expiry sweep continues, as an index into the shards of this thread.
    sweep_at: usize,
    next_sweep: Instant,
    next_tick: Instant,
    next_second: Instant,
    rates_before: (u64, u64, u64, u64, u64),
    saver: Saver,
    mover: Mover,
}

impl Worker {
    /// The worker of thread `index`.
    pub fn new(index: usize, shared: Arc<Shared>, poll: Poll) -> Self {
        let now = Instant::now();
        Self {
            index,
            dispatcher: Dispatcher::new(shared.clone(), index),
            poll,
            connections: Slab::new(),
            ready: VecDeque::new(),
            stalled: Vec::new(),
            deadlines: BTreeSet::new(),
            held: Vec::new(),
            progress_before: 0,
            held_before: 0,
            waits_for_replicas: false,
            feeds: Vec::new(),
            unflushed: Vec::new(),
            buffer: vec![0; READ_BYTES],
            scratch: Vec::new(),
            batch: Batch::default(),
            spare_outputs: SpareOutputs::default(),
            turn_time: TurnTime::default(),
            script_reply: Vec::new(),
            has_chunks: false,
            nested_turns: 0,
            sweep_at: 0,
            next_sweep: now,
            next_tick: now,
            next_second: now,
            rates_before: (0, 0, 0, 0, 0),
            saver: Saver::new(),
            mover: Mover::new(),
            shared,
        }
    }

    /// Serves until the server stops.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        // A single thread has no other one to compete with.
        let mut contention = (self.shared.threads.len() > 1).then(Contention::new);
        self.shared.threads[self.index].begin();
        while !self.shared.stopping.load(Relaxed) {
            let wait = self.longest_wait();
            if let Some(contention) = &mut contention {
                contention.begin_look();
            }
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("Waiting for events failed, stopping: {error}");
                    self.shared.stop();
                    return;
                }
            }
            if let Some(contention) = &mut contention {
                contention.end_look();
            }
            let turn_began = self.dispatcher.clock.raw();
            self.turn_guarded(&events);
            self.count_turn(turn_began);
            if self.shared.persistence.is_saving() {
                let served = self.shared.threads[self.index].counters.turn_ns.read();
                let served = Duration::from_nanos(served);
                // A panic makes the save fail, which the log reports.
                let _ = catch_unwind(AssertUnwindSafe(|| self.saver.copy(&self.shared, served)));
            }
            if self.shared.resident_memory.is_moving() {
                let _ = catch_unwind(AssertUnwindSafe(|| self.mover.move_some(&self.shared)));
            }
            if let Some(contention) = &mut contention
                && self.connections.len() > 1
                && !events.is_empty()
            {
                contention.pause();
            }
        }
        self.shut_down();
    }

    /// Counts a turn and its time.
    fn count_turn(&self, began: u64) {
        let clock = &self.dispatcher.clock;
        let counters = &self.shared.threads[self.index].counters;
        counters.turns.add(1);
        counters
            .turn_ns
            .add(clock.delta_as_nanos(began, clock.raw()));
    }

    /// Takes a turn. A panic outside all commands closes no connection. Since events are edge-triggered, all connections are
    /// served again after a panic.
    fn turn_guarded(&mut self, events: &Events) {
        if catch_unwind(AssertUnwindSafe(|| self.turn(events))).is_ok() {
            return;
        }
        log::error!(
            "A turn of a thread failed because of a bug in Damselfly. Please report this with the lines above."
        );
        self.ready.clear();
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.connections[key].queued = false;
            self.mark_readable(key, false);
        }
    }

    fn turn(&mut self, events: &Events) {
        self.turn_time = TurnTime::default();
        self.dispatcher.refresh_config();
        for event in events {
            match event.token() {
                WAKER => self.receive(),
                Token(key) => {
                    if event.is_writable() {
                        self.flush(key);
                    }
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        self.mark_readable(key, event.is_read_closed());
                    }
                }
            }
        }
        self.receive_pending();
        self.dispatcher.retry_waiters();
        let durable = self.shared.aof.durable();
        self.resume_stalled();
        self.time_out_blocked();
        self.serve_ready();
        self.send_published();
        if self.receive_pending() {
            // Blocked clients were served by clients of this thread: they continue in the same turn.
            self.serve_ready();
            self.send_published();
        }
        if self.shared.engine.log.has_unmerged() {
            self.shared.log.wake();
        }
        self.flush_held();
        self.count_held();
        self.shared
            .aof
            .note_released(&self.shared.threads[self.index], durable);
        self.flush_all();
        self.count_held();
        self.flush_feeds();
        self.run_timers();
        if self.shared.gate.is_loading_any() {
            self.load_chunk();
        }
    }

    /// Decodes and stores a part of the file that is being loaded, which takes some milliseconds.
    #[cold]
    fn load_chunk(&mut self) {
        let (engine, loading) = (&self.shared.engine, &self.shared.loading);
        self.has_chunks = loading.run_one(engine, (self.index, self.shared.threads.len()));
    }

    fn serve_ready(&mut self) {
        for _ in 0..self.ready.len() {
            if let Some(key) = self.ready.pop_front() {
                self.serve_guarded(key);
                self.send_published_if_large();
            }
        }
    }

    fn mark_readable(&mut self, key: usize, half_closed: bool) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.input.note_readable(half_closed);
            self.queue(key);
        }
    }

    fn queue(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.queued
        {
            connection.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Serves a connection. A panic closes that connection and has no other effect.
    fn serve_guarded(&mut self, key: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| self.serve(key)));
        if result.is_err() {
            log::error!("{BUG}");
            self.batch = Batch::default();
            self.buffer = vec![0; READ_BYTES];
            if let Some(connection) = self.connections.get_mut(key) {
                connection.input.abandon();
            }
            self.close(key);
        }
    }

    fn serve(&mut self, key: usize) {
        // Once more, so that a change applies to all requests that arrive after it, whichever thread made it.
        self.dispatcher.refresh_config();
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.queued = false;
        if connection.input.is_running() {
            // This turn is within its script.
            return;
        }
        if connection.session.client.killed.load(Relaxed) {
            self.close(key);
            return;
        }
        self.spare_outputs.lend(&mut connection.output);
        self.continue_reply(key);
        let query_bytes_max = self.dispatcher.config.client_query_buffer_limit_bytes;
        let mut has_read = false;
        while let Some(connection) = self.connections.get_mut(key) {
            match connection.next(query_bytes_max) {
                Next::Run => self.run_own(key),
                // A second read has to wait for the next turn, so that other connections have theirs first.
                Next::Read if !has_read => {
                    has_read = true;
                    self.read(key);
                }
                Next::Read | Next::Wait | Next::Close | Next::GiveUp => break,
            }
        }
        if let Some(connection) = self.connections.get(key)
            && connection
                .output
                .capacity()
                .max(connection.input.capacity())
                > spares::BYTES_MAX
        {
            // Other threads may look for clients to evict before the end of this turn.
            connection.report();
        }
        if has_read {
            self.note_alive(key);
            self.check_query_limit(key, query_bytes_max);
            // A client whose request takes long to arrive is not idle. Running a request updates the time itself.
            if let Some(connection) = self.connections.get(key)
                && !connection.input.is_empty()
            {
                let client = &connection.session.client;
                client.active_ms.store(clock::now_ms(), Relaxed);
            }
        }
        self.finish(key);
    }

    /// Continues the reply that a connection waits for, if more of it is available.
    fn continue_reply(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match connection.input.stall() {
            Some(Stall::Waiting) => self.finish_if_unblocked(key),
            Some(Stall::Long) => {
                if !self.dispatcher.finish_long(connection) {
                    log::error!("{BUG}");
                    self.close(key);
                }
            }
            Some(Stall::SlicedReply) if connection.unsent() == 0 => {
                self.dispatcher.write_next_slice(connection);
            }
            Some(
                Stall::SlicedReply
                | Stall::Shard(_)
                | Stall::Paused(_)
                | Stall::Sleeping(_)
                | Stall::Output
                | Stall::Congested(_)
                | Stall::Log
                | Stall::Stream(_)
                | Stall::Disk(_),
            )
            | None => {}
        }
    }

    /// Reads once. Runs the requests at once if they were read into the thread's buffer.
    fn read(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let direct = connection.input.takes_direct();
        let result = if direct {
            connection.read_direct(&mut self.buffer)
        } else {
            connection.read_more(&mut self.buffer)
        };
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) => {
                log::debug!(
                    "Reading from client {}: {error}",
                    connection.session.client.address
                );
                connection.mark_broken();
                return;
            }
        };
        let counters = &self.shared.threads[self.index].counters;
        counters.reads.add(1);
        counters.input_bytes.add(bytes as u64);
        if bytes == 0 {
            return;
        }
        let session = &connection.session;
        session.client.count_bytes(bytes as u64, 0);
        if session.subscriptions.is_some()
            || session.tracked.is_some()
            || self.shared.tracking.has_redirects()
        {
            // A message that was caused before these requests were sent is delivered before their replies.
            self.send_published();
            self.receive_pending();
        }
        if direct {
            self.run_direct(key, bytes);
        }
    }

    /// After serving a connection, arranges for it to continue: at once, or when its stall is over.
    fn finish(&mut self, key: usize) {
        let query_bytes_max = self.dispatcher.config.client_query_buffer_limit_bytes;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        // The thread asks to be woken after every failed try, and for the shard of that try: an earlier wake-up may have been
        // used up. If the shard became free in between, there may be no release to wait for.
        if let Some(Stall::Shard(busy)) = connection.input.stall()
            && self.shared.engine.wait(busy, self.index)
        {
            connection.retry();
        }
        let stall = connection.input.stall();
        let paused = matches!(stall, Some(Stall::Paused(_)));
        connection.session.client.paused.store(paused, Relaxed);
        match stall {
            None => {}
            Some(Stall::Waiting) => {
                let deadline = connection
                    .session
                    .blocking
                    .as_ref()
                    .and_then(|p| p.deadline);
                self.deadlines
                    .extend(deadline.map(|deadline| (deadline, key)));
            }
            // A message, or the flush at the end of the turn, makes the thread check these.
            Some(Stall::Long | Stall::SlicedReply | Stall::Output) => {}
            Some(
                Stall::Shard(_)
                | Stall::Paused(_)
                | Stall::Sleeping(_)
                | Stall::Congested(_)
                | Stall::Log
                | Stall::Stream(_)
                | Stall::Disk(_),
            ) => {
                let is_listed = self.stalled.contains(&key);
                self.stalled.extend((!is_listed).then_some(key));
            }
        }
        match connection.next(query_bytes_max) {
            Next::Run | Next::Read => self.queue(key),
            // The flush closes it once its replies are sent.
            Next::Wait | Next::Close | Next::GiveUp => {}
        }
        self.unflushed.push(key);
    }

    pub(super) fn close(&mut self, key: usize) {
        if let Some(connection) = self.connections.get(key)
            && connection.input.is_running()
        {
            // It is closed when its script has ended.
            connection.session.client.killed.store(true, Relaxed);
            return;
        }
        let Some(mut connection) = self.connections.try_remove(key) else {
            return;
        };
        crate::session::connection_commands::leave(&self.shared, &mut connection.session);
        let client = &connection.session.client;
        self.shared.clients.remove(client.id);
        self.shared.threads[self.index]
            .connections
            .fetch_sub(1, Relaxed);
        self.stalled.retain(|&other| other != key);
        if connection.is_listed_as_held {
            self.held.retain(|&other| other != key);
        }
        if let Some(wait) = connection.session.disk_wait.take() {
            wait.end(&self.shared);
        }
        self.end_feed(key, &mut connection.session);
        if let Some(blocking) = connection.session.blocking.take() {
            blocking.unregister();
            if let Some(deadline) = blocking.deadline {
                self.deadlines.remove(&(deadline, key));
            }
        }
        connection.stream.close();
        let _ = connection.stream.deregister(self.poll.registry());
    }

    /// Sends the replies that the sockets still take, and closes all connections.
    fn shut_down(&mut self) {
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            // Replies whose changes are not where they have to be are not sent.
            let sent_max = self.sent_max(key);
            let _ = self.connections[key].flush_up_to(sent_max, &mut self.scratch);
            self.close(key);
        }
        drop(self.shared.threads[self.index].take_arrivals());
    }
}
