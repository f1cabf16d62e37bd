//! A disk whose fsync takes long, or that fails: who waits for it, who leaves, and who does not notice.

mod common;
#[path = "common/disk.rs"]
mod disk;

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use damselfly_config::{AppendFsync, Config, PrimaryAddress};
use damselfly_server::persistence::aof::Mode;

use common::{Client, TestServer, until};
use disk::{SimulatedDisk, Step};

/// A gate in front of every fsync.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_closed: bool,
    /// How many fsyncs wait.
    waiting: usize,
    /// How many have passed.
    passed: usize,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        while state.is_closed {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
        state.passed += 1;
    }

    fn set_closed(&self, is_closed: bool) {
        self.state.lock().unwrap().is_closed = is_closed;
        self.changed.notify_all();
    }

    fn has_waiting(&self) -> bool {
        self.state.lock().unwrap().waiting > 0
    }

    fn passed(&self) -> usize {
        self.state.lock().unwrap().passed
    }
}

/// Opens the gate even if the test fails, so that the server can stop.
struct OpenAtEnd<'a>(&'a Gate);

impl Drop for OpenAtEnd<'_> {
    fn drop(&mut self) {
        self.0.set_closed(false);
    }
}

/// A server whose append-only file is on a disk that does this before each fsync.
fn start_with(
    threads: usize,
    appendfsync: AppendFsync,
    before_fsync: impl Fn() + Send + Sync + 'static,
) -> TestServer {
    let disk = SimulatedDisk::default();
    disk.set_delay(Arc::new(move |step| {
        if let Step::Sync(_) = step {
            before_fsync();
        }
    }));
    let server = TestServer::try_prepared(
        |config: &mut Config| {
            config.threads = threads;
            config.appendonly = true;
            config.appendfsync = appendfsync;
        },
        |server| server.shared().aof.use_storage(Arc::new(disk.clone())),
    );
    server.unwrap()
}

/// A server with one data thread, and a disk behind a gate.
fn start(appendfsync: AppendFsync) -> (TestServer, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let at_fsync = gate.clone();
    let server = start_with(1, appendfsync, move || at_fsync.pass());
    (server, gate)
}

fn info(client: &mut Client, field: &str) -> String {
    let text = client.text("INFO");
    let start = format!("{field}:");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_default().to_owned()
}

#[test]
fn with_everysec_nobody_waits_for_a_slow_fsync() {
    const WRITES: usize = 500;
    let (server, gate) = start(AppendFsync::EverySecond);
    let (mut one, mut other) = (server.client(), server.client());
    let _open = OpenAtEnd(&gate);
    gate.set_closed(true);
    assert_eq!(one.run("SET before x"), "OK");
    until("an fsync waits", || gate.has_waiting());
    // All of this is answered while that fsync has not returned.
    for number in 0..WRITES {
        assert_eq!(one.run(&format!("SET key:{number} {number}")), "OK");
        assert_eq!(other.number("INCR counter"), number as i64 + 1);
    }
    assert_eq!(other.text("GET key:7"), "7");
    assert!(gate.has_waiting(), "the fsync has not returned");
    // WAITAOF waits for the disk, and finds nothing there.
    assert_eq!(one.run("WAITAOF 1 0 50"), "1) (integer) 0\n2) (integer) 0");
    gate.set_closed(false);
    assert_eq!(one.run("WAITAOF 1 0 0"), "1) (integer) 1\n2) (integer) 0");
}

#[test]
fn with_everysec_an_fsync_of_more_than_a_second_is_counted() {
    let (server, gate) = start(AppendFsync::EverySecond);
    let mut client = server.client();
    let _open = OpenAtEnd(&gate);
    gate.set_closed(true);
    client.run("SET before x");
    until("an fsync waits", || gate.has_waiting());
    let waits_since = std::time::Instant::now();
    until("it has waited for more than a second", || {
        waits_since.elapsed().as_millis() > 1100
    });
    assert_eq!(info(&mut client, "aof_delayed_fsync"), "0");
    gate.set_closed(false);
    until("it is counted", || {
        info(&mut client, "aof_delayed_fsync") == "1"
    });
    client.run("CONFIG RESETSTAT");
    assert_eq!(info(&mut client, "aof_delayed_fsync"), "0");
}

#[test]
fn with_always_replies_wait_and_the_thread_does_not() {
    let (server, gate) = start(AppendFsync::Always);
    let mut clients = [server.client(), server.client(), server.client()];
    let mut reader = server.client();
    let _open = OpenAtEnd(&gate);
    assert_eq!(clients[0].run("SET before x"), "OK");
    assert_eq!(reader.text("GET before"), "x", "all is on disk: no wait");
    let (changes, passed) = (server.shared().changes(), gate.passed());
    gate.set_closed(true);
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&format!("SET key:{number} x"));
        // The only data thread runs each of them, though the fsync of the first has not returned.
        until("the change is made", || {
            server.shared().changes() == changes + number as u64 + 1
        });
        until("an fsync waits", || gate.has_waiting());
        assert!(
            client.has_nothing(),
            "a reply left before its change was on disk"
        );
    }
    // A reply that shows a change that is not on disk waits, too.
    reader.send("GET key:2");
    assert!(reader.has_nothing());
    gate.set_closed(false);
    for client in &mut clients {
        assert_eq!(client.receive(), "OK");
    }
    assert_eq!(reader.receive(), "\"x\"");
    // Those that came during the first fsync have shared another one.
    assert!(
        gate.passed() - passed <= 2 + 1,
        "{} fsyncs",
        gate.passed() - passed
    );
}

