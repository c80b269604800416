//! Weight files: which of them belong to a model, and the tensors in them, read one by one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Dtype;
use serde::Deserialize;

use super::error::{ModelError, WeightFormat, said, shown};
use super::layout::incomplete;
use super::safetensors_file;
use super::source::{FileBytes, FileSource, is_pointer};
use super::torch_file::{self, Contents};

/// Where a tensor is in its file.
#[derive(Clone, Debug)]
pub(super) struct TensorPlace {
    /// Number type.
    pub dtype: Dtype,
    /// Sizes of its dimensions.
    pub shape: Vec<usize>,
    /// Its bytes. Whoever makes a place has proven that they are inside the file and fit the shape.
    pub range: Range<usize>,
    /// Numbers between neighbours in each dimension, where these are not in row-major order.
    pub strides: Option<Vec<usize>>,
}

/// One tensor inside a file.
#[derive(Clone, Debug)]
pub(super) struct StoredTensor {
    file: Rc<FileBytes>,
    file_name: Rc<str>,
    place: TensorPlace,
}

impl StoredTensor {
    /// Shape in the file.
    pub fn shape(&self) -> &[usize] {
        &self.place.shape
    }

    /// Reads the tensor as `dtype` onto `device`.
    ///
    /// # Errors
    /// When the file stores whole numbers or a type this program does not read.
    pub fn read(&self, dtype: DType, device: &Device) -> Result<Tensor, ModelError> {
        let TensorPlace {
            dtype: stored,
            shape,
            range,
            strides,
        } = &self.place;
        let stored = match stored {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => {
                let why = format!("it stores numbers as {other:?}");
                return Err(damaged(&self.file_name, &why));
            }
        };
        let data = &self.file[range.clone()];
        // Cast on the CPU, so that a device needs no cast of a type it may not have.
        let tensor = match strides {
            None => Tensor::from_raw_buffer(data, stored, shape, &Device::Cpu)?,
            Some(strides) => {
                let data = torch_file::gather(data, stored.size_in_bytes(), shape, strides);
                Tensor::from_raw_buffer(&data, stored, shape, &Device::Cpu)?
            }
        };
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    /// The only number of a tensor, which may be a whole one; none where there are more, or it is of another type.
    pub fn number(&self) -> Option<f64> {
        if self.shape().iter().any(|&size| size != 1) {
            return None;
        }
        let data = &self.file[self.place.range.clone()];
        match self.place.dtype {
            Dtype::I64 => Some(i64::from_le_bytes(data.try_into().ok()?) as f64),
            Dtype::I32 => Some(i32::from_le_bytes(data.try_into().ok()?).into()),
            Dtype::I16 => Some(i16::from_le_bytes(data.try_into().ok()?).into()),
            Dtype::U8 => Some(u8::from_le_bytes(data.try_into().ok()?).into()),
            _ => {
                let read = self.read(DType::F64, &Device::Cpu).ok()?;
                let numbers = read.flatten_all().ok()?.to_vec1::<f64>().ok()?;
                numbers.first().copied()
            }
        }
    }
}

fn damaged(file: &str, why: &str) -> ModelError {
    ModelError::Weights {
        file: file.to_owned(),
        format: format_of(file),
        why: said(why),
    }
}

/// By the name, because a safetensors file may begin with any byte.
fn format_of(file: &str) -> WeightFormat {
    match is_torch(Path::new(file)) {
        true => WeightFormat::Torch,
        false => WeightFormat::Safetensors,
    }
}

/// Whether a file's name ends as those of `torch.save` do, in letters of either size.
pub(crate) fn is_torch(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["bin", "pt", "pth", "ckpt"]
        .iter()
        .any(|known| ending.eq_ignore_ascii_case(known))
}

/// The tensors of all `files` (pairs of a name for messages and content), by their own names.
///
/// # Errors
/// When a file is damaged or shorter than it says, asks for anything but tensors, or a tensor's name occurs twice.
pub(super) fn index_files(
    files: Vec<(String, FileBytes)>,
) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let mut all = BTreeMap::new();
    for (name, bytes) in files {
        if is_pointer(&bytes) {
            return Err(ModelError::Pointer { path: name.into() });
        }
        let (file_name, file): (Rc<str>, _) = (name.into(), Rc::new(bytes));
        let places = match format_of(&file_name) {
            WeightFormat::Safetensors => safetensors_file::index(&file),
            WeightFormat::Torch => torch_file::index(&file),
        };
        for (name, place) in places.map_err(|why| damaged(&file_name, &why))? {
            let tensor = StoredTensor {
                file: Rc::clone(&file),
                file_name: Rc::clone(&file_name),
                place,
            };
            match all.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(tensor);
                }
                Entry::Occupied(other) => {
                    let why = format!("{} is stored in another file as well", shown(other.key()));
                    return Err(damaged(&other.get().file_name, &why));
                }
            }
        }
    }
    Ok(all)
}

