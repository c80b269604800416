//! Fetching models as a job: progress, cancel, and the words for what goes wrong.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::context::JobContext;
use super::message::{Event, Stage};
use super::problem::Halt;
use crate::library::{Hub, Library, Plan, Progress, State};
use crate::report::{Area, Report};

/// Between two words on how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What is to be fetched. A person has seen size and licence, and agreed.
#[derive(Clone, Debug)]
pub struct DownloadRequest {
    /// Where it goes.
    pub library: Library,
    /// Where it comes from.
    pub hub: Hub,
    /// One model or several.
    pub plans: Vec<Plan>,
}

/// Fetches models, one after the other.
///
/// # Errors
/// [`Halt::Stopped`] when it was cancelled; what is here already is kept.
pub fn download(job: &mut JobContext, request: &DownloadRequest) -> Result<(), Halt> {
    for plan in &request.plans {
        job.stage(Stage::Downloading, Some(kibibytes(plan.bytes())));
        let mut told: Option<Instant> = None;
        let mut go_on = |progress: &Progress<'_>| -> ControlFlow<()> {
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
                let done = kibibytes(progress.done_bytes);
                job.progress(Stage::Downloading, done, kibibytes(progress.total_bytes));
            }
            job.poll()
        };
        let folder = request.library.fetch(&request.hub, plan, &mut go_on)?;
        let all = kibibytes(plan.bytes());
        job.progress(Stage::Downloading, all, all);
        let name = plan.known.name;
        match request.library.entry(name)?.state {
            State::Present => {}
            State::Missing { files, .. } => {
                return Err(odd(plan, &format!("It lacks {}.", files.join(", "))).into());
            }
            State::Broken { why, advice } => return Err(odd(plan, &why).advise(advice).into()),
        }
        job.emit(Event::ModelReady {
            name: name.to_owned(),
            path: folder,
        });
    }
    Ok(())
}

fn odd(plan: &Plan, why: &str) -> Report {
    let headline = format!("{} is here, but cannot be used", plan.known.title);
    Report::new(Area::Model, headline).because(why)
}

/// The unit in which progress is told: numbers of bytes do not fit into it.
fn kibibytes(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1 << 10)).unwrap_or(usize::MAX)
}
