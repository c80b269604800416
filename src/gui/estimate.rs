//! How long a run takes and how much memory it needs: figures measured on this machine, and before the first run those of
//! the machine the program was made on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::app::Document;
use super::media::ModelInfo;
use crate::methods::Method;
use crate::train::TransferConfig;

/// Seconds between two looks at the memory.
const LOOK_SECS: f64 = 1.0;

/// What one kind of run took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Measured {
    step_secs: f64,
    rest_secs: f64,
    peak_mib: f64,
}

/// What a run with a built-in model took on one core of a server processor whose other core drew the window: a step, everything
/// else (four samples, three of them on the way), and the memory of the whole program.
fn on_one_core(method: Method) -> Measured {
    let (step_secs, rest_secs, peak_mib) = match method {
        Method::Vmc => (0.31, 29.0, 320.0),
        Method::MotionDirector => (0.77, 31.0, 480.0),
        Method::TuneAVideo => (0.25, 20.0, 400.0),
        Method::ControlVideo => (0.26, 21.0, 400.0),
    };
    Measured {
        step_secs,
        rest_secs,
        peak_mib,
    }
}

/// What runs took on this machine, by model and size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pace(BTreeMap<String, Measured>);

/// Kinds of run that are remembered.
const KINDS: usize = 64;

/// Names what decides how long a step takes.
#[must_use]
pub fn key(document: &Document, model: Option<&ModelInfo>) -> String {
    let settings = &document.settings;
    let name = model.map_or("", |model| model.name.as_str());
    let (frames, size) = model.map_or((0, (0, 0)), |model| {
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        (
            settings.frames.unwrap_or(model.limits.default_frames),
            settings
                .size
                .unwrap_or((side(model.limits.width), side(model.limits.height))),
        )
    });
    let method = settings.method;
    format!("{name} {method:?} {frames} {}x{}", size.0, size.1)
}

/// What a run will take, in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// One or two sentences.
    pub text: String,
    /// Whether it needs more memory than there is.
    pub is_too_large: bool,
}

impl Pace {
    /// Notes what a run took.
    pub fn learn(&mut self, key: &str, step_secs: f64, rest_secs: Option<f64>, peak_mib: f64) {
        if self.0.len() >= KINDS && !self.0.contains_key(key) {
            self.0.clear();
        }
        let measured = self.0.entry(key.to_owned()).or_default();
        measured.step_secs = step_secs;
        measured.rest_secs = rest_secs.unwrap_or(measured.rest_secs);
        measured.peak_mib = peak_mib.max(measured.peak_mib);
    }

    /// What a run will take on a machine with so much memory, where that is known.
    #[must_use]
    pub fn estimate(
        &self,
        document: &Document,
        model: Option<&ModelInfo>,
        memory_mib: Option<f64>,
    ) -> Estimate {
        let settings = &document.settings;
        let as_measured =
            document.model.is_none() && (settings.frames, settings.size) == (None, None);
        let known = self.0.get(&key(document, model)).cloned();
        let here = known.is_some();
        let builtin = as_measured.then(|| on_one_core(settings.method));
        let (mut text, needed_mib) = match known.or(builtin) {
            Some(measured) => {
                let secs = measured.step_secs * f64::from(settings.steps) + measured.rest_secs;
                let place = if here {
                    "as the last run here"
                } else {
                    "measured on one processor core"
                };
                let memory = if measured.peak_mib > 0.0 {
                    format!(" and {} of memory", gigabytes(measured.peak_mib))
                } else {
                    String::new()
                };
                let time = super::player::length(secs);
                (format!("About {time}{memory}, {place}."), measured.peak_mib)
            }
            // How long is not guessed; how much memory follows from the shapes.
            None => {
                let needed = model.map_or(0.0, |model| needed_mib(settings, model));
                let mut text = "How long it takes is known after the first run.".to_owned();
                if needed > 0.0 {
                    let most = gigabytes(needed);
                    text.push_str(&format!(
                        " On the processor it takes about {most} of memory."
                    ));
                }
                (text, needed)
            }
        };
        let is_too_large = memory_mib.is_some_and(|there| needed_mib > there);
        if let Some(there) = memory_mib.filter(|_| is_too_large) {
            text.push_str(&format!(" This computer has {}.", gigabytes(there)));
        }
        Estimate { text, is_too_large }
    }
}

