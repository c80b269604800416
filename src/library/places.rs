//! The library as a whole: every model that is known or was added, and where it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::cache::Cache;
use super::catalogue::{KNOWN, Kind, Known};
use super::digest::Checksum;
use super::error::LibraryError;
use super::hub::{Hub, Plan};
use super::registry::{Added, Downloaded, DownloadedFile, Registry};
use super::state::{self, State, check_content};
use super::{GoOn, Result};
use crate::models::ModelFolder;
use crate::project::default_runs_dir;

/// The longest name of an added folder.
const MAX_NAME: usize = 80;
/// The name that stands for the model inside the program.
const BUILTIN: &str = "builtin";

/// A model of the catalogue, or a folder that was added.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What to call it.
    pub name: String,
    /// The model of the catalogue.
    pub known: Option<&'static Known>,
    /// What it is, where that is known.
    pub kind: Option<Kind>,
    /// Its folder, where there is one.
    pub folder: Option<PathBuf>,
    /// Whether a person added that folder.
    pub is_added: bool,
    /// What there is of it.
    pub state: State,
    /// Bytes on the disk.
    pub bytes: u64,
}

impl Entry {
    /// What to call it to people.
    #[must_use]
    pub fn title(&self) -> &str {
        self.known.map_or(&self.name, |known| known.title)
    }
}

/// What was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A folder is no longer on the list; it is still there.
    Folder(PathBuf),
    /// Files that were downloaded here.
    Files {
        /// The model's folder in the cache.
        place: PathBuf,
        /// How many.
        files: usize,
        /// Their size.
        bytes: u64,
    },
}

/// The catalogue, the added folders and the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Folders that were added.
    pub registry: Registry,
    /// The cache that downloads go to.
    pub cache: Cache,
}

impl Library {
    /// The library with its list in this data folder.
    #[must_use]
    pub fn new(data: &Path, cache: Cache) -> Self {
        Self {
            registry: Registry::new(data),
            cache,
        }
    }

    /// The library of whoever runs the program.
    #[must_use]
    pub fn from_environment() -> Self {
        let runs = default_runs_dir();
        let data = runs.parent().unwrap_or(&runs);
        Self::new(data, Cache::from_environment())
    }

    /// Everything that is known or was added, with its state. Folders are opened; no weight is read and nothing asked of the
    /// network.
    ///
    /// # Errors
    /// When the list of added folders cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let added = self.registry.added()?;
        let known = KNOWN.iter().map(|known| self.known_entry(known, &added));
        let others = added
            .iter()
            .filter(|added| Known::find(&added.name).is_none());
        Ok(known.chain(others.map(added_entry)).collect())
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// [`LibraryError::Unknown`], and as [`Self::entries`].
    pub fn entry(&self, name: &str) -> Result<Entry> {
        let added = self.registry.added()?;
        if let Some(known) = Known::find(name) {
            return Ok(self.known_entry(known, &added));
        }
        let found = added.iter().find(|added| added.name == name);
        found.map(added_entry).ok_or_else(|| LibraryError::Unknown {
            name: name.to_owned(),
        })
    }

    fn known_entry(&self, known: &'static Known, added: &[Added]) -> Entry {
        let own = added
            .iter()
            .find(|added| Known::find(&added.name) == Some(known));
        let entry = |folder: Option<PathBuf>, here_bytes: u64| {
            let state = match &folder {
                Some(folder) => state::of_known(known, folder, here_bytes),
                None => State::Missing {
                    files: known
                        .files
                        .iter()
                        .map(|file| file.names[0].to_owned())
                        .collect(),
                    here_bytes,
                },
            };
            Entry {
                name: known.name.to_owned(),
                known: Some(known),
                kind: Some(known.kind),
                bytes: folder.as_deref().map_or(0, bytes_of),
                folder,
                is_added: own.is_some(),
                state,
            }
        };
        if let Some(own) = own {
            return entry(Some(own.folder.clone()), 0);
        }
        let here = known.repos().map(|repo| {
            let bytes = self.cache.bytes_here(repo);
            entry(self.cache.snapshot(repo), bytes)
        });
        // Under an earlier name it may be whole where under the present one it is not.
        let mut here: Vec<Entry> = here.collect();
        let best = here.iter().position(|entry| entry.state.is_present());
        here.swap_remove(best.unwrap_or(0))
    }

