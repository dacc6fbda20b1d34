//! The command line of the conformance suite.

use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use teleport_conformance::check::check;
use teleport_conformance::known::Known;
use teleport_conformance::mutants;
use teleport_conformance::record;
use teleport_conformance::report::Report;
use teleport_conformance::run::TIMEOUT;
use teleport_conformance::scenario::{Role, Scenario, read_all};
use teleport_conformance::shim::Transcript;
use teleport_conformance::spec::Spec;
use teleport_conformance::suite::{Options, Target, matches, run_all};
use teleport_conformance::tcp::{self, RealTime, SLOW, ServerTls};

/// The conformance suite of the teleport protocol, version 0.
///
/// A case is a scenario file below conformance/cases; conformance/FORMAT.md tells what is in it, conformance/SHIM.md
/// how an implementation is made to answer.
#[derive(Parser)]
#[command(version, after_long_help = VERDICTS)]
struct Cli {
    /// The folder `conformance`, beside which `spec` lies.
    #[arg(long, global = true)]
    suite: Option<PathBuf>,
    #[command(subcommand)]
    command: Cmd,
}

const VERDICTS: &str = "\
Verdicts:
  pass           every replay of the case came true
  fail           a case of level must did not: the implementation is not conformant
  known          it did not, and --known lists it with the reason
  non-strict     a case of level should did not
  informational  a case of level may did not
  unimplemented  the shim does not claim a capability that the case needs
  skipped        left out by --skip, or only to be seen in profile core

Exit codes:
  0  conformant: every required case (level must) passes
  1  required cases fail (run), a mutant survives (mutants)
  2  usage or suite error: an unreadable case, a shim that does not start, a server that is not there, a check that
     fails, a link that cannot be recorded
  3  incomplete: no required case fails, but some are known to or were not run: skipped, or unimplemented for want
     of a capability that the specification asks for (not zstd, zstd-auto, tls-required or goodbye: it leaves these
     free). This is the best that `run --server`, `run --client` and shims of profile tcp can have

A run with filters says nothing about the cases that it leaves out.";

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of them in a run")]
enum Cmd {
    /// Lists the cases.
    List(Filter),
    /// Tells what a case or a rule is about.
    Explain {
        /// The id of a case, or of a rule (R-...).
        id: String,
    },
    /// Runs cases against an implementation.
    Run {
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        tls: TlsArgs,
        #[command(flatten)]
        filter: Filter,
        /// Cases that are not run, by patterns of their ids; they are reported as skipped.
        #[arg(long, value_name = "ID")]
        skip: Vec<String>,
        /// Failures that are known, a line each: `PATTERN: reason`. They are reported as known; what is listed and passes
        /// behind a shim is named, unless a `?` before the pattern says that it fails only at times.
        #[arg(long, value_name = "FILE")]
        known: Option<PathBuf>,
        /// How the report is written.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// Names the cases that pass, too, and those that are unimplemented.
        #[arg(long, short)]
        verbose: bool,
        /// Writes every line exchanged with the shim to this file (SHIM.md); one shim runs at a time.
        #[arg(long, value_name = "FILE")]
        transcript: Option<PathBuf>,
        #[command(flatten)]
        how: How,
    },
    /// Runs every wilful fault of a shim against the cases of mutants.txt: all must be caught.
    Mutants {
        /// The shell command that starts the shim; `--mutant NAME` and `--list-mutants` are added to it.
        #[arg(long)]
        shim: String,
        /// Looks for the cases that catch each fault, and writes mutants.txt.
        #[arg(long)]
        find: bool,
        #[command(flatten)]
        how: How,
    },
    /// Records a live link as a case for profile core: a proxy between a client and a server, for one connection.
    Record(Record),
    /// Checks the suite: cases can be read, ids and rules exist, every owed rule has a case.
    Check,
}

