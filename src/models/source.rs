//! Where a model's files are: in a folder, or inside the program.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::{ModelError, said};

/// The largest configuration or vocabulary that is read into memory; real ones are below 4 MiB.
const MAX_TEXT_BYTES: u64 = 16 << 20;
/// How a file begins that Git LFS puts in place of a large one until it is fetched. Source: the Git LFS specification.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The files of one model, named by their path inside its folder with `/` between the parts.
#[derive(Clone, Debug)]
pub enum FileSource {
    /// A folder on disk.
    Dir(PathBuf),
    /// Files compiled into the program.
    Embedded(&'static Embedded),
}

/// Pairs of a path inside a model's folder and the file's content.
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// A model compiled into the program. Models may share a part: its files are there once.
#[derive(Debug)]
pub struct Embedded {
    /// What to call it.
    pub name: &'static str,
    /// Its files, in lists that do not overlap.
    pub parts: &'static [EmbeddedFiles],
}

impl Embedded {
    fn files(&self) -> impl Iterator<Item = &'static (&'static str, &'static [u8])> {
        self.parts.iter().copied().flatten()
    }
}

impl FileSource {
    /// Whether the file exists.
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::Dir(dir) => dir.join(path).is_file(),
            Self::Embedded(model) => model.files().any(|(name, _)| *name == path),
        }
    }

    /// Where the file is, for messages.
    pub fn locate(&self, path: &str) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.join(path),
            Self::Embedded(model) => Path::new(model.name).join(path),
        }
    }

    /// Names of the files directly inside `folder`, sorted. Names that are not Unicode are left out.
    pub fn list(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Dir(dir) => std::fs::read_dir(dir.join(folder))
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect(),
            Self::Embedded(model) => model
                .files()
                .filter_map(|(name, _)| name.strip_prefix(folder)?.strip_prefix('/'))
                .map(str::to_owned)
                .collect(),
        };
        names.sort();
        names
    }

    /// The text of a small file.
    ///
    /// # Errors
    /// When it cannot be read, is larger than any configuration, or is not UTF-8.
    pub fn text(&self, path: &str) -> Result<String, ModelError> {
        let bytes = match self {
            Self::Dir(_) => self.read_small(path)?,
            Self::Embedded(_) => self.bytes(path)?.to_vec(),
        };
        if is_pointer(&bytes) {
            return Err(self.pointer(path));
        }
        String::from_utf8(bytes).map_err(|_| self.config_error(path, "it is not UTF-8 text"))
    }

    /// Refuses a note of Git LFS by its first bytes, whatever the file should be.
    ///
    /// # Errors
    /// [`ModelError::Pointer`], or when the file cannot be read.
    pub(super) fn refuse_pointer(&self, path: &str) -> Result<(), ModelError> {
        let Self::Dir(_) = self else {
            return Ok(());
        };
        let place = self.locate(path);
        let mut start = Vec::new();
        File::open(&place)
            .and_then(|file| file.take(POINTER.len() as u64).read_to_end(&mut start))
            .map_err(unreadable(&place))?;
        match is_pointer(&start) {
            true => Err(self.pointer(path)),
            false => Ok(()),
        }
    }

    fn pointer(&self, path: &str) -> ModelError {
        let path = self.locate(path);
        ModelError::Pointer { path }
    }

    /// Whether a file that `index` names really lies beside it, links followed: in the folder the index is in, or in the
    /// folder the index is a link into, which is how Hugging Face's cache keeps all files of a model.
    pub(super) fn is_beside(&self, index: &str, path: &str) -> bool {
        let Self::Dir(dir) = self else {
            return true;
        };
        let (index, path) = (dir.join(index), dir.join(path));
        let folder_of = |file: &Path| Some(file.canonicalize().ok()?.parent()?.to_owned());
        let Some(real) = folder_of(&path) else {
            return false;
        };
        let named = index.parent().and_then(|folder| folder.canonicalize().ok());
        named.as_ref() == Some(&real) || folder_of(&index) == Some(real)
    }

    /// The content of a file of any size, without copying it.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    pub(super) fn bytes(&self, path: &str) -> Result<FileBytes, ModelError> {
        match self {
            Self::Dir(_) => FileBytes::map(&self.locate(path)),
            Self::Embedded(model) => match model.files().find(|(name, _)| *name == path) {
                Some((_, bytes)) => Ok(FileBytes::Embedded(bytes)),
                None => Err(unreadable(&self.locate(path))(
                    std::io::ErrorKind::NotFound.into(),
                )),
            },
        }
    }

    /// A [`ModelError::Config`] about this file.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors and text are both handed over as they come"
    )]
    pub(super) fn config_error(&self, path: &str, why: impl ToString) -> ModelError {
        ModelError::Config {
            file: self.locate(path).display().to_string(),
            why: said(&why.to_string()),
        }
    }

    fn read_small(&self, path: &str) -> Result<Vec<u8>, ModelError> {
        let place = self.locate(path);
        let mut bytes = Vec::new();
        // One byte more than allowed tells a file that is too large from one that just fits.
        File::open(&place)
            .and_then(|file| file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes))
            .map_err(unreadable(&place))?;
        if bytes.len() as u64 > MAX_TEXT_BYTES {
            return Err(self.config_error(path, "it is larger than 16 MiB"));
        }
        Ok(bytes)
    }
}

/// The content of a file.
#[derive(Debug)]
pub(super) enum FileBytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl FileBytes {
    /// Maps a file into memory.
    #[expect(
        unsafe_code,
        reason = "a read-only map of weights that are larger than what should be copied"
    )]
    pub fn map(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(unreadable(path))?;
        // SAFETY: the map is read-only and lives only while weights are copied out of it. Another program that shortens
        // the file meanwhile can end this one; model files are replaced, not edited in place.
        let map = unsafe { Mmap::map(&file) };
        map.map(Self::Mapped).map_err(unreadable(path))
    }
}

/// Whether these are the first bytes of a note of Git LFS.
pub(super) fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(POINTER)
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> ModelError {
    let path = path.to_owned();
    |source| ModelError::Io { path, source }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}
