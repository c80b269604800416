//! What people name when they are asked for a model's folder, and what they meant.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{ModelError, shown};
use super::weight_file::is_torch;

/// The file that tells a model's folder.
pub(super) const INDEX: &str = "model_index.json";
/// The file that tells the folder of a single network.
const CONFIG: &str = "config.json";
/// How a folder of Hugging Face's cache begins that holds one model: `models--OWNER--NAME`.
const CACHED: &str = "models--";
/// Where such a folder keeps the model's versions, one folder each.
const SNAPSHOTS: &str = "snapshots";
/// The network in ModelScope's own layout.
const ORIGINAL_WEIGHTS: &str = "text2video_pytorch_model.pth";
/// The longest name of a version; they are hashes of 40 letters.
const MAX_REVISION: usize = 100;

/// Something near a model's folder that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// There is nothing of this name.
    NotThere,
    /// The name of a model on the Hugging Face hub, which is nothing on this computer.
    HubName,
    /// A file with nothing but weights.
    WeightFile {
        /// The model it belongs to, where there is one around it.
        model: Option<PathBuf>,
    },
    /// Some other file.
    File,
    /// One part of a model.
    Part {
        /// Its network's class.
        class: String,
        /// The model around it, where there is one.
        model: Option<PathBuf>,
    },
    /// A folder around a model's folder.
    Around {
        /// The models directly inside, sorted.
        models: Vec<String>,
    },
    /// A run of this program.
    Run,
    /// ModelScope's own layout, from before diffusers had such models.
    OriginalLayout,
    /// Hugging Face's folder of one model, without a version that could be taken.
    NoSnapshot {
        /// How many versions there are to choose from.
        versions: usize,
    },
    /// A model for still pictures, of another family than Stable Diffusion 1.
    ImageModel {
        /// Class of its pipeline.
        pipeline: String,
    },
    /// One stage of Show-1.
    ShowOne {
        /// Class of its pipeline.
        pipeline: String,
    },
    /// A model of a kind this program does not run.
    OtherPipeline {
        /// Class of its pipeline.
        pipeline: String,
    },
}

impl fmt::Display for Mistake {
    /// Follows the name of what was named.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere => f.write_str("does not exist"),
            Self::HubName => f.write_str(
                "is nothing on this computer; it looks like the name of a model on the Hugging Face hub",
            ),
            Self::WeightFile { .. } => {
                f.write_str("is a single file of weights; a model is a folder with model_index.json")
            }
            Self::File => f.write_str("is a file; a model is a folder with model_index.json"),
            Self::Part { class, .. } => {
                write!(f, "is one part of a model ({}), not all of it", shown(class))
            }
            Self::Around { models } => write!(
                f,
                "is not a model folder, but there are models in it: {}",
                models.join(", ")
            ),
            Self::Run => f.write_str("is a run of this program, not a model"),
            Self::OriginalLayout => f.write_str("is a model in ModelScope's own layout, not in diffusers'"),
            Self::NoSnapshot { versions: 0 } => f.write_str(
                "is a folder of Hugging Face's cache that holds no complete version of its model",
            ),
            Self::NoSnapshot { versions } => write!(
                f,
                "is a folder of Hugging Face's cache with {versions} versions of its model, none of which is the main one"
            ),
            Self::ImageModel { pipeline } => {
                write!(f, "is a model for still pictures of a kind that is not inflated here ({})", shown(pipeline))
            }
            Self::ShowOne { pipeline } => {
                write!(f, "is a stage of Show-1 ({}), which cannot be run yet", shown(pipeline))
            }
            Self::OtherPipeline { pipeline } => {
                write!(f, "is a model for {}, which this program does not run", shown(pipeline))
            }
        }
    }
}

