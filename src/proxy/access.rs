//! Who may connect, and what upstream is told about who did.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net};

use super::config::{Inbound, Kind};
use super::stranger::Strangers;
use crate::driver::PeerAddr;

/// Which field tells upstream who sent a request, besides [`Inbound::client_ip_header`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// None; those that are there pass through.
    #[default]
    Off,
    /// `X-Forwarded-For`: the address is appended.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): an element with `for` and `proto` is appended.
    Forwarded,
}

/// What becomes of `X-Forwarded-Proto`, which tells upstream whether the caller has spoken `http` or `https`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedProto {
    /// It passes through as it is.
    #[default]
    Off,
    /// It says what is spoken at this listener, in place of whatever the caller wrote.
    Set,
    /// What the caller wrote stays if it is `http` or `https`: for listeners that only balancers of one's own reach.
    Keep,
}

/// The gate of a listener: connections that may not be are closed before anything is read.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Empty lets everybody in.
    allowed: Vec<IpNet>,
    /// Most connections at once; 0 for any number.
    max_open: usize,
    open: AtomicUsize,
    pub(crate) forbidden: AtomicU64,
    pub(crate) excess: AtomicU64,
    pub(crate) headerless: AtomicU64,
    log: Strangers,
}

/// A connection's place among those at once, until dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Gate>);

impl Gate {
    pub(crate) fn new(config: &Inbound) -> Self {
        Self {
            allowed: IpNet::aggregate(&config.allow_ip.iter().map(canonical).collect::<Vec<_>>()),
            max_open: config.max_conns,
            open: AtomicUsize::new(0),
            forbidden: AtomicU64::new(0),
            excess: AtomicU64::new(0),
            headerless: AtomicU64::new(0),
            log: Strangers::default(),
        }
    }

    /// A place for a connection from this address, if it may have one.
    pub(crate) fn admit(self: &Arc<Self>, peer: &PeerAddr) -> Option<Place> {
        if !self.allows(peer) {
            self.forbidden.fetch_add(1, Ordering::Relaxed);
            let line = format_args!("connection from {peer}: closed, its address is not allowed (--in-allow-ip)");
            self.log.warn("not allowed", line);
            return None;
        }
        // Taken before it is looked at: then two cannot both take the last one.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        if self.max_open > 0 && before >= self.max_open {
            self.excess.fetch_add(1, Ordering::Relaxed);
            let max = self.max_open;
            let line =
                format_args!("connection from {peer}: closed, {max} are open, which is the limit (--in-max-conns)");
            self.log.warn("too many", line);
            return None;
        }
        Some(place)
    }

    fn allows(&self, peer: &PeerAddr) -> bool {
        if self.allowed.is_empty() {
            return true;
        }
        // An IPv4 client of a socket that takes both has an IPv6 address that stands for its own.
        let ip = peer.ip().map(|ip| ip.to_canonical());
        ip.is_some_and(|ip| self.allowed.iter().any(|network| network.contains(&ip)))
    }

    /// A connection did not begin with a header of the PROXY protocol, or not in time.
    pub(crate) fn note_headerless(&self, peer: &PeerAddr, why: &impl fmt::Display) {
        self.headerless.fetch_add(1, Ordering::Relaxed);
        let line = format_args!("connection from {peer}: closed, {why} (--in-proxy-protocol)");
        self.log.warn("no proxy header", line);
    }
}

/// A network of IPv6 addresses that stand for IPv4 ones is the network of those.
fn canonical(network: &IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(mapped) = network else { return *network };
    let v4 = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(MAPPED_BITS));
    v4.and_then(|(addr, prefix)| Ipv4Net::new(addr, prefix).ok()).map_or(*network, IpNet::V4)
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells upstream who sent a request. Only for HTTP: by a link come the requests of many, and the near proxy has told.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    client_ip: Option<HeaderName>,
    forwarded: Forwarded,
    forwarded_proto: ForwardedProto,
    proto: &'static str,
}

