//! Fetching a model's files: with what is here already, checked before anything takes its place.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::cache::{Cache, make_folder};
use super::digest::Hasher;
use super::error::LibraryError;
use super::hub::{Hub, Plan, PlannedFile, Reached, rest};
use super::wire::{Piece, Wire};
use super::{GoOn, Result};

/// Bytes that stay free on the disk.
const SPARE: u64 = 64 << 20;
/// Lost connections in one file, each of which brought something; beyond that the way is of no use.
const MOST_DROPS: u32 = 1000;

/// How far a download or a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file at hand, by its path inside the model.
    pub file: &'a str,
    /// Bytes done, over all files; while a download is planned, files.
    pub done_bytes: u64,
    /// Bytes in all, or files.
    pub total_bytes: u64,
}

/// One file on its way.
struct Fetching<'a> {
    hub: &'a Hub,
    wire: &'a Wire,
    cache: &'a Cache,
    plan: &'a Plan,
    file: &'a PlannedFile,
    /// Bytes of the files before it.
    before: u64,
    /// Whether anybody answered since the fetching began.
    was_reached: &'a Cell<bool>,
}

/// How one connection ended.
enum Ended {
    /// Every byte is here; their checksum.
    Whole(String),
    /// Before that.
    Dropped(String),
    /// What was here before is of no use.
    Stale,
}

impl Hub {
    /// Fetches what a plan says and puts it in use; gives the model's folder. What is here already, whole or in part, is not
    /// fetched again. Cancelled or cut off, it goes on where it ended when it is asked for again.
    ///
    /// # Errors
    /// When the network must not be used, the disk has too little room, the hub does not answer, or what comes is not what
    /// it announced. A file under its own name is whole in any case.
    pub fn fetch(&self, plan: &Plan, cache: &Cache, go_on: GoOn<'_>) -> Result<PathBuf> {
        let wire = self.wire()?;
        room_for(plan, cache)?;
        let repo = plan.known.repo;
        let mut before = 0;
        let was_reached = Cell::new(false);
        for file in &plan.files {
            let fetching = Fetching {
                hub: self,
                wire: &wire,
                cache,
                plan,
                file,
                before,
                was_reached: &was_reached,
            };
            fetching.run(go_on)?;
            cache.place(repo, &plan.commit, &file.path, &file.checksum)?;
            before += file.bytes;
        }
        // Last: a version is in use when all of it is here.
        cache.use_commit(repo, &plan.commit)?;
        Ok(cache.entry(repo).join("snapshots").join(&plan.commit))
    }
}

