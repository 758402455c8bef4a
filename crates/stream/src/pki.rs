//! A certificate authority for demos and tests: certificates for servers and nodes, in files.
//!
//! In production the files come from whatever authority the operator has; this module shows what must be in them. Keys are
//! written for their owner alone (0600), files appear whole or not at all, and what exists is kept.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::NodeName;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

use crate::SERVER_NAME;
use crate::tls::{Credentials, NODE_PREFIX};

/// First and last year of the demo's certificates: they are thrown away with the demo.
const YEARS: (i32, i32) = (2020, 2120);

/// A demo authority that cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot make a certificate for '{name}': {source}")]
    Certificate { name: String, source: rcgen::Error },
    #[error("'{0}' cannot be the name of a node in a certificate: use letters, digits, '.', '-' and '_'")]
    NodeName(String),
}

/// An authority whose files are in one directory: `ca.crt`, `ca.key` and what it signed.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority in `dir`, made if there is none.
    pub fn open(dir: &Path) -> Result<Authority, PkiError> {
        std::fs::create_dir_all(dir).map_err(|source| PkiError::File { doing: "make", path: dir.to_path_buf(), source })?;
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !certificate.exists() {
            let (certificate_pem, key_pem) = new_authority()?;
            write(&key, &key_pem, 0o600)?;
            write(&certificate, &certificate_pem, 0o644)?;
        }
        let fail = |source| PkiError::Certificate { name: "ca".into(), source };
        let key = KeyPair::from_pem(&read(&key)?).map_err(fail)?;
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, key).map_err(fail)?;
        Ok(Authority { dir: dir.to_path_buf(), issuer })
    }

    /// A server's credentials: `server.crt` and `server.key`, valid for every server.
    pub fn server(&self) -> Result<Credentials, PkiError> {
        let name = SERVER_NAME.try_into().map_err(|source| PkiError::Certificate { name: SERVER_NAME.into(), source })?;
        self.signed("server", SERVER_NAME, SanType::DnsName(name), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A node's credentials: `node-<name>.crt` and `node-<name>.key`.
    pub fn node(&self, name: &NodeName) -> Result<Credentials, PkiError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.0.is_empty() || !name.0.chars().all(is_plain) {
            return Err(PkiError::NodeName(name.0.clone()));
        }
        let subject = format!("{NODE_PREFIX}{name}");
        let uri: Ia5String = subject.as_str().try_into().map_err(|source| PkiError::Certificate { name: subject.clone(), source })?;
        self.signed(&format!("node-{name}"), &subject, SanType::URI(uri), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn signed(&self, file: &str, subject: &str, name: SanType, usage: ExtendedKeyUsagePurpose) -> Result<Credentials, PkiError> {
        let (certificate, key) = (self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key")));
        if !certificate.exists() || !key.exists() {
            let fail = |source| PkiError::Certificate { name: subject.into(), source };
            let pair = KeyPair::generate().map_err(fail)?;
            let mut params = params(subject);
            params.subject_alt_names = vec![name];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            params.use_authority_key_identifier_extension = true;
            let signed = params.signed_by(&pair, &self.issuer).map_err(fail)?;
            write(&key, &pair.serialize_pem(), 0o600)?;
            write(&certificate, &signed.pem(), 0o644)?;
        }
        Ok(Credentials { ca: self.dir.join("ca.crt"), certificate, key })
    }
}

fn new_authority() -> Result<(String, String), PkiError> {
    let fail = |source| PkiError::Certificate { name: "ca".into(), source };
    let key = KeyPair::generate().map_err(fail)?;
    let mut params = params("Ladon demo authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn params(subject: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (date_time_ymd(YEARS.0, 1, 1), date_time_ymd(YEARS.1, 1, 1));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::File { doing: "read", path: path.to_path_buf(), source })
}

/// Writes a file that appears whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let fail = |source| PkiError::File { doing: "write", path: path.to_path_buf(), source };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    std::fs::rename(&unfinished, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_for_their_owner_alone_and_what_exists_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let node = authority.node(&NodeName("n1".into())).unwrap();
        for key in [&node.key, &dir.path().join("ca.key"), &authority.server().unwrap().key] {
            assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
        }
        let before = std::fs::read(&node.certificate).unwrap();
        let again = Authority::open(dir.path()).unwrap().node(&NodeName("n1".into())).unwrap();
        assert_eq!(std::fs::read(again.certificate).unwrap(), before);
    }

    #[test]
    fn a_node_name_that_reaches_outside_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        for name in ["", "../n1", "a/b", "n 1", "näme"] {
            assert!(authority.node(&NodeName(name.into())).is_err(), "{name}");
        }
    }
}
