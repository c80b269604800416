//! The table of a suite: which cells there are, what each one found, means and intervals over them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::interval::Interval;
use super::score::Scorecard;

/// Which parts of the training a cell has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Training {
    /// None: the model as it is.
    None,
    /// The host method's own loss.
    Base,
    /// And the global (wavelet) term.
    Global,
    /// And the local (Fourier) term.
    Local,
    /// And both.
    Both,
}

impl Training {
    /// The trainings of a method.
    pub const TRAINED: [Self; 4] = [Self::Base, Self::Global, Self::Local, Self::Both];

    /// Its name in tables and folders.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no training",
            Self::Base => "base",
            Self::Global => "+ global",
            Self::Local => "+ local",
            Self::Both => "+ both",
        }
    }

    /// λg and λl of a cell, from those of the suite.
    #[must_use]
    pub fn lambdas(self, (global, local): (f64, f64)) -> (f64, f64) {
        match self {
            Self::None | Self::Base => (0.0, 0.0),
            Self::Global => (global, 0.0),
            Self::Local => (0.0, local),
            Self::Both => (global, local),
        }
    }
}

/// One cell: one training of one clip with one seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Seed of the drawn clip.
    pub clip: u64,
    /// Seed of all noise.
    pub seed: u64,
    /// The host method; none without training.
    pub method: Option<String>,
    /// Its training.
    pub training: Training,
}

impl Cell {
    /// The cells of a suite, clip by clip, so that a table of the first ones has something of every row.
    #[must_use]
    pub fn all(clips: u64, seeds: u64, methods: &[String]) -> Vec<Self> {
        let rows = |clip: u64, seed: u64| {
            let cell = move |method: Option<&String>, training| Self {
                clip,
                seed,
                method: method.cloned(),
                training,
            };
            let trained = methods.iter().flat_map(move |method| {
                Training::TRAINED.map(|training| cell(Some(method), training))
            });
            std::iter::once(cell(None, Training::None)).chain(trained)
        };
        let seeds = |clip| (1..=seeds).map(move |seed| (clip, seed));
        let places = (1..=clips).flat_map(seeds);
        places.flat_map(|(clip, seed)| rows(clip, seed)).collect()
    }

    /// Its name, also that of its folder.
    #[must_use]
    pub fn name(&self) -> String {
        let method = self
            .method
            .as_ref()
            .map_or(String::new(), |m| format!("{m} "));
        let training = self.training.name();
        format!(
            "clip {:02} seed {:02} {method}{training}",
            self.clip, self.seed
        )
    }
}

/// What a cell found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Which cell.
    pub cell: Cell,
    /// Seconds that its training and its samples took.
    pub secs: f64,
    /// Scorecards by what the sample started from: `inverted`, `noise`.
    pub samples: Vec<(String, Scorecard)>,
}

/// One number of a scorecard, as a column of the table.
pub struct Metric {
    /// Its name in files.
    pub key: &'static str,
    /// Its heading in the table.
    pub title: &'static str,
    /// Digits after the point.
    pub digits: usize,
    /// Where it is on the card.
    pub get: fn(&Scorecard) -> Option<f64>,
}

/// Every number of a scorecard that the files of a suite hold. Definitions stand at the fields of [`Scorecard`].
pub const METRICS: [Metric; 16] = [
    Metric {
        key: "path_corr",
        title: "path corr",
        digits: 2,
        get: |card| card.path?.corr,
    },
    Metric {
        key: "path_corr_x",
        title: "corr x",
        digits: 2,
        get: |card| card.path?.corr_x,
    },
    Metric {
        key: "path_corr_y",
        title: "corr y",
        digits: 2,
        get: |card| card.path?.corr_y,
    },
    Metric {
        key: "path_error_px",
        title: "error px",
        digits: 1,
        get: |card| card.path?.mean_error_px,
    },
    Metric {
        key: "lost_share",
        title: "lost",
        digits: 2,
        get: lost_share,
    },
    Metric {
        key: "null_corr",
        title: "null corr",
        digits: 2,
        get: |card| card.other_path?.corr,
    },
    Metric {
        key: "fidelity",
        title: "fidelity*",
        digits: 2,
        get: |card| card.fidelity,
    },
    Metric {
        key: "band_distance",
        title: "bands",
        digits: 2,
        get: |card| card.spectrum.band_distance,
    },
    Metric {
        key: "ring_distance",
        title: "rings",
        digits: 2,
        get: |card| card.spectrum.ring_distance,
    },
    Metric {
        key: "pace",
        title: "pace*",
        digits: 2,
        get: |card| card.pace,
    },
    Metric {
        key: "colour",
        title: "colour",
        digits: 2,
        get: |card| card.agreement.colour,
    },
    Metric {
        key: "shape",
        title: "shape",
        digits: 2,
        get: |card| card.agreement.shape,
    },
    Metric {
        key: "ground",
        title: "ground",
        digits: 2,
        get: |card| card.agreement.ground,
    },
    Metric {
        key: "leakage",
        title: "leakage",
        digits: 2,
        get: |card| card.leakage.mean,
    },
    Metric {
        key: "shape_leakage",
        title: "shape leak",
        digits: 2,
        get: |card| card.leakage.shape,
    },
    Metric {
        key: "palette",
        title: "palette",
        digits: 2,
        get: |card| Some(card.leakage.palette),
    },
];

/// Columns of the table that people read; the files have all.
const SHOWN: [&str; 12] = [
    "path_corr",
    "path_error_px",
    "lost_share",
    "null_corr",
    "fidelity",
    "band_distance",
    "ring_distance",
    "pace",
    "colour",
    "shape",
    "ground",
    "leakage",
];

