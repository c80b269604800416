//! The model that comes with the program: its files are compiled in, so that an installed binary works from any folder.

use super::error::ModelError;
use super::folder::ModelFolder;
use super::source::FileSource;

/// Pairs of a path inside the model's folder and the file's content.
macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        &[$((
            $path,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin/", $path)).as_slice(),
        )),*]
    };
}

const FILES: &[(&str, &[u8])] = embedded![
    "model_card.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// The built-in text-to-video model, which paints drawn shapes on plain grounds.
///
/// # Errors
/// When its files do not fit this version of the program.
pub fn builtin() -> Result<ModelFolder, ModelError> {
    ModelFolder::from_source(FileSource::Embedded(FILES))
}