/// What is tested: one of the three.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// The shell command that starts the shim, of either profile.
    #[arg(long)]
    shim: Option<String>,
    /// The address of a server with default limits, and without TLS unless --tls-ca is given, that answers every request
    /// at once with any final response. Only cases of role server are chosen.
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// The shell command that starts a client with default limits, that connects to the address for which `{addr}` stands
    /// in the command, and soon sends a request that is no HEAD. If `{ca}` stands there, it asks for TLS, and trusts the
    /// certificate in this file for the name localhost; `{requests}` is the number of requests that it is to send at
    /// once. It is started for each replay of each case. Only cases of role
    /// client are chosen.
    #[arg(long, value_name = "COMMAND")]
    client: Option<String>,
}

impl TargetArgs {
    fn target(&self) -> Result<Target, String> {
        if let Some(shim) = &self.shim {
            return Ok(Target::Shim(shim.clone()));
        }
        if let Some(client) = &self.client {
            return Ok(Target::Client(client.clone()));
        }
        let server = self.server.as_deref().unwrap_or_default();
        let addr = server.to_socket_addrs().map_err(|error| format!("{server}: {error}"))?.next();
        addr.map(Target::Server).ok_or_else(|| format!("{server}: no address"))
    }
}

#[derive(Args)]
struct TlsArgs {
    /// With --server: it has TLS for those who ask, with a certificate that one of this file (PEM) has signed.
    #[arg(long, value_name = "FILE", requires = "server")]
    tls_ca: Option<PathBuf>,
    /// The name that its certificate is for.
    #[arg(long, value_name = "NAME", default_value = tcp::NAME, requires = "tls_ca")]
    tls_name: String,
}

impl TlsArgs {
    fn server_tls(&self) -> Option<ServerTls> {
        self.tls_ca.clone().map(|ca| ServerTls { ca, name: self.tls_name.clone() })
    }
}

#[derive(Args)]
struct How {
    /// How many cases run at a time (2 in profile core, 8 over sockets, which mostly waits).
    #[arg(long)]
    jobs: Option<usize>,
    /// How long a shim may take for one answer, and a connection to come about, in milliseconds.
    #[arg(long, default_value_t = TIMEOUT.as_millis() as u64)]
    timeout: u64,
    /// Over sockets: how much later than its time something may come, in milliseconds.
    #[arg(long, default_value_t = RealTime::default().slack.as_millis() as u64)]
    slack: u64,
    /// Over sockets: also runs cases that take up to 11 s, instead of 1.5 s.
    #[arg(long)]
    slow: bool,
}

impl How {
    /// What of it is not as if nothing had been said, for a command line.
    fn arguments(&self) -> String {
        let mut arguments = String::new();
        let times = [("--timeout", self.timeout, TIMEOUT), ("--slack", self.slack, RealTime::default().slack)];
        for (name, millis, usual) in times {
            if u128::from(millis) != usual.as_millis() {
                arguments.push_str(&format!(" {name} {millis}"));
            }
        }
        if self.slow {
            arguments.push_str(" --slow");
        }
        arguments
    }

    fn options(&self, target: Target, skip: &[String]) -> Options {
        let mut time = RealTime { slack: Duration::from_millis(self.slack), ..RealTime::default() };
        if self.slow {
            time.longest = SLOW;
        }
        let timeout = Duration::from_millis(self.timeout);
        Options { target, jobs: self.jobs, timeout, skip: skip.to_vec(), time, transcript: None, server_tls: None }
    }
}

#[derive(Args)]
struct Record {
    /// Where the client connects to.
    #[arg(long, value_name = "HOST:PORT")]
    listen: String,
    /// Where the server listens.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// The file, AREA/ID.scn.
    #[arg(long, value_name = "FILE.scn")]
    out: PathBuf,
    /// What the case is about, in one sentence.
    #[arg(long, default_value = "A live link, as it was recorded")]
    title: String,
    /// Which end is to be tested: client or server.
    #[arg(long, default_value = "server")]
    role: String,
    /// Ends the link after so many seconds; otherwise its ends do.
    #[arg(long)]
    seconds: Option<u64>,
    /// So many bytes of the wire are recorded, both ways together; what comes later only passes through.
    #[arg(long, default_value_t = record::MOST)]
    most: usize,
}

