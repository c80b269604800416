//! From frames to a file: names that overwrite nothing, and the recipe inside.

use std::path::{Path, PathBuf};

use super::context::JobContext;
use super::message::{Event, Stage};
use super::problem::Halt;
use super::request::ResultRequest;
use super::session::{Record, Session};
use crate::project::{Recipe, free_name};
use crate::report::{Area, Report};
use crate::video::{self, Clip, ExportFormat, ExportOptions, RecipePlace, ScaleTo, Upscale};

/// Longest part of a file name that is taken from the clip's name or the prompt, in bytes: names of files have 255 at most, and
/// a half-written one has more letters.
const PART_OF_NAME: usize = 90;

/// Refuses a target that cannot be written before hours of training are spent on it.
pub(super) fn check_target(result: &ResultRequest) -> Result<(), Halt> {
    let Some(path) = &result.output else {
        return Ok(video::check_place(Path::new("film"))?);
    };
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        let headline = format!("There is no folder {}", parent.display());
        return Err(Report::new(Area::Request, headline)
            .advise("Make the folder first, or name another place with -o.")
            .into());
    }
    Ok(video::check_target(path, result.overwrite)?)
}

/// Writes the result and tells where it is.
pub(super) fn write_result(
    job: &mut JobContext,
    session: &Session,
    tuned_sha256: Option<String>,
    result: &ResultRequest,
    clip: &Clip,
) -> Result<(), Halt> {
    let record = &session.record;
    let path = match &result.output {
        Some(path) => path.clone(),
        None => default_target(record, &result.prompt),
    };
    let format = ExportFormat::from_path(&path)?;
    job.stage(Stage::Exporting, Some(clip.frames.len()));
    let options = ExportOptions {
        overwrite: result.overwrite,
        scale_to: result.scale_to.map(|min_side| ScaleTo {
            min_side,
            upscale: Upscale::Smooth,
        }),
        recipe: Some(recipe_text(session, tuned_sha256, &result.prompt)),
        ..ExportOptions::default()
    };
    let report = video::export(clip, &path, format, &options, &mut |done, total| {
        job.progress(Stage::Exporting, done, total);
        job.poll()
    })?;
    for text in report.notes {
        job.emit(Event::Note { text });
    }
    let recipe_in = match report.recipe_in {
        RecipePlace::Metadata => "the film".to_owned(),
        RecipePlace::File(path) => path.display().to_string(),
        RecipePlace::Nowhere => "no place".to_owned(),
    };
    job.emit(Event::Exported { path, recipe_in });
    Ok(())
}

/// Writes a preview as a GIF, without a recipe.
pub(super) fn write_preview(job: &mut JobContext, clip: &Clip, path: &Path) -> Result<(), Halt> {
    video::export(
        clip,
        path,
        ExportFormat::Gif,
        &ExportOptions::default(),
        &mut |_, _| job.poll(),
    )?;
    Ok(())
}

/// `CLIP - PROMPT.mp4` in the current folder, with a number if that is taken.
fn default_target(record: &Record, prompt: &str) -> PathBuf {
    let clip = Path::new(&record.clip.name)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    let words: String = prompt
        .chars()
        .map(|letter| {
            if letter.is_alphanumeric() || letter == '-' {
                letter
            } else {
                ' '
            }
        })
        .collect();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let stem = [shortened(&clip), shortened(&words)];
    let stem = stem
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(" - ");
    // Without FFmpeg a GIF is the film that this program can write.
    let extension = if cfg!(feature = "video") {
        "mp4"
    } else {
        "gif"
    };
    free_name(
        Path::new(""),
        if stem.is_empty() { "result" } else { &stem },
        extension,
    )
}

/// The first [`PART_OF_NAME`] bytes of a text, without half a letter at the end.
fn shortened(text: &str) -> &str {
    text[..text.floor_char_boundary(PART_OF_NAME)].trim()
}

fn recipe_text(session: &Session, tuned_sha256: Option<String>, prompt: &str) -> String {
    let record = session.record.clone();
    let has_clip = record.clip.frames > 0 && tuned_sha256.is_some();
    let seed = record.settings.seed;
    let mut recipe = Recipe::of_run(record, prompt.to_owned(), seed);
    recipe.clip = recipe.clip.filter(|_| has_clip);
    recipe.tuned_sha256 = tuned_sha256;
    recipe.loras.clone_from(&session.loras);
    recipe
        .trained_settings
        .clone_from(&session.trained_settings);
    recipe.trained_steps = session.trained_steps;
    recipe.preview = session.preview;
    // Plain data with string keys always has a JSON form.
    serde_json::to_string(&recipe).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_letters() {
        assert_eq!(shortened("a bear"), "a bear");
        // Three bytes a letter.
        let long = "\u{718a}".repeat(200);
        assert_eq!(shortened(&long), "\u{718a}".repeat(PART_OF_NAME / 3));
        let odd = format!("a{long}");
        assert_eq!(shortened(&odd).len(), 1 + 3 * ((PART_OF_NAME - 1) / 3));
    }
}
