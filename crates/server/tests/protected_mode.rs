//! `protected-mode`: clients from other machines are refused while the user that they would be has no password. A client that connects to an
//! address of this machine other than the loopback's counts as one from another machine, as in Redis.

mod common;
#[path = "common/encrypted.rs"]
mod encrypted;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use common::{Client, TestServer};
use damselfly_config::{Config, UserLine};
use damselfly_oracle::server::free_port;
use encrypted::{Encrypted, PATIENCE};

/// An address of this machine that is not the loopback's. Without one, there is nothing to test.
fn other_address() -> Option<IpAddr> {
    // The addresses that the kernel routes to the machine itself.
    let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = table.lines().map(str::trim).collect();
    let found = lines.windows(2).find_map(|pair| {
        let address: Ipv4Addr = pair[0].strip_prefix("|-- ")?.parse().ok()?;
        (pair[1] == "/32 host LOCAL" && !address.is_loopback()).then_some(address.into())
    });
    if found.is_none() {
        println!("This machine has no other address than the loopback's: nothing is tested.");
    }
    found
}

/// A server that listens on all addresses, for Redis's clients and for memcached's.
struct Open {
    server: TestServer,
    port: u16,
    memcached_port: u16,
}

impl Open {
    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let (port, memcached_port) = (free_port().unwrap(), free_port().unwrap());
        let server = TestServer::with(|config| {
            config.bind = vec![String::from("0.0.0.0")];
            config.port = port;
            config.memcached_port = memcached_port;
            change(config);
        });
        Self {
            server,
            port,
            memcached_port,
        }
    }
}

/// What a client at `address` gets for a request, up to the end of the line.
fn answer(address: IpAddr, port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(SocketAddr::new(address, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A server that refuses the client may have closed the connection.
    let _ = stream.write_all(request);
    let (mut line, mut byte) = (Vec::new(), [0]);
    while let Ok(1) = stream.read(&mut byte) {
        line.push(byte[0]);
        if line.ends_with(b"\r\n") {
            break;
        }
    }
    String::from_utf8(line).unwrap()
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn ping(address: IpAddr, port: u16) -> String {
    answer(address, port, b"PING\r\n")
}

fn no_operation(address: IpAddr, port: u16) -> String {
    answer(address, port, b"mn\r\n")
}

#[test]
fn without_a_password_only_this_machine_is_served() {
    let server = Open::with(|_| {});
    assert_eq!(ping(LOCAL, server.port), "+PONG\r\n");
    assert_eq!(no_operation(LOCAL, server.memcached_port), "MN\r\n");
    let Some(remote) = other_address() else {
        return;
    };
    let mut admin = server.server.client();
    let refused = ping(remote, server.port);
    let start = "-DENIED Damselfly is running in protected mode because protected mode is enabled and no password is set for the default user.";
    assert!(refused.starts_with(start), "{refused}");
    let refused = no_operation(remote, server.memcached_port);
    assert!(refused.starts_with("SERVER_ERROR DENIED "), "{refused}");
    assert!(
        admin
            .text("INFO stats")
            .contains("rejected_connections:2\r\n")
    );
    // A password is enough, and so is the option.
    assert_eq!(admin.run("CONFIG SET requirepass x"), "OK");
    assert!(ping(remote, server.port).starts_with("-NOAUTH"));
    let asked = no_operation(remote, server.memcached_port);
    assert_eq!(asked, "CLIENT_ERROR unauthenticated\r\n");
    assert_eq!(admin.run("ACL SETUSER default nopass"), "OK");
    assert!(ping(remote, server.port).starts_with("-DENIED"));
    assert_eq!(admin.run("CONFIG SET protected-mode no"), "OK");
    assert_eq!(ping(remote, server.port), "+PONG\r\n");
    assert_eq!(no_operation(remote, server.memcached_port), "MN\r\n");
}

/// Bug: with `requirepass` and a `memcached-user` without a password, clients of other machines could use the memcached port. Cause: only the default
/// user was looked at. Fix: the user that counts is the one that the connection would be.
#[test]
fn on_the_port_for_memcached_its_own_user_counts() {
    let Some(remote) = other_address() else {
        return;
    };
    let line = |name: &str, rules: &str| UserLine {
        place: damselfly_config::Place::CommandLine,
        name: name.to_owned(),
        rules: rules.split(' ').map(String::from).collect(),
    };
    let server = Open::with(|config| {
        config.requirepass = String::from("secret");
        config.memcached_user = String::from("cache");
        config.users = vec![line("cache", "on nopass ~* +get +set")];
    });
    let get = b"get k\r\n";
    assert!(ping(remote, server.port).starts_with("-NOAUTH"));
    assert_eq!(answer(LOCAL, server.memcached_port, get), "END\r\n");
    let refused = answer(remote, server.memcached_port, get);
    let start = "SERVER_ERROR DENIED Damselfly is running in protected mode because protected mode is enabled and no password is set for memcached-user.";
    assert!(refused.starts_with(start), "{refused}");
    let mut admin = server.server.client();
    assert_eq!(admin.run("AUTH secret"), "OK");
    assert_eq!(admin.run("ACL SETUSER cache resetpass >token"), "OK");
    let asked = answer(remote, server.memcached_port, get);
    assert_eq!(asked, "CLIENT_ERROR unauthenticated\r\n");
    // The other way round, only Redis's clients are refused.
    assert_eq!(admin.run("ACL SETUSER default nopass"), "OK");
    assert!(ping(remote, server.port).starts_with("-DENIED"));
    let asked = answer(remote, server.memcached_port, get);
    assert_eq!(asked, "CLIENT_ERROR unauthenticated\r\n");
}

/// A certificate is not a password: as in Redis, protected mode refuses clients of TLS as well, after the handshake.
#[test]
fn clients_with_tls_are_refused_after_the_handshake() {
    let Some(remote) = other_address() else {
        return;
    };
    let server = Encrypted::with(|config, _| config.bind = vec![String::from("0.0.0.0")]);
    assert_eq!(server.client().run("PING"), "PONG");
    let mut client: Client<_> =
        encrypted::connect_to(SocketAddr::new(remote, server.port), server.client_config())
            .unwrap();
    assert!(client.receive().contains("DENIED"));
    assert_eq!(client.receive(), "(closed)");
}
