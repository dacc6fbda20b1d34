//! Which addresses a name stands for, again and again: a headless service, or a record that changes, is followed.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smol::future::FutureExt;

use crate::proxy::reactor::Timer;

/// How long a look-up may take; the resolver of the system has its own patience, which can be long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether `HOST:PORT` has a name for a host that can come to stand for something else.
pub(crate) fn is_name(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_err() && !host.contains('/') && host != "localhost"
}

/// Looks `HOST:PORT` up.
pub(super) async fn look_up(addr: &str) -> io::Result<BTreeSet<SocketAddr>> {
    let limit = async {
        Timer::after(TIMEOUT).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "the name service did not answer in time"))
    };
    Ok(smol::net::resolve(addr).or(limit).await?.into_iter().collect())
}

/// What is to change for a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) come: Vec<SocketAddr>,
    pub(super) gone: Vec<SocketAddr>,
}

/// What is new in `now`, and what is no longer there. A name that stands for nothing keeps what it had: an upstream that
/// is gone will be found out by its failures, and a name service that errs takes nobody away.
pub(super) fn compare(before: &BTreeSet<SocketAddr>, now: &BTreeSet<SocketAddr>) -> Change {
    if now.is_empty() {
        return Change::default();
    }
    Change { come: now.difference(before).copied().collect(), gone: before.difference(now).copied().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses() {
        for name in ["far.example:80", "far:80"] {
            assert!(is_name(name), "{name}");
        }
        for addr in ["127.0.0.1:80", "[::1]:80", "localhost:80", "/run/x.sock"] {
            assert!(!is_name(addr), "{addr}");
        }
    }

    #[test]
    fn changes_are_what_came_and_what_went() {
        let set = |ports: &[u16]| ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
        let change = compare(&set(&[1, 2]), &set(&[2, 3]));
        assert_eq!(change.come, [SocketAddr::from(([10, 0, 0, 1], 3))]);
        assert_eq!(change.gone, [SocketAddr::from(([10, 0, 0, 1], 1))]);
        assert_eq!(compare(&set(&[1, 2]), &set(&[])), Change::default());
        assert_eq!(compare(&set(&[1]), &set(&[1])), Change::default());
    }
}
