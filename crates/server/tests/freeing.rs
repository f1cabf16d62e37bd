//! Large collections are freed by another thread.
//!
//! The memory in use is that of the whole process, so no other test stands here.

mod common;

use common::{TestServer, until};

const COUNT: usize = 200_000;

/// The bug: the test ran beside others that keep large collections for a while. On a busy machine that was longer than it waited.
#[test]
fn freeing_a_large_collection_is_left_to_another_thread() {
    const AT_ONCE: usize = 1000;
    let server = TestServer::with(|config| config.threads = 1);
    let mut client = server.client();
    for end in [
        "UNLINK set",
        "DEL set",
        "SET set text",
        "PEXPIRE set 1",
        "FLUSHALL ASYNC",
    ] {
        client.run("DEL set");
        for start in (0..COUNT).step_by(AT_ONCE) {
            let members = (start..start + AT_ONCE).map(|number| format!("member:{number:0>60}"));
            let members: Vec<String> = members.collect();
            client.run(&format!("SADD set {}", members.join(" ")));
        }
        let full = client.number("MEMORY USAGE set");
        assert!(full > 10_000_000);
        client.run(end);
        until("its memory is free", || {
            let used = client.text("INFO memory");
            let used = used.lines().find(|line| line.starts_with("used_memory:"));
            used.unwrap()["used_memory:".len()..]
                .parse::<i64>()
                .unwrap()
                < full
        });
    }
}
