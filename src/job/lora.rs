//! LoRA files: put on a model for sampling, looked into, and written for other programs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use serde_json::json;

use super::context::JobContext;
use super::message::Event;
use super::model::open_model;
use super::problem::{Halt, tensors};
use super::saved::{TrainedFile, WeightsAbout};
use crate::methods::Method;
use crate::methods::motion_director::{Part, part_of};
use crate::models::{
    AdapterName, Factor, FittedLora, LoraDeltas, LoraFile, LoraFormat, LoraNetwork, LoraPart,
    ModelError, ModelFolder, ModelKind, is_torch,
};
use crate::project::{
    LoraRecord, METADATA_KEY, PlainTensor, RunFolder, TensorFile, sha256_hex, write_atomic,
};
use crate::report::{Area, Report};
use crate::train::plain_from_tensor;

/// Beyond this a LoRA is noise, whatever it was trained on.
const MOST_STRENGTH: f64 = 10.0;

/// A file to put on a model, and how strongly it acts.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraRequest {
    /// A LoRA of another program, or weights that a training of this one left.
    pub file: PathBuf,
    /// 1 is what it was trained for.
    pub strength: f64,
}

impl LoraRequest {
    /// At full strength.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            strength: 1.0,
        }
    }
}

impl FromStr for LoraRequest {
    type Err = String;

    /// `FILE` or `FILE:STRENGTH`. A file whose own name ends like a strength is taken as it is.
    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.rsplit_once(':');
        let strength = split.and_then(|(file, number)| Some((file, number.parse::<f64>().ok()?)));
        match strength {
            Some((file, strength)) if !file.is_empty() && !Path::new(text).exists() => {
                match strength.is_finite() && strength.abs() <= MOST_STRENGTH {
                    true => Ok(Self {
                        file: file.into(),
                        strength,
                    }),
                    false => Err(format!(
                        "a strength is a number from -10 to 10, not {strength}"
                    )),
                }
            }
            _ => Ok(Self::new(text)),
        }
    }
}

/// What is put on a model beside its own weights.
#[derive(Default)]
pub(super) struct Loras {
    /// Weights of a training, and how strongly they act.
    pub(super) trained: Option<(TrainedFile, f64)>,
    /// The files that are added to the model's weights.
    pub(super) records: Vec<LoraRecord>,
}

/// What a file turned out to be.
enum Found {
    /// Trained weights in this program's own names.
    Trained,
    /// Adapters that this program wrote for others; as others see them, and in its own names.
    Exported(FittedLora, TensorFile),
    /// A LoRA of another program.
    Other(FittedLora),
}

/// Puts files on a model: a training's weights beside it, everything else into its weights.
pub(super) fn put(
    job: &JobContext,
    requests: &[LoraRequest],
    folder: ModelFolder,
) -> Result<(ModelFolder, Loras), Halt> {
    let mut loras = Loras::default();
    let mut deltas = LoraDeltas::default();
    let network = network_for(requests, &folder)?;
    for request in requests {
        let found = read(&request.file, &network)?;
        let trained = match (found, loras.trained.is_some()) {
            (Found::Trained, false) => TrainedFile::open(&request.file, &folder)?,
            (Found::Trained, true) => return Err(second(request)),
            (Found::Exported(_, file), false) => {
                TrainedFile::new(&request.file.display().to_string(), file, &folder)?
            }
            (Found::Exported(lora, _) | Found::Other(lora), _) => {
                add(job, request, &lora, &mut deltas, &mut loras.records)?;
                continue;
            }
        };
        trained.check_strength(request.strength)?;
        loras.trained = Some((trained, request.strength));
    }
    Ok((folder.with_loras(deltas), loras))
}

