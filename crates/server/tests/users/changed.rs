//! Users that are changed or deleted while their commands run or wait.

use super::*;

/// A change that another thread makes holds for the next command of a batch that was read before. At most the one command that each
/// connection is running at that moment still has its effect.
#[test]
fn a_change_holds_in_the_middle_of_batches_of_other_threads() {
    const CONNECTIONS: usize = 8;
    let server = TestServer::start();
    let mut admin = server.client();
    for round in 0..20 {
        admin.run("DEL counter");
        admin.run("ACL SETUSER writer reset on nopass +incr ~counter");
        let mut writers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut client = server.client();
                client.run("AUTH writer x");
                client
            })
            .collect();
        let batch = b"INCR counter\r\n".repeat(2000);
        thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| writer.send_bytes(&batch));
            }
        });
        if round % 2 == 0 {
            until("some have run", || admin.number("EXISTS counter") == 1);
        }
        let change = match round % 4 {
            0 | 1 => "ACL SETUSER writer -incr",
            2 => "ACL SETUSER writer resetkeys ~other",
            _ => "ACL DELUSER writer",
        };
        admin.run(change);
        let after: i64 = admin
            .run("GET counter")
            .trim_matches('"')
            .parse()
            .unwrap_or(0);
        for writer in &mut writers {
            writer.end_sending();
            let replies = writer.until_closed();
            let is_refused = |reply: &String| reply.starts_with("(error) NOPERM");
            let refused = replies.iter().position(is_refused).unwrap_or(replies.len());
            assert!(
                replies[refused..].iter().all(is_refused),
                "served again after a refusal"
            );
        }
        let end: i64 = admin
            .run("GET counter")
            .trim_matches('"')
            .parse()
            .unwrap_or(0);
        assert!(
            end <= after + CONNECTIONS as i64,
            "{} commands ran after {change}",
            end - after
        );
    }
}

#[test]
fn a_blocked_client_that_has_lost_its_right_gets_an_error_and_takes_nothing() {
    let server = TestServer::start();
    let mut admin = server.client();
    let mut waiting = user(&server, "waiter", "+blpop ~list ~other");
    let mut next = server.client();
    waiting.send("BLPOP list 0");
    until("it waits", || {
        admin.text("INFO clients").contains("blocked_clients:1")
    });
    next.send("BLPOP list 0");
    until("both wait", || {
        admin.text("INFO clients").contains("blocked_clients:2")
    });
    admin.run("ACL SETUSER waiter resetkeys ~other");
    assert_eq!(admin.run("RPUSH list a"), "(integer) 1");
    assert_eq!(waiting.receive(), NOPERM_KEY);
    assert_eq!(next.receive(), "1) \"list\"\n2) \"a\"");
    assert!(admin.run("ACL LOG").contains("\"list\""));
    // Rules that still allow it change nothing.
    waiting.send("BLPOP other 0");
    until("it waits", || {
        admin.text("INFO clients").contains("blocked_clients:1")
    });
    admin.run("ACL SETUSER waiter allkeys");
    admin.run("RPUSH other b");
    assert_eq!(waiting.receive(), "1) \"other\"\n2) \"b\"");
    waiting.send("BLPOP other 0");
    until("it waits", || {
        admin.text("INFO clients").contains("blocked_clients:1")
    });
    assert_eq!(admin.run("ACL DELUSER waiter"), "(integer) 1");
    assert_eq!(admin.run("RPUSH other c"), "(integer) 1");
    assert_eq!(waiting.receive(), "(closed)");
    assert_eq!(admin.run("LLEN other"), "(integer) 1");
}

#[test]
fn every_command_that_waits_asks_again_when_it_wakes() {
    let server = TestServer::start();
    let mut admin = server.client();
    let refused = |name: &str| {
        format!("(error) NOPERM this user has no permissions to run the '{name}' command")
    };
    for (request, wake) in [
        ("BLPOP data 0", "RPUSH data a"),
        ("BRPOP data 0", "RPUSH data a"),
        ("BLMOVE data mine LEFT LEFT 0", "RPUSH data a"),
        (
            "BLMOVE data mine LEFT LEFT 0",
            "EVAL return(redis.call('RPUSH','data','a')) 0",
        ),
        ("BRPOPLPUSH data mine 0", "RPUSH data a"),
        ("BLMPOP 0 2 mine data LEFT", "RPUSH data a"),
        ("BZPOPMIN data 0", "ZADD data 1 a"),
        ("BZPOPMAX data 0", "ZADD data 1 a"),
        ("BZMPOP 0 2 mine data MIN", "ZADD data 1 a"),
        ("XREAD BLOCK 0 STREAMS data 0", "XADD data 1-1 a b"),
        (
            "XREADGROUP GROUP g c BLOCK 0 STREAMS data >",
            "XADD data 1-1 a b",
        ),
    ] {
        let name = request.split(' ').next().unwrap().to_lowercase();
        for (change, reply) in [
            (String::from("resetkeys ~mine"), NOPERM_KEY.to_owned()),
            (format!("-{name}"), refused(&name)),
        ] {
            admin.run("DEL data mine");
            if name == "xreadgroup" {
                admin.run("XGROUP CREATE data g $ MKSTREAM");
            }
            let mut waiting = user(&server, "waiter", "reset on nopass +@all ~*");
            waiting.send(request);
            until("it waits", || {
                admin.text("INFO clients").contains("blocked_clients:1")
            });
            admin.run(&format!("ACL SETUSER waiter {change}"));
            assert!(!admin.run(wake).starts_with("(error)"), "{wake}");
            assert_eq!(waiting.receive(), reply, "{request}");
            // Nothing was taken.
            assert_eq!(admin.number("EXISTS data mine"), 1, "{request}");
            if name == "xreadgroup" {
                assert!(admin.run("XPENDING data g").starts_with("1) (integer) 0"));
            }
            // It is no longer blocked, and may do what it may.
            assert_eq!(waiting.run("PING"), "PONG");
        }
    }
}

#[test]
fn a_command_that_was_held_back_by_a_pause_asks_when_it_runs() {
    let server = TestServer::start();
    let mut admin = server.client();
    let mut writer = user(&server, "writer", "+set +get ~k");
    assert_eq!(admin.run("CLIENT PAUSE 1000000 WRITE"), "OK");
    writer.send_bytes(b"SET k 1\r\nGET k\r\n");
    until("it is held back", || {
        admin.text("INFO clients").contains("blocked_clients:1")
    });
    assert_eq!(admin.run("ACL SETUSER writer -set"), "OK");
    assert_eq!(admin.run("CLIENT UNPAUSE"), "OK");
    let refused = "(error) NOPERM this user has no permissions to run the 'set' command";
    assert_eq!(writer.receive(), refused);
    assert_eq!(writer.receive(), "(nil)");
}
