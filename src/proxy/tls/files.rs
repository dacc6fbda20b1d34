//! Certificates and keys from PEM files, with errors that tell which file and which flag.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::parse_x509_certificate;

use super::provider;

/// Who has so few days left should see to a new certificate.
const SOON_DAYS: i64 = 7;

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(path, flag, "certificate", &error))?;
    if certificates.is_empty() {
        return Err(format!(
            "{flag} {shown}: there is no certificate in this file; it must be PEM, -----BEGIN CERTIFICATE-----"
        ));
    }
    Ok(certificates)
}

/// What is odd about how long the first certificate of a file is good, as of `now`.
pub(crate) fn validity_note(path: &Path, flag: &str, now: SystemTime) -> Option<String> {
    let chain = certificates(path, flag).ok()?;
    let (_, parsed) = parse_x509_certificate(chain.first()?).ok()?;
    let now = i64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let days = (end - now) / (24 * 60 * 60);
    let what = match () {
        () if now < begin => "is not good yet".to_owned(),
        () if end < now => "has expired".to_owned(),
        () if days < SOON_DAYS => format!("expires in {days} days"),
        () => return None,
    };
    Some(format!("{flag} {}: the certificate {what}", path.display()))
}

/// The private key of a PEM file.
fn private_key(path: &Path, flag: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "{flag} {}: there is no private key in this file; it must be PEM, -----BEGIN PRIVATE KEY-----, and not encrypted",
            path.display()
        ),
        error => unreadable(path, flag, "private key", &error),
    })
}

/// A certificate with its key, which must belong together; or all that is wrong with them.
pub(super) fn certified_key(
    (cert, cert_flag): (&Path, &str),
    (key, key_flag): (&Path, &str),
) -> Result<CertifiedKey, Vec<String>> {
    let (chain, private) = match (certificates(cert, cert_flag), private_key(key, key_flag)) {
        (Ok(chain), Ok(private)) => (chain, private),
        (chain, private) => return Err(chain.err().into_iter().chain(private.err()).collect()),
    };
    let certified = CertifiedKey::from_der(chain, private, &provider());
    certified.map_err(|error| vec![why_not_certified(&error, (cert, cert_flag), (key, key_flag))])
}

fn why_not_certified(
    error: &rustls::Error,
    (cert, cert_flag): (&Path, &str),
    (key, key_flag): (&Path, &str),
) -> String {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
            "{key_flag} {} is not the key of {cert_flag} {}: give each certificate its own key, both lists in the same order",
            key.display(),
            cert.display()
        ),
        error => format!("{cert_flag} {} with {key_flag} {}: {error}", cert.display(), key.display()),
    }
}

/// What is wrong with files of which it is not known which belong together.
pub(super) fn unreadable_files<'p>(
    (certs, cert_flag): (impl IntoIterator<Item = &'p PathBuf>, &str),
    (keys, key_flag): (impl IntoIterator<Item = &'p PathBuf>, &str),
) -> Vec<String> {
    let certs = certs.into_iter().filter_map(|path| certificates(path, cert_flag).err());
    certs.chain(keys.into_iter().filter_map(|path| private_key(path, key_flag).err())).collect()
}

/// The authorities of a PEM file.
pub(super) fn authorities(path: &Path, flag: &str) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, flag)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{flag} {}: a certificate cannot be used: {error}", path.display()))?;
    }
    Ok(Arc::new(roots))
}

/// The secrets in a file, one a line, at least one.
pub(super) fn secrets(path: &Path, flag: &str) -> Result<Vec<String>, String> {
    let shown = path.display();
    let text =
        fs::read_to_string(path).map_err(|error| format!("cannot read the secrets in {shown} ({flag}): {error}"))?;
    let secrets: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if secrets.is_empty() {
        return Err(format!("{flag} {shown}: there is no secret in this file; write one a line"));
    }
    Ok(secrets)
}

fn unreadable(path: &Path, flag: &str, what: &str, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot read the {what} file {} ({flag}): {error}", path.display()),
        error => format!("{flag} {}: this is no PEM file with a {what}: {error}", path.display()),
    }
}
