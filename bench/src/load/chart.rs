//! Charts as SVG: the percentile curve (both axes logarithmic, the right end is the far end of the distribution), values
//! over time, and how busy each core was.

use std::fmt::Write as _;

/// A curve: (x, y), rising in x. What x and y are is the chart's.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) colour: usize,
    pub(super) name: String,
    /// Drawn lighter, behind its namesake.
    pub(super) faint: bool,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 340.0;
/// Charts beside the first are lower.
const LOW: f64 = 200.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// Nines at the right end of the axis: 99.999 %.
const NINES_MAX: f64 = 5.0;

/// How many nines: 0 % is 0, 90 % is 1, 99 % is 2.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).max(1e-9).log10()
}

fn x_of(percent: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * nines(percent).min(NINES_MAX) / NINES_MAX
}

/// The powers of ten around all values.
fn decades(series: &[Series]) -> (f64, f64) {
    let values = || series.iter().flat_map(|s| &s.points).map(|p| p.1.max(1.0));
    let low = values().fold(f64::INFINITY, f64::min).log10().floor();
    let high = values().fold(1.0, f64::max).log10().ceil();
    if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) }
}

fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", us / 1e6),
        us if us >= 1e3 => format!("{} ms", us / 1e3),
        us => format!("{us} µs"),
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A frame of grid lines with their labels, and the curves in it.
struct Canvas {
    svg: String,
    height: f64,
}

