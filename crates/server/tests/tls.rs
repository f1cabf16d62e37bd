//! Clients that use TLS, as a whole server sees them.

mod common;
#[path = "common/encrypted.rs"]
mod encrypted;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use common::{TestServer, until};
use damselfly_config::{OutputLimit, TlsAuthClients};
use damselfly_oracle::server::free_port;
use damselfly_protocol::client::{Value, write_command};
use encrypted::certificates::Files;
use encrypted::{Encrypted, PATIENCE, connect, field};
use rcgen::CertificateParams;
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, version};

/// The request that stores `value`.
fn set_request(key: &str, value: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    write_command(&mut request, &[b"SET", key.as_bytes(), value]);
    request
}

#[test]
fn encrypted_and_plain_clients_see_the_same_data() {
    let server = Encrypted::start();
    let (mut encrypted, mut plain) = (server.client(), server.server.client());
    assert_eq!(encrypted.run("SET k v"), "OK");
    assert_eq!(plain.run("GET k"), "\"v\"");
    let shown = plain.text("CLIENT LIST");
    let lines: Vec<&str> = shown.lines().collect();
    let encryption = |line: &&str| {
        line.split(' ')
            .any(|field| field == "tls=TLSv1.3|TLS_AES_256_GCM_SHA384")
    };
    assert_eq!(lines.iter().filter(|line| encryption(line)).count(), 1);
    assert!(lines.iter().any(|line| !line.contains("tls=")));
    assert_eq!(server.info("tls_clients"), "1");
    assert_eq!(server.info("tls_port"), server.port.to_string());
    assert_eq!(server.info("tls_handshakes_completed"), "1");
    assert_eq!(server.info("tls_handshakes_in_progress"), "0");
    assert_eq!(
        server.info("tls_server_cert_serial"),
        encrypted.server_serial()
    );
    assert_ne!(server.info("tls_server_cert_expires_in_seconds"), "0");
    drop(encrypted);
    until("the client is gone", || server.info("tls_clients") == "0");
}

#[test]
fn long_pipelines_and_values_pass_in_both_directions() {
    let server = Encrypted::start();
    let mut client = server.client();
    // Few enough that their replies fit into buffers while nobody reads them.
    let count = 50_000;
    let mut requests = Vec::new();
    for number in 0..count {
        write_command(&mut requests, &[b"ECHO", format!("{number}").as_bytes()]);
    }
    client.send_bytes(&requests);
    for number in 0..count {
        assert_eq!(client.receive(), format!("\"{number}\""));
    }
    let value: Vec<u8> = (0..200 << 20)
        .map(|index: u32| (index % 251) as u8)
        .collect();
    client.send_bytes(&set_request("large", &value));
    assert_eq!(client.receive(), "OK");
    client.send("GET large");
    match client.receive_value() {
        Some(Value::Bulk(bytes)) => assert!(bytes == value),
        other => panic!("{:?}", other.map(|value| value.to_string().len())),
    }
    assert_eq!(client.run("PING"), "PONG");
}

#[test]
fn all_requests_before_the_end_of_the_input_are_answered() {
    let server = Encrypted::start();
    let mut client = server.client();
    for _ in 0..1000 {
        client.send("PING");
    }
    client.end_sending();
    for _ in 0..1000 {
        assert_eq!(client.receive(), "PONG");
    }
    assert_eq!(client.receive(), "(closed)", "closed with close_notify");
    assert_eq!(server.client().run("QUIT"), "OK");
}

#[test]
fn the_server_closes_properly() {
    let server = Encrypted::start();
    let mut client = server.client();
    assert_eq!(client.run("QUIT"), "OK");
    assert_eq!(client.receive(), "(closed)");
    let mut client = server.client();
    let id = client
        .run("CLIENT ID")
        .trim_start_matches("(integer) ")
        .to_owned();
    let mut plain = server.server.client();
    assert_eq!(plain.run(&format!("CLIENT KILL ID {id}")), "(integer) 1");
    assert_eq!(client.receive(), "(closed)");
    let mut client = server.client();
    client.send_bytes(b"*1\r\n$-1\r\n");
    assert_eq!(
        client.receive(),
        "(error) ERR Protocol error: invalid bulk length"
    );
    assert_eq!(client.receive(), "(closed)");
}

