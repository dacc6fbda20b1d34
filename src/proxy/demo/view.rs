//! The figures of the demo, for people: redrawn in place on a terminal, a line a second elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::Sample;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// How many columns of requests per second are kept.
const HISTORY: usize = 32;

/// Draws samples.
#[derive(Debug)]
pub(super) struct View {
    is_terminal: bool,
    /// Lines drawn so far, to draw over.
    drawn: usize,
    rates: Vec<f64>,
}

impl View {
    pub(super) fn new() -> Self {
        // A terminal that cannot move its cursor gets lines, as a file does.
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_terminal: io::stdout().is_terminal() && !is_dumb, drawn: 0, rates: Vec::new() }
    }

    /// How often to draw.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(if self.is_terminal { 500 } else { 1_000 })
    }

    pub(super) fn draw(&mut self, sample: &Sample, planned: Option<Duration>) {
        if !self.is_terminal {
            print(&format!("{}\n", line(sample)));
            return;
        }
        if self.rates.len() == HISTORY {
            self.rates.remove(0);
        }
        self.rates.push(sample.rate);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let rows = rows(sample, planned, &self.rates);
        for row in &rows {
            // Clear the line first: the last one may have been longer.
            text.push_str(&format!("\x1b[2K{row}\n"));
        }
        self.drawn = rows.len();
        print(&text);
    }
}

/// Writes to stdout. Whoever closed it does not want to read more, and that is no reason to end.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The figures of the whole run.
pub(super) fn summary(sample: &Sample, last_error: Option<&str>) -> String {
    let mut text = format!(
        "\n{} requests in {:.1} s: {} a second, p50 {}, p99 {}, {} errors\n",
        thousands(sample.done + sample.errors),
        sample.elapsed.as_secs_f64(),
        thousands(sample.rate as u64),
        millis(sample.p50_micros),
        millis(sample.p99_micros),
        thousands(sample.errors),
    );
    text.push_str(&format!(
        "the link carried {} of HTTP in {}: {}\n",
        bytes(sample.plain_bytes),
        bytes(sample.wire_bytes),
        smaller(sample),
    ));
    if let Some(error) = last_error {
        text.push_str(&format!("the last error: {error}\n"));
    }
    text
}

fn rows(sample: &Sample, planned: Option<Duration>, rates: &[f64]) -> Vec<String> {
    let of = planned.map_or(String::new(), |planned| format!(" of {} s", planned.as_secs()));
    vec![
        format!("  requests/s   {:>10}   {}", thousands(sample.rate as u64), sparkline(rates)),
        format!("  latency      {:>10} p50   {} p99", millis(sample.p50_micros), millis(sample.p99_micros)),
        format!("  plain bytes  {:>10}", bytes(sample.plain_bytes)),
        format!("  on the wire  {:>10}   {}", bytes(sample.wire_bytes), smaller(sample)),
        format!("  errors       {:>10}", thousands(sample.errors)),
        format!("  time         {:>8.1} s{of}", sample.elapsed.as_secs_f64()),
    ]
}

fn line(sample: &Sample) -> String {
    format!(
        "{:>5.1} s  {} req/s  p50 {}  p99 {}  plain {}  wire {}  {}  errors {}",
        sample.elapsed.as_secs_f64(),
        thousands(sample.rate as u64),
        millis(sample.p50_micros),
        millis(sample.p99_micros),
        bytes(sample.plain_bytes),
        bytes(sample.wire_bytes),
        smaller(sample),
        thousands(sample.errors),
    )
}

fn smaller(sample: &Sample) -> String {
    match sample.ratio() {
        Some(ratio) => format!("{ratio:.1} times smaller"),
        None => "nothing yet".to_owned(),
    }
}

fn sparkline(rates: &[f64]) -> String {
    let most = rates.iter().copied().fold(1.0, f64::max);
    let bar = |rate: &f64| BARS[((rate / most * 7.0).round() as usize).min(7)];
    rates.iter().map(bar).collect()
}

fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1_000.0)
}

fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n < 1e3 => format!("{n} B"),
        _ if n < 1e6 => format!("{:.1} kB", n / 1e3),
        _ if n < 1e9 => format!("{:.1} MB", n / 1e6),
        _ => format!("{:.2} GB", n / 1e9),
    }
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(1_234), "1.2 kB");
        assert_eq!(bytes(2_500_000_000), "2.50 GB");
        assert_eq!(millis(1_234), "1.23 ms");
        assert_eq!(sparkline(&[0.0, 50.0, 100.0]), "▁▅█");
    }
}
