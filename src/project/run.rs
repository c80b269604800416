//! The run folder: made once, locked while in use, never overwritten.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic::{free_name, write_atomic};
use super::checkpoint::Checkpoint;
use super::error::ProjectError;
use super::record::RunRecord;

const RECORD: &str = "run.toml";
const METRICS: &str = "metrics.jsonl";
const LOCK: &str = ".lock";
/// Folders of a run.
const PARTS: [&str; 4] = ["checkpoints", "samples", "cache", "final"];
/// Layout version of `run.toml`.
pub const RUN_FORMAT: u32 = 1;

/// An open run folder. The lock is released when this is dropped, also after a crash.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: Option<File>,
    _lock: File,
}

impl RunFolder {
    /// Makes a new run folder, with its parents.
    ///
    /// # Errors
    /// [`ProjectError::Exists`] when there is a run already, [`ProjectError::NotEmpty`] for other files,
    /// [`ProjectError::Locked`], [`ProjectError::Io`].
    pub fn create(path: &Path) -> Result<Self, ProjectError> {
        fs::create_dir_all(path).map_err(ProjectError::io("create", path))?;
        refuse_strangers(path)?;
        let lock = lock(path)?;
        if path.join(RECORD).exists() {
            return Err(ProjectError::Exists {
                path: path.to_owned(),
            });
        }
        for part in PARTS {
            let part = path.join(part);
            fs::create_dir_all(&part).map_err(ProjectError::io("create", &part))?;
        }
        Ok(Self {
            path: path.to_owned(),
            metrics: None,
            _lock: lock,
        })
    }

    /// Opens a run folder to work in it.
    ///
    /// # Errors
    /// [`ProjectError::NotARun`], [`ProjectError::Locked`], [`ProjectError::Io`].
    pub fn open(path: &Path) -> Result<Self, ProjectError> {
        if !path.join(RECORD).is_file() {
            return Err(ProjectError::NotARun {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            metrics: None,
            _lock: lock(path)?,
        })
    }

    /// Takes back a run that never began: removes its folders as far as they are empty.
    pub fn discard(self) {
        for part in PARTS {
            fs::remove_dir(self.path.join(part)).ok();
        }
        fs::remove_file(self.path.join(LOCK)).ok();
        fs::remove_dir(&self.path).ok();
    }

    /// Whether a folder looks like a run, without opening it.
    #[must_use]
    pub fn is_run(path: &Path) -> bool {
        path.join(RECORD).is_file()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `run.toml`.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn write_record<S: Serialize>(&self, record: &RunRecord<S>) -> Result<(), ProjectError> {
        let path = self.path.join(RECORD);
        let text =
            toml::to_string_pretty(record).map_err(|error| ProjectError::damaged(&path, error))?;
        write_atomic(&path, text.as_bytes())
    }

    /// Reads `run.toml`.
    ///
    /// # Errors
    /// [`ProjectError::Io`], [`ProjectError::Damaged`], [`ProjectError::TooNew`].
    pub fn read_record<S: DeserializeOwned>(&self) -> Result<RunRecord<S>, ProjectError> {
        Self::look(&self.path)
    }

    /// Reads the `run.toml` of a run that others may be working in.
    ///
    /// # Errors
    /// As [`Self::read_record`].
    pub fn look<S: DeserializeOwned>(run: &Path) -> Result<RunRecord<S>, ProjectError> {
        let path = run.join(RECORD);
        let text = fs::read_to_string(&path).map_err(ProjectError::io("read", &path))?;
        let table: toml::Table = text
            .parse()
            .map_err(|error| ProjectError::damaged(&path, error))?;
        let found = table
            .get("format")
            .and_then(toml::Value::as_integer)
            .and_then(|n| u32::try_from(n).ok());
        match found {
            Some(found) if found > RUN_FORMAT => {
                return Err(ProjectError::TooNew {
                    path,
                    found,
                    known: RUN_FORMAT,
                });
            }
            Some(_) => {}
            None => return Err(ProjectError::damaged(&path, "it does not say its format")),
        }
        toml::from_str(&text).map_err(|error| ProjectError::damaged(&path, error))
    }

    /// The lines of `metrics.jsonl` of a run that others may be working in; a last line that is not whole is left out.
    ///
    /// # Errors
    /// [`ProjectError::Io`], [`ProjectError::Damaged`].
    pub fn look_metrics<L: DeserializeOwned>(run: &Path) -> Result<Vec<L>, ProjectError> {
        let path = run.join(METRICS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(ProjectError::io("read", &path))?;
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).map_err(|e| ProjectError::damaged(&path, e)))
            .collect()
    }

    /// Whether the training of a run came to its end, without opening it.
    #[must_use]
    pub fn is_finished(run: &Path) -> bool {
        final_weights(run).is_file()
    }

    /// Appends one line to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn append_metrics(&mut self, line: &impl Serialize) -> Result<(), ProjectError> {
        let path = self.path.join(METRICS);
        let mut text =
            serde_json::to_string(line).map_err(|error| ProjectError::damaged(&path, error))?;
        text.push('\n');
        if self.metrics.is_none() {
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            self.metrics = Some(opened.map_err(ProjectError::io("open", &path))?);
        }
        match &mut self.metrics {
            Some(file) => file
                .write_all(text.as_bytes())
                .map_err(ProjectError::io("write", &path)),
            None => Ok(()),
        }
    }

