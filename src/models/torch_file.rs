//! Tensors of a file that `torch.save` wrote: a zip archive with a pickle (`data.pkl`) that describes the tensors, and
//! one stored entry (`data/KEY`) with the numbers of each storage.

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::{Parsed, shown};
use super::pickle::{self, Pickled, PickledTensor};
use super::weight_file::TensorPlace;
use super::zip_index::ZipIndex;

/// Where the tensors of a file are.
#[derive(Debug)]
pub(super) enum Contents {
    /// By their names.
    Named(BTreeMap<String, TensorPlace>),
    /// In their order; they have no names.
    Listed(Vec<TensorPlace>),
}

/// Where the tensors of a file are, by their names.
///
/// # Errors
/// What is wrong with the file; whoever tells it names the file before.
pub(super) fn index(file: &[u8]) -> Parsed<BTreeMap<String, TensorPlace>> {
    match contents(file)? {
        Contents::Named(tensors) => Ok(tensors),
        Contents::Listed(_) => Err("it holds no dict of tensors but a list".to_owned()),
    }
}

/// Where the tensors of a file are, which may hold a dict or a list of them.
///
/// # Errors
/// As [`index`].
pub(super) fn contents(file: &[u8]) -> Parsed<Contents> {
    if !file.starts_with(b"PK\x03\x04") {
        return Err(other_format(file));
    }
    let zip = ZipIndex::read(file)?;
    let prefix = prefix(&zip)?;
    if let Some(order) = zip.find(&format!("{prefix}/byteorder"))?
        && file[order] != *b"little"
    {
        return Err(
            "its numbers are in the byte order of big-endian machines; save it on another one"
                .to_owned(),
        );
    }
    let missing = || "its data.pkl is missing".to_owned();
    let description = zip
        .find(&format!("{prefix}/data.pkl"))?
        .ok_or_else(missing)?;
    match pickle::tensors(&file[description])? {
        Pickled::Named(tensors) => {
            let placed = tensors.into_iter().map(|(name, tensor)| {
                place(&zip, prefix, tensor)
                    .map(|place| (name.to_owned(), place))
                    .map_err(|why| format!("{} in it {why}", shown(name)))
            });
            placed.collect::<Parsed<_>>().map(Contents::Named)
        }
        Pickled::Listed(tensors) => {
            let placed = tensors.into_iter().enumerate().map(|(at, tensor)| {
                let told = |why| format!("tensor {at} in it {why}");
                place(&zip, prefix, tensor).map_err(told)
            });
            placed.collect::<Parsed<_>>().map(Contents::Listed)
        }
    }
}

fn other_format(file: &[u8]) -> String {
    // The old format is a row of pickles, each of which begins with this byte.
    let what = if file.first() == Some(&0x80) {
        "it is in the format of PyTorch before 1.6; load it with a newer PyTorch and save it again"
    } else {
        "it is no zip archive, which torch.save writes"
    };
    what.to_owned()
}

/// The folder inside the archive that everything is in; its name is whatever the file was called when it was saved.
fn prefix<'a>(zip: &ZipIndex<'a>) -> Parsed<&'a str> {
    let mut prefixes = zip
        .names()
        .filter_map(|name| name.strip_suffix("/data.pkl"))
        .filter(|prefix| !prefix.contains('/'));
    let (Some(prefix), None) = (prefixes.next(), prefixes.next()) else {
        return Err("it does not hold one data.pkl, as the files of torch.save do".to_owned());
    };
    let is_code = |name: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|name| name.starts_with("/code/") || name == "/constants.pkl")
    };
    if zip.names().any(is_code) {
        return Err(
            "it is a TorchScript program; save its state_dict() with torch.save or as safetensors"
                .to_owned(),
        );
    }
    Ok(prefix)
}

/// Finds the numbers of a tensor, and proves that they are all there.
fn place(zip: &ZipIndex<'_>, prefix: &str, tensor: PickledTensor<'_>) -> Parsed<TensorPlace> {
    let PickledTensor {
        storage,
        offset,
        shape,
        strides,
    } = tensor;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if storage.key.is_empty() || !storage.key.bytes().all(plain) {
        let key = shown(storage.key);
        return Err(format!(
            "keeps its numbers under {key}, which is no plain name"
        ));
    }
    let name = format!("{prefix}/data/{}", storage.key);
    let data = zip.find(&name)?;
    let data = data.ok_or_else(|| format!("has no numbers: {} is missing", shown(&name)))?;
    let width = storage.dtype.bitsize() / 8;
    if storage.len.checked_mul(width) != Some(data.len()) {
        return Err(format!(
            "has a storage of {} bytes that should hold {} numbers of {width} bytes",
            data.len(),
            storage.len
        ));
    }
    let Some(used) = span(&shape, &strides, offset).filter(|used| used.end <= storage.len) else {
        return Err(format!(
            "has the shape {shape:?} with strides {strides:?} from {offset}, beyond the {} numbers of its storage",
            storage.len
        ));
    };
    let range = data.start + used.start * width..data.start + used.end * width;
    let row_major = used.is_empty() || is_row_major(&shape, &strides);
    // A tensor that repeats its numbers could ask for any amount of memory.
    if !row_major && shape.iter().product::<usize>() > used.len() {
        return Err(format!("has the strides {strides:?}, which repeat numbers"));
    }
    Ok(TensorPlace {
        dtype: storage.dtype,
        shape,
        range,
        strides: (!row_major).then_some(strides),
    })
}

/// From the first to the last number of a tensor, in its storage. None when these are more than can be counted.
fn span(shape: &[usize], strides: &[usize], offset: usize) -> Option<Range<usize>> {
    if shape.len() != strides.len() {
        return None;
    }
    let count = shape
        .iter()
        .try_fold(1usize, |n, &size| n.checked_mul(size))?;
    if count == 0 {
        return Some(0..0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(offset, |at, (&size, &stride)| {
            at.checked_add((size - 1).checked_mul(stride)?)
        })?;
    Some(offset..last.checked_add(1)?)
}

/// Whether numbers follow each other as in a slice of slices. A dimension of one has no neighbours.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == step;
        step *= size;
        fits
    })
}

/// Numbers of `width` bytes in row-major order, out of `data`, where they lie `strides` apart.
pub(super) fn gather(data: &[u8], width: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(count * width);
    for i in 0..count {
        let (mut rest, mut at) = (i, 0);
        for (&size, &stride) in shape.iter().zip(strides).rev() {
            at += rest % size * stride;
            rest /= size;
        }
        gathered.extend_from_slice(&data[at * width..(at + 1) * width]);
    }
    gathered
}
