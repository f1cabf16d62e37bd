//! A thread in the background frees large collections.
//!
//! This test measures the memory of the whole process, so it must be the only one in this file.

mod common;

use common::{TestServer, until};

const COUNT: usize = 200_000;

/// Bug: this test failed on busy machines. Cause: it ran in parallel with tests that keep large collections for a while, which could be
/// longer than it waited. Fix: it has a file, and so a process, of its own.
#[test]
fn large_collections_are_freed_in_the_background() {
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
        until("the memory of the set is freed", || {
            let used = client.text("INFO memory");
            let used = used.lines().find(|line| line.starts_with("used_memory:"));
            used.unwrap()["used_memory:".len()..]
                .parse::<i64>()
                .unwrap()
                < full
        });
    }
}
