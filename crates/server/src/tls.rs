//! TLS as all threads see it: the certificates in use, and figures about handshakes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use damselfly_config::Config;
use damselfly_tls::{Acceptor, CertificateFacts, Certificates, Connector};

use crate::event_loop::handshakes::Handshaker;

/// The state of TLS.
#[derive(Default)]
pub struct Tls {
    acceptor: Mutex<Option<Arc<Acceptor>>>,
    /// The threads that complete handshakes.
    pub handshakers: OnceLock<Vec<Handshaker>>,
    /// Handshakes that are not complete.
    pub in_progress: AtomicUsize,
    /// Completed handshakes.
    pub completed: AtomicU64,
    /// Handshakes that failed, without those that took too long.
    pub failed: AtomicU64,
    /// Handshakes that took too long.
    pub timed_out: AtomicU64,
}

/// True if some port expects TLS.
pub fn is_wanted(config: &Config) -> bool {
    config.tls_port > 0 || config.tls_memcached && config.memcached_port > 0
}

/// What new connections will need with this configuration; `None` if no port expects TLS. Also checks what the link to a primary will need.
///
/// # Errors
/// One line that says which option can't be used, and why.
pub fn load(config: &Config) -> Result<Option<Acceptor>, String> {
    if config.tls_replication {
        Connector::load(config)?;
    }
    match is_wanted(config) {
        true => Acceptor::load(config).map(Some),
        false => Ok(None),
    }
}

impl Tls {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<Acceptor>>> {
        self.acceptor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What new connections need; `None` if TLS is off.
    pub fn acceptor(&self) -> Option<Arc<Acceptor>> {
        self.slot().clone()
    }

    /// Replaces what new connections need. Connections that exist keep what they have.
    pub fn install(&self, acceptor: Option<Acceptor>) {
        if let Some(server) = acceptor
            .as_ref()
            .and_then(|new| new.certificates.server.as_ref())
        {
            warn_about_dates(server, crate::clock::now_ms() / 1000);
        }
        *self.slot() = acceptor.map(Arc::new);
    }

    /// Checks new certificates before they replace others.
    ///
    /// # Errors
    /// The new certificate has expired, while the old one has not: one line that says so.
    pub fn check_renewal(&self, new: &Acceptor, now_s: i64) -> Result<(), String> {
        let is_over = |certificates: &Certificates| {
            let server = certificates.server.as_ref();
            server.is_some_and(|server| server.valid_until_s < now_s)
        };
        let old = self.acceptor();
        match old.is_some_and(|old| !is_over(&old.certificates)) && is_over(&new.certificates) {
            true => Err(String::from("the certificate in tls-cert-file has expired")),
            false => Ok(()),
        }
    }

    /// The facts about the certificates in use.
    pub fn certificates(&self) -> Certificates {
        let acceptor = self.acceptor();
        acceptor
            .map(|acceptor| acceptor.certificates.clone())
            .unwrap_or_default()
    }

    /// Reads all files again, if TLS is on. If that fails, the old certificates stay in use, and the log says why.
    pub fn reload(&self, config: &Config) {
        let now_s = crate::clock::now_ms() / 1000;
        let loaded = load(config).and_then(|new| {
            if let Some(new) = &new {
                self.check_renewal(new, now_s)?;
            }
            Ok(new)
        });
        match loaded {
            Ok(None) => {}
            Ok(new) => {
                self.install(new);
                log::info!("TLS certificates and keys were read again.");
            }
            Err(why) => log::warn!(
                "Unable to update TLS configuration, so the old certificates stay in use: {why}"
            ),
        }
    }

    /// Sets the counters to zero.
    pub fn reset_counters(&self) {
        for counter in [&self.completed, &self.failed, &self.timed_out] {
            counter.store(0, Relaxed);
        }
    }
}

/// Warns about a certificate that clients will refuse now or soon.
fn warn_about_dates(server: &CertificateFacts, now_s: i64) {
    const DAY_S: i64 = 86_400;
    const SOON_DAYS: i64 = 7;
    let days = (server.valid_until_s - now_s).div_euclid(DAY_S);
    if server.valid_until_s < now_s {
        log::warn!(
            "The certificate in tls-cert-file has expired: clients that check it refuse it."
        );
    } else if server.valid_from_s > now_s {
        log::warn!(
            "The certificate in tls-cert-file is not valid yet: clients that check it refuse it."
        );
    } else if days < SOON_DAYS {
        log::warn!("The certificate in tls-cert-file expires in {days} days.");
    }
}
