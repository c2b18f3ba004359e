//! Results as one HTML page that stands alone: no script, no request, charts as inline SVG. Runs of the same work are
//! drawn over each other, one colour a system, so that who doubts can look at each.

use super::chart::{Series, escape, heat_map, latency_chart, over_time_chart, percentile_chart};
use super::report::{RunResult, Span, print_table};
use super::watch::Moment;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--dim:#667080;--line:#d9dee5;--back:#fff;--s0:#0b6bcb;--s1:#d9480f;--s2:#2b8a3e;--s3:#862e9c}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#98a2b3;--line:#384150;--back:#14181f;--s0:#4dabf7;--s1:#ff922b;--s2:#69db7c;--s3:#da77f2}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1.2rem}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}th,td{text-align:right;white-space:nowrap;padding:.2rem .5rem;border-bottom:1px solid var(--line)}\
th:first-child,td:first-child{text-align:left}th{color:var(--dim);font-weight:500}svg{width:100%;height:auto}\
svg text{fill:var(--dim);font-size:12px}.grid{stroke:var(--line)}.c0{color:var(--s0)}.c1{color:var(--s1)}.c2{color:var(--s2)}.c3{color:var(--s3)}\
.curve{fill:none;stroke:currentColor;stroke-width:1.6;stroke-opacity:.75}.faint{stroke-opacity:.35;stroke-width:1.1}.bar{display:inline-block;margin-left:.2rem;height:.6rem;background:currentColor}\
.note,summary{color:var(--dim)}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px}.scroll{overflow-x:auto}";

/// A label is `system: work`; without a colon it is all work.
fn system_and_work(label: &str) -> (&str, &str) {
    label.split_once(": ").unwrap_or(("", label))
}

/// The page. `notes`: lines of what else is to be known of the runs.
#[must_use]
pub fn html_page(results: &[RunResult], notes: &[String]) -> String {
    let mut systems: Vec<&str> = Vec::new();
    let mut works: Vec<&str> = Vec::new();
    for result in results {
        let (system, work) = system_and_work(&result.label);
        if !systems.contains(&system) {
            systems.push(system);
        }
        if !works.contains(&work) {
            works.push(work);
        }
    }
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Broker benchmark</title><style>{STYLE}</style></head><body>\n<h1>Broker benchmark</h1>\n"
    );
    for note in notes {
        let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(note));
    }
    for work in works {
        let runs: Vec<&RunResult> = results.iter().filter(|r| system_and_work(&r.label).1 == work).collect();
        section(&mut html, work, &systems, &runs);
    }
    html.push_str("<h2>Environment</h2>\n<table>");
    for (name, value) in environment() {
        let _ = write!(html, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(&value));
    }
    html.push_str("</table>\n<details><summary>All figures, as Markdown</summary><pre>");
    html.push_str(&escape(&print_table(results)));
    html.push_str("</pre></details>\n</body></html>\n");
    html
}

