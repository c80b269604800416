//! Pictures of numbers on the GPU: wgpu pipelines and the Rust mirrors of their structures. Sees plain data only.
//!
//! A stage of numbers is a file in `shaders/compute/` with a twin on the processor in [`crate::spectral::plain`] or
//! [`crate::motion`]; a picture is a file in `shaders/draw/` with a twin in [`twin`]. [`Gpu::of`] says whether an adapter can
//! run them; where it cannot, the twins do all the work.
//!
//! # Failure
//! A lost device or a full memory is a [`GpuError`]; the caller goes on with the twins. A shader that does not compile is a
//! bug, which `tests/shaders.rs` finds.

mod bands;
mod draw;
mod gpu;
mod mirror;
mod shader;
mod spectrum;
pub mod twin;

pub use bands::{BandEnergies, BandStages, bands_on_cpu, residual_rows};
pub use draw::{Canvas, Painter, Table};
pub use gpu::{Gpu, GpuError};
pub use mirror::{DftPass, Length, LumaResidual, Paint, Plane, Rings, Series, Weighting};
pub use shader::{FILES, ShaderError, resolve};
pub use spectrum::{GpuSpectrum, SpectrumStages, WeightStages, radices};
