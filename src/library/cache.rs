//! Hugging Face's cache on disk: where a model's files are, and how one that was fetched gets there.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::Result;
use super::digest::Checksum;
use super::error::LibraryError;
use crate::project::{try_lock, write_atomic};

/// The longest name of a commit; they are hashes of 40 letters.
const MAX_COMMIT: usize = 100;
/// The branch models are published on.
pub(super) const MAIN: &str = "main";
/// Ending of what a download that did not end has.
const INCOMPLETE: &str = ".incomplete";
/// Ending of the note beside it: which version of the file the server gave.
const VERSION: &str = ".incomplete.etag";

/// A way to give a blob a second name.
type Way = dyn Fn(&Path, &Path) -> io::Result<()>;

/// A cache of the hub's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in this folder.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The cache that all programs for the hub share: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else
    /// `~/.cache/huggingface/hub`.
    #[must_use]
    pub fn from_environment() -> Self {
        let root = variable("HF_HUB_CACHE")
            .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home().join("hub"));
        Self { root }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one model.
    #[must_use]
    pub fn entry(&self, repo: &str) -> PathBuf {
        self.root.join(entry_name(repo))
    }

    /// The version of a model that is in use, or, where there is none, what there is of a download that did not end.
    #[must_use]
    pub fn snapshot(&self, repo: &str) -> Option<PathBuf> {
        let entry = self.entry(repo);
        let versions = entry.join("snapshots");
        if let Some(commit) = self.commit_in_use(repo) {
            let version = versions.join(commit);
            if version.is_dir() {
                return Some(version);
            }
        }
        let changed = |path: &Path| -> SystemTime {
            let metadata = fs::metadata(path).and_then(|metadata| metadata.modified());
            metadata.unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let entries = fs::read_dir(versions).ok()?.filter_map(io::Result::ok);
        let versions = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir());
        versions.max_by_key(|path| changed(path))
    }

    /// What `refs/main` says.
    pub(super) fn commit_in_use(&self, repo: &str) -> Option<String> {
        let text = fs::read_to_string(self.entry(repo).join("refs").join(MAIN)).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Puts a version in use.
    pub(super) fn use_commit(&self, repo: &str, commit: &str) -> Result<()> {
        let refs = self.entry(repo).join("refs");
        make_folder(&refs)?;
        Ok(write_atomic(&refs.join(MAIN), commit.as_bytes())?)
    }

    /// Where the content of a file is.
    pub(super) fn blob(&self, repo: &str, checksum: &Checksum) -> PathBuf {
        self.entry(repo).join("blobs").join(checksum.as_str())
    }

    /// Where the content of a file grows.
    pub(super) fn incomplete(&self, repo: &str, checksum: &Checksum) -> PathBuf {
        self.named(repo, checksum, INCOMPLETE)
    }

    /// Where it is noted which version of the file the server gave.
    pub(super) fn version_note(&self, repo: &str, checksum: &Checksum) -> PathBuf {
        self.named(repo, checksum, VERSION)
    }

    fn named(&self, repo: &str, checksum: &Checksum, ending: &str) -> PathBuf {
        let name = format!("{}{ending}", checksum.as_str());
        self.entry(repo).join("blobs").join(name)
    }

    /// Where a file of a version is, under its own name.
    pub(super) fn file(&self, repo: &str, commit: &str, file: &str) -> PathBuf {
        let version = self.entry(repo).join("snapshots").join(commit);
        file.split('/').fold(version, |path, part| path.join(part))
    }

    pub(super) fn lock_file(&self, repo: &str, checksum: &Checksum) -> PathBuf {
        let locks = self.root.join(".locks").join(entry_name(repo));
        locks.join(format!("{}.lock", checksum.as_str()))
    }

    /// Takes the lock on a file, which other programs for the hub take too. It is free again when the result is dropped, also
    /// after a crash.
    ///
    /// # Errors
    /// [`LibraryError::Busy`] where another program has it.
    pub(super) fn lock(&self, repo: &str, checksum: &Checksum, file: &str) -> Result<File> {
        let path = self.lock_file(repo, checksum);
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(LibraryError::io("lock", &path))?;
        match try_lock(&lock) {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(LibraryError::Busy {
                file: file.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(LibraryError::io("lock", &path)(source)),
        }
    }

    /// Puts a blob that is whole under a file's own name.
    pub(super) fn place(
        &self,
        repo: &str,
        commit: &str,
        file: &str,
        checksum: &Checksum,
    ) -> Result<()> {
        self.place_by(&[&symlink, &hard_link], (repo, commit, file), checksum)
    }

    /// As [`Self::place`] with these ways to link, in their order; a copy is the last one.
    fn place_by(
        &self,
        ways: &[&Way],
        (repo, commit, file): (&str, &str, &str),
        checksum: &Checksum,
    ) -> Result<()> {
        let (blob, place) = (self.blob(repo, checksum), self.file(repo, commit, file));
        if same_file(&blob, &place) {
            return Ok(());
        }
        if let Some(folder) = place.parent() {
            make_folder(folder)?;
        }
        // Made aside and renamed, so that a file of this name is whole at every moment.
        let mut aside = place.clone().into_os_string();
        aside.push(".placed");
        let aside = PathBuf::from(aside);
        fs::remove_file(&aside).ok();
        let linked = ways.iter().any(|link| link(&blob, &aside).is_ok());
        if !linked {
            fs::copy(&blob, &aside).map_err(LibraryError::io("copy", &blob))?;
        }
        let placed = fs::rename(&aside, &place).map_err(LibraryError::io("write", &place));
        if placed.is_err() {
            fs::remove_file(&aside).ok();
        }
        placed
    }

    /// Bytes of a model that are here, be they whole files or not.
    pub(super) fn bytes_here(&self, repo: &str) -> u64 {
        let entries = fs::read_dir(self.entry(repo).join("blobs"))
            .into_iter()
            .flatten();
        let sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        sizes.sum()
    }
}

/// The checksum in the name of the blob that a file is a link to; none for a file that is no link into a cache.
pub(super) fn checksum_of(file: &Path) -> Option<Checksum> {
    let blob = file.canonicalize().ok()?;
    let in_blobs = blob.parent()?.file_name()? == "blobs";
    Checksum::parse(blob.file_name()?.to_str()?).filter(|_| in_blobs)
}

/// Whether a name from a server or a file can be a commit's; it becomes the name of a folder.
pub(super) fn is_commit(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_COMMIT
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

pub(super) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(LibraryError::io("create", folder))
}

fn entry_name(repo: &str) -> String {
    format!("models--{}", repo.replace('/', "--"))
}

/// A folder or file named by a variable; an empty one is none.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    let path = plain_variable(name)?;
    Some(at_home(path, own_home().as_deref()))
}

fn plain_variable(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// The home of whoever runs the program.
fn own_home() -> Option<PathBuf> {
    ["HOME", "USERPROFILE"].into_iter().find_map(plain_variable)
}

/// A path with the home in place of a `~` at its start: a shell leaves that as it is inside quotes and in settings, and the
/// other programs for the hub do the same.
fn at_home(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(inside), Some(home)) => home.join(inside),
        _ => path,
    }
}

