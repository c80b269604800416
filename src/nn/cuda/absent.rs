//! What stands in for the GPU in a build without the feature `cuda`: nothing is ever ready there.

use candle_core::{CudaDevice, CudaStorage, Error, Layout, Result, Tensor};

use crate::nn::plan::{Buffer, Plan};

pub fn is_capable(_: &CudaDevice) -> bool {
    false
}

pub fn most_shared(_: &CudaDevice) -> u32 {
    0
}

pub fn execute(_: &Plan, _: &[(&CudaStorage, &Layout)]) -> Result<Vec<CudaStorage>> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn weight_gradient(_: &Tensor, _: &Tensor) -> Result<Tensor> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn allocate(_: &CudaDevice, _: Buffer) -> Result<CudaStorage> {
    Err(Error::NotCompiledWithCudaSupport)
}

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "read where there is a GPU")]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub first_row: usize,
}

pub fn multiply_into(
    _: &CudaStorage,
    _: (&CudaStorage, &Layout),
    _: (&CudaStorage, &Layout),
    _: Product,
) -> Result<()> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn memory(_: &CudaDevice) -> Option<(u64, u64)> {
    None
}
