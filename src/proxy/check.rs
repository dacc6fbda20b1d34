//! What is wrong with a configuration, as far as that can be told without listening.

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use http::header::{self, HeaderName};

use super::StartError;
use super::access::Forwarded;
use super::acme::Acme;
use super::config::{HANDED_OVER, Kind, ProxyConfig};
use super::dial::server_name;
use super::recompress::Recompress;
use super::tls::{self, ClientTls, OutboundTls};

/// The first thing that is wrong by itself, whatever files hold.
pub(super) fn check(config: &ProxyConfig) -> Result<(), StartError> {
    problems(config).into_iter().next().map_or(Ok(()), Err)
}

/// Each of them.
pub(super) fn problems(config: &ProxyConfig) -> Vec<StartError> {
    let mut found = Vec::new();
    let wrong = |addr: &str, role, wanted| StartError::Address { addr: addr.to_owned(), role, wanted };
    let (inbound, out) = (&config.inbound, &config.outbound);
    if inbound.kind.is_unix() && !inbound.allow_ip.is_empty() {
        found.push(StartError::Contradiction(
            "a unix socket has no addresses to allow (--in-allow-ip): limit who may use it by the permissions of its directory",
        ));
    }
    let is_the_same = |name: &HeaderName| match inbound.forwarded {
        Forwarded::Off => false,
        Forwarded::XForwardedFor => name == "x-forwarded-for",
        Forwarded::Forwarded => *name == header::FORWARDED,
    };
    if inbound.client_ip_header.as_ref().is_some_and(is_the_same) {
        found.push(StartError::Contradiction(
            "--client-ip-header replaces the field that --forwarded appends to: leave one of them out",
        ));
    }
    if inbound.tls.client_ca.is_some() && !inbound.kind.is_tls() {
        found.push(StartError::Contradiction(
            "--in-tls-client-ca asks callers for certificates, which takes TLS: use --in-type https or teleports",
        ));
    }
    if out.tls != OutboundTls::default() && !out.kind.is_tls() {
        found.push(StartError::Contradiction(
            "--out-tls-... take TLS: use --out-type https or teleports, or leave them out",
        ));
    }
    if config.recompress != Recompress::Off && inbound.kind.is_link() == out.kind.is_link() {
        found.push(StartError::Contradiction(
            "--recompress is for a proxy with a link on one side and HTTP on the other, which this one is not: leave it out here",
        ));
    }
    let is_opened = inbound.opened.is_some() || inbound.addr == HANDED_OVER;
    let listens_on = "the address to listen on (--in)";
    if inbound.kind.is_unix() && inbound.addr.is_empty() {
        found.push(wrong(&inbound.addr, listens_on, A_PATH));
    }
    if !inbound.kind.is_unix() && !is_opened && split_port(&inbound.addr).is_none() {
        found.push(wrong(&inbound.addr, listens_on, HOST_PORT));
    }
    let figures = config.seeing.metrics_addr.as_ref().filter(|_| !config.seeing.metrics_optional);
    if !inbound.kind.is_unix() && !is_opened && figures.is_some_and(|figures| are_the_same(&inbound.addr, figures)) {
        found.push(StartError::Contradiction(
            "--in and --expvar-addr are the same address, where only one of them can listen: give each a port of its own",
        ));
    }
    let sends_to = "the address to send to (--out)";
    for addr in out.addrs() {
        let is_host_port = split_port(addr).is_some_and(|(host, port)| !host.is_empty() && port != 0);
        match out.kind.is_unix() {
            true if addr.is_empty() => found.push(wrong(addr, sends_to, A_PATH)),
            false if !is_host_port => found.push(wrong(addr, sends_to, HOST_PORT)),
            _ => {}
        }
    }
    found
}