/// Puts files on the model of a run, which has weights of its own.
pub(super) fn put_on_run(
    job: &JobContext,
    requests: &[LoraRequest],
    folder: ModelFolder,
) -> Result<(ModelFolder, Vec<LoraRecord>), Halt> {
    let mut records = Vec::new();
    let mut deltas = LoraDeltas::default();
    let network = network_for(requests, &folder)?;
    for request in requests {
        match read(&request.file, &network)? {
            Found::Trained => {
                return Err(Report::new(Area::Request, "A run has weights of its own")
                    .because(format!("{} was left by a training.", request.file.display()))
                    .advise("Name a model instead of the run, or leave --lora out. Adapters can be added to a run once `lora export` has written them.")
                    .into());
            }
            Found::Exported(lora, _) | Found::Other(lora) => {
                add(job, request, &lora, &mut deltas, &mut records)?;
            }
        }
    }
    Ok((folder.with_loras(deltas), records))
}

/// What the files are held against; nothing is laid out where there are none.
fn network_for(requests: &[LoraRequest], folder: &ModelFolder) -> Result<LoraNetwork, ModelError> {
    match requests {
        [] => Ok(LoraNetwork::default()),
        _ => folder.lora_network(),
    }
}

fn second(request: &LoraRequest) -> Halt {
    let headline = format!("{} is a second training's", request.file.display());
    Report::new(Area::Request, headline)
        .because("A model takes the weights of one training in this program's own names.")
        .advise("Write the adapters of one of them with `lora export` and name that file instead.")
        .into()
}

fn add(
    job: &JobContext,
    request: &LoraRequest,
    lora: &FittedLora,
    deltas: &mut LoraDeltas,
    records: &mut Vec<LoraRecord>,
) -> Result<(), Halt> {
    deltas.add(lora, request.strength)?;
    let path = &request.file;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = fs::read(path).map_err(|source| ModelError::Io {
        path: path.clone(),
        source,
    })?;
    let text = match lora.count(LoraPart::Text) {
        0 => String::new(),
        count => format!(" and {count} of the text encoder"),
    };
    job.emit(Event::Note {
        text: format!(
            "LoRA {name} ({}): {} layers of the network{text}, rank {}, strength {}.",
            lora.format,
            lora.count(LoraPart::Unet),
            told(lora.ranks()),
            request.strength
        ),
    });
    for remark in &lora.remarks {
        job.emit(Event::Note {
            text: format!("LoRA {name}: {remark}."),
        });
    }
    records.push(LoraRecord {
        name: name.into_owned(),
        sha256: sha256_hex(&bytes),
        strength: request.strength,
    });
    Ok(())
}

fn told(ranks: Option<(usize, usize)>) -> String {
    match ranks {
        None => "none".to_owned(),
        Some((least, most)) if least == most => least.to_string(),
        Some((least, most)) => format!("{least} to {most}"),
    }
}

/// Finds out what a file is, and holds a LoRA against the networks.
fn read(path: &Path, network: &LoraNetwork) -> Result<Found, Halt> {
    let lora = match LoraFile::open(path) {
        Ok(lora) => lora,
        Err(error @ ModelError::Lora { .. }) => return Err(error.into()),
        // Whoever reads trained weights tells what is wrong with a safetensors file.
        Err(_) if !is_torch(path) => return Ok(Found::Trained),
        Err(error) => return Err(refused(error)),
    };
    if lora.format() == LoraFormat::Own && lora.kind().is_none() {
        return Ok(Found::Trained);
    }
    let fitted = lora.fit(network)?;
    let about = lora.note(METADATA_KEY).unwrap_or_default();
    let ours = serde_json::from_str::<WeightsAbout>(about)
        .is_ok_and(|about| about.method == Method::MotionDirector);
    let adapters = match ours {
        true => fitted.adapters()?,
        false => None,
    };
    let Some(adapters) = adapters else {
        return Ok(Found::Other(fitted));
    };
    let mut file = TensorFile {
        about: about.to_owned(),
        ..TensorFile::default()
    };
    for (name, tensor) in adapters {
        let plain = plain_from_tensor(&tensor).map_err(tensors("The LoRA could not be read"))?;
        file.tensors.insert(name, plain);
    }
    Ok(Found::Exported(fitted, file))
}

