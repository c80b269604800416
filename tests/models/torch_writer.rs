//! Writes the files of `torch.save` by hand, and what `torch.save` would never write.
//!
//! The bytes are those of `tools/golden/torch_files.py` without the instructions that remember values for later (`q`) and
//! with zero for every checksum: the reader looks at neither.

use std::collections::BTreeMap;
use std::io::{Cursor, Seek, SeekFrom, Write};

use candle_core::Tensor;

/// Number type, name in the archive and length of a storage.
pub type Storage<'a> = (&'a str, &'a str, i64);

/// Values as they lie in a storage.
pub fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A pickle, one instruction after another.
pub struct Pickle(Vec<u8>);

impl Pickle {
    /// PROTO 2.
    pub fn start() -> Self {
        Self(vec![0x80, 2])
    }

    /// Any instructions. The letters: `}` empty dict, `]` empty list, `)` empty tuple, `(` mark, `t` tuple of what follows
    /// the mark, `s` one entry into the dict below, `u` all since the mark, `a` and `e` the same for lists, `N` none,
    /// `R` call, `b` set state, `q` and `h` remember and fetch, `Q` storage, 0x85 to 0x87 tuples of one to three,
    /// 0x88 and 0x89 true and false.
    pub fn raw(mut self, instructions: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(instructions.as_ref());
        self
    }

    /// BINUNICODE.
    pub fn text(self, text: &str) -> Self {
        let length = u32::try_from(text.len()).unwrap();
        self.raw(b"X").raw(length.to_le_bytes()).raw(text)
    }

    /// LONG1 of eight bytes.
    pub fn number(self, number: i64) -> Self {
        self.raw([0x8au8, 8]).raw(number.to_le_bytes())
    }

    /// GLOBAL.
    pub fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n"))
    }

    fn numbers(self, numbers: &[i64]) -> Self {
        let pickle = numbers
            .iter()
            .fold(self.raw("("), |pickle, &n| pickle.number(n));
        pickle.raw("t")
    }

    /// BINPERSID of a storage.
    pub fn storage(self, (kind, key, length): Storage<'_>) -> Self {
        let id = self
            .raw("(")
            .text("storage")
            .global("torch", kind)
            .text(key)
            .text("cpu");
        id.number(length).raw("tQ")
    }

    /// A call of `_rebuild_tensor_v2`.
    pub fn tensor(self, storage: Storage<'_>, offset: i64, shape: &[i64], strides: &[i64]) -> Self {
        let open = self.global("torch._utils", "_rebuild_tensor_v2").raw("(");
        let placed = open
            .storage(storage)
            .number(offset)
            .numbers(shape)
            .numbers(strides);
        placed
            .raw([0x89u8])
            .global("collections", "OrderedDict")
            .raw(")RtR")
    }

    /// STOP.
    pub fn end(self) -> Vec<u8> {
        self.raw(".").0
    }
}

/// How an archive differs from torch's.
#[derive(Clone, Copy, Default)]
pub struct Style {
    /// Compression method of every entry.
    pub method: u16,
    /// Flags beside torch's own.
    pub flags: u16,
    /// Sizes and places in zip64 fields, as in files above 4 GiB.
    pub wide: bool,
}

/// What an entry of an archive holds.
pub enum Content {
    Bytes(Vec<u8>),
    /// As many zeros, which take no room on the disk where they are skipped.
    Zeros(u64),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(length) => *length,
        }
    }
}

/// A zip archive as PyTorch writes it: data at multiples of 64 bytes, sizes after the data, zip64 records at the end.
pub fn archive(entries: &[(&str, Vec<u8>)], style: Style) -> Vec<u8> {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, bytes)| (*name, Content::Bytes(bytes.clone())))
        .collect();
    let mut out = Cursor::new(Vec::new());
    write_archive(&mut out, &entries, style).unwrap();
    out.into_inner()
}

