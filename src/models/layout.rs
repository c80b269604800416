//! What the small files of a model's folder say about it: `model_index.json` and `model_card.json`.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::{ModelError, shown};
use super::mistake::{INDEX, Mistake};
use super::source::FileSource;

/// What a model says about itself in `model_card.json`, a file of ours that other models need not have.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModelCard {
    /// Frames it was trained on.
    pub frames: Option<usize>,
    /// Guidance scale that gives its best samples.
    pub guidance: Option<f64>,
    /// Sampling steps that give its best samples.
    pub steps: Option<usize>,
    /// Frames per second its clips play at.
    pub fps: Option<f64>,
    /// A prompt it obeys.
    pub prompt: Option<String>,
}

impl ModelCard {
    /// Reads the card where there is one.
    ///
    /// # Errors
    /// When it cannot be understood or a value is out of the range of any model.
    pub(super) fn read(source: &FileSource) -> Result<Self, ModelError> {
        const FILE: &str = "model_card.json";
        if !source.has(FILE) {
            return Ok(Self::default());
        }
        let card: Self =
            serde_json::from_str(&source.text(FILE)?).map_err(|e| source.config_error(FILE, e))?;
        match card.out_of_range() {
            Some(why) => Err(source.config_error(FILE, why)),
            None => Ok(card),
        }
    }

    /// The first value that no model has; a clip and a sampling are made by these numbers.
    fn out_of_range(&self) -> Option<String> {
        for (name, value, most) in [("frames", self.frames, 1024), ("steps", self.steps, 1000)] {
            if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
                return Some(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        for (name, value, most) in [("guidance", self.guidance, 100.0), ("fps", self.fps, 240.0)] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && *value <= most)) {
                return Some(format!(
                    "{name} is {value}, expected a number above 0, at most {most}"
                ));
            }
        }
        None
    }
}

/// `model_index.json`: the pipeline and the library and class of each part.
#[derive(Deserialize)]
struct PipelineIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
    unet: Option<Part>,
    vae: Option<Part>,
    text_encoder: Option<Part>,
    tokenizer: Option<Part>,
}

/// Library and class; nulls stand for a part that was left out.
type Part = (Option<IgnoredAny>, Option<String>);

/// What a model makes of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Clips: ModelScope, ZeroScope.
    Video,
    /// Still pictures: Stable Diffusion 1.x, which a method inflates to clips.
    Image,
}

impl ModelKind {
    /// Class of its denoising network.
    pub(super) fn unet_class(self) -> &'static str {
        match self {
            Self::Video => "UNet3DConditionModel",
            Self::Image => "UNet2DConditionModel",
        }
    }
}

/// Pipelines of the parts this program knows.
const PIPELINES: &[(&str, ModelKind)] = &[
    ("TextToVideoSDPipeline", ModelKind::Video),
    ("VideoToVideoSDPipeline", ModelKind::Video),
    ("StableDiffusionPipeline", ModelKind::Image),
    ("StableDiffusionControlNetPipeline", ModelKind::Image),
];
/// How the pipelines of Show-1's stages begin.
const SHOW_ONE: &str = "TextToVideoIF";
/// Families of pipelines that paint a single picture.
const IMAGE_PIPELINES: &[&str] = &[
    "StableDiffusion",
    "LatentDiffusion",
    "LDM",
    "AltDiffusion",
    "Kandinsky",
    "PixArt",
    "Flux",
    "IFPipeline",
    "StableCascade",
    "LatentConsistencyModel",
    "Wuerstchen",
];

/// Tells the kind of model, and refuses other pipelines, by the class names in the folder's own index.
///
/// # Errors
/// [`ModelError::Mistaken`] for another kind of model, [`ModelError::Unsupported`] for a part of another class.
pub(super) fn check_index(source: &FileSource) -> Result<ModelKind, ModelError> {
    let index: PipelineIndex =
        serde_json::from_str(&source.text(INDEX)?).map_err(|e| source.config_error(INDEX, e))?;
    let pipeline = index.class_name;
    let known = PIPELINES.iter().find(|(class, _)| *class == pipeline);
    let Some(&(_, kind)) = known else {
        let is_image = IMAGE_PIPELINES
            .iter()
            .any(|family| pipeline.starts_with(family))
            && !pipeline.contains("Video");
        let mistake = if is_image {
            Mistake::ImageModel { pipeline }
        } else if pipeline.starts_with(SHOW_ONE) {
            Mistake::ShowOne { pipeline }
        } else {
            Mistake::OtherPipeline { pipeline }
        };
        let path = source.locate("");
        return Err(ModelError::Mistaken { path, mistake });
    };
    for (part, name, known) in [
        (index.unet, "unet", &[kind.unet_class()][..]),
        (index.vae, "vae", &["AutoencoderKL"][..]),
        (index.text_encoder, "text encoder", &["CLIPTextModel"][..]),
        (
            index.tokenizer,
            "tokenizer",
            &["CLIPTokenizer", "CLIPTokenizerFast"][..],
        ),
    ] {
        if let Some((_, Some(class))) = part
            && !known.contains(&class.as_str())
        {
            let what = format!(
                "a {} as its {name} in place of a {}",
                shown(&class),
                known[0]
            );
            return Err(ModelError::Unsupported { what });
        }
    }
    Ok(kind)
}

/// Refuses other networks by the class names in the parts' own files.
///
/// # Errors
/// [`ModelError::Unsupported`] for another network.
pub(super) fn check_parts(source: &FileSource, kind: ModelKind) -> Result<(), ModelError> {
    check_class(source, "unet/config.json", kind.unet_class())?;
    check_class(source, "vae/config.json", "AutoencoderKL")
}

/// Refuses another network than the expected one by the class name in its own file.
///
/// # Errors
/// [`ModelError::Unsupported`] for another network.
pub(super) fn check_class(
    source: &FileSource,
    file: &str,
    expected: &str,
) -> Result<(), ModelError> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "_class_name")]
        class_name: String,
    }
    let Named { class_name } =
        serde_json::from_str(&source.text(file)?).map_err(|e| source.config_error(file, e))?;
    if class_name == expected {
        return Ok(());
    }
    Err(ModelError::Unsupported {
        what: format!("a {} in place of a {expected}", shown(&class_name)),
    })
}

/// A [`ModelError::Incomplete`] of this model.
pub(super) fn incomplete(source: &FileSource, missing: Vec<String>) -> ModelError {
    ModelError::Incomplete {
        path: source.locate(""),
        missing,
        partial: unfinished_downloads(source),
    }
}

/// What a download that did not end leaves behind in the folder of a model, by its path inside it; the first few.
fn unfinished_downloads(source: &FileSource) -> Vec<String> {
    const SHOWN: usize = 4;
    const ENDINGS: &[&str] = &[
        ".incomplete",
        ".part",
        ".partial",
        ".crdownload",
        ".aria2",
        ".download",
        ".tmp",
    ];
    let places = [
        "",
        "unet",
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
        // Where Hugging Face's own program keeps them, for a folder of one's own and for its cache.
        ".cache/huggingface/download/unet",
        ".cache/huggingface/download/vae",
        ".cache/huggingface/download/text_encoder",
        "../../blobs",
    ];
    let inside = |place: &str| {
        let place = place.to_owned();
        source
            .list(&place)
            .into_iter()
            .filter(|name| ENDINGS.iter().any(|ending| name.ends_with(ending)))
            .map(move |name| {
                if place.is_empty() {
                    name
                } else {
                    format!("{place}/{name}")
                }
            })
    };
    places.into_iter().flat_map(inside).take(SHOWN).collect()
}
