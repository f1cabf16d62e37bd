//! Connections to other servers: a replica to its primary.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use damselfly_config::Config;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    StreamOwned,
};

use crate::acceptor::{certificates, failed, load_authorities};
use crate::{ciphers, keys};

/// A connection to a server. Reading and writing completes the handshake first.
pub type ClientStream<S> = StreamOwned<ClientConnection, S>;

/// Opens TLS connections with the options and files that it was made from.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl Connector {
    /// Reads all files that the configuration names. The server must have a certificate of one of the authorities; as in Redis, its name
    /// does not matter. It is shown `tls-client-cert-file`, or else `tls-cert-file`.
    ///
    /// # Errors
    /// One line that names the option and says why it can't be used.
    pub fn load(config: &Config) -> Result<Self, String> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: ciphers::suites(&config.tls_ciphersuites, &config.tls_ciphers)?,
            ..aws_lc_rs::default_provider()
        });
        let versions = ciphers::versions(&config.tls_protocols)?;
        let roots = load_authorities(config)?.roots;
        if roots.is_empty() {
            return Err(String::from(
                "Either tls-ca-cert-file or tls-ca-cert-dir must be specified when tls-cluster, tls-replication or tls-auth-clients are enabled!",
            ));
        }
        let verifier = AnyName {
            roots,
            algorithms: provider.signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| {
                format!("tls-protocols, tls-ciphers and tls-ciphersuites do not fit: {error}")
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let own = match config.tls_client_cert_file.is_empty() {
            false => [
                ("tls-client-cert-file", &config.tls_client_cert_file),
                ("tls-client-key-file", &config.tls_client_key_file),
                ("tls-client-key-file-pass", &config.tls_client_key_file_pass),
            ],
            true => [
                ("tls-cert-file", &config.tls_cert_file),
                ("tls-key-file", &config.tls_key_file),
                ("tls-key-file-pass", &config.tls_key_file_pass),
            ],
        };
        let [(cert_option, cert), (key_option, key), (pass_option, pass)] = own;
        let tls = if cert.is_empty() {
            builder.with_no_client_auth()
        } else {
            let path = Path::new(cert);
            let chain = certificates(path).map_err(|why| failed(cert_option, path, &why))?;
            let path = Path::new(key);
            let key = keys::load(path, pass, pass_option)
                .map_err(|why| failed(key_option, path, &why))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| failed(key_option, path, &error.to_string()))?
        };
        Ok(Self {
            config: Arc::new(tls),
        })
    }

    /// A connection over a socket, whose handshake is about to begin.
    ///
    /// # Errors
    /// rustls refuses; this is not the server's fault.
    pub fn connect<S: Read + Write>(&self, socket: S) -> io::Result<ClientStream<S>> {
        // The name is neither sent as a server name, being an address, nor checked.
        let name = ServerName::from(std::net::Ipv4Addr::LOCALHOST);
        let session = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(session, socket))
    }
}

/// Accepts certificates of these authorities, whatever their name.
#[derive(Debug)]
struct AnyName {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
