//! Writing the shown sample as a film: a job of its own, with progress and cancel.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::app::App;
use super::dialogs::Dialog;
use super::notices::Action;
use super::queue::waker;
use super::task::Task;
use crate::job::{self, Event, Halt, JobContext, JobHandle, Outcome, Stage};
use crate::project::{Recipe, RunFolder, RunRecord};
use crate::report::{Area, Report};
use crate::train::TransferConfig;
use crate::video::resample::{Filter, Region, resize};
use crate::video::{self, Clip, ExportFormat, ExportOptions, Frame, ScaleTo, Upscale};

/// What is written: the sample that was shown when the form was opened, whatever comes after it.
#[derive(Clone)]
struct Shown {
    frames: Arc<[Frame]>,
    reference: Option<Arc<[Frame]>>,
    run: Option<PathBuf>,
    /// The run's own film of the sample, whose recipe is the sample's.
    film: Option<PathBuf>,
    prompt: String,
    seed: Option<u64>,
    trained_steps: Option<u32>,
}

/// What the form asks for.
#[derive(Clone)]
pub struct ExportForm {
    shown: Shown,
    /// Where the film goes; its ending says the format.
    pub path: String,
    /// 0 to 100.
    pub quality: u8,
    /// Frames per second.
    pub fps: f64,
    /// How often the clip is repeated in the film.
    pub repeats: u32,
    /// Shorter side in pixels at least; 0 keeps the size.
    pub min_side: u32,
    /// Hard pixels instead of smooth ones.
    pub hard_pixels: bool,
    /// The reference to the left of the result.
    pub side_by_side: bool,
    /// How it was made, inside the film.
    pub recipe: bool,
    /// Whether a file of that name may be replaced.
    pub overwrite: bool,
}

/// An export that is going on.
pub struct ExportJob {
    starting: Option<Task<std::io::Result<JobHandle>>>,
    handle: Option<JobHandle>,
    /// Whether it shall stop as soon as it has begun.
    cancelled: bool,
    /// Frames written.
    pub done: u32,
    /// Frames in all.
    pub total: u32,
    /// Where it goes.
    pub path: PathBuf,
}

impl ExportJob {
    /// Asks it to stop; nothing is left behind.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        if let Some(handle) = &self.handle {
            handle.send(job::Command::Stop).ok();
        }
    }
}

impl App {
    /// Opens the form, with a name that is not taken.
    pub(super) fn export_dialog(&mut self) {
        if self.is_exporting() {
            return;
        }
        let Some(sample) = self.queue.sample(self.compare.chosen) else {
            self.notices.say(
                "There is no sample to export yet. Train first, or sample now.",
                None,
            );
            return;
        };
        let words: String = sample
            .prompt
            .chars()
            .map(|letter| {
                if letter.is_alphanumeric() {
                    letter
                } else {
                    ' '
                }
            })
            .take(60)
            .collect();
        let fps = (sample.fps * 100.0).round() / 100.0;
        let run = self.queue.run_of(self.compare.chosen);
        let shown = Shown {
            frames: Arc::clone(&sample.frames),
            reference: self.reference_frames(),
            run: run.and_then(|run| run.folder.clone()),
            film: sample.film.clone().filter(|_| sample.is_result),
            prompt: sample.prompt.clone(),
            seed: sample.seed,
            trained_steps: (!sample.is_result).then_some(sample.step),
        };
        let stem = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let ending = if cfg!(feature = "video") {
            "mp4"
        } else {
            "gif"
        };
        let path = self.suggest_name(self.settings.folder(), stem, ending);
        self.taken.forget();
        self.dialog = Some(Dialog::Export(Box::new(ExportForm {
            shown,
            path: path.display().to_string(),
            quality: 80,
            fps,
            repeats: 3,
            min_side: 512,
            hard_pixels: false,
            side_by_side: false,
            recipe: true,
            overwrite: false,
        })));
    }

    /// Whether a film is being written, which is said: the next one has to wait for it.
    fn is_exporting(&mut self) -> bool {
        if self.export.is_some() {
            self.notices.say(
                "A film is being written. Export the next one when it is done, or cancel it.",
                None,
            );
        }
        self.export.is_some()
    }

    /// Starts writing.
    pub(super) fn start_export(&mut self, form: ExportForm) {
        if self.is_exporting() {
            return;
        }
        let path = PathBuf::from(&form.path);
        let ctx = self.ctx.clone();
        let waker = waker(ctx);
        let starting = self.start("start export", move |_| {
            job::spawn_task("export", waker, move |job| write(job, &form))
        });
        self.export = starting.map(|task| ExportJob {
            starting: Some(task),
            handle: None,
            cancelled: false,
            done: 0,
            total: 0,
            path,
        });
    }

