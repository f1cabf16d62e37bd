//! The look-aside mode: clients that GET a key, and SET it if the cache does not have it.
//!
//! ```text
//! round n:  GET GET GET GET ──► all replies ──► SET of each that was missed ──► all replies ──► round n + 1
//! ```
//!
//! The hit ratio depends on the order of requests, so requests run in rounds. A round takes the next requests in order: as many
//! as can be in flight (connections × depth), but it ends before a key that it already has. Its GETs are divided among the
//! connections. When all are answered, the SETs follow, and the next round begins when those are answered. So each request
//! sees the effect of every earlier request for the same key. The only difference from one request at a time is that the
//! evictions that the SETs of a round cause come after its GETs; with one connection and depth 1, the default, there is none.

use crate::connection::Broken;
use crate::operations::Choice;
use crate::options::{Address, Length, LookAside, Options, Protocol};
use crate::random::{Keys, Random};
use crate::replies::{Replies, Tally};
use crate::report::Hits;
use crate::requests::alphabet;
use crate::run::Error;
use crate::trace::{Record, Trace};
use crate::worker::{LATENCY_NS_MAX, Outcome, SILENCE_MAX, keys};
use hdrhistogram::Histogram;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Values are parts of a text of this size; longer ones repeat it.
const TEXT_BYTES: usize = 1 << 20;
/// Requests are sent when this many bytes of them are ready.
const SEND_BYTES: usize = 256 << 10;
/// Size of the buffer for reads.
const READ_BYTES: usize = 64 << 10;

/// Clients of one cache, and what they have still to request.
pub(crate) struct Clients<'a> {
    options: &'a Options,
    source: Source,
    connections: Vec<Connection>,
    values: Values,
    /// The requests of this round, and their keys.
    round: Vec<Record>,
    in_round: HashSet<u64>,
    /// The request that ended the last round.
    next: Option<Record>,
    /// The numbers of the requests of this round that were misses.
    missed: Vec<usize>,
}

impl<'a> Clients<'a> {
    /// Connects, and opens the trace if there is one.
    pub fn connect(options: &'a Options, mode: &LookAside) -> Result<Self, Error> {
        let mut random = Random::new(options.seed);
        let source = match &mode.trace {
            Some(path) => Source::Trace {
                trace: Trace::open(path).map_err(Error::Trace)?,
                value_bytes: mode.fixed_sizes.then_some(options.shape.value_bytes),
            },
            None => Source::Generated {
                keys: keys(options, Random::new(random.bits())),
                value_bytes: options.shape.value_bytes,
            },
        };
        let connections = (0..options.connections)
            .map(|_| Connection::open(&options.address, options.shape.protocol))
            .collect::<io::Result<_>>()
            .map_err(|error| Error::Connect(options.address.clone(), error))?;
        Ok(Self {
            options,
            source,
            connections,
            values: Values::new(options, &mut random),
            round: Vec::new(),
            in_round: HashSet::new(),
            next: None,
            missed: Vec::new(),
        })
    }

    /// Runs requests until `length` is reached or the trace ends.
    pub fn run(&mut self, length: Length) -> Result<(Outcome, Hits), Broken> {
        let latencies =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants");
        let tally = Tally::default();
        let (mut outcome, mut hits) = (Outcome { tally, latencies }, Hits::default());
        let start = Instant::now();
        loop {
            let most = match length {
                Length::Time(duration) if start.elapsed() >= duration => 0,
                Length::Time(_) => u64::MAX,
                Length::Requests(count) => count - outcome.tally.replies,
            };
            self.choose(most)?;
            if self.round.is_empty() {
                return Ok((outcome, hits));
            }
            self.get(&mut outcome)?;
            self.count(&mut outcome.tally, &mut hits);
            self.set_missed(&mut outcome.tally)?;
        }
    }

