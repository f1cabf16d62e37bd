//! Lists so long that replies are written in slices, and that commands on them run on threads for long commands.

mod common;

use common::{Client, TestServer};
use damselfly_protocol::client::{Value, write_command};

const LEN: usize = 50_000;

/// The elements `from..to`.
fn numbers(from: usize, to: usize) -> Value {
    let text = |number: usize| Value::Bulk(number.to_string().into_bytes());
    Value::Array((from..to).map(text).collect())
}

/// Fills the list "long" with the numbers from 0 to `LEN`.
fn fill(client: &mut Client) {
    for start in (0..LEN).step_by(1000) {
        let texts: Vec<_> = (start..start + 1000).map(|at| at.to_string()).collect();
        let mut words = vec![&b"RPUSH"[..], b"long"];
        words.extend(texts.iter().map(|text| text.as_bytes()));
        let mut request = Vec::new();
        write_command(&mut request, &words);
        client.send_bytes(&request);
        assert_eq!(client.receive(), format!("(integer) {}", start + 1000));
    }
}

#[test]
fn a_long_range_is_complete_and_later_replies_follow_it() {
    let server = TestServer::start();
    let mut client = server.client();
    fill(&mut client);
    for (start, stop) in [(0, LEN), (1, LEN - 7), (123, 30_000), (0, 4097)] {
        client.send(&format!("LRANGE long {start} {}", stop - 1));
        // A later change does not affect the range.
        client.send("LSET long 200 200");
        client.send("ECHO behind");
        assert!(client.receive_value() == Some(numbers(start, stop)));
        assert_eq!(client.receive(), "OK");
        assert_eq!(client.receive(), "\"behind\"");
    }
    client.send("LPOP long 20000");
    client.send("RPOP long 5000");
    assert!(client.receive_value() == Some(numbers(0, 20_000)));
    assert!(matches!(client.receive_value(), Some(Value::Array(items)) if items.len() == 5000));
    assert_eq!(client.number("LLEN long"), (LEN - 25_000) as i64);
}

#[test]
fn commands_that_search_long_lists_find_the_right_elements() {
    let server = TestServer::start();
    let mut client = server.client();
    fill(&mut client);
    assert_eq!(client.number("LPOS long 49999"), 49_999);
    assert_eq!(client.number("LPOS long 0 RANK -1"), 0);
    assert_eq!(client.run("LPOS long 49999 MAXLEN 49999"), "(nil)");
    assert_eq!(client.number("LINSERT long AFTER 40000 here"), 50_001);
    assert_eq!(client.text("LINDEX long 40001"), "here");
    assert_eq!(client.number("LREM long 0 here"), 1);
    assert_eq!(client.number("LREM long -1 25000"), 1);
    assert_eq!(client.text("LINDEX long 25000"), "25001");
    assert_eq!(client.run("LTRIM long 24000 -2"), "OK");
    assert_eq!(client.number("LLEN long"), (LEN - 24_002) as i64);
    assert_eq!(client.text("LINDEX long -1"), "49998");
}
