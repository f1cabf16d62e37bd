//! What clients see of replicas, and who may become one.

use damselfly_protocol::client::Value as Reply;

use crate::certificates;
use crate::common::{call, info, say, text};
use crate::link_proxy::LinkProxy;
use crate::replicas::{online, ours, redis, redis_of, wait_online, wait_same, wait_until};
use crate::write_all_types;

#[test]
fn what_clients_see_of_replicas() {
    let primary = ours(&[]);
    let replica = redis_of(primary.address(), &[]);
    wait_online(&primary, 1);
    let mut connection = primary.connect();
    say(&mut connection, "SET key value");
    wait_same(&primary, &replica);
    let port = replica.address().port();
    wait_until("the offset is acknowledged", || {
        let offset = info(&mut connection, "master_repl_offset");
        info(&mut connection, "slave0")
            == format!("ip=127.0.0.1,port={port},state=online,offset={offset},lag=0")
    });
    let Reply::Array(role) = say(&mut connection, "ROLE") else {
        panic!("no array");
    };
    assert_eq!(text(&role[0]), "master");
    let Reply::Array(replicas) = &role[2] else {
        panic!("no array");
    };
    let Reply::Array(shown) = &replicas[0] else {
        panic!("no array");
    };
    assert_eq!(
        (text(&shown[0]), text(&shown[1])),
        ("127.0.0.1".into(), port.to_string())
    );
    wait_until("the replica is no client", || {
        info(&mut connection, "connected_clients") == "1"
    });
    for name in ["replica", "slave"] {
        let listed = text(&say(&mut connection, &format!("CLIENT LIST TYPE {name}")));
        assert!(
            listed.contains("flags=S") && listed.contains("cmd=replconf"),
            "{listed}"
        );
    }
    assert_eq!(
        say(&mut connection, "CLIENT KILL TYPE replica"),
        Reply::Integer(1)
    );
    wait_until("the replica is back", || {
        info(&mut connection, "sync_partial_ok") == "1" && online(&primary) == 1
    });
    // A replica that has something to say beside acknowledgements is disconnected.
    let mut rogue = primary.connect();
    rogue.send(b"SYNC\r\n").unwrap();
    wait_until("there are two replicas", || {
        info(&mut connection, "connected_slaves") == "2"
    });
    rogue.send(b"PING\r\n").unwrap();
    assert!(rogue.closed_by_server());
}

#[test]
fn a_replica_needs_rights() {
    let primary = ours(&[]);
    let mut connection = primary.connect();
    say(
        &mut connection,
        "ACL SETUSER copier on >secret +psync +replconf +ping",
    );
    say(&mut connection, "ACL SETUSER reader on >secret +@read");
    let start = |user| {
        redis_of(
            primary.address(),
            &["--masteruser", user, "--masterauth", "secret"],
        )
    };
    let refused = start("reader");
    wait_until("the reader is refused", || refused.log().contains("NOPERM"));
    assert_eq!(info(&mut connection, "connected_slaves"), "0");
    let replica = start("copier");
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
}

#[test]
fn a_replica_follows_over_tls() {
    let files = certificates::Files::new();
    let encryption = files.server_options();
    let encryption = encryption.each_ref().map(String::as_str);
    let tls_port = damselfly_oracle::server::free_port().unwrap();
    let port = tls_port.to_string();
    let with_port = [&encryption[..], &["--tls-port", &port]].concat();
    let primary = ours(&with_port);
    let mut connection = primary.connect();
    call(
        &mut connection,
        &["DEBUG", "POPULATE", "20000", "key", "100"],
    );
    let address = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, tls_port));
    let proxy = LinkProxy::start(address);
    let with_tls = [&encryption[..], &["--tls-replication", "yes"]].concat();
    let replica = redis_of(proxy.address(), &with_tls);
    wait_online(&primary, 1);
    for round in 0..3 {
        write_all_types(&mut connection, &round.to_string());
        proxy.cut();
        for number in 0..100 {
            call(
                &mut connection,
                &["SET", &format!("large-{number}"), &"x".repeat(5000)],
            );
        }
        wait_online(&primary, 1);
    }
    wait_same(&primary, &replica);
    assert_eq!(info(&mut connection, "sync_full"), "1");
    let listed = text(&say(&mut connection, "CLIENT LIST TYPE replica"));
    assert!(listed.contains("tls="), "{listed}");
}

/// Bug: a command of a replica took effect before its connection was closed, and the log did not name it. Cause: only clients that use MONITOR were
/// kept from keys. Fix: replicas are, too, and the log has the lines of Redis.
#[test]
fn a_command_of_a_replica_changes_nothing_and_is_logged() {
    for server in [ours(&[]), redis(&[])] {
        let mut connection = server.connect();
        for (request, named, refused) in [
            ("PING", "ping", false),
            ("SLOWLOG GET", "slowlog|get", false),
            ("SET key value", "set", true),
            ("PUBLISH channel message", "publish", true),
        ] {
            let mut replica = server.connect();
            replica.send(b"SYNC\r\n").unwrap();
            wait_online(&server, 1);
            replica.send(format!("{request}\r\n").as_bytes()).unwrap();
            wait_until("the replica is disconnected", || {
                info(&mut connection, "connected_slaves") == "0"
            });
            let log = server.log();
            let generated =
                format!("Replica generated a reply to command '{named}', disconnecting it: id=");
            assert!(log.contains(&generated), "{log}");
            let critical = format!(
                "== CRITICAL == This master is sending an error to its replica: 'Replica can't interact with the keyspace' after processing the command '{named}'"
            );
            assert_eq!(log.contains(&critical), refused, "{log}");
        }
        assert_eq!(text(&say(&mut connection, "EXISTS key")), "0");
        let error = connection.call(&["PSYNC", "id", "offset"]).unwrap();
        assert!(error.to_string().contains("not an integer"), "{error}");
        let wrong = "asks for synchronization but with a wrong offset";
        assert!(server.log().contains(wrong));
    }
}
