//! What can go wrong with a model's files.

use std::fmt;
use std::path::PathBuf;

use super::mistake::Mistake;
use crate::schedulers::SchedulerError;

/// Why a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The folder is not laid out as diffusers does it.
    #[error("{} is not a model folder: {} missing", path.display(), enumerate(missing))]
    NotAModelFolder {
        /// The folder that was opened.
        path: PathBuf,
        /// Files and folders that should be in it.
        missing: Vec<String>,
    },
    /// A ControlNet is wanted where there is none.
    #[error("{} is not the folder of a ControlNet: config.json missing", path.display())]
    NotAControlNet {
        /// The folder that was looked into.
        path: PathBuf,
    },
    /// A model of which a part is not there.
    #[error(
        "{} is not complete: {} missing{}",
        path.display(),
        enumerate(missing),
        unfinished(partial)
    )]
    Incomplete {
        /// The folder that was opened.
        path: PathBuf,
        /// Files that should be in it.
        missing: Vec<String>,
        /// What a download left behind that did not end.
        partial: Vec<String>,
    },
    /// Something else than a model's folder was named.
    #[error("{} {mistake}", path.display())]
    Mistaken {
        /// What was named.
        path: PathBuf,
        /// What it is.
        mistake: Mistake,
    },
    /// A file that stands for one Git would still have to fetch.
    #[error(
        "{} is a note of Git LFS in place of the file itself, which was not downloaded",
        path.display()
    )]
    Pointer {
        /// Which file.
        path: PathBuf,
    },
    /// A configuration file that cannot be understood.
    #[error("{file} could not be understood: {why}")]
    Config {
        /// Which file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Weights that do not fit the network their configuration describes.
    #[error("{0}")]
    Keys(Box<KeyReport>),
    /// Trained weights that do not fit the model they are put on.
    #[error("{}", trained(.0))]
    Trained(Box<KeyReport>),
    /// A LoRA of another program that does not fit the model it is put on.
    #[error("the LoRA in {file} cannot be put on this model: {why}")]
    Lora {
        /// Which file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A valid model this program cannot run.
    #[error("this model needs {what}, which is not supported")]
    Unsupported {
        /// What it needs.
        what: String,
    },
    /// A file could not be read.
    #[error("{} could not be read: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A weight file that is damaged, of another format, or asks for more than to be read.
    #[error("the weight file {file} is damaged or not {format}: {why}")]
    Weights {
        /// Which file.
        file: String,
        /// What its name says it is.
        format: WeightFormat,
        /// What is wrong with it.
        why: String,
    },
    /// The scheduler's configuration.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// A tensor operation failed, for example for lack of memory.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// What to do about it, one sentence.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Mistaken { mistake, .. } => return mistake.advice(),
            Self::Incomplete { .. } => {
                "Download the model again and let it finish; every file of the folder is needed."
            }
            Self::NotAControlNet { .. } => {
                "ControlVideo needs a ControlNet for Stable Diffusion 1.x in diffusers layout beside the model: name its folder with --controlnet."
            }
            Self::Pointer { .. } => {
                "Run `git lfs pull` in the folder, or download the model's files by other means."
            }
            Self::Scheduler(_) => "Check the model's scheduler_config.json.",
            Self::Tensor(_) => "If memory is full, use --device cpu; otherwise please report this.",
            Self::Io { .. } => "Check that the files are there and that you may read them.",
            Self::Keys(_) | Self::Weights { .. } => {
                "Get the model again; its files are incomplete or belong to another one."
            }
            Self::Trained(_) => {
                "Use the model that these weights were trained with, or a run of that model."
            }
            Self::Lora { .. } => {
                "Use a LoRA that was made for this model; `spectral-motion lora check FILE --model FOLDER` lists what fits."
            }
            Self::NotAModelFolder { .. } | Self::Config { .. } | Self::Unsupported { .. } => {
                "Use a ModelScope or ZeroScope model in diffusers layout, Stable Diffusion 1.x for the methods that begin with an image model, or leave --model out."
            }
        }
        .to_owned()
    }
}

/// Formats of weight files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// `.safetensors`.
    Safetensors,
    /// `.bin` of PyTorch.
    Torch,
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "a safetensors file",
            Self::Torch => "a PyTorch file of nothing but tensors",
        })
    }
}

/// A weight whose shape is not the one its network needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongShape {
    /// Full name of the weight.
    pub name: String,
    /// Shape the configuration asks for.
    pub expected: Vec<usize>,
    /// Shape in the file.
    pub found: Vec<usize>,
}

/// Every difference between the weights a network asked for and those its files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// Where the weights came from.
    pub files: String,
    /// Asked for and not there.
    pub missing: Vec<String>,
    /// There and not asked for.
    pub unexpected: Vec<String>,
    /// There with another shape.
    pub wrong_shape: Vec<WrongShape>,
}

impl KeyReport {
    /// Whether everything fits.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty()
    }

    /// The differences in words, each behind a semicolon.
    pub(super) fn differences(&self) -> String {
        let shapes: Vec<String> = self
            .wrong_shape
            .iter()
            .map(|w| format!("{} is {:?} instead of {:?}", w.name, w.found, w.expected))
            .collect();
        let mut text = String::new();
        for (what, names) in [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("wrong shape", &shapes),
        ] {
            if !names.is_empty() {
                text.push_str(&format!("; {} {what}: {}", names.len(), enumerate(names)));
            }
        }
        text
    }
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return write!(f, "the weights in {} fit the configuration", self.files);
        }
        write!(
            f,
            "the weights in {} do not fit the configuration beside them{}",
            self.files,
            self.differences()
        )
    }
}

/// What is wrong with trained weights for a model.
fn trained(report: &KeyReport) -> String {
    let file = &report.files;
    if report.is_clean() {
        return format!("{file} holds no weights");
    }
    format!(
        "the trained weights in {file} do not fit this model{}",
        report.differences()
    )
}

/// The first few names, and how many more there are.
pub(super) fn enumerate(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(|name| shown(name))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn unfinished(partial: &[String]) -> String {
    match partial {
        [] => String::new(),
        names => format!("; a download did not end: {}", enumerate(names)),
    }
}

/// What a reader finds out, or what is wrong in words that follow the name of the file.
pub(super) type Parsed<T> = Result<T, String>;

/// A name out of a file, fit for a message: not too long, and nothing a terminal obeys.
pub(crate) fn shown(name: &str) -> String {
    const SHOWN: usize = 100;
    printable(name, SHOWN)
}

/// What a parser says, which may repeat any text of the file: as [`shown`], with room for a sentence.
pub(super) fn said(error: &str) -> String {
    const SHOWN: usize = 400;
    printable(error, SHOWN)
}

fn printable(text: &str, most: usize) -> String {
    let mut printable = String::new();
    for letter in text.chars().take(most) {
        match letter {
            '"' | '\'' | '\\' => printable.push(letter),
            other => printable.extend(other.escape_debug()),
        }
    }
    if text.chars().nth(most).is_some() {
        printable.push('…');
    }
    printable
}
