//! Certificates for servers and clients that use TLS.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A certificate that signs itself, and its key. Servers and clients use the same one, so it is also the authority of both.
#[derive(Debug)]
pub struct Certificates {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl Certificates {
    /// Writes new ones into `folder`, with the program `openssl`.
    pub fn create(folder: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        let status = Command::new("openssl")
            .args(words.split(' '))
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .map_err(|error| format!("cannot start openssl: {error}"))?;
        match status.success() {
            true => Ok(Self { certificate, key }),
            false => Err(format!("openssl failed: {status}")),
        }
    }

    /// A server's arguments for TLS on `port`. It asks clients for a certificate.
    pub fn server_options(&self, port: &str) -> Vec<String> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let options = format!(
            "--tls-port {port} --tls-cert-file {certificate} --tls-key-file {key} --tls-ca-cert-file {certificate}"
        );
        options.split(' ').map(str::to_owned).collect()
    }

    /// Makes a server's arguments those of a server that listens with TLS only, with one protocol and cipher.
    pub fn encrypt(&self, arguments: &mut Vec<String>) {
        let port = arguments.iter().position(|argument| argument == "--port");
        let port = port.map(|at| arguments.drain(at..at + 2).nth(1).unwrap_or_default());
        arguments.extend(self.server_options(&port.unwrap_or_default()));
        let more = "--port 0 --tls-auth-clients no --tls-protocols TLSv1.3 --tls-ciphersuites TLS_AES_256_GCM_SHA384";
        arguments.extend(more.split(' ').map(str::to_owned));
    }

    /// The options of the load generator.
    pub fn bench_options(&self) -> [String; 3] {
        let certificate = self.certificate.display().to_string();
        ["--tls".to_owned(), "--cacert".to_owned(), certificate]
    }
}
