//! Amplitude, phase and radial profile of a spectrum.

use std::f64::consts::PI;

use rustfft::num_complex::Complex;

use super::{Real, real, weight::frequency_radius};

/// Whether bin `(k, l)` of an unshifted `[h, w]` spectrum is its own mirror image under negation of frequency.
///
/// There the spectrum of a real plane is real, so an imaginary part is only rounding.
pub fn is_self_conjugate(k: usize, l: usize, h: usize, w: usize) -> bool {
    (2 * k).is_multiple_of(h) && (2 * l).is_multiple_of(w)
}

/// `|F|` of each bin.
pub fn amplitude<T: Real>(spectrum: &[Complex<T>]) -> Vec<T> {
    spectrum.iter().map(|f| f.re.hypot(f.im)).collect()
}

/// `ln(1 + |F|)` of each bin, for display: amplitudes span many powers of ten.
pub fn log_amplitude<T: Real>(spectrum: &[Complex<T>]) -> Vec<T> {
    spectrum.iter().map(|f| f.re.hypot(f.im).ln_1p()).collect()
}

/// `ln(1 + w |F|)` of each bin: the amplitude as the local loss weighs it, for display.
///
/// `amplitude` and `weight` lie in the same order ([`super::frequency_weight`] is shifted).
pub fn weighted_log_amplitude<T: Real>(amplitude: &[T], weight: &[f64]) -> Vec<T> {
    let weigh = |(&a, &w): (&T, &f64)| (a * real::<T>(w)).ln_1p();
    amplitude.iter().zip(weight).map(weigh).collect()
}

/// Angle in (-pi, pi] of each bin of an unshifted `[h, w]` spectrum of a real plane; 0 where the bin is 0.
///
/// Self-conjugate bins count as real: without that the rounding of a zero imaginary part makes the angle of a negative
/// number jump between -pi and pi (spec sma.md 3.3).
pub fn phase<T: Real>(spectrum: &[Complex<T>], h: usize, w: usize) -> Vec<T> {
    let angle = |(i, f): (usize, &Complex<T>)| {
        let im = if is_self_conjugate(i / w, i % w, h, w) {
            T::zero()
        } else {
            f.im
        };
        // Adding zero turns -0 into +0, so that the negative real axis is always +pi.
        (im + T::zero()).atan2(f.re + T::zero())
    };
    spectrum.iter().enumerate().map(angle).collect()
}

/// An angle difference brought into (-pi, pi].
pub fn wrap_phase(difference: f64) -> f64 {
    let turns = ((difference - PI) / (2.0 * PI)).ceil();
    difference - turns * 2.0 * PI
}

/// Mean amplitude against distance from the zero frequency.
#[derive(Clone, Debug, PartialEq)]
pub struct RadialProfile {
    /// Centre of each ring, cycles per pixel.
    pub cycles_per_pixel: Vec<f64>,
    /// Mean of the values whose [`frequency_radius`] rounds to that ring.
    pub mean: Vec<f64>,
    /// Largest of those values.
    pub largest: Vec<f64>,
    /// How many bins the ring holds.
    pub bins: Vec<usize>,
}

/// Average a *shifted* `[h, w]` plane over rings of width `1 / max(h, w)` cycles per pixel; empty rings are left out.
pub fn radial_profile<T: Real>(shifted: &[T], h: usize, w: usize) -> RadialProfile {
    let rings_per_cycle = h.max(w) as f64;
    let mut sums: Vec<(f64, f64, usize)> = Vec::new();
    for (i, value) in shifted.iter().take(h * w).enumerate() {
        let ring = (frequency_radius(i / w, i % w, h, w) * rings_per_cycle).round() as usize;
        if sums.len() <= ring {
            sums.resize(ring + 1, (0.0, f64::NEG_INFINITY, 0));
        }
        let value = value.to_f64().unwrap_or(f64::NAN);
        let (sum, largest, bins) = sums[ring];
        sums[ring] = (sum + value, largest.max(value), bins + 1);
    }
    let mut profile = RadialProfile {
        cycles_per_pixel: Vec::new(),
        mean: Vec::new(),
        largest: Vec::new(),
        bins: Vec::new(),
    };
    for (ring, &(sum, largest, bins)) in sums.iter().enumerate().filter(|(_, ring)| ring.2 > 0) {
        profile.cycles_per_pixel.push(ring as f64 / rings_per_cycle);
        profile.mean.push(sum / bins as f64);
        profile.largest.push(largest);
        profile.bins.push(bins);
    }
    profile
}
