//! The latents of what is shown, where somebody wants to see their motion: encoded off the interface's thread.

use std::sync::atomic::Ordering;

use super::app::App;
use super::instruments::Unencoded;
use super::task::Task;
use crate::job::{self, Latents};
use crate::report::Report;

/// A clip that the model encodes.
pub(super) struct Encoding {
    of: Unencoded,
    task: Task<Result<Option<Latents>, Report>>,
}

impl App {
    /// Hands encoded clips to the instruments and begins with the next one they ask for.
    pub(super) fn tick_latents(&mut self) {
        if let Some(done) = self.encoding.as_ref().and_then(|e| e.task.take())
            && let Some(encoding) = self.encoding.take()
        {
            let latents = match done {
                Ok(Some(latents)) => Ok(latents),
                Ok(None) => Err("The encoding was stopped.".to_owned()),
                Err(report) => {
                    let headline = report.headline.clone();
                    self.notices.problem(report, None);
                    Err(headline)
                }
            };
            let ctx = self.ctx.clone();
            self.instruments.set_latents(&ctx, &encoding.of, latents);
        }
        if self.encoding.is_some() {
            return;
        }
        let Some(of) = self.instruments.unencoded() else {
            return;
        };
        let (frames, model) = (of.frames.clone(), self.document.model.clone());
        let task = self.start("encode clip", move |stop| {
            let stopped = || stop.load(Ordering::Relaxed);
            job::clip_latents(&frames, model.as_deref(), &stopped)
        });
        self.encoding = task.map(|task| Encoding { of, task });
    }
}