impl Introduction {
    pub(crate) fn new(config: &Inbound) -> Self {
        let proto = if config.kind == Kind::Https { "https" } else { "http" };
        Self {
            client_ip: config.client_ip_header.clone(),
            forwarded: config.forwarded,
            forwarded_proto: config.forwarded_proto,
            proto,
        }
    }

    /// Adds the fields to the head of a request from `peer`. What the sender wrote into the field of
    /// [`Inbound::client_ip_header`] goes; what it wrote into a list stays, before what is appended.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap, peer: &PeerAddr) {
        let ip = peer.ip().map(|ip| ip.to_canonical());
        if let Some(name) = &self.client_ip {
            // Of a unix socket: what the original says.
            let text = ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name.clone(), value);
            }
            keep(headers, name);
        }
        match self.forwarded {
            Forwarded::Off => {}
            Forwarded::XForwardedFor => {
                let text = ip.map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
                append(headers, &X_FORWARDED_FOR, &text);
            }
            Forwarded::Forwarded => {
                let client = match ip {
                    None => "unknown".to_owned(),
                    Some(IpAddr::V4(ip)) => ip.to_string(),
                    Some(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
                };
                append(headers, &header::FORWARDED, &format!("for={client};proto={}", self.proto));
            }
        }
        let is_kept = match self.forwarded_proto {
            ForwardedProto::Off => return,
            ForwardedProto::Set => false,
            ForwardedProto::Keep => {
                let mut told = headers.get_all(X_FORWARDED_PROTO).iter();
                let is_scheme = told.next().is_some_and(|scheme| scheme == "http" || scheme == "https");
                is_scheme && told.next().is_none()
            }
        };
        if !is_kept {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.proto));
        }
        keep(headers, &X_FORWARDED_PROTO);
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Appends to a list, which becomes one field.
fn append(headers: &mut HeaderMap, name: &HeaderName, element: &str) {
    let mut list = Vec::new();
    for value in headers.get_all(name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    // Values that were valid, joined, are valid.
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name.clone(), value);
    }
    keep(headers, name);
}

/// Sees to it that the field passes through: its sender could have named it in `Connection`, as one that does not.
fn keep(headers: &mut HeaderMap, name: &HeaderName) {
    let is_named =
        |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b',').any(|token| is_token(token, name));
    if !headers.get_all(header::CONNECTION).iter().any(is_named) {
        return;
    }
    let mut rest = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',').filter(|token| !is_token(token, name)) {
            if !rest.is_empty() {
                rest.push(b',');
            }
            rest.extend_from_slice(token);
        }
    }
    headers.remove(header::CONNECTION);
    if let Ok(value) = HeaderValue::from_bytes(&rest) {
        headers.insert(header::CONNECTION, value);
    }
}

