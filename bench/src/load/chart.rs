//! The percentile curve: both axes logarithmic, the right end is the far end of the distribution.

use std::fmt::Write as _;

/// A curve: (percent, microseconds), rising.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) colour: usize,
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 340.0;
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

/// The chart as SVG, with the names of the systems.
pub(super) fn percentile_chart(series: &[Series]) -> String {
    let (low, high) = decades(series);
    let y_of = |us: f64| TOP + (HEIGHT - TOP - BOTTOM) * (high - us.max(1.0).log10()) / (high - low);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"latency by percentile\">\n");
    for decade in low as i32..=high as i32 {
        let us = 10f64.powi(decade);
        let y = y_of(us);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            time(us)
        );
    }
    for percent in [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999] {
        let x = x_of(percent);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{percent} %</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
    for one in series {
        let points: Vec<String> =
            one.points.iter().map(|(percent, us)| format!("{:.1},{:.1}", x_of(*percent), y_of(*us))).collect();
        let _ = writeln!(
            svg,
            "<polyline class=\"curve c{}\" points=\"{}\"><title>{}</title></polyline>",
            one.colour,
            points.join(" "),
            one.name.replace('&', "&amp;").replace('<', "&lt;")
        );
    }
    svg.push_str("</svg>\n");
    svg
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
        let series = |points| [Series { colour: 0, name: String::new(), points }];
        assert_eq!(decades(&series(vec![(50.0, 42.0), (99.0, 1500.0)])), (1.0, 4.0));
        assert_eq!(decades(&series(vec![(50.0, 0.0)])), (0.0, 1.0));
        assert_eq!(decades(&[]), (0.0, 1.0));
    }
}
