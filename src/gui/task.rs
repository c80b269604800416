//! Work off the interface's thread: one named thread a task, whose result is taken when it is there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, bounded};
use eframe::egui;

use crate::report::Report;

/// What a task gives. A mistake of the program ends the work as well, and whoever takes the result is told of it as of any
/// other failure, so that nobody waits for ever.
pub trait MayFail {
    /// The work failed.
    fn failed(report: Report) -> Self;
}

impl<T> MayFail for Result<T, Report> {
    fn failed(report: Report) -> Self {
        Err(report)
    }
}

impl<T> MayFail for std::io::Result<T> {
    fn failed(report: Report) -> Self {
        // The headline and the advice are those of whoever takes it.
        let Report {
            headline, cause, ..
        } = report;
        let told: Vec<String> = std::iter::once(headline).chain(cause).collect();
        Err(std::io::Error::other(told.join(": ")))
    }
}

/// Work under way. Dropping it asks the work to stop, and its result is never seen.
#[derive(Debug)]
pub struct Task<T> {
    result: Receiver<T>,
    stop: Arc<AtomicBool>,
}

impl<T: MayFail + Send + 'static> Task<T> {
    /// Starts work on a thread of its own; the window is woken when it is done. The work is handed a flag that tells it
    /// to stop.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        name: &str,
        ctx: &egui::Context,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, result) = bounded(1);
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let ctx = ctx.clone();
        let headline = format!("The program made a mistake in the background (\"{name}\")");
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                lower_priority();
                let done = catch_unwind(AssertUnwindSafe(|| work(&flag)));
                let done = done
                    .unwrap_or_else(|panic| T::failed(Report::of_panic(headline, panic.as_ref())));
                // Nobody waits for it any more when the task was replaced.
                sender.send(done).ok();
                ctx.request_repaint();
            })?;
        Ok(Self { result, stop })
    }

    /// The result, once.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        self.result.try_recv().ok()
    }

    /// Waits for the result; none where it was taken already. For the end of the program, when nothing is drawn any more.
    #[must_use]
    pub fn wait(&self) -> Option<T> {
        self.result.recv().ok()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether background work gives way. Only the real window asks for it: tests want their results soon, also on a machine
/// that is busy with other things.
static GIVES_WAY: AtomicBool = AtomicBool::new(false);

/// From now on background work gives way to the thread that draws.
pub fn give_way() {
    GIVES_WAY.store(true, Ordering::Relaxed);
}

/// Lets the thread that calls this, and the threads it makes, give way to the one that draws.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "the standard library has no way to set a thread's priority"
)]
pub fn lower_priority() {
    const NICER: libc::c_int = 5;
    if !GIVES_WAY.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: takes plain numbers; `0` is the calling thread. A refusal changes nothing, and nothing depends on it.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICER);
    }
}

/// Elsewhere the system's scheduler is trusted to keep the window in front.
#[cfg(not(target_os = "linux"))]
pub fn lower_priority() {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The work panics.
    fn mistaken<T: MayFail + Send + 'static>() -> T {
        let ctx = egui::Context::default();
        let task = Task::<T>::start("sums", &ctx, |_| panic!("one and one is three")).unwrap();
        task.wait().expect("a result of work that failed")
    }

    #[test]
    fn a_mistake_of_the_program_is_a_failure_like_any_other() {
        let report = mistaken::<Result<(), Report>>().unwrap_err();
        assert!(report.headline.contains("\"sums\""), "{report}");
        assert_eq!(report.cause, ["one and one is three"]);
        assert!(!report.what_to_do.is_empty());
        let error = mistaken::<std::io::Result<()>>().unwrap_err().to_string();
        assert!(
            error.contains("\"sums\"") && error.contains("one and one is three"),
            "{error}"
        );
    }
}
