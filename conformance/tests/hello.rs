//! A port that has only a hello, as SHIM.md lets one begin, is judged by what it has.

use std::path::{Path, PathBuf};

use teleport_conformance::scenario::read_all;
use teleport_conformance::suite::{Options, Verdict, run_all};

/// In Python: what a porter has on the first day.
const SHIM: &str = r#"
import json, sys
CODES = {"deflate": 0, "none": 1, "snappy": 2}
class Link:
    def __init__(self, role, config):
        self.role, self.timer = role, config["hello_timeout"]
        self.hello, self.read, self.events = b"httpteleport\0" + bytes([CODES[config["compression"]], 0]), b"", []
        self.out, self.is_open = self.hello if role == "client" else b"", True
    def close(self, code):
        if self.is_open:
            self.is_open, self.timer = False, None
            self.events.append({"event": "closed", "code": code})
    def input(self, data):
        taken = 0
        while taken < len(data) and self.is_open and len(self.read) < 15:
            self.read, taken = self.read + data[taken:taken + 1], taken + 1
            size = len(self.read)
            if size == 12 and self.read != b"httpteleport": self.close("hello-magic")
            elif size == 13 and self.read[12]: self.close("hello-version")
            elif size == 15:
                if self.role == "server": self.out += self.hello
                if self.read[13] != 1: self.close("hello-compression")
                elif self.role == "server" and self.read[14]: self.close("tls-unavailable")
                else:
                    self.timer = None
                    self.events.append({"event": "connected"})
        return taken
link = None
for line in sys.stdin:
    command, consumed = json.loads(line), 0
    name, nack = command["command"], None
    if name == "describe":
        print(json.dumps({"name": "hello", "version": "1", "profile": "core", "can": ["client", "server", "none"]}), flush=True)
        continue
    elif name == "new": link = Link(command["role"], command["config"])
    elif name == "input": consumed = link.input(bytes.fromhex(command["hex"]))
    elif name == "eof": link.close(None if len(link.read) == 15 else "hello-truncated")
    elif name == "timeout" and link.timer is not None and command["now"] >= link.timer: link.close("hello-timeout")
    elif name == "close": link.close(None)
    elif name != "timeout": nack = {"nack": "no " + name}
    print(json.dumps(nack or {"consumed": consumed, "out": link.out.hex(), "events": link.events, "timer": link.timer,
                              "reads": link.is_open}), flush=True)
    link.out, link.events = b"", []
"#;

#[test]
fn a_hello_alone_fails_nothing_that_it_does_not_claim() {
    let path = std::env::temp_dir().join(format!("teleport-hello-{}.py", std::process::id()));
    std::fs::write(&path, SHIM).unwrap();
    let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cases");
    let (scenarios, errors) = read_all(Path::new(&cases)).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    let all: Vec<_> = scenarios.iter().collect();
    let (_, outcomes) = run_all(&all, &Options::of_shim(format!("python3 '{}'", path.display()))).unwrap();
    std::fs::remove_file(path).unwrap();
    let failed: Vec<_> =
        outcomes.iter().filter_map(|outcome| Some((&outcome.scenario.id, outcome.verdict.failure()?))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let passed = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Pass)).count();
    assert!(passed >= 30, "{passed} cases");
}
