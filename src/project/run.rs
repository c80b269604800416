//! The run folder: made once, locked while in use, never overwritten.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::atomic::{free_name, is_temporary, sweep, sync_parent, write_atomic};
use super::checkpoint::Checkpoint;
use super::error::ProjectError;
use super::lock::try_lock;
use super::metrics::{self, Metrics};
use super::record::RunRecord;

const RECORD: &str = "run.toml";
const LOCK: &str = ".lock";
const CHECKPOINTS: &str = "checkpoints";
const SAMPLES: &str = "samples";
const CACHE: &str = "cache";
const FINAL: &str = "final";
/// Folders of a run.
const PARTS: [&str; 4] = [CHECKPOINTS, SAMPLES, CACHE, FINAL];
/// What a training begins with: the clip and the words as the model sees them.
const LATENTS: &str = "latents.safetensors";
/// Newest layout version of `run.toml`.
const RUN_FORMAT: u32 = 2;

/// Layout version of the `run.toml` of a run with this many clips. Programs that know one clip only must refuse a run with
/// several instead of going on with the first, so several are another version; one clip is written as it always was.
#[must_use]
pub fn run_format(clips: usize) -> u32 {
    if clips > 1 { RUN_FORMAT } else { 1 }
}

/// An open run folder. The lock is released when this is dropped, also after a crash.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: Metrics,
    lock: File,
}

/// The one setting that this room must know.
#[derive(Deserialize)]
struct Goal {
    steps: u32,
}

impl RunFolder {
    /// Makes a new run folder, with its parents. What a training left that was killed before it began is taken over.
    ///
    /// # Errors
    /// [`ProjectError::Exists`] when there is a run already, [`ProjectError::NotEmpty`] for other files,
    /// [`ProjectError::Locked`], [`ProjectError::Io`].
    pub fn create(path: &Path) -> Result<Self, ProjectError> {
        fs::create_dir_all(path).map_err(ProjectError::io("create", path))?;
        if !Self::is_run(path) {
            refuse_strangers(path)?;
        }
        let run = Self::locked(path)?;
        if Self::is_run(path) {
            return Err(ProjectError::Exists {
                path: path.to_owned(),
            });
        }
        run.tidy()?;
        sync_parent(path)?;
        Ok(run)
    }

    /// Opens a run folder to work in it, and puts in order what a killed program left there.
    ///
    /// # Errors
    /// [`ProjectError::NotARun`], [`ProjectError::NeverBegan`], [`ProjectError::Locked`], [`ProjectError::Io`].
    pub fn open(path: &Path) -> Result<Self, ProjectError> {
        let begun =
            Self::is_run(path) || path.join(LOCK).is_file() && path.join(CHECKPOINTS).is_dir();
        if !begun {
            return Err(ProjectError::NotARun {
                path: path.to_owned(),
            });
        }
        // Whoever is about to begin there has the lock.
        let run = Self::locked(path)?;
        if !Self::is_run(path) {
            return Err(ProjectError::NeverBegan {
                path: path.to_owned(),
            });
        }
        run.tidy()?;
        Ok(run)
    }

    fn locked(path: &Path) -> Result<Self, ProjectError> {
        Ok(Self {
            path: path.to_owned(),
            metrics: Metrics::of(path),
            lock: lock(path)?,
        })
    }

    /// Makes the folders that are missing (copies lose empty ones) and sweeps what was left half-written.
    fn tidy(&self) -> Result<(), ProjectError> {
        sweep(&self.path);
        for part in PARTS {
            let part = self.path.join(part);
            fs::create_dir_all(&part).map_err(ProjectError::io("create", &part))?;
        }
        Checkpoint::recover(&self.path.join(CHECKPOINTS))?;
        for part in [SAMPLES, CACHE, FINAL] {
            sweep(&self.path.join(part));
        }
        Ok(())
    }

    /// Takes back a run that never began: removes its cache, and its folders as far as they are empty.
    pub fn discard(self) {
        fs::remove_file(self.latents()).ok();
        for part in PARTS {
            fs::remove_dir(self.path.join(part)).ok();
        }
        fs::remove_file(self.path.join(LOCK)).ok();
        fs::remove_dir(&self.path).ok();
    }

