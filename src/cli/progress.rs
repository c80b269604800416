//! Progress for people: bars with the time left on a terminal, plain lines elsewhere. Progress goes to standard error,
//! the paths of results to standard output.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::evaluate::{Scorecard, Summary, lines};
use crate::job::{Event, Outcome, Stage};
use crate::library::gigabytes;

/// Plain lines come at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    terminal: bool,
    started: Instant,
    stage_started: Instant,
    last_line: Instant,
    /// In a suite the bar counts cells, and what goes on inside one is only a message beside it.
    in_suite: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            bar: None,
            terminal: io::stderr().is_terminal(),
            started: now,
            stage_started: now,
            last_line: now,
            in_suite: false,
        }
    }

    pub(super) fn show(&mut self, event: &Event) {
        if self.in_suite && self.is_of_a_cell(event) {
            return;
        }
        match event {
            Event::RunFolder { path } => self.line(&format!("Run folder: {}", path.display())),
            Event::Stage { stage, total } => self.begin(*stage, *total),
            Event::Progress { stage, done, total } => self.advance(*stage, *done, *total, ""),
            Event::Step(stats) => {
                let numbers = format!(
                    "loss {:.4} (motion {:.4}, global {:.4}, local {:.4})",
                    stats.total,
                    stats.base,
                    stats.global,
                    stats.amplitude + stats.phase
                );
                self.advance(Stage::Training, stats.step, stats.steps, &numbers);
            }
            Event::Note { text } => self.line(&format!("Note: {text}")),
            Event::Paused { step } => self.line(&format!("Paused after step {step}")),
            Event::Resumed { step } => self.line(&format!("Going on after step {step}")),
            Event::Changed {
                step,
                setting,
                value,
            } => {
                self.line(&format!("From step {}: {setting} is {value}", step + 1));
            }
            Event::PreviewReady { step, path, .. } => {
                self.line(&format!("Preview after step {step}: {}", path.display()));
            }
            Event::CheckpointSaved { step, path } => {
                self.line(&format!("Checkpoint after step {step}: {}", path.display()));
            }
            Event::WeightsSaved { path } => self.line(&format!("Weights: {}", path.display())),
            Event::Exported { path, recipe_in } => {
                self.line(&format!("The recipe is in {recipe_in}"));
                self.result(&path.display().to_string());
            }
            Event::ModelReady { name, path } => {
                self.line(&format!("{name} is ready."));
                self.result(&path.display().to_string());
            }
            Event::Scored { score } => self.card(score),
            Event::Suite { cells, kept } => self.begin_suite(*cells, *kept),
            Event::Cell {
                name,
                done,
                cells,
                secs,
                left_secs,
            } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(u64::from(*done));
                }
                let left = in_words(*left_secs);
                self.line(&format!(
                    "Cell {done}/{cells}, {name}: {secs:.1} s, {left} left"
                ));
            }
            Event::Table { summary, folder } => {
                self.table(summary);
                self.line(&format!("The suite is in {}", folder.display()));
            }
            Event::Warning(report) => self.line(&format!("Warning: {report}")),
            Event::Started { .. } | Event::Gradients { .. } | Event::Finished(_) => {}
        }
    }

    pub(super) fn finish(&mut self, outcome: &Outcome) {
        self.end_stage();
        let secs = self.started.elapsed().as_secs_f64();
        match outcome {
            Outcome::Completed => tell!("Done in {secs:.1} s"),
            Outcome::Cancelled { .. } => tell!("Cancelled after {secs:.1} s"),
            // The report is printed once, where the program ends.
            Outcome::Failed(_) => {}
        }
    }

    fn begin_suite(&mut self, cells: u32, kept: u32) {
        self.end_stage();
        self.in_suite = true;
        if kept > 0 {
            tell!("{kept} of {cells} cells are there already");
        }
        if self.terminal {
            let bar = ProgressBar::new(u64::from(cells)).with_style(style(
                "{prefix:<10} {bar:30} {pos}/{len}  {elapsed} elapsed  {msg}",
            ));
            bar.set_prefix("Cells");
            bar.set_position(u64::from(kept));
            bar.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some(bar);
        }
    }

    /// Whether an event belongs to the inside of a cell; it is told beside the bar.
    fn is_of_a_cell(&self, event: &Event) -> bool {
        let message = match event {
            Event::Stage { stage, .. } => name(*stage).to_owned(),
            Event::Progress { stage, done, total } => format!("{} {done}/{total}", name(*stage)),
            Event::Step(stats) => format!("Training {}/{}", stats.step, stats.steps),
            Event::Cell { .. } | Event::Table { .. } | Event::Warning(_) => return false,
            _ => return true,
        };
        if let Some(bar) = &self.bar {
            bar.set_message(message);
        }
        true
    }

    /// A scorecard for people and scripts: one number a line.
    fn card(&mut self, card: &Scorecard) {
        self.end_stage();
        for line in lines(card) {
            self.result(&format!("{}: {}", line.title, line.value));
        }
    }

    fn table(&mut self, summary: &Summary) {
        self.result(&summary.markdown());
    }

    fn begin(&mut self, stage: Stage, total: Option<u32>) {
        self.end_stage();
        self.stage_started = Instant::now();
        self.last_line = self.stage_started;
        if !self.terminal {
            tell!("{}", name(stage));
            return;
        }
        let bar = match total {
            Some(total) if stage == Stage::Downloading => ProgressBar::new(
                u64::from(total) * unit(stage),
            )
            .with_style(style(
                "{prefix:<10} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left  {msg}",
            )),
            Some(total) => ProgressBar::new(u64::from(total)).with_style(style(
                "{prefix:<10} {bar:30} {pos}/{len}  {elapsed} elapsed, {eta} left  {msg}",
            )),
            None => {
                ProgressBar::new_spinner().with_style(style("{prefix:<10} {spinner} {elapsed}"))
            }
        };
        bar.set_prefix(name(stage));
        bar.enable_steady_tick(Duration::from_millis(120));
        self.bar = Some(bar);
    }

    fn advance(&mut self, stage: Stage, done: u32, total: u32, message: &str) {
        if let Some(bar) = &self.bar {
            let unit = unit(stage);
            bar.set_length(u64::from(total) * unit);
            bar.set_position(u64::from(done) * unit);
            bar.set_message(message.to_owned());
            return;
        }
        if done < total && self.last_line.elapsed() < LINE_EVERY {
            return;
        }
        self.last_line = Instant::now();
        let secs = self.stage_started.elapsed().as_secs_f64();
        let left = secs / f64::from(done.max(1)) * f64::from(total.saturating_sub(done));
        let message = if message.is_empty() {
            String::new()
        } else {
            format!("  {message}")
        };
        let counts = match stage {
            Stage::Downloading => {
                let bytes = |count| gigabytes(u64::from(count) * unit(stage));
                format!("{} of {}", bytes(done), bytes(total))
            }
            _ => format!("{done}/{total}"),
        };
        tell!(
            "{} {counts}  {secs:.1} s, {left:.0} s left{message}",
            name(stage)
        );
    }

    fn end_stage(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.disable_steady_tick();
            bar.abandon();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => tell!("{text}"),
        }
    }

    /// A path for scripts to read; a closed pipe is the reader's own decision.
    fn result(&mut self, text: &str) {
        self.end_stage();
        writeln!(io::stdout().lock(), "{text}").ok();
    }
}

/// `40 s`, `12 min`, `3 h 5 min`.
fn in_words(secs: f64) -> String {
    let minutes = (secs / 60.0).round();
    if secs < 90.0 {
        format!("{secs:.0} s")
    } else if minutes < 60.0 {
        format!("{minutes:.0} min")
    } else {
        format!(
            "{:.0} h {:.0} min",
            (minutes / 60.0).floor(),
            minutes % 60.0
        )
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a broken one falls back to the plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Bytes in a step of a stage that counts bytes.
fn unit(stage: Stage) -> u64 {
    match stage {
        Stage::Downloading => 1 << 10,
        _ => 1,
    }
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Loading => "Loading",
        Stage::Estimating => "Estimating depth",
        Stage::Encoding => "Encoding",
        Stage::Training => "Training",
        Stage::Inverting => "Inverting",
        Stage::Sampling => "Sampling",
        Stage::Decoding => "Decoding",
        Stage::Exporting => "Exporting",
        Stage::Downloading => "Downloading",
    }
}
