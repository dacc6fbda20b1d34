//! The figures as an SVG: times smaller by batch delay, and by what it costs.

use std::fmt::{self, Write};

use super::report::{DELAYS, Row};

const PANEL: (f64, f64) = (330.0, 300.0);
const LEFT: f64 = 60.0;
const GAP: f64 = 150.0;
const TOP: f64 = 60.0;
const HEIGHT: f64 = TOP + PANEL.1 + 60.0;
const WIDTH: f64 = LEFT + PANEL.0 + GAP + PANEL.0 + 90.0;
/// One for each row, told apart by people who do not see all colours alike.
const COLOURS: [&str; 6] = ["#666666", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00"];
/// Least distance of labels, in pixels.
const LABEL_PIXELS: f64 = 14.0;

pub(super) fn svg(title: &str, rows: &[Row]) -> String {
    let mut svg = String::new();
    // Into a String nothing fails.
    let _ = draw(&mut svg, title, rows);
    svg
}

fn draw(svg: &mut String, title: &str, rows: &[Row]) -> fmt::Result {
    let most = |value: fn(&Row) -> Vec<f64>| rows.iter().flat_map(value).fold(0.0, f64::max);
    let y = Axis::up_to(most(|row| row.times()), TOP + PANEL.1, TOP);
    let delay = Axis { most: DELAYS.len() as f64 - 0.5, step: 1.0, from: LEFT, to: LEFT + PANEL.0 };
    let right = LEFT + PANEL.0 + GAP;
    let cpu = Axis::up_to(most(|row| row.cpu()), right, right + PANEL.0);
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"15\">{}</text>",
        escaped(title)
    )?;
    panel(svg, &y, (LEFT, "batch delay"))?;
    for (n, (name, _)) in DELAYS.iter().enumerate() {
        tick(svg, delay.at(n as f64 + 0.25), name)?;
    }
    panel(svg, &y, (right, "CPU of both ends, µs a request (each line from no delay, the large dot, to 5 ms)"))?;
    for value in cpu.ticks() {
        tick(svg, cpu.at(value), &value.to_string())?;
    }
    let by_delay = |row: &Row| {
        row.times().iter().enumerate().map(|(n, times)| (delay.at(n as f64 + 0.25), y.at(*times))).collect::<Vec<_>>()
    };
    let by_cpu =
        |row: &Row| row.cpu().iter().zip(row.times()).map(|(us, times)| (cpu.at(*us), y.at(times))).collect::<Vec<_>>();
    lines(svg, rows, by_delay, false)?;
    lines(svg, rows, by_cpu, true)?;
    svg.push_str("</svg>\n");
    Ok(())
}

/// The frame of a panel, with the vertical axis that both have.
fn panel(svg: &mut String, y: &Axis, (left, name): (f64, &str)) -> fmt::Result {
    let (right, floor) = (left + PANEL.0, TOP + PANEL.1);
    for value in y.ticks() {
        let at = y.at(value);
        writeln!(svg, "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#ddd\"/>")?;
        writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", left - 6.0, at + 4.0)?;
    }
    writeln!(svg, "<path d=\"M{left} {TOP}V{floor}H{right}\" stroke=\"#888\" fill=\"none\"/>")?;
    writeln!(svg, "<text x=\"{left}\" y=\"{}\" fill=\"#444\">times smaller</text>", TOP - 10.0)?;
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#444\">{name}</text>",
        (left + right) / 2.0,
        floor + 38.0
    )
}

fn tick(svg: &mut String, x: f64, name: &str) -> fmt::Result {
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>", TOP + PANEL.1 + 18.0)
}

/// A line for each row, its name beside the right end.
fn lines(svg: &mut String, rows: &[Row], place: impl Fn(&Row) -> Vec<(f64, f64)>, marks_first: bool) -> fmt::Result {
    let mut labels: Vec<(f64, f64, usize)> = Vec::new();
    for (n, row) in rows.iter().enumerate() {
        let (points, colour) = (place(row), COLOURS[n % COLOURS.len()]);
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>",
            path.join(" ")
        )?;
        for (m, (x, y)) in points.iter().enumerate() {
            let radius = if marks_first && m == 0 { 4.5 } else { 2.5 };
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>")?;
        }
        let end = points.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0));
        labels.extend(end.map(|(x, y)| (x, y, n)));
    }
    // From below; one that would stand on another is moved up.
    labels.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for (x, y, n) in labels {
        let mut at = y + 4.0;
        while taken.iter().any(|(tx, ty)| (tx - x).abs() < 70.0 && (ty - at).abs() < LABEL_PIXELS) {
            at -= 1.0;
        }
        taken.push((x, at));
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{at:.1}\" fill=\"{}\">{}</text>",
            x + 9.0,
            COLOURS[n % COLOURS.len()],
            escaped(&rows[n].name)
        )?;
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// From 0 to something round.
struct Axis {
    most: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn up_to(most: f64, from: f64, to: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let decade = 10_f64.powf((most / 4.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * decade).find(|step| most / step <= 6.0);
        let step = step.unwrap_or(most);
        Self { most: (most / step).ceil() * step, step, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * value / self.most
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        // Steps below 1 are no binary fractions.
        let step = self.step;
        (0..=(self.most / step).round() as u32).map(move |n| (f64::from(n) * step * 1e6).round() / 1e6)
    }
}
