//! Named arrays in safetensors files, without a tensor library. Files are repeatable: names are sorted and there is one
//! metadata key, because the format orders metadata by a hash map.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, View};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::atomic::write_atomic;
use super::error::ProjectError;

/// The metadata key of every file this program writes.
pub const METADATA_KEY: &str = "spectral_motion";
/// Where a safetensors file keeps its metadata.
const NOTES: &str = "__metadata__";

/// An array in row-major order. `bytes` are little-endian, 4 for each element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainTensor {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub bytes: Vec<u8>,
}

impl PlainTensor {
    /// From `f32` values in row-major order.
    #[must_use]
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        Self {
            shape: shape.to_vec(),
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }

    /// The values in row-major order.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        self.bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }
}

impl View for &PlainTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Named `f32` arrays and a short text (JSON) about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorFile {
    /// The arrays.
    pub tensors: BTreeMap<String, PlainTensor>,
    /// The text in the file's header.
    pub about: String,
}

impl TensorFile {
    /// The file's bytes; equal contents give equal bytes.
    ///
    /// # Errors
    /// [`ProjectError::Damaged`] when a shape does not match its data.
    pub fn to_bytes(&self, path: &Path) -> Result<Vec<u8>, ProjectError> {
        let about = HashMap::from([(METADATA_KEY.to_owned(), self.about.clone())]);
        safetensors::serialize(&self.tensors, Some(about))
            .map_err(|error| ProjectError::damaged(path, error))
    }

    /// The file's bytes with further texts in its header. The `safetensors` crate writes several of them in an order that
    /// changes from run to run; here everything is in the order of its name.
    #[must_use]
    pub fn to_bytes_with(&self, notes: &BTreeMap<String, String>) -> Vec<u8> {
        let mut notes = notes.clone();
        notes.insert(METADATA_KEY.to_owned(), self.about.clone());
        let mut header = serde_json::Map::from_iter([(NOTES.to_owned(), json!(notes))]);
        let mut end = 0;
        for (name, tensor) in &self.tensors {
            let start = end;
            end += tensor.bytes.len();
            let (shape, offsets) = (&tensor.shape, [start, end]);
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
            header.insert(name.clone(), entry);
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        // The numbers begin at a multiple of eight bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        for tensor in self.tensors.values() {
            bytes.extend(&tensor.bytes);
        }
        bytes
    }

    /// Writes the file so that it is either whole or absent.
    ///
    /// # Errors
    /// [`ProjectError::Io`] or [`ProjectError::Damaged`].
    pub fn write(&self, path: &Path) -> Result<(), ProjectError> {
        write_atomic(path, &self.to_bytes(path)?)
    }

    /// Reads a file that [`Self::write`] made.
    ///
    /// # Errors
    /// [`ProjectError::Io`], or [`ProjectError::Damaged`] for anything that is not such a file.
    pub fn read(path: &Path) -> Result<Self, ProjectError> {
        let bytes = fs::read(path).map_err(ProjectError::io("read", path))?;
        Self::from_bytes(path, &bytes)
    }

    /// Reads from memory; `path` is for the error text only.
    ///
    /// # Errors
    /// [`ProjectError::Damaged`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, ProjectError> {
        let damaged = |error: &dyn std::fmt::Display| ProjectError::damaged(path, error);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(&error))?;
        let about = header
            .metadata()
            .as_ref()
            .and_then(|map| map.get(METADATA_KEY))
            .cloned()
            .unwrap_or_default();
        let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(&error))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(damaged(&format!(
                    "{name} holds {:?} instead of F32",
                    view.dtype()
                )));
            }
            tensors.insert(
                name,
                PlainTensor {
                    shape: view.shape().to_vec(),
                    bytes: view.data().to_vec(),
                },
            );
        }
        Ok(Self { tensors, about })
    }
}

/// SHA-256 as lower-case hexadecimal text.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_give_equal_bytes_and_come_back() {
        let tensor = PlainTensor::from_f32(&[2, 1], &[1.5, -0.0]);
        let mut file = TensorFile {
            about: "{}".to_owned(),
            ..TensorFile::default()
        };
        file.tensors.insert("b".to_owned(), tensor.clone());
        file.tensors
            .insert("a".to_owned(), PlainTensor::from_f32(&[0], &[]));
        let path = Path::new("x.safetensors");
        let bytes = file.to_bytes(path).unwrap();
        assert_eq!(bytes, file.clone().to_bytes(path).unwrap());
        let back = TensorFile::from_bytes(path, &bytes).unwrap();
        assert_eq!(back, file);
        assert_eq!(
            back.tensors["b"].to_f32()[1].to_bits(),
            (-0.0_f32).to_bits()
        );
    }

    #[test]
    fn further_texts_are_read_by_the_crate_and_always_in_one_order() {
        let mut file = TensorFile {
            about: "{}".to_owned(),
            ..TensorFile::default()
        };
        for (name, values) in [("b", [1.0, 2.0]), ("a\"", [3.0, -0.0])] {
            let tensor = PlainTensor::from_f32(&[2], &values);
            file.tensors.insert(name.to_owned(), tensor);
        }
        let notes = ["z", "format"].map(|key| (key.to_owned(), "pt".to_owned()));
        let bytes = file.to_bytes_with(&notes.clone().into());
        assert_eq!(bytes, file.to_bytes_with(&notes.into()));
        let path = Path::new("x.safetensors");
        assert_eq!(TensorFile::from_bytes(path, &bytes).unwrap(), file);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        assert_eq!(metadata["format"], "pt");
        assert_eq!(metadata.len(), 3);
    }

    #[test]
    fn hash_of_the_published_example() {
        // FIPS 180-4 example: SHA-256("abc").
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