/// Clients used to form two groups that took turns, so that each fsync served half of them.
#[test]
fn with_always_an_fsync_serves_all_clients_that_write_again_and_again() {
    const CLIENTS: usize = 16;
    const ROUNDS: usize = 6;
    const FSYNC: Duration = Duration::from_millis(400);
    for threads in [1, 2] {
        let fsyncs = Arc::new(AtomicUsize::new(0));
        let counted = fsyncs.clone();
        let server = start_with(threads, AppendFsync::Always, move || {
            std::thread::sleep(FSYNC);
            counted.fetch_add(1, Relaxed);
        });
        assert_eq!(server.client().run("SET before x"), "OK");
        let before = fsyncs.load(Relaxed);
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let mut client = server.client();
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        assert_eq!(client.run(&format!("SET key:{number} x")), "OK");
                    }
                });
            }
        });
        let served = fsyncs.load(Relaxed) - before;
        assert!(
            served <= ROUNDS * 3 / 2,
            "{served} fsyncs with {threads} threads"
        );
    }
}

#[test]
fn with_no_a_client_that_waits_is_a_reason_for_an_fsync() {
    let (server, gate) = start(AppendFsync::Never);
    let mut clients = [server.client(), server.client()];
    for number in 0..10 {
        let client = &mut clients[number % 2];
        let passed = gate.passed();
        assert_eq!(client.run(&format!("SET key {number}")), "OK");
        assert_eq!(
            client.run("WAITAOF 1 0 0"),
            "1) (integer) 1\n2) (integer) 0"
        );
        assert_eq!(gate.passed(), passed + 1);
    }
}

/// With `always`, replicas were asked how far they are whenever a reply waited for the disk, though no client waited for replicas.
#[test]
fn replies_that_wait_for_the_disk_ask_nothing_of_replicas() {
    const LAST: &[u8] = b"last-key";
    let (server, _gate) = start(AppendFsync::Always);
    server.change(|config| config.repl_diskless_sync_delay_s = 0);
    let (mut client, mut replica) = (server.client(), server.client());
    replica.send("SYNC");
    until("the replica has the snapshot", || {
        info(&mut client, "slave0").contains("state=online")
    });
    for number in 0..20 {
        assert_eq!(client.run(&format!("SET key:{number} x")), "OK");
    }
    assert_eq!(client.run("SET last-key x"), "OK");
    let has = |stream: &[u8], text: &[u8]| stream.windows(text.len()).any(|part| part == text);
    let (mut stream, mut buffer) = (Vec::new(), [0; 4096]);
    while !has(&stream, LAST) {
        let bytes = replica.stream.read(&mut buffer).unwrap();
        assert!(bytes > 0, "the link was closed");
        stream.extend_from_slice(&buffer[..bytes]);
    }
    assert!(!has(&stream, b"GETACK"));
}

#[test]
fn a_durable_client_waits_for_a_slow_fsync_and_others_do_not() {
    let (server, gate) = start(AppendFsync::EverySecond);
    let (mut durable, mut other) = (server.client(), server.client());
    let _open = OpenAtEnd(&gate);
    assert_eq!(durable.run("CLIENT DURABLE ON"), "OK");
    gate.set_closed(true);
    durable.send("SET durable x");
    until("an fsync waits", || gate.has_waiting());
    for number in 0..100 {
        assert_eq!(other.run(&format!("SET key:{number} x")), "OK");
        assert_eq!(other.text("GET durable"), "x");
    }
    assert!(durable.has_nothing());
    gate.set_closed(false);
    assert_eq!(durable.receive(), "OK");
}

/// Bug: a client that ended CLIENT DURABLE right behind a change, in one pipeline or transaction, got the reply to the change at once.
#[test]
fn a_change_waits_though_its_client_waits_no_more_for_later_ones() {
    let (server, gate) = start(AppendFsync::EverySecond);
    let mut client = server.client();
    let _open = OpenAtEnd(&gate);
    for end in [
        "CLIENT DURABLE OFF\r\n",
        "MULTI\r\nSET key y\r\nCLIENT DURABLE OFF\r\nEXEC\r\n",
        "RESET\r\n",
    ] {
        assert_eq!(client.run("CLIENT DURABLE ON"), "OK");
        gate.set_closed(true);
        client.send_bytes(format!("SET key x\r\n{end}").as_bytes());
        until("an fsync waits", || gate.has_waiting());
        std::thread::sleep(Duration::from_millis(50));
        assert!(client.has_nothing(), "{end}");
        gate.set_closed(false);
        assert_eq!(client.receive(), "OK");
        let replies = end.matches("\r\n").count();
        (0..replies).for_each(|_| drop(client.receive()));
        // From now on, its replies do not wait.
        gate.set_closed(true);
        assert_eq!(client.run("SET key z"), "OK");
        gate.set_closed(false);
    }
}

