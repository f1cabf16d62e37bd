//! Listening sockets: which ones the configuration asks for, opening them, and accepting connections.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::event_loop::parser::Protocol;
use crate::event_loop::stream::Stream;
use damselfly_config::Config;

/// An address from the option `bind`.
#[derive(Debug)]
pub struct Address {
    /// The address as the option has it, without a leading `-`.
    name: String,
    /// It had a leading `-`, which marks an address that may be missing on this machine.
    may_be_missing: bool,
    /// The resolved address with port 0, or why it could not be resolved.
    resolved: Result<SocketAddr, (io::ErrorKind, String)>,
}

impl Address {
    /// Resolves all addresses of `bind`. May wait for a name server.
    pub fn resolve_all(bind: &[String]) -> Vec<Self> {
        bind.iter().map(|text| Self::resolve(text)).collect()
    }

    fn resolve(text: &str) -> Self {
        let (name, may_be_missing) = match text.strip_prefix('-') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let host = match name {
            "*" => "0.0.0.0",
            "::*" => "::",
            other => other,
        };
        let found = (host, 0).to_socket_addrs().and_then(|mut found| {
            let none = || io::Error::from(io::ErrorKind::AddrNotAvailable);
            found.next().ok_or_else(none)
        });
        Self {
            name: name.to_owned(),
            may_be_missing,
            resolved: found.map_err(|error| (error.kind(), error.to_string())),
        }
    }

    /// The address with this port, if it could be resolved.
    fn with_port(&self, port: u16) -> Option<SocketAddr> {
        let address = self.resolved.as_ref().ok();
        address.map(|address| with_port(*address, port))
    }
}

/// What the connections of a listening socket have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// What they speak.
    pub speaks: Protocol,
    /// They use TLS.
    pub is_encrypted: bool,
}

/// A TCP address and port to listen on.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// The address.
    pub address: &'a Address,
    /// The port.
    pub port: u16,
    /// What is offered there.
    pub service: Service,
}

impl<'a> Endpoint<'a> {
    /// Everything that the configuration listens on at these addresses.
    pub fn all(config: &Config, addresses: &'a [Address]) -> Vec<Self> {
        let ports = [
            (config.port, Protocol::Resp, false),
            (config.tls_port, Protocol::Resp, true),
            (
                config.memcached_port,
                Protocol::Memcached,
                config.tls_memcached,
            ),
        ];
        let is_on = |(port, ..): &(u16, Protocol, bool)| *port > 0;
        let all = ports.into_iter().filter(is_on);
        let endpoints = all.flat_map(|(port, speaks, is_encrypted)| {
            addresses.iter().map(move |address| Self {
                address,
                port,
                service: Service {
                    speaks,
                    is_encrypted,
                },
            })
        });
        endpoints.collect()
    }

    /// The address with the port, if it could be resolved.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        self.address.with_port(self.port)
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Why the server can't listen on an address.
#[derive(Debug)]
pub struct Failure {
    /// Another socket uses the address.
    pub is_taken: bool,
    /// One line that names the address and the reason.
    pub text: String,
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP, and what it offers.
    Tcp(TcpListener, Service),
    /// A Unix socket and its file, which is removed when this is dropped.
    Unix(UnixListener, PathBuf),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    /// All sockets that the configuration asks for.
    ///
    /// # Errors
    /// One line that names the address and says why the server can't listen on it.
    pub fn open_all(config: &Config) -> Result<Vec<Self>, String> {
        let mut listeners = Vec::new();
        for endpoint in Endpoint::all(config, &Address::resolve_all(&config.bind)) {
            let port = endpoint.port;
            let listener = Self::tcp(endpoint, config);
            listeners.extend(listener.map_err(|failure| {
                format!(
                    "{}. Failed listening on port {port} (TCP), aborting.",
                    failure.text
                )
            })?);
        }
        if !config.unixsocket.is_empty() {
            let path = Path::new(&config.unixsocket);
            let listener = Self::unix(path, config.unixsocket_mode)
                .map_err(|error| format!("Opening Unix socket {}: {error}", path.display()))?;
            listeners.push(listener);
        }
        if listeners.is_empty() {
            return Err(String::from(
                "Configured to not listen anywhere: set a port, a tls-port, a memcached-port, a bind address or a unixsocket",
            ));
        }
        Ok(listeners)
    }

    /// A TCP socket on an address. `None` if this machine does not have the address and it may be missing.
    ///
    /// # Errors
    /// The server can't listen on the address.
    pub fn tcp(endpoint: Endpoint<'_>, config: &Config) -> Result<Option<Self>, Failure> {
        let Endpoint {
            address,
            port,
            service,
        } = endpoint;
        let name = &address.name;
        let opened = match &address.resolved {
            Ok(resolved) => Self::tcp_at(with_port(*resolved, port), service, config),
            Err((kind, text)) => Err(io::Error::new(*kind, text.as_str())),
        };
        match opened {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if address.may_be_missing && is_missing_address(&error) => Ok(None),
            Err(error) => Err(Failure {
                is_taken: error.kind() == io::ErrorKind::AddrInUse,
                text: format!(
                    "Could not create server TCP listening socket {name}:{port}: {error}"
                ),
            }),
        }
    }

    /// A TCP socket on an address.
    ///
    /// # Errors
    /// The server can't listen on the address.
    pub fn tcp_at(address: SocketAddr, service: Service, config: &Config) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if config.socket_mark_id > 0 {
            // Connections inherit the mark of the listening socket.
            socket.set_mark(config.socket_mark_id).map_err(|error| {
                let mark = config.socket_mark_id;
                io::Error::new(error.kind(), format!("socket-mark-id {mark}: {error}"))
            })?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(config.tcp_backlog).unwrap_or(i32::MAX))?;
        Ok(Self::Tcp(TcpListener::from_std(socket.into()), service))
    }

    fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        // The socket of an earlier process would make binding fail. Any other file is left alone.
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        if mode != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// Its TCP address, if it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener, _) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// What it offers.
    pub fn service(&self) -> Service {
        match self {
            Self::Tcp(_, service) => *service,
            Self::Unix(..) => Service {
                speaks: Protocol::Resp,
                is_encrypted: false,
            },
        }
    }

    /// Registers for events.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(listener, _) => listener.register(registry, token, Interest::READABLE),
            Self::Unix(listener, _) => listener.register(registry, token, Interest::READABLE),
        }
    }

    /// Accepts the next connection; `None` if there is none for now.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let accepted = match self {
            Self::Tcp(listener, _) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        };
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_missing_address(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    ) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[test]
    fn the_socket_has_the_mark_or_the_error_names_the_option() {
        const MARK: u32 = 7;
        let config = Config {
            socket_mark_id: MARK,
            ..Config::default()
        };
        let probe = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let is_permitted = probe.set_mark(MARK).is_ok();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let service = Service {
            speaks: Protocol::Resp,
            is_encrypted: false,
        };
        match Listener::tcp_at(address, service, &config) {
            Ok(Listener::Tcp(ref listener, _)) => {
                assert!(is_permitted);
                assert_eq!(SockRef::from(listener).mark().unwrap(), MARK);
            }
            Ok(Listener::Unix(..)) => panic!("it is a TCP socket"),
            Err(error) => {
                assert!(!is_permitted, "{error}");
                assert!(error.to_string().contains("socket-mark-id 7"), "{error}");
            }
        }
    }
}
