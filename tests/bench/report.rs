//! The table of results, for people and as JSON.

use std::fmt;

use serde_json::{Value, json};

/// One measured figure with its target.
struct Line {
    measure: String,
    ours: f64,
    unit: &'static str,
    /// Name and figure of what it is compared with.
    peer: Option<(&'static str, f64)>,
    /// Empty when the figure is shown for itself.
    target: String,
    met: bool,
    /// Rates, processor time and memory behind it.
    detail: String,
}

/// All results of a run.
pub(crate) struct Report {
    scale: (u64, u64),
    lines: Vec<Line>,
}

impl Report {
    pub(crate) fn new(rows: u64, changes: u64) -> Self {
        Report { scale: (rows, changes), lines: Vec::new() }
    }

    /// A duration that may be at most `limit` times the peer's.
    pub(crate) fn at_most_times(
        &mut self,
        measure: &str,
        ours: f64,
        peer: (&'static str, f64),
        limit: f64,
        detail: String,
    ) {
        let target = format!("<= {limit}x");
        let met = ours <= peer.1 * limit;
        self.push(Line { measure: measure.into(), ours, unit: "s", peer: Some(peer), target, met, detail });
    }

    /// A rate that must be at least `limit` times the peer's.
    pub(crate) fn at_least_times(
        &mut self,
        measure: &str,
        ours: f64,
        peer: (&'static str, f64),
        limit: f64,
        detail: String,
    ) {
        let target = format!(">= {limit}x");
        let met = ours >= peer.1 * limit;
        self.push(Line { measure: measure.into(), ours, unit: "/s", peer: Some(peer), target, met, detail });
    }

    /// A figure beside a peer's, without a target.
    pub(crate) fn beside(
        &mut self,
        measure: &str,
        ours: f64,
        unit: &'static str,
        peer: (&'static str, f64),
        detail: String,
    ) {
        let target = String::new();
        self.push(Line { measure: measure.into(), ours, unit, peer: Some(peer), target, met: true, detail });
    }

    /// A rate with a lower limit of its own.
    pub(crate) fn at_least(&mut self, measure: &str, ours: f64, limit: f64, detail: String) {
        let target = format!(">= {limit}/s");
        self.push(Line { measure: measure.into(), ours, unit: "/s", peer: None, target, met: ours >= limit, detail });
    }

    /// A figure with a limit of its own.
    pub(crate) fn at_most(&mut self, measure: &str, ours: f64, unit: &'static str, limit: f64, detail: String) {
        let target = format!("<= {limit} {unit}");
        self.push(Line { measure: measure.into(), ours, unit, peer: None, target, met: ours <= limit, detail });
    }

    fn push(&mut self, line: Line) {
        println!("  {line}");
        self.lines.push(line);
    }

    pub(crate) fn json(&self) -> Value {
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|l| {
                json!({
                    "measure": l.measure, "value": l.ours, "unit": l.unit, "peer": l.peer.map(|p| p.0),
                    "peer_value": l.peer.map(|p| p.1), "ratio": l.peer.map(|p| l.ours / p.1), "target": l.target,
                    "met": (!l.target.is_empty()).then_some(l.met), "detail": l.detail,
                })
            })
            .collect();
        json!({ "rows": self.scale.0, "changes": self.scale.1, "results": lines })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") };
        let (peer, ratio) = match self.peer {
            Some((name, value)) => (format!("{name} {}", figure(value)), format!("{:.2}x", self.ours / value)),
            None => (String::new(), String::new()),
        };
        let ours = format!("{} {}", figure(self.ours), self.unit);
        let met = match self.met {
            _ if self.target.is_empty() => "",
            true => "met",
            false => "MISSED",
        };
        write!(
            f,
            "{:<44} {ours:>14}  {peer:<24} {ratio:>7}  {:<11} {met:<6}  {}",
            self.measure, self.target, self.detail
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nrows {}, changes {}", self.scale.0, self.scale.1)?;
        writeln!(f, "{:<44} {:>14}  {:<24} {:>7}  {:<11}", "measure", "Freshet", "beside", "ratio", "target")?;
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}
