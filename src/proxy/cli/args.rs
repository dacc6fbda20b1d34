//! The command line, and what it makes of a [`ProxyConfig`].

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::args_access::AccessArgs;
use super::args_tls::{AutocertArgs, InTlsArgs, OutTlsArgs, path};
use super::balancing::BalancingArgs;
use super::dictionaries::DictionaryFiles;
use super::duration;
use super::number::{or_default, or_default as bytes, up_to};
use super::seeing::SeeingArgs;
use crate::proto::Compression;
use crate::proxy::estimate::train;
use crate::proxy::process::{self, Log};
use crate::proxy::{Inbound, Kind, Outbound, ProxyConfig, Recompress, demo, estimate};

/// The default of `--concurrency`, the original's.
const CONCURRENCY: usize = 100_000;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

// No line is longer than 80 columns: clap would wrap it, and commands are to be copied.
pub(super) const EXAMPLES: &str = "\
Examples:
  See it work, with nothing else installed:
      httptp demo

  The usual pair. Beside the callers:
      httptp --in 127.0.0.1:8080 --out far.example:8043
  and beside the origin, an HTTP server on port 80:
      httptp --in-type teleport --in :8043 --out-type http --out 127.0.0.1:80
  Then send requests to the near one as if it were the origin:
      curl http://127.0.0.1:8080/

  Fewer bytes for a little waiting: what comes within 2 ms shares a batch:
      httptp --out far.example:8043 --out-delay 2ms
      httptp --in-type teleport --in :8043 --in-delay 2ms \\
          --out-type http --out 127.0.0.1:80

  An encrypted link, for near proxies with a certificate by your authority only:
      httptp --in-type teleports --in :8443 --in-tls-client-ca ca.pem \\
          --in-tls-cert far.pem --in-tls-key far.key \\
          --out-type http --out 127.0.0.1:80
      httptp --out-type teleports --out far.example:8443 --out-tls-ca ca.pem \\
          --out-tls-cert near.pem --out-tls-key near.key

  Less CPU for more bytes:
      httptp --out far.example:8043 --out-compress snappy

  The same from a file, from variables, or from both; and what comes of it:
      httptp --config near.toml         # with lines such as: out-delay = \"2ms\"
      HTTPTP_OUT_DELAY=2ms httptp --out far.example:8043
      httptp check --config near.toml

Every option is a key of the file and a variable, too: --out-delay is out-delay
and HTTPTP_OUT_DELAY. The command line counts most, then the variable, then the
file. SIGHUP has the files with certificates, keys and authorities read again.

The original's spelling is taken, too: -inType=http for --in-type http, etc.
A link of type teleport is not encrypted: between networks that you do not trust
use teleports.";

/// Teleports HTTP between servers: many requests and responses, batched and compressed together, over one connection.
///
/// One httptp stands beside the callers (HTTP in, teleport out), another beside the origin (teleport in, HTTP out).
/// Each side chooses how it compresses what it sends.
#[derive(Debug, Parser)]
#[command(name = "httptp", version, styles = STYLES, after_help = EXAMPLES, args_conflicts_with_subcommands = true,
    args_override_self = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) proxy: ProxyArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows what it does, live: callers, both proxies and an origin in this one process.
    ///
    /// Real sockets on loopback ports that the system picks, generated bid requests, every response checked. The
    /// figures are those of the link between the two proxies.
    Demo(DemoArgs),
    /// Says all that is wrong with a configuration, and where, without listening.
    ///
    /// Takes the options of the proxy itself, and minds its variables and its file. Prints each option with its value and
    /// where that is from, as a file for --config, with defaults as comments. The exit code is 0 if nothing is wrong, and 2
    /// otherwise. Whether an address is busy is not looked at.
    Check(Box<CheckArgs>),
    /// Tells how many times smaller the traffic in a file would be on a link, by compression and batch delay, and what CPU
    /// that takes.
    ///
    /// The file is a recording of --record, a HAR of a browser's developer tools, or one JSON body a line. Its requests and
    /// answers go through a link of the real protocol at their own times; no socket is opened. The CPU is measured here.
    Estimate(EstimateArgs),
    /// Makes a dictionary for zstd of the traffic in a file, and tells what it saves.
    ///
    /// It is made of the first half of the file and tried on the other, through a link of the real protocol; where it saves
    /// nothing it is not written. Both proxies must have it: far ones first (--in-dictionary), then near ones
    /// (--out-dictionary).
    Train(TrainArgs),
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(super) struct CheckArgs {
    /// Look the names in addresses up, too, as they are now
    #[arg(long)]
    pub(super) resolve: bool,
    #[command(flatten)]
    pub(super) proxy: ProxyArgs,
}

