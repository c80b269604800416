//! Paths as text in events: names that are not UTF-8 are shown with replacement characters instead of failing.

use std::path::Path;

use serde::Serializer;

/// For `#[serde(serialize_with)]` on a path.
///
/// # Errors
/// Those of the serializer.
pub fn required<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
