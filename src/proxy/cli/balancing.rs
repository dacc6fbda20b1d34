//! The flags about several upstreams.

use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use super::args::go_bool;
use super::duration;
use super::number::up_to;
use crate::proxy::{HealthCheck, Outbound, Retry};

#[derive(Debug, Args)]
#[command(next_help_heading = "Several upstreams")]
pub(super) struct BalancingArgs {
    /// Which requests go to another upstream when one has failed; never one whose response had begun
    #[arg(long, value_name = "WHICH", default_value = "idempotent")]
    out_retry: Which,
    /// How long connecting may take [default: a third of --out-timeout if there can be another upstream]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    out_connect_timeout: Option<Duration>,
    /// How often names are looked up: each address of a name is an upstream; 0: one upstream a name, looked up at each
    /// connect
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    out_resolve_interval: Duration,
    /// How long an upstream that comes back, or is new beside others, gets less than its share
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    out_slow_start: Duration,
    /// Teleport: tell the far proxy how long the caller still waits; the original's would tell its origin
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool)]
    out_pass_time_left: bool,
    /// Ask each upstream for this PATH now and then; it is healthy if it answers 200 to 399 in time
    #[arg(long, value_name = "PATH", value_parser = path)]
    out_health_check: Option<String>,
    /// How often it is asked, and how long it may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::parse, requires = "out_health_check")]
    out_health_interval: Duration,
    /// So many good answers in a row make it healthy
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count, requires = "out_health_check")]
    out_health_rise: u32,
    /// So many bad ones make it unhealthy
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count, requires = "out_health_check")]
    out_health_fall: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// only those that surely did not reach the first
    Unsent,
    /// these, and GET, HEAD, OPTIONS, TRACE, PUT and DELETE
    Idempotent,
    /// all: none does harm when it runs twice
    All,
}

impl BalancingArgs {
    /// `outbound` with what these flags say.
    pub(super) fn apply(self, outbound: Outbound) -> Outbound {
        let health_check = self.out_health_check.map(|path| HealthCheck {
            path,
            interval: self.out_health_interval.max(Duration::from_millis(10)),
            rise: self.out_health_rise,
            fall: self.out_health_fall,
        });
        Outbound {
            resolve_interval: self.out_resolve_interval,
            connect_timeout: self.out_connect_timeout.filter(|timeout| !timeout.is_zero()),
            retry: match self.out_retry {
                Which::Unsent => Retry::Unsent,
                Which::Idempotent => Retry::Idempotent,
                Which::All => Retry::All,
            },
            slow_start: self.out_slow_start,
            pass_time_left: self.out_pass_time_left,
            health_check,
            ..outbound
        }
    }
}

fn path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok();
    is_path.then(|| text.to_owned()).ok_or_else(|| "write a path that starts with /, such as /healthz".to_owned())
}

fn count(text: &str) -> Result<u32, String> {
    up_to::<1000>(text).map(|n| n as u32)
}
