//! TLS connections over sockets in memory, with rustls as the client.

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use common::Files;
use damselfly_config::{Config, TlsAuthClients};
use damselfly_tls::{Acceptor, BUFFER_BYTES_MIN, ENCRYPTED_BYTES_MAX, ReadEnd, TlsStream};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, version};

/// Both directions between a client and a server.
#[derive(Default)]
struct Wire {
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// How many more bytes the server may send.
    room: usize,
    /// The most bytes that one read returns.
    piece: usize,
    is_closed: bool,
}

/// The server's end.
#[derive(Clone)]
struct Socket(Rc<RefCell<Wire>>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let len = buffer.len().min(wire.piece);
        let bytes = wire.to_server.read(&mut buffer[..len])?;
        match bytes {
            0 if !wire.is_closed => Err(ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let len = bytes.len().min(wire.room);
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        wire.room -= len;
        wire.to_client.write(&bytes[..len])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client, a server, and the wire between them.
struct Pair {
    client: ClientConnection,
    server: TlsStream<Socket>,
    wire: Rc<RefCell<Wire>>,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
}

impl Pair {
    fn new(acceptor: &Acceptor, client: ClientConfig) -> Self {
        Self::with(acceptor, Arc::new(client))
    }

    fn with(acceptor: &Acceptor, client: Arc<ClientConfig>) -> Self {
        let wire = Rc::new(RefCell::new(Wire {
            room: usize::MAX,
            piece: usize::MAX,
            ..Wire::default()
        }));
        Self {
            client: ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap(),
            server: acceptor.accept(Socket(wire.clone())).unwrap(),
            wire,
            buffer: vec![0; BUFFER_BYTES_MIN],
            scratch: vec![0; ENCRYPTED_BYTES_MAX],
        }
    }

    /// Moves what the client has to send onto the wire.
    fn client_sends(&mut self) {
        while self.client.wants_write() {
            let sent = self.client.write_tls(&mut self.wire.borrow_mut().to_server);
            sent.unwrap();
        }
    }

    /// Lets the client process what is on the wire, and returns the plain bytes.
    fn client_receives(&mut self) -> Result<Vec<u8>, rustls::Error> {
        let mut plain = Vec::new();
        while !self.wire.borrow().to_client.is_empty() {
            let read = self.client.read_tls(&mut self.wire.borrow_mut().to_client);
            read.unwrap();
            self.client.process_new_packets()?;
            let mut piece = [0; 1 << 14];
            while let Ok(bytes @ 1..) = self.client.reader().read(&mut piece) {
                plain.extend_from_slice(&piece[..bytes]);
            }
        }
        Ok(plain)
    }

    /// Completes the handshake. Returns the server's error and the client's.
    fn shake(&mut self) -> (Option<io::Error>, Option<rustls::Error>) {
        for _ in 0..1000 {
            self.client_sends();
            let result = self.server.handshake(&mut self.buffer);
            let seen = self.client_receives();
            if result.is_err() || seen.is_err() {
                return (result.err(), seen.err());
            }
            if result.unwrap() && !self.client.is_handshaking() {
                return (None, None);
            }
        }
        panic!("the handshake does not end");
    }

    fn connected(acceptor: &Acceptor, client: ClientConfig) -> Self {
        let mut pair = Self::new(acceptor, client);
        let (server, client) = pair.shake();
        assert!(
            server.is_none() && client.is_none(),
            "{server:?} {client:?}"
        );
        pair
    }

    fn client_writes(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(10_000) {
            self.client.writer().write_all(piece).unwrap();
            self.client_sends();
        }
    }

    /// What the server reads until its socket is drained or closed.
    fn server_reads(&mut self) -> (Vec<u8>, ReadEnd) {
        let mut plain = Vec::new();
        loop {
            let (bytes, end) = self.server.read(&mut self.buffer).unwrap();
            plain.extend_from_slice(&self.buffer[..bytes]);
            if end != ReadEnd::More && self.wire.borrow().to_server.is_empty() {
                return (plain, end);
            }
        }
    }
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 31 % 251) as u8).collect()
}

#[test]
fn bytes_arrive_in_both_directions_however_they_are_cut() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    for tls in [&version::TLS12, &version::TLS13] {
        for piece in [1, 5, 1000, 16_406, usize::MAX] {
            let mut pair = Pair::new(&acceptor, files.client_config(&[tls]));
            pair.wire.borrow_mut().piece = piece;
            assert!(matches!(pair.shake(), (None, None)));
            for len in [1, 16 << 10, 200_000] {
                let bytes = pattern(len);
                pair.client_writes(&bytes);
                assert_eq!(pair.server_reads().0, bytes);
                let mut sent = 0;
                while sent < len {
                    sent += pair
                        .server
                        .write(&bytes[sent..], &mut pair.scratch)
                        .unwrap();
                }
                assert_eq!(pair.client_receives().unwrap(), bytes);
            }
            assert!(pair.server.description().starts_with("TLSv1."));
        }
    }
}