/// As [`archive`], to a file of up to 4 GiB.
pub fn write_archive(
    out: &mut (impl Write + Seek),
    entries: &[(&str, Content)],
    style: Style,
) -> std::io::Result<()> {
    let mut directory = Vec::<u8>::new();
    let flags = 0x808 | style.flags;
    for (name, content) in entries {
        let start = usize::try_from(out.stream_position()?).unwrap();
        let padding =
            (start + 30 + name.len() + 4).next_multiple_of(64) - (start + 34 + name.len());
        let mut header = b"PK\x03\x04".to_vec();
        put16(&mut header, &[0, flags, style.method, 0, 0]);
        put32(&mut header, &[0, 0, 0]);
        put16(
            &mut header,
            &[name.len(), padding + 4].map(|n| u16::try_from(n).unwrap()),
        );
        header.extend(name.as_bytes());
        header.extend(b"FB");
        put16(&mut header, &[u16::try_from(padding).unwrap()]);
        header.extend(vec![b'Z'; padding]);
        out.write_all(&header)?;
        match content {
            Content::Bytes(bytes) => out.write_all(bytes)?,
            Content::Zeros(length) => {
                out.seek(SeekFrom::Current(i64::try_from(*length).unwrap()))?;
            }
        }
        let size = u32::try_from(content.len()).unwrap();
        let mut after = b"PK\x07\x08".to_vec();
        put32(&mut after, &[0, size, size]);
        out.write_all(&after)?;

        let (size, place) = match style.wide {
            true => (u32::MAX, u32::MAX),
            false => (size, u32::try_from(start).unwrap()),
        };
        let extra = if style.wide { 28 } else { 0 };
        directory.extend(b"PK\x01\x02");
        put16(&mut directory, &[0, 0, flags, style.method, 0, 0]);
        put32(&mut directory, &[0, size, size]);
        put16(
            &mut directory,
            &[u16::try_from(name.len()).unwrap(), extra, 0, 0, 0],
        );
        put32(&mut directory, &[0, place]);
        directory.extend(name.as_bytes());
        if style.wide {
            put16(&mut directory, &[1, 24]);
            let length = usize::try_from(content.len()).unwrap();
            put64(&mut directory, &[length, length, start]);
        }
    }
    let (at, size) = (
        usize::try_from(out.stream_position()?).unwrap(),
        directory.len(),
    );
    let mut end = directory;
    end.extend(b"PK\x06\x06");
    put64(&mut end, &[44]);
    put16(&mut end, &[0x31e, 45]);
    put32(&mut end, &[0, 0]);
    put64(&mut end, &[entries.len(), entries.len(), size, at]);
    end.extend(b"PK\x06\x07");
    put32(&mut end, &[0]);
    put64(&mut end, &[at + size]);
    put32(&mut end, &[1]);
    end.extend(b"PK\x05\x06");
    let count = u16::try_from(entries.len()).unwrap();
    put16(&mut end, &[0, 0, count, count]);
    put32(&mut end, &[size, at].map(|n| u32::try_from(n).unwrap()));
    put16(&mut end, &[0]);
    out.write_all(&end)
}

fn put16(bytes: &mut Vec<u8>, numbers: &[u16]) {
    bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
}

fn put32(bytes: &mut Vec<u8>, numbers: &[u32]) {
    bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
}

fn put64(bytes: &mut Vec<u8>, numbers: &[usize]) {
    bytes.extend(numbers.iter().flat_map(|&n| (n as u64).to_le_bytes()));
}

/// A checkpoint of this description and these storages.
pub fn checkpoint(pickle: Vec<u8>, storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let names: Vec<String> = storages
        .iter()
        .map(|(key, _)| format!("m/data/{key}"))
        .collect();
    let mut entries = vec![("m/data.pkl", pickle), ("m/byteorder", b"little".to_vec())];
    let data = names
        .iter()
        .zip(storages)
        .map(|(name, (_, data))| (name.as_str(), data.clone()));
    entries.extend(data);
    entries.push(("m/version", b"3\n".to_vec()));
    archive(&entries, Style::default())
}

/// A checkpoint of these tensors, in `f32`.
pub fn checkpoint_of(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let keys: Vec<String> = (0..tensors.len()).map(|i| i.to_string()).collect();
    let mut pickle = Pickle::start()
        .global("collections", "OrderedDict")
        .raw(")R(");
    let mut storages = Vec::new();
    for (key, (name, tensor)) in keys.iter().zip(tensors) {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let sizes = |sizes: &[usize]| -> Vec<i64> {
            sizes.iter().map(|&n| i64::try_from(n).unwrap()).collect()
        };
        let (shape, strides) = (sizes(tensor.dims()), sizes(tensor.stride()));
        let length = i64::try_from(values.len()).unwrap();
        let storage = ("FloatStorage", key.as_str(), length);
        pickle = pickle.text(name).tensor(storage, 0, &shape, &strides);
        storages.push((key.as_str(), floats(&values)));
    }
    checkpoint(pickle.raw("u").end(), &storages)
}
