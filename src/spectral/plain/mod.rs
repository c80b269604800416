//! Spectra of motion as plain numbers on slices: no tensors, no gradients.
//!
//! The display, the metrics and the losses all stand on these functions, so a picture of a spectrum shows what the
//! loss saw. Each is written to be read beside a compute shader of the same name: one loop, no hidden state.
//!
//! Axes: a plane is `[h, w]` row major, a clip of planes is `[f, h * w]`. Frequencies are in cycles per pixel.

mod dwt;
mod fft;
mod residual;
mod spectrum;
mod weight;

pub use dwt::{HaarBands, haar_forward, haar_inverse, max_levels, synthesize};
pub use fft::{Fft2, fftshift, ifftshift};
pub use residual::Residual;
pub use spectrum::{
    RadialProfile, amplitude, is_self_conjugate, log_amplitude, phase, radial_profile,
    weighted_log_amplitude, wrap_phase,
};
pub use weight::{frequency_radius, frequency_weight, weight_at_radius};

/// The number types these functions run in: `f32` for display, `f64` for losses and tests.
pub trait Real: rustfft::FftNum + rustfft::num_traits::Float {}

impl Real for f32 {}
impl Real for f64 {}

/// `value` in `T`, rounded to its precision.
///
/// Both implementors of [`Real`] hold every finite `f64` (rounded), so the fallback to zero is never taken.
fn real<T: Real>(value: f64) -> T {
    T::from_f64(value).unwrap_or_else(T::zero)
}
