use std::time::Duration;

use super::*;
use crate::proto::Compression;
use crate::proxy::process::LogFormat;
use crate::proxy::{ForwardedProto, HealthCheck, Inbound, Kind, Outbound, Recompress, Recording, Retry, Seeing};

fn parse_line(line: &str) -> Result<ProxyConfig, String> {
    parse_args(line.split_whitespace())
}

fn parse_args<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<ProxyConfig, String> {
    parse_with(args, &[]).map(|parsed| parsed.config)
}

fn parse_with<'a>(args: impl IntoIterator<Item = &'a str>, variables: &[(&str, &str)]) -> Result<Parsed, String> {
    let args = ["httptp"].into_iter().chain(args).map(OsString::from);
    let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parse(args, &variables).map_err(|stop| match stop {
        Stop::Clap(error) => panic!("only help: {error}"),
        Stop::Problems(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    })
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn examples_can_be_copied_from_a_narrow_terminal_and_are_right() {
    assert!(args::EXAMPLES.lines().all(|line| line.len() <= 80), "clap wraps what is longer");
    let text = args::EXAMPLES.replace("\\\n", " ");
    let commands = text.lines().filter_map(|line| line.split_once("    httptp ")).map(|(_, command)| command);
    let mut count = 0;
    for command in commands.filter(|command| !command.contains("--config")) {
        parse_with(command.split_whitespace(), &[]).unwrap_or_else(|error| panic!("{command}: {error}"));
        count += 1;
    }
    assert_eq!(count, 8);
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
fn recompressing_and_recording() {
    let recompress = |line: &str| parse_line(line).map(|config| config.recompress);
    assert_eq!(recompress("--recompress"), Ok(Recompress::Exact));
    assert_eq!(recompress("--recompress=content"), Ok(Recompress::Content));
    assert_eq!(recompress("--recompress=off --out-type http"), Ok(Recompress::Off));
    assert!(recompress("--recompress --out-type http").unwrap_err().contains("a link on one side"));
    assert!(recompress("--recompress=all").is_err());
    let file = File::new("recompress = \"content\"\n");
    assert_eq!(parse_args(["--config", file.name()]).unwrap().recompress, Recompress::Content);
    let Parsed { config, layers, .. } = parse_with(["--config", file.name(), "--recompress"], &[]).unwrap();
    assert_eq!((config.recompress, &*layers.settings["recompress"].value), (Recompress::Exact, "exact"));
    let recording = parse_line("--record=/x/y --record-limit=7").unwrap().seeing.record;
    assert_eq!(recording, Some(Recording { path: "/x/y".into(), limit: 7 }));
    let recording = parse_line("--record=/x/y").unwrap().seeing.record;
    assert_eq!(recording.map(|recording| recording.limit), Some(Recording::LIMIT));
    let why = parse_line("estimate f.har --rate=0").unwrap_err();
    assert!(why.contains("--rate"), "{why}");
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
    let Parsed { log, .. } = parse_with("--log-format json --log-level debug".split(' '), &[]).unwrap();
    assert_eq!((log.format, log.level), (LogFormat::Json, tracing::Level::DEBUG));
}

#[test]
fn the_scheme_goes_with_the_list_unless_said_otherwise() {
    let proto = |line| parse_line(line).unwrap().inbound.forwarded_proto;
    assert_eq!(proto(""), ForwardedProto::Off);
    assert_eq!(proto("--forwarded forwarded"), ForwardedProto::Off, "which tells it itself");
    assert_eq!(proto("--forwarded x-forwarded-for"), ForwardedProto::Set);
    assert_eq!(proto("--forwarded x-forwarded-for --forwarded-proto off"), ForwardedProto::Off);
    assert_eq!(proto("--forwarded-proto keep"), ForwardedProto::Keep);
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
    assert!(parse_line("--out-conns-per-addr 0").unwrap_err().contains("at least 1"), "the original crashes");
    assert!(parse_line("--concurrency 1e3").unwrap_err().contains("0x10000"));
    assert!(parse_line("--in-get-only=maybe").unwrap_err().contains("true or false"));
    assert!(parse_line("--out nowhere").unwrap_err().contains("HOST:PORT"));
    assert!(parse_line("--in http://localhost:80").unwrap_err().contains("--in"));
    assert!(parse_line("stray").is_err());
}

#[test]
fn the_demo_has_its_own_flags() {
    let args = "demo --seconds 2 --json --compress snappy --delay 1ms --callers 8 --seed 7";
    // Whose variables are not the proxy's.
    let Parsed { task, .. } = parse_with(args.split(' '), &[("HTTPTP_IN_TYPE", "ftp")]).unwrap();
    let Task::Demo(args) = task else { panic!("no demo") };
    assert_eq!((args.seconds, args.json, args.callers, args.seed), (Some(2), true, 8, 7));
    assert_eq!(args.delay, Duration::from_millis(1));
}

#[test]
fn what_the_original_takes_for_its_defaults() {
    let defaults = format!("{:?}", parse_line("").unwrap());
    for value in ["0", "-1"] {
        let line = "-inMaxHeaderSize=N -inMaxBodySize=N -outMaxHeaderSize=N --out-max-body-size=N -concurrency=N";
        assert_eq!(format!("{:?}", parse_line(&line.replace('N', value)).unwrap()), defaults);
    }
    assert_eq!(parse_line("-concurrency=0x100").unwrap().concurrency, 256);
    let config = parse_line("-inDelay=-1s -outDelay=-1s -outTimeout=-1s").unwrap();
    assert_eq!((config.inbound.batch_delay, config.outbound.batch_delay), (Duration::ZERO, Duration::ZERO));
    assert_eq!(config.outbound.timeout, None);
}

#[test]
fn http_has_a_usual_port() {
    let out = |line| parse_line(line).map(|config| config.outbound.addr);
    assert_eq!(out("-outType=http -out=localhost").unwrap(), "localhost:80");
    assert_eq!(out("-outType=http -out=a,b:81,[::1]").unwrap(), "a:80,b:81,[::1]:80");
    assert_eq!(out("-outType=https -out=a.example").unwrap(), "a.example:443");
    assert_eq!(out("-outType=unix -out=/run/a").unwrap(), "/run/a");
    assert!(out("-outType=teleport -out=localhost").is_err(), "with the original each request would fail");
    assert!(out("-outType=http -out=a,").is_err());
    assert!(out("-outType=http -out=::1").is_err());
}

#[test]
fn what_the_original_does_not_have_may_be_spelled_as_there() {
    let config = parse_line("-outTLSCA=ca.pem -outHealthCheck /up -threads 2 -outType=https").unwrap();
    assert_eq!(config.outbound.tls.ca, Some("ca.pem".into()));
    assert_eq!(config.outbound.health_check.unwrap().path, "/up");
    let complaint = parse_line("-outTLSCAs=ca.pem").unwrap_err();
    assert!(complaint.contains("--out-tls-c-as") || complaint.contains("--out-tls-ca"), "{complaint}");
    assert_eq!(spelling::kebab("inTLSTypo"), "in-tls-typo");
    let problems = File::problems("outTLSCA = \"ca.pem\"\n");
    assert!(problems[0].contains("did you mean out-tls-ca?"), "{problems:?}");
}

#[test]
fn complaints_are_one_line_that_names_the_flag() {
    for (line, named) in
        [("--no-such-flag", "--no-such-flag"), ("--in-tipe http", "--in-type"), ("-inType=gopher", "gopher")]
    {
        let complaint = parse_line(line).unwrap_err();
        assert!(complaint.contains(named) && complaint.contains("--help") && !complaint.contains('\n'), "{complaint}");
    }
}

/// A file with options, removed when dropped.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("httptp-config-{}-{number}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// What is wrong with it, with `F` for its name.
    fn problems(text: &str) -> Vec<String> {
        let file = Self::new(text);
        let problems = parse_with(["--config", file.name()], &[]).unwrap_err();
        problems.lines().map(|line| line.replace(file.name(), "F")).collect()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
    let file =
        File::new("in = \":1\"\nin-type = \"teleport\"\nout = [\"f:1\", \"g:1\"]\nin-get-only = true\nconcurrency = 7");
    let variables = [("HTTPTP_IN", ":2"), ("HTTPTP_OUT", "e:2"), ("HTTPTP_REUSE_PORT", "true"), ("PATH", "/bin")];
    let Parsed { config, layers, .. } =
        parse_with(["-config", file.name(), "-in=:3", "-inGetOnly=false"], &variables).unwrap();
    assert_eq!((&*config.inbound.addr, config.inbound.kind), (":3", Kind::Teleport));
    assert_eq!((&*config.outbound.addr, config.inbound.reuse_port), ("e:2", true));
    assert_eq!((config.concurrency, config.inbound.get_only), (7, false));
    let origin = |name: &str| layers.settings[name].origin.to_string().replace(file.name(), "F");
    assert_eq!((&*origin("in"), &*origin("out")), ("command line", "HTTPTP_OUT"));
    assert_eq!((&*origin("in-type"), &*origin("concurrency")), ("F:2", "F:5"));
    assert!(layers.notes.is_empty());
}

#[test]
fn the_file_may_be_named_by_a_variable_and_an_empty_name_is_none() {
    let file = File::new("out = \"f:1\"");
    let named = |args: &[&str], name| parse_with(args.iter().copied(), &[("HTTPTP_CONFIG", name)]);
    assert_eq!(named(&[], file.name()).unwrap().config.outbound.addr, "f:1");
    assert_eq!(named(&["--config="], file.name()).unwrap().config.outbound.addr, "127.0.0.1:8043");
    let error = named(&[], "/no/such").unwrap_err();
    assert!(error.starts_with("HTTPTP_CONFIG: cannot read") && error.contains("/no/such"), "{error}");
    let error = parse_args(["--config", "/no/such"]).unwrap_err();
    assert!(error.starts_with("cannot read"), "{error}");
}

#[test]
fn options_that_need_others_find_them_wherever_they_are() {
    let file =
        File::new("out-health-check = \"/up\"\nin-allow-ip = [\"10.0.0.0/8\", \"::1\"]\nout-timeout = \"1.5s\"\n");
    let config = parse_args(["--config", file.name(), "--out-health-interval", "2s"]).unwrap();
    assert_eq!(config.outbound.health_check.unwrap().interval, Duration::from_secs(2));
    assert_eq!(config.inbound.allow_ip.len(), 2);
    assert_eq!(config.outbound.timeout, Some(Duration::from_millis(1500)));
    let problems = File::problems("out = \"a:1\"\nout-health-rise = 2\n");
    assert!(problems[0].contains("--out-health-check"), "{problems:?}");
}

#[test]
fn all_that_is_wrong_with_a_file_is_told_by_line() {
    let text = "# a comment\nin_type = \"http\"\nout-tipe = \"http\"\nin-type = \"ftp\"\nconcurrency = true\n\
        in-get-only = \"true\"\nout-timeout = 3\nin = [\"a:1\"]\nin-allow-ip = [\"10.0.0.1/8\"]\nconfig = \"x\"\n\
        inMaxBodySize = 1\nnonsense = 2\nout = [\"a:1,b:1\"]\n[in-delay]\n";
    let problems = File::problems(text);
    for (line, wanted) in [
        (2, "did you mean in-type?"),
        (3, "did you mean out-type?"),
        (4, "teleports"),
        (5, "concurrency takes one value"),
        (6, "true or false, without quotes"),
        (7, "like 10ms"),
        (8, "in takes one value"),
        (9, "write 10.0.0.0/8"),
        (10, "cannot name another"),
        (11, "did you mean in-max-body-size?"),
        (12, "no option \"nonsense\""),
        (13, "in quotes of its own"),
        (14, "in-delay takes one value"),
    ] {
        let of_line: Vec<_> = problems.iter().filter(|text| text.starts_with(&format!("F:{line}: "))).collect();
        assert!(of_line.len() == 1 && of_line[0].contains(wanted), "{line}: {of_line:?} of {problems:#?}");
    }
    assert_eq!(problems.len(), 13);
    let problems = File::problems("[section]\nin = \"a:1\"\n");
    assert!(problems[0].starts_with("F:1: the file has no sections"), "{problems:?}");
    assert!(problems[0].ends_with("without [section]"), "{problems:?}");
}

#[test]
fn what_is_no_toml_is_told_by_line() {
    let problems = File::problems("in = \":1\"\nout = 127.0.0.1:80\n");
    assert!(problems.iter().all(|text| text.starts_with("F:2: this is not TOML")), "{problems:?}");
    let problems = File::problems("in = \":1\"\nin = \":2\"\n");
    assert!(problems[0].starts_with("F:2: ") && problems[0].contains("duplicate"), "{problems:?}");
}

#[test]
fn variables_are_judged_as_flags_are() {
    let error = |name, value| parse_with([], &[(name, value)]).unwrap_err();
    assert!(error("HTTPTP_IN_TYPE", "ftp").starts_with("HTTPTP_IN_TYPE: invalid value 'ftp'"));
    assert!(error("HTTPTP_IN_GET_ONLY", "perhaps").contains("true or false"));
    assert!(error("HTTPTP_OUT", "nowhere").starts_with("HTTPTP_OUT: the address to send to"));
    let notes = |name| parse_with([], &[(name, "x")]).unwrap().layers.notes;
    assert_eq!(
        notes("HTTPTP_IN_TIPE"),
        ["HTTPTP_IN_TIPE: there is no option for this variable; did you mean HTTPTP_IN_TYPE?"]
    );
    // What Kubernetes sets when there is a service of that name.
    for name in ["HTTPTP_PORT", "HTTPTP_SERVICE_HOST", "HTTPTP_FAR_PORT_8043_TCP_ADDR", "HTTPTP_SERVICE_PORT_LINKS"] {
        assert_eq!(notes(name), [""; 0], "{name}");
    }
}

#[test]
fn problems_of_several_places_are_told_at_once() {
    let file = File::new("in-type = \"ftp\"\n");
    let args = ["--config", file.name(), "--out-type=gopher", "--no-such=1"];
    let problems = parse_with(args, &[("HTTPTP_CONCURRENCY", "many")]).unwrap_err();
    assert_eq!(problems.lines().count(), 4, "{problems}");
    let both =
        parse_with(["--forwarded=x-forwarded-for"], &[("HTTPTP_CLIENT_IP_HEADER", "X-Forwarded-For")]).unwrap_err();
    assert!(both.starts_with("HTTPTP_CLIENT_IP_HEADER: --client-ip-header replaces"), "{both}");
}

#[test]
fn help_comes_before_complaints() {
    let stop = parse(["httptp", "--help", "--config=/no/such"].map(OsString::from), &[]);
    assert!(matches!(stop, Err(Stop::Clap(_))));
    let stop = parse(["httptp", "check", "-h"].map(OsString::from), &[("HTTPTP_IN_TYPE".into(), "ftp".into())]);
    assert!(matches!(stop, Err(Stop::Clap(_))));
}

#[test]
fn every_option_has_a_key_and_a_variable() {
    let options = Options::new();
    assert!(options.iter().count() > 50);
    for known in options.iter().filter(|known| known.name != layers::CONFIG) {
        let Some(default) = &known.default else { continue };
        if known.name.starts_with("out-health-") {
            // They need another.
            continue;
        }
        let variable = layers::variable_of(&known.name);
        let parsed = parse_with([], &[(&variable, default)]).unwrap();
        assert_eq!(parsed.layers.settings[&known.name].value, *default);
    }
}

#[test]
fn the_example_has_every_option_and_each_is_valid() {
    let text = include_str!("../../../examples/httptp.toml");
    let config = parse_args(["--config", File::new(text).name()]).unwrap();
    assert_eq!(config.outbound.addr, "far-1.example:8043,far-2.example:8043");
    // What is commented out is valid, too, though not all at once: with others that it needs, or in their place.
    let is_option = |line: &str| line.split_once(" = ").is_some_and(|(name, _)| !name.contains(' '));
    let uncommented: Vec<&str> =
        text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).filter(|line| is_option(line)).collect();
    let options = Options::new();
    let file::Filed { settings, problems, .. } = file::read(&File::new(&uncommented.join("\n")).0, &options);
    assert_eq!(problems, []);
    for setting in &settings {
        assert_eq!(setting.problems(&options), []);
    }
    let names: std::collections::BTreeSet<&str> = settings.iter().map(|setting| &*setting.name).collect();
    let missing: Vec<&str> = options.iter().map(|known| &*known.name).filter(|name| !names.contains(name)).collect();
    assert_eq!(missing, [layers::CONFIG], "write new options into examples/httptp.toml");
}

#[test]
fn the_file_in_the_readme_is_valid() {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("```toml\n# near.toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let config = parse_args(["--config", File::new(text).name()]).unwrap();
    assert_eq!((config.concurrency, config.seeing.access_log), (10_000, true));
    assert_eq!(config.outbound.batch_delay, Duration::from_millis(2));
}