impl Fetching<'_> {
    fn run(&self, go_on: GoOn<'_>) -> Result<()> {
        let (repo, checksum) = (self.plan.known.repo, &self.file.checksum);
        let blob = self.cache.blob(repo, checksum);
        if let Some(folder) = blob.parent() {
            make_folder(folder)?;
        }
        let lock = self.cache.lock(repo, checksum, &self.file.path)?;
        if self.is_whole(&blob, go_on)? {
            return Ok(());
        }
        let part = self.cache.incomplete(repo, checksum);
        let note = self.cache.version_note(repo, checksum);
        let had = size(&part);
        let done = match self.persist(&part, &note, go_on) {
            // Somebody else may have begun it, with other bytes: once it is begun anew.
            Err(LibraryError::WrongContent { .. }) if had > 0 => self.persist(&part, &note, go_on),
            done => done,
        };
        done?;
        fs::rename(&part, &blob).map_err(LibraryError::io("write", &blob))?;
        fs::remove_file(&note).ok();
        drop(lock);
        Ok(())
    }

    /// Whether the blob is there and has its checksum; one that has not is removed.
    fn is_whole(&self, blob: &Path, go_on: GoOn<'_>) -> Result<bool> {
        if !blob.is_file() {
            return Ok(false);
        }
        if size(blob) == self.file.bytes {
            let differs = self
                .file
                .checksum
                .differs(blob, &mut |done| self.tell(go_on, done));
            match differs {
                Ok(None) => return Ok(true),
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Err(LibraryError::Cancelled);
                }
                Err(error) => return Err(LibraryError::io("read", blob)(error)),
            }
        }
        fs::remove_file(blob).map_err(LibraryError::io("remove", blob))?;
        Ok(false)
    }

    /// Fetches until every byte is here and has proven right, over as many connections as it takes.
    fn persist(&self, part: &Path, note: &Path, go_on: GoOn<'_>) -> Result<()> {
        let patience = self.hub.patience;
        let (mut in_vain, mut drops, mut pause) = (0, 0, patience.pause);
        loop {
            let before = size(part);
            let ended = match self.connect(part, note, go_on) {
                // The network was there a moment ago and may come back.
                Err(LibraryError::Unreachable { why, .. }) if self.was_reached.get() => {
                    Ended::Dropped(why)
                }
                ended => ended?,
            };
            let why = match ended {
                Ended::Whole(found) if found == self.file.checksum.as_str() => return Ok(()),
                Ended::Whole(found) => {
                    throw_away(part, note);
                    return Err(self.wrong(format!(
                        "its checksum is {found}, and {} was announced",
                        self.file.checksum.as_str()
                    )));
                }
                Ended::Stale => {
                    throw_away(part, note);
                    "the file on the server has changed".to_owned()
                }
                Ended::Dropped(why) => why,
            };
            drops += 1;
            if size(part) > before {
                (in_vain, pause) = (0, patience.pause);
            } else {
                in_vain += 1;
            }
            if in_vain >= patience.tries || drops >= MOST_DROPS {
                return Err(LibraryError::Dropped {
                    file: self.file.path.clone(),
                    times: drops,
                    why,
                });
            }
            let here = size(part);
            rest(pause, &mut || self.tell(go_on, here))?;
            pause = (pause * 2).min(patience.longest_wait);
        }
    }

    /// One connection.
    fn connect(&self, part: &Path, note: &Path, go_on: GoOn<'_>) -> Result<Ended> {
        let bytes = self.file.bytes;
        if size(part) > bytes {
            throw_away(part, note);
        }
        let mut here = size(part);
        let mut hasher = self.file.checksum.hasher(bytes);
        if here > 0 {
            let mut tell = |done| self.tell(go_on, done);
            let read =
                File::open(part).and_then(|mut file| hasher.read(&mut file, here, &mut tell));
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Err(LibraryError::Cancelled);
                }
                read => read.map_err(LibraryError::io("read", part))?,
            }
        }
        if here == bytes && here > 0 {
            return Ok(Ended::Whole(hasher.finish()));
        }
        let known_version = fs::read_to_string(note).ok().filter(|_| here > 0);
        let reached = self.ask(here, known_version.as_deref(), go_on)?;
        let version = reached.head.get("etag").filter(|etag| is_strong(etag));
        match reached.head.status {
            206 => {
                let changed = known_version
                    .as_deref()
                    .zip(version)
                    .is_some_and(|(a, b)| a != b);
                if changed || !continues(&reached, here, bytes) {
                    return Ok(Ended::Stale);
                }
            }
            // The server does not give parts, or has another version by now.
            200 if here > 0 => {
                throw_away(part, note);
                (here, hasher) = (0, self.file.checksum.hasher(bytes));
            }
            200 => {}
            _ => return Ok(Ended::Stale),
        }
        let announced = reached
            .head
            .get("content-length")
            .and_then(|text| text.trim().parse().ok());
        if let Some(announced) = announced.filter(|announced: &u64| *announced != bytes - here) {
            throw_away(part, note);
            return Err(self.wrong(format!(
                "{announced} bytes were offered where {} were announced",
                bytes - here
            )));
        }
        if let Some(version) = version {
            // Only a hint: without it the checksum still tells.
            fs::write(note, version).ok();
        }
        self.receive(&reached, (here, hasher), part, note, go_on)
    }

    fn ask(&self, here: u64, version: Option<&str>, go_on: GoOn<'_>) -> Result<Reached> {
        let (repo, commit) = (self.plan.known.repo, &self.plan.commit);
        let url = self.hub.address(repo, commit, &self.file.path);
        let mut headers = Vec::new();
        if here > 0 {
            headers.push(("range", format!("bytes={here}-")));
            headers.extend(version.map(|version| ("if-range", version.to_owned())));
        }
        let mut look = || self.tell(go_on, here);
        let reached = self
            .hub
            .reach(self.wire, (false, &url, &headers), repo, &mut look)?;
        self.was_reached.set(true);
        Ok(reached)
    }

    /// Writes what comes.
    fn receive(
        &self,
        reached: &Reached,
        (mut here, mut hasher): (u64, Hasher),
        part: &Path,
        note: &Path,
        go_on: GoOn<'_>,
    ) -> Result<Ended> {
        let write = LibraryError::io("write", part);
        let opened = File::options().create(true).append(true).open(part);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => return Err(write(error)),
        };
        let failed = |error| LibraryError::io("write", part)(error);
        loop {
            let stall = self.hub.patience.stall;
            let piece = reached.answer.next(stall, &mut || self.tell(go_on, here));
            match piece.map_err(|_| LibraryError::Cancelled)? {
                Piece::Bytes(block) => {
                    if here + block.len() as u64 > self.file.bytes {
                        throw_away(part, note);
                        return Err(self.wrong(format!(
                            "it is longer than the {} bytes that were announced",
                            self.file.bytes
                        )));
                    }
                    file.write_all(&block).map_err(failed)?;
                    hasher.update(&block);
                    here += block.len() as u64;
                }
                Piece::End | Piece::Failed(_) if here == self.file.bytes => {
                    file.sync_all().map_err(failed)?;
                    return Ok(Ended::Whole(hasher.finish()));
                }
                Piece::Failed(failure) => return Ok(Ended::Dropped(failure.why)),
                Piece::End | Piece::Head(_) => {
                    let left = self.file.bytes - here;
                    return Ok(Ended::Dropped(format!("it ended {left} bytes too early")));
                }
            }
        }
    }

    fn tell(&self, go_on: GoOn<'_>, here: u64) -> ControlFlow<()> {
        go_on(&Progress {
            file: &self.file.path,
            done_bytes: self.before + here,
            total_bytes: self.plan.bytes(),
        })
    }

    fn wrong(&self, why: String) -> LibraryError {
        LibraryError::WrongContent {
            file: self.file.path.clone(),
            why,
        }
    }
}

