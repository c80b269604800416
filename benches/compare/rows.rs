//! The rows of the table: what was read in every round, and the medians.

use std::collections::BTreeMap;

use serde::Serialize;

/// Readings by row, in the order in which rows were first read.
#[derive(Debug, Default)]
pub struct Readings {
    order: Vec<(String, Unit)>,
    ours: BTreeMap<String, Vec<f64>>,
    peer: BTreeMap<String, Vec<f64>>,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Milliseconds,
    Mib,
    /// A share or a ratio of two of ours; the peer has none.
    Share,
}

/// Whose reading it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Ours,
    Peer,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub unit: Unit,
    pub ours: Option<f64>,
    pub peer: Option<f64>,
    /// `ours / peer`: below 1 is better.
    pub ratio: Option<f64>,
}

impl Readings {
    /// Notes a reading.
    pub fn note(&mut self, side: Side, name: &str, unit: Unit, value: f64) {
        if !self.order.iter().any(|(known, _)| known == name) {
            self.order.push((name.to_owned(), unit));
        }
        let readings = match side {
            Side::Ours => &mut self.ours,
            Side::Peer => &mut self.peer,
        };
        readings.entry(name.to_owned()).or_default().push(value);
    }

    /// Our median of a row, where there is one.
    pub fn ours(&self, name: &str) -> Option<f64> {
        self.ours.get(name).and_then(|readings| median(readings))
    }

    /// All rows with their medians.
    pub fn rows(&self) -> Vec<Row> {
        let row = |(name, unit): &(String, Unit)| {
            let ours = self.ours(name);
            let peer = self.peer.get(name).and_then(|readings| median(readings));
            let ratio = ours.zip(peer).map(|(ours, peer)| ours / peer);
            Row {
                name: name.clone(),
                unit: *unit,
                ours,
                peer,
                ratio,
            }
        };
        self.order.iter().map(row).collect()
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(readings: &[f64]) -> Option<f64> {
    let mut sorted = readings.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(0.5 * (sorted[middle - 1] + sorted[middle])),
    }
}

impl Row {
    /// A line of a Markdown table.
    pub fn markdown(&self) -> String {
        let number = |value: Option<f64>| match (value, self.unit) {
            (None, _) => String::new(),
            (Some(value), Unit::Milliseconds) if value >= 1000.0 => {
                format!("{:.2} s", value / 1000.0)
            }
            (Some(value), Unit::Milliseconds) => format!("{value:.1} ms"),
            (Some(value), Unit::Mib) => format!("{value:.0} MiB"),
            (Some(value), Unit::Share) => format!("{value:.3}"),
        };
        let ratio = self
            .ratio
            .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        format!(
            "| {} | {} | {} | {ratio} |",
            self.name,
            number(self.ours),
            number(self.peer)
        )
    }
}
