//! `teleport-conformance check` sees damage to the suite and to the specification.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A copy of the suite and the specification, gone when the test is over.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"));
        let copy = Self(std::env::temp_dir().join(format!("teleport-check-{}", std::process::id())));
        let shim = copy.0.join("conformance/src/bin/teleport-shim-core");
        std::fs::create_dir_all(&shim).unwrap();
        let copied = |from: PathBuf, to: PathBuf| {
            let status = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
            assert!(status.success());
        };
        copied(from.join("../spec"), copy.0.join("spec"));
        for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_owned();
            if name != "src" && name != "tests" {
                copied(entry, copy.0.join("conformance").join(name));
            }
        }
        copied(from.join("src/bin/teleport-shim-core/mutant.rs"), shim);
        copy
    }

    fn check(&self) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_teleport-conformance"));
        let output = command.arg("--suite").arg(self.0.join("conformance")).arg("check").output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn damage_is_seen() {
    let copy = Copy::new();
    let (is_whole, text) = copy.check();
    assert!(is_whole, "{text}");
    // A file, what is replaced in it (nothing: the file is removed), by what, and what is said of it.
    let oneway = "- **R-id-oneway** (MUST, server)";
    let table = [
        ("spec/04-frames.md", oneway, "- **R-id-oneway** (MUST, sever)", "nobody is called \"sever\""),
        ("spec/04-frames.md", oneway, "- **R-id-oneway** (MIST, server)", "no level \"MIST\""),
        ("spec/04-frames.md", oneway, "- **R-id-oneway** (MAY, server)", "the index has R-id-oneway other than"),
        ("spec/04-frames.md", oneway, "- **R-id-opaque** (MUST, server)", "R-id-opaque stands in"),
        ("spec/04-frames.md", oneway, "- **R-id-oneway** (MUST server)", "a rule is `- **R-slug**"),
        ("spec/04-frames.md", "This is easiest where", "This MUST be where", "a MUST that is in no rule"),
        ("spec/04-frames.md", "01 00 00 00 47 45 54 20 2f 61", "02 00 00 00 47 45 54 20 2f 61", "the example EX-"),
        ("conformance/mutants.txt", "", "", "mutants.txt"),
        ("conformance/mutants.txt", "\nid-big-endian: ", "\n# ", "no case is named for id-big-endian"),
        ("conformance/cases/original/original-server-bad-magic.scn", "", "", "original-server-bad-magic is missing"),
        ("conformance/untestable.txt", "R-proxy-head: ", "# ", "R-proxy-head has no case and no reason"),
        ("conformance/untestable.txt", "R-proxy-head: ", "R-proxy-haed: ", "the specification has no R-proxy-haed"),
    ];
    for (file, from, to, said) in table {
        let path = copy.0.join(file);
        let before = std::fs::read_to_string(&path).unwrap();
        if from.is_empty() {
            std::fs::remove_file(&path).unwrap();
        } else {
            assert!(before.contains(from), "{file}: {from}");
            std::fs::write(&path, before.replacen(from, to, 1)).unwrap();
        }
        let (is_whole, text) = copy.check();
        assert!(!is_whole && text.contains(said), "{file}: {from} {to}: {said}: {text}");
        std::fs::write(&path, before).unwrap();
    }
}
