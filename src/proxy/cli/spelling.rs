//! The original's spelling of flags, so that its command lines run unchanged.
//!
//! Go takes `-inType http`, `-inType=http` and the same with two dashes. Flags that are on or off take their value only
//! after `=`. Everything is brought into this program's own spelling before clap sees it.

use std::iter::Peekable;

/// The original's flags that take a value.
const WITH_VALUE: [(&str, &str); 22] = [
    ("in", "in"),
    ("inType", "in-type"),
    ("inDelay", "in-delay"),
    ("inCompress", "in-compress"),
    ("inMaxHeaderSize", "in-max-header-size"),
    ("inMaxBodySize", "in-max-body-size"),
    ("inAllowIP", "in-allow-ip"),
    ("inTLSCert", "in-tls-cert"),
    ("inTLSKey", "in-tls-key"),
    ("inTLSSessionTicketKey", "in-tls-session-ticket-key"),
    ("autocertCacheDir", "autocert-cache-dir"),
    ("autocertHostRegexp", "autocert-host-regexp"),
    ("out", "out"),
    ("outType", "out-type"),
    ("outDelay", "out-delay"),
    ("outCompress", "out-compress"),
    ("outMaxHeaderSize", "out-max-header-size"),
    ("outTimeout", "out-timeout"),
    ("outConnsPerAddr", "out-conns-per-addr"),
    ("concurrency", "concurrency"),
    ("clientIPHeader", "client-ip-header"),
    ("expvarAddr", "expvar-addr"),
];

/// The original's flags that are on or off.
const SWITCHES: [(&str, &str); 3] =
    [("inGetOnly", "in-get-only"), ("reusePort", "reuse-port"), ("logAllErrors", "log-all-errors")];

/// The flag that the original calls so.
pub(super) fn own(go: &str) -> Option<&'static str> {
    WITH_VALUE.iter().chain(&SWITCHES).find(|(name, _)| *name == go).map(|(_, own)| *own)
}

/// The command line (without the program's name) in this program's own spelling, with `=` between an option and its value
/// wherever it takes one. Of an option as it is written, `find` tells the name and whether it takes a value.
pub(super) fn normalise<'o>(
    args: impl IntoIterator<Item = String>,
    find: impl Fn(&str) -> Option<(&'o str, bool)>,
) -> Vec<String> {
    let mut args = args.into_iter().peekable();
    let mut normal = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--" {
            normal.push(arg);
            normal.extend(args);
            return normal;
        }
        normal.push(match Flag::split(&arg) {
            None => arg,
            Some(flag) => flag.respell(&mut args, &find),
        });
    }
    normal
}

struct Flag<'a> {
    dashes: usize,
    name: &'a str,
    value: Option<&'a str>,
}

impl<'a> Flag<'a> {
    fn split(arg: &'a str) -> Option<Self> {
        let bare = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
        if !bare.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (bare, None),
        };
        Some(Self { dashes: arg.len() - bare.len(), name, value })
    }

    /// `rest` gives the value if it stands apart: Go takes whatever comes next, also what starts with a dash. For the
    /// options that the original does not have, what looks like another option is none.
    fn respell<'o>(
        &self,
        rest: &mut Peekable<impl Iterator<Item = String>>,
        find: &impl Fn(&str) -> Option<(&'o str, bool)>,
    ) -> String {
        let known = |table: &[(&'static str, &'static str)]| {
            table.iter().find(|(go, own)| *go == self.name || *own == self.name).map(|(_, own)| *own)
        };
        if let Some(own) = known(&WITH_VALUE) {
            return match self.value.map(str::to_owned).or_else(|| rest.next()) {
                Some(value) => format!("--{own}={value}"),
                None => format!("--{own}"),
            };
        }
        let (name, takes_value) = match (known(&SWITCHES), find(self.name)) {
            (Some(own), _) => (own.to_owned(), false),
            (None, Some((own, takes_value))) => (own.to_owned(), takes_value),
            // No flag of the original. Go has no clusters of short flags, so `-help` can only mean `--help`.
            (None, None) if self.name.len() > 1 => (kebab(self.name), false),
            (None, None) => (self.name.to_owned(), false),
        };
        if self.value.is_none()
            && takes_value
            && let Some(value) = rest.next_if(|next| Flag::split(next).is_none())
        {
            return format!("--{name}={value}");
        }
        let dashes = if name.len() > 1 { "--" } else { &"--"[..self.dashes] };
        match self.value {
            Some(value) => format!("{dashes}{name}={value}"),
            None => format!("{dashes}{name}"),
        }
    }
}

/// `inTypo` as `in-typo`, so that clap finds what was meant.
pub(super) fn kebab(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len() + 4);
    let (mut was_lower, mut was_upper) = (false, false);
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        // The last capital of several begins the next word: `inTLSTypo` is `in-tls-typo`.
        let begins_word = was_upper && rest.peek().is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && (was_lower || begins_word) {
            kebab.push('-');
        }
        (was_lower, was_upper) = (c.is_ascii_lowercase(), c.is_ascii_uppercase());
        kebab.push(c.to_ascii_lowercase());
    }
    kebab
}

/// The letters of a flag, which are the same in each spelling.
pub(super) fn letters(flag: &str) -> String {
    flag.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(line: &str) -> String {
        normalise(line.split_whitespace().map(str::to_owned), |name| (name == "threads").then_some(("threads", true)))
            .join(" ")
    }

    #[test]
    fn all_of_gos_ways_to_write_a_flag() {
        for line in
            ["-inType http", "-inType=http", "--inType=http", "--inType http", "--in-type http", "-in-type=http"]
        {
            assert_eq!(normal(line), "--in-type=http", "{line}");
        }
        assert_eq!(normal("-in :80 -out=h:1"), "--in=:80 --out=h:1");
        assert_eq!(normal("-inGetOnly -in :80"), "--in-get-only --in=:80");
        assert_eq!(normal("-inGetOnly=false --logAllErrors"), "--in-get-only=false --log-all-errors");
    }

    #[test]
    fn every_flag_of_the_original() {
        for (go, own) in WITH_VALUE {
            assert_eq!(normal(&format!("-{go} v")), format!("--{own}=v"));
        }
        for (go, own) in SWITCHES {
            assert_eq!(normal(&format!("-{go}")), format!("--{own}"));
        }
    }

    #[test]
    fn values_may_look_like_flags_and_may_be_empty() {
        assert_eq!(normal("-clientIPHeader -x -in=:1"), "--client-ip-header=-x --in=:1");
        assert_eq!(normalise(["-inAllowIP".to_owned(), String::new()], |_| None), ["--in-allow-ip="]);
        assert_eq!(normal("-in"), "--in");
    }

    #[test]
    fn the_rest_is_left_to_clap() {
        assert_eq!(normal("-h"), "-h");
        assert_eq!(normal("-V"), "-V");
        assert_eq!(normal("-help"), "--help");
        assert_eq!(normal("-inTypo=x"), "--in-typo=x");
        assert_eq!(normal("demo --seconds 3 --json"), "demo --seconds 3 --json");
        assert_eq!(normal("-- -in"), "-- -in");
    }

    #[test]
    fn values_of_other_options_are_joined_to_them() {
        assert_eq!(normal("--threads 2 --other 3"), "--threads=2 --other 3");
        assert_eq!(normal("-threads=2"), "--threads=2");
        assert_eq!(normal("--threads --in :80"), "--threads --in=:80");
    }
}
