//! The spectrum of one motion vector: residual, Fourier transform, amplitude and phase, radial profile, weight.

use std::f64::consts::TAU;

use super::gpu::{Gpu, GpuError, Stage};
use super::mirror::{DftPass, Length, LumaResidual, Plane, Rings, Weighting};
use crate::spectral::plain::{RadialProfile, Residual, frequency_radius};
use crate::video::Frame;

/// Threads in a group of the stages that have one thread for each value.
const GROUP: usize = 256;
/// Threads in a group of the radial stages.
const RADIAL_GROUP: usize = 64;
/// Largest radix that smaller factors are gathered into: more terms cost more sums, fewer cost more passes.
const MAX_RADIX: usize = 16;

/// The compute pipelines of a spectrum.
#[derive(Debug)]
pub struct SpectrumStages {
    luma_residual: Stage,
    dft_pass: Stage,
    amplitude_phase: Stage,
    radial_rows: Stage,
    radial_rings: Stage,
}

/// One motion vector and its spectrum, in the memory of the device. Planes are `[h, w]` of f32, shifted unless said otherwise.
#[derive(Clone, Debug)]
pub struct GpuSpectrum {
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// The motion vector itself.
    pub plane: wgpu::Buffer,
    /// Complex, not shifted.
    pub spectrum: wgpu::Buffer,
    /// `|F|`
    pub amplitude: wgpu::Buffer,
    /// `ln(1 + |F|)`
    pub log_amplitude: wgpu::Buffer,
    /// Angle in -pi..=pi.
    pub phase: wgpu::Buffer,
}

/// Factors of `n` whose product it is, none above 16 unless it is prime; `[1]` for 1. One pass is made for each.
pub fn radices(n: usize) -> Vec<usize> {
    let mut rest = n.max(1);
    let mut primes = Vec::new();
    let mut divisor = 2;
    while divisor * divisor <= rest {
        while rest.is_multiple_of(divisor) {
            primes.push(divisor);
            rest /= divisor;
        }
        divisor += 1;
    }
    if rest > 1 || primes.is_empty() {
        primes.push(rest);
    }
    let mut radices: Vec<usize> = Vec::new();
    for prime in primes {
        match radices.last_mut() {
            Some(last) if *last * prime <= MAX_RADIX => *last *= prime,
            _ => radices.push(prime),
        }
    }
    radices
}

/// Powers of `exp(-2 pi i / n)`, as pairs; computed in f64.
fn twiddles(n: usize) -> Vec<[f32; 2]> {
    let turn = |i: usize| {
        let (sin, cos) = (TAU * i as f64 / n as f64).sin_cos();
        [cos as f32, -sin as f32]
    };
    (0..n).map(turn).collect()
}

/// 8-bit pixels as the shaders read them: four bytes, red in the lowest.
fn packed(frame: &Frame) -> Vec<u32> {
    let pixel = |p: &[u8]| u32::from_le_bytes([p[0], p[1], p[2], 255]);
    frame.rgb.chunks_exact(3).map(pixel).collect()
}

/// Rings of a profile of an `[h, w]` plane; the farthest bin is the first one.
fn ring_count(h: usize, w: usize) -> usize {
    (frequency_radius(0, 0, h, w) * h.max(w) as f64).round() as usize + 1
}

