//! `httptp check`, and the program configured by variables and a file.

// The program is run.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of its own, removed when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("httptp-check-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Outcome {
    code: i32,
    out: String,
    complaints: Vec<String>,
}

fn httptp(args: &[&str], variables: &[(&str, &str)], dir: &Path) -> Outcome {
    let program = env!("CARGO_BIN_EXE_httptp");
    let output = Command::new(program).args(args).envs(variables.iter().copied()).current_dir(dir).output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        complaints: String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect(),
    }
}

/// A certificate that signs itself, with its key.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["far.example".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn what_is_in_effect_is_printed_as_a_file_that_says_the_same() {
    let dir = Dir::new("good");
    let (cert, key) = certificate();
    dir.write("far.pem", &cert);
    dir.write("far.key", &key);
    dir.write(
        "far.toml",
        "in-type = \"teleports\"\nin = \":8443\"\nin-tls-cert = [\"far.pem\"]\nin-tls-key = \"far.key\"\n\
         in-tls-client-ca = \"far.pem\"\nin-tls-session-ticket-key = \"hush\"\nout-type = \"http\"\n",
    );
    let args = ["check", "--config", "far.toml", "-out=a.example,b.example:81"];
    let first = httptp(&args, &[("HTTPTP_IN_DELAY", "2ms")], &dir.0);
    assert_eq!(first.code, 0, "{:?}", first.complaints);
    let line = |name: &str| {
        let found = first.out.lines().find(|line| line.trim_start_matches("# ").starts_with(&format!("{name} = ")));
        found.unwrap_or_else(|| panic!("no {name} in {}", first.out)).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("in-type"), "in-type = \"teleports\" # far.toml:1");
    assert_eq!(line("in-delay"), "in-delay = \"2ms\" # HTTPTP_IN_DELAY");
    assert_eq!(line("out"), "out = [\"a.example\", \"b.example:81\"] # command line");
    assert_eq!(line("concurrency"), "# concurrency = 100000 # default");
    assert!(!first.out.contains("hush"));
    dir.write("again.toml", &first.out);
    let again = httptp(&["check", "--config", "again.toml"], &[], &dir.0);
    assert_eq!(again.code, 0, "{:?}", again.complaints);
    let values = |text: &str| {
        let lines =
            text.lines().filter(|line| line.contains(" = ")).map(|line| line.split(" #").next().unwrap().trim());
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values(&first.out), values(&again.out));
}

#[test]
fn all_that_is_wrong_with_files_is_told_with_where_they_are_named() {
    let dir = Dir::new("files");
    let (cert, _) = certificate();
    let (_, other_key) = certificate();
    dir.write("a.pem", &cert);
    dir.write("other.key", &other_key);
    dir.write("empty.pem", "");
    dir.write(
        "bad.toml",
        "in-type = \"teleports\"\nin-tls-cert = [\"a.pem\", \"missing.pem\"]\nin-tls-key = [\"other.key\", \"other.key\"]\n\
         in-tls-client-ca = \"empty.pem\"\nout-type = \"teleports\"\nout = \"nowhere\"\n",
    );
    let outcome = httptp(&["check", "--config=bad.toml"], &[("HTTPTP_OUT_TLS_CA", "nothing.pem")], &dir.0);
    assert_eq!((outcome.code, &*outcome.out), (2, ""));
    let told = |parts: &[&str]| {
        let is_told = |line: &String| parts.iter().all(|part| line.contains(part));
        assert!(outcome.complaints.iter().any(is_told), "{parts:?} not in {:#?}", outcome.complaints);
    };
    told(&["httptp: bad.toml:3: ", "other.key is not the key of", "a.pem"]);
    told(&["httptp: bad.toml:2: ", "missing.pem"]);
    told(&["httptp: bad.toml:4: ", "no certificate"]);
    told(&["httptp: bad.toml:6: ", "nowhere", "HOST:PORT"]);
    told(&["httptp: HTTPTP_OUT_TLS_CA: ", "nothing.pem"]);
    assert_eq!(outcome.complaints.len(), 5, "{:#?}", outcome.complaints);
}

/// What `check` complains of, by the words that each complaint has to have; and of nothing else.
fn complains(dir: &Dir, args: &[&str], wanted: &[&[&str]]) {
    let outcome = httptp(&[&["check"], args].concat(), &[], &dir.0);
    let found = outcome.complaints;
    for parts in wanted {
        let of_these = found.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count();
        assert_eq!(of_these, 1, "{parts:?} in {found:#?}");
    }
    assert_eq!((outcome.code, found.len()), (2, wanted.len()), "{found:#?}");
}

