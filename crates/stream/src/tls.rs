//! Who may talk to whom: both ends show a certificate of the same authority.
//!
//! A server's certificate is valid for [`SERVER_NAME`](crate::SERVER_NAME) as a server; a node's has the URI `node:<name>` as
//! subject alternative name and is valid as a client only, so that a stolen node's key
//! can pose neither as a server nor as another node.
//!
//! Files are read at every connection, so that renewed certificates need no restart.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use model::NodeName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What stands before the name in a node's certificate.
pub(crate) const NODE_PREFIX: &str = "node:";

/// The files that an end of the stream needs, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The authority that signed the other end's certificate.
    pub ca: PathBuf,
    /// The own certificate, with intermediates if there are any.
    pub certificate: PathBuf,
    /// The own private key.
    pub key: PathBuf,
}

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds no {what} in PEM format", path.display())]
    Pem { path: PathBuf, what: &'static str },
    #[error("{} and {} cannot be used: {source}", certificate.display(), key.display())]
    Unusable { certificate: PathBuf, key: PathBuf, source: Box<dyn Error + Send + Sync> },
}

/// The three files' contents.
#[derive(PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) ca: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Credentials {
    pub(crate) fn load(&self) -> Result<Loaded, TlsError> {
        Ok(Loaded { ca: read(&self.ca)?, certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    /// A server's side of TLS. Nobody resumes a session: a node connects seldom, and what it could resume would have to be kept.
    fn server_config(&self, loaded: &Loaded) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates(&loaded.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&loaded.key).map_err(|_| TlsError::Pem { path: self.key.clone(), what: "private key" })?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&loaded.ca, &self.ca)?);
        let unusable = |source| TlsError::Unusable { certificate: self.certificate.clone(), key: self.key.clone(), source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().map_err(|error| unusable(error.into()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.into()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| unusable(error.into()))?;
        config.alpn_protocols.push(b"h2".to_vec());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// A server's credentials as the files are at every moment; what is made of them is shared by all connections until they change.
#[derive(Clone)]
pub(crate) struct Renewed {
    credentials: Credentials,
    latest: Arc<Mutex<Option<Latest>>>,
}

/// The files, and what was made of them.
type Latest = (Loaded, Arc<ServerConfig>);

impl Renewed {
    pub fn of(credentials: Credentials) -> Renewed {
        Renewed { credentials, latest: Arc::default() }
    }

    /// A server's side of TLS, from the files as they are now.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let loaded = self.credentials.load()?;
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = latest.as_ref().filter(|(same, _)| *same == loaded) {
            return Ok(config.clone());
        }
        let config = self.credentials.server_config(&loaded)?;
        *latest = Some((loaded, config.clone()));
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_path_buf(), source })
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| TlsError::Pem { path: path.to_path_buf(), what: "certificate" })
}

/// The node that a certificate speaks for. The authority's signature was checked by TLS before.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeName> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let name = uris.next()?.strip_prefix(NODE_PREFIX)?;
    // A second name would make the certificate open two views.
    (uris.next().is_none() && !name.is_empty()).then(|| NodeName(name.to_string()))
}

/// An error with all its causes, in one line: transports say what matters in the last of them only.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    #[test]
    fn connections_share_what_is_made_of_the_files_until_they_are_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let renewed = Renewed::of(Authority::open(dir.path()).unwrap().server().unwrap());
        let first = renewed.server_config().unwrap();
        assert!(Arc::ptr_eq(&first, &renewed.server_config().unwrap()));
        std::fs::remove_file(dir.path().join("server.crt")).unwrap();
        assert!(renewed.server_config().is_err(), "the files are looked at each time");
        Authority::open(dir.path()).unwrap().server().unwrap();
        assert!(!Arc::ptr_eq(&first, &renewed.server_config().unwrap()));
    }
}
