//! The job's own end of its channels: telling events, reading commands, noticing a stop.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::channel::{Receiver, Sender, TryRecvError};

use super::cancel::CancelToken;
use super::latest::Latest;
use super::message::{Command, Event, Stage, StopReason};
use super::problem::Halt;
use super::{Preview, Waker};
use crate::report::{Area, Report};

/// Given to the task that runs on a job's thread.
pub struct JobContext {
    pub(super) events: Sender<Event>,
    pub(super) commands: Receiver<Command>,
    pub(super) cancel: CancelToken,
    pub(super) preview: Arc<Latest<Preview>>,
    pub(super) waker: Waker,
    /// Commands read where they could not be obeyed; the training loop takes them first.
    pub(super) deferred: VecDeque<Command>,
    /// Training steps done, named in the answers to `Pause` and `Resume`.
    pub(super) step: AtomicU32,
    pub(super) stop: Option<StopReason>,
}

impl JobContext {
    /// Tells an event that must not be lost; waits for a slow watcher.
    pub fn emit(&self, event: Event) {
        if self.events.send(event).is_err() {
            self.cancel.cancel();
        }
        (self.waker)();
    }

    /// Tells an event that a slow watcher may miss.
    pub fn emit_droppable(&self, event: Event) {
        if self.events.try_send(event).is_ok() {
            (self.waker)();
        }
    }

    /// Tells that a stage begins.
    pub fn stage(&self, stage: Stage, total: Option<usize>) {
        self.emit(Event::Stage {
            stage,
            total: total.map(count),
        });
    }

    /// Tells how far a stage is.
    pub fn progress(&self, stage: Stage, done: usize, total: usize) {
        self.emit_droppable(Event::Progress {
            stage,
            done: count(done),
            total: count(total),
        });
    }

    /// Publishes the pixels of a preview for whoever wants to draw them.
    pub fn publish_preview(&self, preview: Preview) {
        self.preview.publish(preview);
    }

    /// Notes how many training steps are done, for the answers to `Pause` and `Resume`.
    pub fn set_step(&self, step: u32) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// The job's token, for work that polls it by itself.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// The next command for the training loop. With `wait` it blocks until there is one; without, it answers at once.
    /// A stop, or a watcher that is gone, always comes first.
    pub fn next_command(&mut self, wait: bool) -> Option<Command> {
        if self.cancel.is_cancelled() {
            return Some(self.stopped(StopReason::Asked));
        }
        if let Some(command) = self.deferred.pop_front() {
            return Some(command);
        }
        let received = if wait {
            self.commands.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            self.commands.try_recv()
        };
        match received {
            _ if self.cancel.is_cancelled() => Some(self.stopped(StopReason::Asked)),
            Ok(Command::Stop) => Some(self.stopped(StopReason::Asked)),
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(self.stopped(StopReason::WatcherGone)),
        }
    }

    /// Called between two small pieces of work of any stage but training: obeys pause, resume and stop at once and
    /// keeps everything else for the training loop.
    pub fn poll(&mut self) -> ControlFlow<()> {
        let mut paused = false;
        let mut kept = std::mem::take(&mut self.deferred);
        let flow = loop {
            match self.next_command(paused) {
                Some(Command::Stop) => break ControlFlow::Break(()),
                Some(Command::Pause) => {
                    paused = true;
                    self.emit(Event::Paused {
                        step: self.step.load(Ordering::Relaxed),
                    });
                }
                Some(Command::Resume) => {
                    paused = false;
                    self.emit(Event::Resumed {
                        step: self.step.load(Ordering::Relaxed),
                    });
                }
                Some(other) => kept.push_back(other),
                None => break ControlFlow::Continue(()),
            }
        };
        self.deferred = kept;
        flow
    }

    /// [`Self::poll`] as a result: a stop ends the task.
    ///
    /// # Errors
    /// [`Halt::Stopped`] when the job was asked to stop.
    pub fn go_on(&mut self) -> Result<(), Halt> {
        match self.poll() {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Halt::Stopped),
        }
    }

    /// Tells, for every command that nobody can obey any more, that it was not obeyed.
    pub(super) fn refuse_leftovers(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.deferred.push_back(command);
        }
        for command in std::mem::take(&mut self.deferred) {
            if command == Command::Stop {
                continue;
            }
            let report = Report::new(Area::Request, format!("{} came too late", name(&command)))
                .because("It acts on a running training, and this one is over.");
            self.emit(Event::Warning(report));
        }
    }

    fn stopped(&mut self, reason: StopReason) -> Command {
        self.cancel.cancel();
        self.stop.get_or_insert(reason);
        Command::Stop
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Pause => "The pause",
        Command::Resume => "The resume",
        Command::Set { .. } => "The changed setting",
        Command::SampleNow { .. } => "The sample",
        Command::CheckpointNow => "The checkpoint",
        Command::Stop => "The stop",
    }
}
