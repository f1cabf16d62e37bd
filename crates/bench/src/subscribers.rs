//! Connections that subscribe to the channel of the operation `publish`, and read what they are sent.

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

/// How soon they notice that the run has ended.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes one read may bring.
const READ_BYTES: usize = 64 << 10;
/// More messages than any run brings: each counts as the answer to a request.
const MESSAGES_MAX: usize = 1 << 50;

/// A thread that reads messages.
#[derive(Debug)]
pub(crate) struct Subscribers {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, Broken>>,
}

/// What the thread reads.
struct Reader {
    poll: Poll,
    connections: Vec<Connection>,
    tally: Tally,
    latencies: Histogram<u64>,
    buffer: Vec<u8>,
}

impl Subscribers {
    /// Connects as many as the options say, and subscribes.
    pub fn start(options: &Options) -> Result<Self, Broken> {
        let poll = Poll::new()?;
        let open = |index| {
            let (address, protocol) = (&options.address, options.shape.protocol);
            Connection::open(address, protocol, poll.registry(), Token(index))
        };
        let connections = (0..options.subscribers).map(open);
        let mut reader = Reader {
            connections: connections.collect::<io::Result<_>>()?,
            tally: Tally::default(),
            // Nobody asks for it.
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
        let ends = Arc::new(AtomicBool::new(false));
        let end = ends.clone();
        let read = move || {
            reader.read_until(|_| end.load(Relaxed))?;
            Ok(reader.tally.replies - answers)
        };
        let thread = thread::spawn(read);
        Ok(Self { ends, thread })
    }

    /// Ends them; returns how many messages they have read.
    pub fn end(self) -> Result<u64, Broken> {
        self.ends.store(true, Relaxed);
        self.thread.join().expect("a reader does not panic")
    }
}

impl Reader {
    fn read_until(&mut self, ends: impl Fn(&Tally) -> bool) -> Result<(), Broken> {
        let mut events = Events::with_capacity(1024);
        while !ends(&self.tally) {
            match self.poll.poll(&mut events, Some(LOOK)) {
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
