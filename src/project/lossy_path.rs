//! Paths as text in events: names that are not UTF-8 are shown with replacement characters instead of failing.

use std::path::{Path, PathBuf};

use serde::Serializer;

/// For `#[serde(serialize_with)]` on a path.
///
/// # Errors
/// Those of the serializer.
pub fn required<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// For `#[serde(serialize_with)]` on an optional path.
///
/// # Errors
/// Those of the serializer.
#[expect(clippy::ref_option, reason = "the signature that serde calls")]
pub fn optional<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_some(&path.to_string_lossy()),
        None => serializer.serialize_none(),
    }
}