#[test]
fn others_are_served_while_info_and_role_wait_for_the_merge() {
    // INFO and ROLE slept on their thread until all changes were part of the stream: up to 50 ms each, in which the thread served nobody.
    const ROLES: usize = 60;
    const LARGE_BYTES: usize = 16 << 20;
    let (server, gate) = start(AppendFsync::EverySecond);
    server.change(|config| config.repl_diskless_sync_delay_s = 0);
    let (mut writer, mut asker, mut other) = (server.client(), server.client(), server.client());
    let _open = OpenAtEnd(&gate);
    // A replica, so that there is a stream. It goes on without it.
    let mut replica = server.client();
    replica.send("SYNC");
    until("the stream begins", || {
        info(&mut other, "repl_backlog_active") == "1"
    });
    drop(replica);
    gate.set_closed(true);
    assert_eq!(writer.run("SET before x"), "OK");
    until("an fsync waits", || gate.has_waiting());
    // The file's queue takes no more than 64 MiB, and then the merge pauses.
    let large = "x".repeat(LARGE_BYTES);
    for _ in 0..4 {
        assert_eq!(writer.run_words(&["SET", "large", &large]), "OK");
    }
    until("the queue is full", || {
        server.shared().replication.end() > 4 * LARGE_BYTES as u64
    });
    assert_eq!(writer.run("SET after x"), "OK");
    asker.send_bytes("ROLE\r\n".repeat(ROLES).as_bytes());
    assert_eq!(other.run("PING"), "PONG");
    // Most of them wait.
    asker.stream.set_nonblocking(true).unwrap();
    let mut replies = vec![0; ROLES * 100];
    let bytes = asker.stream.read(&mut replies).unwrap_or(0);
    let text = String::from_utf8_lossy(&replies[..bytes]);
    assert!(text.matches("master").count() < ROLES, "{text}");
    asker.stream.set_nonblocking(false).unwrap();
    // When it goes on, the offset has the last change.
    let offset =
        |client: &mut Client| -> u64 { info(client, "master_repl_offset").parse().unwrap() };
    let before = server.shared().replication.end();
    gate.set_closed(false);
    until("the last change is merged", || offset(&mut other) > before);
    for number in 0..20 {
        let before = offset(&mut writer);
        writer.run(&format!("SET key {number}"));
        assert!(offset(&mut other) > before, "INFO shows all changes");
    }
}

#[test]
fn a_replica_leaves_its_primary_while_its_disk_fails() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let primary = TestServer::with(|config| {
        config.port = port;
        config.repl_diskless_sync_delay_s = 0;
    });
    let disk = SimulatedDisk::default();
    let replica = TestServer::try_prepared(
        |config: &mut Config| {
            config.appendonly = true;
            config.replicaof = Some(PrimaryAddress {
                host: String::from("127.0.0.1"),
                port,
            });
        },
        |server| server.shared().aof.use_storage(Arc::new(disk.clone())),
    )
    .unwrap();
    let (mut writer, mut reader) = (primary.client(), replica.client());
    let is = |reader: &mut Client, status: &str| info(reader, "master_link_status") == status;
    until("the link is up", || is(&mut reader, "up"));
    writer.run("SET first x");
    until("the change arrives", || reader.run("GET first") == "\"x\"");
    // The synchronisation has replaced all data, so the file begins anew.
    until("the file is in use", || {
        replica.shared().aof.mode() == Mode::On
    });
    disk.set_faults(Some(Box::new(|step| matches!(step, Step::Append(..)))));
    writer.run("SET second x");
    // The file fails after this change; the next one is not applied any more.
    until("the failure is noticed", || {
        info(&mut reader, "aof_last_write_status") == "err"
    });
    writer.run("SET third x");
    until("the link is down", || is(&mut reader, "down"));
    assert_eq!(reader.run("GET third"), "(nil)");
    replica.change(|config| config.replica_ignore_disk_write_errors = true);
    until("it goes on without its disk", || {
        reader.run("GET third") == "\"x\""
    });
    replica.change(|config| config.replica_ignore_disk_write_errors = false);
    writer.run("SET fourth x");
    until("the link is down again", || is(&mut reader, "down"));
    disk.set_faults(None);
    until("it follows again", || reader.run("GET fourth") == "\"x\"");
    assert_eq!(info(&mut reader, "aof_last_write_status"), "ok");
}