    /// Whether the run is still where it was, to be asked before anything is written into it: what was moved or removed
    /// shall not come back in halves, and another run that took its place is not ours.
    ///
    /// # Errors
    /// [`ProjectError::Vanished`].
    pub fn still_there(&self) -> Result<(), ProjectError> {
        let ours = fs::metadata(self.path.join(LOCK))
            .and_then(|found| Ok(same_file(&found, &self.lock.metadata()?)))
            .unwrap_or(false);
        if ours && Self::is_run(&self.path) {
            Ok(())
        } else {
            Err(ProjectError::Vanished {
                path: self.path.clone(),
            })
        }
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
        let bytes = fs::read(&path).map_err(ProjectError::io("read", &path))?;
        let text =
            String::from_utf8(bytes).map_err(|_| ProjectError::damaged(&path, "it is not text"))?;
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

    /// The lines of `metrics.jsonl` of a run that others may be working in; one that cannot be read, or is not whole yet,
    /// is left out.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn look_metrics<L: DeserializeOwned>(run: &Path) -> Result<Vec<L>, ProjectError> {
        metrics::look(run)
    }

    /// Appends one line to `metrics.jsonl`. It has a number `step` beside whatever else it says.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn append_metrics(&mut self, line: &impl Serialize) -> Result<(), ProjectError> {
        self.metrics.append(line)
    }

    /// Cuts `metrics.jsonl` back to the whole lines of the first `steps` steps: a resume repeats what came after its
    /// checkpoint.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn keep_metrics(&mut self, steps: u32) -> Result<(), ProjectError> {
        self.metrics.keep(steps)
    }

    /// Writes a checkpoint and removes the oldest beyond `keep`. Those of later steps do not count: a training that came
    /// back to an earlier step found them damaged.
    ///
    /// # Errors
    /// [`ProjectError::Io`], [`ProjectError::Vanished`]; the checkpoints before it are still whole.
    pub fn write_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        keep: usize,
    ) -> Result<PathBuf, ProjectError> {
        self.still_there()?;
        self.metrics.sync()?;
        let path = checkpoint.write(&self.path.join(CHECKPOINTS))?;
        let mut saved = checkpoints(&self.path)?;
        saved.retain(|(step, _)| *step <= checkpoint.state.step);
        for (_, old) in saved.iter().rev().skip(keep.max(1)) {
            // What another program holds open is in nobody's way, and the next checkpoint tries again.
            Checkpoint::retire(old).ok();
        }
        Ok(path)
    }

    /// The checkpoint folders, oldest first.
    ///
    /// # Errors
    /// [`ProjectError::Io`].
    pub fn checkpoints(&self) -> Result<Vec<PathBuf>, ProjectError> {
        let saved = checkpoints(&self.path)?;
        Ok(saved.into_iter().map(|(_, path)| path).collect())
    }

    /// The newest checkpoint that is whole, and what is wrong with any newer one.
    ///
    /// # Errors
    /// [`ProjectError::Io`] when the folder cannot be listed; [`ProjectError::TooNew`] for one of a newer version, since
    /// going on from an older one would in time remove it; the damage of the newest one when none is whole.
    pub fn latest_checkpoint(
        &self,
    ) -> Result<(Option<Checkpoint>, Vec<ProjectError>), ProjectError> {
        let mut damaged = Vec::new();
        for path in self.checkpoints()?.iter().rev() {
            match Checkpoint::read(path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(error @ ProjectError::TooNew { .. }) => return Err(error),
                Err(error) => damaged.push(error),
            }
        }
        if damaged.is_empty() {
            Ok((None, damaged))
        } else {
            Err(damaged.swap_remove(0))
        }
    }

    /// Whether a run has its weights after `steps` training steps. Weights of fewer steps are there while a run is
    /// trained further.
    #[must_use]
    pub fn is_finished(run: &Path, steps: u32) -> bool {
        let newest = checkpoints(run).unwrap_or_default().pop();
        Self::final_weights_of(run).is_file() && newest.is_none_or(|(step, _)| step >= steps)
    }

    /// The runs in a folder that were begun, are not finished, and in which nobody works; the newest first. A run that
    /// has no checkpoint yet goes on from its cache.
    #[must_use]
    pub fn unfinished(parent: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(parent) else {
            return Vec::new();
        };
        let mut found: Vec<_> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let changed = entry.metadata().and_then(|about| about.modified()).ok();
                let path = entry.path();
                let record: RunRecord<Goal> = Self::look(&path).ok()?;
                if Self::is_finished(&path, record.settings.steps) {
                    return None;
                }
                // Opening takes the lock, which fails while another program trains there.
                Self::open(&path).ok()?;
                Some((changed, path))
            })
            .collect();
        found.sort();
        found.into_iter().rev().map(|(_, path)| path).collect()
    }

    /// Where the clip and the words are kept as the model sees them.
    #[must_use]
    pub fn latents(&self) -> PathBuf {
        self.cache(LATENTS)
    }

    /// A file of the run's cache.
    #[must_use]
    pub fn cache(&self, name: &str) -> PathBuf {
        self.path.join(CACHE).join(name)
    }

    /// Where the fine-tuned weights end.
    #[must_use]
    pub fn final_weights(&self) -> PathBuf {
        Self::final_weights_of(&self.path)
    }

    /// The same of a run that others may be working in.
    #[must_use]
    pub fn final_weights_of(run: &Path) -> PathBuf {
        run.join(FINAL).join("weights.safetensors")
    }

    /// The folder of previews.
    #[must_use]
    pub fn samples(&self) -> PathBuf {
        self.path.join(SAMPLES)
    }
}

