//! TLS handshakes, on threads of their own: one takes about as long as a thousand commands.
//!
//! ```text
//!   acceptor ──► handshaker: one handshake step per event ──► acceptor: limits, id ──► worker
//!                    │
//!                    └─ fails, or takes too long: closed
//! ```
//!
//! So a flood of handshakes takes processor time from the workers, but never holds one of them back, and a worker sees only connections
//! that are ready for requests.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use damselfly_tls::{BUFFER_BYTES_MIN, TlsStream};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::TICK;
use crate::event_loop::parser::Protocol;
use crate::event_loop::stream::Stream;
use crate::shared::Shared;

/// The most threads for handshakes.
const THREADS_MAX: usize = 8;

/// The niceness of these threads: those that run commands go first.
const NICENESS: i32 = 5;

/// The token of the waker; the others are places of handshakes.
const WAKER: Token = Token(usize::MAX);

/// How many threads complete handshakes, if `workers` threads run commands.
pub fn thread_count(workers: usize) -> usize {
    (workers / 4).clamp(1, THREADS_MAX)
}

/// A thread that completes handshakes, as the acceptor sees it.
pub struct Handshaker {
    /// New connections, and what they will speak.
    inbox: Mutex<Vec<(TcpStream, Protocol)>>,
    waker: Waker,
}

impl Handshaker {
    /// A handshaker whose thread waits on `poll`.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn new(poll: &Poll) -> io::Result<Self> {
        Ok(Self {
            inbox: Mutex::default(),
            waker: Waker::new(poll.registry(), WAKER)?,
        })
    }

    /// Hands it a connection. The caller has counted it in [`crate::tls::Tls::in_progress`].
    pub fn hand_over(&self, socket: TcpStream, speaks: Protocol) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.push((socket, speaks));
        drop(inbox);
        self.wake();
    }

    /// Makes its thread look at its inbox, and check whether the server is stopping.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::warn!("Can't wake a thread for handshakes: {error}");
        }
    }

    fn take(&self) -> Vec<(TcpStream, Protocol)> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inbox)
    }
}

/// A handshake that is not complete.
struct Handshake {
    stream: Box<TlsStream<TcpStream>>,
    speaks: Protocol,
    started: Instant,
}

/// The handshakes of one thread.
struct Handshakes<'s> {
    shared: &'s Shared,
    poll: Poll,
    open: Slab<Handshake>,
    buffer: Vec<u8>,
}

/// Completes handshakes until the server stops.
pub fn run(shared: &Shared, index: usize, poll: Poll) {
    let handshakers = shared.tls.handshakers.get();
    let Some(own) = handshakers.and_then(|all| all.get(index)) else {
        return;
    };
    // On Linux, this concerns only the calling thread. Without the permission, all threads are alike.
    let _ = rustix::process::nice(NICENESS);
    let mut events = Events::with_capacity(256);
    let mut handshakes = Handshakes {
        shared,
        poll,
        open: Slab::new(),
        buffer: Vec::new(),
    };
    while !shared.stopping.load(Relaxed) {
        let wait = (!handshakes.open.is_empty()).then_some(TICK);
        match handshakes.poll.poll(&mut events, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                log::error!("Waiting for handshakes failed, stopping: {error}");
                shared.stop();
                return;
            }
        }
        for event in &events {
            match event.token() {
                WAKER => own.take().into_iter().for_each(|new| handshakes.add(new)),
                Token(key) => handshakes.step_guarded(key, event.is_read_closed()),
            }
        }
        handshakes.close_late();
    }
}

impl Handshakes<'_> {
    fn add(&mut self, (socket, speaks): (TcpStream, Protocol)) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER_BYTES_MIN];
        }
        let accepted = match self.shared.tls.acceptor() {
            Some(acceptor) => acceptor.accept(socket),
            None => Err(String::from("TLS was turned off")),
        };
        let added = accepted.and_then(|stream| {
            let mut stream = Box::new(stream);
            let place = self.open.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(place.key());
            let registry = self.poll.registry();
            registry
                .register(stream.socket_mut(), token, interest)
                .map_err(|error| error.to_string())?;
            place.insert(Handshake {
                stream,
                speaks,
                started: Instant::now(),
            });
            Ok(())
        });
        if let Err(error) = added {
            log::warn!("Can't begin a TLS handshake: {error}");
            self.shared.tls.in_progress.fetch_sub(1, Relaxed);
        }
    }

    /// Continues a handshake. A panic ends that handshake and has no other effect.
    fn step_guarded(&mut self, key: usize, is_read_closed: bool) {
        let step = AssertUnwindSafe(|| self.step(key, is_read_closed));
        if catch_unwind(step).is_err() {
            log::error!(
                "A TLS handshake failed because of a bug in Damselfly. Please report this with the lines above."
            );
            self.remove(key);
        }
    }

    fn step(&mut self, key: usize, is_read_closed: bool) {
        let Some(handshake) = self.open.get_mut(key) else {
            return;
        };
        let stream = &mut handshake.stream;
        let mut result = stream.handshake(&mut self.buffer);
        if is_read_closed && matches!(result, Ok(false)) {
            // The end of the stream has no event of its own behind the last bytes.
            result = stream.handshake(&mut self.buffer);
        }
        let tls = &self.shared.tls;
        match result.and_then(|is_complete| stream.send_rest().map(|()| is_complete)) {
            Ok(false) => {}
            Ok(true) => {
                tls.completed.fetch_add(1, Relaxed);
                if let Some(mut handshake) = self.open.try_remove(key) {
                    let _ = self
                        .poll
                        .registry()
                        .deregister(handshake.stream.socket_mut());
                    if let Some(acceptor) = self.shared.acceptor.get() {
                        acceptor.admit_later(Stream::Tls(handshake.stream), handshake.speaks);
                    }
                }
            }
            Err(error) => {
                tls.failed.fetch_add(1, Relaxed);
                let socket = stream.socket();
                log::warn!(
                    "Error accepting a client connection: {error} (addr={} laddr={})",
                    show(socket.peer_addr()),
                    show(socket.local_addr())
                );
                self.remove(key);
            }
        }
    }

    /// Closes the connections whose handshakes take too long.
    fn close_late(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let timeout_s = self.shared.config().tls_handshake_timeout_s;
        let timeout = Duration::from_secs(u64::from(timeout_s));
        let now = Instant::now();
        let is_late = |handshake: &Handshake| now.duration_since(handshake.started) > timeout;
        let late = self.open.iter().filter(|(_, handshake)| is_late(handshake));
        let late: Vec<usize> = late.map(|(key, _)| key).collect();
        for key in late {
            self.shared.tls.timed_out.fetch_add(1, Relaxed);
            if let Some(handshake) = self.open.get(key) {
                log::debug!(
                    "Closing a client whose TLS handshake took longer than {timeout_s} seconds (addr={})",
                    show(handshake.stream.socket().peer_addr())
                );
            }
            self.remove(key);
        }
    }

    /// Closes a connection.
    fn remove(&mut self, key: usize) {
        if let Some(mut handshake) = self.open.try_remove(key) {
            self.shared.tls.in_progress.fetch_sub(1, Relaxed);
            let _ = self
                .poll
                .registry()
                .deregister(handshake.stream.socket_mut());
        }
    }
}

fn show(address: io::Result<std::net::SocketAddr>) -> String {
    address.map_or_else(|_| String::from("?:0"), |address| address.to_string())
}