    /// The folder of the model a person names: an added folder, or a model of the catalogue. Nothing where the name is none
    /// of these; what exists under the name on the disk comes first.
    ///
    /// # Errors
    /// When it is known and not here, or damaged.
    pub fn find(&self, name: &Path) -> Result<Option<PathBuf>> {
        let Some(text) = name.to_str().filter(|_| !name.exists()) else {
            return Ok(None);
        };
        let entry = match self.entry(text) {
            Ok(entry) => entry,
            Err(LibraryError::Unknown { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match (entry.state, entry.folder) {
            (State::Missing { files, .. }, _) if entry.known.is_some() => {
                let known = entry.known.map_or(0, |known| known.files.len());
                Err(LibraryError::NotHere {
                    title: entry.known.map_or(text, |known| known.title).to_owned(),
                    name: entry.name,
                    missing: files.len(),
                    files: known,
                })
            }
            // What is wrong with a folder is told by whoever opens it.
            (_, folder) => Ok(folder),
        }
    }

    /// Puts a folder on the list. Without a name it gets its own.
    ///
    /// # Errors
    /// When it holds no model this program can use, or the name is taken.
    pub fn add(&self, folder: &Path, name: Option<&str>) -> Result<Added> {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        state::kind_of(&folder)?;
        let own = || match ModelFolder::open(&folder) {
            Ok(model) => model.name(),
            Err(_) => folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        };
        let name = name.map_or_else(|| own().replace('/', "-"), str::to_owned);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let usable = (1..=MAX_NAME).contains(&name.len())
            && !name.starts_with('.')
            && name.chars().all(plain);
        if !usable || name == BUILTIN {
            return Err(LibraryError::BadName { name });
        }
        if let Some(known) = Known::find(&name) {
            // It stands for that model: it must be one of its kind.
            state::open(&folder, known.kind)?;
        }
        let added = Added { name, folder };
        self.registry.change(|list| {
            if let Some(other) = list.added.iter().find(|other| other.name == added.name) {
                return match other.folder == added.folder {
                    true => Ok(()),
                    false => Err(LibraryError::Taken {
                        name: added.name.clone(),
                    }),
                };
            }
            list.added.push(added.clone());
            Ok(())
        })?;
        Ok(added)
    }

    /// Opens the folder of a model with the reader of its kind, and takes the checksums of files that are named by them. Gives
    /// the number of these.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn check(&self, name: &str, go_on: GoOn<'_>) -> Result<usize> {
        let entry = self.entry(name)?;
        let Some(folder) = entry.folder else {
            let files = entry.known.map_or(0, |known| known.files.len());
            return Err(LibraryError::NotHere {
                title: entry.known.map_or(name, |known| known.title).to_owned(),
                name: entry.name,
                missing: files,
                files,
            });
        };
        match entry.known {
            Some(known) => state::open(&folder, known.kind)?,
            None => state::kind_of(&folder).map(drop)?,
        }
        check_content(&folder, go_on)
    }

    /// Fetches what a plan says, and notes that it was done here.
    ///
    /// # Errors
    /// As [`Hub::fetch`], and when the list cannot be written.
    pub fn fetch(&self, hub: &Hub, plan: &Plan, go_on: GoOn<'_>) -> Result<PathBuf> {
        // Before the first byte: what a download leaves that does not end can be removed as well.
        let new = plan
            .files
            .iter()
            .filter(|file| !self.cache.blob(plan.known.repo, &file.checksum).is_file());
        let new: Vec<_> = new
            .map(|file| DownloadedFile {
                path: file.path.clone(),
                blob: file.checksum.as_str().to_owned(),
            })
            .collect();
        if !new.is_empty() && !hub.offline {
            self.registry.change(|list| {
                note(&mut list.downloaded, self.cache.root(), plan, new);
                Ok(())
            })?;
        }
        hub.fetch(plan, &self.cache, go_on)
    }

    /// What [`Self::remove`] would remove.
    ///
    /// # Errors
    /// When there is nothing of this name, or others put it there.
    pub fn removal(&self, name: &str) -> Result<Removed> {
        let list = self.registry.read()?;
        let is_meant = |added: &&Added| match Known::find(name) {
            Some(known) => Known::find(&added.name) == Some(known),
            None => added.name == name,
        };
        if let Some(added) = list.added.iter().find(is_meant) {
            return Ok(Removed::Folder(added.folder.clone()));
        }
        let unknown = || LibraryError::Unknown {
            name: name.to_owned(),
        };
        let known = Known::find(name).ok_or_else(unknown)?;
        let ours: Vec<_> = self
            .ours(&list.downloaded, known)
            .flat_map(files_of)
            .collect();
        let place = self.cache.entry(known.repo);
        if ours.is_empty() {
            return Err(match self.cache.snapshot(known.repo) {
                Some(_) => LibraryError::NotOurs { place },
                None => LibraryError::NotHere {
                    title: known.title.to_owned(),
                    name: known.name.to_owned(),
                    missing: known.files.len(),
                    files: known.files.len(),
                },
            });
        }
        let sizes = ours
            .iter()
            .filter_map(|file| Some(fs::metadata(file).ok()?.len()));
        Ok(Removed::Files {
            place,
            files: ours.len(),
            bytes: sizes.sum(),
        })
    }

    /// Takes a folder off the list, which stays where it is, or removes the files of a model that were downloaded here.
    ///
    /// # Errors
    /// As [`Self::removal`], [`LibraryError::Busy`] while one of the files is being downloaded, and when a file cannot be
    /// removed.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let removed = self.removal(name)?;
        self.registry.change(|list| {
            if let Removed::Folder(folder) = &removed {
                list.added.retain(|added| {
                    let same = added.name == name
                        || Known::find(name)
                            .is_some_and(|known| Known::find(&added.name) == Some(known));
                    !(same && added.folder == *folder)
                });
                return Ok(());
            }
            let Some(known) = Known::find(name) else {
                return Ok(());
            };
            // All of them before the first file goes: what another program is fetching stays whole.
            let locks = self.lock_all(self.ours(&list.downloaded, known))?;
            for downloaded in self.ours(&list.downloaded, known) {
                self.clear(downloaded)?;
            }
            drop(locks);
            let is_ours = |one: &Downloaded| {
                one.cache == self.cache.root() && known.repos().any(|repo| repo == one.repo)
            };
            list.downloaded.retain(|one| !is_ours(one));
            Ok(())
        })?;
        Ok(removed)
    }

    /// What was downloaded of a model into this cache.
    fn ours<'a>(
        &'a self,
        downloaded: &'a [Downloaded],
        known: &'static Known,
    ) -> impl Iterator<Item = &'a Downloaded> {
        downloaded.iter().filter(move |one| {
            one.cache == self.cache.root() && known.repos().any(|repo| repo == one.repo)
        })
    }

    /// Takes the locks on all files of what was downloaded.
    fn lock_all<'a>(
        &self,
        downloaded: impl Iterator<Item = &'a Downloaded>,
    ) -> Result<Vec<fs::File>> {
        // Once each: two versions may share a file, and a lock is not given twice.
        let mut files = BTreeMap::new();
        for one in downloaded {
            for file in &one.files {
                files.insert((&one.repo, &file.blob), &file.path);
            }
        }
        let locks = files.into_iter().filter_map(|((repo, blob), path)| {
            let checksum = Checksum::parse(blob)?;
            Some(self.cache.lock(repo, &checksum, path))
        });
        locks.collect()
    }

    /// Removes the names and blobs of what was downloaded. A blob that a version has which is not ours stays, and so do the
    /// files of the locks: another program may be waiting for one.
    fn clear(&self, downloaded: &Downloaded) -> Result<()> {
        let entry = self.cache.entry(&downloaded.repo);
        let gone = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(LibraryError::io("remove", path)(error))
            }
            _ => Ok(()),
        };
        // In use no longer before the first file goes.
        if self.cache.commit_in_use(&downloaded.repo).as_deref() == Some(&downloaded.commit) {
            gone(&entry.join("refs/main"))?;
        }
        for file in &downloaded.files {
            gone(
                &self
                    .cache
                    .file(&downloaded.repo, &downloaded.commit, &file.path),
            )?;
        }
        const DEPTH: usize = 4;
        let left: Vec<PathBuf> = state::files_in(&entry.join("snapshots"), DEPTH)
            .iter()
            .filter_map(|file| file.canonicalize().ok())
            .collect();
        for file in &downloaded.files {
            let blob = entry.join("blobs").join(&file.blob);
            let is_used = blob.canonicalize().is_ok_and(|blob| left.contains(&blob));
            if !is_used {
                gone(&blob)?;
            }
            for ending in [".incomplete", ".incomplete.etag"] {
                gone(&entry.join("blobs").join(format!("{}{ending}", file.blob)))?;
            }
        }
        if left.is_empty() {
            remove_empty(&entry);
        } else {
            // Others use another version; its mark may have been ours.
            remove_empty(&entry.join("snapshots").join(&downloaded.commit));
        }
        Ok(())
    }
}

