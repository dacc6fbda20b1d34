//! Where certificates are kept: a file for each name, with the key and the chain as PEM, as the original's are.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tracing::warn;
use x509_parser::parse_x509_certificate;

use crate::proxy::tls::{is_for_host, provider};

/// The longest time before its end that a certificate is made anew.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A directory.
#[derive(Clone, Debug)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// Makes the directory, for its owner only, if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
            format!("cannot create the directory {} (--autocert-cache-dir): {error}", path.display())
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Why the directory could not be made or used, as far as that can be seen.
    pub(super) fn problem(path: &Path) -> Option<String> {
        let there = path.ancestors().find(|part| part.as_os_str().is_empty() || part.exists())?;
        let is_fine = there.as_os_str().is_empty() || there.is_dir();
        let complaint = || format!("--autocert-cache-dir {}: {} is no directory", path.display(), there.display());
        (!is_fine).then(complaint)
    }

    /// The certificate for `name`, if there is one that has not expired.
    pub(super) async fn load(&self, name: &str) -> Option<Bundle> {
        let text = self.read(name).await?;
        match Bundle::parse(&text, name) {
            Ok(bundle) if !matches!(bundle.state(SystemTime::now()), State::Expired) => Some(bundle),
            Ok(_) => None,
            Err(why) => {
                warn!("the file {} is of no use: {why}", self.0.join(name).display());
                None
            }
        }
    }

    /// The names that something was kept by.
    pub(super) async fn names(&self) -> Vec<String> {
        let path = self.0.clone();
        smol::unblock(move || match fs::read_dir(&path) {
            Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
            Err(error) => {
                warn!("cannot look through {}: {error}", path.display());
                Vec::new()
            }
        })
        .await
    }

    /// What was kept by this name.
    pub(super) async fn read(&self, name: &str) -> Option<String> {
        let path = self.0.join(name);
        smol::unblock(move || match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!("cannot read {}: {error}", path.display());
                None
            }
        })
        .await
    }

    /// Keeps `text` by this name, whole or not at all.
    pub(super) async fn store(&self, name: &str, text: String) -> io::Result<()> {
        let (path, fresh) = (self.0.join(name), self.0.join(format!(".{name}.{}", std::process::id())));
        smol::unblock(move || {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        })
        .await
    }
}

/// A certificate with its key, and how long it is good for.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    pub(super) key: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// How good a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// For long enough.
    Good,
    /// It should be made anew.
    Old,
    /// No longer.
    Expired,
}

impl Bundle {
    /// Reads a key and a chain that is for `name`.
    pub(super) fn parse(text: &str, name: &str) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| format!("no key: {error}"))?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("no certificate: {error}"))?;
        let first = chain.first().ok_or("there is no certificate")?;
        let (_, parsed) = parse_x509_certificate(first).map_err(|error| format!("no certificate: {error}"))?;
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let validity = parsed.validity();
        let (not_before, not_after) = (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| error.to_string())?;
        if !is_for_host(&key, name) {
            return Err("the certificate is for another name".to_owned());
        }
        Ok(Self { key: Arc::new(key), not_before, not_after })
    }

    /// How long before its end it should be made anew.
    fn renewed_before(&self) -> Duration {
        RENEW_BEFORE.min(self.not_after.duration_since(self.not_before).unwrap_or_default() / 3)
    }

    /// How long it is good for.
    pub(super) fn grows_old_in(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default().saturating_sub(self.renewed_before())
    }

    pub(super) fn state(&self, now: SystemTime) -> State {
        let left = self.not_after.duration_since(now).unwrap_or_default();
        if left.is_zero() {
            State::Expired
        } else if left < self.renewed_before() {
            State::Old
        } else {
            State::Good
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// When the certificate of [`pem`] begins to be good; it is for 90 days.
    pub(in super::super) fn begin() -> SystemTime {
        Bundle::parse(&pem("a.example"), "a.example").unwrap().not_before
    }

    pub(in super::super) fn pem(name: &str) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 4, 1);
        let key = KeyPair::generate().unwrap();
        format!("{}{}", key.serialize_pem(), params.self_signed(&key).unwrap().pem())
    }

    #[test]
    fn certificates_grow_old() {
        let bundle = Bundle::parse(&pem("a.example"), "a.example").unwrap();
        let begin = bundle.not_before;
        assert_eq!(bundle.state(begin), State::Good);
        assert_eq!(bundle.state(begin + 59 * DAY), State::Good);
        assert_eq!(bundle.state(begin + 61 * DAY), State::Old);
        assert_eq!(bundle.state(begin + 90 * DAY), State::Expired);
        assert!(Bundle::parse(&pem("a.example"), "b.example").unwrap_err().contains("another name"));
        assert!(Bundle::parse("", "a.example").is_err());
    }

    #[test]
    fn what_is_kept_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("httptp-acme-{}", std::process::id()));
        let cache = Cache::open(&path).unwrap();
        smol::block_on(async {
            assert_eq!(cache.read("a.example").await, None);
            cache.store("a.example", "old".into()).await.unwrap();
            cache.store("a.example", "text".into()).await.unwrap();
            assert_eq!(cache.read("a.example").await.as_deref(), Some("text"));
            assert!(cache.load("a.example").await.is_none(), "which is no certificate");
        });
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("a.example"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        fs::remove_dir_all(path).unwrap();
    }
}
