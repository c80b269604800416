//! Neural-network blocks over candle whose gradients can be trusted.
//!
//! Several of candle's own layers return tensors without a gradient, or with a wrong one, and say nothing
//! (fused softmax and norms, strided convolutions of odd sizes, nearest upsampling of a tensor used twice).
//! All model code therefore goes through this module, and `clippy.toml` forbids the functions it replaces.
//!
//! Activations are channels last, `[b, f, h, w, c]`: see [`layout`]. Convolutions and norms are frozen and pass a
//! gradient to their input only; [`Linear`] can be trained through [`Param`], or carry a trained [`Lora`].
//! On the CPU layers run kernels of their own, on NVIDIA GPUs those that a [`plan`] names, elsewhere compositions.

pub mod activation;
pub mod attention;
pub mod chain;
pub mod checkpoint;
pub mod conv;
pub mod embedding;
pub mod layout;
pub mod linear;
pub mod lora;
pub mod noise;
pub mod norm;
pub mod param;
pub mod plan;
pub mod resize;

mod composed;
pub(crate) mod cuda;
mod kernels;

pub use activation::{geglu, gelu, quick_gelu, silu};
pub use attention::{Mask, attention};
pub use chain::{Piece, Skip, chain};
pub use checkpoint::{Checkpointing, Tape};
pub use conv::{Conv2d, Conv2dConfig, Padding, TemporalConv};
pub use cuda::device_memory;
pub use embedding::timestep_embedding;
pub use linear::Linear;
pub use lora::{Branch, Dropout, Lora};
pub use noise::{NoiseStream, Purpose};
pub use norm::{GroupNorm, LayerNorm};
pub use param::{Param, grad_enabled, no_grad};
pub use resize::upsample_nearest;

/// Multiplications that the processor's products and attention have done since the program began: what a benchmark holds
/// against the time they took.
pub fn multiplications() -> u64 {
    kernels::product::work_done()
}

/// Sets how many threads the kernels use. Works once, before the first kernel has run.
///
/// # Errors
/// When the threads were already started.
pub fn threads(n: usize) -> candle_core::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .build_global()
        .map_err(candle_core::Error::wrap)
}