    /// Takes the requests of the next round, at most `most`.
    fn choose(&mut self, most: u64) -> Result<(), Broken> {
        let width = (self.connections.len() * self.options.depth) as u64;
        let width = width.min(most) as usize;
        self.round.clear();
        self.in_round.clear();
        while self.round.len() < width {
            let next = match self.next.take() {
                Some(record) => Some(record),
                None => self.source.next_record().map_err(Broken::Trace)?,
            };
            let Some(record) = next else {
                break;
            };
            if !self.in_round.insert(record.key) {
                self.next = Some(record);
                break;
            }
            self.round.push(record);
        }
        Ok(())
    }

    /// Sends the GETs of the round and notes the misses.
    fn get(&mut self, outcome: &mut Outcome) -> Result<(), Broken> {
        let shares = self.round.chunks(self.options.depth);
        let start = Instant::now();
        for (connection, share) in self.connections.iter_mut().zip(shares.clone()) {
            for record in share {
                let key = self.values.key(record.key);
                connection.queue_get(key);
            }
            connection.flush()?;
        }
        self.missed.clear();
        let mut first = 0;
        for (connection, share) in self.connections.iter_mut().zip(shares) {
            let tally = connection.receive(share.len() as u64)?;
            let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            outcome
                .latencies
                .saturating_record_n(nanoseconds, share.len() as u64);
            let missed = tally.missed.iter().flatten();
            self.missed
                .extend(missed.map(|&number| first + number as usize));
            outcome.tally.add_errors(tally);
            first += share.len();
        }
        Ok(())
    }

    fn count(&self, tally: &mut Tally, hits: &mut Hits) {
        tally.replies += self.round.len() as u64;
        tally.misses += self.missed.len() as u64;
        let bytes = |record: &Record| u64::from(record.bytes);
        let all: u64 = self.round.iter().map(bytes).sum();
        let missed = self.missed.iter().map(|&number| &self.round[number]);
        hits.requested_bytes += all;
        hits.bytes += all - missed.map(bytes).sum::<u64>();
        hits.count += (self.round.len() - self.missed.len()) as u64;
    }

    /// Stores what the round missed. An error, such as that of a value that is too large for the server, is counted.
    fn set_missed(&mut self, tally: &mut Tally) -> Result<(), Broken> {
        let shares = self.missed.chunks(self.options.depth);
        for (connection, share) in self.connections.iter_mut().zip(shares.clone()) {
            for &number in share {
                let record = self.round[number];
                let len = record.bytes as usize;
                connection.queue_set(self.values.key(record.key), len);
                for part in self.values.value(record.key, len) {
                    connection.queue(part)?;
                }
                connection.queue(b"\r\n")?;
            }
            connection.flush()?;
        }
        for (connection, share) in self.connections.iter_mut().zip(shares) {
            tally.add_errors(connection.receive(share.len() as u64)?);
        }
        Ok(())
    }
}

/// Where requests come from.
enum Source {
    Trace {
        trace: Trace,
        /// The least and the greatest size, instead of those in the trace.
        value_bytes: Option<(usize, usize)>,
    },
    Generated {
        keys: Keys,
        value_bytes: (usize, usize),
    },
}

impl Source {
    fn next_record(&mut self) -> io::Result<Option<Record>> {
        match self {
            Self::Trace { trace, value_bytes } => {
                let record = trace.next_record()?;
                Ok(record.map(|record| match value_bytes {
                    Some(range) => sized(record.key, *range),
                    None => record,
                }))
            }
            Self::Generated { keys, value_bytes } => Ok(Some(sized(keys.number(), *value_bytes))),
        }
    }
}

/// A request for a key whose value has a size in this range, always the same.
fn sized(key: u64, (least, most): (usize, usize)) -> Record {
    let extra = Random::new(key).below((most - least + 1) as u64) as usize;
    Record {
        key,
        bytes: (least + extra) as u32,
    }
}

/// The texts of keys and values.
struct Values {
    key: Vec<u8>,
    prefix: &'static [u8],
    is_hex: bool,
    text: Vec<u8>,
}