#[test]
fn a_request_that_arrives_with_the_end_of_the_handshake_is_kept() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    let mut pair = Pair::new(&acceptor, files.client_config(&[&version::TLS13]));
    pair.client_sends();
    assert!(!pair.server.handshake(&mut pair.buffer).unwrap());
    pair.client_receives().unwrap();
    pair.client_writes(b"PING\r\n");
    assert!(pair.server.handshake(&mut pair.buffer).unwrap());
    assert_eq!(
        pair.server_reads(),
        (b"PING\r\n".to_vec(), ReadEnd::Drained)
    );
}

#[test]
fn what_the_socket_does_not_take_is_sent_later_and_counted() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    let mut pair = Pair::connected(&acceptor, files.client_config(&[&version::TLS13]));
    let bytes = pattern(500_000);
    let (mut sent, mut received) = (0, Vec::new());
    pair.wire.borrow_mut().room = 0;
    while received.len() < bytes.len() {
        match pair.server.write(&bytes[sent..], &mut pair.scratch) {
            Ok(bytes) => sent += bytes,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(pair.server.unsent() <= ENCRYPTED_BYTES_MAX, "bounded");
        assert!(
            sent == bytes.len() || pair.server.unsent() > 0,
            "it waits only for the socket"
        );
        pair.wire.borrow_mut().room = 7000;
        pair.server.send_rest().unwrap();
        received.extend(pair.client_receives().unwrap());
    }
    assert_eq!(received, bytes);
    assert_eq!(pair.server.unsent(), 0);
}

#[test]
fn closing_is_announced_in_both_directions() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    for tls in [&version::TLS12, &version::TLS13] {
        let mut pair = Pair::connected(&acceptor, files.client_config(&[tls]));
        pair.client_writes(b"last");
        pair.client.send_close_notify();
        pair.client_sends();
        assert_eq!(pair.server_reads(), (b"last".to_vec(), ReadEnd::Closed));
        // The client still reads.
        pair.server.write(b"reply", &mut pair.scratch).unwrap();
        pair.server.close();
        assert_eq!(pair.client_receives().unwrap(), b"reply");
        let mut rest = [0; 1];
        assert_eq!(
            pair.client.reader().read(&mut rest).unwrap(),
            0,
            "closed properly"
        );
    }
}

