//! The bytes of all entries, which eviction can free, are counted for the whole process. This file has only one test, since others
//! would be counted, too.

mod common;

use common::{TestServer, until};
use damselfly_base::heap;

#[test]
fn the_bytes_of_all_entries_are_counted() {
    let server = TestServer::start();
    let mut client = server.client();
    let long = "x".repeat(3000);
    for number in 0..500 {
        let commands = [
            format!("SET key{number} value"),
            format!("SET key{} {long}", number / 2),
            format!("APPEND key{} {long}", number / 3),
            format!("SET soon{number} value PX 1"),
            format!("RPUSH list{} {long} a b c", number / 100),
            format!("HSET hash{} field{number} {long}", number / 200),
            format!("SADD set{} {number}", number / 300),
            format!("ZADD ranking {number} member{number}"),
            format!("XADD stream{} * field {long}", number / 200),
            format!("INCR count{}", number / 10),
            format!("SETRANGE grown{} {number} xx", number / 50),
            format!("RENAME key{} renamed{number}", number / 4),
            format!("COPY list0 copy{} REPLACE", number / 90),
            format!("MOVE key{number} 1"),
            format!("DEL key{}", number / 5),
            format!("HDEL hash0 field{}", number / 2),
        ];
        for command in &commands {
            client.run(command);
        }
        client.run_words(&[
            "EVAL",
            "redis.call('SET', 'a' .. ARGV[1], 'value') redis.call('DEL', 'b') return redis.call('SET', 'b', ARGV[1])",
            "0",
            &number.to_string(),
        ]);
    }
    let dataset = |client: &mut common::Client| {
        let info = client.text("INFO memory");
        let found = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory_dataset:"));
        found.unwrap().parse::<usize>().unwrap()
    };
    until("expired keys are gone", || {
        client.text("INFO stats").contains("expired_keys:500\r\n")
    });
    assert!(heap::data_bytes() > 1_000_000);
    assert_eq!(heap::data_bytes(), dataset(&mut client));
    assert_eq!(client.run("SWAPDB 0 1"), "OK");
    assert_eq!(client.run("FLUSHDB"), "OK");
    assert_eq!(heap::data_bytes(), dataset(&mut client));
    assert!(heap::data_bytes() > 1_000_000);
    assert_eq!(client.run("FLUSHALL ASYNC"), "OK");
    assert_eq!(heap::data_bytes(), 0);
    client.run("SET key value");
    assert!(heap::data_bytes() > 0);
    drop(server);
    assert_eq!(heap::data_bytes(), 0);
}