#[derive(Debug, Args)]
pub(super) struct ProxyArgs {
    /// HOST:PORT to listen on, `:PORT` is every IPv4 address; for unix the path of the socket; `systemd` is the socket
    /// that a service manager hands over (LISTEN_FDS)
    #[arg(long = "in", value_name = "ADDR", default_value = "127.0.0.1:8080", help_heading = "Where requests come in")]
    inbound: String,
    /// What is spoken there: http, https or unix (HTTP over a unix socket) with callers; teleport or teleports (inside
    /// TLS) with a near proxy
    #[arg(long, value_name = "TYPE", default_value = "http", help_heading = "Where requests come in")]
    in_type: Type,
    /// Teleport: how responses are compressed
    #[arg(long, value_name = "HOW", default_value = "auto", help_heading = "Where requests come in")]
    in_compress: Compress,
    /// Teleport: dictionaries for zstd, as `httptp train` makes them: near proxies may send with any of these, and are
    /// answered with the same
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', value_parser = path, value_hint = ValueHint::FilePath, help_heading = "Where requests come in")]
    in_dictionary: Vec<PathBuf>,
    /// Teleport: how hard zstd and flate compress responses, from 1 to 9 [default: zstd 3, flate 6]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=9), help_heading = "Where requests come in")]
    in_level: Option<u8>,
    /// Teleport: most of the time that compressing responses may take on a link, each counted alone; above it the level
    /// falls, and rises again at less than half of it [default: 100, no limit]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100), help_heading = "Where requests come in")]
    in_max_compress_cpu: Option<u8>,
    /// Teleport: how long a response may wait for others to share its batch, such as 500us or 2ms
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse, help_heading = "Where requests come in")]
    in_delay: Duration,
    /// Longest request head, in bytes
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value_t = 64 * 1024, help_heading = "Where requests come in")]
    in_max_header_size: usize,
    /// Longest request body, in bytes; above it the answer is 413 [default: 4 MiB from http, 64 MiB from teleport]
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = "Where requests come in")]
    in_max_body_size: Option<usize>,
    /// Answer 405 to methods other than GET and HEAD
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool, help_heading = "Where requests come in")]
    in_get_only: bool,
    /// Let several processes listen on the same port (SO_REUSEPORT); the system spreads connections over them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool, help_heading = "Where requests come in")]
    reuse_port: bool,

    /// HOST:PORT to send requests to, or for unix the path of the socket; of several, with commas between, each request
    /// goes to the least loaded one
    #[arg(long, value_name = "ADDR,...", default_value = "127.0.0.1:8043", help_heading = "Where requests go")]
    out: String,
    /// What is spoken there: teleport or teleports (inside TLS) with a far proxy; http, https or unix (HTTP over a unix
    /// socket) with the origin
    #[arg(long, value_name = "TYPE", default_value = "teleport", help_heading = "Where requests go")]
    out_type: Type,
    /// Teleport: how requests are compressed
    #[arg(long, value_name = "HOW", default_value = "auto", help_heading = "Where requests go")]
    out_compress: Compress,
    /// Teleport: dictionaries for zstd, as `httptp train` makes them: requests are sent with the first, which the far proxy
    /// must have
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', value_parser = path, value_hint = ValueHint::FilePath, help_heading = "Where requests go")]
    out_dictionary: Vec<PathBuf>,
    /// Teleport: how hard zstd and flate compress requests, from 1 to 9 [default: zstd 3, flate 6]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=9), help_heading = "Where requests go")]
    out_level: Option<u8>,
    /// Teleport: most of the time that compressing requests may take on a link, each counted alone; above it the level
    /// falls, and rises again at less than half of it [default: 100, no limit]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100), help_heading = "Where requests go")]
    out_max_compress_cpu: Option<u8>,
    /// Teleport: how long a request may wait for others to share its batch, such as 500us or 2ms
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse, help_heading = "Where requests go")]
    out_delay: Duration,
    /// How long a response may take, connecting included; above it the answer is 504; 0 is for ever
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration::parse, help_heading = "Where requests go")]
    out_timeout: Duration,
    /// Longest response head, in bytes
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value_t = 64 * 1024, help_heading = "Where requests go")]
    out_max_header_size: usize,
    /// Longest response body, in bytes; above it the answer is 502
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value_t = Outbound::MAX_BODY_BYTES, help_heading = "Where requests go")]
    out_max_body_size: usize,
    /// Teleport: how many links to each upstream; more than one only if compressing one takes a whole core
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = up_to::<1024>, help_heading = "Where requests go")]
    out_conns_per_addr: usize,
    #[command(flatten)]
    balancing: BalancingArgs,

    /// Decode bodies that come compressed (gzip, deflate, br, zstd) for the link, and restore them behind it, if the proxy
    /// at its other end was told the same: the link makes them smaller together than each is alone. Costs CPU
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_value = "off", default_missing_value = "exact",
        help_heading = "The link")]
    recompress: RecompressHow,

    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    in_tls: InTlsArgs,
    #[command(flatten)]
    autocert: AutocertArgs,
    #[command(flatten)]
    out_tls: OutTlsArgs,
    #[command(flatten)]
    seeing: SeeingArgs,

    /// TOML file with options by their long names, such as `in-type = "http"`. What the command line or a variable
    /// (HTTPTP_IN_TYPE=http) says counts more
    #[arg(long, value_name = "FILE", value_parser = path, help_heading = "The process")]
    pub(super) config: Option<PathBuf>,
    /// Most requests at once; above it the answer is 429; 0 is the default
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY, value_parser = or_default, help_heading = "The process")]
    concurrency: usize,
    /// Most memory for messages, in bytes; above it the answer is 503; 0 is no limit [default: half of what the process
    /// may have, by its cgroup or of the machine]
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = "The process")]
    memory_budget: Option<usize>,
    /// How long to go on when told to stop (SIGTERM), not ready at /readyz, until balancers have noticed
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse, help_heading = "The process")]
    stop_delay: Duration,
    /// How long requests in hand may take after that
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::parse, help_heading = "The process")]
    drain_timeout: Duration,
    /// Worker threads at most, which join as there is work; one for each core unless said
    #[arg(long, value_name = "N", value_parser = up_to::<1024>, help_heading = "The process")]
    pub(super) threads: Option<usize>,
    /// Log each request that gets no answer from an upstream, and why; else each kind once a minute
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool, help_heading = "The process")]
    log_all_errors: bool,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How long to send load; without it 10 s, and then the proxies stay up for you to try
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) seconds: Option<u64>,
    /// Print one JSON object at the end and nothing else; without --seconds after 10 s
    #[arg(long)]
    pub(super) json: bool,
    /// How both directions of the link are compressed
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(super) compress: Compress,
    /// How long a message may wait for others to share its batch, such as 500us or 2ms
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse)]
    pub(super) delay: Duration,
    /// How many callers at once, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = up_to::<10_000>)]
    pub(super) callers: usize,
    /// Seed of the generated requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// Port of the near proxy; 0 lets the system pick
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(super) port: u16,
    /// Worker threads at most, which join as there is work; one for each core unless said
    #[arg(long, value_name = "N", value_parser = up_to::<1024>)]
    pub(super) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct EstimateArgs {
    /// What --record has written, a HAR file, or a file with one JSON body a line
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
    /// Draw the figures into this file, as an SVG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    plot: Option<PathBuf>,
    /// Requests a second, for a file without times
    #[arg(long, value_name = "N", default_value = "1000", value_parser = rate)]
    rate: f64,
    /// Decode compressed bodies first, as --recompress=content does
    #[arg(long)]
    recompress: bool,
}