/// A file that was named on the command line is no part of the model.
fn refused(error: ModelError) -> Halt {
    match Halt::from(error) {
        Halt::Failed(report) => Halt::Failed(
            Report {
                area: Area::Request,
                ..report
            }
            .advise("Get the file again, or name another one; a LoRA holds nothing but tensors."),
        ),
        Halt::Stopped => Halt::Stopped,
    }
}

/// What a LoRA file is, and how it fits a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoraReport {
    /// Whether it can be put on the model.
    pub fits: bool,
    /// How it names its tensors.
    pub format: String,
    /// Smallest and largest inner width of the layers that fit.
    pub ranks: Option<(usize, usize)>,
    /// Layers of the denoising network that it changes.
    pub unet_layers: usize,
    /// Layers of the text encoder that it changes.
    pub text_layers: usize,
    /// Names in it that this model has no layer for.
    pub unmatched: Vec<String>,
    /// What else does not fit, in words.
    pub wrong: Vec<String>,
    /// What a person should know of it though it fits, in words.
    pub remarks: Vec<String>,
    /// Name of the model.
    pub model: String,
    /// What the file says of itself, where this program wrote it.
    pub about: Option<WeightsAbout>,
}

/// Looks into a LoRA file and holds it against a model, the built-in one where none is named.
///
/// # Errors
/// When the file or the model cannot be read.
pub fn check_lora(path: &Path, model: Option<&Path>) -> Result<LoraReport, Report> {
    check(path, model).map_err(told_once)
}

fn check(path: &Path, model: Option<&Path>) -> Result<LoraReport, Halt> {
    let lora = LoraFile::open(path).map_err(refused)?;
    let about: Option<WeightsAbout> =
        serde_json::from_str(lora.note(METADATA_KEY).unwrap_or_default()).ok();
    let kind = about
        .as_ref()
        .map_or(ModelKind::Video, |about| about.method.model_kind());
    let folder = open_model(model, None, kind)?;
    if !lora.is_lora() {
        // Whole weights of a training, or nothing of the kind.
        let file = TrainedFile::open(path, &folder)?;
        return Ok(LoraReport {
            fits: true,
            format: format!("whole weights that {} trained", file.method().name()),
            ranks: None,
            unet_layers: file.count(),
            text_layers: 0,
            unmatched: Vec::new(),
            wrong: Vec::new(),
            remarks: Vec::new(),
            model: folder.name(),
            about: file.about,
        });
    }
    let (fitted, report) = lora.look(&folder.lora_network()?);
    let shapes = report.wrong_shape.iter();
    let shapes = shapes.map(|w| format!("{} is {:?} instead of {:?}", w.name, w.found, w.expected));
    let missing = report
        .missing
        .iter()
        .map(|name| format!("{name} is missing"));
    let mut wrong: Vec<String> = lora.kind().map(str::to_owned).into_iter().collect();
    wrong.extend(missing.chain(shapes));
    let mut checked = LoraReport {
        fits: lora.kind().is_none() && report.is_clean() && !fitted.layers.is_empty(),
        format: lora.format().to_string(),
        ranks: fitted.ranks(),
        unet_layers: fitted.count(LoraPart::Unet),
        text_layers: fitted.count(LoraPart::Text),
        unmatched: report.unexpected,
        wrong,
        remarks: fitted.remarks,
        model: folder.name(),
        about,
    };
    if lora.format() == LoraFormat::Own {
        // In this program's own names a file may hold a look for each of several clips.
        match TrainedFile::open(path, &folder) {
            Ok(_) => {
                checked.fits = true;
                checked.unmatched.clear();
            }
            Err(Halt::Failed(report)) => {
                checked.fits = false;
                checked.wrong.push(report.headline);
            }
            Err(Halt::Stopped) => {}
        }
    }
    Ok(checked)
}

/// How other programs shall find the names of a LoRA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoraNames {
    /// `unet.{layer}.lora.down.weight`.
    #[default]
    Diffusers,
    /// `unet.{layer}.lora_A.weight`, with diffusers' settings in the header.
    Peft,
    /// `lora_unet_{layer}.lora_down.weight` with `.alpha`.
    Kohya,
}