    /// What the shown sample is compared with: the clip that its run learnt from, else the clip that is open.
    pub(super) fn reference_frames(&self) -> Option<Arc<[Frame]>> {
        let run = self.queue.run_of(self.compare.chosen);
        let own = run.and_then(|run| run.reference.clone());
        own.or_else(|| self.cut.as_ref().map(|cut| Arc::clone(&cut.frames)))
    }

    /// Reads what the export told.
    pub(super) fn tick_export(&mut self) {
        let Some(export) = &mut self.export else {
            return;
        };
        if let Some(started) = export.starting.as_ref().and_then(Task::take) {
            export.starting = None;
            match started {
                Ok(handle) => {
                    export.handle = Some(handle);
                    if export.cancelled {
                        export.cancel();
                    }
                }
                Err(error) => {
                    self.export = None;
                    self.notices
                        .failed("The export could not be started", &error);
                    return;
                }
            }
        }
        let Some(handle) = &export.handle else { return };
        let mut finished = None;
        let mut notes = Vec::new();
        for event in handle.events().try_iter().take(100) {
            match event {
                Event::Progress { done, total, .. } => (export.done, export.total) = (done, total),
                Event::Note { text } => notes.push(text),
                Event::Finished(outcome) => finished = Some(outcome),
                _ => {}
            }
        }
        let path = export.path.clone();
        for note in notes {
            self.notices.log(note);
        }
        let Some(outcome) = finished else { return };
        self.export = None;
        match outcome {
            Outcome::Completed => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.notices.say(
                    format!("Exported {name}."),
                    Some(Action::ShowFile(path.clone())),
                );
            }
            Outcome::Cancelled { .. } => self.notices.say("The export was cancelled.", None),
            Outcome::Failed(report) => self.notices.problem(report, None),
        }
    }
}

fn write(job: &mut JobContext, form: &ExportForm) -> Result<(), Halt> {
    let (shown, path) = (&form.shown, Path::new(&form.path));
    let format = ExportFormat::from_path(path)?;
    let beside_it = shown.reference.as_ref().filter(|_| form.side_by_side);
    let once: Vec<Frame> = match beside_it {
        Some(reference) => shown
            .frames
            .iter()
            .enumerate()
            .map(|(index, frame)| beside(reference.get(index % reference.len().max(1)), frame))
            .collect(),
        None => shown.frames.to_vec(),
    };
    let repeats = form.repeats.max(1) as usize;
    let frames: Vec<Frame> = std::iter::repeat_n(once, repeats).flatten().collect();
    job.stage(Stage::Exporting, Some(frames.len()));
    let options = ExportOptions {
        quality: form.quality,
        scale_to: (form.min_side > 0).then_some(ScaleTo {
            min_side: form.min_side,
            upscale: if form.hard_pixels {
                Upscale::Nearest
            } else {
                Upscale::Smooth
            },
        }),
        recipe: recipe(form)?,
        overwrite: form.overwrite,
        ..ExportOptions::default()
    };
    let clip = Clip::from_frames(frames, form.fps, shown.prompt.clone());
    let report = video::export(&clip, path, format, &options, &mut |done, total| {
        job.progress(Stage::Exporting, done, total);
        match job.poll() {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(()) => ControlFlow::Break(()),
        }
    })?;
    for text in report.notes {
        job.emit(Event::Note { text });
    }
    Ok(())
}

/// Two pictures side by side, the left one as high as the right.
fn beside(left: Option<&Frame>, right: &Frame) -> Frame {
    let Some(left) = left else {
        return right.clone();
    };
    let width = (left.width * right.height / left.height.max(1)).max(1);
    let left = resize(left, Region::of(left), width, right.height, Filter::Bicubic);
    let mut both = Frame::filled(width + right.width, right.height, [0; 3]);
    crate::motion::picture::on_canvas(&mut both, &left, 0, 0);
    crate::motion::picture::on_canvas(&mut both, right, width as usize, 0);
    both
}

/// How the film was made: what the run's own film says, or what the run's record says of a sample from its middle.
fn recipe(form: &ExportForm) -> Result<Option<String>, Halt> {
    if !form.recipe {
        return Ok(None);
    }
    let shown = &form.shown;
    if let Some(text) = shown.film.as_deref().and_then(recipe_of) {
        return Ok(Some(text));
    }
    let Some(run) = &shown.run else {
        return Ok(None);
    };
    let record: RunRecord<TransferConfig> = RunFolder::look(run)?;
    let seed = shown.seed.unwrap_or(record.settings.seed);
    let mut recipe = Recipe::of_run(record, shown.prompt.clone(), seed);
    recipe.trained_steps = shown.trained_steps;
    recipe.preview = shown.trained_steps.is_some();
    serde_json::to_string(&recipe).map(Some).map_err(|error| {
        Halt::Failed(Report::new(Area::Run, "The recipe could not be written").because_of(&error))
    })
}

/// The recipe inside a film that the run itself wrote.
fn recipe_of(film: &Path) -> Option<String> {
    video::read_recipe(film).ok().flatten()
}
