//! Options whose values nobody is shown: whoever reads them can read sessions.

use super::spelling::letters;

/// Those options, in this program's own spelling.
const SECRETS: [&str; 1] = ["in-tls-session-ticket-key"];
/// What stands for a value.
const HIDDEN: &str = "(not shown)";

/// Whether the value of this option is one.
pub(super) fn is_secret(name: &str) -> bool {
    SECRETS.contains(&name)
}

/// A command line without such values, in whatever spelling they are given: `-x v`, `-x=v`, `--x v` and `--x=v`.
pub(in crate::proxy) fn hidden(args: impl IntoIterator<Item = String>) -> Vec<String> {
    let is_one = |flag: &str| {
        let name = letters(flag);
        flag.starts_with('-') && SECRETS.iter().any(|secret| letters(secret) == name)
    };
    let mut is_next = false;
    let hide = |arg: String| {
        if std::mem::take(&mut is_next) {
            return HIDDEN.to_owned();
        }
        match arg.split_once('=') {
            Some((flag, _)) if is_one(flag) => format!("{flag}={HIDDEN}"),
            Some(_) => arg,
            None => {
                is_next = is_one(&arg);
                arg
            }
        }
    };
    args.into_iter().map(hide).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_shows_a_secret() {
        for flag in ["-inTLSSessionTicketKey", "--inTLSSessionTicketKey", "--in-tls-session-ticket-key"] {
            for args in [&["httptp", flag, "hush", "-in=:1"][..], &["httptp", &format!("{flag}=hush,a=b"), "-in=:1"]] {
                let shown = hidden(args.iter().map(|arg| (*arg).to_owned()));
                assert!(!shown.iter().any(|arg| arg.contains("hush") || arg.contains("a=b")), "{shown:?}");
                assert_eq!(
                    (&*shown[0], shown.last().map(|arg| &**arg), shown.len()),
                    ("httptp", Some("-in=:1"), args.len())
                );
            }
        }
        // As would any of these be taken.
        for flag in ["-inTlsSessionTicketKey", "-in-tls-session-ticket-key", "-InTLSSessionTicketKEY"] {
            assert!(!hidden([format!("{flag}=hush")])[0].contains("hush"), "{flag}");
        }
        let file = ["--in-tls-session-ticket-key-file=/etc/key", "-in", "hush"];
        assert_eq!(hidden(file.map(str::to_owned)), file);
    }
}