impl From<EstimateArgs> for estimate::Options {
    fn from(args: EstimateArgs) -> Self {
        let EstimateArgs { file, json, plot, rate, recompress } = args;
        Self { file, json, plot, rate, recompress }
    }
}

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// What --record has written, a HAR file, or a file with one JSON body a line
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Where the dictionary is written
    #[arg(value_name = "DICTIONARY", value_hint = ValueHint::FilePath)]
    dictionary: PathBuf,
    /// Bytes that it may have; a link takes some more memory than that at each end
    #[arg(long, value_name = "BYTES", default_value = "65536", value_parser = clap::value_parser!(u32).range(1024..=1 << 20))]
    size: u32,
    /// The level at which it is tried
    #[arg(long, value_name = "LEVEL", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=9))]
    level: u8,
    /// The batch delay at which it has to be worth it, such as 500us or 2ms: it saves the less, the more share a batch
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse)]
    delay: Duration,
    /// Requests a second, for a file without times
    #[arg(long, value_name = "N", default_value = "1000", value_parser = rate)]
    rate: f64,
}

impl From<TrainArgs> for train::Options {
    fn from(args: TrainArgs) -> Self {
        let TrainArgs { file, dictionary, size, level, delay, rate } = args;
        Self { file, dictionary, size: size as usize, level, delay, rate }
    }
}

