//! The thread of a replica's link: connects, introduces itself, and then applies the stream until something fails.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use damselfly_config::{Config, Origin};

use super::apply::{Applier, Fault};
use super::connection::{self, Connection};
use super::link::{Phase, Task};
use super::receive;
use super::requests::{Chunk, Queue};
use crate::clients::{Client, NewClient};
use crate::clock;
use crate::event_loop::parser::Protocol;
use crate::persistence::aof::Mode;
use crate::shared::Shared;

/// How often a replica says how far it is.
const ACK_INTERVAL: Duration = Duration::from_secs(1);

/// No more than this is parsed ahead of what was applied.
const IN_FLIGHT_BYTES_MAX: u64 = 8 << 20;

/// How long this thread waits for the one that applies before it looks again.
const SHORT_WAIT: Duration = Duration::from_millis(1);

/// The same while something is not on disk.
const UNSYNCED_INTERVAL: Duration = Duration::from_millis(20);

/// After a failure, the next attempt begins this long after the last one began.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The same after a link that was up.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);

/// How many hexadecimal digits a replication id has.
const ID_LENGTH: usize = 40;

/// No stream gets as long as this.
const OFFSET_MAX: u64 = 1 << 62;

/// How long the log of this server may take to become part of the stream before the thread looks again.
const SETTLE_INTERVAL: Duration = Duration::from_millis(1);

/// Why an attempt ended.
pub(super) enum Ended {
    /// The primary changes, or the server stops.
    Replaced,
    /// One line for the log.
    Failed(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// How the primary answers the request for its stream.
enum Answer {
    Continue { id: Option<String> },
    Full { id: String, offset: u64 },
    Later,
    NotSupported,
}

/// Follows primaries until the server stops.
pub(super) fn run(shared: &Arc<Shared>) {
    let link = &shared.replication.link;
    while let Some(task) = link.next_task(shared) {
        let (started, generation) = (Instant::now(), task.generation);
        let mut attempt = Attempt {
            shared,
            config: shared.config(),
            task,
            was_up: false,
        };
        let ended = attempt.run();
        let was_up = attempt.was_up;
        link.set_socket(generation, None);
        link.read_to.store(0, Relaxed);
        link.set_phase(shared, generation, Phase::Connect);
        if let Ended::Failed(why) = ended
            && link.is_current(generation)
            && !shared.stopping.load(Relaxed)
        {
            log::warn!("MASTER <-> REPLICA sync: {why}");
        }
        let interval = match was_up {
            true => RECONNECT_INTERVAL,
            false => RETRY_INTERVAL,
        };
        link.pause(shared, generation, started + interval);
    }
}

/// One connection to a primary.
pub(super) struct Attempt<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) config: Arc<Config>,
    pub(super) task: Task,
    /// The stream was applied.
    was_up: bool,
}

