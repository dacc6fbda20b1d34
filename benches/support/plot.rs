//! Points on two axes, as an SVG.

use std::fmt::Write;

/// A labelled point.
pub struct Point {
    pub label: String,
    pub x: f64,
    pub y: f64,
}

const SIZE: (f64, f64) = (720.0, 440.0);
const LEFT: f64 = 70.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Draws `points` on logarithmic axes. Those of one family, whose labels differ after a `-`, are joined.
pub fn plot(title: &str, x_name: &str, y_name: &str, points: &[Point]) -> String {
    let (width, height) = SIZE;
    let x_axis = Axis::over(points.iter().map(|point| point.x), LEFT, width - RIGHT);
    let y_axis = Axis::over(points.iter().map(|point| point.y), height - BOTTOM, TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n"
    );
    let mut add = |line: std::fmt::Arguments<'_>| {
        let _ = svg.write_fmt(line);
        svg.push('\n');
    };
    let (floor, right) = (height - BOTTOM, width - RIGHT);
    for tick in x_axis.ticks() {
        let x = x_axis.place(tick);
        add(format_args!("<path d=\"M{x:.1} {TOP}V{floor}\" stroke=\"#ddd\"/>"));
        add(format_args!("<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>", floor + 16.0));
    }
    for tick in y_axis.ticks() {
        let y = y_axis.place(tick);
        add(format_args!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>"));
        add(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>", LEFT - 6.0, y + 4.0));
    }
    add(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x_name}</text>",
        width / 2.0,
        height - 12.0
    ));
    let middle = height / 2.0;
    add(format_args!("<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">{y_name}</text>"));
    for pair in points.windows(2).filter(|pair| family(&pair[0]) == family(&pair[1])) {
        let [from, to] = [&pair[0], &pair[1]].map(|point| (x_axis.place(point.x), y_axis.place(point.y)));
        add(format_args!("<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#888\"/>", from.0, from.1, to.0, to.1));
    }
    for point in points {
        let (x, y) = (x_axis.place(point.x), y_axis.place(point.y));
        add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#1f6feb\"/>"));
        add(format_args!("<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + 7.0, y + 4.0, point.label));
    }
    svg + "</svg>\n"
}

fn family(point: &Point) -> &str {
    point.label.split('-').next().unwrap_or_default()
}

/// A logarithmic axis.
struct Axis {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(0.0, f64::max);
        Self { least: least / 1.3, most: most * 1.3, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.least).ln() / (self.most / self.least).ln()
    }

    /// 1, 2 and 5 of each decade.
    fn ticks(&self) -> Vec<f64> {
        let decades = (-3..9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
        decades.filter(|tick| (self.least..=self.most).contains(tick)).collect()
    }
}