#[test]
fn a_client_that_is_cut_off_is_gone() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    let mut pair = Pair::connected(&acceptor, files.client_config(&[&version::TLS13]));
    pair.client_writes(b"last");
    pair.wire.borrow_mut().is_closed = true;
    let mut read = pair.server_reads();
    if read.1 != ReadEnd::Closed {
        read.1 = pair.server_reads().1;
    }
    assert_eq!(read, (b"last".to_vec(), ReadEnd::Closed));

    let mut pair = Pair::new(&acceptor, files.client_config(&[&version::TLS13]));
    pair.client_sends();
    pair.wire.borrow_mut().is_closed = true;
    assert!(
        !pair.server.handshake(&mut pair.buffer).unwrap(),
        "the first bytes come first"
    );
    let error = pair.server.handshake(&mut pair.buffer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn bytes_that_are_no_tls_are_refused_with_an_alert() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    for bytes in [
        &b"PING\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        &[0x16, 3, 1, 0xff, 0xff],
        &[0; 100],
    ] {
        let mut pair = Pair::new(&acceptor, files.client_config(&[&version::TLS13]));
        pair.wire.borrow_mut().to_server.extend(bytes);
        let error = pair.server.handshake(&mut pair.buffer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert_eq!(
            pair.wire.borrow().to_client.front(),
            Some(&0x15),
            "an alert"
        );
        assert!(pair.server.write(b"x", &mut pair.scratch).is_err());
        pair.server.close();
    }
}

#[test]
fn damaged_records_end_the_connection_after_the_requests_before_them() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    let mut pair = Pair::connected(&acceptor, files.client_config(&[&version::TLS13]));
    pair.client_writes(b"good");
    pair.client_writes(b"bad");
    *pair.wire.borrow_mut().to_server.back_mut().unwrap() ^= 1;
    let (bytes, end) = pair.server.read(&mut pair.buffer).unwrap();
    assert_eq!((&pair.buffer[..bytes], end), (&b"good"[..], ReadEnd::More));
    let error = pair.server.read(&mut pair.buffer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(pair.server.write(b"x", &mut pair.scratch).is_err());
}

/// Bug: rustls remembers where the parts of an incomplete handshake message are, and panics when it gets fewer bytes the next time.
/// A client could cause that with a part of a message, followed by silence, while a message was published to it. Fix: it always
/// gets the incomplete bytes.
#[test]
fn a_part_of_a_handshake_message_does_no_harm() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    // The handshake itself: its first message in two records.
    let mut pair = Pair::new(&acceptor, files.client_config(&[&version::TLS13]));
    let mut hello = Vec::new();
    pair.client.write_tls(&mut hello).unwrap();
    let body = hello[5..].to_vec();
    for (part, is_last) in [(&body[..10], false), (&body[10..], true)] {
        let mut record = vec![0x16, 3, 1, 0, 0];
        record[3..].copy_from_slice(&(part.len() as u16).to_be_bytes());
        record.extend_from_slice(part);
        pair.wire.borrow_mut().to_server.extend(record);
        assert!(!pair.server.handshake(&mut pair.buffer).unwrap());
        pair.server.close();
        assert!(
            pair.server.write(b"x", &mut pair.scratch).is_err(),
            "too early"
        );
        assert_eq!(pair.wire.borrow().to_client.is_empty(), !is_last);
    }
    pair.client_receives().unwrap();
    assert!(matches!(pair.shake(), (None, None)));
}

#[test]
fn an_endless_handshake_message_is_refused() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    let mut pair = Pair::new(&acceptor, files.client_config(&[&version::TLS13]));
    // A ClientHello of 65,000 bytes, in records of 1,000.
    let mut message = vec![1, 0, 0xfd, 0xe8];
    message.resize(65_004, 0);
    let mut refused = false;
    for part in message.chunks(1000) {
        let mut record = vec![0x16, 3, 1, 0, 0];
        record[3..].copy_from_slice(&(part.len() as u16).to_be_bytes());
        record.extend_from_slice(part);
        pair.wire.borrow_mut().to_server.extend(record);
        refused |= pair.server.handshake(&mut pair.buffer).is_err();
        assert!(pair.server.memory() < 100_000, "bounded");
    }
    assert!(refused);
}

#[test]
fn keys_are_updated_when_the_client_asks() {
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    let mut pair = Pair::connected(&acceptor, files.client_config(&[&version::TLS13]));
    for round in 0..10_u8 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client_writes(&[round]);
        assert_eq!(pair.server_reads().0, [round]);
        pair.server.write(&[round], &mut pair.scratch).unwrap();
        assert_eq!(pair.client_receives().unwrap(), [round]);
    }
}

#[test]
fn sessions_are_resumed_unless_caching_is_off_or_the_files_were_read_again() {
    let files = Files::new();
    for tls in [&version::TLS12, &version::TLS13] {
        let mut client = files.client_config(&[tls]);
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        let kind = |acceptor: &Acceptor| {
            let mut pair = Pair::with(acceptor, client.clone());
            assert!(matches!(pair.shake(), (None, None)));
            pair.client.handshake_kind().unwrap()
        };
        let acceptor = Acceptor::load(&files.config()).unwrap();
        assert_eq!(kind(&acceptor), HandshakeKind::Full);
        assert_eq!(kind(&acceptor), HandshakeKind::Resumed);
        let again = Acceptor::load(&files.config()).unwrap();
        assert_eq!(kind(&again), HandshakeKind::Full);
        let mut config = files.config();
        config.tls_session_caching = false;
        let without = Acceptor::load(&config).unwrap();
        assert_eq!(kind(&without), HandshakeKind::Full);
        assert_eq!(kind(&without), HandshakeKind::Full);
    }
}

