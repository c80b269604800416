//! Plans of convolutions of channels-last images.

use candle_core::{DType, Result};

use super::{Arg, Plan, Shape, Source, flag, int, word};

/// A convolution of images, or the gradient of one with respect to its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// How many images.
    pub images: usize,
    /// `(h, w)` of what is read.
    pub input: (usize, usize),
    /// `(h, w)` of what is written.
    pub output: (usize, usize),
    /// `(kh, kw)`; at most [`Convolution::MOST_TAPS`] places.
    pub kernel: (usize, usize),
    /// Distance between the places of the kernel.
    pub stride: usize,
    /// Zeros above and left of the forward input.
    pub before: (usize, usize),
    /// Channels of what is read.
    pub depth: usize,
    /// Channels of what is written.
    pub columns: usize,
    /// Whether what is read is the gradient of the output.
    pub gradient: bool,
}

impl Convolution {
    /// Most places of a kernel.
    pub const MOST_TAPS: usize = 32;

    /// The gradient with respect to the input of this convolution.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            input: self.output,
            output: self.input,
            depth: self.columns,
            columns: self.depth,
            gradient: !self.gradient,
            ..self
        }
    }

    /// As the kernels take them.
    pub(super) fn sizes(&self) -> [usize; 12] {
        [
            self.images,
            self.input.0,
            self.input.1,
            self.output.0,
            self.output.1,
            self.kernel.0,
            self.kernel.1,
            self.stride,
            self.before.0,
            self.before.1,
            self.depth,
            self.columns,
        ]
    }
}

/// Pixels of a block, its threads, and the stages of copies ahead of the products; the kernels'.
const PIXELS: usize = 128;
const THREADS: u32 = 256;
const STAGES: usize = 3;

/// Inputs: what is read, the weight `[kh kw, i, o]`, the bias `[o]` in the wide type (any memory where there is none);
/// result: what is written.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn convolution(dtype: DType, convolution: &Convolution, has_bias: bool) -> Result<Plan> {
    let taps = convolution.kernel.0 * convolution.kernel.1;
    if taps > Convolution::MOST_TAPS {
        candle_core::bail!(
            "a kernel of {:?} has more than the 32 places a GPU kernel takes",
            convolution.kernel
        );
    }
    let columns = convolution.columns;
    // The wider tile does more with what it reads, unless it would mostly be empty.
    let tile = if columns.next_multiple_of(64) < columns.next_multiple_of(128) {
        64
    } else {
        128
    };
    let name = if convolution.gradient {
        "convolution_gradient"
    } else {
        "convolution"
    };
    let size = dtype.size_in_bytes();
    let depth = if size == 2 { 32 } else { 16 };
    let padding = 16 / size;
    let right = if convolution.gradient {
        tile * (depth + padding)
    } else {
        depth * (tile + padding)
    };
    let shared = STAGES * (PIXELS * (depth + padding) + right) * size;
    let pixels = convolution.images * convolution.output.0 * convolution.output.1;
    let blocks = pixels.div_ceil(PIXELS) * columns.div_ceil(tile);
    let mut plan = Plan::default();
    let y = plan.buffer(dtype, pixels * columns);
    let mut args = vec![Arg::Input(0), Arg::Input(1), Arg::Input(2), y];
    for size in convolution.sizes() {
        args.push(int(size)?);
    }
    args.push(flag(has_bias));
    let shape = Shape {
        grid: [word(blocks)?, 1, 1],
        threads: THREADS,
        shared: word(shared)?,
    };
    let source = Source::of("conv", dtype)?;
    plan.launch(source, &format!("{name}_{tile}"), shape, args);
    Ok(plan)
}