#[test]
fn pushed_messages_and_monitor_lines_arrive() {
    let server = Encrypted::start();
    let (mut subscriber, mut monitor) = (server.client(), server.client());
    let mut plain = server.server.client();
    subscriber.run("HELLO 3");
    subscriber.run("SUBSCRIBE c");
    subscriber.run("CLIENT TRACKING ON BCAST PREFIX k");
    assert_eq!(monitor.run("MONITOR"), "OK");
    let long = "x".repeat(100_000);
    for message in ["a", &long, "b"] {
        assert_eq!(plain.run(&format!("PUBLISH c {message}")), "(integer) 1");
        assert!(subscriber.receive().contains(message));
        assert!(monitor.receive().contains("\"PUBLISH\" \"c\""));
    }
    assert_eq!(plain.run("SET k1 v"), "OK");
    assert!(subscriber.receive().contains("invalidate"));
}

#[test]
fn blocked_clients_are_woken() {
    let server = Encrypted::start();
    let (mut blocked, mut other) = (server.client(), server.client());
    blocked.send("BLPOP list 0");
    until("it waits", || server.info("blocked_clients") == "1");
    assert_eq!(other.run("RPUSH list x"), "(integer) 1");
    assert!(blocked.receive().contains("\"x\""));
}

#[test]
fn clients_that_do_not_read_are_disconnected_and_their_memory_is_bounded() {
    let server = Encrypted::with(|config, _| {
        config.client_output_buffer_limit.pubsub = OutputLimit {
            hard_bytes: 4 << 20,
            soft_bytes: 0,
            soft_s: 0,
        };
    });
    let mut slow = server.client();
    slow.run("SUBSCRIBE c");
    let mut plain = server.server.client();
    let message = "x".repeat(1 << 20);
    until("the subscriber is disconnected", || {
        plain.run(&format!("PUBLISH c {message}"));
        server.info("client_output_buffer_limit_disconnections") == "1"
    });
    // A client that sends requests and reads no replies is held back instead.
    let mut slow = server.client();
    assert_eq!(slow.run("CLIENT SETNAME slow"), "OK");
    slow.send_bytes(&set_request("value", &vec![b'x'; 1 << 20]));
    assert_eq!(slow.receive(), "OK");
    for _ in 0..100 {
        slow.send("GET value");
    }
    until("its replies wait", || {
        let list = plain.text("CLIENT LIST");
        let line = list
            .lines()
            .find(|line| line.contains("name=slow"))
            .unwrap()
            .to_owned();
        line.contains("events=rw")
    });
    let list = plain.text("CLIENT LIST");
    let line = list
        .lines()
        .find(|line| line.contains("name=slow"))
        .unwrap();
    let memory = line
        .split(' ')
        .find_map(|field| field.strip_prefix("tot-mem="));
    assert!(
        memory.unwrap().parse::<usize>().unwrap() < 8 << 20,
        "{line}"
    );
    for _ in 0..100 {
        assert_eq!(
            slow.receive_value().unwrap().to_string().len(),
            (1 << 20) + 2
        );
    }
}

#[test]
fn plain_bytes_on_the_port_for_tls_are_refused() {
    let server = Encrypted::start();
    for bytes in [
        &b"PING\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut socket = server.socket();
        socket.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // The connection may be reset, because the server has not read all.
        let _ = socket.read_to_end(&mut answer);
        assert_eq!(answer.first(), Some(&0x15), "an alert");
    }
    until("they are counted", || {
        server.info("tls_handshakes_failed") == "3"
    });
    assert_eq!(server.client().run("PING"), "PONG");
    assert_eq!(server.info("total_error_replies"), "0");
}

#[test]
fn tls_on_a_plain_port_does_no_harm() {
    let plain_port = free_port().unwrap();
    let server = Encrypted::with(|config, _| config.port = plain_port);
    for _ in 0..20 {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, plain_port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut session =
            ClientConnection::new(server.client_config(), "localhost".try_into().unwrap()).unwrap();
        while session.wants_write() {
            session.write_tls(&mut socket).unwrap();
        }
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"-"), "{answer:?}");
    }
    assert_eq!(server.client().run("PING"), "PONG");
}

