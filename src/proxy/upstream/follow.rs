//! The upstreams that a name stands for, as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::{debug, info, warn};

use super::super::dial::Dialer;
use super::balance::MemberId;
use super::{Upstreams, resolve};
use crate::proxy::reactor::Timer;

/// Looks a name up.
pub(super) type Resolver = Arc<dyn Fn(String) -> LookUp + Send + Sync>;
type LookUp = Pin<Box<dyn Future<Output = io::Result<BTreeSet<SocketAddr>>> + Send>>;

/// The resolver of the system.
pub(super) fn system() -> Resolver {
    Arc::new(|addr| Box::pin(async move { resolve::look_up(&addr).await }))
}

/// What is known of a name.
struct Followed {
    name: String,
    dialer: Dialer,
    members: BTreeMap<SocketAddr, MemberId>,
    /// What stands for the name as long as it could not be looked up: it is looked up at each connect.
    by_name: Option<MemberId>,
    /// The last look-up failed: the next failure is no news.
    is_lost: bool,
}

/// Adds what `addr` stands for, and follows it if it is a name.
pub(super) async fn start(upstreams: &Arc<Upstreams>, addr: &str, dialer: Dialer, resolver: &Resolver) {
    let interval = upstreams.config.outbound.resolve_interval;
    let is_followed = !interval.is_zero() && !upstreams.config.outbound.kind.is_unix() && resolve::is_name(addr);
    if !is_followed {
        upstreams.add(addr, &dialer, None, false);
        return;
    }
    let mut followed =
        Followed { name: addr.to_owned(), dialer, members: BTreeMap::new(), by_name: None, is_lost: false };
    followed.update(upstreams, resolver(addr.to_owned()).await, true);
    let (upstreams, resolver) = (upstreams.clone(), resolver.clone());
    let task = follow(followed, Arc::downgrade(&upstreams), interval, resolver);
    upstreams.keep(upstreams.executor.spawn(task));
}

async fn follow(mut followed: Followed, upstreams: Weak<Upstreams>, interval: Duration, resolver: Resolver) {
    loop {
        Timer::after(interval).await;
        let found = resolver(followed.name.clone()).await;
        let Some(upstreams) = upstreams.upgrade() else { return };
        followed.update(&upstreams, found, false);
    }
}

impl Followed {
    fn update(&mut self, upstreams: &Arc<Upstreams>, found: io::Result<BTreeSet<SocketAddr>>, is_first: bool) {
        let name = &self.name;
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "it has no address")),
            false => Ok(found),
        });
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                if self.is_lost {
                    debug!("upstream {name}: cannot look it up: {error}");
                } else {
                    warn!("upstream {name}: cannot look it up: {error} (trying again; what was known stays)");
                }
                self.is_lost = true;
                if self.members.is_empty() && self.by_name.is_none() {
                    self.by_name = Some(upstreams.add(name, &self.dialer, None, false));
                }
                return;
            }
        };
        self.is_lost = false;
        let before = self.members.keys().copied().collect();
        let change = resolve::compare(&before, &found);
        // First those that come, so that there is always somewhere to go.
        for ip in change.come {
            if !is_first {
                info!("upstream {name}: {} comes", ip.ip());
            }
            // Alone, or beside others that are as new, there is nothing to be careful about.
            let starts_slowly = !before.is_empty();
            self.members.insert(ip, upstreams.add(name, &self.dialer, Some(ip), starts_slowly));
        }
        for ip in change.gone {
            info!("upstream {name}: {} goes; its requests in hand may end", ip.ip());
            self.members.remove(&ip).into_iter().for_each(|id| upstreams.remove(id));
        }
        self.by_name.take().into_iter().for_each(|id| upstreams.remove(id));
    }
}