/// The folder all programs for the hub keep their things in.
pub(super) fn home() -> PathBuf {
    variable("HF_HOME").unwrap_or_else(|| {
        let own = || own_home().map(|home| home.join(".cache"));
        let caches = variable("XDG_CACHE_HOME").or_else(own);
        caches.unwrap_or_else(env::temp_dir).join("huggingface")
    })
}

/// Whether both names lead to the same content: a link to it, or one file under two names.
fn same_file(blob: &Path, place: &Path) -> bool {
    match (blob.canonicalize(), place.canonicalize()) {
        (Ok(blob), Ok(place)) if blob == place => true,
        (Ok(blob), Ok(place)) => is_same_inode(&blob, &place),
        _ => false,
    }
}

#[cfg(unix)]
fn is_same_inode(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Elsewhere a second name of a file is not told from a copy, which is then made again.
#[cfg(not(unix))]
fn is_same_inode(_one: &Path, _other: &Path) -> bool {
    false
}

/// A link by a relative path, so that the cache can be moved as a whole.
fn symlink(blob: &Path, place: &Path) -> io::Result<()> {
    let target = relative(blob, place.parent().unwrap_or(Path::new("")));
    make_link(&target, place)
}

#[cfg(unix)]
use std::os::unix::fs::symlink as make_link;
#[cfg(windows)]
use std::os::windows::fs::symlink_file as make_link;

#[cfg(not(any(unix, windows)))]
fn make_link(_target: &Path, _place: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn hard_link(blob: &Path, place: &Path) -> io::Result<()> {
    fs::hard_link(blob, place)
}

/// The way from a folder to a file.
fn relative(file: &Path, folder: &Path) -> PathBuf {
    let shared = file.components().zip(folder.components());
    let shared = shared.take_while(|(a, b)| a == b).count();
    let up = folder
        .components()
        .skip(shared)
        .map(|_| Component::ParentDir);
    up.chain(file.components().skip(shared)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "7b57bd29ea8afbdeb9bac64cf7074f4b531492a8";

    fn cache_with_blob() -> (tempfile::TempDir, Cache, Checksum) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("hub"));
        let checksum = Checksum::parse(BLOB).unwrap();
        let blob = cache.blob("a/b", &checksum);
        make_folder(blob.parent().unwrap()).unwrap();
        fs::write(&blob, "some text\n").unwrap();
        (folder, cache, checksum)
    }

    #[test]
    fn a_file_is_a_relative_link_to_its_blob() {
        let (folder, cache, checksum) = cache_with_blob();
        for _ in 0..2 {
            cache
                .place("a/b", "c0", "unet/config.json", &checksum)
                .unwrap();
        }
        let place = cache
            .root()
            .join("models--a--b/snapshots/c0/unet/config.json");
        assert_eq!(fs::read_to_string(&place).unwrap(), "some text\n");
        assert_eq!(checksum_of(&place), Some(checksum));
        if cfg!(unix) {
            let target = fs::read_link(&place).unwrap();
            assert_eq!(target, Path::new("../../../blobs").join(BLOB));
        }
        // The cache moves, the link still leads to the blob.
        let moved = folder.path().join("moved");
        fs::rename(cache.root(), &moved).unwrap();
        let place = moved.join("models--a--b/snapshots/c0/unet/config.json");
        assert_eq!(fs::read_to_string(place).unwrap(), "some text\n");
    }

    #[test]
    fn where_no_link_can_be_made_a_file_is_a_copy() {
        let (_folder, cache, checksum) = cache_with_blob();
        let refuse = |_: &Path, _: &Path| Err(io::ErrorKind::PermissionDenied.into());
        let name = ("a/b", "c0", "config.json");
        cache
            .place_by(&[&refuse, &refuse], name, &checksum)
            .unwrap();
        let place = cache.file("a/b", "c0", "config.json");
        assert!(!place.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&place).unwrap(), "some text\n");
        assert_eq!(checksum_of(&place), None, "its name says no checksum");
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1);
        // With links at hand again the copy becomes one.
        cache
            .place_by(&[&refuse, &hard_link], name, &checksum)
            .unwrap();
        assert!(same_file(&cache.blob("a/b", &checksum), &place));
    }

    #[test]
    fn the_version_in_use_is_the_one_that_main_names() {
        let (_folder, cache, checksum) = cache_with_blob();
        assert_eq!(cache.snapshot("a/b"), None);
        for commit in ["c0", "c1"] {
            cache
                .place("a/b", commit, "config.json", &checksum)
                .unwrap();
        }
        cache.use_commit("a/b", "c0").unwrap();
        let expected = cache.entry("a/b").join("snapshots/c0");
        assert_eq!(cache.snapshot("a/b"), Some(expected));
        fs::write(cache.entry("a/b").join("refs/main"), "../../elsewhere").unwrap();
        assert_eq!(cache.commit_in_use("a/b"), None);
    }

    #[test]
    fn a_tilde_at_the_start_is_the_home() {
        let at = |path: &str| at_home(path.into(), Some(Path::new("/home/me")));
        for (path, whole) in [
            ("~/models", "/home/me/models"),
            ("~", "/home/me"),
            ("/data/~/models", "/data/~/models"),
            ("~other/models", "~other/models"),
            ("models", "models"),
        ] {
            assert_eq!(at(path), Path::new(whole), "{path}");
        }
        assert_eq!(at_home("~/a".into(), None), Path::new("~/a"));
    }

    #[test]
    fn two_do_not_fetch_one_file() {
        let (_folder, cache, checksum) = cache_with_blob();
        let held = cache.lock("a/b", &checksum, "config.json").unwrap();
        let second = cache.lock("a/b", &checksum, "config.json");
        assert!(matches!(second, Err(LibraryError::Busy { .. })));
        drop(held);
        cache.lock("a/b", &checksum, "config.json").unwrap();
    }
}