#[test]
fn old_versions_of_tls_are_refused() {
    let server = Encrypted::start();
    // A ClientHello of TLS 1.1: version 3.2, one old cipher, no extensions.
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x14, 1, 0]);
    let mut hello = vec![0x16, 3, 1, 0, 0, 1, 0, 0, body.len() as u8];
    hello[4] = body.len() as u8 + 4;
    hello.extend(body);
    let mut socket = server.socket();
    socket.write_all(&hello).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(answer[0], 0x15, "an alert");
    assert_eq!(answer[5], 2, "a fatal one");
    until("it is counted", || {
        server.info("tls_handshakes_failed") == "1"
    });
}

#[test]
fn handshakes_that_do_not_end_are_dropped() {
    let server = Encrypted::with(|config, _| config.tls_handshake_timeout_s = 1);
    let mut silent = server.socket();
    let mut begun = server.socket();
    begun.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    until("they are counted", || {
        server.info("tls_handshakes_in_progress") == "2"
    });
    for socket in [&mut silent, &mut begun] {
        assert_eq!(socket.read(&mut [0; 16]).unwrap(), 0);
    }
    assert_eq!(server.info("tls_handshakes_timed_out"), "2");
    assert_eq!(server.info("tls_handshakes_in_progress"), "0");
    // A client that leaves by itself is a failure.
    drop(server.socket());
    until("it is counted", || {
        server.info("tls_handshakes_failed") == "1"
    });
    assert_eq!(server.client().run("PING"), "PONG");
}

#[test]
fn unfinished_handshakes_count_as_clients() {
    let server = Encrypted::with(|config, _| config.maxclients = 4);
    let mut plain = server.server.client();
    assert_eq!(plain.run("PING"), "PONG");
    let waiting: Vec<_> = (0..3).map(|_| server.socket()).collect();
    until("they are counted", || {
        field(&mut plain, "tls_handshakes_in_progress") == "3"
    });
    let mut refused = server.socket();
    assert_eq!(
        refused.read(&mut [0; 16]).unwrap(),
        0,
        "without a handshake, there is no way to tell it"
    );
    assert_eq!(field(&mut plain, "rejected_connections"), "1");
    drop(waiting);
    until("there is room", || {
        connect(server.port, server.client_config()).is_ok()
    });
}

#[test]
fn a_flood_of_handshakes_is_served_beside_other_clients() {
    let server = Encrypted::start();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let mut client = server.client();
                    assert_eq!(client.run("PING"), "PONG");
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        let (mut plain, mut encrypted) = (server.server.client(), server.client());
        let mut served = 0;
        while done.load(Relaxed) < 300 {
            assert_eq!(
                plain.run("INCR counter"),
                format!("(integer) {}", 2 * served + 1)
            );
            assert_eq!(
                encrypted.run("INCR counter"),
                format!("(integer) {}", 2 * served + 2)
            );
            served += 1;
        }
        assert!(served > 0);
        stop.store(true, Relaxed);
    });
    assert_eq!(server.info("tls_handshakes_failed"), "0");
}

#[test]
fn certificates_are_renewed_under_load() {
    let server = Encrypted::start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..3 {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut lasting = server.client();
                let mut count = 0;
                while !stop.load(Relaxed) {
                    count += 1;
                    assert_eq!(
                        lasting.run(&format!("INCR k{number}")),
                        format!("(integer) {count}")
                    );
                    assert_eq!(server.client().run("PING"), "PONG");
                }
            });
        }
        let mut plain = server.server.client();
        let set = |name: &str| format!("CONFIG SET tls-cert-file {}", server.files.path(name));
        for _ in 0..10 {
            let before = server.client().server_serial();
            let renewed = server.files.renew();
            assert_eq!(
                server.client().server_serial(),
                before,
                "nothing was read yet"
            );
            assert_eq!(plain.run(&set("server.crt")), "OK");
            let serial = damselfly_tls::CertificateFacts::of(renewed.der())
                .unwrap()
                .serial;
            assert_eq!(server.client().server_serial(), serial);
            assert_ne!(serial, before);
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn bad_certificates_leave_the_old_ones_in_use() {
    let server = Encrypted::start();
    let files = &server.files;
    let serial = server.client().server_serial();
    let mut plain = server.server.client();
    files.write("broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let mut expired = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let (certificate, key) = files.sign(expired);
    files.write("expired.crt", &certificate.pem());
    files.write("expired.key", &key.serialize_pem());
    for (certificate, key) in [
        ("broken.crt", "server.key"),
        ("absent.crt", "server.key"),
        ("client.crt", "server.key"),
        ("expired.crt", "expired.key"),
    ] {
        let (certificate, key) = (files.path(certificate), files.path(key));
        assert_eq!(
            plain.run(&format!(
                "CONFIG SET tls-cert-file {certificate} tls-key-file {key}"
            )),
            "(error) ERR CONFIG SET failed (possibly related to argument 'tls-cert-file') - Unable to update TLS configuration. Check server logs."
        );
        assert_eq!(server.client().server_serial(), serial);
        let shown = plain.run("CONFIG GET tls-cert-file");
        assert!(shown.contains("server.crt"), "{shown}");
    }
}

#[test]
fn ports_are_changed_while_clients_stay() {
    let server = Encrypted::start();
    let mut client = server.client();
    let mut plain = server.server.client();
    let other = free_port().unwrap();
    assert_eq!(plain.run(&format!("CONFIG SET tls-port {other}")), "OK");
    assert_eq!(client.run("PING"), "PONG");
    let mut moved = connect(other, server.client_config()).unwrap();
    assert_eq!(moved.run("PING"), "PONG");
    assert_eq!(plain.run("CONFIG SET tls-port 0"), "OK");
    assert!(connect(other, server.client_config()).is_err());
    assert_eq!(moved.run("PING"), "PONG");
    // Without files, TLS can't be turned on.
    assert_eq!(plain.run("CONFIG SET tls-cert-file \"\""), "OK");
    let refused = plain.run(&format!("CONFIG SET tls-port {other}"));
    assert!(
        refused.contains("Unable to update TLS configuration"),
        "{refused}"
    );
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, other)).is_err());
}

