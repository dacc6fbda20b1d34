//! Flags about who may connect, and what upstream is told about who did.

use std::net::IpAddr;

use clap::{ArgAction, Args, ValueEnum};
use http::HeaderName;
use ipnet::IpNet;

use super::args::go_bool;
use super::number;
use crate::proxy::{Forwarded, ForwardedProto, Inbound};

#[derive(Debug, Args)]
#[command(next_help_heading = "Who may connect")]
pub(super) struct AccessArgs {
    /// Addresses and networks that may connect, such as 10.0.0.0/8,192.0.2.7,2001:db8::/32; everybody without it. The
    /// other end of the connection counts, which with --in-proxy-protocol is the balancer
    #[arg(long, value_name = "NETWORK,...", default_value = "", hide_default_value = true, value_parser = networks)]
    in_allow_ip: Networks,
    /// Most connections at once; further ones are closed at once; 0 is any number
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number::or_default)]
    in_max_conns: usize,
    /// Each connection begins with a header of the PROXY protocol, version 2, that tells who it comes from; one that does
    /// not is closed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool)]
    in_proxy_protocol: bool,
    /// http, https, unix: set this field of each request to the caller's address; what the caller wrote there goes
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, value_parser = field_name)]
    client_ip_header: FieldName,
    /// http, https, unix: append the caller's address to a list. What the caller wrote there stays before it: believe
    /// only the last entries, one for each proxy of yours
    #[arg(long, value_name = "FIELD", default_value = "off")]
    forwarded: ForwardedArg,
    /// http, https, unix: tell in X-Forwarded-Proto what the caller has spoken [default: set with --forwarded
    /// x-forwarded-for, else off]
    #[arg(long, value_name = "HOW")]
    forwarded_proto: Option<ProtoArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ForwardedArg {
    Off,
    XForwardedFor,
    Forwarded,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtoArg {
    /// what the caller wrote passes through
    Off,
    /// in place of what the caller wrote
    Set,
    /// what the caller wrote stays, for listeners that only balancers of yours reach
    Keep,
}

impl AccessArgs {
    pub(super) fn apply_to(self, inbound: Inbound) -> Inbound {
        Inbound {
            allow_ip: self.in_allow_ip.0,
            max_conns: self.in_max_conns,
            proxy_protocol: self.in_proxy_protocol,
            client_ip_header: self.client_ip_header.0,
            forwarded: match self.forwarded {
                ForwardedArg::Off => Forwarded::Off,
                ForwardedArg::XForwardedFor => Forwarded::XForwardedFor,
                ForwardedArg::Forwarded => Forwarded::Forwarded,
            },
            forwarded_proto: match (self.forwarded_proto, self.forwarded) {
                (Some(ProtoArg::Set), _) | (None, ForwardedArg::XForwardedFor) => ForwardedProto::Set,
                (Some(ProtoArg::Keep), _) => ForwardedProto::Keep,
                (Some(ProtoArg::Off) | None, _) => ForwardedProto::Off,
            },
            ..inbound
        }
    }
}

/// A list in one value; clap takes a bare `Vec` for a flag that is repeated.
#[derive(Clone, Debug)]
struct Networks(Vec<IpNet>);

/// Addresses and networks between commas. An empty list is everybody, as with the original.
fn networks(text: &str) -> Result<Networks, String> {
    if text.trim().is_empty() {
        return Ok(Networks(Vec::new()));
    }
    text.split(',').map(|entry| network(entry.trim())).collect::<Result<_, _>>().map(Networks)
}

fn network(text: &str) -> Result<IpNet, String> {
    let wanted = || {
        format!("{text:?} is neither an address, such as 192.0.2.7 or 2001:db8::7, nor a network, such as 10.0.0.0/8")
    };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let network: IpNet = text.parse().map_err(|_| wanted())?;
    if network.addr() != network.network() {
        return Err(format!("{text} is an address inside a network: write {} for the network", network.trunc()));
    }
    Ok(network)
}

#[derive(Clone, Debug)]
struct FieldName(Option<HeaderName>);

/// The name of a field that a proxy may set. An empty one is none.
fn field_name(text: &str) -> Result<FieldName, String> {
    if text.is_empty() {
        return Ok(FieldName(None));
    }
    let name: HeaderName = text.parse().map_err(|_| "this cannot be the name of a field".to_owned())?;
    let is_vital = ["host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect"]
        .contains(&name.as_str());
    if is_vital {
        return Err(format!("requests need their own {name}: choose another field, such as X-Real-IP"));
    }
    Ok(FieldName(Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_networks() {
        let read = |text| networks(text).map(|list| list.0.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(read("").unwrap(), "");
        assert_eq!(
            read("10.0.0.0/8, 192.0.2.7,2001:db8::/32,::1").unwrap(),
            "10.0.0.0/8 192.0.2.7/32 2001:db8::/32 ::1/128"
        );
        assert_eq!(read("::ffff:192.0.2.7").unwrap(), "192.0.2.7/32");
        assert!(read("10.0.0.1/8").unwrap_err().contains("write 10.0.0.0/8"));
        assert!(read("10.0.0.0/33").is_err());
        assert!(read("10.0.0.1,").is_err(), "half a list is no list");
        assert!(read("localhost").unwrap_err().contains("neither"));
    }

    #[test]
    fn names_of_fields() {
        assert_eq!(field_name("X-Real-IP").unwrap().0.unwrap(), "x-real-ip");
        assert!(field_name("").unwrap().0.is_none());
        assert!(field_name("a b").is_err());
        assert!(field_name("Host").is_err());
    }
}