impl Attempt<'_> {
    fn link(&self) -> &super::link::Link {
        &self.shared.replication.link
    }

    fn set_phase(&self, phase: Phase) {
        self.link()
            .set_phase(self.shared, self.task.generation, phase);
    }

    /// True if the attempt shall end.
    pub(super) fn ends(&self) -> bool {
        !self.link().is_current(self.task.generation) || self.shared.stopping.load(Relaxed)
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.config.repl_timeout_s))
    }

    fn run(&mut self) -> Ended {
        match self.follow() {
            Ok(()) => Ended::Replaced,
            Err(ended) => ended,
        }
    }

    fn follow(&mut self) -> Result<(), Ended> {
        while !self.shared.replication.is_settled() {
            if self.ends() {
                return Err(Ended::Replaced);
            }
            thread::sleep(SETTLE_INTERVAL);
        }
        log::info!("MASTER <-> REPLICA sync started");
        self.set_phase(Phase::Connecting);
        let (primary, config) = (&self.task.primary, &self.config);
        let mut connection = connection::connect(primary, config, self.timeout(), &|| self.ends())?;
        let socket = connection.socket()?;
        if !self.link().set_socket(self.task.generation, Some(socket)) {
            return Err(Ended::Replaced);
        }
        self.set_phase(Phase::Handshake);
        self.introduce(&mut connection)?;
        let answer = self.request_stream(&mut connection)?;
        if self.task.fails_over {
            let is_accepted = matches!(answer, Answer::Continue { .. } | Answer::Full { .. });
            self.link().forget_failover();
            let answer = match is_accepted {
                true => Ok(()),
                false => Err(String::from("Failover target rejected psync request")),
            };
            let replication = &self.shared.replication;
            replication.failover_ended(self.shared, answer);
            if !is_accepted {
                return Err(Ended::Replaced);
            }
        }
        match answer {
            Answer::Later => return Err(Ended::Replaced),
            Answer::Continue { id } => {
                log::info!("MASTER <-> REPLICA sync: Master accepted a Partial Resynchronization.");
                if let Some(id) = id {
                    let _tx = super::link::lock_all(self.shared);
                    if self.ends() {
                        return Err(Ended::Replaced);
                    }
                    self.shared.replication.change_id(self.shared, &id);
                }
            }
            Answer::Full { id, offset } => {
                log::info!("Full resync from master: {id}:{offset}");
                self.set_phase(Phase::Transfer);
                receive::receive(self, &mut connection, &id, offset)?;
                log::info!("MASTER <-> REPLICA sync: Finished with success");
            }
            Answer::NotSupported => {
                log::info!("Retrying with SYNC...");
                connection.send_raw(b"SYNC\r\n")?;
                self.set_phase(Phase::Transfer);
                // Without an id, the next connection begins anew.
                receive::receive(self, &mut connection, super::NO_ID, 0)?;
            }
        }
        self.was_up = true;
        self.set_phase(Phase::Connected);
        let client = self.add_client(&connection);
        let ended = self.apply_stream(&mut connection, &client);
        self.shared.clients.remove(client.id);
        ended
    }

    /// Sends a command and waits for the line that answers it.
    fn ask(&self, connection: &mut Connection, words: &[&[u8]]) -> Result<String, Ended> {
        connection.send(words)?;
        connection.line(self.timeout()).map_err(|error| {
            Ended::Failed(format!(
                "Master did not respond to command during SYNC handshake: {error}"
            ))
        })
    }

    /// The commands before the request for the stream.
    fn introduce(&self, connection: &mut Connection) -> Result<(), Ended> {
        let config = &self.config;
        let pong = self.ask(connection, &[b"PING"])?;
        let is_accepted = ["+", "-NOAUTH", "-NOPERM", "-ERR operation not permitted"]
            .iter()
            .any(|start| pong.starts_with(start));
        if !is_accepted {
            return Err(format!("Error reply to PING from master: '{pong}'").into());
        }
        log::info!("Master replied to PING, replication can continue...");
        if !config.masterauth.is_empty() {
            let (user, password) = (config.masteruser.as_bytes(), config.masterauth.as_bytes());
            let answer = match user {
                [] => self.ask(connection, &[b"AUTH", password])?,
                _ => self.ask(connection, &[b"AUTH", user, password])?,
            };
            if answer.starts_with('-') {
                return Err(format!("Unable to AUTH to MASTER: {answer}").into());
            }
        }
        let port = match config.replica_announce_port {
            0 if config.tls_replication && config.tls_port > 0 => config.tls_port,
            0 => config.port,
            port => port,
        };
        let (port, ip) = (port.to_string(), config.replica_announce_ip.as_bytes());
        let mut facts: Vec<Vec<&[u8]>> = vec![vec![b"listening-port", port.as_bytes()]];
        if !ip.is_empty() {
            facts.push(vec![b"ip-address", ip]);
        }
        facts.push(vec![b"capa", b"eof", b"capa", b"psync2"]);
        facts.push(vec![b"version", crate::REDIS_VERSION.as_bytes()]);
        for fact in facts {
            let words = [&[&b"REPLCONF"[..]], &fact[..]].concat();
            let answer = self.ask(connection, &words)?;
            if answer.starts_with('-') {
                log::info!(
                    "(Non critical) Master does not understand REPLCONF {}: {answer}",
                    fact[0].escape_ascii()
                );
            }
        }
        Ok(())
    }

    /// Asks for the stream from the end of the own history on.
    fn request_stream(&self, connection: &mut Connection) -> Result<Answer, Ended> {
        let history = self.shared.replication.history();
        let (id, offset) = match self.task.has_history && history.id != super::NO_ID {
            true => (history.id, (history.offset + 1).to_string()),
            false => ("?".to_owned(), "-1".to_owned()),
        };
        match id.as_str() {
            "?" => log::info!("Partial resynchronization not possible (no cached master)"),
            _ => log::info!("Trying a partial resynchronization (request {id}:{offset})."),
        }
        let mut words: Vec<&[u8]> = vec![b"PSYNC", id.as_bytes(), offset.as_bytes()];
        if self.task.fails_over {
            words.push(b"FAILOVER");
        }
        connection.send(&words)?;
        let answer = loop {
            // Empty lines keep the connection alive until the primary can answer.
            let line = connection.line(self.timeout()).map_err(|error| {
                Ended::Failed(format!(
                    "Master did not reply to PSYNC, will try later: {error}"
                ))
            })?;
            if !line.is_empty() {
                break line;
            }
            if self.ends() {
                return Err(Ended::Replaced);
            }
        };
        self.parse_answer(&answer)
    }

    fn parse_answer(&self, answer: &str) -> Result<Answer, Ended> {
        let words: Vec<&str> = answer.split(' ').collect();
        match words[..] {
            ["+FULLRESYNC", id, offset] if is_id(id) => match offset.parse::<u64>() {
                Ok(offset) if offset <= OFFSET_MAX => Ok(Answer::Full {
                    id: id.to_owned(),
                    offset,
                }),
                Ok(_) | Err(_) => Err(wrong_syntax()),
            },
            ["+FULLRESYNC", ..] => Err(wrong_syntax()),
            ["+CONTINUE", ref rest @ ..] if self.task.has_history => {
                log::info!("Successful partial resynchronization with master.");
                let id = rest
                    .first()
                    .filter(|id| is_id(id))
                    .map(|id| (*id).to_owned());
                Ok(Answer::Continue { id })
            }
            ["-NOMASTERLINK" | "-LOADING" | "-BUSY", ..] => {
                log::info!(
                    "Master is currently unable to PSYNC but should be in the future: {answer}"
                );
                Ok(Answer::Later)
            }
            [error, ..] if error.starts_with("-ERR") => {
                log::info!("Master does not support PSYNC or is in error state (reply: {answer})");
                Ok(Answer::NotSupported)
            }
            _ => {
                log::warn!("Unexpected reply to PSYNC from master: {answer}");
                Ok(Answer::NotSupported)
            }
        }
    }

    /// Shows the link in CLIENT LIST.
    fn add_client(&self, connection: &Connection) -> Arc<Client> {
        let (address, local_address, fd) = connection.facts();
        self.shared.clients.add(NewClient {
            id: self.shared.clients.next_id(),
            address,
            local_address,
            origin: Origin::Remote,
            unix: false,
            encryption: String::new(),
            stream_bytes: 0,
            speaks: Protocol::Resp,
            fd,
            thread: 0,
            place: usize::MAX,
            account: self.shared.users.default_account().clone(),
            now_ms: clock::now_ms(),
            is_primary: true,
        })
    }

    /// Applies the stream until the connection ends, with a thread of its own: this one reads and parses.
    fn apply_stream(&self, connection: &mut Connection, client: &Client) -> Result<(), Ended> {
        let (chunks, received) = mpsc::channel();
        let fault = Mutex::new(None);
        let fault_slot = &fault;
        let mut ended = thread::scope(|scope| {
            let applying = thread::Builder::new()
                .name(String::from("apply"))
                .spawn_scoped(scope, move || {
                    self.apply_chunks(received, client, fault_slot)
                })?;
            let ended = self.read_stream(connection, client, &chunks);
            drop(chunks);
            match applying.join() {
                Ok(()) => ended,
                Err(_) => Err(Ended::Failed(String::from(
                    "a bug in Damselfly: the thread that applies the stream has panicked; please report this with the lines above",
                ))),
            }
        });
        let fault = fault.into_inner().unwrap_or_else(PoisonError::into_inner);
        match fault {
            None => {}
            Some(Fault::Ended) => ended = Err(Ended::Replaced),
            Some(Fault::Stream(why)) => ended = Err(cannot_apply(&why)),
        }
        ended
    }

    /// Applies what the other thread has read, until it ends.
    fn apply_chunks(
        &self,
        chunks: mpsc::Receiver<Chunk>,
        client: &Client,
        fault: &Mutex<Option<Fault>>,
    ) {
        let link = self.link();
        link.begin_applying();
        let (db, address) = (link.stream_db.load(Relaxed), client.address.clone());
        let mut applier = Applier::new(self.shared, self.task.generation, db, address);
        for chunk in chunks {
            if let Err(why) = applier.apply(chunk) {
                *fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                link.interrupt_connection(self.task.generation);
                return;
            }
            client.db.store(link.stream_db.load(Relaxed), Relaxed);
        }
    }

    /// Reads the stream, and acknowledges what was applied.
    fn read_stream(
        &self,
        connection: &mut Connection,
        client: &Client,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), Ended> {
        let (shared, link) = (self.shared, self.link());
        let applied = || shared.replication.history().offset;
        let (mut queue, mut sent) = (Queue::default(), applied());
        let mut acknowledgements = Acknowledgements::default();
        connection.last_read = Instant::now();
        loop {
            if self.ends() {
                return Err(Ended::Replaced);
            }
            if client.killed.load(Relaxed) {
                return Err(String::from("the connection was closed by CLIENT KILL").into());
            }
            self.acknowledge_if_due(connection, &mut acknowledgements)?;
            if sent.saturating_sub(applied()) > IN_FLIGHT_BYTES_MAX {
                thread::sleep(SHORT_WAIT);
                continue;
            }
            connection.set_wait(acknowledgements.wait())?;
            let read = connection.fill()?;
            let now_ms = clock::now_ms();
            if read > 0 {
                link.last_read_ms.store(now_ms, Relaxed);
                client.active_ms.store(now_ms, Relaxed);
                link.input_bytes.fetch_add(read as u64, Relaxed);
            }
            let timeout_s = shared.config().repl_timeout_s;
            let timeout = Duration::from_secs(u64::from(timeout_s));
            if read == 0 && connection.last_read.elapsed() > timeout {
                return Err(String::from("MASTER timeout: no data nor PING received...").into());
            }
            let unused = connection.unused();
            link.read_to.store(sent + unused.len() as u64, Relaxed);
            let bytes_max = shared.config().repl_transaction_bytes_max;
            if unused.len() as u64 > bytes_max {
                return Err(self.begin_anew(&format!(
                    "a transaction or command has more than {bytes_max} bytes, which the option 'repl-transaction-limit' allows"
                )));
            }
            loop {
                let unused = connection.unused();
                let parsed = queue.parse(unused);
                let Some(chunk) = queue.take_complete(unused) else {
                    match parsed {
                        Ok(()) => break,
                        Err(why) => return Err(self.begin_anew(&why)),
                    }
                };
                connection.consume(chunk.bytes.len());
                sent += chunk.bytes.len() as u64;
                if chunk.wants_ack() {
                    acknowledgements.wanted_at = Some(sent);
                }
                if chunks.send(chunk).is_err() {
                    // The other thread says why.
                    return Err(Ended::Replaced);
                }
            }
        }
    }

    /// Ends the link because of what the primary sent. It would send the same again, so the next link begins with a full synchronisation.
    fn begin_anew(&self, why: &str) -> Ended {
        self.link().set_has_history(false);
        cannot_apply(&format!(
            "{why}. The next link begins with a full synchronisation"
        ))
    }

    /// Sends an acknowledgement if one is due.
    fn acknowledge_if_due(
        &self,
        connection: &mut Connection,
        acknowledgements: &mut Acknowledgements,
    ) -> Result<(), Ended> {
        let now = Instant::now();
        let is_wanted = acknowledgements
            .wanted_at
            .is_some_and(|wanted| self.shared.replication.history().offset >= wanted);
        if is_wanted || acknowledgements.next.is_none_or(|next| now >= next) {
            self.acknowledge(connection, &mut acknowledgements.unsynced)?;
            acknowledgements.next = Some(now + acknowledgements.unsynced.interval());
        }
        if is_wanted {
            acknowledgements.wanted_at = None;
        }
        Ok(())
    }

    /// Tells the primary how far this replica is, in memory and, with an append-only file, on disk.
    fn acknowledge(
        &self,
        connection: &mut Connection,
        unsynced: &mut Unsynced,
    ) -> Result<(), Ended> {
        let offset = self.shared.replication.history().offset;
        let on_disk = unsynced.note(self.shared, offset);
        let (offset, on_disk) = (offset.to_string(), on_disk.map(|offset| offset.to_string()));
        let mut words: Vec<&[u8]> = vec![b"REPLCONF", b"ACK", offset.as_bytes()];
        if let Some(on_disk) = &on_disk {
            words.extend([&b"FACK"[..], on_disk.as_bytes()]);
        }
        connection.send(&words)?;
        Ok(())
    }
}