impl SpectrumStages {
    /// Compiles the pipelines.
    ///
    /// # Errors
    /// `Refused` if the device does not take one of them.
    pub fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        gpu.checked(|| {
            Ok(Self {
                luma_residual: gpu.stage("compute/luma_residual.wgsl")?,
                dft_pass: gpu.stage("compute/dft_pass.wgsl")?,
                amplitude_phase: gpu.stage("compute/amplitude_phase.wgsl")?,
                radial_rows: gpu.stage("compute/radial_rows.wgsl")?,
                radial_rings: gpu.stage("compute/radial_rings.wgsl")?,
            })
        })?
    }

    /// The motion vector from `now` to `next` (frames of one size), `[h, w]`.
    pub fn residual(&self, gpu: &Gpu, now: &Frame, next: &Frame, kind: Residual) -> wgpu::Buffer {
        let pixels = now.width as usize * now.height as usize;
        let params = LumaResidual {
            pixels: pixels as u32,
            absolute: u32::from(kind == Residual::Abs),
            ..LumaResidual::default()
        };
        let (now, next) = (
            gpu.upload("now", &packed(now)),
            gpu.upload("next", &packed(next)),
        );
        let plane = gpu.zeros("motion vector", pixels);
        let mut encoder = gpu.encoder();
        let buffers = [&now, &next, &plane];
        self.luma_residual
            .record(gpu, &mut encoder, &params, &buffers, (pixels, GROUP));
        gpu.queue.submit([encoder.finish()]);
        plane
    }

    /// The spectrum of a plane of `h` by `w` numbers, any size.
    ///
    /// # Errors
    /// `Refused` where the plane is too large for the device.
    pub fn transform(
        &self,
        gpu: &Gpu,
        plane: wgpu::Buffer,
        (h, w): (usize, usize),
    ) -> Result<GpuSpectrum, GpuError> {
        gpu.checked(|| {
            let size = h * w;
            let mut encoder = gpu.encoder();
            let spectrum = self.forward(gpu, &mut encoder, &plane, (h, w));
            let parts = GpuSpectrum {
                h,
                w,
                plane,
                spectrum,
                amplitude: gpu.zeros("amplitude", size),
                log_amplitude: gpu.zeros("log amplitude", size),
                phase: gpu.zeros("phase", size),
            };
            let params = Plane {
                h: h as u32,
                w: w as u32,
                ..Plane::default()
            };
            let buffers = [
                &parts.spectrum,
                &parts.amplitude,
                &parts.log_amplitude,
                &parts.phase,
            ];
            self.amplitude_phase
                .record(gpu, &mut encoder, &params, &buffers, (size, GROUP));
            gpu.queue.submit([encoder.finish()]);
            parts
        })
    }

    /// Records the passes of the transform, rows first; the buffer that holds the spectrum.
    fn forward(
        &self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        plane: &wgpu::Buffer,
        (h, w): (usize, usize),
    ) -> wgpu::Buffer {
        let mut source = plane.clone();
        let mut spare = gpu.zeros("spectrum", 2 * h * w);
        let mut real_source = 1;
        for (n, lines, line_stride, element_stride) in [(w, h, w, 1), (h, w, 1, w)] {
            let table = gpu.upload("twiddles", &twiddles(n));
            let mut done = 1;
            for radix in radices(n) {
                let params = DftPass {
                    n: n as u32,
                    radix: radix as u32,
                    done: done as u32,
                    lines: lines as u32,
                    line_stride: line_stride as u32,
                    element_stride: element_stride as u32,
                    real_source,
                    spare: 0,
                };
                let buffers = [&table, &source, &spare];
                self.dft_pass
                    .record(gpu, encoder, &params, &buffers, (h * w, GROUP));
                let next = if real_source == 1 {
                    gpu.zeros("spectrum", 2 * h * w)
                } else {
                    source
                };
                source = std::mem::replace(&mut spare, next);
                real_source = 0;
                done *= radix;
            }
        }
        source
    }

    /// Mean amplitude over rings; waits for the device.
    ///
    /// # Errors
    /// `NoResult` if the device does not answer.
    pub fn profile(&self, gpu: &Gpu, spectrum: &GpuSpectrum) -> Result<RadialProfile, GpuError> {
        let (h, w) = (spectrum.h, spectrum.w);
        let rings = ring_count(h, w);
        let params = Rings {
            h: h as u32,
            w: w as u32,
            rings: rings as u32,
            spare: 0,
        };
        let profile = gpu.checked(|| {
            let rows = gpu.zeros("rings of rows", 4 * h * rings);
            let profile = gpu.zeros("profile", 4 * rings);
            let mut encoder = gpu.encoder();
            let buffers = [&spectrum.amplitude, &rows];
            self.radial_rows
                .record(gpu, &mut encoder, &params, &buffers, (h, RADIAL_GROUP));
            let buffers = [&rows, &profile];
            self.radial_rings
                .record(gpu, &mut encoder, &params, &buffers, (rings, RADIAL_GROUP));
            gpu.queue.submit([encoder.finish()]);
            profile
        })?;
        let mut result = RadialProfile {
            cycles_per_pixel: Vec::new(),
            mean: Vec::new(),
            largest: Vec::new(),
            bins: Vec::new(),
        };
        let held: Vec<[f32; 4]> = gpu.read(&profile)?;
        for (ring, [mean, largest, bins, _]) in held.into_iter().enumerate() {
            if bins > 0.0 {
                result.cycles_per_pixel.push(ring as f64 / h.max(w) as f64);
                result.mean.push(f64::from(mean));
                result.largest.push(f64::from(largest));
                result.bins.push(bins as usize);
            }
        }
        Ok(result)
    }
}

