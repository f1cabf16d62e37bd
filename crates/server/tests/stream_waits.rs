//! Clients on several threads that wait for stream entries: each gets the right entries in order.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use common::{Client, TestServer, until};
use damselfly_protocol::client::Value;

const WRITERS: usize = 3;
const ENTRIES_PER_WRITER: usize = 300;
const ENTRIES: usize = WRITERS * ENTRIES_PER_WRITER;
const READERS: usize = 5;

fn array(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        other => panic!("{other:?} is not an array"),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?} is not a bulk string"),
    }
}

/// The entry ids of the only stream in the next reply; `None` if the reply is an error.
fn ids(client: &mut Client) -> Option<Vec<String>> {
    let reply = client.receive_value().unwrap();
    if let Value::Error(_) = reply {
        return None;
    }
    let entries = &array(&array(&reply)[0])[1];
    let ids = array(entries).iter().map(|entry| text(&array(entry)[0]));
    Some(ids.collect())
}

/// Sorts ids in stream order.
fn sorted(mut ids: Vec<String>) -> Vec<String> {
    let number = |id: &String| {
        let (ms, seq) = id.split_once('-').unwrap();
        let parse = |text: &str| text.parse::<u64>().unwrap();
        (parse(ms), parse(seq))
    };
    ids.sort_by_key(number);
    ids
}

fn write(server: &TestServer) -> Vec<String> {
    let mut client = server.client();
    (0..ENTRIES_PER_WRITER)
        .map(|number| client.text(&format!("XADD stream * n {number}")))
        .collect()
}

/// Runs readers and writers concurrently, and calls `end` when all is written. Returns the ids that each reader read, and all ids
/// written, in stream order.
fn read_and_write(
    server: &TestServer,
    read: impl Fn(usize) -> Vec<String> + Sync,
    end: impl FnOnce(),
) -> (Vec<Vec<String>>, Vec<String>) {
    thread::scope(|scope| {
        let read = &read;
        let readers: Vec<_> = (0..READERS)
            .map(|number| scope.spawn(move || read(number)))
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| scope.spawn(|| write(server)))
            .collect();
        let written = writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap());
        let written = sorted(written.collect());
        end();
        let read = readers.into_iter().map(|reader| reader.join().unwrap());
        (read.collect(), written)
    })
}

#[test]
fn every_entry_goes_to_one_consumer_of_a_group() {
    let server = TestServer::with(|config| config.threads = 4);
    let mut other = server.client();
    assert_eq!(other.run("XGROUP CREATE stream group $ MKSTREAM"), "OK");
    let taken = AtomicUsize::new(0);
    let read = |number| {
        let (mut client, mut all) = (server.client(), Vec::new());
        let command = format!("XREADGROUP GROUP group c{number} BLOCK 0 COUNT 2 STREAMS stream >");
        loop {
            client.send(&command);
            let Some(ids) = ids(&mut client) else {
                return all;
            };
            taken.fetch_add(ids.len(), SeqCst);
            all.extend(ids);
        }
    };
    let (read, written) = read_and_write(&server, read, || {
        until("all entries are taken", || taken.load(SeqCst) == ENTRIES);
        // The deletion unblocks all readers with an error.
        assert_eq!(other.number("DEL stream"), 1);
    });
    for ids in &read {
        assert_eq!(*ids, sorted(ids.clone()), "entries arrive in order");
    }
    assert_eq!(sorted(read.concat()), written);
}

#[test]
fn every_reader_gets_every_entry_in_order() {
    let server = TestServer::with(|config| config.threads = 4);
    let read = |_| {
        let (mut client, mut all) = (server.client(), Vec::new());
        let mut last = "0-0".to_owned();
        while all.len() < ENTRIES {
            client.send(&format!("XREAD BLOCK 0 COUNT 3 STREAMS stream {last}"));
            all.extend(ids(&mut client).unwrap());
            last.clone_from(all.last().unwrap());
        }
        all
    };
    let (read, written) = read_and_write(&server, read, || {});
    for ids in read {
        assert_eq!(ids, written);
    }
}

#[test]
fn a_consumer_that_is_unblocked_gets_nothing_later() {
    let server = TestServer::start();
    let (mut waiter, mut other) = (server.client(), server.client());
    let id = waiter.number("CLIENT ID");
    assert_eq!(other.run("XGROUP CREATE stream group $ MKSTREAM"), "OK");
    for (words, reply) in [
        ("", "(nil)"),
        (
            " ERROR",
            "(error) UNBLOCKED client unblocked via CLIENT UNBLOCK",
        ),
    ] {
        waiter.send("XREADGROUP GROUP group c BLOCK 0 STREAMS stream >");
        let unblock = format!("CLIENT UNBLOCK {id}{words}");
        until("the client is unblocked", || other.number(&unblock) == 1);
        assert_eq!(waiter.receive(), reply);
    }
    other.text("XADD stream 1-1 a 1");
    assert!(
        other
            .run("XPENDING stream group")
            .starts_with("1) (integer) 0")
    );
    assert_eq!(waiter.run("PING"), "PONG");
}
