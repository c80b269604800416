//! A suite: many drawn clips, trained in several ways, each compared with its known truth. A cell that is in the folder is
//! not computed again, so that a suite that was stopped or killed goes on.
//!
//! ```text
//! SUITE/suite.json              the settings that all cells share
//! SUITE/clips/clip 01/          the pictures of a clip; its truth in `clip 01.json` beside it
//! SUITE/cells/CELL/cell.json    what the cell found, written last; its films in `inverted` and `noise`
//! SUITE/table.md, summary.json, cells.csv
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::context::JobContext;
use super::fitting::fit_for;
use super::message::Event;
use super::model::{check_method, model_record, open_model, recommended};
use super::problem::Halt;
use super::request::{
    Request, ResultRequest, SampleRequest, SamplingChanges, SuiteRequest, TrainRequest,
};
use super::work;
use crate::evaluate::drawn::to_pixels;
use crate::evaluate::{
    Cell, CellResult, DrawnClip, Known, Scorecard, Summary, Training, csv, score,
};
use crate::methods::Method;
use crate::models::ModelKind;
use crate::project::{Control, ModelRecord, ProjectError, try_lock, write_atomic};
use crate::report::{Area, Report};
use crate::train::{Start, TransferConfig};
use crate::video::{self, Clip, ExportFormat, ExportOptions, Frame, Limits, PICTURE_FPS};

/// Layout version of a suite's folder.
const SUITE_FORMAT: u32 = 1;
const RECORD: &str = "suite.json";
const CELL: &str = "cell.json";
/// What the two samples of a cell start from; also the names of their films.
const STARTS: [(&str, Start); 2] = [("inverted", Start::Inverted), ("noise", Start::Noise)];

/// What all cells of a suite share: cells made with other settings are no rows of one table.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SuiteRecord {
    format: u32,
    program: String,
    model: ModelRecord,
    frames: usize,
    size_px: [u32; 2],
    settings: TransferConfig,
}

/// A suite under way.
struct Suite<'a> {
    request: &'a SuiteRequest,
    record: SuiteRecord,
    cells: Vec<(Cell, Method)>,
    _lock: File,
}

/// Computes the cells that are missing, then writes the table; also the table of what is there when it is stopped.
pub(super) fn run(job: &mut JobContext, request: &SuiteRequest) -> Result<(), Halt> {
    let suite = Suite::open(request)?;
    let (mut done, mut missing) = (Vec::new(), Vec::new());
    for (cell, method) in &suite.cells {
        match suite.kept(cell) {
            Some(result) => done.push(result),
            None => missing.push((cell, *method)),
        }
    }
    let all = count(suite.cells.len());
    job.emit(Event::Suite {
        cells: all,
        kept: count(done.len()),
    });
    let (mut secs, total) = (0.0, missing.len());
    for (at, (cell, method)) in missing.into_iter().enumerate() {
        let computed = job.go_on().and_then(|()| suite.compute(job, cell, method));
        let result = match computed {
            Ok(result) => result,
            Err(halt) => {
                suite.write_table(job, &done)?;
                return Err(halt);
            }
        };
        secs += result.secs;
        let name = cell.name();
        job.emit(Event::Cell {
            name,
            done: count(done.len() + 1),
            cells: all,
            secs: result.secs,
            left_secs: secs / (at + 1) as f64 * (total - at - 1) as f64,
        });
        done.push(result);
    }
    suite.write_table(job, &done)
}

impl<'a> Suite<'a> {
    /// Makes the folder or opens it again.
    fn open(request: &'a SuiteRequest) -> Result<Self, Halt> {
        // An image model is inflated by a method also where nothing is trained: its cell without a training is the first one's.
        let untrained = match request.methods.first() {
            Some(method) if method.model_kind() == ModelKind::Image => *method,
            _ => Method::default(),
        };
        let mut settings = TransferConfig {
            // The cells' own; what their outputs do not depend on is fixed, so that it cannot tell two suites apart.
            method: untrained,
            seed: 1,
            start: Start::Inverted,
            preview_every: 0,
            checkpoint_every: 0,
            keep_checkpoints: 1,
            ..request.config.clone()
        };
        settings.check()?;
        if request.clips == 0 || request.seeds == 0 || request.methods.is_empty() {
            return Err(Report::new(Area::Request, "The suite has no cells")
                .advise("Ask for at least one clip, one seed and one method.")
                .into());
        }
        refuse_two_models(request)?;
        let kind = request.methods[0].model_kind();
        let folder = open_model(request.model.as_deref(), None, kind)?;
        for method in &request.methods {
            check_method(*method, &folder)?;
        }
        recommended(&mut settings, &folder)?;
        let fit = fit_for(&settings, &folder.clip_limits())?;
        settings.check_for(fit.frames)?;
        (settings.frames, settings.size) = (Some(fit.frames), Some((fit.width, fit.height)));
        let record = SuiteRecord {
            format: SUITE_FORMAT,
            program: format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
            model: ModelRecord {
                controlnet: None,
                folder: None,
                ..model_record(&folder, request.model.as_deref())?
            },
            frames: fit.frames,
            size_px: [fit.width, fit.height],
            settings,
        };
        let lock = take_folder(&request.folder, &record)?;
        let names: Vec<(String, Method)> = request
            .methods
            .iter()
            .map(|m| (method_name(*m), *m))
            .collect();
        let methods: Vec<String> = names.iter().map(|(name, _)| name.clone()).collect();
        let with_method = |cell: Cell| {
            let known = names
                .iter()
                .find(|(name, _)| cell.method.as_ref() == Some(name));
            (cell, known.map_or(untrained, |(_, method)| *method))
        };
        let cells = Cell::all(request.clips, request.seeds, &methods);
        Ok(Self {
            request,
            record,
            cells: cells.into_iter().map(with_method).collect(),
            _lock: lock,
        })
    }