/// Share of the frames in which a subject was missing: 1 where it was in none, which leaves no path at all.
fn lost_share(card: &Scorecard) -> Option<f64> {
    Some(
        card.path
            .map_or(1.0, |path| path.missing as f64 / path.frames.max(1) as f64),
    )
}

/// One row: all cells of one training of one method, sampled one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What the samples started from.
    pub start: String,
    /// The host method; none without training.
    pub method: Option<String>,
    /// Its training.
    pub training: Training,
    /// Cells in it.
    pub cells: usize,
    /// Mean and interval of each number by its key, in the order of [`METRICS`]; none where no cell knows it.
    pub values: Vec<(String, Option<Interval>)>,
    /// Seconds of a cell.
    pub secs: Option<Interval>,
}

/// The table of a suite.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Its rows: sampled from the inverted clip, then from noise.
    pub rows: Vec<Row>,
}

impl Summary {
    /// Means and 95 % intervals over the cells (clips x seeds) of each row.
    #[must_use]
    pub fn of(results: &[CellResult]) -> Self {
        let mut keys: Vec<(&str, &Option<String>, Training)> = Vec::new();
        let samples = || {
            results.iter().flat_map(|result| {
                let cell = &result.cell;
                let key = move |start: &'_ str| (start == "noise", &cell.method, cell.training);
                result
                    .samples
                    .iter()
                    .map(move |(start, card)| (start.as_str(), key(start), result, card))
            })
        };
        for (start, (_, method, training), ..) in samples() {
            if !keys.contains(&(start, method, training)) {
                keys.push((start, method, training));
            }
        }
        keys.sort_by_key(|(start, ..)| *start == "noise");
        let row = |(start, method, training): (&str, &Option<String>, Training)| {
            let key = (start == "noise", method, training);
            let cards: Vec<_> = samples()
                .filter(|(name, other, ..)| *name == start && *other == key)
                .collect();
            let over = |metric: &Metric| {
                let values: Vec<f64> = cards
                    .iter()
                    .filter_map(|(.., card)| (metric.get)(card))
                    .collect();
                (metric.key.to_owned(), Interval::of(&values))
            };
            let secs: Vec<f64> = cards.iter().map(|(_, _, result, _)| result.secs).collect();
            Row {
                start: start.to_owned(),
                method: method.clone(),
                training,
                cells: cards.len(),
                values: METRICS.iter().map(over).collect(),
                secs: Interval::of(&secs),
            }
        };
        Self {
            rows: keys.into_iter().map(row).collect(),
        }
    }

    /// The table in Markdown, with a line on how to read it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let shown: Vec<&Metric> = METRICS.iter().filter(|m| SHOWN.contains(&m.key)).collect();
        let titles: Vec<&str> = shown.iter().map(|metric| metric.title).collect();
        let mut text = format!(
            "| start | method | training | n | {} | s a cell |\n",
            titles.join(" | ")
        );
        text += &"| --- ".repeat(titles.len() + 5);
        text += "|\n";
        for row in &self.rows {
            let value = |metric: &&Metric| {
                let found = row.values.iter().find(|(key, _)| key == metric.key);
                cell_text(
                    found.and_then(|(_, interval)| *interval),
                    row.cells,
                    metric.digits,
                )
            };
            let values: Vec<String> = shown.iter().map(value).collect();
            let method = row.method.as_deref().unwrap_or("-");
            // Writing to a string cannot fail.
            writeln!(
                text,
                "| {} | {method} | {} | {} | {} | {} |",
                row.start,
                row.training.name(),
                row.cells,
                values.join(" | "),
                cell_text(row.secs, row.cells, 1),
            )
            .ok();
        }
        text += LEGEND;
        text
    }
}

const LEGEND: &str = "
Mean ± half of the 95 % interval (Student's t over the n cells, clips × seeds, taken as independent); `(k)` where only k cells know the number.
path corr: correlation of the subject's path with the true one, 1 is the same; error px: mean distance; lost: share of frames without the subject; null corr: with a path that has
nothing to do with the clip. bands, rings: distance of the motion's spectra, 0 is the same. colour, shape, ground: share of frames as the words say. leakage: share that still look like the clip.
* stand-ins without a model: fidelity on optical-flow tracks; pace, the overlap of motion energy over time.
";

/// `0.83 ± 0.05`; with the number of values where it is not that of the row.
fn cell_text(interval: Option<Interval>, cells: usize, digits: usize) -> String {
    let Some(found) = interval else {
        return "-".to_owned();
    };
    let mut text = format!("{:.digits$}", found.mean);
    if let Some(half) = found.half {
        text += &format!(" ± {half:.digits$}");
    }
    if found.n != cells {
        text += &format!(" ({})", found.n);
    }
    text
}

/// One line a sample, with a heading; empty fields are numbers that cannot be known.
#[must_use]
pub fn csv(results: &[CellResult]) -> String {
    let mut text = "clip,seed,method,training,start,secs".to_owned();
    for metric in &METRICS {
        text.push(',');
        text += metric.key;
    }
    text.push('\n');
    for result in results {
        let cell = &result.cell;
        for (start, card) in &result.samples {
            let method = cell.method.as_deref().unwrap_or("none");
            let training = cell.training.name();
            let secs = result.secs;
            text += &format!(
                "{},{},{method},{training},{start},{secs:.3}",
                cell.clip, cell.seed
            );
            for metric in &METRICS {
                text.push(',');
                if let Some(value) = (metric.get)(card) {
                    text += &format!("{value:.6}");
                }
            }
            text.push('\n');
        }
    }
    text
}
