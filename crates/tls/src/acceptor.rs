//! What new connections need: the options and the files that they name, read and checked.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use damselfly_config::{Config, TlsAuthClients};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};

use crate::certificate::CertificateFacts;
use crate::sessions::Sessions;
use crate::stream::TlsStream;
use crate::{ciphers, keys};

/// Accepts TLS connections with the options and files that it was made from. Connections keep what they were accepted with.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    /// The certificates in use.
    pub certificates: Certificates,
}

/// The facts about the certificates in use. Those of files that hold several are about the first one.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// The server's own.
    pub server: Option<CertificateFacts>,
    /// That of the authority that signs the clients'.
    pub ca: Option<CertificateFacts>,
}

impl Acceptor {
    /// Reads all files that the configuration names.
    ///
    /// # Errors
    /// One line that names the option and says why it can't be used, in Redis's words where it has some.
    pub fn load(config: &Config) -> Result<Self, String> {
        if config.tls_cert_file.is_empty() {
            return Err(String::from("No tls-cert-file configured!"));
        }
        if config.tls_key_file.is_empty() {
            return Err(String::from("No tls-key-file configured!"));
        }
        if !config.tls_dh_params_file.is_empty() {
            return Err(String::from(
                "tls-dh-params-file is not supported: keys are always agreed with elliptic curves (ECDHE), which need no parameters. Remove the option",
            ));
        }
        let provider = Arc::new(CryptoProvider {
            cipher_suites: ciphers::suites(&config.tls_ciphersuites, &config.tls_ciphers)?,
            ..aws_lc_rs::default_provider()
        });
        let versions = ciphers::versions(&config.tls_protocols)?;
        let ca = load_authorities(config)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| {
                format!("tls-protocols, tls-ciphers and tls-ciphersuites do not fit: {error}")
            })?;
        let builder = match config.tls_auth_clients {
            TlsAuthClients::No => builder.with_no_client_auth(),
            TlsAuthClients::Yes | TlsAuthClients::Optional => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(ca.roots.into(), provider.clone());
                let verifier = match config.tls_auth_clients {
                    TlsAuthClients::Optional => verifier.allow_unauthenticated(),
                    TlsAuthClients::Yes | TlsAuthClients::No => verifier,
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|_| {
                    String::from("Either tls-ca-cert-file or tls-ca-cert-dir must be specified when tls-cluster, tls-replication or tls-auth-clients are enabled!")
                })?)
            }
        };
        let (key, server) = load_certified_key(config, &provider)?;
        let mut tls = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        tls.ignore_client_order = config.tls_prefer_server_ciphers;
        // A session that was stored under earlier options or authorities is not resumed under these: the store is new, too.
        if config.tls_session_caching {
            let size = usize::try_from(config.tls_session_cache_size).unwrap_or(usize::MAX);
            let lifetime = Duration::from_secs(config.tls_session_cache_timeout_s);
            tls.session_storage = Arc::new(Sessions::new(size, lifetime));
        } else {
            tls.session_storage = Arc::new(NoServerSessionStorage {});
            tls.send_tls13_tickets = 0;
        }
        Ok(Self {
            config: Arc::new(tls),
            certificates: Certificates {
                server,
                ca: ca.first,
            },
        })
    }

    /// A new connection over this socket, whose handshake is about to begin.
    ///
    /// # Errors
    /// rustls refuses; this is not the client's fault.
    pub fn accept<S: Read + Write>(&self, socket: S) -> Result<TlsStream<S>, String> {
        TlsStream::new(socket, self.config.clone()).map_err(|error| error.to_string())
    }
}

/// The authorities whose certificates clients may have.
pub(crate) struct Authorities {
    pub(crate) roots: RootCertStore,
    first: Option<CertificateFacts>,
}

pub(crate) fn load_authorities(config: &Config) -> Result<Authorities, String> {
    let mut authorities = Authorities {
        roots: RootCertStore::empty(),
        first: None,
    };
    if !config.tls_ca_cert_file.is_empty() {
        let path = Path::new(&config.tls_ca_cert_file);
        authorities
            .add_file(path)
            .map_err(|why| failed("tls-ca-cert-file", path, &why))?;
    }
    if !config.tls_ca_cert_dir.is_empty() {
        let path = Path::new(&config.tls_ca_cert_dir);
        authorities
            .add_folder(path)
            .map_err(|why| failed("tls-ca-cert-dir", path, &why))?;
    }
    Ok(authorities)
}

impl Authorities {
    fn add_file(&mut self, path: &Path) -> Result<(), String> {
        for certificate in certificates(path)? {
            let facts = CertificateFacts::of(&certificate);
            self.roots
                .add(certificate)
                .map_err(|error| error.to_string())?;
            self.first = self.first.take().or(facts);
        }
        Ok(())
    }

    /// Adds the certificates in all files of a folder. OpenSSL's links, which are named after hashes, are among them; files without
    /// certificates are passed over.
    fn add_folder(&mut self, path: &Path) -> Result<(), String> {
        let entries = std::fs::read_dir(path).map_err(|error| error.to_string())?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        // Two names of one file would add its certificates twice.
        let mut seen = Vec::new();
        for path in paths {
            let Ok(real) = path.canonicalize() else {
                continue;
            };
            if !seen.contains(&real) {
                // A file that can't be used takes away only its own certificates, as with OpenSSL.
                let _ = self.add_file(&real);
                seen.push(real);
            }
        }
        match self.roots.is_empty() {
            true => Err(String::from("no file in it contains a certificate in PEM")),
            false => Ok(()),
        }
    }
}

/// The certificates in a PEM file: at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = keys::read_text(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(String::from("it contains no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("it is no certificate in PEM: {error}")),
    }
}

/// The server's certificate with its key, and the facts about it.
fn load_certified_key(
    config: &Config,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Option<CertificateFacts>), String> {
    let path = Path::new(&config.tls_cert_file);
    let chain = certificates(path).map_err(|why| failed("tls-cert-file", path, &why))?;
    let facts = chain.first().and_then(|first| CertificateFacts::of(first));
    let path = Path::new(&config.tls_key_file);
    let key = keys::load(path, &config.tls_key_file_pass, "tls-key-file-pass")
        .and_then(|key| {
            let loaded = provider.key_provider.load_private_key(key);
            loaded.map_err(|error| format!("the key can't be used: {error}"))
        })
        .map_err(|why| failed("tls-key-file", path, &why))?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(failed(
            "tls-key-file",
            path,
            "the key does not belong to the certificate in tls-cert-file",
        )),
        // rustls can't check certificates of version 1. OpenSSL's clients accept them.
        Ok(()) | Err(_) => Ok((key, facts)),
    }
}

pub(crate) fn failed(option: &str, path: &Path, why: &str) -> String {
    format!("Failed to load {option} {}: {why}", path.display())
}
