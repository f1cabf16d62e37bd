//! Connections that subscribe to the channel of the operation `publish` and read its messages.

use crate::connection::{Broken, Connection};
use crate::operations::CHANNEL;
use crate::options::Options;
use crate::replies::Tally;
use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the thread checks whether the run has ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Size of the buffer for reads.
const READ_BYTES: usize = 64 << 10;
/// More messages than any run produces: each counts as the reply to a request.
const MESSAGES_MAX: usize = 1 << 50;

/// A thread that reads messages.
#[derive(Debug)]
pub(crate) struct Subscribers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, Broken>>,
}

/// The state of the thread.
struct Reader {
    poll: Poll,
    connections: Vec<Connection>,
    tally: Tally,
    latencies: Histogram<u64>,
    buffer: Vec<u8>,
}

impl Subscribers {
    /// Opens as many connections as the options say, and subscribes on each.
    pub fn start(options: &Options) -> Result<Self, Broken> {
        let poll = Poll::new()?;
        let open = |index| Connection::open(options, poll.registry(), Token(index));
        let connections = (0..options.subscribers).map(open);
        let mut reader = Reader {
            connections: connections.collect::<io::Result<_>>()?,
            tally: Tally::default(),
            // Needed for `receive`, but never read.
            latencies: Histogram::new(1).expect("one digit is within the histogram's limits"),
            buffer: vec![0; READ_BYTES],
            poll,
        };
        let request = format!(
            "*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{CHANNEL}\r\n",
            CHANNEL.len()
        );
        for connection in &mut reader.connections {
            connection.note_sent(Instant::now(), MESSAGES_MAX);
            connection.send(request.as_bytes())?;
        }
        let answers = reader.connections.len() as u64;
        reader.read_until(|tally| tally.replies >= answers)?;
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let read = move || {
            reader.read_until(|_| is_stopped.load(Relaxed))?;
            Ok(reader.tally.replies - answers)
        };
        let thread = thread::spawn(read);
        Ok(Self { stop, thread })
    }

    /// Stops the thread; returns how many messages it has read.
    pub fn stop(self) -> Result<u64, Broken> {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("a reader does not panic")
    }
}

impl Reader {
    fn read_until(&mut self, is_done: impl Fn(&Tally) -> bool) -> Result<(), Broken> {
        let mut events = Events::with_capacity(1024);
        while !is_done(&self.tally) {
            match self.poll.poll(&mut events, Some(CHECK_INTERVAL)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                connection.flush()?;
                connection.receive(&mut self.buffer, &mut self.tally, &mut self.latencies)?;
            }
        }
        Ok(())
    }
}
