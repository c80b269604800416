//! Wavelet bands of a whole clip's motion: energy along time and energy at each pixel.
//!
//! A clip of 64 frames of 1024 by 1024 pixels is larger than one storage binding, and than anyone wants to hold twice:
//! the motion is taken in tiles of pixels, each with all its time steps.

use std::ops::Range;

use super::gpu::{Gpu, GpuError, Stage};
use super::mirror::Series;
use crate::motion::luma;
use crate::spectral::plain::{Residual, haar_forward};
use crate::video::Frame;

/// Most bytes of a tile: far below the 128 MiB that every device binds, and small enough to stop between two.
const TILE_BYTES: u64 = 8 << 20;
const GROUP: usize = 256;
const TIME_GROUP: usize = 64;

/// What each wavelet band of a clip holds, in the order `A, D1, .. DJ`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BandEnergies {
    /// Mean square over the picture at each time step of the band.
    pub over_time: Vec<Vec<f64>>,
    /// Mean square over time at each pixel, `[h, w]`.
    pub maps: Vec<Vec<f32>>,
}

impl BandEnergies {
    fn new(bands: usize, pixels: usize) -> Self {
        Self {
            over_time: vec![Vec::new(); bands],
            maps: vec![vec![0.0; pixels]; bands],
        }
    }

    /// Mean square of a band; 0 past the last.
    pub fn energy(&self, band: usize) -> f64 {
        let steps = self.over_time.get(band).map_or(&[][..], Vec::as_slice);
        steps.iter().sum::<f64>() / steps.len().max(1) as f64
    }

    /// Enters what a tile of pixels holds of one band.
    fn add(&mut self, band: usize, tile: &Range<usize>, steps: &[f64], map: &[f32]) {
        let share = tile.len() as f64 / self.maps[band].len().max(1) as f64;
        let held = &mut self.over_time[band];
        held.resize(steps.len(), 0.0);
        for (sum, step) in held.iter_mut().zip(steps) {
            *sum += step * share;
        }
        self.maps[band][tile.clone()].copy_from_slice(map);
    }
}

/// The motion of some pixels (counted row major) over all frames of one size, `[frames - 1, pixels]`.
pub fn residual_rows(frames: &[Frame], pixels: &Range<usize>, kind: Residual) -> Vec<f32> {
    let bright = |frame: &Frame| luma(&frame.rgb[3 * pixels.start..3 * pixels.end]);
    let mut rows = Vec::with_capacity(frames.len().saturating_sub(1) * pixels.len());
    let mut frames = frames.iter();
    let mut now = frames.next().map(bright).unwrap_or_default();
    for frame in frames {
        let next = bright(frame);
        let steps = now.iter().zip(&next).map(|(now, next)| next - now);
        match kind {
            Residual::Signed => rows.extend(steps),
            Residual::Abs => rows.extend(steps.map(f32::abs)),
        }
        now = next;
    }
    rows
}

/// Pixels of a frame, and ranges of them whose motion takes at most [`TILE_BYTES`].
fn tiles(frames: &[Frame], most_bytes: u64) -> (usize, Vec<Range<usize>>) {
    let pixels = frames.first().map_or(0, |f| f.rgb.len() / 3);
    let steps = frames.len().saturating_sub(1).max(1) as u64;
    let tile = (most_bytes / (4 * steps)).max(1) as usize;
    let starts = (0..pixels).step_by(tile);
    (
        pixels,
        starts.map(|at| at..(at + tile).min(pixels)).collect(),
    )
}

/// The bands on the processor: the twin of [`BandStages::energies`]. Nothing once `stop` says so.
pub fn bands_on_cpu(
    frames: &[Frame],
    kind: Residual,
    levels: usize,
    stop: &dyn Fn() -> bool,
) -> Option<BandEnergies> {
    let (pixels, tiles) = tiles(frames, TILE_BYTES);
    let mut energies = BandEnergies::new(levels + 1, pixels);
    for tile in tiles {
        if stop() {
            return None;
        }
        let rows = residual_rows(frames, &tile, kind);
        let bands = haar_forward(&rows, tile.len(), levels);
        for band in 0..=levels {
            let steps = bands.energy_over_time(band).unwrap_or_default();
            let map: Vec<f32> = bands
                .energy_map(band)
                .unwrap_or_default()
                .iter()
                .map(|&e| e as f32)
                .collect();
            energies.add(band, &tile, &steps, &map);
        }
    }
    Some(energies)
}

