//! A replica, as its primary sees it: what it is sent next, and what it has acknowledged.
//!
//! ```text
//!  PSYNC ─► WaitsForStart ─► WaitsForEnd ─► SendsFile ─► Online: the stream
//!   │        delay, other     of a file       │            ▲
//!   │        saves            (or Transfer, without disk) ─► WaitsForAck
//!   └─► CONTINUE ──────────────────────────────────────────┘
//! ```
//!
//! The connection of the replica stays with its thread, which sends whatever the socket takes (`event_loop/feeds.rs`). Other threads wake it
//! through [`Feed::wake`] when there is more.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::full_sync::Transfer;
use super::shared_bytes::Place;
use crate::clients::Client;
use crate::clock;

/// The position of a replica that has none yet.
const NOWHERE: u64 = u64::MAX;

/// How much of a file is read at a time.
const FILE_PIECE_BYTES: usize = 64 << 10;

/// What a replica can do, and how it presents itself: REPLCONF.
#[derive(Clone, Debug, Default)]
pub struct Abilities {
    /// The port that it listens on, or zero. Nobody has checked it.
    pub port: i64,
    /// The address under which others reach it; empty if it is that of the connection.
    pub address: String,
    /// It can read a snapshot of unknown length.
    pub eof: bool,
    /// It understands a new replication id in the reply to PSYNC.
    pub psync2: bool,
    /// It wants the snapshot only.
    pub rdb_only: bool,
    /// It wants no keys in the snapshot.
    pub without_keys: bool,
    /// It wants no functions in the snapshot.
    pub without_functions: bool,
    /// It has used SYNC, and so acknowledges nothing.
    pub is_old: bool,
}

/// How far the synchronisation of a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It waits for its full synchronisation to begin.
    WaitsForStart,
    /// A snapshot is being made for it; without a disk, it is sent at the same time.
    WaitsForEnd,
    /// The file of the snapshot is being sent.
    SendsFile,
    /// It has the snapshot and has not acknowledged that.
    WaitsForAck,
    /// It follows the stream.
    Online,
    /// It has the snapshot and wants no more.
    Done,
}

impl Status {
    /// As INFO and ROLE show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WaitsForStart | Self::WaitsForEnd => "wait_bgsave",
            Self::SendsFile => "send_bulk",
            Self::WaitsForAck | Self::Online => "online",
            Self::Done => "rdb_transmitted",
        }
    }
}

/// Where the next bytes come from.
enum Source {
    Nothing,
    Transfer { transfer: Arc<Transfer>, at: u64 },
    File { file: Arc<File>, at: u64, end: u64 },
    Stream,
}

/// What is sent next.
pub(super) struct Sending {
    /// Bytes that come before everything else.
    head: Vec<u8>,
    source: Source,
}

/// Bytes to send.
pub enum Piece {
    /// From this place in the block on.
    Block(Arc<Vec<u8>>, usize),
    /// There are none now.
    NoneNow,
    /// The snapshot could not be completed.
    Failed,
}

/// A replica of this server.
pub struct Feed {
    /// Its connection.
    pub client: Arc<Client>,
    /// What it has said about itself before it asked for the stream.
    pub abilities: Abilities,
    /// When it asked.
    pub since: Instant,
    waker: Arc<mio::Waker>,
    /// Its thread was woken and has not looked at it since.
    is_due: AtomicBool,
    /// Its connection shall be closed, or is.
    is_closed: AtomicBool,
    status: AtomicU8,
    sending: Mutex<Sending>,
    /// The position of the stream that is sent next.
    position: AtomicU64,
    acked: AtomicU64,
    acked_on_disk: AtomicU64,
    /// When it last acknowledged something, in milliseconds since the epoch.
    acked_ms: AtomicI64,
    /// When its socket last took something, or there was nothing to take, likewise.
    sent_ms: AtomicI64,
}

impl Feed {
    /// A replica that waits for its full synchronisation.
    pub fn new(client: Arc<Client>, abilities: Abilities, waker: Arc<mio::Waker>) -> Self {
        Self {
            client,
            abilities,
            since: Instant::now(),
            waker,
            is_due: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            status: AtomicU8::new(Status::WaitsForStart as u8),
            sending: Mutex::new(Sending {
                head: Vec::new(),
                source: Source::Nothing,
            }),
            position: AtomicU64::new(NOWHERE),
            acked: AtomicU64::new(0),
            acked_on_disk: AtomicU64::new(0),
            acked_ms: AtomicI64::new(clock::now_ms()),
            sent_ms: AtomicI64::new(clock::now_ms()),
        }
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        const ALL: [Status; 6] = [
            Status::WaitsForStart,
            Status::WaitsForEnd,
            Status::SendsFile,
            Status::WaitsForAck,
            Status::Online,
            Status::Done,
        ];
        ALL[usize::from(self.status.load(SeqCst))]
    }