    /// Cuts `metrics.jsonl` back to the first `steps` lines: a resume repeats what came after its checkpoint.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn keep_metrics(&mut self, steps: u32) -> Result<(), ProjectError> {
        self.metrics = None;
        let path = self.path.join(METRICS);
        if !path.exists() {
            return Ok(());
        }
        let text = fs::read_to_string(&path).map_err(ProjectError::io("read", &path))?;
        let kept: String = text.split_inclusive('\n').take(steps as usize).collect();
        if kept.len() == text.len() {
            Ok(())
        } else {
            write_atomic(&path, kept.as_bytes())
        }
    }

    /// Writes a checkpoint and removes the oldest beyond `keep`.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn write_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        keep: usize,
    ) -> Result<PathBuf, ProjectError> {
        let path = checkpoint.write(&self.path.join("checkpoints"))?;
        for old in self.checkpoints()?.into_iter().rev().skip(keep.max(1)) {
            if old != path {
                fs::remove_dir_all(&old).map_err(ProjectError::io("remove", &old))?;
            }
        }
        Ok(path)
    }

    /// The checkpoint folders, oldest first.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn checkpoints(&self) -> Result<Vec<PathBuf>, ProjectError> {
        let folder = self.path.join("checkpoints");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(ProjectError::io("read", &folder))? {
            let entry = entry.map_err(ProjectError::io("read", &folder))?;
            if entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with("step-"))
            {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// The newest checkpoint that is whole, and what is wrong with any newer one.
    ///
    /// # Errors
    /// [`ProjectError::Io`] when the folder cannot be listed; the damage of the newest one when none is whole.
    pub fn latest_checkpoint(
        &self,
    ) -> Result<(Option<Checkpoint>, Vec<ProjectError>), ProjectError> {
        let mut damaged = Vec::new();
        for path in self.checkpoints()?.iter().rev() {
            match Checkpoint::read(path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(error) => damaged.push(error),
            }
        }
        if damaged.is_empty() {
            Ok((None, damaged))
        } else {
            Err(damaged.swap_remove(0))
        }
    }

    /// The runs in a folder that were begun, have a checkpoint, are not finished, and in which nobody works; the newest
    /// first.
    #[must_use]
    pub fn unfinished(parent: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(parent) else {
            return Vec::new();
        };
        let mut found: Vec<_> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let changed = entry.metadata().and_then(|about| about.modified()).ok();
                // Opening takes the lock, which fails while another program trains there.
                let run = Self::open(&entry.path()).ok()?;
                let begun = run.checkpoints().is_ok_and(|saved| !saved.is_empty());
                (begun && !run.final_weights().exists()).then(|| (changed, run.path.clone()))
            })
            .collect();
        found.sort();
        found.into_iter().rev().map(|(_, path)| path).collect()
    }

    /// A file of the run's cache.
    #[must_use]
    pub fn cache(&self, name: &str) -> PathBuf {
        self.path.join("cache").join(name)
    }

    /// Where the fine-tuned weights end.
    #[must_use]
    pub fn final_weights(&self) -> PathBuf {
        final_weights(&self.path)
    }

    /// The folder of previews.
    #[must_use]
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }
}