/// What is wrong with the files that are read at the start, in words that name the option.
pub(super) fn file_problems(config: &ProxyConfig) -> Vec<String> {
    let (inbound, out) = (&config.inbound, &config.outbound);
    let mut found = Vec::new();
    if inbound.kind.is_tls() {
        let is_on_demand = inbound.kind == Kind::Https && inbound.tls.is_without_certificates();
        found.extend(tls::server_problems(&inbound.tls, is_on_demand));
        if is_on_demand {
            found.extend(Acme::problems(&inbound.tls.autocert));
        }
    }
    if out.kind.is_tls() {
        found.extend(tls::client_problems(&out.tls));
        if let Ok(tls) = ClientTls::load(&out.tls, &[]) {
            let wrong = out.addrs().filter_map(|addr| server_name(&tls, addr).err());
            found.extend(wrong.map(|error| error.to_string()));
        }
    }
    found
}

/// What is odd about the files that are read at the start, in words that name the option. The proxy starts all the same.
pub(super) fn file_notes(config: &ProxyConfig, now: SystemTime) -> Vec<String> {
    let (inbound, out) = (&config.inbound, &config.outbound);
    let shown = inbound.tls.certs.iter().filter(|_| inbound.kind.is_tls()).map(|path| (path, "--in-tls-cert"));
    let own = out.tls.cert.iter().filter(|_| out.kind.is_tls()).map(|path| (path, "--out-tls-cert"));
    shown.chain(own).filter_map(|(path, flag)| tls::validity_note(path, flag, now)).collect()
}

const HOST_PORT: &str = "HOST:PORT, such as 127.0.0.1:8043 or far.example:8043";
const A_PATH: &str = "the path of a unix socket, such as /run/httptp.sock";

/// Whether two addresses to listen on leave room for one listener only, as far as they tell without looking names up.
fn are_the_same(a: &str, b: &str) -> bool {
    let (Some((a, port)), Some((b, other))) = (split_port(a), split_port(b)) else { return false };
    let addr = |host: &str| match host {
        "" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.trim_matches(['[', ']']).parse().ok(),
    };
    let are_alike = match (addr(a), addr(b)) {
        (Some(a), Some(b)) => a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())),
        _ => a == b,
    };
    port == other && port != 0 && are_alike
}

/// Host and port of `HOST:PORT`, where an IPv6 host stands in brackets.
pub(super) fn split_port(addr: &str) -> Option<(&str, u16)> {
    let (host, port) = addr.rsplit_once(':')?;
    let is_plain = !host.contains([':', '/', ' ', ',']);
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    (is_plain || is_bracketed).then_some(())?;
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Inbound, Outbound};

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(split_port("127.0.0.1:80"), Some(("127.0.0.1", 80)));
        assert_eq!(split_port("[::1]:80"), Some(("[::1]", 80)));
        assert_eq!(split_port(":80"), Some(("", 80)));
        for bad in ["", "host", "host:", "host:http", "host:70000", "::1:80", "http://h:80", "a:1,b:2"] {
            assert_eq!(split_port(bad), None, "{bad}");
        }
        let sending_to = |addr: &str| {
            let outbound = Outbound { addr: addr.to_owned(), ..Outbound::default() };
            check(&ProxyConfig { outbound, ..ProxyConfig::default() })
        };
        assert!(sending_to("h:1").is_ok());
        assert!(sending_to(":80").is_err());
        assert!(sending_to("h:0").is_err());
        assert!(sending_to("h:1, 10.0.0.1:2,[::1]:3").is_ok());
        assert!(sending_to("h:1,").is_err());
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let inbound = Inbound { kind: Kind::Unix, addr: String::new(), ..Inbound::default() };
        let inbound = Inbound { allow_ip: vec!["10.0.0.0/8".parse().unwrap()], ..inbound };
        let outbound = Outbound { addr: "a,b:1,c".to_owned(), ..Outbound::default() };
        let config = ProxyConfig { inbound, outbound, ..ProxyConfig::default() };
        let found: Vec<_> = problems(&config).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[2].contains("\"a\"") && found[3].contains("\"c\""), "{found:?}");
    }
}
