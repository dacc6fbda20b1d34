//! The few arguments that the benches take.

/// `--name value`, `--name=value` and `--name` of the command line.
pub struct Args(Vec<String>);

impl Args {
    /// Those of the process, without what `cargo bench` adds.
    pub fn of_process() -> Self {
        Self(std::env::args().skip(1).filter(|arg| arg != "--bench").collect())
    }

    /// Whether `--name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|arg| arg.strip_prefix("--") == Some(name))
    }

    /// The value of `--name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix("--")?.strip_prefix(name)? {
            "" => self.0.get(at + 1).map(String::as_str),
            rest => rest.strip_prefix('='),
        })
    }

    /// The number of `--name`, or else `default`.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        let Some(value) = self.value(name) else { return default };
        value.parse().unwrap_or_else(|_| panic!("--{name} takes a number, not {value:?}"))
    }

    /// What does not begin with `--`, at the first place.
    pub fn first(&self) -> Option<&str> {
        self.0.first().map(String::as_str).filter(|arg| !arg.starts_with("--"))
    }
}