fn final_weights(run: &Path) -> PathBuf {
    run.join("final").join("weights.safetensors")
}

/// A folder with other files in it is no place for a new run; a run is, and is told apart later.
fn refuse_strangers(path: &Path) -> Result<(), ProjectError> {
    for entry in fs::read_dir(path).map_err(ProjectError::io("read", path))? {
        let name = entry.map_err(ProjectError::io("read", path))?.file_name();
        let ours = [RECORD, LOCK, METRICS]
            .iter()
            .chain(&PARTS)
            .any(|part| name == *part);
        if !ours {
            return Err(ProjectError::NotEmpty {
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, ProjectError> {
    let lock_path = path.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(ProjectError::io("create", &lock_path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ProjectError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(ProjectError::Io {
            action: "lock",
            path: lock_path,
            source,
        }),
    }
}

/// Where runs go when no folder is named: the platform's place for a program's data.
#[must_use]
pub fn default_runs_dir() -> PathBuf {
    let folder = |variable: &str| {
        env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let data = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")))
    };
    data.unwrap_or_else(env::temp_dir)
        .join("spectral-motion")
        .join("runs")
}

impl RunFolder {
    /// Makes a new run folder in `parent`, named after the clip, without touching any run that is there.
    ///
    /// # Errors
    /// See [`Self::create`].
    pub fn create_in(parent: &Path, clip_name: &OsStr) -> Result<Self, ProjectError> {
        let stem = Path::new(clip_name)
            .file_stem()
            .unwrap_or(clip_name)
            .to_string_lossy();
        loop {
            match Self::create(&free_name(parent, &stem, "")) {
                // Another process took the name in between.
                Err(ProjectError::Exists { .. } | ProjectError::Locked { .. }) => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_takes_new_or_empty_folders_only() {
        let place = tempfile::tempdir().unwrap();
        let strange = place.path().join("documents");
        fs::create_dir(&strange).unwrap();
        fs::write(strange.join("letter.txt"), "dear").unwrap();
        assert!(matches!(
            RunFolder::create(&strange),
            Err(ProjectError::NotEmpty { .. })
        ));
        assert_eq!(
            fs::read_dir(&strange).unwrap().count(),
            1,
            "nothing was added"
        );

        let path = place.path().join("run");
        let run = RunFolder::create(&path).unwrap();
        assert!(matches!(
            RunFolder::create(&path),
            Err(ProjectError::Locked { .. })
        ));
        run.discard();
        assert!(!path.exists());
        assert!(matches!(
            RunFolder::open(&path),
            Err(ProjectError::NotARun { .. })
        ));
    }

    #[test]
    fn two_runs_of_a_clip_get_names_of_their_own() {
        let place = tempfile::tempdir().unwrap();
        let first = RunFolder::create_in(place.path(), "car.mp4".as_ref()).unwrap();
        let second = RunFolder::create_in(place.path(), "car.mp4".as_ref()).unwrap();
        assert_eq!(first.path(), place.path().join("car"));
        assert_eq!(second.path(), place.path().join("car 2"));
    }

    #[test]
    fn metrics_are_cut_back_to_whole_steps() {
        let place = tempfile::tempdir().unwrap();
        let mut run = RunFolder::create(&place.path().join("run")).unwrap();
        for step in 0..5 {
            run.append_metrics(&step).unwrap();
        }
        run.keep_metrics(2).unwrap();
        run.append_metrics(&9).unwrap();
        let text = fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
        assert_eq!(text, "0\n1\n9\n");
    }
}