/// The compute pipelines of the weight: what is run anew whenever a slider moves.
#[derive(Debug)]
pub struct WeightStages {
    frequency_weight: Stage,
    weighted_spectrum: Stage,
    difference: Stage,
}

impl WeightStages {
    /// Compiles the pipelines.
    ///
    /// # Errors
    /// `Refused` if the device does not take one of them.
    pub fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        gpu.checked(|| {
            Ok(Self {
                frequency_weight: gpu.stage("compute/frequency_weight.wgsl")?,
                weighted_spectrum: gpu.stage("compute/weighted_spectrum.wgsl")?,
                difference: gpu.stage("compute/difference.wgsl")?,
            })
        })?
    }

    /// An empty plane of `values` numbers, for [`weigh`](Self::weigh) to fill.
    pub fn plane(&self, gpu: &Gpu, values: usize) -> wgpu::Buffer {
        gpu.zeros("weighted", values)
    }

    /// `ln(1 + w |F|)` of a shifted amplitude, into `weighted`: the only pass that a move of δ or of the cutoff needs.
    pub fn weigh(
        &self,
        gpu: &Gpu,
        (amplitude, weighted): (&wgpu::Buffer, &wgpu::Buffer),
        weighting: &Weighting,
    ) {
        let mut encoder = gpu.encoder();
        let buffers = [amplitude, weighted];
        let threads = (weighting.h as usize * weighting.w as usize, GROUP);
        self.weighted_spectrum
            .record(gpu, &mut encoder, weighting, &buffers, threads);
        gpu.queue.submit([encoder.finish()]);
    }

    /// The weights alone, `[h, w]`.
    pub fn weights(&self, gpu: &Gpu, weighting: &Weighting) -> wgpu::Buffer {
        let size = weighting.h as usize * weighting.w as usize;
        let weights = gpu.zeros("weights", size);
        let mut encoder = gpu.encoder();
        self.frequency_weight
            .record(gpu, &mut encoder, weighting, &[&weights], (size, GROUP));
        gpu.queue.submit([encoder.finish()]);
        weights
    }

    /// `a - b` of two planes of `values` numbers.
    pub fn difference(
        &self,
        gpu: &Gpu,
        a: &wgpu::Buffer,
        b: &wgpu::Buffer,
        values: usize,
    ) -> wgpu::Buffer {
        let difference = gpu.zeros("difference", values);
        let params = Length {
            values: values as u32,
            ..Length::default()
        };
        let mut encoder = gpu.encoder();
        let buffers = [a, b, &difference];
        self.difference
            .record(gpu, &mut encoder, &params, &buffers, (values, GROUP));
        gpu.queue.submit([encoder.finish()]);
        difference
    }
}
