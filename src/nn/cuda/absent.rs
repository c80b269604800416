//! What stands in for the GPU in a build without the feature `cuda`: nothing is ever ready there.

use candle_core::{CudaDevice, CudaStorage, Error, Layout, Result, Tensor};

use crate::nn::plan::Plan;

pub fn is_capable(_: &CudaDevice) -> bool {
    false
}

pub fn execute(_: &Plan, _: &[(&CudaStorage, &Layout)]) -> Result<Vec<CudaStorage>> {
    Err(Error::NotCompiledWithCudaSupport)
}

pub fn weight_gradient(_: &Tensor, _: &Tensor) -> Result<Tensor> {
    Err(Error::NotCompiledWithCudaSupport)
}
