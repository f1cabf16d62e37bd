//! A thread that is stuck in a script: all clients of other threads are still served.
//!
//! Bug: only the first thread accepted connections, stuck threads were given new ones, too, and publishers waited for a stuck thread to
//! deliver. Cause: the server did not know whether a thread takes turns. Fix: each thread records the time of its last turn.

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::{Client, TestServer, until};
use damselfly_server::registry::REGISTRY;
use damselfly_server::shared::Shared;

/// Runs until a client subscribes to `go`, which a client of any other thread can do meanwhile.
const SCRIPT: &str = "while redis.call('PUBSUB', 'NUMSUB', 'go')[2] == 0 do end return 'done'";

/// A server of four threads whose slow scripts let no other client have a turn.
fn server() -> TestServer {
    TestServer::with(|config| config.busy_reply_threshold_ms = 0)
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

/// Makes the client's thread run a script that does not end, and waits until the thread is stuck.
fn block_thread(server: &TestServer, client: &mut Client, thread: usize) {
    client.send_words(&["EVAL", SCRIPT, "0"]);
    let shared = server.shared();
    until("the thread is stuck", || {
        shared.threads[thread].is_stuck(shared.uptime_ms())
    });
}

/// Ends the script.
fn end_script(server: &TestServer, runner: &mut Client) {
    let mut other = server.client();
    other.run("SUBSCRIBE go");
    assert_eq!(runner.receive(), "\"done\"");
}

/// How many calls by the script were counted on a thread so far.
fn calls(shared: &Shared, thread: usize) -> u64 {
    let container = REGISTRY.find(b"PUBSUB").unwrap();
    let row = REGISTRY.find_subcommand(container, b"NUMSUB").unwrap();
    shared.threads[thread].counters.commands[row.index]
        .calls
        .read()
}

#[test]
fn new_connections_are_answered_whichever_thread_is_stuck() {
    for stuck in [0, 2] {
        let server = server();
        let mut clients = by_thread(&server, 1);
        let mut runner = clients[stuck].pop().unwrap();
        block_thread(&server, &mut runner, stuck);
        for _ in 0..20 {
            let mut new = server.client();
            assert_eq!(new.run("PING"), "PONG");
            assert_ne!(thread_of(server.shared(), &mut new), stuck);
        }
        end_script(&server, &mut runner);
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
    until("two connections are closed", || {
        connections.load(Relaxed) == 1
    });
    runner.send_words(&["EVAL", SCRIPT, "0"]);
    until("the script runs", || calls(server.shared(), STUCK) > 0);
    let mut new: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for client in &mut new {
        assert_eq!(client.run("PING"), "PONG");
    }
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
    block_thread(&server, &mut runner, STUCK);
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
    end_script(&server, &mut runner);
    // Messages for them were dropped, so they are disconnected.
    subscriber.until_closed();
    monitor.until_closed();
    until("all messages are delivered", || {
        pubsub.arriving_bytes(STUCK) == 0
    });
    assert_eq!(publisher.run("PUBLISH news x"), "(integer) 0");
}

#[test]
fn administration_works_while_a_thread_is_stuck() {
    const STUCK: usize = 0;
    let server = server();
    let mut clients = by_thread(&server, 2);
    let mut runner = clients[STUCK].pop().unwrap();
    let mut victim = clients[STUCK].pop().unwrap();
    let id = victim.number("CLIENT ID");
    block_thread(&server, &mut runner, STUCK);
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
    end_script(&server, &mut runner);
    assert_eq!(victim.receive_value(), None);
}
