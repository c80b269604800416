//! The WGSL files and their `#import` lines.
//!
//! `#import "common/frequency.wgsl"` on a line of its own stands for that file, once, however often it is imported.

macro_rules! shader_file {
    ($path:literal) => {
        ($path, include_str!(concat!("../../shaders/", $path)))
    };
}

/// The WGSL files of this program, by their path below `shaders/`.
pub const FILES: &[(&str, &str)] = &[
    shader_file!("common/colour.wgsl"),
    shader_file!("common/frequency.wgsl"),
    shader_file!("common/rings.wgsl"),
    shader_file!("common/series.wgsl"),
    shader_file!("compute/amplitude_phase.wgsl"),
    shader_file!("compute/band_energy_map.wgsl"),
    shader_file!("compute/band_energy_time.wgsl"),
    shader_file!("compute/dft_pass.wgsl"),
    shader_file!("compute/difference.wgsl"),
    shader_file!("compute/frequency_weight.wgsl"),
    shader_file!("compute/haar_level.wgsl"),
    shader_file!("compute/luma_residual.wgsl"),
    shader_file!("compute/radial_rings.wgsl"),
    shader_file!("compute/radial_rows.wgsl"),
    shader_file!("compute/weighted_spectrum.wgsl"),
    shader_file!("draw/flow.wgsl"),
    shader_file!("draw/plane.wgsl"),
    shader_file!("draw/spectrum.wgsl"),
];

/// An `#import` that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShaderError {
    /// No file of that name.
    #[error("there is no shader '{0}'")]
    Missing(String),
    /// The line is not `#import "path"`.
    #[error("{file}:{line}: an import looks like #import \"common/name.wgsl\"")]
    BadImport {
        /// Path below `shaders/`.
        file: String,
        /// Counted from 1.
        line: usize,
    },
}

/// The text of a shader with its imports in place.
///
/// # Errors
/// `Missing` for a name that is not in [`FILES`], `BadImport` for a line that is no import.
pub fn resolve(name: &str) -> Result<String, ShaderError> {
    let mut text = String::new();
    splice(name, &mut Vec::new(), &mut text)?;
    Ok(text)
}

/// Adds `name` to `text`, what it imports first; `done` holds the files that are already there, or on their way.
fn splice(name: &str, done: &mut Vec<&str>, text: &mut String) -> Result<(), ShaderError> {
    let (name, source) = FILES
        .iter()
        .find(|(file, _)| *file == name)
        .ok_or_else(|| ShaderError::Missing(name.into()))?;
    if done.contains(name) {
        return Ok(());
    }
    done.push(name);
    for (index, line) in source.lines().enumerate() {
        match line.trim_start().strip_prefix("#import") {
            None => {
                text.push_str(line);
                text.push('\n');
            }
            Some(rest) => {
                let path = rest
                    .trim()
                    .strip_prefix('"')
                    .and_then(|r| r.strip_suffix('"'));
                let bad = || ShaderError::BadImport {
                    file: (*name).into(),
                    line: index + 1,
                };
                splice(path.ok_or_else(bad)?, done, text)?;
            }
        }
    }
    Ok(())
}
