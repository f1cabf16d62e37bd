//! A server with a port for TLS, and clients that use it.

#![allow(dead_code, reason = "each test file uses its own part")]

#[path = "../../../tls/tests/common/mod.rs"]
pub mod certificates;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use certificates::Files;
use damselfly_config::Config;
use damselfly_oracle::server::free_port;
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, StreamOwned, version};

use super::common::{self, Client, Socket, TestServer};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server with a port for TLS, and its certificates.
pub struct Encrypted {
    pub server: TestServer,
    pub port: u16,
    pub files: Files,
}

impl Encrypted {
    pub fn start() -> Self {
        Self::with(|_, _| {})
    }

    pub fn with(change: impl FnOnce(&mut Config, &Files)) -> Self {
        let files = Files::new();
        let port = free_port().unwrap();
        let server = TestServer::with(|config| {
            let tls = files.config();
            config.tls_port = port;
            config.tls_cert_file = tls.tls_cert_file;
            config.tls_key_file = tls.tls_key_file;
            config.tls_ca_cert_file = tls.tls_ca_cert_file;
            config.tls_auth_clients = tls.tls_auth_clients;
            config.bind = vec!["127.0.0.1".to_owned()];
            config.threads = 2;
            change(config, &files);
        });
        Self {
            server,
            port,
            files,
        }
    }

    pub fn client_config(&self) -> Arc<ClientConfig> {
        let mut config = self.files.client_config(&[&version::TLS13]);
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    pub fn client(&self) -> Client<Tls> {
        connect(self.port, self.client_config()).unwrap()
    }

    pub fn socket(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A field of INFO, as a new plain client sees it.
    pub fn info(&self, name: &str) -> String {
        field(&mut self.server.client(), name)
    }
}

/// A field of INFO.
pub fn field(client: &mut common::Client, name: &str) -> String {
    let info = client.text("INFO everything");
    let prefix = format!("{name}:");
    let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("no field {name}")).to_owned()
}

/// A blocking socket with TLS.
pub struct Tls(pub StreamOwned<ClientConnection, TcpStream>);

/// How many bytes the operating system keeps for a client that does not read: few, so that a server soon notices.
const RECEIVED_BYTES: usize = 64 << 10;

/// A client that has completed its handshake with a server on this port.
pub fn connect(port: u16, config: Arc<ClientConfig>) -> io::Result<Client<Tls>> {
    connect_to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), config)
}

/// The same for any address.
pub fn connect_to(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Client<Tls>> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_recv_buffer_size(RECEIVED_BYTES)?;
    socket.connect(&address.into())?;
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut session = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    while session.is_handshaking() || session.wants_write() {
        session.complete_io(&mut socket)?;
    }
    Ok(Client::over(Tls(StreamOwned::new(session, socket))))
}

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Socket for Tls {
    fn end_sending(&mut self) {
        self.0.conn.send_close_notify();
        self.0.flush().unwrap();
    }
}

impl Client<Tls> {
    /// The serial number of the server's certificate.
    pub fn server_serial(&self) -> String {
        let certificates = self.stream.0.conn.peer_certificates().unwrap();
        damselfly_tls::CertificateFacts::of(&certificates[0])
            .unwrap()
            .serial
    }

    /// The same client, of a type that does not say what its socket is.
    pub fn boxed(self) -> Client<Box<dyn Socket>> {
        Client::over(Box::new(self.stream))
    }
}
