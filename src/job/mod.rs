//! Jobs: one named thread per job, commands in, events out.
//!
//! All tensor work of a job happens on its thread. Small things travel as [`Event`]s over a bounded channel, pictures
//! through a [`Latest`] slot. A panic is caught at the top of the thread, and [`Event::Finished`] is always the last event.

mod cancel;
mod changes;
mod clips;
mod command_line;
mod comparison;
mod context;
mod depth;
mod download;
mod export;
mod fitting;
mod latents;
mod latest;
mod lora;
pub mod message;
mod model;
mod problem;
mod replay;
mod request;
mod room;
mod sampling;
mod saved;
mod session;
mod suite;
mod training;
mod work;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

pub use cancel::{CancelToken, break_if};
pub use command_line::command_line;
pub use comparison::score_sample;
pub use context::JobContext;
pub use depth::depth_of_frames;
pub use download::{DownloadRequest, download};
pub use fitting::{fit_clip, fit_for};
pub use latents::{Latents, clip_latents};
pub use latest::Latest;
pub use lora::{
    LoraExport, LoraNames, LoraReport, LoraRequest, LoraShare, LoraWritten, check_lora, export_lora,
};
pub use message::{Command, Event, Outcome, Setting, Stage, StopReason};
pub use model::BUILTIN;
pub use problem::Halt;
pub use replay::ReplayRequest;
pub use request::{
    CutChanges, DeviceChoice, EvaluateRequest, Request, ResultRequest, ResumeRequest,
    SampleRequest, SamplingChanges, SuiteRequest, TrainRequest, Until, device_name, set_threads,
};
pub use sampling::{GUIDANCE, SAMPLING_STEPS};
pub use saved::WeightsAbout;

use crate::report::Report;
use crate::video::Frame;

/// Called after each event, so that a window can wake up. Tests count the calls.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Events a watcher may lag behind before droppable ones are dropped and the job waits with the others.
const EVENT_QUEUE: usize = 256;
/// Commands that may wait; a person cannot give more within one step.
const COMMAND_QUEUE: usize = 64;
/// Backward passes and dropping a graph recurse once per chained operation; 2 MiB overflow after 1,000 to 2,000 of them.
const STACK_BYTES: usize = 256 << 20;

/// The pixels of a preview, newest only.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Training steps done when it was sampled.
    pub step: u32,
    /// Its words.
    pub prompt: String,
    /// Its pictures, as large as the model paints them.
    pub frames: Vec<Frame>,
    /// Frames per second.
    pub fps: f64,
}

/// A watcher's end of a job. Dropping it asks the job to stop and does not wait for it.
pub struct JobHandle {
    commands: Sender<Command>,
    events: Receiver<Event>,
    cancel: CancelToken,
    preview: Arc<Latest<Preview>>,
    thread: Option<JoinHandle<()>>,
}

/// A way to command a job from elsewhere, for instance from a signal handler.
#[derive(Clone)]
pub struct Commander {
    commands: Sender<Command>,
    cancel: CancelToken,
}

impl Commander {
    /// Sends a command. A stop takes effect at once, even in the middle of a denoising loop.
    ///
    /// # Errors
    /// Gives the command back when the job is over or has 64 commands waiting.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        if command == Command::Stop {
            self.cancel.cancel();
        }
        match self.commands.try_send(command) {
            // The token already tells the stop; the queue only wakes a paused job.
            Err(TrySendError::Full(Command::Stop)) | Ok(()) => Ok(()),
            Err(TrySendError::Full(command) | TrySendError::Disconnected(command)) => Err(command),
        }
    }
}

impl JobHandle {
    /// The events in order; the channel closes after [`Event::Finished`].
    #[must_use]
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// A way to command the job from elsewhere.
    #[must_use]
    pub fn commander(&self) -> Commander {
        Commander {
            commands: self.commands.clone(),
            cancel: self.cancel.clone(),
        }
    }

    /// Sends a command, see [`Commander::send`].
    ///
    /// # Errors
    /// Gives the command back when the job is over or has 64 commands waiting.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.commander().send(command)
    }

    /// The newest preview nobody has taken yet.
    #[must_use]
    pub fn preview(&self) -> Option<Preview> {
        self.preview.take()
    }

    /// Reads the events that are left and waits for the thread to end.
    pub fn wait(mut self) -> Vec<Event> {
        let events = self.events.iter().collect();
        if let Some(thread) = self.thread.take() {
            // A panic in the task is caught inside the thread and already told as an event.
            thread.join().ok();
        }
        events
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.commander().send(Command::Stop).ok();
    }
}

/// Runs a request as a job.
///
/// # Errors
/// When the operating system gives no thread.
pub fn spawn(request: Request, waker: Waker) -> std::io::Result<JobHandle> {
    spawn_task("job", waker, move |job| work::run(job, request))
}

/// Runs a task as a job on its own named thread.
///
/// # Errors
/// When the operating system gives no thread.
pub fn spawn_task(
    name: &str,
    waker: Waker,
    task: impl FnOnce(&mut JobContext) -> Result<(), Halt> + Send + 'static,
) -> std::io::Result<JobHandle> {
    let (command_sender, commands) = bounded(COMMAND_QUEUE);
    let (events, event_receiver) = bounded(EVENT_QUEUE);
    let cancel = CancelToken::new();
    let preview = Arc::new(Latest::default());
    let mut context = JobContext {
        events,
        commands,
        cancel: cancel.clone(),
        preview: Arc::clone(&preview),
        waker,
        deferred: VecDeque::new(),
        step: AtomicU32::new(0),
        stop: None,
    };
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let outcome = match catch_unwind(AssertUnwindSafe(|| task(&mut context))) {
                Ok(Ok(())) => Outcome::Completed,
                Ok(Err(Halt::Stopped)) => Outcome::Cancelled {
                    reason: context.stop.unwrap_or(StopReason::Asked),
                },
                Ok(Err(Halt::Failed(report))) => Outcome::Failed(report),
                Err(panic) => Outcome::Failed(Report::of_panic(
                    "The program made a mistake and stopped this job",
                    panic.as_ref(),
                )),
            };
            context.refuse_leftovers();
            context.emit(Event::Finished(outcome));
        })?;
    Ok(JobHandle {
        commands: command_sender,
        events: event_receiver,
        cancel,
        preview,
        thread: Some(thread),
    })
}