/// Which cases are meant; `*` stands for any characters. Several values of one option widen the choice, several
/// options narrow it.
#[derive(Args)]
struct Filter {
    /// By id.
    #[arg(long)]
    id: Vec<String>,
    /// By area.
    #[arg(long)]
    area: Vec<String>,
    /// By level: must, should or may.
    #[arg(long)]
    level: Vec<String>,
    /// By rule.
    #[arg(long)]
    rule: Vec<String>,
    /// By role: client or server.
    #[arg(long)]
    role: Vec<String>,
}

impl Filter {
    fn takes(&self, scenario: &Scenario) -> bool {
        let any = |patterns: &[String], text: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, text))
        };
        any(&self.id, &scenario.id)
            && any(&self.area, &scenario.area)
            && any(&self.level, scenario.level.name())
            && any(&self.role, scenario.role.name())
            && (self.rule.is_empty() || scenario.rules.iter().any(|rule| any(&self.rule, rule)))
    }

    /// Every value fits some case, so that what is written wrongly does not choose less than was meant.
    fn check(&self, scenarios: &[Scenario]) -> Result<(), String> {
        let none = || Self { id: vec![], area: vec![], level: vec![], rule: vec![], role: vec![] };
        let mut areas: Vec<&str> = scenarios.iter().map(|scenario| scenario.area.as_str()).collect();
        areas.dedup();
        let areas = format!("areas are {}", areas.join(", "));
        let values = |name: &'static str, values: &[String], hint: &str| -> Vec<_> {
            values.iter().map(|value| (name, value.clone(), hint.to_owned())).collect()
        };
        let all = [
            values("id", &self.id, "`list` names the ids"),
            values("area", &self.area, &areas),
            values("level", &self.level, "levels are must, should, may"),
            values("rule", &self.rule, "the rules are those of spec/08-conformance.md"),
            values("role", &self.role, "roles are client, server"),
        ];
        for (name, value, hint) in all.into_iter().flatten() {
            let mut alone = none();
            let values = match name {
                "id" => &mut alone.id,
                "area" => &mut alone.area,
                "level" => &mut alone.level,
                "rule" => &mut alone.rule,
                _ => &mut alone.role,
            };
            values.push(value.clone());
            if !scenarios.iter().any(|scenario| alone.takes(scenario)) {
                return Err(format!("no case fits --{name} {value:?}; {hint}"));
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        [&self.id, &self.area, &self.level, &self.rule, &self.role].iter().all(|values| values.is_empty())
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Junit,
}

fn main() -> ExitCode {
    match command(&Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("teleport-conformance: {message}");
            ExitCode::from(2)
        }
    }
}

