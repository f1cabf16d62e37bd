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
use rustls::{RootCertStore, ServerConfig};

use crate::certificate::{CertificateFacts, public_key};
use crate::der::{Reader, SEQUENCE};
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
    if !belongs(&key) {
        let why = "the key does not belong to the certificate in tls-cert-file";
        return Err(failed("tls-key-file", path, why));
    }
    Ok((key, facts))
}

/// True if a key belongs to the certificate with it. Unlike the check of rustls, this one reads certificates of version 1, which OpenSSL
/// makes by default and its clients accept.
fn belongs(certified: &CertifiedKey) -> bool {
    let Some(key) = certified.key.public_key() else {
        return true;
    };
    let of_key = Reader::new(&key).expect(SEQUENCE);
    let certificate = certified.cert.first();
    of_key.is_some() && certificate.and_then(|first| public_key(first)) == of_key
}

pub(crate) fn failed(option: &str, path: &Path, why: &str) -> String {
    format!("Failed to load {option} {}: {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::der::INTEGER;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256,
    };
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        let head: &[u8] = match content.len() {
            0..=0x7f => &[tag, low],
            0x80..=0xff => &[tag, 0x81, low],
            _ => &[tag, 0x82, high, low],
        };
        [head, content].concat()
    }

    /// The same certificate without version and extensions, as one of version 1. Its signature is wrong.
    fn version_1(certificate: &[u8]) -> Vec<u8> {
        let mut parts = Reader::new(certificate).sequence().unwrap();
        let mut fields = parts.sequence().unwrap();
        let mut kept = Vec::new();
        while let Some((tag, content)) = fields.next() {
            if matches!(tag, INTEGER | SEQUENCE) {
                kept.extend(element(tag, content));
            }
        }
        let mut all = element(SEQUENCE, &kept);
        while let Some((tag, content)) = parts.next() {
            all.extend(element(tag, content));
        }
        element(SEQUENCE, &all)
    }

    #[test]
    fn a_key_that_belongs_to_another_certificate_is_found_out() {
        let provider = aws_lc_rs::default_provider();
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519, &PKCS_RSA_SHA256] {
            let pair = || {
                let key = KeyPair::generate_for(algorithm).unwrap();
                let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
                let certificate = params.self_signed(&key).unwrap().der().to_vec();
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                let key = provider.key_provider.load_private_key(key).unwrap();
                (certificate, key)
            };
            let ((certificate, key), (_, other)) = (pair(), pair());
            for certificate in [version_1(&certificate), certificate] {
                let with = |key| belongs(&CertifiedKey::new(vec![certificate.clone().into()], key));
                assert!(with(key.clone()));
                assert!(!with(other.clone()));
            }
            assert!(!belongs(&CertifiedKey::new(vec![vec![1, 2].into()], key)));
        }
    }
}