impl Values {
    fn new(options: &Options, random: &mut Random) -> Self {
        let alphabet = alphabet(options.shape.value_text);
        let is_trace = options
            .look_aside
            .as_ref()
            .is_some_and(|mode| mode.trace.is_some());
        Self {
            key: vec![b'0'; options.shape.key_bytes],
            prefix: if is_trace { b"" } else { Choice::KEY_PREFIX },
            is_hex: is_trace,
            text: (0..TEXT_BYTES)
                .map(|_| alphabet[random.below(alphabet.len() as u64) as usize])
                .collect(),
        }
    }

    /// The key with this number: in hexadecimal if it is from a trace, else in decimal after the prefix.
    fn key(&mut self, mut number: u64) -> &[u8] {
        let base = if self.is_hex { 16 } else { 10 };
        let (prefix, digits) = self.key.split_at_mut(self.prefix.len());
        prefix.copy_from_slice(self.prefix);
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
        }
        &self.key
    }

    /// The value of a key, in parts.
    fn value(&self, key: u64, len: usize) -> impl Iterator<Item = &[u8]> {
        let first = if len < TEXT_BYTES {
            Random::new(key).below((TEXT_BYTES - len) as u64) as usize
        } else {
            0
        };
        let text = &self.text[first..];
        let whole = len / text.len();
        std::iter::repeat_n(text, whole).chain(std::iter::once(&text[..len % text.len()]))
    }
}

/// A connection that is used by one request or many at a time, and waits for all replies.
struct Connection {
    protocol: Protocol,
    stream: Box<dyn Stream>,
    replies: Replies,
    unsent: Vec<u8>,
    buffer: Box<[u8]>,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Connection {
    fn open(address: &Address, protocol: Protocol) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match address {
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                Box::new(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                Box::new(stream)
            }
        };
        Ok(Self {
            protocol,
            stream,
            replies: Replies::new(protocol),
            unsent: Vec::new(),
            buffer: vec![0; READ_BYTES].into(),
        })
    }

    fn queue_get(&mut self, key: &[u8]) {
        match self.protocol {
            Protocol::Resp => {
                let _ = write!(self.unsent, "*2\r\n$3\r\nGET\r\n${}\r\n", key.len());
            }
            Protocol::Memcached => self.unsent.extend_from_slice(b"get "),
        }
        self.unsent.extend_from_slice(key);
        self.unsent.extend_from_slice(b"\r\n");
    }

    /// The beginning of a SET; the value and a line end follow.
    fn queue_set(&mut self, key: &[u8], len: usize) {
        match self.protocol {
            Protocol::Resp => {
                let _ = write!(self.unsent, "*3\r\n$3\r\nSET\r\n${}\r\n", key.len());
                self.unsent.extend_from_slice(key);
                let _ = write!(self.unsent, "\r\n${len}\r\n");
            }
            Protocol::Memcached => {
                self.unsent.extend_from_slice(b"set ");
                self.unsent.extend_from_slice(key);
                let _ = write!(self.unsent, " 0 0 {len}\r\n");
            }
        }
    }

    fn queue(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.unsent.extend_from_slice(bytes);
        if self.unsent.len() >= SEND_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Broken> {
        self.stream.write_all(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    /// Reads this many replies.
    fn receive(&mut self, count: u64) -> Result<Tally, Broken> {
        let mut tally = Tally {
            missed: Some(Vec::new()),
            ..Tally::default()
        };
        while tally.replies < count {
            let len = match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(Broken::ClosedByServer),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            self.replies
                .feed(&self.buffer[..len], &mut tally)
                .map_err(Broken::Malformed)?;
        }
        match tally.replies == count {
            true => Ok(tally),
            false => Err(Broken::UnexpectedReply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_key_never_changes() {
        let sizes: Vec<u32> = (0..100).map(|key| sized(key, (10, 20)).bytes).collect();
        assert!(sizes.iter().all(|bytes| (10..=20).contains(bytes)));
        assert!(sizes.iter().any(|bytes| *bytes != sizes[0]));
        assert_eq!(sized(7, (10, 20)), sized(7, (10, 20)));
    }
}
