//! A report as one self-contained HTML page: tables and plots as inline SVG, no script, nothing from elsewhere.

use crate::report::{Bar, Distribution, Report, SizePoint};
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const EDGE: f64 = 44.0;

/// Text that is safe inside HTML.
fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// A line plot of points from left to right.
fn plot(title: &str, x_name: &str, y_name: &str, lines: &[(&str, Vec<(f64, f64)>)]) -> String {
    let all: Vec<(f64, f64)> = lines.iter().flat_map(|(_, points)| points.iter().copied()).collect();
    if all.is_empty() {
        return String::new();
    }
    let most = |pick: fn(&(f64, f64)) -> f64| all.iter().map(pick).fold(f64::MIN, f64::max);
    let least = |pick: fn(&(f64, f64)) -> f64| all.iter().map(pick).fold(f64::MAX, f64::min);
    let (x0, x1) = (least(|p| p.0), most(|p| p.0).max(least(|p| p.0) + 1e-9));
    let (y0, y1) = (least(|p| p.1).min(0.0), most(|p| p.1).max(1e-9));
    let x = |value: f64| EDGE + (value - x0) / (x1 - x0) * (WIDTH - EDGE - 12.0);
    let y = |value: f64| HEIGHT - EDGE + 12.0 - (value - y0) / (y1 - y0) * (HEIGHT - EDGE - 8.0);
    let mut svg =
        format!("<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">", safe(title));
    for part in 0..=4 {
        let value = y0 + (y1 - y0) * f64::from(part) / 4.0;
        let (left, right, at) = (EDGE, WIDTH - 12.0, y(value));
        let _ = write!(svg, "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            EDGE - 4.0,
            at + 3.0,
            figure(value)
        );
        let value = x0 + (x1 - x0) * f64::from(part) / 4.0;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(value),
            HEIGHT - 18.0,
            figure(value)
        );
    }
    for (index, (name, points)) in lines.iter().enumerate() {
        let path: Vec<String> = points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
        let _ = write!(svg, "<polyline class=\"l{index}\" points=\"{}\"/>", path.join(" "));
        let at = EDGE + 8.0 + 150.0 * index as f64;
        let _ = write!(svg, "<text class=\"l{index}\" x=\"{at}\" y=\"12\">{}</text>", safe(name));
    }
    let middle = WIDTH / 2.0;
    let _ = write!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{} / {}</text>",
        HEIGHT - 4.0,
        safe(x_name),
        safe(y_name)
    );
    svg.push_str("</svg></figure>");
    svg
}

fn bars(title: &str, values: &[(String, f64)]) -> String {
    let most = values.iter().map(|(_, v)| *v).fold(1e-9, f64::max);
    let height = 16.0 * values.len() as f64 + 8.0;
    let mut svg =
        format!("<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">", safe(title));
    for (index, (name, value)) in values.iter().enumerate() {
        let y = 16.0 * index as f64 + 4.0;
        let wide = value / most * (WIDTH - 240.0);
        let _ = write!(svg, "<text x=\"150\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", y + 10.0, safe(name));
        let _ = write!(svg, "<rect x=\"156\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"11\"/>");
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", 160.0 + wide, y + 10.0, figure(*value));
    }
    svg.push_str("</svg></figure>");
    svg
}

fn curve(values: &Distribution) -> Vec<(f64, f64)> {
    values.curve.iter().enumerate().map(|(i, v)| (*v, i as f64)).collect()
}

fn distribution(name: &str, d: &Distribution) -> String {
    let cells: Vec<String> =
        [d.mean, d.p50, d.p95, d.p99, d.max].iter().map(|v| format!("<td>{}</td>", figure(*v))).collect();
    format!("<tr><th>{}</th><td>{}</td>{}</tr>", safe(name), d.count, cells.join(""))
}

fn bar(name: &str, b: &Bar) -> String {
    format!(
        "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{:.2} %</td></tr>",
        safe(name),
        b.count,
        figure(b.ratio.p50),
        figure(b.ratio.p99),
        b.within * 100.0
    )
}

/// What each node has to do by the federation's size.
fn sizes(points: &[SizePoint]) -> String {
    if points.is_empty() {
        return String::new();
    }
    let mut html = "<h2>By size</h2><table><tr><th>regions</th><th>largest table</th><th>messages / s</th>\
<th>digests / s</th><th>bytes / s</th><th>messages per placement</th><th>took, s</th><th>MiB</th></tr>"
        .to_owned();
    for p in points {
        let _ = write!(
            html,
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.0}</td><td>{}</td></tr>",
            p.regions,
            p.table,
            figure(p.messages),
            figure(p.digests),
            figure(p.bytes),
            figure(p.per_placement),
            p.took_s,
            p.memory_mib
        );
    }
    html.push_str("</table>");
    let line = |pick: fn(&SizePoint) -> f64| points.iter().map(|p| ((p.regions as f64).log10(), pick(p))).collect();
    html.push_str(&plot(
        "Per region and second",
        "regions, power of ten",
        "number",
        &[("messages", line(|p| p.messages)), ("digests", line(|p| p.digests))],
    ));
    html.push_str(&plot(
        "Bytes per region and second",
        "regions, power of ten",
        "bytes",
        &[("bytes", line(|p| p.bytes))],
    ));
    html
}