/// Which adapters of MotionDirector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoraShare {
    /// Those beside layers that see all frames: what samples use.
    #[default]
    Motion,
    /// Those beside layers that see one frame.
    Look,
    /// Both.
    Both,
}

/// Write the adapters of a run for other programs.
#[derive(Clone, Debug)]
pub struct LoraExport {
    /// A run folder, or the file of weights that one left.
    pub source: PathBuf,
    /// The file.
    pub to: PathBuf,
    /// Names of the tensors.
    pub names: LoraNames,
    /// Which adapters.
    pub share: LoraShare,
    /// Whose look, where several clips have one each: the clip's number, from 1.
    pub clip: usize,
    /// Whether an existing file may be replaced.
    pub overwrite: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LoraWritten {
    /// Layers of the motion.
    pub motion_layers: usize,
    /// Layers of the look.
    pub look_layers: usize,
    /// Largest inner width.
    pub rank: usize,
}

/// Writes the adapters of a run as a file that other programs read.
///
/// # Errors
/// When there are none, or the file cannot be written.
pub fn export_lora(export: &LoraExport) -> Result<LoraWritten, Report> {
    write(export).map_err(told_once)
}

fn told_once(halt: Halt) -> Report {
    match halt {
        Halt::Failed(report) => report,
        Halt::Stopped => Report::new(Area::Run, "It was stopped"),
    }
}

/// An adapter to write: the layer's name and both factors.
struct Written<'a> {
    layer: &'a str,
    rank: usize,
    down: &'a PlainTensor,
    up: &'a PlainTensor,
}

fn write(export: &LoraExport) -> Result<LoraWritten, Halt> {
    let target = &export.to;
    let refuse = |headline: String, advice: &str| -> Halt {
        Report::new(Area::Request, headline).advise(advice).into()
    };
    if target.extension() != Some(OsStr::new("safetensors")) {
        let headline = format!("{} does not end in .safetensors", target.display());
        return Err(refuse(
            headline,
            "Name a file that does: other programs go by the ending.",
        ));
    }
    if !export.overwrite && target.symlink_metadata().is_ok() {
        let headline = format!("{} is there already", target.display());
        return Err(refuse(headline, "Name another file, or add --overwrite."));
    }
    let is_run = RunFolder::is_run(&export.source);
    let source = match is_run {
        true => export.source.join("final/weights.safetensors"),
        false => export.source.clone(),
    };
    if is_run && !source.is_file() {
        let headline = format!("{} has no weights yet", export.source.display());
        return Err(refuse(headline, "Let it train first: use `resume`."));
    }
    let file = TensorFile::read(&source)?;
    let adapters = chosen(&file, export)?;
    let count = |part: Part| {
        let of = adapters.iter().filter(|a| part_of(a.layer) == Some(part));
        of.count()
    };
    let written = LoraWritten {
        motion_layers: count(Part::Temporal),
        look_layers: count(Part::Spatial),
        rank: adapters.iter().map(|a| a.rank).max().unwrap_or_default(),
    };
    let mut notes = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    if export.names == LoraNames::Peft {
        notes.insert("lora_adapter_metadata".to_owned(), peft_settings(&adapters));
    }
    let out = TensorFile {
        tensors: adapters
            .iter()
            .flat_map(|a| a.named(export.names))
            .collect(),
        about: file.about.clone(),
    };
    write_atomic(target, &out.to_bytes_with(&notes))?;
    Ok(written)
}