/// Adds files to what is noted of a version.
fn note(list: &mut Vec<Downloaded>, cache: &Path, plan: &Plan, new: Vec<DownloadedFile>) {
    let same = |one: &&mut Downloaded| {
        one.cache == cache && one.repo == plan.known.repo && one.commit == plan.commit
    };
    match list.iter_mut().find(same) {
        Some(known) => {
            for file in new {
                if !known.files.contains(&file) {
                    known.files.push(file);
                }
            }
        }
        None => list.push(Downloaded {
            cache: cache.to_owned(),
            repo: plan.known.repo.to_owned(),
            commit: plan.commit.clone(),
            files: new,
        }),
    }
}

/// The blobs of what was downloaded that are there, in part at least.
fn files_of(downloaded: &Downloaded) -> Vec<PathBuf> {
    let blobs = Cache::new(downloaded.cache.clone())
        .entry(&downloaded.repo)
        .join("blobs");
    let both = downloaded.files.iter().flat_map(|file| {
        [
            blobs.join(&file.blob),
            blobs.join(format!("{}.incomplete", file.blob)),
        ]
    });
    both.filter(|path| path.is_file()).collect()
}

fn added_entry(added: &Added) -> Entry {
    let (kind, state) = state::of_added(&added.folder);
    Entry {
        name: added.name.clone(),
        known: None,
        kind,
        folder: Some(added.folder.clone()),
        is_added: true,
        bytes: bytes_of(&added.folder),
        state,
    }
}

/// Bytes of the files in a model's folder.
fn bytes_of(folder: &Path) -> u64 {
    let files = state::files_in(folder, 1);
    let sizes = files
        .iter()
        .filter_map(|file| Some(fs::metadata(file).ok()?.len()));
    sizes.sum()
}

/// Removes a folder and those inside it, where there is no file in them.
fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // A folder with something in it refuses.
    fs::remove_dir(folder).ok();
}
