//! A thread that is stuck in a script: all clients of other threads are still served.
//!
//! Bug: only the first thread accepted connections, stuck threads were given new ones, too, and publishers waited for a stuck thread to
//! deliver. Cause: the server did not know whether a thread takes turns. Fix: each thread records the time of its last turn.

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::{Client, TestServer, until};
use damselfly_config::OutputLimit;
use damselfly_protocol::client::Value;
use damselfly_server::registry::REGISTRY;
use damselfly_server::shared::Shared;

/// Takes the lock of the slow log, on which the tests let a thread get stuck. Nothing else takes it: no command is slow.
const COMMAND: &str = "SLOWLOG LEN";

/// A server of four threads whose slow scripts let no other client have a turn.
fn server() -> TestServer {
    TestServer::with(|config| config.slowlog_log_slower_than_us = -1)
}

/// The thread that serves a client.
fn thread_of(shared: &Shared, client: &mut Client) -> usize {
    let id = client.number("CLIENT ID");
    shared.clients.find(id as u64).unwrap().thread
}

/// At least `each` connections to each thread.
fn by_thread(server: &TestServer, each: usize) -> Vec<Vec<Client>> {
    let threads = server.shared().threads.len();
    let mut found: Vec<Vec<Client>> = (0..threads).map(|_| Vec::new()).collect();
    while found.iter().any(|clients| clients.len() < each) {
        let mut client = server.client();
        let thread = thread_of(server.shared(), &mut client);
        found[thread].push(client);
    }
    found
}

/// Has the client's thread wait for the lock of the slow log, which the caller holds.
fn begin(shared: &Shared, client: &mut Client) {
    let id = client.number("CLIENT ID");
    let container = REGISTRY.find(b"SLOWLOG").unwrap();
    let row = REGISTRY.find_subcommand(container, b"LEN").unwrap();
    client.send(COMMAND);
    let client = shared.clients.find(id as u64).unwrap();
    until("the command runs", || {
        client.last_command.load(Relaxed) == row.index + 1
    });
}

/// The same, until others notice it.
fn block_thread(shared: &Shared, client: &mut Client, thread: usize) {
    begin(shared, client);
    until("the thread is stuck", || {
        shared.threads[thread].is_stuck(shared.uptime_ms())
    });
}

#[test]
fn new_connections_are_answered_whichever_thread_is_stuck() {
    for stuck in [0, 2] {
        let server = server();
        let mut clients = by_thread(&server, 1);
        let mut runner = clients[stuck].pop().unwrap();
        let shared = server.shared();
        let lock = shared.slowlog.entries();
        block_thread(shared, &mut runner, stuck);
        for _ in 0..20 {
            let mut new = server.client();
            assert_eq!(new.run("PING"), "PONG");
            assert_ne!(thread_of(server.shared(), &mut new), stuck);
        }
        drop(lock);
        assert_eq!(runner.receive(), "(integer) 0");
    }
}

/// Bug: connections in the inbox of a stuck thread waited for it. Cause: only the thread itself could take them. Fix: the acceptor takes
/// them back and hands them to other threads.
#[test]
fn connections_in_the_inbox_of_a_stuck_thread_go_to_others() {
    const STUCK: usize = 1;
    let server = server();
    let mut clients = by_thread(&server, 3);
    let mut runner = clients[STUCK].pop().unwrap();
    // Now this thread has the fewest connections, so new ones go to it.
    clients[STUCK].clear();
    let connections = &server.shared().threads[STUCK].connections;
    until("two have left", || connections.load(Relaxed) == 1);
    let lock = server.shared().slowlog.entries();
    begin(server.shared(), &mut runner);
    let mut new: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for client in &mut new {
        assert_eq!(client.run("PING"), "PONG");
    }
    drop(lock);
}

#[test]
fn publishers_do_not_wait_for_a_stuck_thread() {
    const STUCK: usize = 3;
    const MIB: usize = 1 << 20;
    let server = server();
    let mut clients = by_thread(&server, 3);
    let mut runner = clients[STUCK].pop().unwrap();
    let (mut subscriber, mut monitor) =
        (clients[STUCK].pop().unwrap(), clients[STUCK].pop().unwrap());
    subscriber.run("SUBSCRIBE news");
    assert_eq!(monitor.run("MONITOR"), "OK");
    let lock = server.shared().slowlog.entries();
    block_thread(server.shared(), &mut runner, STUCK);
    let mut publisher = clients[0].pop().unwrap();
    let payload = "x".repeat(MIB);
    let pubsub = &server.shared().pubsub;
    for _ in 0..100 {
        assert_eq!(
            publisher.run_words(&["PUBLISH", "news", &payload]),
            "(integer) 1"
        );
        // Messages to subscribers and lines to MONITOR clients, up to the output limit of subscribers.
        assert!(pubsub.arriving_bytes(STUCK) <= 67 * MIB);
    }
    assert!(pubsub.arriving_bytes(STUCK) > 60 * MIB);
    drop(lock);
    assert_eq!(runner.receive(), "(integer) 0");
    // They have missed something, so they are disconnected.
    subscriber.until_closed();
    monitor.until_closed();
    until("all messages are delivered", || {
        pubsub.arriving_bytes(STUCK) == 0
    });
    assert_eq!(publisher.run("PUBLISH news x"), "(integer) 0");
}

