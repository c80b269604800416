//! The uniform structures of the shaders. `tests/shaders.rs` compares every field's place with naga's layout.

use bytemuck::{Pod, Zeroable};

/// `compute/luma_residual.wgsl`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct LumaResidual {
    /// Pixels of a frame.
    pub pixels: u32,
    /// 1: without its sign.
    pub absolute: u32,
    /// Padding.
    pub spare: [u32; 2],
}

/// `compute/dft_pass.wgsl`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct DftPass {
    /// Length of a line.
    pub n: u32,
    /// Terms of each sum.
    pub radix: u32,
    /// Product of the radices of earlier passes.
    pub done: u32,
    /// Lines of the plane in this direction.
    pub lines: u32,
    /// Elements from a line to the next.
    pub line_stride: u32,
    /// Elements from an element of a line to the next.
    pub element_stride: u32,
    /// 1: the source holds real numbers, not pairs.
    pub real_source: u32,
    /// Padding.
    pub spare: u32,
}

/// `compute/amplitude_phase.wgsl`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Plane {
    /// Rows.
    pub h: u32,
    /// Columns.
    pub w: u32,
    /// Padding.
    pub spare: [u32; 2],
}

/// `common/frequency.wgsl`
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Weighting {
    /// Rows.
    pub h: u32,
    /// Columns.
    pub w: u32,
    /// δ, the low-frequency bias (an exponent).
    pub delta: f32,
    /// Weight of the farthest corner.
    pub base: f32,
    /// Cycles per pixel; negative for none.
    pub cutoff: f32,
    /// 1: row 0 and column 0 weigh nothing.
    pub zero_border: u32,
    /// Padding.
    pub spare: [u32; 2],
}

impl Weighting {
    /// The local loss's weight of a plane of `h` by `w`, as [`crate::spectral::plain::frequency_weight`] with base 1 and
    /// no border, which is what the losses use.
    pub fn new(h: usize, w: usize, delta: f64, cutoff: Option<f64>) -> Self {
        Self {
            h: h as u32,
            w: w as u32,
            delta: delta as f32,
            base: 1.0,
            cutoff: cutoff.map_or(-1.0, |c| c.max(0.0) as f32),
            zero_border: 0,
            spare: [0; 2],
        }
    }

    /// Every bin weighs 1: δ is 0, and both powers cancel.
    pub fn even(h: usize, w: usize) -> Self {
        Self::new(h, w, 0.0, None)
    }
}

/// `compute/radial_rows.wgsl` and `compute/radial_rings.wgsl`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Rings {
    /// Rows.
    pub h: u32,
    /// Columns.
    pub w: u32,
    /// Rings of width `1 / max(h, w)` cycles per pixel.
    pub rings: u32,
    /// Padding.
    pub spare: u32,
}

/// `compute/haar_level.wgsl`, `compute/band_energy_map.wgsl` and `compute/band_energy_time.wgsl`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Series {
    /// Time steps.
    pub steps: u32,
    /// Series side by side.
    pub positions: u32,
    /// Padding.
    pub spare: [u32; 2],
}

/// `compute/difference.wgsl`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Length {
    /// Values of a plane.
    pub values: u32,
    /// Padding.
    pub spare: u32,
    /// Padding.
    pub more: [u32; 2],
}

/// `common/colour.wgsl`: how a value becomes a colour.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Paint {
    /// Columns.
    pub w: u32,
    /// Rows.
    pub h: u32,
    /// Value at the start of the colour table.
    pub low: f32,
    /// Value at its end.
    pub high: f32,
    /// 0: every pixel is opaque; 1: small values let the picture below show.
    pub fade: f32,
    /// 0: none; 1: the frequency weight darkens what it holds back.
    pub veil: f32,
    /// Value of full colour of a flow, pixels per frame.
    pub full: f32,
    /// Padding.
    pub spare: u32,
}

impl Paint {
    /// Opaque, without a veil.
    pub fn new(h: usize, w: usize, low: f64, high: f64) -> Self {
        Self {
            w: w as u32,
            h: h as u32,
            low: low as f32,
            high: high as f32,
            fade: 0.0,
            veil: 0.0,
            full: high as f32,
            spare: 0,
        }
    }
}
