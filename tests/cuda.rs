//! The CUDA kernels without a GPU: their very sources, compiled as host code and run block by block, against the processor's
//! kernels. See `cuda/emulator.hpp` for what the emulator is strict about.

mod attention;
mod convolution;
pub mod emulator;
mod measure;
mod norms;
mod optimizer;
mod pointwise;
mod spectral;
mod strictness;
