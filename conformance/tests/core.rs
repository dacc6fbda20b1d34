//! The suite against this project's own core: every required case passes, the suite itself is whole, and every wilful
//! fault is caught.

use std::path::PathBuf;

use teleport_conformance::check::check;
use teleport_conformance::mutants;
use teleport_conformance::report::Report;
use teleport_conformance::scenario::{NO_ZSTD, Scenario, read_all};
use teleport_conformance::spec::Spec;
use teleport_conformance::suite::{Options, run_all};

fn suite() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn spec() -> Spec {
    Spec::read(&suite().join("../spec")).unwrap()
}

fn scenarios() -> Vec<Scenario> {
    let (scenarios, errors) = read_all(&suite().join("cases")).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    scenarios
}

/// The shim beside the test; `CARGO_BIN_EXE_` is its path.
fn options(arguments: &str) -> Options {
    Options::of_shim(format!("'{}'{arguments}", env!("CARGO_BIN_EXE_teleport-shim-core")))
}

#[test]
fn the_core_passes_every_case() {
    let (scenarios, spec, options) = (scenarios(), spec(), options(""));
    let all: Vec<&Scenario> = scenarios.iter().collect();
    let (description, outcomes) = run_all(&all, &options).unwrap();
    let report = Report {
        description: &description,
        outcomes: &outcomes,
        spec: &spec,
        target: &options.target,
        arguments: "",
        is_partial: false,
    };
    // What is for those who do not know zstd is not for this core.
    let is_meant = |scenario: &Scenario| !scenario.needs.iter().any(|need| need == NO_ZSTD);
    let failed =
        outcomes.iter().filter(|outcome| outcome.verdict.name() != "pass" && is_meant(outcome.scenario)).count();
    assert_eq!((failed, report.exit_code()), (0, 0), "\n{}", report.text(false));
    assert_eq!(outcomes.len(), scenarios.len());
    // The two forms for programs name every case.
    let json = report.json();
    assert_eq!(json["cases"].as_array().unwrap().len(), scenarios.len());
    assert_eq!(report.junit().matches("<testcase ").count(), scenarios.len());
}

#[test]
fn the_suite_is_whole() {
    let checked = check(&suite(), &spec()).unwrap();
    assert!(checked.errors.is_empty(), "\n{}", checked.errors.join("\n"));
}

#[test]
fn every_mutant_is_caught() {
    let wrong = mutants::check(&suite(), &scenarios(), &options("")).unwrap();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(mutants::list(&format!("'{}'", env!("CARGO_BIN_EXE_teleport-shim-core"))).unwrap().len() >= 30);
}

#[test]
fn a_shim_that_hangs_or_ends_fails_its_case_and_not_the_run() {
    let scenarios = scenarios();
    let two: Vec<&Scenario> = scenarios.iter().filter(|scenario| scenario.level.name() == "must").take(2).collect();
    let describe = r#"read line; echo '{"name": "x", "version": "1", "profile": "core", "can": ["client", "server", "none", "deflate", "snappy"]}'"#;
    for (end, said) in
        [("sleep 60", "did not answer within"), ("true", "the shim has ended"), ("read l; echo oops", "cannot be read")]
    {
        let command = format!("{describe}; {end}");
        let timeout = std::time::Duration::from_millis(1_000);
        let options = Options { jobs: Some(1), timeout, ..Options::of_shim(command) };
        let (_, outcomes) = run_all(&two, &options).unwrap();
        for outcome in outcomes {
            let failure = outcome.verdict.failure().unwrap();
            // The second process answers the first command of its case with its description, which is none.
            assert_eq!(failure.mismatch.layer, "shim", "{end}");
            assert!(
                outcome.scenario.id != two[0].id || failure.mismatch.actual.contains(said),
                "{}",
                failure.mismatch.actual
            );
        }
    }
}

#[test]
fn the_exit_codes_tell_the_verdict() {
    let run = |arguments: &[&str]| {
        let shim = format!("'{}'", env!("CARGO_BIN_EXE_teleport-shim-core"));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_teleport-conformance"));
        let output = command.args(["run", "--shim"]).arg(shim + arguments[0]).args(&arguments[1..]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let case = "messages-server-versions-refused";
    assert_eq!(run(&["", "--id", case]).0, 0);
    let (code, text) = run(&[" --mutant http-1-2-accepted", "--id", case]);
    assert_eq!(code, 1);
    for part in [
        "fail",
        "layer     message",
        "about     R-read-version (MUST, receiver; spec/05-messages.md): Minor version",
        "expected",
        "actual",
        "again     ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The line that runs it again has all that this run had.
    let (_, text) = run(&[" --mutant http-1-2-accepted", "--id", case, "--timeout", "9000", "--slow"]);
    assert!(text.contains(&format!("--id {case} --timeout 9000 --slow\n")), "{text}");
    // A failure without bytes shows the last that was fed.
    let (_, text) = run(&[" --mutant version-unchecked", "--id", "hello-client-version-255"]);
    assert!(text.contains("bytes until 0; the last are\n    fed       000000  68 74 74 70"), "{text}");
    let (_, json) = run(&[" --mutant id-big-endian", "--id", "ids-server-two-answers-other-order", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let failure = &json["cases"][0]["failure"];
    assert_eq!(failure["broken"]["id"], "R-frame-id-le", "{failure:#}");
    assert_eq!(failure["broken"]["file"], "spec/04-frames.md");
    assert!(failure["about"][0]["text"].as_str().is_some_and(|text| !text.is_empty()), "{failure:#}");
    assert!(failure["bytes"]["actual"].as_str().is_some_and(|hex| hex.starts_with("000000")), "{failure:#}");
    // What is written wrongly is named.
    for (option, value) in [("--level", "foo"), ("--area", "hallo"), ("--rule", "R-nothing"), ("--role", "proxy")] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_teleport-conformance"));
        let output = command.args(["list", option, value, "--id", case]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(&format!("{option} {value:?}")), "{said}");
    }
    // A shim that cannot be talked to is an error for those who read JUnit.
    let (_, xml) = run(&[" | head -n 1", "--timeout", "1000", "--id", case, "--format", "junit"]);
    assert!(
        xml.contains("<error ") && xml.contains(r#"failures="0" errors="1""#) && xml.contains(r#" time=""#),
        "{xml}"
    );
    // What is known to fail fails no more, and is still no pass; what is listed and passes is named.
    let known = std::env::temp_dir().join(format!("teleport-known-{}", std::process::id()));
    std::fs::write(&known, "# of a test\nmessages-server-v*: it reads them\n").unwrap();
    let list = known.to_str().unwrap();
    let (code, text) = run(&[" --mutant http-1-2-accepted", "--id", case, "--known", list]);
    assert_eq!(code, 3);
    assert!(text.contains("known          messages-server-versions-refused: it reads them"), "{text}");
    assert_eq!(run(&["", "--id", case, "--known", list]).0, 0);
    assert_eq!(run(&["", "--id", case, "--known", "/no/such/file"]).0, 2);
    std::fs::remove_file(known).unwrap();
    assert_eq!(run(&["", "--id", "nothing-like-this"]).0, 2);
    assert_eq!(run(&["", "--id", case, "--skip", "messages-*"]).0, 3);
    assert_eq!(run(&[" --no-such-argument", "--id", case]).0, 2);
}

#[test]
fn the_cases_of_the_original_are_as_they_were_generated() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_import-original")).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