#[test]
fn memcached_clients_can_use_tls() {
    let port = free_port().unwrap();
    let server = Encrypted::with(|config, _| {
        config.memcached_port = port;
        config.tls_memcached = true;
    });
    let mut client = connect(port, server.client_config()).unwrap();
    client.send_bytes(b"set k 0 0 1\r\nv\r\nget k\r\n");
    let mut answer = vec![0; 29];
    client.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, b"STORED\r\nVALUE k 0 1\r\nv\r\nEND\r\n");
    assert_eq!(
        server.server.client().run("CONFIG SET tls-memcached no"),
        "OK"
    );
    let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"get k\r\n").unwrap();
    let mut answer = vec![0; 21];
    plain.read_exact(&mut answer).unwrap();
    assert_eq!(answer, b"VALUE k 0 1\r\nv\r\nEND\r\n");
}

#[test]
fn clients_without_a_certificate_are_refused_where_one_is_needed() {
    let server = Encrypted::with(|config, _| config.tls_auth_clients = TlsAuthClients::Yes);
    // In TLS 1.3, the client learns of it with its first read.
    match connect(server.port, server.client_config()) {
        Ok(mut client) => {
            let error = client.stream.read(&mut [0; 16]).unwrap_err();
            assert!(error.to_string().contains("CertificateRequired"), "{error}");
        }
        Err(error) => assert!(
            error.kind() == ErrorKind::InvalidData || error.kind() == ErrorKind::ConnectionReset,
            "{error}"
        ),
    }
    let config = server
        .files
        .client_with(CertificateParams::new(Vec::new()).unwrap());
    let mut client = connect(server.port, Arc::new(config)).unwrap();
    assert_eq!(client.run("PING"), "PONG");
}

/// True if a client may use the server. In TLS 1.3, a client that may not learns of it with its first read.
fn is_served(server: &Encrypted, config: ClientConfig) -> bool {
    let Ok(mut client) = connect(server.port, Arc::new(config)) else {
        return false;
    };
    let sent = client.stream.write_all(b"PING\r\n");
    let mut reply = [0; 7];
    sent.and_then(|()| client.stream.read_exact(&mut reply))
        .is_ok_and(|()| reply == *b"+PONG\r\n")
}

