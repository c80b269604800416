//! The list of files inside a zip archive in memory.
//!
//! Only what `torch.save` writes is read: whole files, stored as they are, in one archive without a comment, with or
//! without zip64. The `zip` crate is not used: it makes room for as many entries as an archive declares, up to one for
//! every 46 bytes of its directory, which is several times the directory's size; and it looks for other readings of a
//! damaged archive, where two programs may find two different contents.

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::{Parsed, shown};

/// Far above the directory of any checkpoint: an entry takes about 60 bytes.
const MAX_DIRECTORY: usize = 64 << 20;
const END_LEN: usize = 22;
const LOCATOR_LEN: usize = 20;
const END64_LEN: usize = 56;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
/// Flags of encrypted data, patches and hidden headers.
const UNREADABLE: u16 = 0x2061;

/// The files of an archive by their names.
pub(super) struct ZipIndex<'a> {
    archive: &'a [u8],
    entries: BTreeMap<&'a str, Entry>,
    /// Where the directory begins and all data has ended.
    data_end: usize,
}

struct Entry {
    flags: u16,
    method: u16,
    size: u64,
    packed: u64,
    header: u64,
}

struct Directory {
    range: Range<usize>,
    count: u64,
}

impl<'a> ZipIndex<'a> {
    /// Reads the directory at the end of the archive.
    ///
    /// # Errors
    /// When it is missing, damaged, or names a file twice.
    pub fn read(archive: &'a [u8]) -> Parsed<Self> {
        let directory = find_directory(archive)?;
        let data_end = directory.range.start;
        let mut rest = &archive[directory.range];
        let (mut entries, mut count) = (BTreeMap::new(), 0);
        while !rest.is_empty() {
            let (name, entry, length) = read_entry(rest)?;
            if entries.insert(name, entry).is_some() {
                return Err(format!("it holds {} twice", shown(name)));
            }
            rest = &rest[length..];
            count += 1;
        }
        if count != directory.count {
            return Err(contradiction());
        }
        Ok(Self {
            archive,
            entries,
            data_end,
        })
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Where the bytes of a file are, or nothing when there is no such file.
    ///
    /// # Errors
    /// When it is compressed, encrypted or cut off.
    pub fn find(&self, name: &str) -> Parsed<Option<Range<usize>>> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        let problem = |what: &str| format!("{} in it is {what}", shown(name));
        if entry.flags & UNREADABLE != 0 {
            return Err(problem("encrypted"));
        }
        if entry.method != 0 || entry.packed != entry.size {
            return Err(problem("compressed, which torch.save never does"));
        }
        let before = &self.archive[..self.data_end];
        let header = usize::try_from(entry.header)
            .ok()
            .and_then(|at| before.get(at..))
            .filter(|header| header.starts_with(b"PK\x03\x04"))
            .ok_or_else(|| problem("not where the directory says"))?;
        let name_end = LOCAL_LEN + usize::from(u16_at(header, 26)?);
        let start = name_end + usize::from(u16_at(header, 28)?);
        if header.get(LOCAL_LEN..name_end) != Some(name.as_bytes()) {
            return Err(problem("another file in the directory"));
        }
        let start = before.len() - header.len() + start;
        usize::try_from(entry.size)
            .ok()
            .and_then(|size| start.checked_add(size))
            .filter(|&end| end <= self.data_end)
            .map(|end| Some(start..end))
            .ok_or_else(|| problem("cut off"))
    }
}

fn find_directory(archive: &[u8]) -> Parsed<Directory> {
    let end = archive
        .len()
        .checked_sub(END_LEN)
        .filter(|&end| archive[end..].starts_with(b"PK\x05\x06"))
        .ok_or("its directory at the end is missing: the file is cut off or no zip archive")?;
    let small = [
        u64::from(u16_at(archive, end + 10)?),
        u64::from(u32_at(archive, end + 12)?),
        u64::from(u32_at(archive, end + 16)?),
    ];
    let locator = end
        .checked_sub(LOCATOR_LEN)
        .filter(|&at| archive[at..].starts_with(b"PK\x06\x07"));
    let (values, limit) = match locator {
        None => (small, end),
        Some(locator) => {
            let record = usize::try_from(u64_at(archive, locator + 8)?)
                .ok()
                .filter(|&at| {
                    archive.get(at..locator).is_some_and(|record| {
                        record.starts_with(b"PK\x06\x06") && record.len() >= END64_LEN
                    })
                })
                .ok_or_else(contradiction)?;
            let wide = [
                u64_at(archive, record + 32)?,
                u64_at(archive, record + 40)?,
                u64_at(archive, record + 48)?,
            ];
            // Both records must tell the same, or programs would disagree on what the archive holds.
            let most = [
                u64::from(u16::MAX),
                u64::from(u32::MAX),
                u64::from(u32::MAX),
            ];
            if (0..3).any(|i| small[i] != wide[i].min(most[i])) {
                return Err(contradiction());
            }
            (wide, record)
        }
    };
    let [count, length, start] = values;
    let range = usize::try_from(start)
        .ok()
        .zip(usize::try_from(length).ok())
        .and_then(|(start, length)| Some(start..start.checked_add(length)?))
        .filter(|range| range.end == limit)
        .ok_or_else(contradiction)?;
    if range.len() > MAX_DIRECTORY {
        return Err("its directory is larger than that of any model".to_owned());
    }
    Ok(Directory { range, count })
}

/// The first entry of what is left of a directory, and its length.
fn read_entry(record: &[u8]) -> Parsed<(&str, Entry, usize)> {
    if !record.starts_with(b"PK\x01\x02") {
        return Err(contradiction());
    }
    let length = |at: usize| u16_at(record, at).map(usize::from);
    let name_end = ENTRY_LEN + length(28)?;
    let extra_end = name_end + length(30)?;
    let end = extra_end + length(32)?;
    let (Some(name), Some(extra), true) = (
        record.get(ENTRY_LEN..name_end),
        record.get(name_end..extra_end),
        end <= record.len(),
    ) else {
        return Err(contradiction());
    };
    let name = std::str::from_utf8(name).map_err(|_| "it holds a name that is not UTF-8")?;
    let mut values = [
        u64::from(u32_at(record, 24)?),
        u64::from(u32_at(record, 20)?),
        u64::from(u32_at(record, 42)?),
    ];
    // Values that do not fit stand in an extra field, in this order and without the others.
    let mut wide = zip64_field(extra);
    for value in &mut values {
        if *value == u64::from(u32::MAX) {
            *value = u64_at(wide, 0)?;
            wide = &wide[8..];
        }
    }
    let [size, packed, header] = values;
    let entry = Entry {
        flags: u16_at(record, 8)?,
        method: u16_at(record, 10)?,
        size,
        packed,
        header,
    };
    Ok((name, entry, end))
}

/// The extra field of wide sizes, or nothing.
fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let Some((&[id, id_high, len, len_high], rest)) = extra.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([len, len_high]));
        let Some((field, rest)) = rest.split_at_checked(length) else {
            break;
        };
        if [id, id_high] == [1, 0] {
            return field;
        }
        extra = rest;
    }
    &[]
}

fn contradiction() -> String {
    "its directory is damaged".to_owned()
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Parsed<[u8; N]> {
    bytes
        .get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .copied()
        .ok_or_else(contradiction)
}

fn u16_at(bytes: &[u8], at: usize) -> Parsed<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Parsed<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Parsed<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}