/// The compute pipelines of the bands.
#[derive(Debug)]
pub struct BandStages {
    haar_level: Stage,
    energy_map: Stage,
    energy_time: Stage,
}

impl BandStages {
    /// Compiles the pipelines.
    ///
    /// # Errors
    /// `Refused` if the device does not take one of them.
    pub fn new(gpu: &Gpu) -> Result<Self, GpuError> {
        gpu.checked(|| {
            Ok(Self {
                haar_level: gpu.stage("compute/haar_level.wgsl")?,
                energy_map: gpu.stage("compute/band_energy_map.wgsl")?,
                energy_time: gpu.stage("compute/band_energy_time.wgsl")?,
            })
        })?
    }

    /// The bands of a clip of frames of one size; waits for the device after every tile. Nothing once `stop` says so.
    ///
    /// # Errors
    /// `Refused` or `NoResult` if the device fails.
    pub fn energies(
        &self,
        gpu: &Gpu,
        frames: &[Frame],
        (kind, levels): (Residual, usize),
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<BandEnergies>, GpuError> {
        let (pixels, tiles) = tiles(frames, TILE_BYTES.min(gpu.max_storage_bytes()));
        let mut energies = BandEnergies::new(levels + 1, pixels);
        for tile in tiles {
            if stop() {
                return Ok(None);
            }
            let rows = residual_rows(frames, &tile, kind);
            let parts = self.tile(gpu, &rows, tile.len(), levels)?;
            for (band, (steps, map)) in parts.iter().enumerate() {
                let steps: Vec<f32> = gpu.read(steps)?;
                let map: Vec<f32> = gpu.read(map)?;
                let steps: Vec<f64> = steps.into_iter().map(f64::from).collect();
                energies.add(band, &tile, &steps, &map[..tile.len()]);
            }
        }
        Ok(Some(energies))
    }

    /// Energy over time and at each position of `rows`, `[steps, positions]`, for `A, D1, .. DJ`.
    pub fn tile(
        &self,
        gpu: &Gpu,
        rows: &[f32],
        positions: usize,
        levels: usize,
    ) -> Result<Vec<(wgpu::Buffer, wgpu::Buffer)>, GpuError> {
        gpu.checked(|| {
            let mut encoder = gpu.encoder();
            let mut low = gpu.upload("series", rows);
            let mut steps = rows.len() / positions.max(1);
            let mut found = Vec::new();
            for _ in 0..levels {
                let params = Series {
                    steps: steps as u32,
                    positions: positions as u32,
                    ..Series::default()
                };
                let size = steps.div_ceil(2) * positions;
                let (next, high) = (gpu.zeros("low", size), gpu.zeros("high", size));
                let buffers = [&low, &next, &high];
                self.haar_level
                    .record(gpu, &mut encoder, &params, &buffers, (size, GROUP));
                steps = steps.div_ceil(2);
                found.push(self.energy(gpu, &mut encoder, &high, (steps, positions)));
                low = next;
            }
            found.insert(0, self.energy(gpu, &mut encoder, &low, (steps, positions)));
            gpu.queue.submit([encoder.finish()]);
            found
        })
    }

    fn energy(
        &self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        band: &wgpu::Buffer,
        (steps, positions): (usize, usize),
    ) -> (wgpu::Buffer, wgpu::Buffer) {
        let params = Series {
            steps: steps as u32,
            positions: positions as u32,
            ..Series::default()
        };
        let over_time = gpu.zeros("energy over time", steps);
        let map = gpu.zeros("energy map", positions);
        let threads = (steps * TIME_GROUP, TIME_GROUP);
        self.energy_time
            .record(gpu, encoder, &params, &[band, &over_time], threads);
        self.energy_map
            .record(gpu, encoder, &params, &[band, &map], (positions, GROUP));
        (over_time, map)
    }
}
