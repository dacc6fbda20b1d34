//! An order: what the authority is asked for, and how it is convinced.

use std::time::{Duration, Instant};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order,
    OrderStatus,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use ring::digest::{SHA256, digest};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use tracing::{info, warn};

use super::http::AcmeHttp;
use super::{Acme, lock};
use crate::proxy::reactor::Timer;
use crate::proxy::tls::provider;

/// How long the authority may take for its looking and for its signing.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at how far it is: the first pause, and the longest that it grows to.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the authority is shown, until dropped.
struct Shown<'a>(&'a Acme, &'a str);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        lock(&self.0.challenges).remove(self.1);
    }
}

impl Acme {
    /// Has a certificate made for `name`: the key and the chain, as PEM.
    pub(super) async fn order(&self, name: &str) -> Result<String, String> {
        let account = self.account().await?;
        let identifiers = [Identifier::Dns(name.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(text)?;
        let _shown = self.answer_challenges(&mut order, name).await?;
        if wait(&mut order, |status| !matches!(status, OrderStatus::Pending)).await? == OrderStatus::Invalid {
            return Err(why_invalid(&mut order).await);
        }
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(text)?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().map_err(text)?;
        let request = params.serialize_request(&key).map_err(text)?;
        if matches!(order.state().status, OrderStatus::Ready) {
            order.finalize_csr(request.der()).await.map_err(text)?;
        }
        let is_over = |status| matches!(status, OrderStatus::Valid | OrderStatus::Invalid);
        wait(&mut order, is_over).await?;
        let chain = order.certificate().await.map_err(text)?.ok_or("the authority has made no certificate")?;
        Ok(format!("{}{chain}", key.serialize_pem()))
    }

    /// The account at the authority, which is made at the first time and kept.
    async fn account(&self) -> Result<Account, String> {
        let mut account = self.account.lock().await;
        if let Some(account) = &*account {
            return Ok(account.clone());
        }
        let builder = || Account::builder_with_http(Box::new(AcmeHttp(self.tls.clone())));
        // Each authority has its own.
        let id = digest(&SHA256, self.directory.as_bytes());
        let id: String = id.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let file = format!("acme_account-{id}.json");
        if let Some(kept) = self.cache.read(&file).await {
            match serde_json::from_str::<AccountCredentials>(&kept) {
                Ok(credentials) => {
                    let known = builder().from_credentials(credentials).await.map_err(text)?;
                    return Ok(account.insert(known).clone());
                }
                Err(error) => warn!("the account in {file} is of no use, another is made: {error}"),
            }
        }
        let email = self.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = email.as_deref().into_iter().collect();
        let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (made, credentials) = builder().create(&wanted, self.directory.clone(), None).await.map_err(text)?;
        info!("made an account at {}, whose terms of service are agreed to by that", self.directory);
        let kept = serde_json::to_string(&credentials).map_err(text)?;
        if let Err(error) = self.cache.store(&file, kept).await {
            warn!("the account could not be kept, and another is made after a restart: {error}");
        }
        Ok(account.insert(made).clone())
    }

    /// Shows the authority what it wants to see, and has it look.
    async fn answer_challenges<'a>(&'a self, order: &mut Order, name: &'a str) -> Result<Shown<'a>, String> {
        let shown = Shown(self, name);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(text)?;
            match authorization.status {
                // It remembers that it has looked.
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(format!("the authority does not believe that the name leads here: {status:?}")),
            }
            let mut challenge = authorization
                .challenge(ChallengeType::TlsAlpn01)
                .ok_or("the authority does not look by TLS (tls-alpn-01), which is the only way known here")?;
            let certificate = challenge_certificate(name, challenge.key_authorization().digest().as_ref())?;
            lock(&self.challenges).insert(name.to_owned(), certificate.into());
            challenge.set_ready().await.map_err(text)?;
        }
        Ok(shown)
    }
}

/// Waits until the order is as far as `is_far_enough` says.
async fn wait(order: &mut Order, is_far_enough: impl Fn(OrderStatus) -> bool) -> Result<OrderStatus, String> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let status = order.refresh().await.map_err(text)?.status;
        if is_far_enough(status) {
            return Ok(status);
        }
        if start.elapsed() > PATIENCE {
            return Err("the authority takes too long".to_owned());
        }
        Timer::after(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the authority did not like.
async fn why_invalid(order: &mut Order) -> String {
    let mut why = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            why.extend(state.challenges.iter().filter_map(|challenge| challenge.error.as_ref()).map(text));
        }
    }
    let why = if why.is_empty() { "it does not say why".to_owned() } else { why.join("; ") };
    format!("the authority does not believe that the name leads here: {why}")
}

/// The certificate that proves to the authority that it has come to the right place (RFC 8737, section 3).
fn challenge_certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(text)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(text)?;
    // Not checked against each other, for which the certificate's critical extension would have to be known.
    let key = provider().key_provider.load_private_key(key).map_err(text)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
