//! A proxy between a primary and its replica that cuts, stalls and throttles the link.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How often a thread that has nothing to copy looks at the state.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Default)]
struct State {
    target: Mutex<Option<SocketAddr>>,
    /// Both ends of all connections.
    open: Mutex<Vec<TcpStream>>,
    is_stalled: AtomicBool,
    is_refusing: AtomicBool,
    /// Bytes per second towards the replica; 0 for no limit.
    bytes_per_second: AtomicU64,
    /// The connections are cut when so many further bytes have passed towards the replica; 0 for never.
    bytes_to_cut: AtomicU64,
    connections: AtomicUsize,
    ends: AtomicBool,
}

/// A proxy that is running.
pub struct LinkProxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl LinkProxy {
    /// A proxy to this server.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        *state.target.lock().unwrap() = Some(target);
        let shared = state.clone();
        thread::spawn(move || {
            for replica in listener.incoming().flatten() {
                if shared.ends.load(SeqCst) {
                    return;
                }
                accept(&shared, replica);
            }
        });
        Self { address, state }
    }

    /// Where the replica connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections to another server.
    pub fn set_target(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap() = Some(target);
    }

    /// Closes all connections.
    pub fn cut(&self) {
        cut(&self.state);
    }

    /// Closes all connections once so many further bytes have passed towards the replica.
    pub fn cut_after(&self, bytes: u64) {
        self.state.bytes_to_cut.store(bytes.max(1), SeqCst);
    }

    /// Passes nothing on for now, or continues.
    pub fn stall(&self, is_stalled: bool) {
        self.state.is_stalled.store(is_stalled, SeqCst);
    }

    /// Closes new connections at once, or accepts them again.
    pub fn refuse(&self, is_refusing: bool) {
        self.state.is_refusing.store(is_refusing, SeqCst);
    }

    /// Limits how many bytes per second pass towards the replica; 0 for no limit.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.state.bytes_per_second.store(bytes_per_second, SeqCst);
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }
}

impl Drop for LinkProxy {
    fn drop(&mut self) {
        self.state.ends.store(true, SeqCst);
        cut(&self.state);
        // Ends the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn cut(state: &State) {
    for stream in state.open.lock().unwrap().drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn accept(state: &Arc<State>, replica: TcpStream) {
    let target = *state.target.lock().unwrap();
    let primary = target.and_then(|target| TcpStream::connect(target).ok());
    let Some(primary) = primary.filter(|_| !state.is_refusing.load(SeqCst)) else {
        return;
    };
    state.connections.fetch_add(1, SeqCst);
    let ends = [&replica, &primary].map(|stream| stream.try_clone().unwrap());
    state.open.lock().unwrap().extend(ends);
    for (from, to, is_limited) in [
        (
            primary.try_clone().unwrap(),
            replica.try_clone().unwrap(),
            true,
        ),
        (replica, primary, false),
    ] {
        from.set_read_timeout(Some(POLL_INTERVAL)).unwrap();
        let state = state.clone();
        thread::spawn(move || copy(&state, from, to, is_limited));
    }
}

fn copy(state: &State, mut from: TcpStream, mut to: TcpStream, is_limited: bool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let rate = state.bytes_per_second.load(SeqCst);
        let piece = match rate {
            0 => buffer.len(),
            _ if !is_limited => buffer.len(),
            // Per interval.
            rate => (rate as usize * POLL_INTERVAL.as_millis() as usize / 1000).max(1),
        };
        let wanted = piece.min(buffer.len());
        let read = match from.read(&mut buffer[..wanted]) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => continue,
            Err(_) => break,
        };
        while state.is_stalled.load(SeqCst) && !state.ends.load(SeqCst) {
            thread::sleep(POLL_INTERVAL);
        }
        let mut passed = read;
        let left = state.bytes_to_cut.load(SeqCst);
        let cuts = is_limited && left > 0 && read as u64 >= left;
        if cuts {
            passed = left as usize;
            state.bytes_to_cut.store(0, SeqCst);
        } else if is_limited && left > 0 {
            state.bytes_to_cut.store(left - read as u64, SeqCst);
        }
        if to.write_all(&buffer[..passed]).is_err() {
            break;
        }
        if cuts {
            cut(state);
            break;
        }
        if rate > 0 && is_limited {
            thread::sleep(POLL_INTERVAL);
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
