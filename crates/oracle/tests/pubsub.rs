//! Memory while subscribers do not read.

use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Kind, Program, Server};
use damselfly_protocol::client::Value;

const SLOW: usize = 30;
const LIMIT_BYTES: u64 = 1 << 20;
const PAYLOAD_BYTES: usize = 50_000;
const ROUNDS: usize = 4000;

fn receivers(publisher: &mut Connection, payload: &str) -> i64 {
    match publisher.call(&["PUBLISH", "news", payload]).unwrap() {
        Value::Integer(receivers) => receivers,
        other => panic!("{other:?}"),
    }
}

/// Subscribers that read nothing take no more than their limit, and then they are gone.
#[test]
fn slow_subscribers_take_no_memory_without_bound() {
    let program = Program::subject();
    if program.kind() != Kind::Damselfly {
        return;
    }
    for threads in ["1", "4"] {
        let limit = format!("pubsub {LIMIT_BYTES} 0 0");
        let options = ["--threads", threads, "--client-output-buffer-limit", &limit];
        let server = Server::start(&program, &options).unwrap();
        let mut publisher = server.connect();
        assert_eq!(receivers(&mut publisher, "x"), 0);
        let before = server.resident_bytes();
        let mut slow: Vec<Connection> = (0..SLOW).map(|_| server.connect()).collect();
        for client in &mut slow {
            client.call(&["SUBSCRIBE", "news"]).unwrap();
        }
        let payload = "x".repeat(PAYLOAD_BYTES);
        let (mut peak, mut left) = (0, SLOW as i64);
        for _ in 0..ROUNDS {
            left = receivers(&mut publisher, &payload);
            peak = peak.max(server.resident_bytes());
            if left == 0 {
                break;
            }
        }
        assert_eq!(left, 0, "all are cut");
        let allowed = 2 * SLOW as u64 * (LIMIT_BYTES + 200_000) + (8 << 20);
        assert!(
            peak - before < allowed,
            "{} bytes for {SLOW} slow subscribers",
            peak - before
        );
    }
}
