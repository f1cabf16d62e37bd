//! Options for listening and connections.

use super::{Access, I32_MAX, Opt};
use crate::kind::{Kind, OptionError, Setting, Value};

/// How many addresses `bind` accepts, as in Redis.
const BIND_ADDRESSES_MAX: usize = 16;

pub(super) static OPTIONS: &[Opt] = &[
    Opt::live(
        "port",
        Kind::integer(0, 65535),
        field!(port),
        "TCP port to listen on; 0 disables TCP. Changing it keeps existing connections.",
    ),
    Opt::live(
        "bind",
        Kind::Words,
        Access {
            read: |c| c.bind.show(),
            write: |c, value| {
                let addresses = value.words();
                if addresses.len() > BIND_ADDRESSES_MAX {
                    return Err(OptionError::new("Too many bind addresses specified."));
                }
                c.bind = addresses;
                Ok(())
            },
        },
        "Addresses to listen on, at most 16. With a leading `-`, the server starts even if the address is not available; `*` means every IPv4 address and `::*` every IPv6 address. Changing it keeps existing connections.",
    ),
    Opt::live(
        "memcached-port",
        Kind::integer(0, 65535),
        field!(memcached_port),
        "TCP port for clients that speak memcached's text or meta protocol; 0 for none. They use database 0. Changing it keeps existing connections.",
    ),
    Opt::at_start(
        "unixsocket",
        Kind::Text,
        field!(unixsocket),
        "Path of a Unix socket to listen on; empty means none.",
    ),
    Opt::at_start(
        "unixsocketperm",
        Kind::Octal { max: 0o777 },
        Access {
            read: |c| format!("{:o}", c.unixsocket_mode),
            write: |c, value| {
                if let Value::Octal(mode) = value {
                    c.unixsocket_mode = mode;
                }
                Ok(())
            },
        },
        "Permissions of the Unix socket, in octal; 0 keeps those that follow from the umask.",
    ),
    Opt::at_start(
        "tcp-backlog",
        Kind::integer(0, I32_MAX),
        field!(tcp_backlog),
        "How many connections the kernel queues until the server accepts them.",
    ),
    Opt::live(
        "tcp-keepalive",
        Kind::integer(0, I32_MAX),
        field!(tcp_keepalive_s),
        "Seconds a connection may be silent before the kernel probes whether the peer is still there; 0 disables probing.",
    ),
    Opt::live(
        "timeout",
        Kind::integer(0, I32_MAX),
        field!(timeout_s),
        "Seconds after which an idle client is disconnected; 0 means never. Subscribers, clients that use MONITOR and clients blocked by a command are never idle.",
    ),
    Opt::live(
        "maxclients",
        Kind::integer(1, u32::MAX as i64),
        field!(maxclients),
        "How many clients may be connected at once. At start, the server lowers this if it may not open enough files (`ulimit -n`).",
    ),
    Opt::live(
        "protected-mode",
        Kind::Bool,
        field!(protected_mode),
        "Refuses clients from other machines while the user that they begin as has no password, whatever `bind` says: `default`, or `memcached-user` on `memcached-port`.",
    ),
    Opt::at_start(
        "socket-mark-id",
        Kind::integer(0, u32::MAX as i64),
        field!(socket_mark_id),
        "Mark (SO_MARK) to set on TCP sockets, for packet filters to match; 0 sets none. Needs CAP_NET_ADMIN: without it, the server does not start.",
    ),
];
