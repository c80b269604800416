//! Checksums as the hub names files by: SHA-256 of large ones, Git's SHA-1 of small ones.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes that are hashed at once.
const BLOCK: usize = 1 << 20;

/// A checksum a file must have, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checksum(String);

impl Checksum {
    /// Reads one out of a name or an `ETag`: 64 digits are SHA-256, 40 are Git's SHA-1 of a blob. Anything else is none, so
    /// that what is read here may name a file.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches("W/").trim_matches('"');
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (plain && matches!(text.len(), 40 | 64)).then(|| Self(text.to_owned()))
    }

    /// Its digits, which name the file in the cache.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Begins to compute the checksum of a file of so many bytes.
    pub fn hasher(&self, bytes: u64) -> Hasher {
        if self.0.len() == 64 {
            return Hasher::Sha256(Sha256::new());
        }
        // As Git names a blob: its kind and length come before its content.
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {bytes}\0"));
        Hasher::GitBlob(hasher)
    }

    /// The checksum that a file has instead, where it is another one. `go_on` is told the bytes read so far.
    ///
    /// # Errors
    /// When the file cannot be read; [`io::ErrorKind::Interrupted`] when `go_on` says so.
    pub fn differs(
        &self,
        path: &Path,
        go_on: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> io::Result<Option<String>> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut hasher = self.hasher(bytes);
        hasher.read(&mut file, bytes, go_on)?;
        let found = hasher.finish();
        Ok((found != self.0).then_some(found))
    }
}

/// A checksum under way.
pub(super) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    /// Adds the next `bytes` bytes of a file.
    ///
    /// # Errors
    /// As [`Checksum::differs`], and where the file is shorter.
    pub fn read(
        &mut self,
        file: &mut File,
        bytes: u64,
        go_on: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        let mut done = 0;
        while done < bytes {
            let left = usize::try_from(bytes - done).unwrap_or(BLOCK).min(BLOCK);
            file.read_exact(&mut block[..left])?;
            self.update(&block[..left]);
            done += left as u64;
            if go_on(done).is_break() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(())
    }

    /// The checksum in hexadecimal.
    pub fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::GitBlob(hasher) => hex(&hasher.finalize()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `git hash-object` and `sha256sum` of the same ten bytes.
    #[test]
    fn checksums_are_those_of_git_and_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "some text\n").unwrap();
        let mut go_on = |_| ControlFlow::Continue(());
        for right in [
            "7b57bd29ea8afbdeb9bac64cf7074f4b531492a8",
            "a23e5fdcd7b276bdd81aa1a0b7b963101863dd3f61ff57935f8c5ba462681ea6",
        ] {
            let checksum = Checksum::parse(&format!("\"{right}\"")).unwrap();
            assert_eq!(checksum.as_str(), right);
            assert_eq!(checksum.differs(&path, &mut go_on).unwrap(), None);
            let other = Checksum::parse(&right.replace('7', "0")).unwrap();
            assert_eq!(
                other.differs(&path, &mut go_on).unwrap().as_deref(),
                Some(right)
            );
        }
    }

    #[test]
    fn what_is_no_checksum_names_no_file() {
        for text in [
            "",
            "../../../etc/passwd",
            "\"d41d8cd98f00b204e9800998ecf8427e\"",
            "7B57BD29EA8AFBDEB9BAC64CF7074F4B531492A8",
        ] {
            assert_eq!(Checksum::parse(text), None, "{text}");
        }
        assert_eq!(Checksum::parse(&"g".repeat(40)), None);
    }
}
