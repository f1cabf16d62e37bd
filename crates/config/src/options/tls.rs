//! Options for encrypted connections.

use super::{Effect, I32_MAX, Opt};
use crate::kind::Kind;
use crate::types::TlsAuthClients;

const NO_CLUSTER: &str = "there is no cluster yet";

pub(super) static OPTIONS: &[Opt] = &[
    Opt::live(
        "tls-port",
        Kind::integer(0, 65535),
        field!(tls_port),
        "TCP port for clients of Redis that use TLS; 0 for none. With `port 0`, it is the only one. Changing it keeps existing connections.",
    ),
    Opt::live(
        "tls-memcached",
        Kind::Bool,
        field!(tls_memcached),
        "Clients of `memcached-port` must use TLS.",
    ),
    Opt::live(
        "tls-cert-file",
        Kind::Text,
        field!(tls_cert_file),
        "File with the server's certificate in PEM, followed by those of intermediate authorities, if there are any. CONFIG SET to the same value, and SIGHUP, read all files again; if one of them can't be used, the old certificates stay in use, and the log says why.",
    ),
    Opt::live(
        "tls-key-file",
        Kind::Text,
        field!(tls_key_file),
        "File with the certificate's private key in PEM: PKCS#8 (also encrypted with PBKDF2 and AES), PKCS#1 or SEC1. RSA, ECDSA and Ed25519 keys work.",
    ),
    Opt::live(
        "tls-key-file-pass",
        Kind::Text,
        field!(tls_key_file_pass),
        "Password of the private key, if that is encrypted.",
    ),
    Opt::live(
        "tls-client-cert-file",
        Kind::Text,
        field!(tls_client_cert_file),
        "Certificate for connections to other servers, instead of that in `tls-cert-file`.",
    ),
    Opt::live(
        "tls-client-key-file",
        Kind::Text,
        field!(tls_client_key_file),
        "Its private key.",
    ),
    Opt::live(
        "tls-client-key-file-pass",
        Kind::Text,
        field!(tls_client_key_file_pass),
        "Password of that key, if it is encrypted.",
    ),
    Opt::live(
        "tls-ca-cert-file",
        Kind::Text,
        field!(tls_ca_cert_file),
        "File with the certificates in PEM of the authorities that sign clients' certificates.",
    ),
    Opt::live(
        "tls-ca-cert-dir",
        Kind::Text,
        field!(tls_ca_cert_dir),
        "Folder of such files. All files in it are read, whatever they are called.",
    ),
    Opt::live(
        "tls-auth-clients",
        Kind::Choice(TlsAuthClients::NAMES),
        field!(tls_auth_clients),
        "Whether TLS clients must have a certificate that an authority in `tls-ca-cert-file` or `tls-ca-cert-dir` has signed: `yes`, `no`, or `optional` (they may have none, but an invalid one is refused).",
    ),
    Opt::live(
        "tls-protocols",
        Kind::Text,
        field!(tls_protocols),
        "Versions of TLS to accept: `TLSv1.2`, `TLSv1.3` or both, separated by a space; empty means both. Older ones are refused.",
    ),
    Opt::live(
        "tls-ciphers",
        Kind::Text,
        field!(tls_ciphers),
        "Ciphers to accept with TLS 1.2, by OpenSSL's names and separated by colons; empty means all that are supported, which are ECDHE with AES-GCM or ChaCha20. `!NAME` excludes one. Others are refused.",
    ),
    Opt::live(
        "tls-ciphersuites",
        Kind::Text,
        field!(tls_ciphersuites),
        "Ciphers to accept with TLS 1.3, separated by colons; empty means `TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256`, which are all.",
    ),
    Opt::live(
        "tls-prefer-server-ciphers",
        Kind::Bool,
        field!(tls_prefer_server_ciphers),
        "Of the ciphers that a client offers, use the first in the server's list, not the first in the client's.",
    ),
    Opt::live(
        "tls-dh-params-file",
        Kind::Text,
        field!(tls_dh_params_file),
        "Not supported, and refused while TLS is on: keys are agreed with elliptic curves, which need no parameters.",
    ),
    Opt::live(
        "tls-session-caching",
        Kind::Bool,
        field!(tls_session_caching),
        "Clients may resume sessions, which makes their next handshake cheaper.",
    ),
    Opt::live(
        "tls-session-cache-size",
        Kind::integer(0, I32_MAX),
        field!(tls_session_cache_size),
        "How many sessions are kept; the oldest make way. 0 means 1048576. Clients of TLS 1.3 use two for each connection.",
    ),
    Opt::live(
        "tls-session-cache-timeout",
        Kind::integer(0, I32_MAX),
        field!(tls_session_cache_timeout_s),
        "Seconds for which a session can be resumed.",
    ),
    Opt::live(
        "tls-handshake-timeout",
        Kind::integer(1, 3600),
        field!(tls_handshake_timeout_s),
        "Seconds after which a client whose TLS handshake is not complete is disconnected.",
    ),
    Opt::live(
        "tls-replication",
        Kind::Bool,
        field!(tls_replication),
        "Replicas connect to their primary with TLS.",
    ),
    Opt {
        effect: Effect::Later(NO_CLUSTER),
        ..Opt::live(
            "tls-cluster",
            Kind::Bool,
            field!(tls_cluster),
            "The servers of a cluster connect to each other with TLS.",
        )
    },
];