/// Requests a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e9).contains(rate));
    rate.ok_or_else(|| "write a number of requests a second, such as 1000".to_owned())
}

impl From<DemoArgs> for demo::Options {
    fn from(args: DemoArgs) -> Self {
        Self {
            seconds: args.seconds,
            json: args.json,
            compression: match args.compress {
                // Both proxies are this program.
                Compress::Auto => Compression::Zstd,
                other => other.into(),
            },
            delay: args.delay,
            callers: args.callers,
            seed: args.seed,
            port: args.port,
            threads: args.threads,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Type {
    Http,
    Https,
    Unix,
    Teleport,
    Teleports,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compress {
    /// zstd with a peer that knows it, else flate
    Auto,
    /// fewest bytes where messages share a flush; a peer that does not know it, such as the original, closes the link
    Zstd,
    /// few bytes, known to every peer
    Flate,
    /// least CPU
    None,
    /// between the two
    Snappy,
}

impl From<Compress> for Compression {
    fn from(compress: Compress) -> Self {
        match compress {
            // What is sent to a peer that does not know zstd.
            Compress::Auto | Compress::Flate => Self::Deflate,
            Compress::Zstd => Self::Zstd,
            Compress::None => Self::None,
            Compress::Snappy => Self::Snappy,
        }
    }
}

impl ProxyArgs {
    /// How to log.
    pub(super) fn log(&self) -> Log {
        self.seeing.log()
    }

    /// What is to be read for its links.
    pub(super) fn dictionaries(&self) -> DictionaryFiles {
        let named = |paths: &[PathBuf]| paths.iter().filter(|path| !path.as_os_str().is_empty()).cloned().collect();
        DictionaryFiles { inbound: named(&self.in_dictionary), outbound: named(&self.out_dictionary) }
    }

    /// What the proxy is to do.
    ///
    /// # Errors
    ///
    /// One line about what this version does not do yet.
    pub(super) fn config(self) -> Result<ProxyConfig, String> {
        let in_kind = Kind::from(self.in_type);
        Ok(ProxyConfig {
            inbound: self.access.apply_to(Inbound {
                kind: in_kind,
                addr: self.inbound,
                compression: self.in_compress.into(),
                prefer_zstd: self.in_compress == Compress::Auto,
                level: self.in_level,
                max_compress_share: self.in_max_compress_cpu.map(|percent| f64::from(percent) / 100.0),
                batch_delay: self.in_delay,
                max_head_bytes: unless_zero(self.in_max_header_size).unwrap_or(Inbound::default().max_head_bytes),
                max_body_bytes: self
                    .in_max_body_size
                    .and_then(unless_zero)
                    .unwrap_or(Inbound::max_body_bytes_of(in_kind)),
                get_only: self.in_get_only,
                reuse_port: self.reuse_port,
                tls: self.in_tls.tls(self.autocert),
                ..Inbound::default()
            }),
            outbound: self.balancing.apply(Outbound {
                kind: self.out_type.into(),
                addr: with_ports(self.out, self.out_type),
                compression: self.out_compress.into(),
                prefer_zstd: self.out_compress == Compress::Auto,
                level: self.out_level,
                max_compress_share: self.out_max_compress_cpu.map(|percent| f64::from(percent) / 100.0),
                batch_delay: self.out_delay,
                max_head_bytes: unless_zero(self.out_max_header_size).unwrap_or(Outbound::default().max_head_bytes),
                max_body_bytes: unless_zero(self.out_max_body_size).unwrap_or(Outbound::MAX_BODY_BYTES),
                timeout: (!self.out_timeout.is_zero()).then_some(self.out_timeout),
                links: self.out_conns_per_addr,
                tls: self.out_tls.tls(),
                ..Outbound::default()
            }),
            concurrency: unless_zero(self.concurrency).unwrap_or(CONCURRENCY),
            memory_budget: self.memory_budget.map_or_else(process::default_memory_budget, unless_zero),
            stop_delay: self.stop_delay,
            drain_timeout: self.drain_timeout,
            log_all_errors: self.log_all_errors,
            recompress: self.recompress.into(),
            seeing: self.seeing.seeing(),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RecompressHow {
    /// they pass as they are
    Off,
    /// what can be restored to the very same bytes
    Exact,
    /// the same content in the same coding, where no field of the message depends on the bytes; else as exact. Cheaper
    Content,
}

impl From<RecompressHow> for Recompress {
    fn from(how: RecompressHow) -> Self {
        match how {
            RecompressHow::Off => Self::Off,
            RecompressHow::Exact => Self::Exact,
            RecompressHow::Content => Self::Content,
        }
    }
}

impl From<Type> for Kind {
    fn from(kind: Type) -> Self {
        match kind {
            Type::Http => Self::Http,
            Type::Https => Self::Https,
            Type::Unix => Self::Unix,
            Type::Teleport => Self::Teleport,
            Type::Teleports => Self::Teleports,
        }
    }
}

/// The spellings that Go takes.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// The original takes a size of 0, or of less, for its default.
fn unless_zero(bytes: usize) -> Option<usize> {
    Some(bytes).filter(|bytes| *bytes > 0)
}

/// As the original, for HTTP: without a port it is the usual one.
fn with_ports(addrs: String, kind: Type) -> String {
    let port = match kind {
        Type::Http => 80,
        Type::Https => 443,
        Type::Unix | Type::Teleport | Type::Teleports => return addrs,
    };
    let with_port = |addr: &str| {
        let addr = addr.trim();
        let has_none = !addr.is_empty() && (!addr.contains(':') || (addr.starts_with('[') && addr.ends_with(']')));
        if has_none { format!("{addr}:{port}") } else { addr.to_owned() }
    };
    addrs.split(',').map(with_port).collect::<Vec<_>>().join(",")
}