/// The adapters of a file that are asked for, by layer.
fn chosen<'a>(file: &'a TensorFile, export: &LoraExport) -> Result<Vec<Written<'a>>, Halt> {
    let set = export.clip.saturating_sub(1);
    let mut adapters = Vec::new();
    let mut sets = 0;
    for (name, down) in &file.tensors {
        let Some(adapter) = AdapterName::parse(name) else {
            continue;
        };
        let Some(part) = part_of(adapter.layer) else {
            continue;
        };
        if part == Part::Spatial {
            sets = sets.max(adapter.set + 1);
        }
        let wanted = match (part, export.share) {
            (Part::Temporal, LoraShare::Motion | LoraShare::Both) => adapter.set == 0,
            (Part::Spatial, LoraShare::Look | LoraShare::Both) => adapter.set == set,
            _ => false,
        };
        let other = AdapterName {
            factor: Factor::Up,
            ..adapter
        };
        let up = file.tensors.get(&other.to_string());
        if let (Factor::Down, true, Some(up), [rank, _]) =
            (adapter.factor, wanted, up, down.shape.as_slice())
        {
            adapters.push(Written {
                layer: adapter.layer,
                rank: *rank,
                down,
                up,
            });
        }
    }
    if export.share != LoraShare::Motion && set >= sets && sets > 0 {
        let headline = format!("There is no look of clip {}", export.clip);
        let why = format!("The file has that of {sets}.");
        let report = Report::new(Area::Request, headline).because(why);
        return Err(report.advise("Choose another --clip.").into());
    }
    if adapters.is_empty() {
        return Err(Report::new(Area::Request, "There are no such adapters in it")
            .because("Only MotionDirector trains adapters, and a file may hold those of the motion or of the look alone; the other methods train whole weights.")
            .advise("Whole weights are given away as they are: final/weights.safetensors in the run, put on a model by `sample MODEL --lora FILE`.")
            .into());
    }
    Ok(adapters)
}

impl Written<'_> {
    /// The tensors by other programs' names. A product counts once, which they all take an alpha equal to the rank for.
    fn named(&self, names: LoraNames) -> Vec<(String, PlainTensor)> {
        let Self {
            layer,
            rank,
            down,
            up,
        } = *self;
        let both = |down_name: String, up_name: String| {
            vec![(down_name, down.clone()), (up_name, up.clone())]
        };
        match names {
            LoraNames::Diffusers => both(
                format!("unet.{layer}.lora.down.weight"),
                format!("unet.{layer}.lora.up.weight"),
            ),
            LoraNames::Peft => both(
                format!("unet.{layer}.lora_A.weight"),
                format!("unet.{layer}.lora_B.weight"),
            ),
            LoraNames::Kohya => {
                let layer = layer.replace('.', "_");
                let mut named = both(
                    format!("lora_unet_{layer}.lora_down.weight"),
                    format!("lora_unet_{layer}.lora_up.weight"),
                );
                let alpha = PlainTensor::from_f32(&[], &[rank as f32]);
                named.push((format!("lora_unet_{layer}.alpha"), alpha));
                named
            }
        }
    }
}

/// What diffusers makes a PEFT configuration of.
fn peft_settings(adapters: &[Written<'_>]) -> String {
    let most = adapters.iter().map(|a| a.rank).max().unwrap_or_default();
    // Narrow layers have narrower adapters.
    let narrow = adapters.iter().filter(|a| a.rank != most);
    let ranks: BTreeMap<&str, usize> = narrow.map(|a| (a.layer, a.rank)).collect();
    let layers: Vec<&str> = adapters.iter().map(|a| a.layer).collect();
    json!({
        "unet.r": most,
        "unet.lora_alpha": most,
        "unet.rank_pattern": ranks,
        "unet.alpha_pattern": ranks,
        "unet.target_modules": layers,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::LoraRequest;

    #[test]
    fn a_strength_stands_behind_the_last_colon() {
        let parse = |text: &str| text.parse::<LoraRequest>();
        let of = |file: &str, strength| {
            Ok(LoraRequest {
                file: file.into(),
                strength,
            })
        };
        assert_eq!(parse("style.safetensors"), of("style.safetensors", 1.0));
        assert_eq!(parse("style.safetensors:0.6"), of("style.safetensors", 0.6));
        assert_eq!(parse("a:b.pt:-1"), of("a:b.pt", -1.0));
        assert_eq!(parse(r"C:\loras\a.pt"), of(r"C:\loras\a.pt", 1.0));
        assert_eq!(parse(":0.5"), of(":0.5", 1.0));
        for text in ["a.pt:11", "a.pt:nan", "a.pt:inf"] {
            assert!(parse(text).unwrap_err().contains("-10 to 10"), "{text}");
        }
    }
}
