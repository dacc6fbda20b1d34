//! The parser of scenario files: any text is parsed or refused with a line.

use std::path::Path;

/// The input is the file.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if text.contains("recording") {
        // It would look into the file system.
        return;
    }
    match teleport_conformance::scenario::parse(Path::new("suite/cases/hello/a.scn"), text) {
        Ok(scenario) => assert!(!scenario.steps.is_empty()),
        Err(error) => assert!(error.line <= text.lines().count(), "{error} names a line that is there"),
    }
}
