//! Scenario files: the example of FORMAT.md is one, and what is wrong with others is said with its line.

use std::path::{Path, PathBuf};

use teleport_conformance::core_profile::Core;
use teleport_conformance::run::{TIMEOUT, run};
use teleport_conformance::scenario::{Scenario, parse};
use teleport_conformance::shim::Shim;

fn suite() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shim() -> Core {
    let command = format!("'{}'", env!("CARGO_BIN_EXE_teleport-shim-core"));
    Core::new(Shim::start(&command, TIMEOUT).unwrap())
}

#[test]
fn the_example_of_the_format_passes() {
    let text = std::fs::read_to_string(suite().join("FORMAT.md")).unwrap();
    let example = text.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let scenario = parse(Path::new("cases/ids/ids-two-requests-two-answers.scn"), example).unwrap();
    assert_eq!((scenario.steps.len(), scenario.needs.join(" ").as_str()), (11, "frames none server"));
    run(&scenario, &mut shim()).unwrap();
}

const HEADER: &str = "id: a\ntitle: A\narea: ids\nrole: server\nlevel: must\nrules: R-id-copy\n";

fn steps(steps: &str) -> Result<Scenario, String> {
    parse(Path::new("cases/ids/a.scn"), &format!("{HEADER}\n{steps}")).map_err(|error| error.to_string())
}

#[test]
fn errors_name_file_line_and_what_is_wrong() {
    let table = [
        ("@0 feed frame 1", 8, "a message expected"),
        ("@0 feed frame x \"\"", 8, "an id expected, not \"x\""),
        ("feed eof", 8, "a step starts with `@` and its time"),
        ("@1s feed eof\n@0 quiet", 9, "time goes backwards"),
        ("@0 do request 1 \"GET\" \"/\"", 8, "only a client does that"),
        ("@0 event response 1 200", 8, "only a client tells that"),
        ("@0 quiet quiet", 8, "\"quiet\" was not expected here"),
        ("@0 closed clean\n@0 quiet", 8, "last steps"),
        ("@0 quiet\nrefused-locally closing", 9, "right after a `do`"),
        ("@0 unordered\n@0 quiet", 8, "no `end`"),
        ("@0 unordered\n@0 feed eof\n@0 end", 9, "only what is expected"),
        ("@0 unordered\n@0 quiet\n@1s quiet\n@0 end", 10, "one time"),
        ("@0 either\n@0 quiet\n@0 or\n@0 end", 11, "empty"),
        ("@0 end", 8, "without a block"),
        ("@0 send frame 1 \"HTTP/1.1 200 OK\"", 8, "a head that ends"),
        ("@0 feed wire recorded\"no-such\"", 8, "no-such.json"),
        ("@0 feed wire x\"0\"", 8, "odd number"),
        ("@0 feed eof-in \"a\"", 8, "two bytes or more"),
        ("@0 feed eof-in \"ab\"\n@0 feed eof-in \"ab\"", 9, "a `feed eof-in` before"),
        ("@0 either\n@0 quiet\n@0 feed eof-in \"ab\"\n@0 end", 10, "in no block"),
        ("@0 late quiet", 8, "only `feed` and `do` can be late"),
        ("@0 dance", 8, "there is no step \"dance\""),
        ("@3 quiet", 8, "no time"),
    ];
    for (text, line, what) in table {
        let error = steps(text).unwrap_err();
        let (place, message) = error.split_once(": ").unwrap();
        assert!(place.ends_with(&format!("a.scn:{line}")) && message.contains(what), "{text}: {error}");
    }
    let table = [
        ("id: a", "id: b", 1, "the file of \"b\" is b.scn"),
        ("area: ids", "area: frames", 3, "folder"),
        ("role: server", "role: proxy", 4, "role is one of client, server"),
        ("level: must", "level: must\nlevel: must", 6, "twice"),
        ("title: A", "titel: A", 2, "unknown key"),
        ("rules: R-id-copy", "config: compression=lz4", 6, "no compression"),
        ("rules: R-id-copy", "config: tls=yes", 6, "tls of this role"),
        ("rules: R-id-copy", "needs: wings", 6, "no capability"),
        ("rules: R-id-copy\n", "", 1, "no \"rules\""),
    ];
    for (from, to, line, what) in table {
        let text = format!("{}\n@0 quiet\n", HEADER.replace(from, to));
        let error = parse(Path::new("cases/ids/a.scn"), &text).unwrap_err();
        assert!(error.line == line && error.message.contains(what), "{to}: {error}");
    }
}

#[test]
fn blocks_match_in_any_order_and_one_branch_is_enough() {
    let requests = "@0 feed hello\n@0 send hello\n@0 feed frame 1 \"GET /a HTTP/1.1\\r\\n\\r\\n\"\n\
                    @0 feed frame 2 \"GET /b HTTP/1.1\\r\\n\\r\\n\"\n";
    let (a, b) = ("event request 1 \"GET\" \"/a\"", "event request 2 \"GET\" \"/b\"");
    let wrong = "event request 2 \"GET\" \"/c\"";
    let table = [
        (format!("@0 {a}\n@0 {b}\n"), true),
        (format!("@0 {b}\n@0 {a}\n"), false),
        (format!("unordered\n  @0 {b}\n  @0 {a}\nend\n"), true),
        (format!("unordered\n@0 {a}\n@0 {wrong}\nend\n"), false),
        (format!("either\n@0 {b}\nor\n@0 {a}\n@0 {b}\nend\n"), true),
        (format!("either\n@0 {a}\n@0 {wrong}\nor\n@0 quiet\nend\n"), false),
        // A branch is chosen by what it expects before it acts.
        (format!("either\n@0 quiet\nor\n@0 {a}\n@0 do discard 1\n@1s quiet\nend\n@1s {b}\n"), false),
        (format!("either\n@0 quiet\nor\n@0 {a}\n@0 do discard 1\n@0 {b}\n@1s quiet\nend\n@1s still open\n"), true),
        // What is not mentioned is a failure.
        (format!("@0 {a}\n"), false),
        (format!("@0 {a}\n@0 {b}\n@0 feed eof\n@0 quiet\n@5s quiet\n"), false),
    ];
    let mut shim = shim();
    for (text, passes) in table {
        let scenario = steps(&format!("{requests}{text}")).unwrap();
        assert_eq!(run(&scenario, &mut shim).is_ok(), passes, "{text}");
    }
}
