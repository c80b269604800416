//! NVIDIA GPUs: the layers of [`crate::nn`] as [plans](super::plan) of our own kernels.
//!
//! Everything here but the execution of a plan is compiled in every build. Kernels are compiled by NVRTC when they are first
//! needed, for the type and sizes at hand, and kept for the process. They need compute capability 8.0 (2020); older GPUs get
//! the compositions of [`super::composed`]. Nothing here waits for the device.

mod adapted;
mod chain;
mod convolution;
mod layers;
mod linear;
mod planned;

#[cfg(feature = "cuda")]
mod execute;
#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
mod execute;

pub(super) use adapted::adapted_linear;
pub(super) use chain::{Skip, Stage, chain};
pub(super) use convolution::convolution;
pub(super) use layers::{
    activation, attention, dropout, geglu, group_norm, layer_norm, swap_axes, upsample_nearest,
};
pub(super) use linear::{frozen_linear, trained_linear};
pub(crate) use planned::{Given, Planned, Prepared, run};

use candle_core::{DType, Device, Tensor};

/// Whether our kernels run on tensors of this device and type.
pub(crate) fn is_ready(x: &Tensor) -> bool {
    let stored = matches!(
        x.dtype(),
        DType::F64 | DType::F32 | DType::F16 | DType::BF16
    );
    stored && is_capable(x.device())
}

/// Whether our kernels run on this device.
pub(crate) fn is_capable(device: &Device) -> bool {
    match device {
        Device::Cuda(device) => execute::is_capable(device),
        _ => false,
    }
}

/// Shared memory that a block can ask for on this device, in bytes.
fn most_shared(device: &Device) -> u32 {
    match device {
        Device::Cuda(device) => execute::most_shared(device),
        _ => 0,
    }
}

/// Bytes that tensors hold on a GPU, and the most since the last call; none elsewhere, and where the driver does not tell.
#[must_use]
pub fn device_memory(device: &Device) -> Option<(u64, u64)> {
    match device {
        Device::Cuda(device) => execute::memory(device),
        _ => None,
    }
}
