use std::time::Duration;

use super::*;
use crate::proto::Compression;
use crate::proxy::process::LogFormat;
use crate::proxy::{HealthCheck, Inbound, Kind, Outbound, Retry, Seeing};

fn parse_line(line: &str) -> Result<ProxyConfig, String> {
    parse_args(line.split_whitespace())
}

fn parse_args<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<ProxyConfig, String> {
    let args = ["httptp"].into_iter().chain(args).map(OsString::from);
    parse(args).map(|parsed| parsed.config).map_err(|stop| match stop {
        Stop::Clap(error) => {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        }
        Stop::Line(line) => line,
    })
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn defaults() {
    let config = parse_line("").unwrap();
    assert_eq!((config.inbound.addr.as_str(), config.inbound.kind), ("127.0.0.1:8080", Kind::Http));
    assert_eq!((config.outbound.addr.as_str(), config.outbound.kind), ("127.0.0.1:8043", Kind::Teleport));
    assert_eq!(config.seeing.metrics_addr.as_deref(), Some("localhost:8040"));
    let config = ProxyConfig { seeing: Seeing::default(), ..config };
    let inbound = Inbound { prefer_zstd: true, ..Inbound::default() };
    let outbound = Outbound { prefer_zstd: true, ..Outbound::default() };
    let memory_budget = crate::proxy::process::default_memory_budget();
    let defaults = ProxyConfig { inbound, outbound, memory_budget, ..ProxyConfig::default() };
    assert_eq!(format!("{config:?}"), format!("{defaults:?}"), "those of the library but for zstd and memory");
    assert_eq!(parse_line("--memory-budget=0").unwrap().memory_budget, None);
    assert_eq!(parse_line("--memory-budget=1000000").unwrap().memory_budget, Some(1_000_000));
}

#[test]
fn the_originals_command_line_with_every_flag() {
    let config = parse_line(
        "-in=:80 -inType=teleport -inDelay=1ms -inCompress=snappy -inMaxHeaderSize=1 -inMaxBodySize=2 -inGetOnly \
         -inAllowIP= -inTLSCert= -inTLSKey= -inTLSSessionTicketKey= -autocertCacheDir=autocert-cache \
         -autocertHostRegexp=^.*$ -out h:1 -outType http -outDelay 2ms -outCompress none -outMaxHeaderSize 3 \
         -outTimeout 4s -outConnsPerAddr 5 -concurrency 6 -clientIPHeader= -expvarAddr localhost:8040 \
         -reusePort=false -logAllErrors=true",
    )
    .unwrap();
    let (inbound, out) = (&config.inbound, &config.outbound);
    assert_eq!((inbound.addr.as_str(), inbound.kind), (":80", Kind::Teleport));
    assert_eq!((inbound.batch_delay, inbound.compression), (Duration::from_millis(1), Compression::Snappy));
    assert_eq!((inbound.max_head_bytes, inbound.max_body_bytes, inbound.get_only), (1, 2, true));
    assert_eq!((out.addr.as_str(), out.kind), ("h:1", Kind::Http));
    assert_eq!((out.batch_delay, out.compression), (Duration::from_millis(2), Compression::None));
    assert_eq!((out.max_head_bytes, out.timeout, out.links), (3, Some(Duration::from_secs(4)), 5));
    assert_eq!((config.concurrency, config.log_all_errors), (6, true));
}

#[test]
fn several_upstreams_and_how_they_are_balanced() {
    let out = parse_line("-out=a:1,b:2").unwrap().outbound;
    assert_eq!((out.addr.as_str(), out.health_check), ("a:1,b:2", None));
    let out = parse_line(
        "--out a:1,b:2 --out-retry all --out-connect-timeout 1s --out-resolve-interval 1m --out-slow-start 0 --out-pass-time-left \
         --out-health-check /up --out-health-interval 2s --out-health-rise 1 --out-health-fall 4",
    )
    .unwrap()
    .outbound;
    assert_eq!((out.retry, out.connect_timeout), (Retry::All, Some(Duration::from_secs(1))));
    assert!(out.pass_time_left);
    assert_eq!((out.resolve_interval, out.slow_start), (Duration::from_secs(60), Duration::ZERO));
    let check = HealthCheck { path: "/up".into(), interval: Duration::from_secs(2), rise: 1, fall: 4 };
    assert_eq!(out.health_check, Some(check));
    assert!(parse_line("--out-health-check up").unwrap_err().contains("/"));
    assert!(parse_line("--out-health-interval 2s").unwrap_err().contains("--out-health-check"));
    assert!(parse_line("--out a:1,,b:2").unwrap_err().contains("HOST:PORT"));
}

#[test]
fn figures_and_the_log() {
    let seeing = |line| parse_line(line).unwrap().seeing;
    assert!(seeing("").metrics_optional, "two proxies on one machine start without flags");
    let asked = seeing("-expvarAddr=localhost:8040 --access-log --make-traceparent=true");
    assert_eq!((asked.metrics_addr.as_deref(), asked.metrics_optional), (Some("localhost:8040"), false));
    assert!(asked.access_log && asked.make_traceparent);
    assert_eq!(parse_args(["-expvarAddr", ""]).unwrap().seeing.metrics_addr, None);
    let Parsed { log, .. } =
        parse("httptp --log-format json --log-level debug".split(' ').map(OsString::from)).unwrap();
    assert_eq!((log.format, log.level), (LogFormat::Json, tracing::Level::DEBUG));
}

#[test]
fn a_timeout_of_zero_is_none() {
    assert_eq!(parse_line("--out-timeout 0").unwrap().outbound.timeout, None);
}

#[test]
fn mistakes_are_named() {
    assert!(parse_line("-inTyp=http").unwrap_err().contains("--in-type"));
    assert!(parse_line("--out-timeout 3").unwrap_err().contains("like 10ms"));
    assert!(parse_line("-inType=ftp").unwrap_err().contains("teleport"));
    assert!(parse_line("--concurrency 0").unwrap_err().contains("at least 1"));
    assert!(parse_line("--in-get-only=maybe").unwrap_err().contains("true or false"));
    assert!(parse_line("--out nowhere").unwrap_err().contains("HOST:PORT"));
    assert!(parse_line("--in http://localhost:80").unwrap_err().contains("--in"));
    assert!(parse_line("stray").is_err());
}

#[test]
fn the_demo_has_its_own_flags() {
    let args = "httptp demo --seconds 2 --json --compress snappy --delay 1ms --callers 8 --seed 7";
    let Parsed { command, .. } = parse(args.split(' ').map(OsString::from)).unwrap();
    let Some(Command::Demo(args)) = command else { panic!("no demo") };
    assert_eq!((args.seconds, args.json, args.callers, args.seed), (Some(2), true, 8, 7));
    assert_eq!(args.delay, Duration::from_millis(1));
}

#[test]
fn a_size_of_zero_is_the_default_as_in_the_original() {
    let config = parse_line("-inMaxHeaderSize=0 -inMaxBodySize=0 -outMaxHeaderSize=0").unwrap();
    let defaults = parse_line("").unwrap();
    assert_eq!(config.inbound.max_head_bytes, defaults.inbound.max_head_bytes);
    assert_eq!(config.inbound.max_body_bytes, defaults.inbound.max_body_bytes);
    assert_eq!(config.outbound.max_head_bytes, defaults.outbound.max_head_bytes);
}

#[test]
fn complaints_are_one_line_that_names_the_flag() {
    for (line, named) in
        [("--no-such-flag", "--no-such-flag"), ("--in-tipe http", "--in-type"), ("-inType=gopher", "gopher")]
    {
        let args = ["httptp"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        let Err(Stop::Clap(error)) = parse(args) else { panic!("{line} was taken") };
        let complaint = in_one_line(&error);
        assert!(complaint.contains(named) && complaint.contains("--help") && !complaint.contains('\n'), "{complaint}");
    }
}