/// The page.
pub fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>\
body{{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#1c2733}}\
table{{border-collapse:collapse;margin:1em 0}}th,td{{padding:.25em .8em;text-align:right;border-bottom:1px solid #dde3ea}}\
th:first-child{{text-align:left}}figure{{margin:1.5em 0}}figcaption{{font-weight:600}}svg{{width:100%;max-width:760px}}\
svg text{{font:11px system-ui,sans-serif;fill:#44525f}}.grid{{stroke:#e4e9ee}}polyline{{fill:none;stroke-width:1.8}}\
.l0{{stroke:#0b6e99}}.l1{{stroke:#c2571a}}.l2{{stroke:#4a7c2f}}text.l0{{fill:#0b6e99;stroke:none}}\
text.l1{{fill:#c2571a;stroke:none}}text.l2{{fill:#4a7c2f;stroke:none}}rect{{fill:#0b6e99}}.bad{{color:#a11}}\
</style></head><body><h1>{0}</h1><p>A simulation of {1} regions over {2} virtual seconds, seed {3}, trace <code>{4}</code>. \
Figures of a simulator, not of a measurement.</p>",
        safe(&report.title),
        report.regions,
        figure(report.virtual_s),
        report.seed,
        safe(&report.trace[..16.min(report.trace.len())])
    );
    let t = &report.tasks;
    let _ = write!(
        html,
        "<h2>Tasks</h2><table><tr><th>submitted</th><th>feasible</th><th>placed</th><th>completed</th><th>open</th>\
<th>success of the feasible</th></tr><tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.3} %</td></tr></table>",
        t.submitted,
        t.feasible,
        t.placed,
        t.completed,
        t.open,
        report.placement_success * 100.0
    );
    if !t.failed.is_empty() {
        let rows: Vec<(String, f64)> = t.failed.iter().map(|(code, n)| (code.clone(), *n as f64)).collect();
        html.push_str(&bars("Failed or refused, by reason", &rows));
    }
    html.push_str("<h2>Times and messages</h2><table><tr><th></th><th>count</th><th>mean</th><th>p50</th><th>p95</th><th>p99</th><th>max</th></tr>");
    for (name, values) in [
        ("decision, ms", &report.decision_ms),
        ("decision / round trip to the winner", &report.decision_to_rtt),
        ("custody after the acceptance, ms", &report.custody_ms),
        ("wait until the first start, ms", &report.waiting_ms),
        ("messages per placement", &report.messages_per_placement),
    ] {
        html.push_str(&distribution(name, values));
    }
    html.push_str(
        "</table><table><tr><th>as a ratio to its bar</th><th>count</th><th>p50</th><th>p99</th><th>within</th></tr>",
    );
    html.push_str(&bar("clear favourite", &report.favourite));
    html.push_str(&bar("with comparison", &report.comparison));
    html.push_str("</table>");
    html.push_str(&sizes(&report.sizes));
    html.push_str(&plot("Decision time", "ms", "per cent of tasks", &[("decision", curve(&report.decision_ms))]));
    html.push_str(&plot(
        "Wait until the first start",
        "ms",
        "per cent of tasks",
        &[("wait", curve(&report.waiting_ms))],
    ));
    let line =
        |pick: &dyn Fn(&crate::metrics::Sample) -> f64| report.samples.iter().map(|s| (s.at_s, pick(s))).collect();
    html.push_str(&plot(
        "Share leased over time",
        "virtual seconds",
        "share",
        &[("chips", line(&|s| s.chips)), ("cores", line(&|s| s.cores))],
    ));
    html.push_str(&plot(
        "Tasks over time",
        "virtual seconds",
        "tasks",
        &[("leased", line(&|s| s.leases as f64)), ("waiting", line(&|s| s.waiting as f64))],
    ));
    let c = &report.capacity;
    let _ = write!(
        html,
        "<h2>Capacity</h2><p>{} chips and {} cores connected; {:.2} % of the chips leased at the end, {:.2} % at most, \
{:.2} % in the mean; pooling rate {:.1} %.</p>",
        figure(c.chips),
        figure(c.cores),
        c.chips_allocated * 100.0,
        c.chips_allocated_peak * 100.0,
        c.chips_utilisation * 100.0,
        c.pooling_rate * 100.0
    );
    let peaks: Vec<(String, f64)> = c.peak_by_precision.iter().map(|(p, v)| (p.clone(), *v)).collect();
    if !peaks.is_empty() {
        html.push_str(&bars("Dense peak by precision, PFLOPS (INT8: POPS); never added", &peaks));
    }
    let _ = write!(
        html,
        "<p>Runs cost {} CNY, moving inputs {} CNY ({} bytes); carbon {} kg. Fairness between origins (Jain): success {:.4}, \
waiting {:.4}.</p>",
        figure(report.cost),
        figure(report.egress_cost),
        figure(report.moved_bytes),
        figure(report.carbon_kg),
        report.fairness_success,
        report.fairness_waiting
    );
    let mut busiest: Vec<(String, f64)> =
        report.by_region.iter().map(|r| (r.id.clone(), r.chips_utilisation * 100.0)).collect();
    busiest.sort_by(|a, b| b.1.total_cmp(&a.1));
    busiest.truncate(40);
    html.push_str(&bars("Chips leased in the mean, per cent, busiest regions", &busiest));
    let kinds: Vec<(String, f64)> = report.messages_by_kind.iter().map(|(k, n)| (k.clone(), *n as f64)).collect();
    html.push_str(&bars("Messages by kind", &kinds));
    if report.violations.is_empty() {
        html.push_str("<p>No invariant was violated.</p>");
    } else {
        html.push_str("<h2 class=\"bad\">Violated</h2><ul>");
        report.violations.iter().for_each(|what| {
            let _ = write!(html, "<li class=\"bad\">{}</li>", safe(what));
        });
        html.push_str("</ul>");
    }
    html.push_str("</body></html>\n");
    html
}