    fn set_status(&self, status: Status) {
        self.status.store(status as u8, SeqCst);
    }

    /// True if it follows the stream.
    pub fn is_online(&self) -> bool {
        self.status() == Status::Online
    }

    /// True if INFO shows it as online: it follows the stream, or has its snapshot and will follow once it acknowledges that. As in Redis,
    /// `min-replicas-to-write` counts it from then on.
    pub fn is_shown_online(&self) -> bool {
        matches!(self.status(), Status::WaitsForAck | Status::Online)
    }

    /// Its address, as INFO shows it.
    pub fn address(&self) -> &str {
        match self.abilities.address.as_str() {
            "" => {
                let address = self.client.address.as_str();
                let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip);
                ip.trim_start_matches('[').trim_end_matches(']')
            }
            address => address,
        }
    }

    /// Its name in the log: address and port.
    pub fn name(&self) -> String {
        match self.abilities.port {
            0 => format!("client id #{}", self.client.id),
            port => format!("{}:{port}", self.address()),
        }
    }

    /// Makes its thread look at it.
    pub fn wake(&self) {
        if !self.is_due.swap(true, SeqCst)
            && let Err(error) = self.waker.wake()
        {
            log::warn!("Can't wake a thread: {error}");
        }
    }

    /// True after [`Feed::wake`].
    pub fn is_due(&self) -> bool {
        self.is_due.load(Relaxed)
    }

    /// True once after [`Feed::wake`].
    pub fn take_due(&self) -> bool {
        self.is_due.load(Relaxed) && self.is_due.swap(false, SeqCst)
    }

    /// Makes its thread close the connection.
    pub fn close(&self) {
        self.is_closed.store(true, SeqCst);
        self.wake();
    }

    /// True once its connection shall be closed, or is.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(SeqCst)
    }

    /// The position of the stream that it needs next, if it has one.
    pub fn position(&self) -> Option<u64> {
        Some(self.position.load(SeqCst)).filter(|&position| position != NOWHERE)
    }

    /// Sets where its stream begins. The caller has locked the stream, which has this position.
    pub(super) fn begin_at(&self, position: u64) {
        self.position.store(position, SeqCst);
        self.acked.store(position, SeqCst);
    }

    /// Continues with the stream, after this line.
    pub(super) fn go_online(&self, head: Vec<u8>) {
        let mut sending = self.sending();
        sending.head.extend_from_slice(&head);
        sending.source = Source::Stream;
        self.acked_ms.store(clock::now_ms(), Relaxed);
        self.set_status(Status::Online);
    }

    /// A snapshot for it has begun.
    pub(super) fn note_start(&self) {
        self.set_status(Status::WaitsForEnd);
    }

    /// The position of the snapshot is known: sends this line, and then the snapshot as it is made, if there is no file.
    pub(super) fn begin_snapshot(&self, head: Vec<u8>, transfer: Option<Arc<Transfer>>) {
        let mut sending = self.sending();
        sending.head.extend_from_slice(&head);
        if let Some(transfer) = transfer {
            sending.source = Source::Transfer { transfer, at: 0 };
        }
        drop(sending);
        self.wake();
    }

    /// The file of the snapshot is complete and has this length.
    pub(super) fn send_file(&self, file: Arc<File>, bytes: u64) {
        let mut sending = self.sending();
        sending
            .head
            .extend_from_slice(format!("${bytes}\r\n").as_bytes());
        sending.source = Source::File {
            file,
            at: 0,
            end: bytes,
        };
        self.set_status(Status::SendsFile);
        drop(sending);
        self.wake();
    }

    /// Keeps the connection alive while the replica waits for the snapshot: a line feed, which it passes over.
    pub(super) fn keep_alive(&self) {
        let is_waiting = match self.status() {
            Status::WaitsForStart => true,
            Status::WaitsForEnd => matches!(self.sending().source, Source::Nothing),
            Status::SendsFile | Status::WaitsForAck | Status::Online | Status::Done => false,
        };
        if is_waiting {
            self.sending().head.push(b'\n');
            self.wake();
        }
    }

    /// Notes, once per second, if there is nothing to send: the replica can't be late with that. One that shares its snapshot with a slow one is
    /// without anything to send until that is closed, and then has its whole time.
    pub(super) fn note_if_idle(&self, now_ms: i64) {
        let gets_snapshot = matches!(self.status(), Status::WaitsForEnd | Status::SendsFile);
        if gets_snapshot && matches!(self.next_piece(|_| None), Piece::NoneNow) {
            self.sent_ms.store(now_ms, Relaxed);
        }
    }

    /// What to send next. `stream` reads the stream at a position.
    pub fn next_piece(&self, stream: impl FnOnce(u64) -> Option<Place>) -> Piece {
        let mut sending = self.sending();
        if !sending.head.is_empty() {
            return Piece::Block(Arc::new(sending.head.clone()), 0);
        }
        let block = match &mut sending.source {
            Source::Nothing => None,
            Source::Transfer { transfer, at } => match transfer.read(*at) {
                Ok(Some(block)) => Some(block),
                Ok(None) => None,
                Err(_) => return Piece::Failed,
            },
            Source::File { file, at, end } => {
                let wanted = (*end - *at).min(FILE_PIECE_BYTES as u64) as usize;
                let mut piece = vec![0; wanted];
                if let Err(error) = file.read_exact_at(&mut piece, *at) {
                    log::warn!("Read error sending DB to replica: {error}");
                    return Piece::Failed;
                }
                Some((Arc::new(piece), 0))
            }
            Source::Stream => stream(self.position.load(SeqCst)),
        };
        block.map_or(Piece::NoneNow, |(block, at)| Piece::Block(block, at))
    }

    /// Notes that so many bytes of the last piece were sent.
    pub fn note_sent(&self, bytes: usize) {
        self.sent_ms.store(clock::now_ms(), Relaxed);
        let mut sending = self.sending();
        if !sending.head.is_empty() {
            sending.head.drain(..bytes);
            return;
        }
        let is_complete = match &mut sending.source {
            Source::Nothing => false,
            Source::Transfer { transfer, at } => {
                *at += bytes as u64;
                transfer.note_read(self.client.id, *at)
            }
            Source::File { at, end, .. } => {
                *at += bytes as u64;
                *at == *end
            }
            Source::Stream => {
                self.position.fetch_add(bytes as u64, SeqCst);
                false
            }
        };
        if is_complete {
            let sent_file = matches!(sending.source, Source::File { .. });
            sending.source = Source::Nothing;
            drop(sending);
            self.end_snapshot(sent_file);
        }
    }

    /// Its connection is closed.
    pub(super) fn leave(&self) {
        self.is_closed.store(true, SeqCst);
        if let Source::Transfer { transfer, .. } = &self.sending().source {
            transfer.remove(self.client.id);
        }
    }

    /// All of the snapshot was sent.
    fn end_snapshot(&self, sent_file: bool) {
        self.acked_ms.store(clock::now_ms(), Relaxed);
        if self.abilities.rdb_only {
            self.set_status(Status::Done);
            log::info!(
                "RDB transfer completed, rdb only replica ({}) should be disconnected asynchronously",
                self.name()
            );
        } else if sent_file {
            self.go_online(Vec::new());
            log::info!("Synchronization with replica {} succeeded", self.name());
        } else {
            // A replica recognizes the end by the last bytes that it has received: nothing may follow yet.
            self.set_status(Status::WaitsForAck);
            log::info!(
                "Streamed replica synchronization with replica {} succeeded. Waiting for REPLCONF ACK from replica to enable streaming",
                self.name()
            );
        }
    }

    /// Notes that it has sent something.
    pub fn note_alive(&self) {
        self.acked_ms.store(clock::now_ms(), Relaxed);
    }

    /// Notes an acknowledgement.
    pub fn note_ack(&self, offset: u64, on_disk: Option<u64>) {
        self.acked.fetch_max(offset, SeqCst);
        if let Some(on_disk) = on_disk {
            self.acked_on_disk.fetch_max(on_disk, SeqCst);
        }
        self.acked_ms.store(clock::now_ms(), Relaxed);
        if self.status() == Status::WaitsForAck {
            self.go_online(Vec::new());
            self.wake();
        }
    }

    /// Up to which offset it has acknowledged the stream.
    pub fn acked(&self) -> u64 {
        self.acked.load(SeqCst)
    }

    /// Up to which offset it has the stream on disk.
    pub fn acked_on_disk(&self) -> u64 {
        self.acked_on_disk.load(SeqCst)
    }

    /// For how long it has acknowledged nothing, in seconds.
    pub fn lag_s(&self, now_ms: i64) -> i64 {
        now_ms / 1000 - self.acked_ms.load(Relaxed) / 1000
    }

    /// True if it has had its chance for so many seconds and done nothing.
    pub(super) fn is_timed_out(&self, now_ms: i64, timeout_s: i64) -> bool {
        let is_late = |since: &AtomicI64| (now_ms - since.load(Relaxed)) / 1000 > timeout_s;
        match self.status() {
            Status::WaitsForStart => false,
            Status::WaitsForEnd | Status::SendsFile => is_late(&self.sent_ms),
            // A replica that loads a large snapshot sends line feeds meanwhile, which count as acknowledgements.
            Status::WaitsForAck => !self.abilities.is_old && is_late(&self.acked_ms),
            Status::Online => !self.abilities.is_old && is_late(&self.acked_ms),
            Status::Done => is_late(&self.sent_ms),
        }
    }
}
