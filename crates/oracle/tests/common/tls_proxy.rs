//! A port for plain connections that are passed on with TLS, for tests whose clients know no TLS.

use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Opens the port. Its threads end with their connections, or with the test.
pub fn start(server: SocketAddr, config: Arc<ClientConfig>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    thread::spawn(move || {
        for plain in listener.incoming().flatten() {
            let config = config.clone();
            thread::spawn(move || {
                // An error ends the connection, which the test notices.
                let _ = pass_on(plain, server, config);
            });
        }
    });
    address
}

fn pass_on(plain: TcpStream, server: SocketAddr, config: Arc<ClientConfig>) -> io::Result<()> {
    let mut encrypted = TcpStream::connect(server)?;
    for stream in [&plain, &encrypted] {
        stream.set_nodelay(true)?;
    }
    let name = "localhost".try_into().map_err(io::Error::other)?;
    let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while session.is_handshaking() || session.wants_write() {
        session.complete_io(&mut encrypted)?;
    }
    let session = Arc::new(Mutex::new(session));
    let (from, to, shared) = (plain.try_clone()?, encrypted.try_clone()?, session.clone());
    thread::spawn(move || {
        let _ = encrypt(from, to, &shared);
    });
    let result = decrypt(encrypted, &plain, &session);
    // The other thread ends, too.
    let _ = plain.shutdown(Shutdown::Both);
    result
}

/// From the client to the server.
fn encrypt(
    mut from: TcpStream,
    mut to: TcpStream,
    session: &Mutex<ClientConnection>,
) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let bytes = from.read(&mut buffer)?;
        let mut session = session.lock().expect("the other thread does not panic");
        match bytes {
            0 => session.send_close_notify(),
            bytes => session.writer().write_all(&buffer[..bytes])?,
        }
        while session.wants_write() {
            session.write_tls(&mut to)?;
        }
        if bytes == 0 {
            return Ok(());
        }
    }
}

/// From the server to the client.
fn decrypt(
    mut from: TcpStream,
    mut to: &TcpStream,
    session: &Mutex<ClientConnection>,
) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    let mut plain = Vec::new();
    loop {
        // Not locked meanwhile, so that the other thread can send.
        let bytes = from.read(&mut buffer)?;
        let mut rest = &buffer[..bytes];
        let mut is_closed = bytes == 0;
        let mut session = session.lock().expect("the other thread does not panic");
        while !rest.is_empty() {
            session.read_tls(&mut rest)?;
            let state = session.process_new_packets().map_err(io::Error::other)?;
            is_closed |= state.peer_has_closed();
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            session.reader().read_exact(&mut plain[start..])?;
        }
        while session.wants_write() {
            session.write_tls(&mut from)?;
        }
        drop(session);
        to.write_all(&plain)?;
        plain.clear();
        if is_closed {
            return Ok(());
        }
    }
}
