//! Errors of all rooms, told in the user's words, once.

use crate::report::{Area, Report};

/// Why a task ends early.
#[derive(Debug)]
pub enum Halt {
    /// It was asked to stop.
    Stopped,
    /// It cannot go on.
    Failed(Report),
}

impl From<Report> for Halt {
    fn from(report: Report) -> Self {
        Self::Failed(report)
    }
}