fn cannot_apply(why: &str) -> Ended {
    Ended::Failed(format!("the stream of the master can't be applied: {why}"))
}

/// What the primary is told, and when.
#[derive(Default)]
struct Acknowledgements {
    /// When the next one is due; `None` for now.
    next: Option<Instant>,
    /// The primary has asked for one, which is due when this offset was applied.
    wanted_at: Option<u64>,
    unsynced: Unsynced,
}

impl Acknowledgements {
    /// How long a read may wait.
    fn wait(&self) -> Duration {
        match (self.wanted_at, self.next) {
            (Some(_), _) => SHORT_WAIT,
            (None, Some(next)) => next.saturating_duration_since(Instant::now()),
            (None, None) => Duration::ZERO,
        }
    }
}

/// What was applied but is not on disk: offsets, and the records of the log that have the changes up to them.
#[derive(Default)]
struct Unsynced {
    waiting: VecDeque<(u64, u64)>,
    on_disk: u64,
}

impl Unsynced {
    /// Notes an offset that was applied. Returns up to where all is on disk; `None` without an append-only file.
    fn note(&mut self, shared: &Shared, offset: u64) -> Option<u64> {
        if shared.aof.mode() != Mode::On {
            self.waiting.clear();
            return None;
        }
        if self.waiting.back().is_none_or(|&(last, _)| last < offset) && offset > self.on_disk {
            self.waiting
                .push_back((offset, shared.engine.log.appended()));
        }
        while let Some(&(offset, record)) = self.waiting.front()
            && shared.aof.has(record)
        {
            self.on_disk = offset;
            self.waiting.pop_front();
        }
        Some(self.on_disk)
    }

    /// When the next acknowledgement is due.
    fn interval(&self) -> Duration {
        match self.waiting.is_empty() {
            true => ACK_INTERVAL,
            false => UNSYNCED_INTERVAL,
        }
    }
}

fn wrong_syntax() -> Ended {
    Ended::Failed(String::from(
        "Master replied with wrong +FULLRESYNC syntax.",
    ))
}

fn is_id(id: &str) -> bool {
    id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