/// One work: the curve, a row for each run, and how it was asked for.
fn section(html: &mut String, work: &str, systems: &[&str], runs: &[&RunResult]) {
    let colour = |run: &RunResult| systems.iter().position(|s| *s == system_and_work(&run.label).0).unwrap_or(0) % 4;
    let _ = writeln!(html, "<h2>{}</h2>", escape(work));
    let series: Vec<Series> = runs
        .iter()
        .filter_map(|run| {
            let latency = run.latency.as_ref()?;
            let points = if latency.curve_us.is_empty() { &latency.percentiles_us } else { &latency.curve_us };
            let points = points.iter().map(|(percent, us)| (*percent, *us as f64)).collect();
            Some(Series { colour: colour(run), name: run.label.clone(), faint: false, points })
        })
        .collect();
    if let Some(latency) = runs.iter().find_map(|r| r.latency.as_ref()) {
        let _ = writeln!(html, "<p class=\"note\">Latency {}, by percentile</p>", escape(&latency.of));
        html.push_str(&percentile_chart(&series));
    }
    over_time(html, runs, &colour);
    html.push_str("<div class=\"scroll\"><table><tr><th>run</th>");
    let columns: Vec<&Column> = COLUMNS.iter().filter(|c| runs.iter().any(|r| c.2(r).is_some())).collect();
    for (title, ..) in &columns {
        let _ = write!(html, "<th>{title}</th>");
    }
    html.push_str("</tr>\n");
    let most: Vec<f64> = columns.iter().map(|c| runs.iter().filter_map(|r| c.2(r)).fold(0.0, f64::max)).collect();
    for run in runs {
        let (system, _) = system_and_work(&run.label);
        let name = if system.is_empty() { &run.mode } else { system };
        let _ = write!(html, "<tr><td class=\"c{}\">{}</td>", colour(run), escape(name));
        for ((_, decimals, of), most) in columns.iter().copied().zip(&most) {
            match of(run) {
                Some(value) => {
                    let width = if *most > 0.0 { 3.0 * value / most } else { 0.0 };
                    let _ = write!(
                        html,
                        "<td>{value:.decimals$} <span class=\"bar c{}\" style=\"width:{width:.2}rem\"></span></td>",
                        colour(run)
                    );
                }
                None => html.push_str("<td>–</td>"),
            }
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n<details><summary>As it was asked for</summary><pre>");
    let mut asked: BTreeMap<&str, String> = BTreeMap::new();
    for run in runs {
        asked.entry(&run.label).or_insert_with(|| run.workload.to_string());
    }
    for (label, workload) in asked {
        let _ = writeln!(html, "{}\n  {}", escape(label), escape(&workload));
    }
    html.push_str("</pre></details>\n");
}

/// What went on while the load ran: the same axis for all of it.
fn over_time(html: &mut String, runs: &[&RunResult], colour: &dyn Fn(&RunResult) -> usize) {
    let series = |faint: bool, points: &dyn Fn(&RunResult) -> Vec<(f64, f64)>| -> Vec<Series> {
        let of = |run: &&RunResult| Series { colour: colour(run), name: run.label.clone(), faint, points: points(run) };
        runs.iter().map(of).filter(|s| s.points.len() > 1).collect()
    };
    let spans = |of: fn(&Span) -> f64| {
        move |run: &RunResult| -> Vec<(f64, f64)> {
            let spans = run.latency.iter().flat_map(|l| &l.over_time);
            spans.map(|s| (s.at_seconds + s.seconds / 2.0, of(s))).collect()
        }
    };
    let watched = |of: fn(&Moment) -> Option<f64>| {
        move |run: &RunResult| -> Vec<(f64, f64)> {
            run.watched.iter().filter_map(|m| Some((m.at_seconds, of(m)?))).collect()
        }
    };
    let end = runs.iter().flat_map(|run| {
        let spans = run.latency.iter().flat_map(|l| &l.over_time).map(|s| s.at_seconds + s.seconds);
        spans.chain(run.watched.iter().map(|m| m.at_seconds))
    });
    let end = end.fold(0.0, f64::max);
    let mut latency = series(true, &spans(|s| s.p50_us as f64));
    latency.extend(series(false, &spans(|s| s.p99_us as f64)));
    if !latency.is_empty() {
        html.push_str("<p class=\"note\">Latency over time: p99, and p50 in the lighter colour</p>\n");
        html.push_str(&latency_chart(end, &latency));
    }
    let charts = [
        ("Values measured a second", series(false, &spans(|s| s.count as f64 / s.seconds.max(1e-9)))),
        ("CPU of the broker, in percent of a core", series(false, &watched(|m| m.broker_cpu_percent))),
        (
            "Resident memory of the broker, in MiB",
            series(false, &watched(|m| Some(m.broker_rss_bytes? as f64 / f64::from(1 << 20)))),
        ),
    ];
    for (what, series) in charts.iter().filter(|(_, series)| !series.is_empty()) {
        let _ = writeln!(html, "<p class=\"note\">{what}</p>");
        html.push_str(&over_time_chart(what, end, series));
    }
    let mapped: Vec<_> = runs.iter().filter(|r| r.watched.len() > 1).collect();
    if !mapped.is_empty() {
        html.push_str("<details><summary>Busy cores, by whatever: broker, load, kernel</summary>\n");
    }
    for run in &mapped {
        let cores = run.watched.iter().map(|m| m.cores.len()).min().unwrap_or(0);
        let row = |core: usize| run.watched.iter().map(|m| (m.at_seconds, m.cores[core])).collect();
        let _ = writeln!(html, "<p class=\"note c{}\">{}</p>", colour(run), escape(&run.label));
        html.push_str(&heat_map(colour(run), &run.label, end, &(0..cores).map(row).collect::<Vec<_>>()));
    }
    if !mapped.is_empty() {
        html.push_str("</details>\n");
    }
}

/// Title, decimals, value.
type Column = (&'static str, usize, fn(&RunResult) -> Option<f64>);

const COLUMNS: &[Column] = &[
    ("MB/s", 1, |r| (r.bytes > 0 && r.first_answer_seconds.is_none()).then(|| r.megabytes_per_second())),
    ("p50 µs", 0, |r| r.latency.as_ref()?.at(50.0).map(|us| us as f64)),
    ("p99 µs", 0, |r| r.latency.as_ref()?.at(99.0).map(|us| us as f64)),
    ("p99.9 µs", 0, |r| r.latency.as_ref()?.at(99.9).map(|us| us as f64)),
    ("first answer s", 3, |r| r.first_answer_seconds),
    ("all answer s", 3, |r| r.first_answer_seconds.filter(|_| r.records > 0).map(|_| r.seconds)),
    ("CPU s/GiB", 2, |r| r.cpu_seconds_per_gib().filter(|_| r.first_answer_seconds.is_none())),
    ("CPU s", 2, |r| r.broker_cpu_seconds),
    ("RSS MiB", 0, |r| r.broker_rss_bytes.map(|b| b as f64 / f64::from(1 << 20))),
];

/// What the machine that makes the page says of itself.
fn environment() -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let processors = read("/proc/cpuinfo");
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
    vec![
        ("processor", format!("{} × {}", cores, after(&processors, "model name"))),
        ("memory", after(&read("/proc/meminfo"), "MemTotal")),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load generator", format!("coreline bench {}", env!("CARGO_PKG_VERSION"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Latency;

    fn run(label: &str, us: u64) -> RunResult {
        let latency = Latency {
            of: "from send to ack".to_owned(),
            count: 10,
            percentiles_us: vec![(50.0, us), (99.0, 3 * us), (99.999, 30 * us)],
            ..Latency::default()
        };
        serde_json::from_value::<RunResult>(serde_json::json!({
            "label": label, "mode": "produce", "workload": {"topic": "<t>"}, "seconds": 1.0, "records": 5, "bytes": 5000,
            "latency": latency, "broker_cpu_seconds": 0.5, "broker_rss_bytes": 1_048_576,
        }))
        .expect("a result")
    }

    #[test]
    fn runs_of_a_work_share_a_chart_and_systems_have_colours() {
        let page = html_page(&[run("a: one & two", 100), run("b: one & two", 200), run("a: other", 5)], &[]);
        assert_eq!(page.matches("<h2>one &amp; two</h2>").count(), 1);
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("class=\"curve c0\"").count(), 2, "{page}");
        assert_eq!(page.matches("class=\"curve c1\"").count(), 1);
        assert!(page.contains("&lt;t&gt;") && !page.contains("<t>"));
    }

    #[test]
    fn what_happened_meanwhile_is_drawn_for_runs_that_know_it() {
        let mut seen = run("a: one", 100);
        let span = |at| Span { at_seconds: at, seconds: 0.5, count: 50, p50_us: 90, p99_us: 900, max_us: 1000 };
        seen.latency.as_mut().expect("it has one").over_time = vec![span(0.0), span(0.5), span(1.0)];
        let moment =
            |at, cores| Moment { at_seconds: at, cores, broker_cpu_percent: Some(40.0), broker_rss_bytes: None };
        // A core that went away in the middle is left out.
        seen.watched = vec![moment(0.5, vec![10, 90]), moment(1.0, vec![20])];
        let page = html_page(&[seen, run("b: one", 200)], &[]);
        let charts = |what: &str| page.matches(&format!("aria-label=\"{what}")).count();
        assert_eq!(charts("latency by percentile"), 1);
        assert_eq!(charts("latency over time"), 1);
        assert_eq!(charts("Values measured a second"), 1);
        assert_eq!(charts("CPU of the broker"), 1);
        assert_eq!(charts("Resident memory"), 0, "nobody looked");
        assert_eq!(page.matches("<rect").count(), 2);
    }

    #[test]
    fn nothing_is_asked_of_the_network() {
        let page = html_page(&[run("a: work", 100)], &["a <note>".to_owned()]);
        assert!(!page.contains("http") && !page.contains("<script") && !page.contains("src="));
        assert!(page.contains("a &lt;note&gt;"));
    }
}