/// What one file of weights holds.
#[derive(Debug, Default)]
pub(super) struct OneFile {
    /// Its tensors by their names.
    pub named: BTreeMap<String, StoredTensor>,
    /// Its tensors in their order, where they have no names.
    pub listed: Vec<StoredTensor>,
    /// The text beside them; PyTorch's files have none.
    pub notes: BTreeMap<String, String>,
}

impl OneFile {
    /// Maps a file: PyTorch's where the name ends as one of theirs, else safetensors.
    ///
    /// # Errors
    /// When it cannot be read, is damaged or shorter than it says, or asks for anything but tensors.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let name = path.display().to_string();
        let bytes = FileBytes::map(path)?;
        if is_pointer(&bytes) {
            return Err(ModelError::Pointer { path: path.into() });
        }
        let (file_name, file): (Rc<str>, _) = (name.into(), Rc::new(bytes));
        let stored = |place| StoredTensor {
            file: Rc::clone(&file),
            file_name: Rc::clone(&file_name),
            place,
        };
        let named = |places: BTreeMap<String, TensorPlace>| {
            let places = places.into_iter();
            places.map(|(name, place)| (name, stored(place))).collect()
        };
        let opened = match format_of(&file_name) {
            WeightFormat::Safetensors => safetensors_file::index(&file).and_then(|places| {
                Ok(Self {
                    named: named(places),
                    notes: safetensors_file::notes(&file)?,
                    ..Self::default()
                })
            }),
            WeightFormat::Torch => torch_file::contents(&file).map(|contents| match contents {
                Contents::Named(places) => Self {
                    named: named(places),
                    ..Self::default()
                },
                Contents::Listed(places) => Self {
                    listed: places.into_iter().map(stored).collect(),
                    ..Self::default()
                },
            }),
        };
        opened.map_err(|why| damaged(&file_name, &why))
    }
}

/// Where the weights of one part of a model may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightNames {
    /// Folder inside the model.
    pub folder: &'static str,
    /// Name of the safetensors file, without its ending.
    pub safetensors: &'static str,
    /// Name of PyTorch's file, without its ending.
    pub torch: &'static str,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The weight files of one part of a model: a single file, or the shards its index names. Full precision comes before
/// half, and of two files with the same content the safetensors file.
///
/// # Errors
/// When there are none this program reads, or the index names anything but files beside it.
pub(super) fn weight_files(
    source: &FileSource,
    part: WeightNames,
) -> Result<Vec<String>, ModelError> {
    let folder = part.folder;
    for variant in ["", ".fp16"] {
        for (stem, ending) in [(part.safetensors, ".safetensors"), (part.torch, ".bin")] {
            let single = format!("{folder}/{stem}{variant}{ending}");
            if source.has(&single) {
                return Ok(vec![single]);
            }
            // The variant has been in each of these places in some release of diffusers or transformers.
            let indices = [
                format!("{folder}/{stem}{ending}.index{variant}.json"),
                format!("{folder}/{stem}{ending}{variant}.index.json"),
                format!("{folder}/{stem}{variant}{ending}.index.json"),
            ];
            if let Some(index) = indices.iter().find(|index| source.has(index)) {
                return shards(source, folder, index, ending);
            }
        }
    }
    if source
        .list(folder)
        .iter()
        .any(|name| name.ends_with(".ckpt"))
    {
        let what = format!("the .ckpt weights in {folder} (save the model in diffusers layout)");
        return Err(ModelError::Unsupported { what });
    }
    let missing = vec![format!("{folder}/{}.safetensors", part.safetensors)];
    Err(incomplete(source, missing))
}

fn shards(
    source: &FileSource,
    folder: &str,
    index: &str,
    ending: &str,
) -> Result<Vec<String>, ModelError> {
    let parsed: ShardIndex =
        serde_json::from_str(&source.text(index)?).map_err(|e| source.config_error(index, e))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(source.config_error(index, "it names no weight files"));
    }
    // A downloaded index must not reach outside its own folder.
    let plain = |name: &str| name.ends_with(ending) && !name.contains(['/', '\\', ':', '\0']);
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
    if !missing.is_empty() {
        return Err(incomplete(source, missing));
    }
    // Nor by a link: whoever packed the folder may have put one there.
    if let Some(file) = files.iter().find(|file| !source.is_beside(index, file)) {
        let why = format!("{} is a link to a place outside its folder", shown(file));
        return Err(source.config_error(index, why));
    }
    Ok(files)
}
