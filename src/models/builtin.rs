//! The model that comes with the program.

use super::error::ModelError;
use super::folder::ModelFolder;

/// The built-in text-to-video model.
///
/// # Errors
/// When its files do not fit this version of the program.
pub fn builtin() -> Result<ModelFolder, ModelError> {
    ModelFolder::from_source(super::source::FileSource::Embedded(&[]))
}