#[test]
fn clients_need_the_certificates_that_the_option_asks_for() {
    let files = Files::new();
    let other = Files::new();
    let valid = || files.client_with(CertificateParams::new(Vec::new()).unwrap());
    let mut expired = CertificateParams::new(Vec::new()).unwrap();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let with = |auth: TlsAuthClients| {
        let config = Config {
            tls_auth_clients: auth,
            ..files.config()
        };
        Acceptor::load(&config).unwrap()
    };
    let shake = |auth, client| {
        let mut pair = Pair::new(&with(auth), client);
        let (server, seen) = pair.shake();
        // In TLS 1.3, the client learns of the refusal only when it reads.
        (
            server.map(|error| error.to_string()),
            seen.map(|error| error.to_string()),
        )
    };
    let none = || files.client_config(&[&version::TLS13]);
    assert_eq!(shake(TlsAuthClients::Yes, valid()), (None, None));
    assert_eq!(shake(TlsAuthClients::Optional, valid()), (None, None));
    assert_eq!(shake(TlsAuthClients::Optional, none()), (None, None));
    assert_eq!(shake(TlsAuthClients::No, none()), (None, None));
    let (refused, seen) = shake(TlsAuthClients::Yes, none());
    assert!(refused.unwrap().contains("peer sent no certificates"));
    assert!(seen.unwrap().contains("CertificateRequired"));
    for auth in [TlsAuthClients::Yes, TlsAuthClients::Optional] {
        let (refused, seen) = shake(auth, files.client_with(expired.clone()));
        assert!(refused.unwrap().contains("certificate expired"));
        assert!(seen.unwrap().contains("CertificateExpired"));
    }
    // Signed by another authority.
    let (certificate, key) = other.sign(CertificateParams::new(Vec::new()).unwrap());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let client = files
        .client_builder(&[&version::TLS13])
        .with_client_auth_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let (refused, seen) = shake(TlsAuthClients::Yes, client);
    assert!(refused.unwrap().contains("UnknownIssuer"));
    assert!(seen.unwrap().contains("UnknownCA"));
}

#[test]
fn ciphers_and_versions_are_those_of_the_options() {
    let files = Files::new();
    let described = |change: fn(&mut Config), tls: &'static rustls::SupportedProtocolVersion| {
        let mut config = files.config();
        change(&mut config);
        let acceptor = Acceptor::load(&config).unwrap();
        let mut pair = Pair::new(&acceptor, files.client_config(&[tls]));
        match pair.shake() {
            (None, None) => Ok(pair.server.description()),
            (server, client) => Err(format!("{server:?} {client:?}")),
        }
    };
    let only =
        |config: &mut Config| config.tls_ciphersuites = "TLS_CHACHA20_POLY1305_SHA256".into();
    assert_eq!(
        described(only, &version::TLS13).unwrap(),
        "TLSv1.3|TLS_CHACHA20_POLY1305_SHA256"
    );
    let only = |config: &mut Config| config.tls_ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256".into();
    assert_eq!(
        described(only, &version::TLS12).unwrap(),
        "TLSv1.2|TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    );
    let only = |config: &mut Config| config.tls_protocols = "TLSv1.3".into();
    let refused = described(only, &version::TLS12).unwrap_err();
    assert!(refused.contains("ProtocolVersion"), "{refused}");
    let prefers = |config: &mut Config| {
        config.tls_prefer_server_ciphers = true;
        config.tls_ciphersuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384".into();
    };
    assert_eq!(
        described(prefers, &version::TLS13).unwrap(),
        "TLSv1.3|TLS_AES_128_GCM_SHA256"
    );
}

