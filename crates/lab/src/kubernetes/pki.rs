//! The cluster's certificates: one authority, the API server's certificate, a client certificate per user.
//!
//! Users are certificates (common name = user, organisation = group), so that a node or a user can be added to a running
//! cluster. The keys are made here and never leave the lab's folder.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::error::{Doing, LabError, Result};
use crate::state::{make_dir, write_whole};

/// A certificate authority in a folder.
pub struct Authority {
    folder: PathBuf,
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as files.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

fn failed(error: rcgen::Error) -> LabError {
    LabError::Unfit(format!("a certificate could not be made: {error}"))
}

impl Authority {
    /// The authority `name` in `folder`: `name`.crt and `name`.key, made when they are not there.
    pub fn open(folder: &Path, name: &'static str) -> Result<Self> {
        make_dir(folder)?;
        let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        let pair = if certificate.exists() {
            let pem = fs::read_to_string(&key).doing(|| format!("reading {}", key.display()))?;
            KeyPair::from_pem(&pem).map_err(failed)?
        } else {
            let pair = KeyPair::generate().map_err(failed)?;
            let made = authority_params(name)?.self_signed(&pair).map_err(failed)?;
            write_whole(&key, pair.serialize_pem().as_bytes())?;
            write_whole(&certificate, made.pem().as_bytes())?;
            pair
        };
        Ok(Authority { folder: folder.into(), name, issuer: Issuer::new(authority_params(name)?, pair) })
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(format!("{}.crt", self.name))
    }

    /// A certificate for a server that is reached by these names and addresses. etcd's gateway for JSON asks its own server with it.
    pub fn server(&self, file: &str, names: &[String]) -> Result<Identity> {
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = name(file, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, params)
    }

    /// A certificate that says who its bearer is.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, params)
    }

    fn issue(&self, file: &str, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let pair = KeyPair::generate().map_err(failed)?;
        let made = params.signed_by(&pair, &self.issuer).map_err(failed)?;
        let identity = Identity { certificate: self.folder.join(format!("{file}.crt")), key: self.folder.join(format!("{file}.key")) };
        write_whole(&identity.key, pair.serialize_pem().as_bytes())?;
        write_whole(&identity.certificate, made.pem().as_bytes())?;
        Ok(identity)
    }
}

/// A key pair that signs service accounts' tokens: sa.key and sa.pub.
pub fn service_account_keys(folder: &Path) -> Result<()> {
    let pair = KeyPair::generate().map_err(failed)?;
    write_whole(&folder.join("sa.key"), pair.serialize_pem().as_bytes())?;
    write_whole(&folder.join("sa.pub"), pair.public_key_pem().as_bytes())
}

fn authority_params(common_name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn name(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    organisation.into_iter().for_each(|group| name.push(DnType::OrganizationName, group));
    name.push(DnType::CommonName, common_name);
    name
}
