//! One connection: sends the requests that a session draws, in random pieces, and checks that the replies stay in step.

use super::clock::{Mark, is_timeout};
use super::journal::Journal;
use super::replies::{
    SHOWN_CHARS, confirmation, is_error, is_mark, is_message, is_monitored, shorten,
};
use super::session::{Expect, Request, Session};
use super::{Fault, Round};
use crate::connection::request as encoded;
use crate::text::{quote, render};
use damselfly_protocol::client::{Decoder, NullKind, Value};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// How long a connection may make no progress, on the server's clock.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long one read or write may block before the other direction gets its turn.
const TURN: Duration = Duration::from_millis(2);
/// With more requests without a reply than this, the driver waits for the replies before it sends more.
const UNANSWERED_MAX: usize = 4000;
/// How many requests a report shows of a faulty connection.
const SHOWN: usize = 12;

/// Why a connection ends before its session does.
enum Stop {
    /// The server closed it, and was allowed to.
    Closed,
    /// Another connection has found a fault.
    RoundOver,
    Fault(String),
}

type Outcome<T = ()> = Result<T, Stop>;

/// How the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Closed once all replies have arrived.
    Settled,
    /// QUIT, perhaps followed by requests that get no reply.
    Quit,
    /// The client shuts down its sending side, and still gets the replies to the requests that it sent.
    HalfClosed,
    /// Closed at any point.
    Abrupt,
    /// Bytes that are not a valid request.
    Garbage,
}

/// What a connection has exchanged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Requests that were to be sent, without those behind QUIT and before an abrupt close.
    pub requests: u64,
    /// Replies and messages that arrived.
    pub replies: u64,
}

/// A connection in use.
pub struct Driver<'a> {
    round: &'a Round,
    slot: usize,
    session: Session<'a>,
    stream: TcpStream,
    decoder: Decoder,
    received: Vec<u8>,
    /// Requests that still wait for their reply, and how many confirmations the first one has had.
    expected: VecDeque<Request>,
    confirmed: usize,
    /// The last requests that were matched with their replies.
    matched: VecDeque<(Request, Value)>,
    /// How many commands the open transaction has queued.
    queued: usize,
    /// True if replies are not matched with requests.
    is_loose: bool,
    /// It has asked to become a replica, so that what it receives may be no replies: snapshots, and line ends while it waits for one.
    is_replica: bool,
    /// True if the server may close the connection.
    may_close: bool,
    /// When the connection began to wait for the server; `None` while there is progress.
    quiet_since: Option<Mark>,
    id: u64,
    counts: Counts,
}

