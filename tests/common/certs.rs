//! Certificates made for a test, in files that go with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use httpteleport::proxy::{InboundTls, OutboundTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A directory of its own, removed when dropped.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("httptp-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An authority, and the files that it has made.
pub struct Authority {
    pub dir: Dir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub file: PathBuf,
}

/// A certificate and its key, in files.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority for a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = Dir::new();
        let file = dir.write("authority.pem", &issuer.pem());
        Self { dir, issuer, file }
    }

    /// A certificate for these names and addresses, in files that begin with the first.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_as(names[0], names)
    }

    pub fn issue_as(&self, file: &str, names: &[&str]) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            cert: self.dir.write(&format!("{file}.pem"), &cert.pem()),
            key: self.dir.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    /// TLS of a listener with these certificates.
    pub fn inbound(&self, pairs: &[Pair]) -> InboundTls {
        InboundTls {
            certs: pairs.iter().map(|pair| pair.cert.clone()).collect(),
            keys: pairs.iter().map(|pair| pair.key.clone()).collect(),
            ..InboundTls::default()
        }
    }

    /// TLS of a caller that believes this authority.
    pub fn outbound(&self) -> OutboundTls {
        OutboundTls { ca: Some(self.file.clone()), ..OutboundTls::default() }
    }

    pub fn path(&self) -> &Path {
        &self.file
    }
}

/// A certificate that signs itself, as PEM.
#[derive(Clone, Debug)]
pub struct SelfSigned {
    pub cert: String,
    pub key: String,
}

impl SelfSigned {
    /// `is_authority` marks it as the tools do that people make such certificates with.
    pub fn new(names: &[&str], is_authority: bool, is_expired: bool) -> Self {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        if is_expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { cert: cert.pem(), key: key.serialize_pem() }
    }
}
