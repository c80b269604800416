//! The table of contents of a safetensors file.
//!
//! The `safetensors` crate's own reader is not used: it adds the end of the data to the length of the header without a
//! check, so that a hostile header would end a debug build of this program, and it takes the last of two tensors of one
//! name without a word.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::error::{Parsed, shown};
use super::weight_file::TensorPlace;

/// The largest header that is read; two thousand tensors take 300 KiB.
const MAX_HEADER: usize = 16 << 20;
/// No tensor of any network has as many dimensions.
const MAX_DIMS: usize = 8;
/// Where the format keeps text that is no tensor.
const NOTES: &str = "__metadata__";

/// Where the tensors of a file are, by their names.
///
/// # Errors
/// What is wrong with the file; whoever tells it names the file before.
pub(super) fn index(file: &[u8]) -> Parsed<BTreeMap<String, TensorPlace>> {
    let (header, data) = split(file)?;
    let Header(tensors) = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    check(&tensors, data.len())?;
    let start = file.len() - data.len();
    let places = tensors.into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        let place = TensorPlace {
            dtype: info.dtype,
            shape: info.shape,
            range: start + from..start + to,
            strides: None,
        };
        (name, place)
    });
    Ok(places.collect())
}

/// The text beside the tensors of a file that [`index`] accepts.
///
/// # Errors
/// When what stands there is no text.
pub(super) fn notes(file: &[u8]) -> Parsed<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Notes {
        #[serde(rename = "__metadata__", default)]
        notes: BTreeMap<String, String>,
    }
    let (header, _) = split(file)?;
    let Notes { notes } = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    Ok(notes)
}

/// Header and data.
fn split(file: &[u8]) -> Parsed<(&[u8], &[u8])> {
    let (length, rest) = file
        .split_first_chunk::<8>()
        .ok_or("it is shorter than the length of a header")?;
    let length = u64::from_le_bytes(*length);
    usize::try_from(length)
        .ok()
        .filter(|&length| length <= MAX_HEADER)
        .and_then(|length| rest.split_at_checked(length))
        .ok_or_else(|| {
            format!(
                "it declares a header of {length} bytes where {} are left",
                rest.len()
            )
        })
}

/// Proves for each tensor that its bytes follow those of the tensor before and are as many as its shape needs, and that
/// the last one ends with the file.
fn check(tensors: &BTreeMap<String, TensorInfo>, length: usize) -> Parsed<()> {
    let mut order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in order {
        let (from, to) = info.data_offsets;
        if from != end || to < from {
            let name = shown(name);
            return Err(format!(
                "{name} lies at bytes {from} to {to}, but the tensor before it ends at {end}"
            ));
        }
        if info.shape.len() > MAX_DIMS {
            let (name, dims) = (shown(name), info.shape.len());
            return Err(format!("{name} has {dims} dimensions"));
        }
        let bits = info
            .shape
            .iter()
            .try_fold(info.dtype.bitsize(), |n, &size| n.checked_mul(size));
        if bits != (to - from).checked_mul(8) {
            let (name, shape, bytes) = (shown(name), &info.shape, to - from);
            return Err(format!(
                "{name} of shape {shape:?} in {:?} does not fill its {bytes} bytes",
                info.dtype
            ));
        }
        end = to;
    }
    match end == length {
        true => Ok(()),
        false => Err(format!(
            "it declares {end} bytes of numbers and holds {length}"
        )),
    }
}

/// Tensors by their names, none of which occurs twice.
struct Header(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == NOTES {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match tensors.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(map.next_value()?);
                }
                Entry::Occupied(other) => {
                    let name = shown(other.key());
                    return Err(A::Error::custom(format!("it holds {name} twice")));
                }
            }
        }
        Ok(Header(tensors))
    }
}