impl<'a> Driver<'a> {
    /// Uses a new connection until it closes. Returns what it exchanged, or the fault.
    pub fn run(round: &'a Round, slot: usize, session: Session<'a>) -> Result<Counts, Box<Fault>> {
        let stream = TcpStream::connect(round.address);
        let prepared = stream.and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TURN))?;
            stream.set_write_timeout(Some(TURN))?;
            Ok(stream)
        });
        let stream = match prepared {
            Ok(stream) => stream,
            Err(error) => return Err(round.fault(slot, format!("cannot connect: {error}"))),
        };
        round.journals[slot].begin(session.label());
        let mut driver = Self {
            round,
            slot,
            session,
            stream,
            decoder: Decoder::default(),
            received: Vec::new(),
            expected: VecDeque::new(),
            confirmed: 0,
            matched: VecDeque::new(),
            queued: 0,
            is_loose: false,
            is_replica: false,
            may_close: false,
            quiet_since: None,
            id: 0,
            counts: Counts::default(),
        };
        match driver.live() {
            Ok(()) | Err(Stop::Closed | Stop::RoundOver) => {
                round.leave(slot);
                Ok(driver.counts)
            }
            Err(Stop::Fault(what)) => Err(driver.fault(&what)),
        }
    }

    fn journal(&self) -> &Journal {
        &self.round.journals[self.slot]
    }

    fn live(&mut self) -> Outcome {
        self.introduce()?;
        self.is_loose = self.session.random().one_in(5);
        // A loose session may send QUIT.
        self.may_close |= self.is_loose;
        let batches = *self.session.random().pick(&[1, 3, 10, 40]);
        for _ in 0..batches {
            if self.round.is_time_over() {
                break;
            }
            self.batch()?;
            // Sometimes the client sends more before it has all replies.
            let rests = self.session.random().one_in(3);
            if !rests || self.expected.len() > UNANSWERED_MAX {
                self.settle()?;
            }
        }
        self.end()
    }

    /// Asks for the connection's id, so that other connections can kill, unblock or redirect to it.
    fn introduce(&mut self) -> Outcome {
        self.may_close = self.round.may_be_closed(self.slot);
        let request = encoded(&["CLIENT", "ID"]);
        self.send(&request)?;
        let (reply, bytes) = loop {
            match self.decode(0)? {
                Some(decoded) => break decoded,
                None => self.read()?,
            }
        };
        self.received.drain(..bytes);
        let id = match reply {
            Value::Integer(id) => id,
            other if is_error(&other, b"BUSY") && self.round.conditions.busy => 0,
            other => {
                let what = format!("CLIENT ID got the reply {}", render(&other));
                return Err(Stop::Fault(what));
            }
        };
        self.id = u64::try_from(id).unwrap_or(0);
        self.round.enter(self.slot, self.id);
        Ok(())
    }

    /// Sends some requests in one write or in pieces.
    fn batch(&mut self) -> Outcome {
        let random = self.session.random();
        // The server parses 64 requests at a time, so disturbing requests are most likely to find faults near multiples of 64.
        let (count, boundary) = match random.below(12) {
            0..3 => (1, 0),
            3..5 => (2 + random.below(4), 0),
            5..7 => (10 + random.below(30), 0),
            7..10 => (60 + random.below(11), 64),
            10 => (120 + random.below(11), 128),
            _ => match random.one_in(4) {
                true => (1000, 64),
                false => (200, 128),
            },
        };
        let mut bytes = Vec::new();
        for place in 1..=count {
            let is_near = (place + 2..=place + 4).contains(&(boundary + 3));
            let request = if self.is_loose {
                let request = self.session.anything();
                self.is_replica |= request.asks_for_snapshot();
                request
            } else if is_near && self.session.random().one_in(2) {
                self.session.disturbing()
            } else if self.session.random().one_in(8) {
                match self.session.mark() {
                    Some(mark) => mark,
                    None => self.session.next(),
                }
            } else {
                self.session.next()
            };
            bytes.extend_from_slice(&request.bytes);
            self.expect(request);
        }
        if !self.is_loose && self.session.random().one_in(2) {
            for request in self.session.settle() {
                bytes.extend_from_slice(&request.bytes);
                self.expect(request);
            }
        }
        self.send_in_pieces(&bytes)
    }

    fn expect(&mut self, request: Request) {
        self.counts.requests += 1;
        self.expected.push_back(request);
    }

    fn send_in_pieces(&mut self, bytes: &[u8]) -> Outcome {
        let random = self.session.random();
        let cuts = match random.below(6) {
            0..3 => 0,
            3 => 1,
            4 => 1 + random.below(6),
            _ if bytes.len() < 200 => bytes.len(),
            _ => 20,
        };
        let mut places: Vec<usize> = (0..cuts).map(|_| random.below(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let pauses = random.one_in(3);
        let is_slow_reader = random.one_in(20);
        for piece in places.windows(2).filter(|piece| piece[0] < piece[1]) {
            self.send(&bytes[piece[0]..piece[1]])?;
            if pauses {
                let pause_ms = self.session.random().below(4) as u64;
                self.journal().pause(pause_ms);
                std::thread::sleep(Duration::from_millis(pause_ms));
            }
        }
        if is_slow_reader {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Sends bytes, and reads replies whenever the server accepts no more bytes.
    fn send(&mut self, bytes: &[u8]) -> Outcome {
        self.journal().sends(bytes);
        self.note_progress();
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => {
                    sent += count;
                    self.note_progress();
                }
                Err(error) if is_timeout(&error) => {
                    self.read()?;
                    self.take()?;
                }
                Err(error) => {
                    // Replies that the server sent before it closed the connection still count.
                    while self.read_once()? {
                        self.take()?;
                    }
                    return self.closed(&error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Waits until all requests have their replies.
    fn settle(&mut self) -> Outcome {
        if self.is_loose {
            // Only the replies that have arrived: how many will come is unknown.
            self.read()?;
            return self.take();
        }
        self.note_progress();
        loop {
            self.take()?;
            self.drop_unanswered();
            if self.expected.is_empty() {
                return Ok(());
            }
            self.read()?;
        }
    }

    /// Removes the requests at the front that have no reply.
    fn drop_unanswered(&mut self) {
        while let Some(request) = self.expected.front()
            && request.expect == Expect::Nothing
        {
            self.expected.pop_front();
        }
    }

    fn note_progress(&mut self) {
        self.quiet_since = None;
    }

    /// Reads once, waiting briefly for data. Without any, checks whether the connection has made no progress for too long.
    fn read(&mut self) -> Outcome {
        if self.read_once()? {
            return Ok(());
        }
        if self.round.is_over_for_all() {
            return Err(Stop::RoundOver);
        }
        let clock = &self.round.clock;
        let mark = self.quiet_since.get_or_insert_with(|| clock.mark());
        let waited = clock.since(mark);
        if waited > PATIENCE {
            return Err(Stop::Fault(format!(
                "no reply, although every thread of the server could run for {waited:.1?}"
            )));
        }
        Ok(())
    }

    /// Reads data that is there or arrives within a short time; true if there was some.
    fn read_once(&mut self) -> Outcome<bool> {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.closed("end of the stream").map(|()| false),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if is_timeout(&error) => Ok(false),
            Err(error) => self.closed(&error.to_string()).map(|()| false),
        }
    }

    /// Decides whether the server was allowed to close the connection.
    fn closed(&mut self, how: &str) -> Outcome {
        self.take()?;
        if self.may_close || self.round.is_over_for_all() {
            return Err(Stop::Closed);
        }
        Err(Stop::Fault(format!("closed by the server: {how}")))
    }

    /// Decodes the reply at `start` of the received bytes, and returns it with its length; `None` if it is incomplete.
    fn decode(&mut self, start: usize) -> Outcome<Option<(Value, usize)>> {
        let rest = &self.received[start..];
        let decoded = self.decoder.decode(rest);
        decoded.map_err(|error| {
            let shown = quote(&rest[..rest.len().min(SHOWN_CHARS)]);
            Stop::Fault(format!("{error}: {shown}"))
        })
    }

    /// Matches the received replies with the expected ones.
    fn take(&mut self) -> Outcome {
        if self.is_replica {
            self.received.clear();
            return Ok(());
        }
        let mut used = 0;
        while let Some((value, bytes)) = self.decode(used)? {
            used += bytes;
            self.counts.replies += 1;
            // Messages that other clients cause are not progress: the watchdog alone would keep a client in MONITOR busy.
            if !matches!(value, Value::Push(_)) && !is_monitored(&value) && !is_message(&value) {
                self.note_progress();
            }
            if !self.is_loose && self.fits(&value).map_err(Stop::Fault)? {
                self.match_first(value);
            }
        }
        self.received.drain(..used);
        Ok(())
    }

    /// Removes the first request, whose reply is complete.
    fn match_first(&mut self, value: Value) {
        let Some(request) = self.expected.pop_front() else {
            return;
        };
        let begins_anew = matches!(&value, Value::Simple(text) if text == b"RESET");
        if begins_anew || is_error(&value, b"EXECABORT") || request.bytes == encoded(&["DISCARD"]) {
            self.queued = 0;
        }
        self.matched.push_back((request, value));
        if self.matched.len() > SHOWN {
            self.matched.pop_front();
        }
    }

    /// True if a value completes the reply to the first request; an error if it can't belong to that reply.
    fn fits(&mut self, value: &Value) -> Result<bool, String> {
        self.drop_unanswered();
        let confirms = confirmation(value);
        if matches!(value, Value::Push(_)) && confirms.is_none() || is_monitored(value) {
            return Ok(false);
        }
        let Some(head) = self.expected.front() else {
            if self.session.takes_messages() && is_message(value) {
                return Ok(false);
            }
            let shown = shorten(&render(value));
            return Err(format!("a reply without a request: {shown}"));
        };
        if head.takes_messages && is_message(value) {
            return Ok(false);
        }
        let is_busy = self.round.conditions.busy && is_error(value, b"BUSY");
        let fits = match &head.expect {
            Expect::Confirm(name, count) => {
                if confirms.as_deref() == Some(name.as_bytes()) {
                    self.confirmed += 1;
                    if self.confirmed < *count {
                        return Ok(false);
                    }
                    self.confirmed = 0;
                    true
                } else {
                    false
                }
            }
            Expect::Mark(mark) => is_mark(value, mark) || is_busy,
            Expect::Queued => {
                let is_queued = *value == Value::Simple(b"QUEUED".to_vec());
                self.queued += usize::from(is_queued);
                is_queued || matches!(value, Value::Error(_)) || self.round.conditions.busy
            }
            Expect::Exec => {
                let queued = std::mem::take(&mut self.queued);
                match value {
                    Value::Array(items) => items.len() == queued,
                    Value::Null(NullKind::Array | NullKind::Resp3) | Value::Error(_) => true,
                    _ => false,
                }
            }
            Expect::Quit => *value == Value::Simple(b"OK".to_vec()),
            Expect::One => confirms.is_none() || !matches!(value, Value::Push(_)),
            Expect::Nothing => unreachable!("requests without a reply were removed"),
        };
        if !fits {
            return Err(format!(
                "expected {:?}, but got: {}",
                head.expect,
                shorten(&render(value))
            ));
        }
        Ok(true)
    }

    fn end(&mut self) -> Outcome {
        let ends = [
            End::Settled,
            End::Quit,
            End::HalfClosed,
            End::HalfClosed,
            End::Abrupt,
            End::Garbage,
        ];
        match *self.session.random().pick(&ends) {
            End::Settled if !self.is_loose => {
                let mut bytes = Vec::new();
                for request in self.session.settle() {
                    bytes.extend_from_slice(&request.bytes);
                    self.expect(request);
                }
                self.send(&bytes)?;
                self.settle()
            }
            End::Quit if !self.is_loose => {
                let quit = self.session.quit();
                let mut bytes = quit.bytes.clone();
                self.expect(quit);
                let ignored = self.session.random().below(4);
                for _ in 0..ignored {
                    bytes.extend(self.session.anything().bytes);
                }
                self.may_close = true;
                self.send(&bytes).or_else(allow_closed)?;
                // If the server closes with unread bytes, the kernel may drop replies.
                self.until_end(ignored == 0)
            }
            End::Abrupt => self.abrupt(),
            End::Garbage => {
                let garbage = self.session.garbage();
                self.settle()?;
                self.may_close = true;
                self.is_loose = true;
                self.send(&garbage).or_else(allow_closed)?;
                self.half_close();
                self.until_end(false)
            }
            End::Settled | End::Quit | End::HalfClosed => {
                self.half_close();
                self.until_end(!self.is_loose)
            }
        }
    }

    fn half_close(&mut self) {
        self.journal().note("half-close");
        // It fails if the server has closed the connection; the next read finds that out.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes the connection in the middle of a request, a blocking command, a transaction or replies.
    fn abrupt(&mut self) -> Outcome {
        let mut bytes = Vec::new();
        for _ in 0..self.session.random().below(8) {
            bytes.extend(self.session.anything().bytes);
        }
        let end = self.session.random().below(bytes.len() + 1);
        bytes.truncate(end);
        self.is_loose = true;
        self.may_close = true;
        self.send(&bytes).or_else(allow_closed)?;
        self.journal().note("close");
        Ok(())
    }

    /// Reads until the server closes the connection. With `all`, every request must get a reply, unless the server may abandon it.
    fn until_end(&mut self, all: bool) -> Outcome {
        self.may_close = true;
        self.note_progress();
        loop {
            match self.take().and_then(|()| self.read()) {
                Ok(()) => {}
                Err(Stop::Closed) => break,
                Err(stop) => return Err(stop),
            }
        }
        self.drop_unanswered();
        let conditions = self.round.conditions;
        // The reply to DEBUG SLEEP arrives before the sleep is over, so the last request that was matched counts too.
        let last = self.matched.back().map(|(request, _)| request);
        let gives_up = conditions.pauses
            || self.round.may_be_closed(self.slot)
            || self
                .expected
                .iter()
                .chain(last)
                .any(|request| request.waits);
        match self.expected.front() {
            Some(request) if all && !gives_up => Err(Stop::Fault(format!(
                "the server closed the connection without a reply to {:?} and {} more",
                request.expect,
                self.expected.len() - 1
            ))),
            _ => Ok(()),
        }
    }

    /// Describes a fault, with the requests that led to it.
    fn fault(&self, what: &str) -> Box<Fault> {
        let mut text = format!("{what}\n");
        if self.is_loose {
            text += "  (its replies were not matched with its requests)\n";
        }
        text += "  the last requests that got a reply:\n";
        for (request, value) in &self.matched {
            let bytes = shorten(&quote(&request.bytes));
            let value = shorten(&render(value)).replace('\n', "\n      ");
            text += &format!("    {:?}: {bytes}\n      {value}\n", request.expect);
        }
        text += &format!(
            "  {} replies arrived, {} are missing, {} bytes are undecoded; the first requests without a reply:\n",
            self.counts.replies,
            self.expected.len(),
            self.received.len()
        );
        for request in self.expected.iter().take(SHOWN) {
            let bytes = shorten(&quote(&request.bytes));
            text += &format!("    {:?}: {bytes}\n", request.expect);
        }
        text += &format!("  CLIENT LIST: {}", self.round.client_line(self.id));
        self.round.fault(self.slot, text)
    }
}

/// Accepts that the server has closed the connection.
fn allow_closed(stop: Stop) -> Outcome {
    match stop {
        Stop::Closed => Ok(()),
        other => Err(other),
    }
}