/// Mebibytes as the list of models and the command line tell them: 1 GB is 10^9 bytes.
#[must_use]
pub fn gigabytes(mib: f64) -> String {
    const MIB: f64 = 1_048_576.0;
    format!("{:.1} GB", mib * MIB / 1e9)
}

/// Memory that a training on the processor takes, from the shapes of its tensors.
fn needed_mib(settings: &TransferConfig, model: &ModelInfo) -> f64 {
    let limits = &model.limits;
    let frames = settings.frames.unwrap_or(limits.default_frames);
    let (width, height) = settings.size.map_or((limits.width, limits.height), |size| {
        (size.0 as usize, size.1 as usize)
    });
    let latents = |side: usize| side / limits.size_multiple.max(1);
    let clip = [frames, latents(height), latents(width)];
    let need = model.network.need(settings, clip);
    need.bytes() as f64 / f64::from(1 << 20)
}

/// How full the memory is.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    looked_at: Option<f64>,
    used_mib: f64,
    total_mib: f64,
    peak_mib: f64,
}

impl Gauge {
    /// Looks again, once a second.
    pub fn tick(&mut self, now_secs: f64) {
        if self.looked_at.is_some_and(|at| now_secs - at < LOOK_SECS) {
            return;
        }
        self.looked_at = Some(now_secs);
        if self.total_mib <= 0.0 {
            self.total_mib = field_mib("/proc/meminfo", "MemTotal:").unwrap_or(0.0);
        }
        self.used_mib = field_mib("/proc/self/status", "VmRSS:").unwrap_or(0.0);
        self.peak_mib = self.peak_mib.max(self.used_mib);
    }

    /// A run begins: its own peak counts.
    pub fn start_peak(&mut self) {
        self.peak_mib = self.used_mib;
    }

    /// Most memory since the run began, in MiB.
    #[must_use]
    pub fn peak_mib(&self) -> f64 {
        self.peak_mib
    }

    /// Memory this program uses and the machine has, in MiB; none where the system does not say.
    #[must_use]
    pub fn reading_mib(&self) -> Option<(f64, f64)> {
        (self.used_mib > 0.0 && self.total_mib > 0.0).then_some((self.used_mib, self.total_mib))
    }
}

/// A number in KiB from one of Linux's own tables, as MiB. They are made in memory: reading them waits for no disk.
fn field_mib(table: &str, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(table).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::{Control, Project};

    fn document(steps: u32, model: Option<&str>) -> Document {
        Project {
            clip: None,
            more_clips: Vec::new(),
            model: model.map(Into::into),
            control: Control::default(),
            subject: String::new(),
            prompt: String::new(),
            runs: Vec::new(),
            settings: TransferConfig {
                steps,
                ..TransferConfig::default()
            },
        }
    }

    #[test]
    fn what_was_measured_is_told_and_nothing_is_guessed() {
        let mut pace = Pace::default();
        let first = pace.estimate(&document(40, None), None, Some(8192.0));
        // 40 steps of 0.31 s and 29 s for the rest.
        assert!(
            first.text.starts_with("About 41 s and 0.3 GB"),
            "{}",
            first.text
        );
        let strange = pace.estimate(&document(40, Some("/models/large")), None, Some(8192.0));
        assert!(
            strange.text.contains("after the first run"),
            "{}",
            strange.text
        );

        pace.learn(&key(&document(40, None), None), 2.0, Some(10.0), 9000.0);
        let second = pace.estimate(&document(40, None), None, Some(8192.0));
        assert!(
            second.text.starts_with("About 1 min 30 s and 9.4 GB"),
            "{}",
            second.text
        );
        assert!(second.is_too_large && second.text.contains("This computer has 8.6 GB"));
        let mut other = document(40, None);
        other.settings.method = Method::MotionDirector;
        let third = pace.estimate(&other, None, None);
        assert!(third.text.contains("About 1 min 02 s"), "{}", third.text);
        other.settings.frames = Some(12);
        let fourth = pace.estimate(&other, None, None);
        assert!(
            fourth.text.contains("after the first run"),
            "{}",
            fourth.text
        );
    }
}
