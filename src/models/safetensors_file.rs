//! Tensors of safetensors files, found in a folder and read one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;

use super::error::ModelError;
use super::source::{FileBytes, FileSource};

/// One tensor inside a file.
#[derive(Clone, Debug)]
pub(super) struct StoredTensor {
    file: Rc<FileBytes>,
    file_name: Rc<str>,
    dtype: Dtype,
    /// Shape in the file.
    pub shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

impl StoredTensor {
    /// Reads the tensor as `dtype` onto `device`.
    ///
    /// # Errors
    /// When the file stores whole numbers or a type this program does not read.
    pub fn read(&self, dtype: DType, device: &Device) -> Result<Tensor, ModelError> {
        let stored = match self.dtype {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => {
                return Err(damaged(
                    &self.file_name,
                    format!("it stores numbers as {other:?}"),
                ));
            }
        };
        let data = &self.file[self.range.clone()];
        // Cast on the CPU, so that a device needs no cast of a type it may not have.
        let tensor = Tensor::from_raw_buffer(data, stored, &self.shape, &Device::Cpu)?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "errors and text are both handed over as they come"
)]
fn damaged(file: &str, why: impl ToString) -> ModelError {
    ModelError::Weights {
        file: file.to_owned(),
        why: why.to_string(),
    }
}

/// The tensors of all `files` (pairs of a name for messages and content), by their own names.
///
/// # Errors
/// When a header is damaged or longer than its file, or a tensor's name occurs twice.
pub(super) fn index_files(
    files: Vec<(String, FileBytes)>,
) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let mut all = BTreeMap::new();
    for (name, bytes) in files {
        let (file_name, file): (Rc<str>, _) = (name.into(), Rc::new(bytes));
        let (header_len, header) =
            SafeTensors::read_metadata(&file).map_err(|e| damaged(&file_name, e))?;
        for (name, info) in header.tensors() {
            // Offsets count from the end of the header, which follows its own length of eight bytes; that they end
            // inside the file was checked with the header.
            let start = 8 + header_len;
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let (file, file_name) = (Rc::clone(&file), Rc::clone(&file_name));
            let tensor = StoredTensor {
                file,
                file_name,
                dtype: info.dtype,
                shape: info.shape.clone(),
                range,
            };
            if let Some(other) = all.insert(name.clone(), tensor) {
                return Err(damaged(
                    &other.file_name,
                    format!("{name} is stored in another file as well"),
                ));
            }
        }
    }
    Ok(all)
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The weight files of one part of a model: a single file, or the shards its index names.
///
/// # Errors
/// When there are none, only a format that may execute code, or the index names anything but files beside it.
pub(super) fn weight_files(
    source: &FileSource,
    folder: &str,
    stem: &str,
) -> Result<Vec<String>, ModelError> {
    for variant in ["", ".fp16"] {
        let single = format!("{folder}/{stem}{variant}.safetensors");
        if source.has(&single) {
            return Ok(vec![single]);
        }
        let index = format!("{folder}/{stem}.safetensors.index{variant}.json");
        if source.has(&index) {
            return shards(source, folder, &index);
        }
    }
    if source
        .list(folder)
        .iter()
        .any(|name| name.ends_with(".bin") || name.ends_with(".ckpt"))
    {
        let what = format!("PyTorch's .bin weights in {folder} (save them as safetensors first)");
        return Err(ModelError::Unsupported { what });
    }
    let missing = vec![format!("{folder}/{stem}.safetensors")];
    Err(ModelError::NotAModelFolder {
        path: source.locate(""),
        missing,
    })
}

fn shards(source: &FileSource, folder: &str, index: &str) -> Result<Vec<String>, ModelError> {
    let parsed: ShardIndex =
        serde_json::from_str(&source.text(index)?).map_err(|e| source.config_error(index, e))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(source.config_error(index, "it names no weight files"));
    }
    // A downloaded index must not reach outside its own folder.
    let plain =
        |name: &str| name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0']);
    if let Some(name) = names.iter().find(|name| !plain(name)) {
        return Err(source.config_error(
            index,
            format!("{name:?} is not the name of a weight file beside it"),
        ));
    }
    let files: Vec<String> = names
        .into_iter()
        .map(|name| format!("{folder}/{name}"))
        .collect();
    let missing: Vec<String> = files
        .iter()
        .filter(|file| !source.has(file))
        .cloned()
        .collect();
    if missing.is_empty() {
        Ok(files)
    } else {
        Err(ModelError::NotAModelFolder {
            path: source.locate(""),
            missing,
        })
    }
}
