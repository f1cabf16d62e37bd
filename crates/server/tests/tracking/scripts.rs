//! Tracking by scripts.

use super::*;

/// As in Redis since 7.2; before, it was the declared keys.
#[test]
fn a_script_tracks_the_keys_that_it_reads() {
    let server = TestServer::start();
    let (mut client, mut writer) = (tracker(&server, ""), server.client());
    let eval = |client: &mut Client, script: &str| {
        send(client, &["EVAL", script, "2", "a", "b"]);
        text(&client.receive_value().unwrap())
    };
    eval(&mut client, "return redis.call('set', 'c', 1)");
    assert_eq!(server.shared().engine.tracked_keys(), 0);
    eval(
        &mut client,
        "redis.call('get', 'c') return redis.call('get', KEYS[1])",
    );
    assert_eq!(server.shared().engine.tracked_keys(), 2);
    assert_eq!(writer.run("MSET c 1 b 1 a 1"), "OK");
    assert_eq!(next(&mut client), ["invalidate", "c"]);
    assert_eq!(next(&mut client), ["invalidate", "a"]);
    // Invalidations for its own changes come after its reply, also for undeclared keys.
    client.run("MGET a c");
    eval(
        &mut client,
        "redis.call('set', 'c', 2) return redis.call('incr', KEYS[1])",
    );
    assert_eq!(next(&mut client), ["invalidate", "c"]);
    assert_eq!(next(&mut client), ["invalidate", "a"]);
    assert_eq!(client.run("PING"), "PONG");
}

/// While a script is slow, its thread serves others, with a placeholder for the session of its client.
#[test]
fn a_client_gets_invalidations_while_its_script_runs() {
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.busy_reply_threshold_ms = 1;
    });
    let (mut client, mut writer) = (tracker(&server, "NOLOOP"), server.client());
    let mut broadcast = tracker(&server, "BCAST");
    client.run("GET k");
    send(
        &mut client,
        &[
            "EVAL",
            "while true do redis.call('get', KEYS[1]) end",
            "1",
            "x",
        ],
    );
    until("it is slow", || !server.shared().scripts.slow().is_empty());
    // SET fails in the rare case that both keys are in the same shard, which the script has locked.
    let mut is_set = writer.run("SET k 1") == "OK";
    assert_eq!(writer.run("SCRIPT KILL"), "OK");
    while !is_set {
        is_set = writer.run("SET k 1") == "OK";
    }
    let mut got = vec![next(&mut client), next(&mut client)];
    got.sort_by_key(|words| words[0] != "invalidate");
    assert_eq!(got[0], ["invalidate", "k"]);
    assert!(got[1][0].contains("Script killed"), "{got:?}");
    assert_eq!(next(&mut broadcast), ["invalidate", "k"]);
    assert_eq!(client.run("PING"), "PONG");
}