impl Canvas {
    fn new(height: f64, what: &str) -> Self {
        Self { svg: format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{what}\">\n"), height }
    }

    fn across(&mut self, y: f64, label: &str) {
        let (right, x, text) = (WIDTH - RIGHT, LEFT - 8.0, y + 4.0);
        let _ = writeln!(
            self.svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{x}\" y=\"{text:.1}\" text-anchor=\"end\">{label}</text>"
        );
    }

    fn upright(&mut self, x: f64, label: &str) {
        let (low, text) = (self.height - BOTTOM, self.height - BOTTOM + 18.0);
        let _ = writeln!(
            self.svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{low}\"/><text x=\"{x:.1}\" y=\"{text}\" text-anchor=\"middle\">{label}</text>"
        );
    }

    fn curves(&mut self, series: &[Series], x_of: impl Fn(f64) -> f64, y_of: impl Fn(f64) -> f64) {
        for one in series {
            let points: Vec<String> =
                one.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
            let _ = writeln!(
                self.svg,
                "<polyline class=\"curve c{}{}\" points=\"{}\"><title>{}</title></polyline>",
                one.colour,
                if one.faint { " faint" } else { "" },
                points.join(" "),
                escape(&one.name)
            );
        }
    }

    fn seconds(&mut self, axis: &Linear) {
        let mut second = 0.0;
        while second <= axis.end {
            self.upright(axis.x_of(second), &format!("{second} s"));
            second += axis.step;
        }
    }

    fn logarithmic(&mut self, low: f64, high: f64) {
        for decade in low as i32..=high as i32 {
            self.across(y_of(10f64.powi(decade), low, high, self.height), &time(10f64.powi(decade)));
        }
    }

    fn end(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

fn y_of(us: f64, low: f64, high: f64, height: f64) -> f64 {
    TOP + (height - TOP - BOTTOM) * (high - us.max(1.0).log10()) / (high - low)
}

/// A linear axis from 0, seconds or anything else.
struct Linear {
    end: f64,
    step: f64,
}

impl Linear {
    fn new(end: f64) -> Self {
        let end = end.max(1e-3);
        let magnitude = 10f64.powf((end / 10.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|step| end / step <= 10.0);
        Self { end, step: step.unwrap_or(end) }
    }

    /// As long as the steps that hold `end`.
    fn whole(end: f64) -> Self {
        let Self { end, step } = Self::new(end);
        Self { end: (end / step - 1e-9).ceil() * step, step }
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * value / self.end
    }
}

/// (percent, microseconds).
pub(super) fn percentile_chart(series: &[Series]) -> String {
    let (low, high) = decades(series);
    let mut canvas = Canvas::new(HEIGHT, "latency by percentile");
    canvas.logarithmic(low, high);
    for percent in [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999] {
        canvas.upright(x_of(percent), &format!("{percent} %"));
    }
    canvas.curves(series, x_of, |us| y_of(us, low, high, HEIGHT));
    canvas.end()
}

/// (seconds, microseconds), on an axis to `end`.
pub(super) fn latency_chart(end: f64, series: &[Series]) -> String {
    let (low, high) = decades(series);
    let axis = Linear::new(end);
    let mut canvas = Canvas::new(HEIGHT, "latency over time");
    canvas.logarithmic(low, high);
    canvas.seconds(&axis);
    canvas.curves(series, |at| axis.x_of(at), |us| y_of(us, low, high, HEIGHT));
    canvas.end()
}

/// (seconds, anything from 0), linear, on an axis to `end`.
pub(super) fn over_time_chart(what: &str, end: f64, series: &[Series]) -> String {
    let axis = Linear::new(end);
    let values = Linear::whole(series.iter().flat_map(|s| &s.points).map(|p| p.1).fold(0.0, f64::max));
    let y_of = |value: f64| TOP + (LOW - TOP - BOTTOM) * (1.0 - value / values.end);
    let mut canvas = Canvas::new(LOW, what);
    let mut value = 0.0;
    while value <= values.end {
        canvas.across(y_of(value), &format!("{value}"));
        value += 2.0 * values.step;
    }
    canvas.seconds(&axis);
    canvas.curves(series, |at| axis.x_of(at), y_of);
    canvas.end()
}

/// How busy each core was: a row a core, (seconds, percent); darker is busier.
pub(super) fn heat_map(colour: usize, name: &str, end: f64, cores: &[Vec<(f64, u8)>]) -> String {
    const ROW: f64 = 14.0;
    let axis = Linear::new(end);
    let mut canvas = Canvas::new(TOP + BOTTOM + ROW * cores.len() as f64, "busy cores");
    canvas.seconds(&axis);
    for (core, looks) in cores.iter().enumerate() {
        let y = TOP + ROW * core as f64;
        let _ = writeln!(
            canvas.svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">core {core}</text>",
            LEFT - 8.0,
            y + 11.0
        );
        let mut from = 0.0;
        for (at, percent) in looks {
            let (x, width) = (axis.x_of(from), axis.x_of(*at) - axis.x_of(from));
            let _ = writeln!(
                canvas.svg,
                "<rect class=\"c{colour}\" fill=\"currentColor\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{}\" fill-opacity=\"{:.2}\"><title>{}: core {core} {percent} %</title></rect>",
                ROW - 2.0,
                f64::from(*percent) / 100.0,
                escape(name)
            );
            from = *at;
        }
    }
    canvas.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_logarithmic() {
        let step = x_of(99.0) - x_of(90.0);
        assert!((x_of(99.9) - x_of(99.0) - step).abs() < 1e-6);
        assert!((x_of(99.999) - (WIDTH - RIGHT)).abs() < 1e-6);
        assert!((x_of(100.0) - (WIDTH - RIGHT)).abs() < 1e-6, "the longest stays on the page");
        let series = |points| [Series { colour: 0, name: String::new(), faint: false, points }];
        assert_eq!(decades(&series(vec![(50.0, 42.0), (99.0, 1500.0)])), (1.0, 4.0));
        assert_eq!(decades(&series(vec![(50.0, 0.0)])), (0.0, 1.0));
        assert_eq!(decades(&[]), (0.0, 1.0));
    }

    #[test]
    fn axes_of_time_have_round_steps_and_end_with_the_load() {
        for (end, step) in [(10.0, 1.0), (10.5, 2.0), (25.0, 5.0), (61.0, 10.0), (0.4, 0.05)] {
            let axis = Linear::new(end);
            assert!((axis.step - step).abs() < 1e-9, "{end}: {}", axis.step);
            assert!((axis.x_of(end) - (WIDTH - RIGHT)).abs() < 1e-6);
        }
        assert!((Linear::whole(147.0).end - 160.0).abs() < 1e-6 && (Linear::whole(5000.0).end - 5000.0).abs() < 1e-6);
        assert!(Linear::new(0.0).step > 0.0, "a run without a span ends, too");
    }

    #[test]
    fn a_core_that_is_idle_is_clear_and_a_busy_one_is_not() {
        let map = heat_map(1, "a <b>", 2.0, &[vec![(1.0, 0), (2.0, 100)], vec![(1.0, 50), (2.0, 25)]]);
        let opacity = |text: &str| map.matches(&format!("fill-opacity=\"{text}\"")).count();
        assert_eq!([opacity("0.00"), opacity("1.00"), opacity("0.50"), opacity("0.25")], [1, 1, 1, 1]);
        assert!(map.contains("a &lt;b&gt;"));
    }
}