#[test]
fn options_that_can_not_be_used_are_named() {
    let files = Files::new();
    files.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
    files.write("empty.crt", "");
    type Change = fn(&mut Config, &Files);
    let cases: &[(Change, &str)] = &[
        (
            |c, _| c.tls_cert_file.clear(),
            "No tls-cert-file configured!",
        ),
        (|c, _| c.tls_key_file.clear(), "No tls-key-file configured!"),
        (
            |c, _| {
                c.tls_auth_clients = TlsAuthClients::Yes;
                c.tls_ca_cert_file.clear();
            },
            "Either tls-ca-cert-file or tls-ca-cert-dir must be specified",
        ),
        (|c, f| c.tls_cert_file = f.path("absent"), "tls-cert-file"),
        (
            |c, f| c.tls_cert_file = f.path("empty.crt"),
            "contains no certificate",
        ),
        (
            |c, f| c.tls_cert_file = f.path("server.key"),
            "contains no certificate",
        ),
        (
            |c, f| c.tls_key_file = f.path("server.crt"),
            "contains no private key",
        ),
        (
            |c, f| c.tls_key_file = f.path("other.key"),
            "does not belong to the certificate",
        ),
        (
            |c, f| c.tls_ca_cert_file = f.path("empty.crt"),
            "tls-ca-cert-file",
        ),
        (
            |c, f| c.tls_ca_cert_dir = f.path("absent"),
            "tls-ca-cert-dir",
        ),
        (
            |c, _| c.tls_dh_params_file = "x".into(),
            "tls-dh-params-file is not supported",
        ),
        (
            |c, _| c.tls_protocols = "TLSv1.1".into(),
            "TLSv1.1 is not supported",
        ),
        (
            |c, _| c.tls_ciphers = "AES128-SHA".into(),
            "'AES128-SHA' is not supported",
        ),
        (
            |c, _| c.tls_ciphersuites = "TLS_AES_128_CCM_SHA256".into(),
            "is not supported",
        ),
    ];
    for (change, expected) in cases {
        let mut config = files.config();
        change(&mut config, &files);
        let refused = Acceptor::load(&config).map(drop).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
        assert!(!refused.contains('\n'), "one line: {refused}");
    }
}

#[test]
fn authorities_are_read_from_a_folder() {
    let files = Files::new();
    std::fs::create_dir(files.path("authorities")).unwrap();
    files.write("authorities/notes.txt", "no certificate");
    let mut config = files.config();
    config.tls_auth_clients = TlsAuthClients::Yes;
    config.tls_ca_cert_file.clear();
    config.tls_ca_cert_dir = files.path("authorities");
    let refused = Acceptor::load(&config).map(drop).unwrap_err();
    assert!(
        refused.contains("no file in it contains a certificate"),
        "{refused}"
    );
    files.write("authorities/ab12cd34.0", &files.authority.pem());
    let acceptor = Acceptor::load(&config).unwrap();
    assert!(acceptor.certificates.ca.is_some());
    let client = files.client_with(CertificateParams::new(Vec::new()).unwrap());
    Pair::connected(&acceptor, client);
}

/// Random numbers (xorshift; Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

#[test]
fn damaged_bytes_never_cause_a_panic() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    let files = Files::new();
    let acceptor = Acceptor::load(&files.config()).unwrap();
    for round in 0..400 {
        let tls = [&version::TLS12, &version::TLS13][round % 2];
        let mut pair = Pair::new(&acceptor, files.client_config(&[tls]));
        pair.wire.borrow_mut().piece = 1 + random.below(600);
        // Half of the rounds damage the handshake, the others what comes after it.
        if round % 4 < 2 {
            assert!(matches!(pair.shake(), (None, None)));
        }
        for _ in 0..6 {
            if pair.client.writer().write_all(b"PING\r\n").is_err() {
                // It was told that the connection has failed.
                break;
            }
            pair.client_sends();
            {
                let mut wire = pair.wire.borrow_mut();
                let place = random.below(wire.to_server.len());
                match random.below(4) {
                    0 if !wire.to_server.is_empty() => {
                        wire.to_server[place] ^= 1 << random.below(8)
                    }
                    1 => wire.to_server.truncate(place),
                    2 => wire.to_server.insert(place, random.below(256) as u8),
                    _ => {}
                }
            }
            // Whatever fails, the connection stays usable as an object.
            let is_complete = pair.server.handshake(&mut pair.buffer);
            for _ in 0..20 {
                if matches!(is_complete, Ok(true)) && pair.server.read(&mut pair.buffer).is_err() {
                    break;
                }
            }
            let _ = pair.server.write(b"+PONG\r\n", &mut pair.scratch);
            let _ = pair.client_receives();
            assert!(pair.server.memory() < 200_000, "bounded");
        }
        pair.server.close();
    }
}
