//! The sinusoidal embedding of diffusion time steps.

use candle_core::{DType, Device, Result, Tensor};

/// Sinusoidal embedding of time steps, cosines first.
///
/// Shape: `b` time steps give `[b, width]`; `width` must be even.
/// Units: a time step is an index of the noise schedule (0 to 999), whole or not.
/// Source: spec/models.md 1.1 (`flip_sin_to_cos`, `freq_shift` 0). The frequencies and phases are rounded to
/// f32 as diffusers rounds them: at t = 999 the rounding of the phase moves a cosine by 3e-5, far more than
/// the accuracy the networks are held to.
///
/// # Errors
/// When `width` is odd or zero.
pub fn timestep_embedding(
    timesteps: &[f64],
    width: usize,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    if width == 0 || !width.is_multiple_of(2) {
        candle_core::bail!("timestep_embedding: the width must be even and positive, got {width}");
    }
    let half = width / 2;
    let frequency = |i: usize| {
        let exponent = -(10_000f64.ln() as f32) * i as f32 / half as f32;
        libm::exp(f64::from(exponent)) as f32
    };
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let mut values = Vec::with_capacity(timesteps.len() * width);
    for &t in timesteps {
        let phases = frequencies.iter().map(|&f| f64::from(t as f32 * f));
        values.extend(phases.clone().map(libm::cos));
        values.extend(phases.map(libm::sin));
    }
    Tensor::from_vec(values, (timesteps.len(), width), &Device::Cpu)?
        .to_dtype(dtype)?
        .to_device(device)
}