fn command(cli: &Cli) -> Result<u8, String> {
    let suite = &find_suite(cli.suite.as_deref())?;
    let spec = read_spec(suite)?;
    match &cli.command {
        Cmd::List(filter) => {
            let scenarios = read_cases(suite)?;
            filter.check(&scenarios)?;
            let chosen: Vec<_> = scenarios.iter().filter(|scenario| filter.takes(scenario)).collect();
            if chosen.is_empty() {
                return Err(NONE_CHOSEN.into());
            }
            for scenario in chosen {
                let (area, role, level) = (&scenario.area, scenario.role.name(), scenario.level.name());
                print(&format!("{area:11} {role:6} {level:6} {}: {}\n", scenario.id, scenario.title));
            }
            Ok(0)
        }
        Cmd::Explain { id } => explain(suite, &spec, id),
        Cmd::Run { target, tls, filter, skip, known, format, verbose, transcript, how } => {
            let scenarios = read_cases(suite)?;
            filter.check(&scenarios)?;
            let target = target.target()?;
            let role = match target {
                Target::Shim(_) => None,
                Target::Server(_) => Some(Role::Server),
                Target::Client(_) => Some(Role::Client),
            };
            let can_be_meant = |scenario: &&Scenario| role.is_none_or(|role| scenario.role == role);
            let chosen = scenarios.iter().filter(can_be_meant).filter(|scenario| filter.takes(scenario));
            let chosen: Vec<&Scenario> = chosen.collect();
            if chosen.is_empty() {
                return Err(NONE_CHOSEN.into());
            }
            let transcript = transcript.as_deref().map(Transcript::create).transpose()?;
            let tls = tls.server_tls();
            let mut arguments = how.arguments();
            if let Some(tls) = &tls {
                arguments.push_str(&format!(" --tls-ca {} --tls-name {}", quoted(&tls.ca), tls.name));
            }
            let options = Options { transcript, server_tls: tls, ..how.options(target, skip) };
            for (name, path) in [("--suite", &cli.suite), ("--known", known)] {
                if let Some(path) = path {
                    arguments.push_str(&format!(" {name} {}", quoted(path)));
                }
            }
            let known = known.as_deref().map(Known::read).transpose()?.unwrap_or_default();
            let (description, mut outcomes) = run_all(&chosen, &options)?;
            let mended = known.apply(&mut outcomes);
            // Without a shim less is seen: what passes there may still fail behind one.
            if !mended.is_empty() && description.profile != "black box" {
                eprintln!("teleport-conformance: listed as known, and nothing of it fails: {}", mended.join(", "));
            }
            let report = Report {
                description: &description,
                outcomes: &outcomes,
                spec: &spec,
                target: &options.target,
                arguments: &arguments,
                is_partial: !filter.is_empty(),
            };
            match format {
                Format::Text => print(&report.text(*verbose)),
                Format::Json => print(&format!("{:#}\n", report.json())),
                Format::Junit => print(&report.junit()),
            }
            Ok(report.exit_code())
        }
        Cmd::Mutants { shim, find, how } => mutants(suite, shim, *find, how),
        Cmd::Record(arguments) => record(arguments),
        Cmd::Check => {
            let checked = check(suite, &spec).map_err(|error| error.to_string())?;
            for error in &checked.errors {
                print(&format!("{error}\n"));
            }
            let (cases, errors) = (checked.scenarios.len(), checked.errors.len());
            let (covered, untestable) = (checked.covered, checked.untestable);
            print(&format!(
                "{cases} cases; of the MUST rules {covered} have cases, {untestable} a reason why \
                 not; {errors} errors\n"
            ));
            Ok(if errors == 0 { 0 } else { 2 })
        }
    }
}

fn mutants(suite: &Path, shim: &str, find: bool, how: &How) -> Result<u8, String> {
    let scenarios = read_cases(suite)?;
    let options = how.options(Target::Shim(shim.to_owned()), &[]);
    if find {
        let table = mutants::find(suite, &scenarios, &options)?;
        let path = suite.join("mutants.txt");
        std::fs::write(&path, mutants::write_table(&table)).map_err(|error| error.to_string())?;
        for (name, cases) in &table {
            print(&format!("{name}: {}\n", cases.join(" ")));
        }
    }
    let wrong = mutants::check(suite, &scenarios, &options)?;
    for line in &wrong {
        print(&format!("{line}\n"));
    }
    let count = mutants::list(shim)?.len();
    print(&format!("{count} mutants; {}\n", if wrong.is_empty() { "all are caught" } else { "not all are caught" }));
    Ok(if wrong.is_empty() { 0 } else { 1 })
}

fn record(arguments: &Record) -> Result<u8, String> {
    let Record { listen, to, out, title, role, seconds, most } = arguments;
    let role = match role.as_str() {
        "client" => Role::Client,
        "server" => Role::Server,
        other => return Err(format!("no role {other:?}")),
    };
    let head = record::Head::new(out, title, role)?;
    let listener = TcpListener::bind(listen).map_err(|error| format!("{listen}: {error}"))?;
    let addr = listener.local_addr().map_err(|error| error.to_string())?;
    print(&format!("listening on {addr}\n"));
    let link = record::relay(&listener, to, seconds.map(Duration::from_secs), *most)?;
    let text = record::write(&head, &link)?;
    std::fs::write(out, text).map_err(|error| format!("{}: {error}", out.display()))?;
    print(&format!("{} has {} bytes of the wire\n", out.display(), link.len()));
    Ok(0)
}

