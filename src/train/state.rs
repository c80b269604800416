//! Tensors to plain arrays and back, bit for bit.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};

use crate::project::{PlainTensor, TensorFile};

/// The tensor's values as f32 in row-major order.
///
/// # Errors
/// When the device cannot be read.
pub fn plain_from_tensor(tensor: &Tensor) -> Result<PlainTensor> {
    let values = tensor
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    Ok(PlainTensor::from_f32(tensor.dims(), &values))
}

/// The array as an f32 tensor on `device`.
///
/// # Errors
/// When the shape does not match the data, or the device is full.
pub fn tensor_from_plain(plain: &PlainTensor, device: &Device) -> Result<Tensor> {
    Tensor::from_vec(plain.to_f32(), plain.shape.as_slice(), device)
}

/// Named tensors as a file.
pub(super) fn file_from_tensors<'a>(
    tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
    about: String,
) -> Result<TensorFile> {
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name.clone(), plain_from_tensor(tensor)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    Ok(TensorFile { tensors, about })
}
