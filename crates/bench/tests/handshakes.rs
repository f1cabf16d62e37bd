//! `--handshakes` against a small server with TLS in this process, which sees whether a handshake was a full one.

use damselfly_bench::options::{Options, command};
use damselfly_bench::report::Report;
use damselfly_bench::{Error, run};
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, Stream};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// What a server has seen of its clients.
#[derive(Default)]
struct Seen {
    full_handshakes: AtomicU64,
    other_handshakes: AtomicU64,
    /// The first request of each connection.
    requests: Mutex<Vec<Vec<u8>>>,
}

/// A server that remembers sessions, so clients could resume them, and answers each read with `reply`. It closes all connections but the first
/// `connections_max` before the handshake. Its threads end with their clients.
fn serve(reply: &'static [u8], connections_max: usize) -> (u16, Arc<Seen>) {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let (config, seen) = (Arc::new(config), Arc::<Seen>::default());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = seen.clone();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            if number < connections_max {
                let (config, seen) = (config.clone(), shared.clone());
                thread::spawn(move || answer(stream.unwrap(), config, &seen, reply));
            }
        }
    });
    (port, seen)
}

fn answer(
    mut socket: TcpStream,
    config: Arc<ServerConfig>,
    seen: &Seen,
    reply: &[u8],
) -> io::Result<()> {
    let mut session = ServerConnection::new(config).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    match session.handshake_kind() {
        Some(HandshakeKind::Full) => &seen.full_handshakes,
        _ => &seen.other_handshakes,
    }
    .fetch_add(1, Relaxed);
    let mut stream = Stream::new(&mut session, &mut socket);
    let mut buffer = [0; 512];
    let mut is_first = true;
    while let count @ 1.. = stream.read(&mut buffer)? {
        if std::mem::take(&mut is_first) {
            let mut requests = seen.requests.lock().unwrap();
            requests.push(buffer[..count].to_vec());
        }
        stream.write_all(reply)?;
    }
    Ok(())
}

fn measure(port: u16, arguments: &str) -> Result<Report, Error> {
    let port = port.to_string();
    let all = ["bench", "--tls", "--insecure", "--port", &port]
        .into_iter()
        .chain(arguments.split_whitespace());
    let matches = command().try_get_matches_from(all).unwrap();
    run(&Options::from_matches(&matches).unwrap())
}

#[test]
fn handshakes_are_full_and_their_number_is_reported() {
    const RATE: f64 = 100.0;
    const REQUESTERS: u64 = 2;
    for (reply, more, request) in [
        (&b"+PONG\r\n"[..], "--mix ping", &b"PING\r\n"[..]),
        // To a GET, this says that there is no such key.
        (b"END\r\n", "--protocol memcached --mix get", b"mn\r\n"),
    ] {
        let (port, seen) = serve(reply, usize::MAX);
        let start = Instant::now();
        let arguments = format!("{more} -n 60 -c {REQUESTERS} --rate 100 --handshakes {RATE}");
        let report = measure(port, &arguments).unwrap();
        let most = RATE * start.elapsed().as_secs_f64() + 1.0;
        assert_eq!(report.tally.replies, 60);
        let done = report.handshakes.as_ref().unwrap().len();
        assert!(done > 0 && done as f64 <= most, "{done}");
        assert_eq!(seen.full_handshakes.load(Relaxed), done + REQUESTERS);
        assert_eq!(seen.other_handshakes.load(Relaxed), 0);
        // Each of them has sent one request, and was measured until the reply.
        let requests = seen.requests.lock().unwrap();
        let alone = requests.iter().filter(|bytes| *bytes == request).count();
        assert_eq!(alone as u64, done);
        let json = report.json();
        assert!(json.contains(&format!("\"handshakes\":{done},")), "{json}");
        assert!(json.contains("\"handshake_p99_us\":"), "{json}");
    }
}

#[test]
fn without_the_option_there_are_none() {
    let (port, seen) = serve(b"+PONG\r\n", usize::MAX);
    let report = measure(port, "--mix ping -n 20 -c 2").unwrap();
    assert!(report.handshakes.is_none());
    assert!(!report.json().contains("handshake"), "{}", report.json());
    assert_eq!(seen.full_handshakes.load(Relaxed), 2);
}

#[test]
fn a_handshake_that_fails_is_an_error() {
    // The two connections of the requests, and nothing else.
    let (port, _) = serve(b"+PONG\r\n", 2);
    let outcome = measure(port, "--mix ping -n 60 -c 2 --rate 200 --handshakes 1000");
    assert!(matches!(outcome, Err(Error::Handshake(_))), "{outcome:?}");
}