impl Mistake {
    /// What to do about it, one sentence.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::WeightFile { model: Some(model) } | Self::Part { model: Some(model), .. } => {
                return format!("Name the folder around it: {}", model.display());
            }
            Self::NotThere => "Check the name (`models list` shows those that are known), or leave --model out for the built-in model.",
            Self::HubName => {
                "Nothing was downloaded. Get the model first, for example with `hf download OWNER/NAME --local-dir FOLDER`, and name that folder."
            }
            Self::WeightFile { model: None } => {
                "Get the model in diffusers layout: a folder with model_index.json, unet, vae, text_encoder, tokenizer and scheduler."
            }
            Self::File | Self::Part { model: None, .. } => {
                "Name the folder that holds model_index.json."
            }
            Self::Around { .. } => "Name one of them.",
            Self::Run => {
                "Sample from it with `sample RUN`; --model takes the folder of a model."
            }
            Self::OriginalLayout => {
                "Get the same model in diffusers layout: ali-vilab/text-to-video-ms-1.7b or cerspense/zeroscope_v2_576w on the Hugging Face hub."
            }
            Self::NoSnapshot { versions: 0 } => {
                "Download the model again and let it finish."
            }
            Self::NoSnapshot { .. } => "Name one of the folders in its snapshots folder.",
            Self::ImageModel { .. } => {
                "Tune-A-Video and ControlVideo begin with Stable Diffusion 1.x (StableDiffusionPipeline); VMC and MotionDirector need a text-to-video model such as ModelScope or ZeroScope."
            }
            Self::ShowOne { .. } | Self::OtherPipeline { .. } => {
                "Use a ModelScope or ZeroScope model in diffusers layout (TextToVideoSDPipeline), or leave --model out."
            }
        }
        .to_owned()
    }
}

/// The model's folder that is meant by `path`: itself, or the version inside a folder of Hugging Face's cache.
///
/// # Errors
/// [`ModelError::Mistaken`] where something else is named. A folder without anything of a model passes: whoever opens it
/// tells what it lacks.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, ModelError> {
    if path.join(INDEX).is_file() {
        return Ok(path.to_owned());
    }
    let mistaken = |mistake| {
        let path = path.to_owned();
        Err(ModelError::Mistaken { path, mistake })
    };
    if path.is_file() {
        return mistaken(match is_weights(path) {
            true => Mistake::WeightFile {
                model: std::path::absolute(path)
                    .ok()
                    .and_then(|path| path.ancestors().skip(1).take(2).find_map(model_at)),
            },
            false => Mistake::File,
        });
    }
    if !path.is_dir() {
        return mistaken(match is_hub_name(path) {
            true => Mistake::HubName,
            false => Mistake::NotThere,
        });
    }
    if let Some(entry) = cache_entry(path) {
        return match snapshot(&entry, INDEX) {
            Ok(snapshot) => Ok(snapshot),
            Err(versions) => mistaken(Mistake::NoSnapshot { versions }),
        };
    }
    if path.join("run.toml").is_file() {
        return mistaken(Mistake::Run);
    }
    if path.join(ORIGINAL_WEIGHTS).is_file() {
        return mistaken(Mistake::OriginalLayout);
    }
    if let Some(class) = part_class(path) {
        let model = std::path::absolute(path)
            .ok()
            .and_then(|path| model_at(path.parent()?));
        return mistaken(Mistake::Part { class, model });
    }
    let models = models_inside(path);
    if !models.is_empty() {
        return mistaken(Mistake::Around { models });
    }
    Ok(path.to_owned())
}

/// The folder of a network that stands by itself, a ControlNet or an estimator of depth: the one named, or the version inside
/// a folder of Hugging Face's cache.
///
/// # Errors
/// [`ModelError::Mistaken`] for a folder of the cache without such a version. Any other folder passes: whoever opens it tells
/// what it lacks.
pub(crate) fn resolve_network(path: &Path) -> Result<PathBuf, ModelError> {
    if path.join(CONFIG).is_file() {
        return Ok(path.to_owned());
    }
    match cache_entry(path) {
        Some(entry) => snapshot(&entry, CONFIG).map_err(|versions| ModelError::Mistaken {
            path: path.to_owned(),
            mistake: Mistake::NoSnapshot { versions },
        }),
        None => Ok(path.to_owned()),
    }
}

/// Whether a person who names this means a model, a wrong one included.
pub(super) fn is_meant(path: &Path) -> bool {
    path.join(INDEX).is_file()
        || path.is_file() && is_weights(path)
        || path.is_dir() && (cache_entry(path).is_some() || part_class(path).is_some())
}