/// Memory in transit to a stuck thread is bounded, and what is dropped is replaced by an invalidation of everything.
#[test]
fn redirected_invalidations_to_a_stuck_thread_are_bounded() {
    const STUCK: usize = 3;
    const MIB: usize = 1 << 20;
    const KEYS: usize = 100;
    for mode in ["", "BCAST "] {
        let server = TestServer::with(|config| {
            config.slowlog_log_slower_than_us = -1;
            // Without a limit, the target is not disconnected when the thread delivers all at once.
            config.client_output_buffer_limit.pubsub = OutputLimit {
                hard_bytes: 0,
                soft_bytes: 0,
                soft_s: 0,
            };
        });
        let mut clients = by_thread(&server, 2);
        let mut runner = clients[STUCK].pop().unwrap();
        let mut target = clients[STUCK].pop().unwrap();
        target.run("HELLO 3");
        let id = target.number("CLIENT ID");
        let mut tracker = clients[0].pop().unwrap();
        let command = format!("CLIENT TRACKING ON {mode}REDIRECT {id}");
        assert_eq!(tracker.run(&command), "OK");
        let mut writer = clients[1].pop().unwrap();
        let lock = server.shared().slowlog.entries();
        block_thread(server.shared(), &mut runner, STUCK);
        let arriving = || server.shared().pubsub.arriving_bytes(STUCK);
        let padding = "x".repeat(MIB);
        for number in 0..KEYS {
            let key = format!("{number}:{padding}");
            assert_eq!(tracker.run_words(&["EXISTS", &key]), "(integer) 0");
            assert_eq!(writer.run_words(&["SET", &key, "1"]), "OK");
            assert_eq!(writer.run_words(&["DEL", &key]), "(integer) 1");
            assert!(arriving() <= 67 * MIB, "{} bytes", arriving());
        }
        assert!(arriving() > 60 * MIB, "{} bytes", arriving());
        drop(lock);
        assert_eq!(runner.receive(), "(integer) 0");
        let mut keys = 0;
        loop {
            match target.receive_value() {
                Some(Value::Push(words)) => match &words[1] {
                    Value::Array(invalid) => keys += invalid.len(),
                    Value::Null(_) => break,
                    other => panic!("an invalidation of {other}"),
                },
                other => panic!("{other:?} instead of an invalidation"),
            }
        }
        assert!(keys < KEYS, "all {keys} keys were sent");
        until("all is delivered", || arriving() == 0);
    }
}

#[test]
fn administration_works_while_a_thread_is_stuck() {
    const STUCK: usize = 0;
    let server = server();
    let mut clients = by_thread(&server, 2);
    let mut runner = clients[STUCK].pop().unwrap();
    let mut victim = clients[STUCK].pop().unwrap();
    let id = victim.number("CLIENT ID");
    let lock = server.shared().slowlog.entries();
    block_thread(server.shared(), &mut runner, STUCK);
    let mut client = clients[1].pop().unwrap();
    assert!(client.text("INFO").contains("connected_clients:8\r\n"));
    assert!(client.text("CLIENT LIST").contains(&format!("id={id} ")));
    for command in [
        "CONFIG SET maxclients 9000",
        "CLIENT PAUSE 1",
        "CLIENT UNPAUSE",
        "SWAPDB 0 1",
        "FLUSHALL ASYNC",
        "FLUSHALL SYNC",
        "SCRIPT FLUSH SYNC",
        "FUNCTION FLUSH SYNC",
        "CONFIG RESETSTAT",
        "MONITOR",
    ] {
        assert_eq!(client.run(command), "OK", "{command}");
    }
    let mut client = clients[2].pop().unwrap();
    assert_eq!(client.number(&format!("CLIENT KILL ID {id}")), 1);
    drop(lock);
    assert_eq!(runner.receive(), "(integer) 0");
    assert_eq!(victim.receive_value(), None);
}
