//! The acceptor: one thread takes new connections from the listening sockets and hands each to the worker with the fewest
//! connections.
//!
//! ```text
//!   listening sockets ──► acceptor: limits, id ──► inbox of a worker ──► the worker serves it
//!                          ▲  │     ▲                         │
//!     handshakers (TLS) ───┘◄─┘     └── the worker is stuck ──┘
//! ```
//!
//! The acceptor runs no commands, so it is never stuck in one. A stuck worker gets no new connections, and connections still in
//! its inbox go to other workers. CONFIG SET changes the listening sockets on the thread that runs it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use damselfly_protocol::memcached::reply;
use damselfly_protocol::{Reply, Version};
use damselfly_tls::ENCRYPTED_BYTES_MAX;
use mio::net::TcpStream;
use mio::{Events, Poll, Registry, Token, Waker};

use crate::event_loop::TICK;
use crate::event_loop::listener::{Address, Endpoint, Listener, Service};
use crate::event_loop::parser::Protocol;
use crate::event_loop::stream::Stream;
use crate::shared::Shared;
use crate::threads::Arrival;
use damselfly_config::{Config, Origin};

/// The most connections taken from one listening socket before the next socket's turn.
const ACCEPTS_MAX: usize = 64;

/// The token of the waker; the others belong to listening sockets.
const WAKER: Token = Token(usize::MAX);

/// The error for a client from another machine while the user that it would be has no password.
fn protected_mode_error(speaks: Protocol) -> String {
    let (user, remedy) = match speaks {
        Protocol::Resp => ("the default user", "with the option requirepass"),
        Protocol::Memcached => ("memcached-user", "with ACL SETUSER"),
    };
    format!(
        "DENIED Damselfly is running in protected mode because protected mode is enabled and no password is set for {user}. In this mode connections are only accepted from the loopback interface. To accept connections from other machines, set a password {remedy}, or, if the network is trusted, turn protected mode off: CONFIG SET protected-mode no from this machine, or start with --protected-mode no."
    )
}

/// The listening sockets, as all threads see them.
pub struct Acceptor {
    registry: Registry,
    waker: Waker,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    listeners: Vec<(Token, Listener)>,
    /// Connections that were accepted just before their listening socket was closed.
    drained: Vec<(Stream, Service)>,
    /// Connections whose TLS handshake is complete, and what they speak.
    encrypted: Vec<(Stream, Protocol)>,
    last_token: usize,
}

/// Why the acceptor stopped taking connections from a listening socket.
#[derive(PartialEq, Eq)]
enum AcceptEnd {
    /// The socket has no more connections for now.
    Drained,
    /// The socket may have more connections.
    More,
    /// Accepting failed, most likely because no file descriptors are left.
    Failed,
}