#[test]
fn nothing_that_is_wrong_hides_another_thing() {
    let dir = Dir::new("all");
    let tls = ["--in-type=https", "--in-tls-cert=missing.pem", "--in-tls-key=missing.key"];
    let missing: [&[&str]; 2] = [&["missing.pem", "--in-tls-cert"], &["missing.key", "--in-tls-key"]];
    complains(&dir, &tls, &missing);
    complains(&dir, &[&tls[..], &["--out-level=99"]].concat(), &[missing[0], missing[1], &["99"]]);
    let more = ["--no-such", "--out-health-rise=2", "stray", "--out=nowhere"];
    let wanted: [&[&str]; 4] = [&["--no-such"], &["--out-health-check"], &["stray"], &["nowhere", "HOST:PORT"]];
    complains(&dir, &[&tls[..], &more].concat(), &[&missing[..], &wanted].concat());
    let (cert, key) = certificate();
    dir.write("a.pem", &cert);
    dir.write("a.key", &key);
    let out =
        ["--out-type=https", "--out=h:1", "--out-tls-ca=none.pem", "--out-tls-cert=a.pem", "--out-tls-server-name=-"];
    let wanted: [&[&str]; 3] =
        [&["none.pem", "--out-tls-ca"], &["--out-tls-key is missing"], &["--out-tls-server-name"]];
    complains(&dir, &[&tls[..], &out].concat(), &[&missing[..], &wanted].concat());
    let unequal = ["--in-type=https", "--in-tls-cert=a.pem,missing.pem", "--in-tls-key=a.key"];
    complains(&dir, &unequal, &[&["lists 2 files", "1 file"], missing[0]]);
    complains(&dir, &["--in-allow-ip=10.0.0.0/33,10.0.0.0/8,300.1.1.1"], &[&["10.0.0.0/33"], &["300.1.1.1"]]);
    for (inward, figures) in
        [(":8080", ":8080"), ("127.0.0.1:8080", "0.0.0.0:8080"), ("127.0.0.1:8080", "localhost:8080")]
    {
        complains(&dir, &["--in", inward, "--expvar-addr", figures], &[&["--in and --expvar-addr"]]);
    }
    for fine in [["--in=127.0.0.1:8080", "--expvar-addr=127.0.0.2:8080"], ["--in=:0", "--expvar-addr=:0"]] {
        assert_eq!(httptp(&[&["check"], &fine[..]].concat(), &[], &dir.0).code, 0, "{fine:?}");
    }
}

#[test]
fn what_follows_from_another_mistake_is_not_told() {
    let dir = Dir::new("follows");
    // What is meant is not known, so neither is whether the rest goes with it.
    let args = ["--in-type=htpps", "--in-tls-client-ca=none.pem", "--in-allow-ip=10.0.0.0/8", "--in=a"];
    complains(&dir, &args, &[&["htpps"]]);
    complains(&dir, &["--out-typ=unix", "--out=/run/x"], &[&["--out-typ"]]);
    complains(&dir, &["--out-health-check=up", "--out-health-rise=2"], &[&["up"]]);
    dir.write("no.toml", "in = :80\n");
    complains(&dir, &["--config=no.toml", "--out=nowhere"], &[&["no.toml:1", "not TOML"]]);
    dir.write(
        "bad.toml",
        "in = \"127.0.0.1:8080\"\nin-typ = \"http\"\nout = 5\nout-delay = 2\nout-level = true\nin-tls-cert = [\"missing.pem\"]\n\
         in-allow-ip = [\"10.0.0.0/33\", \"300.1.1.1\"]\n[section]\nfoo = 1\n",
    );
    let wanted: [&[&str]; 7] = [
        &["bad.toml:2: ", "in-type"],
        &["bad.toml:3: ", "HOST:PORT"],
        &["bad.toml:4: ", "like 10ms"],
        &["bad.toml:5: ", "out-level takes"],
        &["bad.toml:7: ", "10.0.0.0/33"],
        &["bad.toml:7: ", "300.1.1.1"],
        &["bad.toml:8: ", "no sections"],
    ];
    complains(&dir, &["--config=bad.toml"], &wanted);
}

#[test]
fn a_certificate_that_has_expired_is_noted() {
    let dir = Dir::new("expired");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["far.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    dir.write("far.pem", &params.self_signed(&key).unwrap().pem());
    dir.write("far.key", &key.serialize_pem());
    let args = ["check", "--in-type=teleports", "--in-tls-key=far.key", "--out=h:1"];
    let outcome = httptp(&args, &[("HTTPTP_IN_TLS_CERT", "far.pem")], &dir.0);
    let note = "httptp: note: HTTPTP_IN_TLS_CERT: --in-tls-cert far.pem: the certificate has expired";
    assert_eq!((outcome.code, &*outcome.complaints[0]), (0, note), "the proxy would start");
}

#[test]
fn a_check_makes_nothing_and_looks_names_up_on_wish() {
    let dir = Dir::new("nothing");
    let args = ["check", "--in-type=https", "--in=:443", "--autocert-ca=ca.pem", "--out=no-such-name.invalid:8043"];
    let (cert, _) = certificate();
    dir.write("ca.pem", &cert);
    let outcome = httptp(&args, &[], &dir.0);
    assert_eq!(outcome.code, 0, "{:?}", outcome.complaints);
    assert!(!dir.0.join("autocert-cache").exists());
    let outcome = httptp(&[&args[..], &["--resolve", "--autocert-host-regexp=("]].concat(), &[], &dir.0);
    assert_eq!((outcome.code, outcome.complaints.len()), (2, 2), "{:?}", outcome.complaints);
    assert!(outcome.complaints.iter().any(|line| line.contains("no-such-name.invalid:8043 (--out)")));
    assert!(outcome.complaints.iter().any(|line| line.contains("--autocert-host-regexp \"(\"")));
}

#[test]
fn the_proxy_itself_complains_the_same_way() {
    let dir = Dir::new("itself");
    dir.write("bad.toml", "in-type = \"http\"\nout-typ = \"http\"\nout-timeout = 3\n");
    let outcome = httptp(&["--config", "bad.toml"], &[], &dir.0);
    assert_eq!((outcome.code, outcome.complaints.len()), (2, 2), "{:?}", outcome.complaints);
    assert!(
        outcome.complaints[0].starts_with("httptp: bad.toml:2: there is no option \"out-typ\"; did you mean out-type?")
    );
    assert!(outcome.complaints[1].starts_with("httptp: bad.toml:3: "));
}
