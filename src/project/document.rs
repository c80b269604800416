//! The project file of the window: what was opened, said and set, and the runs that came of it. `S` is the settings struct.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::atomic::write_atomic;
use super::error::ProjectError;

/// Newest layout version of a project file. A project is written as the oldest version that can say what it says: 1 for one
/// clip, 2 for several, 3 where something of the person's own leads ControlVideo.
const FORMAT: u32 = 3;
/// A project file is a page of text; more is something else.
const MAX_BYTES: u64 = 1 << 20;

/// What a project file says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project<S> {
    /// The clip; none is the one that comes with the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<PathBuf>,
    /// Further clips of the same motion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_clips: Vec<MoreClip>,
    /// Model folder; none is the built-in model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What leads a method with a ControlNet.
    #[serde(default, skip_serializing_if = "Control::is_default")]
    pub control: Control,
    /// What the clip shows, in words.
    pub subject: String,
    /// What the result shall show.
    pub prompt: String,
    /// Run folders, oldest first.
    #[serde(default)]
    pub runs: Vec<PathBuf>,
    /// Settings of the transfer.
    pub settings: S,
}

/// Another clip of the same motion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoreClip {
    /// The film.
    pub path: PathBuf,
    /// What it shows, in words.
    pub subject: String,
}

/// What leads a method with a ControlNet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Folder of a ControlNet; none is the one in the model's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controlnet: Option<PathBuf>,
    /// A clip of edges, depth or poses, frame by frame that of the clip; none draws the clip's edges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<PathBuf>,
}

impl Control {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Serialize)]
struct Written<'a, S> {
    format: u32,
    project: &'a Project<S>,
}

#[derive(Deserialize)]
struct Header {
    format: u32,
}

#[derive(Deserialize)]
struct Read<S> {
    project: Project<S>,
}

impl<S: Serialize + DeserializeOwned> Project<S> {
    /// Writes the file under a temporary name and renames it.
    ///
    /// # Errors
    /// [`ProjectError::Io`]; [`ProjectError::Damaged`] for a path that cannot be written as text.
    pub fn write(&self, path: &Path) -> Result<(), ProjectError> {
        let written = Written {
            format: match (self.control.is_default(), self.more_clips.is_empty()) {
                (false, _) => FORMAT,
                (true, false) => 2,
                (true, true) => 1,
            },
            project: self,
        };
        let text =
            toml::to_string_pretty(&written).map_err(|error| ProjectError::damaged(path, error))?;
        write_atomic(path, text.as_bytes())
    }

    /// Reads a project file.
    ///
    /// # Errors
    /// [`ProjectError::Io`], [`ProjectError::Damaged`], [`ProjectError::TooNew`].
    pub fn read(path: &Path) -> Result<Self, ProjectError> {
        let size = fs::metadata(path)
            .map_err(ProjectError::io("read", path))?
            .len();
        if size > MAX_BYTES {
            return Err(ProjectError::damaged(path, "it is far too large"));
        }
        let bytes = fs::read(path).map_err(ProjectError::io("read", path))?;
        let text =
            String::from_utf8(bytes).map_err(|_| ProjectError::damaged(path, "it is not text"))?;
        let header: Header =
            toml::from_str(&text).map_err(|error| ProjectError::damaged(path, error))?;
        if header.format > FORMAT {
            return Err(ProjectError::TooNew {
                path: path.to_owned(),
                found: header.format,
                known: FORMAT,
            });
        }
        let read: Read<S> =
            toml::from_str(&text).map_err(|error| ProjectError::damaged(path, error))?;
        Ok(read.project)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_comes_back_as_it_was_written() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("dance.toml");
        let mut project = Project {
            clip: Some("/films/dance.mp4".into()),
            more_clips: Vec::new(),
            model: None,
            control: Control::default(),
            subject: "a dancer".to_owned(),
            prompt: "a \"bear\"".to_owned(),
            runs: vec!["/runs/dance".into()],
            settings: 7_u32,
        };
        project.write(&path).unwrap();
        assert_eq!(Project::<u32>::read(&path).unwrap(), project);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("format = 1\n") && !text.contains("more_clips"),
            "programs that know one clip read it: {text}"
        );
        project.more_clips.push(MoreClip {
            path: "/films/waltz.mp4".into(),
            subject: "two dancers".to_owned(),
        });
        project.write(&path).unwrap();
        assert_eq!(Project::<u32>::read(&path).unwrap(), project);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("format = 2\n") && !text.contains("control"),
            "{text}"
        );
        project.control.clip = Some("/films/depth.mp4".into());
        project.write(&path).unwrap();
        assert_eq!(Project::<u32>::read(&path).unwrap(), project);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("format = 3\n"), "{text}");
    }

    #[test]
    fn what_is_no_project_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("p.toml");
        fs::write(&path, "format = 99\n").unwrap();
        let newer = Project::<u32>::read(&path);
        assert!(matches!(newer, Err(ProjectError::TooNew { .. })));
        fs::write(&path, "hello").unwrap();
        let broken = Project::<u32>::read(&path);
        assert!(matches!(broken, Err(ProjectError::Damaged { .. })));
        fs::write(&path, b"format = 1 # \xff\n").unwrap();
        let no_text = Project::<u32>::read(&path);
        assert!(matches!(no_text, Err(ProjectError::Damaged { .. })));
    }
}