fn is_token(text: &[u8], name: &HeaderName) -> bool {
    text.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn peer(addr: &str) -> PeerAddr {
        addr.parse::<SocketAddr>().unwrap().into()
    }

    fn gate(networks: &[&str], max_conns: usize) -> Arc<Gate> {
        let allow_ip = networks.iter().map(|network| network.parse().unwrap()).collect();
        Arc::new(Gate::new(&Inbound { allow_ip, max_conns, ..Inbound::default() }))
    }

    #[test]
    fn networks_of_both_families() {
        let gate = gate(&["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"], 0);
        for inside in ["10.1.2.3:1", "192.0.2.7:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1"] {
            assert!(gate.admit(&peer(inside)).is_some(), "{inside}");
        }
        for outside in ["11.0.0.1:1", "192.0.2.8:1", "[2001:db9::1]:1", "[::ffff:11.0.0.1]:1", "[::1]:1"] {
            assert!(gate.admit(&peer(outside)).is_none(), "{outside}");
        }
        assert_eq!(gate.forbidden.load(Ordering::Relaxed), 5);
        assert!(gate.admit(&PeerAddr::Unix).is_none(), "it has no address to be allowed by");
    }

    #[test]
    fn a_network_may_be_written_in_either_family() {
        let gate = gate(&["::ffff:10.0.0.0/104", "::ffff:192.0.2.7/128"], 0);
        for inside in ["10.1.2.3:1", "[::ffff:10.0.0.1]:1", "192.0.2.7:1"] {
            assert!(gate.admit(&peer(inside)).is_some(), "{inside}");
        }
        for outside in ["11.0.0.1:1", "192.0.2.8:1", "[::1]:1"] {
            assert!(gate.admit(&peer(outside)).is_none(), "{outside}");
        }
    }

    #[test]
    fn a_place_is_free_again_when_it_is_left() {
        let gate = gate(&[], 1);
        let first = gate.admit(&PeerAddr::Unix).unwrap();
        assert!(gate.admit(&PeerAddr::Unix).is_none());
        assert!(gate.admit(&PeerAddr::Unix).is_none());
        drop(first);
        assert!(gate.admit(&PeerAddr::Unix).is_some());
        assert_eq!(gate.excess.load(Ordering::Relaxed), 2);
    }

    fn introduced(
        client_ip: Option<&'static str>,
        forwarded: Forwarded,
        from: &str,
        fields: &[(&str, &str)],
    ) -> HeaderMap {
        let introduction = Introduction {
            client_ip: client_ip.map(HeaderName::from_static),
            forwarded,
            forwarded_proto: ForwardedProto::Off,
            proto: "https",
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        introduction.add_to(&mut headers, &peer(from));
        headers
    }

    #[test]
    fn the_field_of_the_original_is_not_the_callers_to_write() {
        let name = "x-real-ip";
        let forged = [(name, "1.1.1.1"), (name, "2.2.2.2"), ("connection", "close, X-Real-IP")];
        let headers = introduced(Some(name), Forwarded::Off, "[::ffff:192.0.2.1]:5", &forged);
        let values: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(values, ["192.0.2.1"]);
        assert_eq!(headers["connection"], "close");
    }

    #[test]
    fn lists_are_appended_to() {
        let headers = introduced(
            None,
            Forwarded::XForwardedFor,
            "192.0.2.1:5",
            &[("x-forwarded-for", "a"), ("x-forwarded-for", "b")],
        );
        assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["a, b, 192.0.2.1"]);
        let headers = introduced(None, Forwarded::Forwarded, "[2001:db8::1]:5", &[("forwarded", "for=x")]);
        assert_eq!(headers["forwarded"], "for=x, for=\"[2001:db8::1]\";proto=https");
        let headers = introduced(None, Forwarded::Forwarded, "192.0.2.1:5", &[("connection", "Forwarded")]);
        assert_eq!(headers["forwarded"], "for=192.0.2.1;proto=https");
        assert_eq!(headers["connection"], "");
    }

    #[test]
    fn the_scheme_is_the_listeners_or_a_balancers() {
        let told = |forwarded_proto, values: &[&str]| {
            let introduction =
                Introduction { client_ip: None, forwarded: Forwarded::Off, forwarded_proto, proto: "http" };
            let mut headers = HeaderMap::from_iter([(header::CONNECTION, "x-forwarded-proto".parse().unwrap())]);
            for value in values {
                headers.append(X_FORWARDED_PROTO, value.parse().unwrap());
            }
            introduction.add_to(&mut headers, &peer("192.0.2.1:5"));
            let is_named = !headers[header::CONNECTION].is_empty();
            assert_eq!(is_named, forwarded_proto == ForwardedProto::Off, "else it would be lost");
            let values = headers.get_all(X_FORWARDED_PROTO).iter().map(|value| value.to_str().unwrap().to_owned());
            values.collect::<Vec<_>>()
        };
        assert_eq!(told(ForwardedProto::Off, &["https"]), ["https"]);
        assert_eq!(told(ForwardedProto::Set, &["https"]), ["http"]);
        assert_eq!(told(ForwardedProto::Set, &[]), ["http"]);
        assert_eq!(told(ForwardedProto::Keep, &["https"]), ["https"]);
        for odd in [&[][..], &["ftp"], &["https", "http"], &["https, http"]] {
            assert_eq!(told(ForwardedProto::Keep, odd), ["http"], "{odd:?}");
        }
    }
}