/// A folder with other files in it is no place for a new run. What a training leaves that is killed before it began is no
/// other file: empty folders, the lock, a cache.
fn refuse_strangers(path: &Path) -> Result<(), ProjectError> {
    let refused = || ProjectError::NotEmpty {
        path: path.to_owned(),
    };
    for name in names(path)? {
        let part = PARTS.into_iter().find(|part| name == *part);
        let inside = match part {
            Some(part) => names(&path.join(part)).map_err(|_| refused())?,
            None if name == LOCK || is_temporary(&name) => continue,
            None => return Err(refused()),
        };
        let ours = |name: &String| is_temporary(name) || part == Some(CACHE) && name == LATENTS;
        if !inside.iter().all(ours) {
            return Err(refused());
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>, ProjectError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(ProjectError::io("read", folder))? {
        let name = entry.map_err(ProjectError::io("read", folder))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The checkpoint folders of a run with their steps, oldest first.
fn checkpoints(run: &Path) -> Result<Vec<(u32, PathBuf)>, ProjectError> {
    let folder = run.join(CHECKPOINTS);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(ProjectError::io("read", &folder))? {
        let entry = entry.map_err(ProjectError::io("read", &folder))?;
        if let Some(step) = Checkpoint::step_of(&entry.file_name()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether two descriptions are of one file. Where the system does not number its files, they are taken for one.
fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        (a.dev(), a.ino()) == (b.dev(), b.ino())
    }
    #[cfg(not(unix))]
    {
        a.is_file() && b.is_file()
    }
}

fn lock(path: &Path) -> Result<File, ProjectError> {
    let lock_path = path.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(ProjectError::io("lock", path))?;
    match try_lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ProjectError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(ProjectError::Io {
            action: "lock",
            path: path.to_owned(),
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
    fn a_training_killed_before_it_began_leaves_room_for_the_next_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run");
        let run = RunFolder::create(&path).unwrap();
        fs::write(run.latents(), "half").unwrap();
        fs::write(path.join(".run.toml.tmp"), "half").unwrap();
        drop(run);
        assert!(matches!(
            RunFolder::open(&path),
            Err(ProjectError::NeverBegan { .. })
        ));
        let again = RunFolder::create(&path).unwrap();
        assert!(!path.join(".run.toml.tmp").exists());
        again.discard();
        assert!(!path.exists());

        // A stranger's files in folders of our names are not ours.
        for strange in [
            "final/weights.safetensors",
            "cache/letter.txt",
            "samples/a.gif",
        ] {
            let path = place.path().join(strange.replace('/', " "));
            let file = path.join(strange);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "dear").unwrap();
            let refused = RunFolder::create(&path);
            assert!(
                matches!(refused, Err(ProjectError::NotEmpty { .. })),
                "{strange}"
            );
        }
    }

    #[test]
    fn a_run_that_is_gone_or_another_one_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run");
        let run = RunFolder::create(&path).unwrap();
        fs::write(path.join(RECORD), "").unwrap();
        run.still_there().unwrap();
        fs::rename(&path, place.path().join("moved")).unwrap();
        assert!(matches!(
            run.still_there(),
            Err(ProjectError::Vanished { .. })
        ));
        let other = RunFolder::create(&path).unwrap();
        fs::write(path.join(RECORD), "").unwrap();
        other.still_there().unwrap();
        if cfg!(unix) {
            assert!(run.still_there().is_err(), "that is another run");
        }
    }
}