impl Acceptor {
    /// An acceptor whose thread waits on `poll`.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn new(poll: &Poll, listeners: Vec<Listener>) -> io::Result<Self> {
        let acceptor = Self {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKER)?,
            open: Mutex::default(),
        };
        acceptor.add(&mut acceptor.open(), listeners)?;
        Ok(acceptor)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread, which then checks whether the server is stopping and admits drained connections.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::warn!("Can't wake the acceptor: {error}");
        }
    }

    /// Makes the thread admit a connection whose TLS handshake is complete.
    pub fn admit_later(&self, stream: Stream, speaks: Protocol) {
        self.open().encrypted.push((stream, speaks));
        self.wake();
    }

    /// Registers all listening sockets, or none.
    fn add(&self, open: &mut Open, mut listeners: Vec<Listener>) -> io::Result<()> {
        for (number, listener) in (open.last_token + 1..).zip(&mut listeners) {
            // An error drops all of them, which closes and unregisters them.
            listener.register(&self.registry, Token(number))?;
        }
        for listener in listeners {
            open.last_token += 1;
            open.listeners.push((Token(open.last_token), listener));
        }
        Ok(())
    }

    /// Listens on exactly these TCP addresses, on the port of `config`. Connected clients stay connected. New sockets are opened before
    /// old ones are closed, except where the operating system does not allow both.
    ///
    /// # Errors
    /// One line that names the address and the reason why the server can't listen on it. The old sockets then stay in use, or are
    /// opened again.
    pub fn rebind(&self, config: &Config, addresses: &[Address]) -> Result<(), String> {
        let open = &mut *self.open();
        let mut leaving: Vec<Token> = open
            .listeners
            .iter()
            .filter(|(_, listener)| listener.address().is_some())
            .map(|(token, _)| *token)
            .collect();
        let has_port = |leaving: &[Token], wanted: u16| {
            let addresses = leaving
                .iter()
                .filter_map(|token| open.find(*token)?.address());
            addresses
                .map(|address| address.port())
                .any(|port| port == wanted)
        };
        let mut opened = Vec::new();
        let mut blocked = Vec::new();
        for endpoint in Endpoint::all(config, addresses) {
            let wanted = endpoint.socket_address();
            let same = leaving.iter().position(|token| {
                let listener = open.find(*token);
                wanted.is_some()
                    && listener.and_then(Listener::address) == wanted
                    && listener.is_some_and(|listener| listener.service() == endpoint.service)
            });
            if let Some(place) = same {
                leaving.swap_remove(place);
                continue;
            }
            match Listener::tcp(endpoint, config) {
                Ok(listener) => opened.extend(listener),
                // The old socket of another address may be in the way.
                Err(failure) if failure.is_taken && has_port(&leaving, endpoint.port) => {
                    blocked.push(endpoint);
                }
                Err(failure) => return Err(failure.text),
            }
        }
        let mut closed = None;
        if !blocked.is_empty() {
            closed = Some(open.close(&leaving));
            for endpoint in blocked {
                match Listener::tcp(endpoint, config) {
                    Ok(listener) => opened.extend(listener),
                    Err(failure) => {
                        drop(opened);
                        self.reopen(open, closed.unwrap_or_default(), config);
                        self.wake();
                        return Err(failure.text);
                    }
                }
            }
        }
        if let Err(error) = self.add(open, opened) {
            self.reopen(open, closed.unwrap_or_default(), config);
            return Err(format!("Can't watch a listening socket: {error}"));
        }
        if closed.is_none() {
            open.close(&leaving);
        }
        // The thread then admits the drained connections.
        self.wake();
        Ok(())
    }

    /// Reopens sockets that were closed to make way for new ones, after the new ones could not be opened.
    fn reopen(&self, open: &mut Open, closed: Vec<(SocketAddr, Service)>, config: &Config) {
        for (address, service) in closed {
            let listener = Listener::tcp_at(address, service, config);
            let added = listener.and_then(|listener| self.add(open, vec![listener]));
            if let Err(error) = added {
                log::error!("Can't listen on {address} again: {error}");
            }
        }
    }

    fn accept(&self, token: Token) -> io::Result<Option<(Stream, Service)>> {
        let open = self.open();
        let Some(listener) = open.find(token) else {
            return Ok(None);
        };
        let stream = listener.accept()?;
        Ok(stream.map(|stream| (stream, listener.service())))
    }

    /// Takes some connections from a listening socket.
    fn accept_some(&self, shared: &Shared, token: Token) -> AcceptEnd {
        for _ in 0..ACCEPTS_MAX {
            match self.accept(token) {
                Ok(Some((stream, service))) => receive(shared, stream, service),
                Ok(None) => return AcceptEnd::Drained,
                Err(error) => {
                    log::warn!("Accepting client connection: {error}");
                    return AcceptEnd::Failed;
                }
            }
        }
        AcceptEnd::More
    }
}

impl Open {
    fn find(&self, token: Token) -> Option<&Listener> {
        let found = self.listeners.iter().find(|(other, _)| *other == token);
        found.map(|(_, listener)| listener)
    }

    /// Closes TCP sockets and returns their addresses. Connected clients stay connected.
    fn close(&mut self, tokens: &[Token]) -> Vec<(SocketAddr, Service)> {
        let mut addresses = Vec::new();
        let drained = &mut self.drained;
        self.listeners.retain(|(token, listener)| {
            if !tokens.contains(token) {
                return true;
            }
            while let Ok(Some(stream)) = listener.accept() {
                drained.push((stream, listener.service()));
            }
            addresses.extend(
                listener
                    .address()
                    .map(|address| (address, listener.service())),
            );
            false
        });
        addresses
    }
}

/// Accepts connections until the process ends.
pub fn run(shared: &Shared, mut poll: Poll) {
    let acceptor = shared.acceptor.get().expect("set before this starts");
    let mut events = Events::with_capacity(64);
    // Sockets whose last accept failed. Events are edge-triggered, so no further event reports the connections left in them.
    let mut failed = Vec::new();
    while !shared.stopping.load(Relaxed) {
        let must_recheck = !failed.is_empty() || shared.threads.iter().any(|t| t.has_arrivals());
        match poll.poll(&mut events, must_recheck.then_some(TICK)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                log::error!("Waiting for connections failed, stopping: {error}");
                shared.stop();
                break;
            }
        }
        let mut ready = std::mem::take(&mut failed);
        for event in &events {
            if event.token() != WAKER && !ready.contains(&event.token()) {
                ready.push(event.token());
            }
        }
        let drained = std::mem::take(&mut acceptor.open().drained);
        for (stream, service) in drained {
            receive(shared, stream, service);
        }
        let encrypted = std::mem::take(&mut acceptor.open().encrypted);
        for (stream, speaks) in encrypted {
            shared.tls.in_progress.fetch_sub(1, Relaxed);
            admit(shared, stream, speaks);
        }
        while !ready.is_empty() && !shared.stopping.load(Relaxed) {
            ready.retain(|&token| match acceptor.accept_some(shared, token) {
                AcceptEnd::Drained => false,
                AcceptEnd::More => true,
                AcceptEnd::Failed => {
                    failed.push(token);
                    false
                }
            });
            reassign_arrivals(shared);
        }
        reassign_arrivals(shared);
    }
    *acceptor.open() = Open::default();
}