#[test]
fn only_certificates_that_are_valid_and_of_a_known_authority_are_accepted() {
    let server = Encrypted::with(|config, _| config.tls_auth_clients = TlsAuthClients::Yes);
    let files = &server.files;
    let params = || CertificateParams::new(Vec::new()).unwrap();
    let mut expired = params();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let mut early = params();
    early.not_before = rcgen::date_time_ymd(4000, 1, 1);
    early.not_after = rcgen::date_time_ymd(4001, 1, 1);
    // Signed by another authority, but the client trusts the server's.
    let other = Files::new();
    let (certificate, key) = other.sign(params());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let foreign = files
        .client_builder(&[&version::TLS13])
        .with_client_auth_cert(vec![certificate.der().clone()], key)
        .unwrap();
    assert!(is_served(&server, files.client_with(params())));
    for refused in [
        files.client_with(expired.clone()),
        files.client_with(early),
        foreign.clone(),
        files.client_config(&[&version::TLS13]),
    ] {
        assert!(!is_served(&server, refused));
    }
    until("they are counted", || {
        server.info("tls_handshakes_failed") == "4"
    });
    assert_eq!(server.info("tls_handshakes_completed"), "1");
    // `optional` allows none, but no invalid one.
    let mut plain = server.server.client();
    assert_eq!(plain.run("CONFIG SET tls-auth-clients optional"), "OK");
    assert!(is_served(&server, files.client_config(&[&version::TLS13])));
    assert!(!is_served(&server, foreign.clone()));
    assert!(!is_served(&server, files.client_with(expired)));
    // Authorities from a folder, while the server runs.
    let folder = files.path("authorities");
    std::fs::create_dir(&folder).unwrap();
    files.write("authorities/1.pem", &files.authority.pem());
    let set = format!("CONFIG SET tls-auth-clients yes tls-ca-cert-dir {folder} tls-ca-cert-file");
    let mut words: Vec<&str> = set.split(' ').collect();
    words.push("");
    assert_eq!(plain.run_words(&words), "OK");
    assert!(is_served(&server, files.client_with(params())));
    assert!(!is_served(&server, foreign.clone()));
    files.write("authorities/2.pem", &other.authority.pem());
    assert!(!is_served(&server, foreign.clone()), "nothing was read yet");
    assert_eq!(
        plain.run(&format!("CONFIG SET tls-ca-cert-dir {folder}")),
        "OK"
    );
    assert!(is_served(&server, foreign));
}

#[test]
fn sessions_are_resumed_while_the_option_is_on() {
    let server = Encrypted::start();
    let mut config = server.files.client_config(&[&version::TLS13]);
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let kind = || {
        let mut client = connect(server.port, config.clone()).unwrap();
        // With the reply, the client has what it needs to resume the session.
        assert_eq!(client.run("PING"), "PONG");
        client.stream.0.conn.handshake_kind().unwrap()
    };
    assert_eq!(kind(), HandshakeKind::Full);
    assert_eq!(kind(), HandshakeKind::Resumed);
    let mut plain = server.server.client();
    assert_eq!(plain.run("CONFIG SET tls-session-caching no"), "OK");
    assert_eq!([kind(), kind()], [HandshakeKind::Full; 2]);
    assert_eq!(plain.run("CONFIG SET tls-session-caching yes"), "OK");
    assert_eq!(kind(), HandshakeKind::Full);
    assert_eq!(kind(), HandshakeKind::Resumed);
}

#[test]
fn a_key_with_a_password_is_used_and_a_wrong_password_is_named() {
    let server = Encrypted::start();
    let (certificate, key) = (server.files.path("own.crt"), server.files.path("own.key"));
    let openssl = |command: &str| {
        let made = Command::new("openssl").args(command.split(' ')).output();
        let made = made.expect("openssl is installed");
        assert!(made.status.success(), "{made:?}");
    };
    let pass = "pass:secret";
    openssl(&format!(
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes-256-cbc -pass {pass} -out {key}"
    ));
    openssl(&format!(
        "req -x509 -key {key} -passin {pass} -subj /CN=localhost -days 2 -out {certificate}"
    ));
    let serial = server.client().server_serial();
    let mut plain = server.server.client();
    let set = |pass: &str| {
        format!(
            "CONFIG SET tls-cert-file {certificate} tls-key-file {key} tls-key-file-pass {pass}"
        )
    };
    let refused = plain.run(&set("wrong"));
    assert!(
        refused.contains("Unable to update TLS configuration"),
        "{refused}"
    );
    assert_eq!(server.client().server_serial(), serial);
    assert_eq!(plain.run(&set("secret")), "OK");
    assert_ne!(server.info("tls_server_cert_serial"), serial);
}

#[test]
fn a_server_without_usable_certificates_does_not_start() {
    let refused = TestServer::try_with(|config| config.tls_port = free_port().unwrap());
    let why = refused.map(drop).unwrap_err();
    assert_eq!(why, "Failed to configure TLS: No tls-cert-file configured!");
}