/// Whether a part of a file begins where the bytes here end, and is of a file of this size.
fn continues(reached: &Reached, here: u64, bytes: u64) -> bool {
    let range = reached
        .head
        .get("content-range")
        .and_then(|text| text.trim().strip_prefix("bytes "));
    let Some((span, all)) = range.and_then(|range| range.split_once('/')) else {
        return false;
    };
    let first = span
        .split_once('-')
        .and_then(|(first, _)| first.parse().ok());
    first == Some(here) && (all == "*" || all.parse() == Ok(bytes))
}

/// Whether an `ETag` tells that every byte is the same, which a weak one does not.
fn is_strong(etag: &str) -> bool {
    etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2
}

/// Removes what there is of a file; what cannot be removed is written over.
fn throw_away(part: &Path, note: &Path) {
    for file in [part, note] {
        if fs::remove_file(file).is_err() {
            File::options().write(true).truncate(true).open(file).ok();
        }
    }
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

/// Refuses a download that the disk has no room for.
fn room_for(plan: &Plan, cache: &Cache) -> Result<()> {
    let mut place = cache.root();
    while !place.exists() {
        match place.parent() {
            Some(parent) => place = parent,
            None => return Ok(()),
        }
    }
    // A disk that does not say is written to until it refuses.
    let Ok(free) = fs4::available_space(place) else {
        return Ok(());
    };
    enough(plan.left_bytes(), free, place)
}

fn enough(left: u64, free: u64, place: &Path) -> Result<()> {
    if left == 0 || left.saturating_add(SPARE) <= free {
        return Ok(());
    }
    Err(LibraryError::NoRoom {
        needed: left,
        free,
        place: place.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_would_be_full_is_told_before() {
        let place = Path::new("/disk");
        assert!(enough(1 << 30, (1 << 30) + SPARE, place).is_ok());
        assert!(enough(0, 0, place).is_ok(), "nothing is left to fetch");
        let error = enough(3 << 30, 1 << 30, place).unwrap_err();
        assert!(error.is_full_disk() && error.advice().contains("HF_HOME"));
        assert!(error.to_string().contains("3.2 GB"), "{error}");
        assert!(enough(u64::MAX, 1 << 40, place).is_err());
    }

    #[test]
    fn only_a_strong_version_is_compared() {
        assert!(is_strong("\"abc\""));
        assert!(!is_strong("W/\"abc\"") && !is_strong("\"\"") && !is_strong("abc"));
    }
}
