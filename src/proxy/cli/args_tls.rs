//! Flags of TLS, on both sides.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::args::go_bool;
use crate::proxy::{Autocert, InboundTls, OutboundTls};

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS where requests come in (https, teleports)")]
pub(super) struct InTlsArgs {
    /// PEM files with certificates, each followed by those between it and its authority; the client's name for the
    /// server (SNI) picks, the first is the default; read again at SIGHUP
    #[arg(long, value_name = "FILE,...")]
    in_tls_cert: Option<String>,
    /// PEM files with their private keys, in the same order
    #[arg(long, value_name = "FILE,...")]
    in_tls_key: Option<String>,
    /// Take only clients with a certificate by an authority in this PEM file
    #[arg(long, value_name = "FILE", value_parser = path)]
    in_tls_client_ca: Option<PathBuf>,
    /// Secrets, of which the first seals session tickets and all open them: instances that share them resume each other's
    /// sessions. Without it each has one of its own, made at random
    #[arg(long, value_name = "SECRET,...", hide_default_value = true)]
    in_tls_session_ticket_key: Option<String>,
    /// A file with such secrets instead, one a line, which other users cannot see; read again at SIGHUP
    #[arg(long, value_name = "FILE", value_parser = path)]
    in_tls_session_ticket_key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Certificates on demand (https without --in-tls-cert)")]
pub(super) struct AutocertArgs {
    /// Where certificates and the account at the authority are kept
    #[arg(long, value_name = "DIR", default_value = "autocert-cache", value_parser = path)]
    autocert_cache_dir: PathBuf,
    /// Have certificates made only for names that match; limit it to yours, lest strangers use up what the authority
    /// grants you
    #[arg(long, value_name = "REGEXP", default_value = "^.*$")]
    autocert_host_regexp: String,
    /// Directory of the ACME authority, whose terms of service you agree to [default: Let's Encrypt]
    #[arg(long, value_name = "URL")]
    autocert_directory: Option<String>,
    /// PEM file with the authorities that the authority's own server is believed by, in place of those of the system
    #[arg(long, value_name = "FILE", value_parser = path)]
    autocert_ca: Option<PathBuf>,
    /// Where the authority can write to
    #[arg(long, value_name = "ADDRESS")]
    autocert_email: Option<String>,
}

impl AutocertArgs {
    fn autocert(self) -> Autocert {
        let defaults = Autocert::default();
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Autocert {
            cache_dir: self.autocert_cache_dir,
            host_regexp: self.autocert_host_regexp,
            directory: filled(self.autocert_directory).unwrap_or(defaults.directory),
            ca: given(self.autocert_ca),
            email: filled(self.autocert_email),
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS where requests go (https, teleports)")]
pub(super) struct OutTlsArgs {
    /// Believe the authorities in this PEM file and no others; without it those of the system
    #[arg(long, value_name = "FILE", value_parser = path)]
    out_tls_ca: Option<PathBuf>,
    /// The name that the server's certificate must be for; without it the host in --out
    #[arg(long, value_name = "NAME")]
    out_tls_server_name: Option<String>,
    /// PEM file with the certificate to show to servers that ask for one
    #[arg(long, value_name = "FILE", value_parser = path)]
    out_tls_cert: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", value_parser = path)]
    out_tls_key: Option<PathBuf>,
    /// DANGEROUS: believe any certificate; whoever is on the way can read and change everything
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool)]
    out_tls_insecure: bool,
}

impl InTlsArgs {
    pub(super) fn tls(self, autocert: AutocertArgs) -> InboundTls {
        InboundTls {
            certs: list(self.in_tls_cert),
            keys: list(self.in_tls_key),
            client_ca: given(self.in_tls_client_ca),
            ticket_secrets: list(self.in_tls_session_ticket_key),
            ticket_secrets_file: given(self.in_tls_session_ticket_key_file),
            autocert: autocert.autocert(),
        }
    }
}

impl OutTlsArgs {
    pub(super) fn tls(self) -> OutboundTls {
        OutboundTls {
            ca: given(self.out_tls_ca),
            server_name: self.out_tls_server_name.filter(|name| !name.is_empty()),
            cert: given(self.out_tls_cert),
            key: given(self.out_tls_key),
            insecure: self.out_tls_insecure,
        }
    }
}

/// As clap's own, which does not take an empty one.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

/// An empty value is none: the original's default.
fn given(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

fn list<T: From<String>>(values: Option<String>) -> Vec<T> {
    let values = values.unwrap_or_default();
    values.split(',').filter(|value| !value.is_empty()).map(|value| value.to_owned().into()).collect()
}
