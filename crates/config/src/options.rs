//! The table of options, one row each. The command line, files, the environment, CONFIG, the help and the documentation are all
//! derived from it.

use super::events::events;
use super::kind::{Kind, OptionError, Setting, Value};
use super::saving::{SavePoints, ShutdownFlags};
use super::settings::Config;
use super::types::{
    Allow, AppendFsync, DisklessLoad, LogLevel, MaxmemoryPolicy, Percentiles, PrimaryAddress,
    PubSubDefault, RdbVersion, SanitizePayloads, Supervised, TlsAuthClients,
};

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// The name that users write and CONFIG GET shows.
    pub name: &'static str,
    /// Older names of the same option.
    pub aliases: &'static [&'static str],
    /// Its section in the help and the documentation.
    pub section: Section,
    /// The form of its values.
    pub kind: Kind,
    /// When it can be changed.
    pub changeable: Changeable,
    /// Whether it has an effect.
    pub effect: Effect,
    /// A description in a few short sentences, with units and special values.
    pub summary: &'static str,
    /// Access to its field of [`Config`].
    pub access: Access,
}

/// How to read and write one option's field.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Returns the value as CONFIG GET shows it; [`Kind::parse`] accepts it again.
    pub read: fn(&Config) -> String,
    /// Stores a value of the option's own [`Kind`]. On an error the configuration is unchanged.
    pub write: fn(&mut Config, Value) -> Result<(), OptionError>,
}

/// A group of options in the help and the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Listening and connections.
    Network,
    /// Encrypted connections.
    Tls,
    /// Threads, logging and the process.
    General,
    /// Passwords and permissions.
    Security,
    /// Memory limits, eviction and freeing.
    Memory,
    /// Limits per client, and notifications.
    Clients,
    /// Expiry of keys.
    Expiry,
    /// Slow log and latency.
    Diagnostics,
    /// Snapshots and logs on disk.
    Persistence,
    /// Primaries and replicas.
    Replication,
    /// Scripts.
    Scripts,
    /// How values are stored.
    Values,
    /// For tests and debugging. As in Redis, patterns of CONFIG GET do not match these options.
    Debugging,
}

impl Section {
    /// Every section, in the order of the documentation.
    pub const ALL: [Section; 13] = [
        Section::Network,
        Section::Tls,
        Section::General,
        Section::Security,
        Section::Memory,
        Section::Clients,
        Section::Expiry,
        Section::Diagnostics,
        Section::Persistence,
        Section::Replication,
        Section::Scripts,
        Section::Values,
        Section::Debugging,
    ];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Section::Network => "Network",
            Section::Tls => "TLS",
            Section::General => "General",
            Section::Security => "Security",
            Section::Memory => "Memory",
            Section::Clients => "Clients",
            Section::Expiry => "Expiry",
            Section::Diagnostics => "Diagnostics",
            Section::Persistence => "Persistence",
            Section::Replication => "Replication",
            Section::Scripts => "Scripts",
            Section::Values => "How values are stored",
            Section::Debugging => "Debugging",
        }
    }
}

/// When an option can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changeable {
    /// Only at start.
    AtStart,
    /// While the server runs, too.
    Live,
    /// While the server runs, by clients that `enable-protected-configs` permits.
    Protected,
}

/// Whether an option has an effect. Values are stored and shown in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what its summary says.
    Acts,
    /// No effect yet; the text says why.
    Later(&'static str),
    /// It never will have one, and exists so that configurations written for Redis work; the text says why.
    Never(&'static str),
}

/// The largest signed 32-bit number, the upper limit of many of Redis's options.
const I32_MAX: i64 = i32::MAX as i64;
/// The largest signed 64-bit number, as a number of bytes.
const I64_MAX_BYTES: u64 = i64::MAX as u64;
/// How many addresses `bind` accepts, as in Redis.
const BIND_ADDRESSES_MAX: usize = 16;
const NO_DEFRAGMENTATION: &str = "Active defragmentation cannot be enabled: it requires a Redis server compiled with a modified Jemalloc like the one shipped by default with the Redis source distribution";
const NO_CLUSTER: &str = "there is no cluster yet";

/// [`Access`] to a field whose values need no further checks.
macro_rules! field {
    ($field:ident) => {
        Access {
            read: |c| c.$field.show(),
            write: |c, value| value.store(&mut c.$field),
        }
    };
}

/// The option called `name`, which may be an alias and in any case.
pub fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS
        .iter()
        .find(|option| option.names().any(|known| known.eq_ignore_ascii_case(name)))
}

impl Opt {
    /// The name, then the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// The default, as CONFIG GET shows it.
    pub fn default_shown(&self) -> String {
        (self.access.read)(&Config::default())
    }

    /// Parses `words` and stores the value in `config`. On an error `config` is unchanged.
    pub fn write(&self, config: &mut Config, words: &[&str]) -> Result<(), OptionError> {
        (self.access.write)(config, self.kind.parse(words)?)
    }
}

