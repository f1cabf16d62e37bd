//! Certificates for tests, made anew for each.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use damselfly_config::{Config, TlsAuthClients};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, version};

/// A folder with an authority's certificate, and a server's and a client's that it has signed.
pub struct Files {
    folder: PathBuf,
    /// Signs all certificates.
    pub authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    /// Options of a server that make it use the server's certificate, and trust the authority.
    pub fn server_options(&self) -> [String; 6] {
        let file = |name: &str| self.path(name);
        [
            String::from("--tls-cert-file"),
            file("server.crt"),
            String::from("--tls-key-file"),
            file("server.key"),
            String::from("--tls-ca-cert-file"),
            file("ca.crt"),
        ]
    }

    /// A new folder.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("damselfly-tls-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, format!("Authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = Self { folder, authority };
        files.write("ca.crt", &files.authority.pem());
        files.renew();
        let (certificate, key) = files.sign(CertificateParams::new(Vec::new()).unwrap());
        files.write("client.crt", &certificate.pem());
        files.write("client.key", &key.serialize_pem());
        files
    }

    /// Replaces the server's certificate and key by new ones. Returns the certificate.
    pub fn renew(&self) -> rcgen::Certificate {
        let (certificate, key) = self.sign(server_params());
        self.write("server.crt", &certificate.pem());
        self.write("server.key", &key.serialize_pem());
        certificate
    }

    /// A certificate that the authority has signed, and its key.
    pub fn sign(&self, params: CertificateParams) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        (certificate, key)
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }

    /// The configuration of a server that asks for no certificates.
    pub fn config(&self) -> Config {
        Config {
            tls_cert_file: self.path("server.crt"),
            tls_key_file: self.path("server.key"),
            tls_ca_cert_file: self.path("ca.crt"),
            tls_auth_clients: TlsAuthClients::No,
            ..Config::default()
        }
    }

    /// A client that trusts the authority and has no certificate.
    pub fn client_config(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        self.client_builder(versions).with_no_client_auth()
    }

    /// A client that trusts the authority.
    pub fn client_builder(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
    }

    /// A client with a certificate of its own.
    pub fn client_with(&self, params: CertificateParams) -> ClientConfig {
        let (certificate, key) = self.sign(params);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        self.client_builder(&[&version::TLS13])
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Certificates of the server are for this name and address.
fn server_params() -> CertificateParams {
    CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap()
}
