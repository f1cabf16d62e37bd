//! A proxy that delays replies, or cuts connections after a number of bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// A proxy in front of one server, until the process ends.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How many bytes of requests and of replies pass before a connection is cut.
    limits: [usize; 2],
    /// Whether only one connection is cut.
    cuts_once: bool,
    /// Whether replies wait.
    holds: bool,
    /// How many replies may pass although replies wait.
    released: usize,
    /// How often requests arrived while replies waited.
    requests: usize,
    was_cut: bool,
    connections: Vec<[TcpStream; 2]>,
    accepted: usize,
}

impl Proxy {
    /// Starts a proxy that forwards everything to `target`.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                limits: [usize::MAX; 2],
                cuts_once: false,
                holds: false,
                released: 0,
                requests: 0,
                was_cut: false,
                connections: Vec::new(),
                accepted: 0,
            }),
            changed: Condvar::new(),
        });
        let for_thread = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(target).unwrap());
                let copy = |stream: &TcpStream| stream.try_clone().unwrap();
                let mut state = for_thread.state();
                state.accepted += 1;
                state.connections.push([copy(&client), copy(&server)]);
                drop(state);
                for (is_reply, from, to) in [
                    (false, copy(&client), copy(&server)),
                    (true, server, client),
                ] {
                    let shared = for_thread.clone();
                    thread::spawn(move || {
                        shared.forward(is_reply, &from, &to);
                        // One direction never outlives the other.
                        let _ = from.shutdown(Shutdown::Both);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Forwards everything from now on, including what waits.
    pub fn forward_all(&self) {
        let mut state = self.shared.state();
        (state.limits, state.holds, state.was_cut) = ([usize::MAX; 2], false, false);
        self.shared.changed.notify_all();
    }

    /// Cuts a connection after so many bytes of requests or of replies, counted from now on, and all later ones at once, unless
    /// only `once`.
    pub fn cut_after(&self, requests: usize, replies: usize, once: bool) {
        let mut state = self.shared.state();
        (state.limits, state.cuts_once) = ([requests, replies], once);
    }

    /// True if a connection was cut.
    pub fn was_cut(&self) -> bool {
        self.shared.state().was_cut
    }

    /// Lets replies wait from now on.
    pub fn hold_replies(&self) {
        let mut state = self.shared.state();
        (state.holds, state.released, state.requests) = (true, 0, 0);
    }

    /// Lets one waiting reply pass.
    pub fn release_reply(&self) {
        self.shared.state().released += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until requests have arrived `count` times since replies wait.
    pub fn await_requests(&self, count: usize) {
        let mut state = self.shared.state();
        while state.requests < count {
            state = self.shared.changed.wait(state).unwrap();
        }
    }

    /// Closes all connections.
    pub fn disconnect(&self) {
        for [client, server] in std::mem::take(&mut self.shared.state().connections) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.state().accepted
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn forward(&self, is_reply: bool, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut state = self.state();
            if !is_reply && state.holds {
                state.requests += 1;
                self.changed.notify_all();
            }
            while is_reply && state.holds && state.released == 0 {
                state = self.changed.wait(state).unwrap();
            }
            state.released = state.released.saturating_sub(usize::from(is_reply));
            let limit = &mut state.limits[usize::from(is_reply)];
            let passing = count.min(*limit);
            if *limit != usize::MAX {
                *limit -= passing;
            }
            let is_cut = *limit == 0;
            state.was_cut |= is_cut;
            if is_cut && state.cuts_once {
                state.limits = [usize::MAX; 2];
            }
            drop(state);
            if to.write_all(&buffer[..passing]).is_err() || is_cut {
                return;
            }
        }
    }
}
