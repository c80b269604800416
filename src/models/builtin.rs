//! The models that come with the program: their files are compiled in, so that an installed binary works from any folder.

use super::error::ModelError;
use super::folder::ModelFolder;
use super::layout::ModelKind;
use super::source::{Embedded, EmbeddedFiles, FileSource};

/// Pairs of a path inside a model's folder and the content of the file that lies under `$folder` in the assets.
macro_rules! embedded {
    ($folder:literal, [$($path:literal),* $(,)?]) => {
        &[$((
            $path,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin", $folder, "/", $path)).as_slice(),
        )),*]
    };
}

/// What both models have: they see the same latents and the same words.
static SHARED: EmbeddedFiles = embedded!(
    "",
    [
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
);

static VIDEO_ONLY: EmbeddedFiles = embedded!(
    "",
    [
        "model_card.json",
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
);

static IMAGE_ONLY: EmbeddedFiles = embedded!(
    "/image",
    [
        "controlnet/config.json",
        "controlnet/diffusion_pytorch_model.safetensors",
        "model_card.json",
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
);

static VIDEO: Embedded = Embedded {
    name: "built-in model",
    parts: &[SHARED, VIDEO_ONLY],
};

static IMAGE: Embedded = Embedded {
    name: "built-in image model",
    parts: &[SHARED, IMAGE_ONLY],
};

/// The built-in text-to-video model, which paints drawn shapes on plain grounds.
///
/// # Errors
/// When its files do not fit this version of the program.
pub fn builtin() -> Result<ModelFolder, ModelError> {
    builtin_of(ModelKind::Video)
}

/// The built-in model of a kind: of clips, or of still pictures with a ControlNet for their edges. Both know the same drawn
/// world. A method says by its kind which one it takes where no folder is named.
///
/// # Errors
/// As [`builtin`].
pub fn builtin_of(kind: ModelKind) -> Result<ModelFolder, ModelError> {
    ModelFolder::from_source(FileSource::Embedded(match kind {
        ModelKind::Video => &VIDEO,
        ModelKind::Image => &IMAGE,
    }))
}
