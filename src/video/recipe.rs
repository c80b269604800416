//! The recipe of a run inside what it made: the JSON object from which the run can be repeated.
//!
//! MP4, WebM and GIF carry it as their comment; a folder of PNG files holds it as `recipe.json`. What is read back is a
//! stranger's text: its size is capped, it must be a JSON object, and nothing here acts on it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{VideoError, gif, input};

/// Largest recipe written or read, in bytes.
pub const MAX_RECIPE_BYTES: usize = 256 * 1024;

/// Name of the recipe in a folder of PNG files.
pub(super) const FOLDER_RECIPE: &str = "recipe.json";

/// Whether the text is a JSON object, which no ordinary comment is.
fn is_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

fn check_size(bytes: usize, path: &Path) -> Result<(), VideoError> {
    if bytes > MAX_RECIPE_BYTES {
        return Err(VideoError::RecipeTooLarge {
            path: path.into(),
            bytes,
            max: MAX_RECIPE_BYTES,
        });
    }
    Ok(())
}

/// Refuses to write what could not be read back.
pub(super) fn check(text: &str, path: &Path) -> Result<(), VideoError> {
    check_size(text.len(), path)?;
    if is_object(text) {
        Ok(())
    } else {
        Err(VideoError::BadSetting {
            what: "the recipe is not a JSON object".into(),
            want: "a JSON object".into(),
        })
    }
}

/// The recipe inside a film, a GIF or a folder written by [`super::export()`]; `None` if there is none.
///
/// The text is a JSON object of at most [`MAX_RECIPE_BYTES`]; beyond that it may say anything.
///
/// # Errors
/// `RecipeTooLarge`, and what [`super::probe`] says of files that cannot be opened.
pub fn read_recipe(path: &Path) -> Result<Option<String>, VideoError> {
    super::init();
    let text = match input::open(path)? {
        input::Source::Folder => read_folder(path)?,
        input::Source::Picture(file, image::ImageFormat::Gif) => gif::read_comment(file, path)?,
        input::Source::Picture(..) => None,
        #[cfg(feature = "video")]
        input::Source::Film(film) => super::decode::comment(film, path)?,
        #[cfg(not(feature = "video"))]
        input::Source::Film(film) => return Err(input::refuse(&film, path)),
    };
    let Some(text) = text else {
        return Ok(None);
    };
    check_size(text.len(), path)?;
    Ok(is_object(&text).then_some(text))
}

fn read_folder(folder: &Path) -> Result<Option<String>, VideoError> {
    let path = folder.join(FOLDER_RECIPE);
    if !path.is_file() {
        return Ok(None);
    }
    let fail = |e| VideoError::from_io("read", &path, e);
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file at the limit from one beyond it.
    File::open(&path)
        .and_then(|file| {
            file.take(MAX_RECIPE_BYTES as u64 + 1)
                .read_to_end(&mut bytes)
        })
        .map_err(fail)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