fn explain(suite: &Path, spec: &Spec, id: &str) -> Result<u8, String> {
    let scenarios = read_cases(suite)?;
    if let Some(rule) = spec.rules.get(id) {
        print(&format!("{id} ({}, {}), spec/{}\n\n{}\n\n", rule.level, rule.who, rule.file, rule.text));
        for scenario in scenarios.iter().filter(|scenario| scenario.rules.iter().any(|rule| rule == id)) {
            print(&format!("{:6} {}: {}\n", scenario.role.name(), scenario.id, scenario.title));
        }
        for reason in reasons(suite, id)? {
            print(&format!("not to be seen by cases: {reason}\n"));
        }
        return Ok(0);
    }
    let scenario = scenarios.iter().find(|scenario| scenario.id == id);
    if scenario.is_none() && spec.codes.iter().any(|code| code == id) {
        let errors = std::fs::read_to_string(suite.join("../spec/errors.md")).map_err(|error| error.to_string())?;
        let code = format!("`{id}`");
        for line in errors.lines().filter(|line| line.starts_with('#') || line.contains(&code)) {
            print(&format!("{line}\n"));
        }
        print("\n");
        for scenario in &scenarios {
            let text = std::fs::read_to_string(&scenario.path).map_err(|error| error.to_string())?;
            let is_outcome = |line: &str| {
                let words: Vec<&str> = line.trim().split(' ').collect();
                let outcomes = ["closed", "failed", "refused", "refused-locally"];
                words.iter().any(|word| outcomes.contains(word)) && words.contains(&id)
            };
            if text.lines().any(is_outcome) {
                print(&format!("{:6} {}: {}\n", scenario.role.name(), scenario.id, scenario.title));
            }
        }
        return Ok(0);
    }
    let scenario = scenario.ok_or_else(|| format!("no case, rule or error code is called {id:?}"))?;
    let text = std::fs::read_to_string(&scenario.path).map_err(|error| error.to_string())?;
    print(&format!("{}\n\n{text}\nneeds: {}\n", scenario.path.display(), scenario.needs.join(" ")));
    for rule in scenario.rules.iter().filter_map(|rule| spec.rules.get(rule)) {
        print(&format!("\n{} ({}, {}): {}\n", rule.id, rule.level, rule.who, rule.text));
    }
    Ok(0)
}

/// Why no case reaches a rule, or not all of it, as untestable.txt has it.
fn reasons(suite: &Path, id: &str) -> Result<Vec<String>, String> {
    let path = suite.join("untestable.txt");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    // A reason goes on in indented lines.
    let text = text.replace("\n  ", " ");
    let of_rule = |line: &str| {
        let (rule, reason) = line.split_once(": ")?;
        match rule.strip_prefix(id)? {
            "" => Some(reason.to_owned()),
            ", in part" => Some(format!("in part: {reason}")),
            _ => None,
        }
    };
    Ok(text.lines().filter_map(of_rule).collect())
}

/// A path as one word of a shell command.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Each option may fit some case, and no case all of them.
const NONE_CHOSEN: &str = "no case fits all of these options, and what is tested";

/// The folder of the suite: as told, or where it lies from here or from this program.
fn find_suite(told: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(told) = told {
        return Ok(told.to_owned());
    }
    let program = std::env::current_exe().unwrap_or_default();
    let from_program = program.ancestors().map(|folder| folder.join("conformance"));
    let candidates = [PathBuf::from("conformance"), PathBuf::from(".")].into_iter().chain(from_program);
    let found =
        candidates.into_iter().find(|folder| folder.join("cases").is_dir() && folder.join("FORMAT.md").is_file());
    found.ok_or_else(|| "the folder `conformance` is neither here nor above this program: name it with --suite".into())
}

fn read_spec(suite: &Path) -> Result<Spec, String> {
    let folder = suite.join("../spec");
    Spec::read(&folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// All cases; one that cannot be read is an error, because what it required would go unchecked.
fn read_cases(suite: &Path) -> Result<Vec<Scenario>, String> {
    let (scenarios, errors) = read_all(&suite.join("cases")).map_err(|error| error.to_string())?;
    for error in &errors {
        eprintln!("teleport-conformance: {error}");
    }
    if errors.is_empty() { Ok(scenarios) } else { Err(format!("{} cases cannot be read", errors.len())) }
}

/// Prints; a reader that has gone away is no reason to fail.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