    fn size(&self) -> (u32, u32) {
        let [width, height] = self.record.size_px;
        (width, height)
    }

    fn cell_folder(&self, cell: &Cell) -> PathBuf {
        self.request.folder.join("cells").join(cell.name())
    }

    /// A cell that is there and whole.
    fn kept(&self, cell: &Cell) -> Option<CellResult> {
        let bytes = fs::read(self.cell_folder(cell).join(CELL)).ok()?;
        let found: CellResult = serde_json::from_slice(&bytes).ok()?;
        (found.cell == *cell).then_some(found)
    }

    /// One training and two samples, each compared with the truth.
    fn compute(
        &self,
        job: &mut JobContext,
        cell: &Cell,
        method: Method,
    ) -> Result<CellResult, Halt> {
        let folder = self.cell_folder(cell);
        if folder.exists() {
            // Left by a program that ended in the middle.
            fs::remove_dir_all(&folder).map_err(failed("remove", &folder))?;
        }
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        let drawn = DrawnClip::new(cell.clip, self.record.frames);
        let frames = drawn.frames(self.size());
        let clip = self.write_clip(cell.clip, &drawn, &frames)?;
        let began = Instant::now();
        let run = folder.join("run");
        self.train_and_sample(job, cell, (method, &drawn), (&clip, &run))?;
        let mut result = CellResult {
            cell: cell.clone(),
            secs: began.elapsed().as_secs_f64(),
            samples: Vec::new(),
        };
        for (name, _) in STARTS {
            let film = video::load(&folder.join(name), &Limits::default(), &|| false)?;
            let card = self.compare(&drawn, &frames, &film)?;
            result.samples.push((name.to_owned(), card));
        }
        // The weights and their optimiser are a hundred times larger than the films.
        fs::remove_dir_all(&run).map_err(failed("remove", &run))?;
        write_json(&folder.join(CELL), &result)?;
        Ok(result)
    }

    fn train_and_sample(
        &self,
        job: &mut JobContext,
        cell: &Cell,
        (method, drawn): (Method, &DrawnClip),
        (clip, run): (&Path, &Path),
    ) -> Result<(), Halt> {
        let settings = &self.record.settings;
        let lambdas = (settings.lambda_g, settings.lambda_l);
        let (lambda_g, lambda_l) = cell.training.lambdas(lambdas);
        let config = TransferConfig {
            method,
            steps: if cell.training == Training::None {
                0
            } else {
                settings.steps
            },
            lambda_g,
            lambda_l,
            seed: cell.seed,
            ..settings.clone()
        };
        let film = |name: &str| ResultRequest {
            prompt: drawn.edit.to_string(),
            output: Some(run.with_file_name(name)),
            overwrite: false,
            scale_to: None,
        };
        let [(first, _), (second, start)] = STARTS;
        let device = self.request.device;
        let training = TrainRequest {
            clip: clip.to_owned(),
            subject: drawn.scene.subject(),
            more_clips: Vec::new(),
            control: Control::default(),
            model: self.request.model.clone(),
            device,
            config,
            run: Some(run.to_owned()),
            result: Some(film(first)),
        };
        work::train(job, training, None)?;
        let sampling = SampleRequest {
            source: run.to_owned(),
            loras: Vec::new(),
            result: film(second),
            changes: SamplingChanges {
                start: Some(start),
                ..SamplingChanges::default()
            },
            device,
        };
        work::run(job, Request::Sample(Box::new(sampling)))
    }

    fn compare(&self, drawn: &DrawnClip, frames: &[Frame], film: &Clip) -> Result<Scorecard, Halt> {
        let pixels = |path: &[(f64, f64)]| -> Vec<(f64, f64)> {
            path.iter()
                .map(|place| to_pixels(*place, self.size()))
                .collect()
        };
        let (path, other) = (pixels(&drawn.path), pixels(&drawn.other_path));
        let known = Known {
            wanted: drawn.edit,
            shown: drawn.scene,
            path: Some(&path),
            other_path: Some(&other),
        };
        score(frames, &film.frames, &known).map_err(|error| {
            Report::new(Area::Run, "A film of the suite cannot be compared")
                .because_of(&error)
                .advise("Please report this.")
                .into()
        })
    }