/// Every option.
pub static OPTIONS: &[Opt] = &[
    Opt {
        name: "port",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer { min: 0, max: 65535 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "TCP port to listen on; 0 disables TCP. Changing it keeps existing connections.",
        access: field!(port),
    },
    Opt {
        name: "bind",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Words,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Addresses to listen on, at most 16. With a leading `-`, the server starts even if the address is not available; `*` means every IPv4 address and `::*` every IPv6 address. Changing it keeps existing connections.",
        access: Access {
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
    },
    Opt {
        name: "memcached-port",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer { min: 0, max: 65535 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "TCP port for clients that speak memcached's text or meta protocol; 0 for none. They use database 0. Changing it keeps existing connections.",
        access: field!(memcached_port),
    },
    Opt {
        name: "memcached-max-item-size",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Memory {
            min: 1 << 10,
            max: 1 << 30,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Largest item that memcached clients can store, with its key and memcached's overhead of about 60 bytes.",
        access: field!(memcached_max_item_size_bytes),
    },
    Opt {
        name: "memcached-enable-shutdown",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Lets memcached clients stop the server with `shutdown`.",
        access: field!(memcached_enable_shutdown),
    },
    Opt {
        name: "unixsocket",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Path of a Unix socket to listen on; empty means none.",
        access: field!(unixsocket),
    },
    Opt {
        name: "unixsocketperm",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Octal { max: 0o777 },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Permissions of the Unix socket, in octal; 0 keeps those that follow from the umask.",
        access: Access {
            read: |c| format!("{:o}", c.unixsocket_mode),
            write: |c, value| {
                if let Value::Octal(mode) = value {
                    c.unixsocket_mode = mode;
                }
                Ok(())
            },
        },
    },
    Opt {
        name: "tcp-backlog",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "How many connections the kernel queues until the server accepts them.",
        access: field!(tcp_backlog),
    },
    Opt {
        name: "tcp-keepalive",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Seconds a connection may be silent before the kernel probes whether the peer is still there; 0 disables probing.",
        access: field!(tcp_keepalive_s),
    },
    Opt {
        name: "timeout",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Seconds after which an idle client is disconnected; 0 means never. Subscribers, clients that use MONITOR and clients blocked by a command are never idle.",
        access: field!(timeout_s),
    },
    Opt {
        name: "maxclients",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 1,
            max: u32::MAX as i64,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many clients may be connected at once. At start, the server lowers this if it may not open enough files (`ulimit -n`).",
        access: field!(maxclients),
    },
    Opt {
        name: "protected-mode",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Refuses clients from other machines while no password is set, whatever `bind` says.",
        access: field!(protected_mode),
    },
    Opt {
        name: "socket-mark-id",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 0,
            max: u32::MAX as i64,
        },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Mark (SO_MARK) to set on TCP sockets, for packet filters to match; 0 sets none. Needs CAP_NET_ADMIN: without it, the server does not start.",
        access: field!(socket_mark_id),
    },
    Opt {
        name: "tls-port",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Integer { min: 0, max: 65535 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "TCP port for clients of Redis that use TLS; 0 for none. With `port 0`, it is the only one. Changing it keeps existing connections.",
        access: field!(tls_port),
    },
    Opt {
        name: "tls-memcached",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Clients of `memcached-port` must use TLS.",
        access: field!(tls_memcached),
    },
    Opt {
        name: "tls-cert-file",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "File with the server's certificate in PEM, followed by those of intermediate authorities, if there are any. CONFIG SET to the same value, and SIGHUP, read all files again; if one of them can't be used, the old certificates stay in use, and the log says why.",
        access: field!(tls_cert_file),
    },
    Opt {
        name: "tls-key-file",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "File with the certificate's private key in PEM: PKCS#8 (also encrypted with PBKDF2 and AES), PKCS#1 or SEC1. RSA, ECDSA and Ed25519 keys work.",
        access: field!(tls_key_file),
    },
    Opt {
        name: "tls-key-file-pass",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Password of the private key, if that is encrypted.",
        access: field!(tls_key_file_pass),
    },
    Opt {
        name: "tls-client-cert-file",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Certificate for connections to other servers, instead of that in `tls-cert-file`.",
        access: field!(tls_client_cert_file),
    },
    Opt {
        name: "tls-client-key-file",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Its private key.",
        access: field!(tls_client_key_file),
    },
    Opt {
        name: "tls-client-key-file-pass",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Password of that key, if it is encrypted.",
        access: field!(tls_client_key_file_pass),
    },
    Opt {
        name: "tls-ca-cert-file",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "File with the certificates in PEM of the authorities that sign clients' certificates.",
        access: field!(tls_ca_cert_file),
    },
    Opt {
        name: "tls-ca-cert-dir",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Folder of such files. All files in it are read, whatever they are called.",
        access: field!(tls_ca_cert_dir),
    },
    Opt {
        name: "tls-auth-clients",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Choice(TlsAuthClients::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Whether TLS clients must have a certificate that an authority in `tls-ca-cert-file` or `tls-ca-cert-dir` has signed: `yes`, `no`, or `optional` (they may have none, but an invalid one is refused).",
        access: field!(tls_auth_clients),
    },
    Opt {
        name: "tls-protocols",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Versions of TLS to accept: `TLSv1.2`, `TLSv1.3` or both, separated by a space; empty means both. Older ones are refused.",
        access: field!(tls_protocols),
    },
    Opt {
        name: "tls-ciphers",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Ciphers to accept with TLS 1.2, by OpenSSL's names and separated by colons; empty means all that are supported, which are ECDHE with AES-GCM or ChaCha20. `!NAME` excludes one. Others are refused.",
        access: field!(tls_ciphers),
    },
    Opt {
        name: "tls-ciphersuites",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Ciphers to accept with TLS 1.3, separated by colons; empty means `TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256`, which are all.",
        access: field!(tls_ciphersuites),
    },
    Opt {
        name: "tls-prefer-server-ciphers",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Of the ciphers that a client offers, use the first in the server's list, not the first in the client's.",
        access: field!(tls_prefer_server_ciphers),
    },
    Opt {
        name: "tls-dh-params-file",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Not supported, and refused while TLS is on: keys are agreed with elliptic curves, which need no parameters.",
        access: field!(tls_dh_params_file),
    },
    Opt {
        name: "tls-session-caching",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Clients may resume sessions, which makes their next handshake cheaper.",
        access: field!(tls_session_caching),
    },
    Opt {
        name: "tls-session-cache-size",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many sessions are kept; the oldest make way. 0 means 1048576. Clients of TLS 1.3 use two for each connection.",
        access: field!(tls_session_cache_size),
    },
    Opt {
        name: "tls-session-cache-timeout",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Seconds for which a session can be resumed.",
        access: field!(tls_session_cache_timeout_s),
    },
    Opt {
        name: "tls-handshake-timeout",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Integer { min: 1, max: 3600 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Seconds after which a client whose TLS handshake is not complete is disconnected.",
        access: field!(tls_handshake_timeout_s),
    },
    Opt {
        name: "tls-replication",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Replicas connect to their primary with TLS.",
        access: field!(tls_replication),
    },
    Opt {
        name: "tls-cluster",
        aliases: &[],
        section: Section::Tls,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Later(NO_CLUSTER),
        summary: "The servers of a cluster connect to each other with TLS.",
        access: field!(tls_cluster),
    },
    Opt {
        name: "threads",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer { min: 0, max: 1024 },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Threads that serve clients; 0 means one per available CPU core.",
        access: field!(threads),
    },
    Opt {
        name: "shards",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer { min: 0, max: 65536 },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "How many shards the keys are divided into, each with its own lock. Rounded up to a power of two, at most 4096; 0 means 64 per thread.",
        access: field!(shards),
    },
    Opt {
        name: "databases",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer {
            min: 1,
            max: I32_MAX,
        },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "How many databases SELECT can choose from.",
        access: field!(databases),
    },
    Opt {
        name: "loglevel",
        aliases: &[],
        section: Section::General,
        kind: Kind::Choice(LogLevel::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How much is logged: `debug` logs most, `warning` only what needs attention.",
        access: field!(loglevel),
    },
    Opt {
        name: "logfile",
        aliases: &[],
        section: Section::General,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "File to log to; empty means standard output.",
        access: field!(logfile),
    },
    Opt {
        name: "pidfile",
        aliases: &[],
        section: Section::General,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "File to write the process id to; removed at shutdown. Empty means none, but with `daemonize` the server tries /var/run/damselfly.pid.",
        access: field!(pidfile),
    },
    Opt {
        name: "daemonize",
        aliases: &[],
        section: Section::General,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Runs the server in the background. The command returns once the server is ready, or with an error if it can't start. Ignored if `supervised` finds a service manager.",
        access: field!(daemonize),
    },
    Opt {
        name: "supervised",
        aliases: &[],
        section: Section::General,
        kind: Kind::Choice(Supervised::NAMES),
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Service manager to notify when the server is ready: `systemd` through NOTIFY_SOCKET, `upstart` by stopping itself with SIGSTOP, `auto` whichever the environment names.",
        access: field!(supervised),
    },
    Opt {
        name: "always-show-logo",
        aliases: &[],
        section: Section::General,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Never("there is no logo"),
        summary: "Shows a logo in the log.",
        access: field!(always_show_logo),
    },
    Opt {
        name: "locale-collate",
        aliases: &[],
        section: Section::General,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Never(
            "SORT with ALPHA and Lua compare bytes, as Redis does in the locale C",
        ),
        summary: "Locale for comparing strings.",
        access: field!(locale_collate),
    },
    Opt {
        name: "hide-user-data-from-log",
        aliases: &[],
        section: Section::General,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("the log never shows values, nor the requests of clients"),
        summary: "Keeps data of clients out of the log.",
        access: field!(hide_user_data_from_log),
    },
    Opt {
        name: "max-new-connections-per-cycle",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer { min: 1, max: 1000 },
        changeable: Changeable::Live,
        effect: Effect::Never(
            "a thread of its own accepts connections, so that they delay no command",
        ),
        summary: "New connections per turn of the event loop.",
        access: field!(max_new_connections_per_cycle),
    },
    Opt {
        name: "max-new-tls-connections-per-cycle",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer { min: 1, max: 1000 },
        changeable: Changeable::Live,
        effect: Effect::Never(
            "a thread of its own accepts connections, so that they delay no command",
        ),
        summary: "New TLS connections per turn of the event loop.",
        access: field!(max_new_tls_connections_per_cycle),
    },
    Opt {
        name: "hz",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Never(
            "background work runs ten times a second, and more often while there is much to do",
        ),
        summary: "Rounds of background work per second. Values outside 1 to 500 are moved to the nearest limit.",
        access: Access {
            read: |c| c.hz.show(),
            write: |c, value| {
                value.store(&mut c.hz)?;
                c.hz = c.hz.clamp(1, 500);
                Ok(())
            },
        },
    },
    Opt {
        name: "dynamic-hz",
        aliases: &[],
        section: Section::General,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("the work per round does not grow with the number of clients"),
        summary: "Raises `hz` while many clients are connected.",
        access: field!(dynamic_hz),
    },
    Opt {
        name: "requirepass",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Password of the user `default`, which every connection is that has not logged in; empty means none. Rules of that user override it.",
        access: field!(requirepass),
    },
    Opt {
        name: "aclfile",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "File of users, which ACL LOAD reads and ACL SAVE writes; empty means none. Then users may be in the configuration file, one line `user NAME RULE ...` for each.",
        access: field!(aclfile),
    },
    Opt {
        name: "acllog-max-len",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Maximum length of the log of refused commands and logins (ACL LOG), in entries.",
        access: field!(acllog_max_len),
    },
    Opt {
        name: "acl-pubsub-default",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Choice(PubSubDefault::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Channels that new users may use without a rule: none (`resetchannels`) or all (`allchannels`).",
        access: field!(acl_pubsub_default),
    },
    Opt {
        name: "memcached-user",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "User of new connections to `memcached-port`. If the user has a password, clients must first authenticate, as memcached's text protocol does it: they `set` any key to the name and the password of a user, with a blank between.",
        access: field!(memcached_user),
    },
    Opt {
        name: "enable-protected-configs",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Choice(Allow::NAMES),
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Who may change protected options with CONFIG SET: nobody (`no`), everybody (`yes`), or clients on this machine (`local`).",
        access: field!(enable_protected_configs),
    },
    Opt {
        name: "enable-debug-command",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Choice(Allow::NAMES),
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Who may use DEBUG: nobody (`no`), everybody (`yes`), or clients on this machine (`local`).",
        access: field!(enable_debug_command),
    },
    Opt {
        name: "enable-module-command",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Choice(Allow::NAMES),
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Who may try to load modules: nobody (`no`), everybody (`yes`), or clients on this machine (`local`). There are no modules, so that only the error differs.",
        access: field!(enable_module_command),
    },
    Opt {
        name: "maxmemory",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Memory {
            min: 0,
            max: u64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Limit for the memory in use, which INFO shows as `used_memory`; 0 means no limit. Lua interpreters do not count. With a policy that evicts keys, all other memory, such as client buffers and functions, can displace at most half of the keys: beyond that it does not count, and only its own limits hold, such as `maxmemory-clients`.",
        access: field!(maxmemory_bytes),
    },
    Opt {
        name: "cache-mode",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Makes the server a cache that needs no policy: when `maxmemory` is reached, it evicts the keys that promise the fewest hits per byte, by what it learns from the use of all keys while it runs. Any key may be evicted, with or without a TTL, unless `maxmemory-policy` is one of `volatile`; otherwise that option has no effect. See `docs/caching.md`.",
        access: field!(cache_mode),
    },
    Opt {
        name: "maxmemory-policy",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Choice(MaxmemoryPolicy::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "What happens to a write when `maxmemory` is reached. `noeviction` refuses it. The others evict keys, either any (`allkeys`) or only those with a TTL (`volatile`): the least recently used (`lru`), the least frequently used (`lfu`), those with the shortest TTL (`ttl`), or random ones.",
        access: field!(maxmemory_policy),
    },
    Opt {
        name: "maxmemory-samples",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Integer {
            min: 1,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many keys are compared to choose one to evict. More keys give a better choice but take longer. Damselfly compares twice this number, and always all keys of a bucket; random policies compare none.",
        access: field!(maxmemory_samples),
    },
    Opt {
        name: "maxmemory-eviction-tenacity",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Integer { min: 0, max: 100 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How long a write may wait while keys are evicted: 50 microseconds per step up to 10, then 15 % more with each step; 100 means as long as it takes.",
        access: field!(maxmemory_eviction_tenacity),
    },
    Opt {
        name: "maxmemory-clients",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::MemoryOrPercent,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Limit for the memory of all client connections together, in bytes or as a percentage of `maxmemory`; 0 means no limit. Beyond it, the clients that use most are disconnected.",
        access: field!(maxmemory_clients),
    },
    Opt {
        name: "lfu-log-factor",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How slowly the LFU counter of a key grows: the higher this is, the more accesses it takes to reach the maximum.",
        access: field!(lfu_log_factor),
    },
    Opt {
        name: "lfu-decay-time",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Minutes without access after which the LFU counter of a key drops by one; 0 means never.",
        access: field!(lfu_decay_time_min),
    },
    Opt {
        name: "lazyfree-lazy-eviction",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Writes UNLINK, not DEL, to the append-only file when a key is evicted. Here, large collections are always freed in the background.",
        access: field!(lazyfree_lazy_eviction),
    },
    Opt {
        name: "lazyfree-lazy-expire",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Writes UNLINK, not DEL, to the append-only file when a key expires. Here, large collections are always freed in the background.",
        access: field!(lazyfree_lazy_expire),
    },
    Opt {
        name: "lazyfree-lazy-server-del",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("large collections are always freed in the background"),
        summary: "Frees overwritten values in the background.",
        access: field!(lazyfree_lazy_server_del),
    },
    Opt {
        name: "lazyfree-lazy-user-del",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Writes UNLINK, not DEL, to the append-only file when RESTORE with a deadline in the past removes a key. Here, large collections are always freed in the background.",
        access: field!(lazyfree_lazy_user_del),
    },
    Opt {
        name: "lazyfree-lazy-user-flush",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Makes FLUSHALL and FLUSHDB free memory in the background unless they are called with SYNC.",
        access: field!(lazyfree_lazy_user_flush),
    },
    Opt {
        name: "replica-lazy-flush",
        aliases: &["slave-lazy-flush"],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Frees a replica's old data in the background before a full synchronisation.",
        access: field!(replica_lazy_flush),
    },
    Opt {
        name: "activedefrag",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("`yes` is refused, because the allocator can't move values"),
        summary: "Moves values in memory to reduce fragmentation.",
        access: Access {
            read: |c| c.activedefrag.show(),
            write: |c, value| {
                if value == Value::Bool(true) {
                    return Err(OptionError::new(NO_DEFRAGMENTATION));
                }
                value.store(&mut c.activedefrag)
            },
        },
    },
    Opt {
        name: "disable-thp",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Turns transparent huge pages off for this process: they take more memory and can delay requests.",
        access: field!(disable_thp),
    },
    Opt {
        name: "activerehashing",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("tables grow one segment at a time and are never rehashed"),
        summary: "Rehashes tables while the server is idle.",
        access: field!(activerehashing),
    },
    Opt {
        name: "client-output-buffer-limit",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Groups(&["class", "hard", "soft", "seconds"]),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Limits for unread replies, per class of clients (`normal`, `replica`, `pubsub`). A client is disconnected as soon as it has more than `hard` bytes unread, or once it has had more than `soft` bytes unread for `seconds`; 0 bytes means no limit. MONITOR clients belong to `pubsub`.",
        access: Access {
            read: |c| c.client_output_buffer_limit.show(),
            write: |c, value| c.client_output_buffer_limit.update(&value.words()),
        },
    },
    Opt {
        name: "client-query-buffer-limit",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Memory {
            min: 1 << 20,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of requests that are held for one client: incomplete ones, those queued by MULTI, and those that arrive while it is blocked. A client that exceeds it is disconnected.",
        access: field!(client_query_buffer_limit_bytes),
    },
    Opt {
        name: "proto-max-bulk-len",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Memory {
            min: 1 << 20,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of one argument of a request; more than 4 GiB is never accepted.",
        access: field!(proto_max_bulk_len_bytes),
    },
    Opt {
        name: "tracking-table-max-keys",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most keys remembered for client-side caching; 0 means no limit. Beyond it, the server forgets keys and sends their invalidations early.",
        access: field!(tracking_table_max_keys),
    },
    Opt {
        name: "notify-keyspace-events",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Which keyspace events are published: `K` and `E` choose the channels (by key, by event), the other letters choose the classes of events; empty publishes none.",
        access: Access {
            read: |c| {
                let shown = events(&c.notify_keyspace_events);
                shown.unwrap_or_default().show()
            },
            write: |c, value| {
                let mut letters = String::new();
                value.store(&mut letters)?;
                events(&letters)?;
                // Stored as given: when shown, `A` hides a letter (`n`) that it does not stand for.
                c.notify_keyspace_events = letters;
                Ok(())
            },
        },
    },
    Opt {
        name: "active-expire-effort",
        aliases: &[],
        section: Section::Expiry,
        kind: Kind::Integer { min: 1, max: 10 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How hard the background sweep works to remove expired keys: the milliseconds that each round may take, on each thread.",
        access: field!(active_expire_effort),
    },
    Opt {
        name: "ttl-rounding",
        aliases: &[],
        section: Section::Expiry,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Rounds TTLs over 37 hours to whole seconds and limits them to one year, for programs that rely on it.",
        access: field!(ttl_rounding),
    },
    Opt {
        name: "slowlog-log-slower-than",
        aliases: &[],
        section: Section::Diagnostics,
        kind: Kind::Integer {
            min: -1,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Microseconds from which a command is recorded in the slow log; 0 records all, -1 none.",
        access: field!(slowlog_log_slower_than_us),
    },
    Opt {
        name: "slowlog-max-len",
        aliases: &[],
        section: Section::Diagnostics,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many entries the slow log keeps; the oldest are dropped.",
        access: field!(slowlog_max_len),
    },
    Opt {
        name: "latency-monitor-threshold",
        aliases: &[],
        section: Section::Diagnostics,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Milliseconds from which an event is recorded by the latency monitor; 0 disables it.",
        access: field!(latency_monitor_threshold_ms),
    },
    Opt {
        name: "latency-tracking",
        aliases: &[],
        section: Section::Diagnostics,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Keeps a histogram of execution times for each command.",
        access: field!(latency_tracking),
    },
    Opt {
        name: "latency-tracking-info-percentiles",
        aliases: &[],
        section: Section::Diagnostics,
        kind: Kind::Words,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Percentiles of those histograms that INFO shows, each from 0 to 100.",
        access: Access {
            read: |c| c.latency_tracking_info_percentiles.show(),
            write: |c, value| {
                c.latency_tracking_info_percentiles = Percentiles::parse(&value.words())?;
                Ok(())
            },
        },
    },
    Opt {
        name: "dir",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Text,
        changeable: Changeable::Protected,
        effect: Effect::Acts,
        summary: "Working directory of the server: relative paths, such as that of the log file, start here, and snapshots are stored here.",
        access: field!(dir),
    },
    Opt {
        name: "dbfilename",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Text,
        changeable: Changeable::Protected,
        effect: Effect::Acts,
        summary: "Name of the snapshot file in `dir`, which is loaded at start.",
        access: Access {
            read: |c| c.dbfilename.show(),
            write: |c, value| {
                if matches!(&value, Value::Text(name) if name.contains('/')) {
                    return Err(OptionError::new(
                        "dbfilename can't be a path, just a filename",
                    ));
                }
                value.store(&mut c.dbfilename)
            },
        },
    },
    Opt {
        name: "rdbchecksum",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Ends snapshots with a checksum, and verifies it when they are loaded. A file without checksum is loaded in any case.",
        access: field!(rdbchecksum),
    },
    Opt {
        name: "save",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Groups(&["seconds", "changes"]),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "When to save a snapshot: after `seconds` if there were at least `changes` to keys. An empty value disables snapshots.",
        access: Access {
            read: |c| c.save.show(),
            write: |c, value| {
                c.save = SavePoints::parse(&value.words())?;
                Ok(())
            },
        },
    },
    Opt {
        name: "shutdown-on-sigint",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Words,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How SIGINT stops the server: `default` saves if there are save points; `save`, `nosave`, `force` and `now` are as with SHUTDOWN.",
        access: Access {
            read: |c| c.shutdown_on_sigint.show(),
            write: |c, value| {
                c.shutdown_on_sigint = ShutdownFlags::parse(&value.words())?;
                Ok(())
            },
        },
    },
    Opt {
        name: "shutdown-on-sigterm",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Words,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How SIGTERM stops the server, as `shutdown-on-sigint`.",
        access: Access {
            read: |c| c.shutdown_on_sigterm.show(),
            write: |c, value| {
                c.shutdown_on_sigterm = ShutdownFlags::parse(&value.words())?;
                Ok(())
            },
        },
    },
    Opt {
        name: "shutdown-timeout",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "For how many seconds a stopping server waits for replicas that lag behind.",
        access: field!(shutdown_timeout_s),
    },
    Opt {
        name: "stop-writes-on-bgsave-error",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Refuses writes after a failed save, if there are save points, until a save succeeds: so somebody notices.",
        access: field!(stop_writes_on_bgsave_error),
    },
    Opt {
        name: "rdbcompression",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Compresses long strings in snapshots (LZF).",
        access: field!(rdbcompression),
    },
    Opt {
        name: "rdb-save-incremental-fsync",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Sends snapshots to the disk piece by piece while they are written, not all at the end.",
        access: field!(rdb_save_incremental_fsync),
    },
    Opt {
        name: "rdb-save-version",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Choice(RdbVersion::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Version of the format of snapshots. `lowest` is the lowest that can express the data: 10, which Redis 7.0 and Valkey read, or 12 if fields of hashes have expiration times. With a fixed version that can't express the data, saves fail.",
        access: field!(rdb_save_version),
    },
    Opt {
        name: "rdb-key-save-delay",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Integer {
            min: i32::MIN as i64,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Slows down snapshots, for tests: microseconds per key. Negative numbers are as 0.",
        access: field!(rdb_key_save_delay_us),
    },
    Opt {
        name: "appendonly",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Writes every change to the append-only file, which is then loaded at start instead of the snapshot.",
        access: field!(appendonly),
    },
    Opt {
        name: "appendfilename",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Beginning of the names of the append-only files.",
        access: Access {
            read: |c| c.appendfilename.show(),
            write: |c, value| {
                if matches!(&value, Value::Text(name) if name.is_empty() || name.contains('/')) {
                    return Err(OptionError::new(
                        "appendfilename can't be a path, just a filename",
                    ));
                }
                value.store(&mut c.appendfilename)
            },
        },
    },
    Opt {
        name: "appenddirname",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Name of the folder of the append-only files, in `dir`.",
        access: Access {
            read: |c| c.appenddirname.show(),
            write: |c, value| {
                if matches!(&value, Value::Text(name) if name.is_empty() || name.contains('/')) {
                    return Err(OptionError::new(
                        "appenddirname can't be a path, just a dirname",
                    ));
                }
                value.store(&mut c.appenddirname)
            },
        },
    },
    Opt {
        name: "appendfsync",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Choice(AppendFsync::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "When changes are forced to the disk: `always` before the client gets its reply, `everysec` once a second, `no` when the operating system likes.",
        access: field!(appendfsync),
    },
    Opt {
        name: "no-appendfsync-on-rewrite",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Does not force changes to the disk while a snapshot or a new append-only file is written.",
        access: field!(no_appendfsync_on_rewrite),
    },
    Opt {
        name: "auto-aof-rewrite-percentage",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Writes a new append-only file when the old one has grown by this percentage since the last time; 0 means never.",
        access: field!(auto_aof_rewrite_percentage),
    },
    Opt {
        name: "auto-aof-rewrite-min-size",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Memory {
            min: 0,
            max: i64::MAX as u64,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "The smallest append-only file that is written anew by itself.",
        access: field!(auto_aof_rewrite_min_bytes),
    },
    Opt {
        name: "aof-load-truncated",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Loads an append-only file whose last command is incomplete, without that command. Otherwise the server refuses to start.",
        access: field!(aof_load_truncated),
    },
    Opt {
        name: "aof-use-rdb-preamble",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Writes the base of the append-only file in RDB format, which is smaller and loads faster, instead of as commands.",
        access: field!(aof_use_rdb_preamble),
    },
    Opt {
        name: "aof-timestamp-enabled",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Writes the time into the append-only file once a second, so that `--restore-to` can stop at a moment.",
        access: field!(aof_timestamp_enabled),
    },
    Opt {
        name: "aof-rewrite-incremental-fsync",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Forces a new append-only file to the disk piece by piece.",
        access: field!(aof_rewrite_incremental_fsync),
    },
    Opt {
        name: "sanitize-dump-payload",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Choice(SanitizePayloads::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Never("every file and every payload is always checked in full"),
        summary: "Whether packed collections in RDB files and in payloads of RESTORE are checked in full: `clients` means only in those of clients.",
        access: field!(sanitize_dump_payload),
    },
    Opt {
        name: "replicaof",
        aliases: &["slaveof"],
        section: Section::Replication,
        kind: Kind::Words,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Host and port of the primary that this server follows. Empty, or `no one`, for a primary. REPLICAOF changes it.",
        access: Access {
            read: |c| PrimaryAddress::show(c.replicaof.as_ref()),
            write: |c, value| {
                c.replicaof = PrimaryAddress::parse(&value.words())?;
                Ok(())
            },
        },
    },
    Opt {
        name: "masteruser",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "User as which a replica logs in to its primary; empty for the default user.",
        access: field!(masteruser),
    },
    Opt {
        name: "masterauth",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Password with which a replica logs in to its primary; empty for none.",
        access: field!(masterauth),
    },
    Opt {
        name: "replica-serve-stale-data",
        aliases: &["slave-serve-stale-data"],
        section: Section::Replication,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "A replica without a link to its primary still answers; otherwise it refuses all commands that use keys.",
        access: field!(replica_serve_stale_data),
    },
    Opt {
        name: "replica-read-only",
        aliases: &["slave-read-only"],
        section: Section::Replication,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "A replica refuses writes of its clients. Writes to a writable replica stay local and are lost at the next full synchronisation.",
        access: field!(replica_read_only),
    },
    Opt {
        name: "replica-priority",
        aliases: &["slave-priority"],
        section: Section::Replication,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Sentinel prefers replicas with a low number when it promotes one, and never promotes one with 0.",
        access: field!(replica_priority),
    },
    Opt {
        name: "replica-announced",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Sentinel shows this replica to its clients.",
        access: field!(replica_announced),
    },
    Opt {
        name: "replica-announce-ip",
        aliases: &["slave-announce-ip"],
        section: Section::Replication,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Address that a replica reports to its primary; empty for the address of its connection.",
        access: field!(replica_announce_ip),
    },
    Opt {
        name: "replica-announce-port",
        aliases: &["slave-announce-port"],
        section: Section::Replication,
        kind: Kind::Integer { min: 0, max: 65535 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Port that a replica reports to its primary; 0 for the port that it listens on.",
        access: field!(replica_announce_port),
    },
    Opt {
        name: "replica-ignore-maxmemory",
        aliases: &["slave-ignore-maxmemory"],
        section: Section::Replication,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "A replica evicts nothing by itself and refuses nothing for lack of memory: its primary does.",
        access: field!(replica_ignore_maxmemory),
    },
    Opt {
        name: "replica-ignore-disk-write-errors",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "A replica goes on applying changes when its append-only file or its last snapshot could not be written; otherwise it leaves its primary until they can be written, where Redis ends the process.",
        access: field!(replica_ignore_disk_write_errors),
    },
    Opt {
        name: "repl-diskless-load",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Choice(DisklessLoad::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How a replica loads the data of its primary: `disabled` through a file; `on-empty-db` straight from the connection if it has no data itself; `swapdb` straight from the connection, beside its old data, which is dropped when the new data is complete.",
        access: field!(repl_diskless_load),
    },
    Opt {
        name: "repl-diskless-sync",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Sends snapshots to replicas while they are made, without a file. Replicas that don't understand that get a file anyway.",
        access: field!(repl_diskless_sync),
    },
    Opt {
        name: "repl-diskless-sync-delay",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "For how many seconds a snapshot without a file waits for more replicas: those that come later wait for the next one.",
        access: field!(repl_diskless_sync_delay_s),
    },
    Opt {
        name: "repl-diskless-sync-max-replicas",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "A snapshot without a file begins at once when so many replicas wait for it; 0 for no such number.",
        access: field!(repl_diskless_sync_max_replicas),
    },
    Opt {
        name: "repl-ping-replica-period",
        aliases: &["repl-ping-slave-period"],
        section: Section::Replication,
        kind: Kind::Integer {
            min: 1,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How often replicas get a PING, in seconds.",
        access: field!(repl_ping_replica_period_s),
    },
    Opt {
        name: "repl-timeout",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Integer {
            min: 1,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "After how many seconds without a sign of life primary and replica give each other up.",
        access: field!(repl_timeout_s),
    },
    Opt {
        name: "repl-disable-tcp-nodelay",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Sends fewer and larger packets to replicas, which get changes up to 40 milliseconds later.",
        access: field!(repl_disable_tcp_nodelay),
    },
    Opt {
        name: "repl-backlog-size",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Memory {
            min: 1,
            max: 1 << 50,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many bytes of the stream are kept for replicas that lose their connection and come back.",
        access: field!(repl_backlog_bytes),
    },
    Opt {
        name: "repl-backlog-ttl",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "For how many seconds without a replica a primary keeps these bytes; 0 for ever.",
        access: field!(repl_backlog_ttl_s),
    },
    Opt {
        name: "rdb-del-sync-files",
        aliases: &[],
        section: Section::Replication,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Removes snapshots that were only written for replicas, if this server saves its data nowhere.",
        access: field!(rdb_del_sync_files),
    },
    Opt {
        name: "min-replicas-to-write",
        aliases: &["min-slaves-to-write"],
        section: Section::Replication,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Refuses writes while fewer replicas keep up; 0 never does.",
        access: field!(min_replicas_to_write),
    },
    Opt {
        name: "min-replicas-max-lag",
        aliases: &["min-slaves-max-lag"],
        section: Section::Replication,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "A replica keeps up if its last acknowledgement is not older, in seconds.",
        access: field!(min_replicas_max_lag_s),
    },
    Opt {
        name: "busy-reply-threshold",
        aliases: &["lua-time-limit"],
        section: Section::Scripts,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Milliseconds a script may run before clients that have to wait for it get a BUSY error; 0 means that they never do.",
        access: field!(busy_reply_threshold_ms),
    },
    Opt {
        name: "hash-max-listpack-entries",
        aliases: &["hash-max-ziplist-entries"],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most fields of a hash in packed form.",
        access: field!(hash_max_listpack_entries),
    },
    Opt {
        name: "hash-max-listpack-value",
        aliases: &["hash-max-ziplist-value"],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of a field or value of a hash in packed form.",
        access: field!(hash_max_listpack_value_bytes),
    },
    Opt {
        name: "list-max-listpack-size",
        aliases: &["list-max-ziplist-size"],
        section: Section::Values,
        kind: Kind::Integer {
            min: i32::MIN as i64,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Size of one block of a list: a positive number limits its elements; -1 to -5 limit it to 4, 8, 16, 32 or 64 KiB.",
        access: field!(list_max_listpack_size),
    },
    Opt {
        name: "list-compress-depth",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many blocks at each end of a list stay uncompressed; 0 disables compression.",
        access: field!(list_compress_depth),
    },
    Opt {
        name: "set-max-intset-entries",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most members of a set of integers in packed form.",
        access: field!(set_max_intset_entries),
    },
    Opt {
        name: "set-max-listpack-entries",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most members of any other set in packed form.",
        access: field!(set_max_listpack_entries),
    },
    Opt {
        name: "set-max-listpack-value",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of a member of a set in packed form.",
        access: field!(set_max_listpack_value_bytes),
    },
    Opt {
        name: "zset-max-listpack-entries",
        aliases: &["zset-max-ziplist-entries"],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most members of a sorted set in packed form.",
        access: field!(zset_max_listpack_entries),
    },
    Opt {
        name: "zset-max-listpack-value",
        aliases: &["zset-max-ziplist-value"],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of a member of a sorted set in packed form.",
        access: field!(zset_max_listpack_value_bytes),
    },
    Opt {
        name: "hll-sparse-max-bytes",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of a HyperLogLog in sparse form.",
        access: field!(hll_sparse_max_bytes),
    },
    Opt {
        name: "stream-node-max-bytes",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of one block of a stream; 0 means no limit.",
        access: field!(stream_node_max_bytes),
    },
    Opt {
        name: "stream-node-max-entries",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most entries of one block of a stream; 0 means no limit.",
        access: field!(stream_node_max_entries),
    },
    Opt {
        name: "key-load-delay",
        aliases: &[],
        section: Section::Debugging,
        kind: Kind::Integer {
            min: i32::MIN as i64,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Microseconds to wait after each key that is loaded from a file; negative for keys per microsecond.",
        access: field!(key_load_delay_us),
    },
    Opt {
        name: "loading-process-events-interval-bytes",
        aliases: &[],
        section: Section::Debugging,
        kind: Kind::Integer {
            min: 1024,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Never("clients are served all the time while a file is loaded"),
        summary: "Bytes to load before clients are served.",
        access: field!(loading_process_events_interval_bytes),
    },
];
