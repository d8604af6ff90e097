//! The plot of the simulation, readable on light and dark pages.

use super::{END, FAILS, GROWS, MINUTE, RESTARTS, RETURNS, Run, SAMPLE, SHRINKS};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 130.0;
const ROW: f64 = 96.0;
const TOP: f64 = 74.0;
/// The highest load that is drawn, as a part of the mean.
const HIGHEST: f64 = 2.0;

const STYLE: &str = "text { font: 12px system-ui, sans-serif; fill: #24292f } .faint { fill: #57606a } \
    .axis { stroke: #d0d7de } .bar { fill: #eaeef2 } polyline { fill: none; stroke-width: 1.6 } \
    .without { stroke: #bc4c00 } .with { stroke: #0969da } .out { fill: #bc4c00 } .in { fill: #0969da } \
    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .faint { fill: #8d96a0 } .axis { stroke: #30363d } \
    .bar { fill: #21262d } .without { stroke: #f0883e } .with { stroke: #58a6ff } .out { fill: #f0883e } .in { fill: #58a6ff } }";

/// Draws two lines for each balance: without rebalancing and with it.
pub(super) fn svg(runs: &[Run]) -> String {
    let rows = runs.len() / 2;
    let height = TOP + ROW * rows as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Load of the fullest and of the emptiest server by balance, without and with rebalancing\">\n<style>{STYLE}</style>\n"
    );
    let mut line = |text: String| {
        svg += &text;
        svg.push('\n');
    };
    line("<text x=\"0\" y=\"14\">Sessions of the fullest and of the emptiest server, as a part of the mean; 10,000 clients</text>".into());
    for (x, class, label) in [(0.0, "without", "without rebalancing"), (170.0, "with", "with 600 sessions a minute")] {
        line(format!("<polyline class=\"{class}\" points=\"{x},28 {},28\"/>", x + 18.0));
        line(format!("<text x=\"{}\" y=\"32\">{label}</text>", x + 24.0));
    }
    let events = [(GROWS, "3 → 4"), (SHRINKS, "4 → 3"), (FAILS, "one fails"), (RESTARTS[0], "rolling restart")];
    for (at, label) in events {
        line(format!("<text class=\"faint\" x=\"{:.1}\" y=\"{}\">{label}</text>", x(at), TOP - 14.0));
    }
    let ends = [RETURNS, RESTARTS[2] + MINUTE];
    for (row, pair) in runs.chunks(2).enumerate() {
        let top = TOP + ROW * row as f64;
        let bottom = top + ROW - 22.0;
        for ((from, _), to) in events[2..].iter().zip(ends) {
            let width = x(to) - x(*from);
            line(format!(
                "<rect class=\"bar\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                x(*from),
                bottom - top
            ));
        }
        for (at, _) in &events[..2] {
            let x = x(*at);
            line(format!("<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>"));
        }
        for factor in [0.0, 1.0, 2.0] {
            let y = y(factor, top, bottom);
            line(format!("<line class=\"axis\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"));
            line(format!(
                "<text class=\"faint\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{factor:.1}</text>",
                LEFT - 6.0,
                y + 4.0
            ));
        }
        line(format!("<text x=\"0\" y=\"{:.1}\">{}</text>", top + 12.0, pair[0].kind.as_str()));
        for (offset, class, run) in [(30.0, "out", &pair[0]), (46.0, "in", &pair[1])] {
            let moved = run.moved + run.rebalanced;
            line(format!("<text class=\"{class}\" x=\"0\" y=\"{:.1}\">{moved} moved</text>", top + offset));
        }
        for (run, class) in pair.iter().zip(["without", "with"]) {
            let points = |of: fn(&(f64, f64)) -> f64| {
                let loads = run.loads.iter().enumerate().step_by(3);
                let points = loads
                    .map(|(sample, load)| format!("{:.1},{:.1}", x(sample as u32 * SAMPLE), y(of(load), top, bottom)));
                points.collect::<Vec<_>>().join(" ")
            };
            for points in [points(|(least, _)| *least), points(|(_, most)| *most)] {
                line(format!("<polyline class=\"{class}\" points=\"{points}\"/>"));
            }
        }
    }
    for minute in (0..=END / MINUTE).step_by(20) {
        let y = TOP + ROW * rows as f64 + 4.0;
        line(format!(
            "<text class=\"faint\" x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{minute} min</text>",
            x(minute * MINUTE)
        ));
    }
    svg + "</svg>\n"
}

fn x(second: u32) -> f64 {
    LEFT + (WIDTH - LEFT - 24.0) * f64::from(second) / f64::from(END)
}

fn y(factor: f64, top: f64, bottom: f64) -> f64 {
    bottom - (bottom - top) * factor.clamp(0.0, HIGHEST) / HIGHEST
}