/// What to call a model: its name on the hub for a folder of Hugging Face's cache, else the folder's name.
pub(super) fn name_of(dir: &Path) -> String {
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    };
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    // models--OWNER--NAME/snapshots/HASH
    let cached = dir
        .parent()
        .filter(|versions| versions.file_name() == Some(OsStr::new(SNAPSHOTS)))
        .and_then(Path::parent)
        .map(name)
        .and_then(|entry| Some(entry.strip_prefix(CACHED)?.replacen("--", "/", 1)));
    cached.unwrap_or_else(|| name(&dir))
}

fn model_at(path: &Path) -> Option<PathBuf> {
    path.join(INDEX).is_file().then(|| path.to_owned())
}

fn is_weights(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    is_torch(path) || ending.eq_ignore_ascii_case("safetensors")
}

/// `OWNER/NAME`, or an address.
fn is_hub_name(path: &Path) -> bool {
    let Some(text) = path.to_str() else {
        return false;
    };
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let is_address = text.starts_with("https:") || text.starts_with("http:");
    is_address
        || text.split_once('/').is_some_and(|(owner, name)| {
            // A folder that exists makes it a path with a slip of the pen.
            plain(owner) && plain(name) && !Path::new(owner).exists()
        })
}

/// The class of a network whose `config.json` lies here.
fn part_class(path: &Path) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(&small_text(&path.join(CONFIG))?).ok()?;
    let named = [&config["_class_name"], &config["architectures"][0]];
    Some(
        named
            .into_iter()
            .find_map(serde_json::Value::as_str)?
            .to_owned(),
    )
}

/// The text of a file that real models keep below a few kilobytes.
fn small_text(path: &Path) -> Option<String> {
    const MOST: u64 = 1 << 16;
    if fs::metadata(path).ok()?.len() > MOST {
        return None;
    }
    fs::read_to_string(path).ok()
}

fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Models directly inside, and those of Hugging Face's cache; the first few.
fn models_inside(path: &Path) -> Vec<String> {
    const SHOWN: usize = 8;
    const LOOKED_AT: usize = 1000;
    names_in(path)
        .into_iter()
        .take(LOOKED_AT)
        .filter(|name| {
            let inside = path.join(name);
            inside.join(INDEX).is_file()
                || name.starts_with(CACHED) && inside.join(SNAPSHOTS).is_dir()
        })
        .take(SHOWN)
        .map(|name| shown(&name))
        .collect()
}

/// The folder of one model in Hugging Face's cache that `path` is, or whose list of versions it is.
fn cache_entry(path: &Path) -> Option<PathBuf> {
    let is_entry = |path: &Path| {
        path.file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|name| name.starts_with(CACHED))
            && path.join(SNAPSHOTS).is_dir()
    };
    let path = std::path::absolute(path).ok()?;
    if is_entry(&path) {
        return Some(path);
    }
    let parent = path.parent()?;
    (path.file_name() == Some(OsStr::new(SNAPSHOTS)) && is_entry(parent)).then(|| parent.to_owned())
}

/// The version the cache calls main, or the only one, of those that have a file. Otherwise how many there are.
fn snapshot(entry: &Path, file: &str) -> Result<PathBuf, usize> {
    let versions = entry.join(SNAPSHOTS);
    let whole = |name: &str| {
        let version = versions.join(name);
        version.join(file).is_file().then_some(version)
    };
    // The name comes from a file: it must not lead anywhere else.
    let plain = |name: &&str| {
        !name.is_empty()
            && name.len() <= MAX_REVISION
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let main = small_text(&entry.join("refs/main")).unwrap_or_default();
    if let Some(main) = Some(main.trim()).filter(plain).and_then(whole) {
        return Ok(main);
    }
    let mut all: Vec<PathBuf> = names_in(&versions)
        .iter()
        .filter_map(|name| whole(name))
        .collect();
    match (all.pop(), all.len()) {
        (Some(only), 0) => Ok(only),
        (Some(_), others) => Err(others + 1),
        (None, _) => Err(0),
    }
}
