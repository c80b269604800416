//! What a person reads when something goes wrong: headline, causes, what to do.
//!
//! Plain data, shown by the command line (and later the window) and carried by events. The error types of the other
//! rooms are translated into it once, in `job::problem`.

use std::any::Any;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Which part of the work a problem belongs to. The command line turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// The clip cannot be read or does not fit the model.
    Clip,
    /// The model folder, its weights or its settings.
    Model,
    /// What was asked for: an option out of range, a folder that is in use.
    Request,
    /// Everything else: a full disk, a run that diverged, a bug.
    Run,
}

/// A problem in the user's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which part of the work it belongs to.
    pub area: Area,
    /// What happened, one sentence.
    pub headline: String,
    /// Why, from the nearest cause to the deepest.
    pub cause: Vec<String>,
    /// What to do about it, one sentence; empty where there is nothing to advise.
    pub what_to_do: String,
}

impl Report {
    /// A problem with its headline only.
    #[must_use]
    pub fn new(area: Area, headline: impl Into<String>) -> Self {
        Self {
            area,
            headline: headline.into(),
            cause: Vec::new(),
            what_to_do: String::new(),
        }
    }

    /// A mistake of the program that ended some work: what a caught panic says of it.
    #[must_use]
    pub fn of_panic(headline: impl Into<String>, panic: &(dyn Any + Send)) -> Self {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Self::new(Area::Run, headline)
            .because(text)
            .advise("Files already written are whole; please report this with the line above.")
    }

    /// Adds one cause; empty ones and repetitions of what is already said are left out.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        let cause = cause.into();
        if !cause.is_empty() && cause != self.headline && !self.cause.contains(&cause) {
            self.cause.push(cause);
        }
        self
    }

    /// Adds an error and everything below it as causes.
    #[must_use]
    pub fn because_of(self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut report = self;
        let mut next = Some(error);
        while let Some(error) = next {
            report = report.because(error.to_string());
            next = error.source();
        }
        report
    }

    /// Says what to do.
    #[must_use]
    pub fn advise(mut self, what_to_do: impl Into<String>) -> Self {
        self.what_to_do = what_to_do.into();
        self
    }
}

impl fmt::Display for Report {
    /// Several lines: the headline, each cause as a bullet, then the advice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.headline)?;
        for cause in &self.cause {
            write!(f, "\n  - {cause}")?;
        }
        if !self.what_to_do.is_empty() {
            write!(f, "\n{}", self.what_to_do)?;
        }
        Ok(())
    }
}