    /// The clip as pictures, with its truth beside them; written again by every cell that finds none.
    fn write_clip(
        &self,
        number: u64,
        drawn: &DrawnClip,
        frames: &[Frame],
    ) -> Result<PathBuf, Halt> {
        let clips = self.request.folder.join("clips");
        let path = clips.join(format!("clip {number:02}"));
        let truth = path.with_extension("json");
        if truth.is_file() {
            return Ok(path);
        }
        fs::create_dir_all(&clips).map_err(failed("create", &clips))?;
        let clip = Clip::from_frames(frames.to_vec(), PICTURE_FPS, format!("clip {number:02}"));
        let options = ExportOptions {
            scale_to: None,
            overwrite: true,
            ..ExportOptions::default()
        };
        video::export(&clip, &path, ExportFormat::Png, &options, &mut |_, _| {
            ControlFlow::Continue(())
        })?;
        write_json(
            &truth,
            &serde_json::json!({
                "words": drawn.scene.to_string(),
                "edit": drawn.edit.to_string(),
                "unit": crate::evaluate::drawn::UNIT,
                "path": drawn.path,
                "other_path": drawn.other_path,
            }),
        )?;
        Ok(path)
    }

    fn write_table(&self, job: &JobContext, results: &[CellResult]) -> Result<(), Halt> {
        if results.is_empty() {
            return Ok(());
        }
        let folder = &self.request.folder;
        let mut results: Vec<CellResult> = results.to_vec();
        let place =
            |result: &CellResult| self.cells.iter().position(|(cell, _)| *cell == result.cell);
        results.sort_by_key(place);
        let summary = Summary::of(&results);
        write_atomic(&folder.join("cells.csv"), csv(&results).as_bytes())?;
        write_atomic(&folder.join("table.md"), summary.markdown().as_bytes())?;
        write_json(&folder.join("summary.json"), &summary)?;
        job.emit(Event::Table {
            summary: Box::new(summary),
            folder: folder.clone(),
        });
        Ok(())
    }
}

/// A table is of one model. Where none is named, the method says which built-in one it begins with.
fn refuse_two_models(request: &SuiteRequest) -> Result<(), Halt> {
    let mut kinds = request.methods.iter().map(|method| method.model_kind());
    let first = kinds.next();
    if request.model.is_some() || kinds.all(|kind| Some(kind) == first) {
        return Ok(());
    }
    let headline = "Methods for clips and for still pictures are no rows of one table";
    Err(Report::new(Area::Request, headline)
        .because("VMC and MotionDirector begin with the built-in text-to-video model, Tune-A-Video and ControlVideo with the built-in image model.")
        .advise("Ask for two suites, each in a folder of its own.")
        .into())
}

/// Makes the folder, or finds it made with the same settings; locks it.
fn take_folder(folder: &Path, record: &SuiteRecord) -> Result<File, Halt> {
    let path = folder.join(RECORD);
    if !path.is_file() && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(ProjectError::NotEmpty {
            path: folder.to_owned(),
        }
        .into());
    }
    fs::create_dir_all(folder).map_err(failed("create", folder))?;
    let lock_path = folder.join(".lock");
    let mut options = OpenOptions::new();
    let opened = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path);
    let lock = opened.map_err(failed("create", &lock_path))?;
    match try_lock(&lock) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(ProjectError::Locked {
                path: folder.to_owned(),
            }
            .into());
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path)(error)),
    }
    if !path.is_file() {
        write_json(&path, record)?;
        return Ok(lock);
    }
    let bytes = fs::read(&path).map_err(failed("read", &path))?;
    let found: Option<SuiteRecord> = serde_json::from_slice(&bytes).ok();
    if found.is_none_or(|found| found != *record) {
        let headline = format!(
            "The suite in {} was made with other settings",
            folder.display()
        );
        return Err(Report::new(Area::Request, headline)
            .because("Its cells and new ones would not be rows of one table.")
            .advise("Name another folder with -o, or use the same model, settings and version of this program.")
            .into());
    }
    Ok(lock)
}

/// A method's name as it is typed.
fn method_name(method: Method) -> String {
    let name = serde_json::to_value(method).ok();
    name.and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Halt> {
    let damaged = |error: serde_json::Error| ProjectError::Damaged {
        path: path.to_owned(),
        detail: error.to_string(),
    };
    let text = serde_json::to_string_pretty(value).map_err(damaged)? + "\n";
    Ok(write_atomic(path, text.as_bytes())?)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Halt + use<> {
    let path = path.to_owned();
    move |source| {
        ProjectError::Io {
            action,
            path,
            source,
        }
        .into()
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
