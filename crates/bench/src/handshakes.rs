//! New connections with TLS beside the measured requests, at a fixed rate (`--handshakes`).
//!
//! Each shakes hands in full, sends one request, and is closed after the reply: with TLS 1.3 a client can't see otherwise that the server has
//! completed the handshake. Threads of their own do this, so the measured requests wait for nothing but the server and the processor.

use crate::options::{Address, Options, Protocol};
use crate::worker::LATENCY_NS_MAX;
use hdrhistogram::Histogram;
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, Stream};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How many threads open connections, so that one slow handshake does not delay those that are due after it.
const THREADS: u32 = 8;

/// The niceness of these threads: the requests that are measured wait for the server, not for the handshakes of the generator.
const NICENESS: i32 = 10;

/// How often a thread checks whether the run has ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The threads that open connections.
pub(crate) struct Handshakes {
    threads: Vec<JoinHandle<io::Result<Histogram<u64>>>>,
    stopping: Arc<AtomicBool>,
}

impl Handshakes {
    /// Starts them, if the options ask for any.
    pub fn start(options: &Options) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut handshakes = Self {
            threads: Vec::new(),
            stopping: stopping.clone(),
        };
        let (Some(rate), Some(config), Address::Tcp(host, port)) =
            (options.handshakes, &options.tls, &options.address)
        else {
            return handshakes;
        };
        let mut config = ClientConfig::clone(config);
        config.resumption = Resumption::disabled();
        let client = Client {
            host: host.clone(),
            port: *port,
            config: Arc::new(config),
            request: match options.shape.protocol {
                Protocol::Resp => b"PING\r\n",
                Protocol::Memcached => b"mn\r\n",
            },
        };
        let interval = Duration::from_secs_f64(f64::from(THREADS) / rate);
        let start = Instant::now();
        for thread in 0..THREADS {
            let (client, stopping) = (client.clone(), stopping.clone());
            let first = start + interval * thread / THREADS;
            let run = move || {
                // On Linux, this concerns only the calling thread. Without the permission, all threads are alike.
                let _ = rustix::process::nice(NICENESS);
                client.run(first, interval, &stopping)
            };
            handshakes.threads.push(thread::spawn(run));
        }
        handshakes
    }

    /// Stops them. Returns the latencies in nanoseconds, counted from when a handshake was due.
    pub fn stop(self) -> io::Result<Option<Histogram<u64>>> {
        self.stopping.store(true, Relaxed);
        let mut total: Option<Histogram<u64>> = None;
        for thread in self.threads {
            let latencies = thread.join().expect("the thread does not panic")?;
            match &mut total {
                Some(total) => *total += latencies,
                None => total = Some(latencies),
            }
        }
        Ok(total)
    }
}

/// Opens connections, one after the other.
#[derive(Clone)]
struct Client {
    host: String,
    port: u16,
    config: Arc<ClientConfig>,
    request: &'static [u8],
}

impl Client {
    fn run(
        &self,
        first: Instant,
        interval: Duration,
        stopping: &AtomicBool,
    ) -> io::Result<Histogram<u64>> {
        let mut latencies =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants");
        let mut due = first;
        while !stopping.load(Relaxed) {
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait.min(CHECK_INTERVAL));
                continue;
            }
            self.connect_once()?;
            let took = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
            latencies.saturating_record(took);
            due += interval;
        }
        Ok(latencies)
    }

    fn connect_once(&self) -> io::Result<()> {
        let mut socket = TcpStream::connect((self.host.as_str(), self.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = self.host.clone().try_into().map_err(io::Error::other)?;
        let mut session =
            ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let mut stream = Stream::new(&mut session, &mut socket);
        stream.write_all(self.request)?;
        let mut reply = [0; 512];
        match stream.read(&mut reply)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
