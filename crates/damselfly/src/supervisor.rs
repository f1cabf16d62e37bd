//! `supervised`: notifies the service manager when the server is ready and when it stops.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use damselfly_config::Supervised;

/// The service manager of this process.
pub enum Supervisor {
    /// There is none.
    None,
    /// systemd, which listens on this socket.
    Systemd(OsString),
    /// Upstart.
    Upstart,
}

impl Supervisor {
    /// The service manager that `asked` selects, if the environment shows that it started this process.
    pub fn find(asked: Supervised) -> Self {
        let (socket, job) = (env::var_os("NOTIFY_SOCKET"), env::var_os("UPSTART_JOB"));
        match (asked, job, socket) {
            (Supervised::No, _, _) | (Supervised::Auto, None, None) => Self::None,
            (Supervised::Upstart | Supervised::Auto, Some(_), _) => Self::Upstart,
            (Supervised::Systemd | Supervised::Auto, _, Some(socket)) => Self::Systemd(socket),
            (Supervised::Systemd, _, None) => {
                log::warn!("systemd supervision requested, but NOTIFY_SOCKET not found!");
                Self::None
            }
            (Supervised::Upstart, None, _) => {
                log::warn!("Upstart supervision requested, but UPSTART_JOB not found!");
                Self::None
            }
        }
    }

    /// The value of the option `supervised` that stands for it.
    pub fn option(&self) -> Supervised {
        match self {
            Self::None => Supervised::No,
            Self::Systemd(_) => Supervised::Systemd,
            Self::Upstart => Supervised::Upstart,
        }
    }

    /// Notifies it that the server is starting.
    pub fn starting(&self) {
        self.notify("STATUS=Damselfly is starting...\n");
    }

    /// Notifies it that the server accepts clients.
    pub fn ready(&self) {
        self.notify("STATUS=Ready to accept connections\nREADY=1\n");
        if let Self::Upstart = self {
            // A job with `expect stop` is ready when it has stopped itself; Upstart then lets it continue.
            let own = rustix::process::getpid();
            if let Err(error) = rustix::process::kill_process(own, rustix::process::Signal::STOP) {
                log::warn!("Can't notify Upstart that the server is ready: {error}");
            }
        }
    }

    /// Notifies it that the server is shutting down.
    pub fn stopping(&self) {
        self.notify("STATUS=Shutting down...\nSTOPPING=1\n");
    }

    fn notify(&self, state: &str) {
        if let Self::Systemd(socket) = self
            && let Err(error) = send(socket, state)
        {
            log::warn!("Can't notify systemd on {}: {error}", socket.display());
        }
    }
}

/// Sends a datagram to a socket: a path, or a name in the abstract namespace if it begins with `@`.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.send_to_addr(state.as_bytes(), &address).map(|_| ())
}