/// Takes care of a new connection: hands it to a worker, or to a handshaker first, or refuses it. Only the acceptor's thread may call
/// this.
fn receive(shared: &Shared, mut stream: Stream, service: Service) {
    let config = shared.config();
    // Only the acceptor writes these counters.
    let counters = &shared.threads[0].counters;
    let connections = shared.threads.iter().map(|t| t.connections.load(Relaxed));
    let handshakes = shared.tls.in_progress.load(Relaxed);
    if connections.sum::<usize>() + handshakes >= config.maxclients as usize {
        counters.connections_rejected.add(1);
        // Without a handshake, there is no way to tell a client of TLS, as in Redis.
        if !service.is_encrypted {
            let error = match service.speaks {
                Protocol::Resp => "ERR max number of clients reached",
                Protocol::Memcached => "Too many open connections",
            };
            refuse(&mut stream, service.speaks, error);
        }
        return;
    }
    counters.connections_received.add(1);
    stream.prepare(config.tcp_keepalive_s);
    match (service.is_encrypted, stream) {
        (true, Stream::Tcp(socket)) => shake_hands(shared, socket, service.speaks),
        (_, stream) => admit(shared, stream, service.speaks),
    }
}

/// Hands a connection to a handshaker.
fn shake_hands(shared: &Shared, socket: TcpStream, speaks: Protocol) {
    let Some(handshakers) = shared.tls.handshakers.get() else {
        return;
    };
    let number = shared.tls.in_progress.fetch_add(1, Relaxed);
    if let Some(handshaker) = handshakers.get(number % handshakers.len().max(1)) {
        handshaker.hand_over(socket, speaks);
    }
}

/// Hands a connection that can carry requests to a worker, or refuses it. Only the acceptor's thread may call this.
fn admit(shared: &Shared, mut stream: Stream, speaks: Protocol) {
    // The client may have connected because an option was changed, so the current options apply.
    let config = shared.config();
    if config.protected_mode
        && stream.origin() == Origin::Remote
        && shared
            .users
            .first_account(speaks, &config)
            .user()
            .has_no_password()
    {
        shared.threads[0].counters.connections_rejected.add(1);
        refuse(&mut stream, speaks, &protected_mode_error(speaks));
        return;
    }
    // The id is assigned here, because connections arrive here in order.
    let id = shared.clients.next_id();
    assign(shared, Arrival { stream, speaks, id });
}

/// Sends a refused client the reason, if its socket has room for it.
fn refuse(stream: &mut Stream, speaks: Protocol, error: &str) {
    let mut bytes = Vec::new();
    match speaks {
        Protocol::Resp => Reply::new(&mut bytes, Version::default()).error(error),
        Protocol::Memcached => reply::line(&mut bytes, &format!("SERVER_ERROR {error}")),
    }
    let mut scratch = match stream.needs_scratch() {
        true => vec![0; ENCRYPTED_BYTES_MAX],
        false => Vec::new(),
    };
    // A failure does not matter: the connection is closed either way.
    let _ = stream.write(&bytes, &mut scratch);
    stream.close();
}

/// Hands a connection to the worker with the fewest connections. A stuck worker gets it only if all workers are stuck.
fn assign(shared: &Shared, arrival: Arrival) {
    let now_ms = shared.uptime_ms();
    let threads = || shared.threads.iter();
    let fewest = threads()
        .filter(|thread| !thread.is_stuck(now_ms))
        .min_by_key(|thread| thread.connections.load(Relaxed))
        .or_else(|| threads().min_by_key(|thread| thread.connections.load(Relaxed)))
        .expect("a server has threads");
    fewest.connections.fetch_add(1, Relaxed);
    fewest.hand_over(arrival);
}

/// Takes connections back from the inboxes of stuck workers, and hands them to other workers.
fn reassign_arrivals(shared: &Shared) {
    let now_ms = shared.uptime_ms();
    if shared.threads.iter().all(|thread| thread.is_stuck(now_ms)) {
        return;
    }
    for thread in &shared.threads {
        if thread.is_stuck(now_ms) {
            for arrival in thread.take_arrivals() {
                thread.connections.fetch_sub(1, Relaxed);
                assign(shared, arrival);
            }
        }
    }
}
