//! Plans of the losses of Spectral Motion Alignment and of VMC's: forward and gradient, f32 or f64 clips, sums in f64.

use candle_core::{DType, Result};

use super::{Arg, Plan, Shape, Source, THREADS, flag, int, word};

/// Most frames less one of the wavelet kernels, which hold the series of a position; and most bands.
const LONGEST_MOTION: usize = 256;
const MOST_LEVELS: usize = 16;
/// Blocks whose partial sums one thread adds up.
const PARTIAL_BLOCKS: u32 = 256;
/// Shared memory of a block's sum: a number for each warp.
const SUM_SHARED: u32 = THREADS / 32 * 8;

/// A clip `[planes, frames, h, w]` (a plane is a clip and channel), and whether motion is taken without its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipSize {
    /// Clips times channels.
    pub planes: usize,
    /// Frames, at least 2.
    pub frames: usize,
    /// Height and width.
    pub size: (usize, usize),
    /// Absolute differences of frames instead of signed ones.
    pub absolute: bool,
}

impl ClipSize {
    fn positions(&self) -> usize {
        self.size.0 * self.size.1
    }

    fn numbers(&self) -> usize {
        self.planes * self.frames * self.positions()
    }

    fn pictures(&self) -> usize {
        self.planes * (self.frames - 1)
    }

    /// Whether the wavelet kernels take it.
    #[must_use]
    pub fn fits(&self, levels: usize) -> bool {
        self.frames - 1 <= LONGEST_MOTION && levels <= MOST_LEVELS
    }

    fn args(&self) -> Result<[Arg; 5]> {
        Ok([
            int(self.planes)?,
            int(self.frames)?,
            int(self.size.0)?,
            int(self.size.1)?,
            flag(self.absolute),
        ])
    }
}

/// A grid whose blocks each leave partial sums.
fn summing(count: usize) -> Result<Shape> {
    let mut shape = Shape::spread(word(count)?);
    shape.grid[0] = shape.grid[0].min(PARTIAL_BLOCKS);
    shape.shared = SUM_SHARED;
    Ok(shape)
}

const ONE_BLOCK: Shape = Shape {
    grid: [1, 1, 1],
    threads: THREADS,
    shared: SUM_SHARED,
};

/// Inputs the estimate and the clip; result the mean of each band, `[levels + 1]`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn global_forward(dtype: DType, clip: &ClipSize, levels: usize) -> Result<Plan> {
    let source = Source::of("spectral_global", dtype)?;
    let shape = summing(clip.planes * clip.positions())?;
    let blocks = shape.grid[0] as usize;
    let mut plan = Plan::default();
    let means = plan.buffer(dtype, levels + 1);
    let partial = plan.buffer(DType::F64, blocks * (levels + 1));
    let positions = Arg::U64(clip.positions() as u64);
    let (planes, frames, levels) = (int(clip.planes)?, int(clip.frames)?, int(levels)?);
    let sums = vec![
        Arg::Input(1),
        Arg::Input(0),
        partial,
        planes,
        frames,
        positions,
        levels,
        flag(clip.absolute),
    ];
    plan.launch(source, "global_sums", shape, sums);
    let args = vec![
        partial,
        means,
        int(blocks)?,
        planes,
        frames,
        positions,
        levels,
    ];
    plan.launch(source, "global_means", ONE_BLOCK, args);
    Ok(plan)
}

/// Inputs the estimate, the clip and the gradient of the means; result the gradient of the estimate.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn global_backward(dtype: DType, clip: &ClipSize, levels: usize) -> Result<Plan> {
    let mut plan = Plan::default();
    let slope = plan.buffer(dtype, clip.numbers());
    let args = vec![
        Arg::Input(1),
        Arg::Input(0),
        Arg::Input(2),
        slope,
        int(clip.planes)?,
        int(clip.frames)?,
        Arg::U64(clip.positions() as u64),
        int(levels)?,
        flag(clip.absolute),
    ];
    let shape = Shape::spread(word(clip.planes * clip.positions())?);
    plan.launch(
        Source::of("spectral_global", dtype)?,
        "global_gradient",
        shape,
        args,
    );
    Ok(plan)
}

/// How the local terms are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalPlanSize {
    /// The clips.
    pub clip: ClipSize,
    /// What amplitudes are multiplied with.
    pub amplitude_scale: f64,
    /// Whether phases are compared on the circle.
    pub wrap: bool,
}

impl LocalPlanSize {
    fn half(&self) -> usize {
        self.clip.size.1 / 2 + 1
    }

    fn bins(&self) -> usize {
        self.clip.pictures() * self.clip.size.0 * self.half()
    }
}

/// Inputs the estimate, the clip, the tables `cos, sin` of `2 π i / w` and of `2 π i / h`, the folded weight and the mask of
/// imaginary parts `[w / 2 + 1, h]`, all but the clips f64; results the two terms `[2]` and the slopes for the backward pass.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn local_forward(dtype: DType, local: &LocalPlanSize) -> Result<Plan> {
    let source = Source::of("spectral_local", dtype)?;
    let bins = local.bins();
    let shape = summing(bins)?;
    let blocks = shape.grid[0] as usize;
    let mut plan = Plan::default();
    let values = plan.buffer(dtype, 2);
    let slopes = plan.buffer(DType::F64, 4 * bins);
    let lines = plan.buffer(DType::F64, 4 * bins);
    let partial = plan.buffer(DType::F64, 2 * blocks);
    let [estimate, reference, rows, columns, weight, mask] = [0, 1, 2, 3, 4, 5].map(Arg::Input);
    let clip = local.clip.args()?;
    let with = |args: &[Arg]| [args, &clip].concat();
    plan.launch(
        source,
        "local_rows",
        Shape::spread(word(2 * bins)?),
        with(&[reference, estimate, rows, lines]),
    );
    plan.launch(
        source,
        "local_compare",
        shape,
        with(&[
            lines,
            columns,
            weight,
            mask,
            partial,
            slopes,
            flag(local.wrap),
        ]),
    );
    let scale = Arg::F64(local.amplitude_scale);
    plan.launch(
        source,
        "local_values",
        ONE_BLOCK,
        with(&[partial, values, int(blocks)?, scale]),
    );
    Ok(plan)
}

/// Inputs the estimate, the slopes of the forward pass, the gradient of the terms and both tables; result the gradient of the
/// estimate.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn local_backward(dtype: DType, local: &LocalPlanSize) -> Result<Plan> {
    let source = Source::of("spectral_local", dtype)?;
    let pixels = local.clip.pictures() * local.clip.positions();
    let mut plan = Plan::default();
    let slope = plan.buffer(dtype, local.clip.numbers());
    let lines = plan.buffer(DType::F64, 2 * local.bins());
    let by_motion = plan.buffer(DType::F64, pixels);
    let [estimate, slopes, by_values, rows, columns] = [0, 1, 2, 3, 4].map(Arg::Input);
    let clip = local.clip.args()?;
    let with = |args: &[Arg]| [args, &clip].concat();
    let scale = Arg::F64(local.amplitude_scale);
    plan.launch(
        source,
        "local_columns_back",
        Shape::spread(word(local.bins())?),
        with(&[slopes, by_values, columns, lines, scale]),
    );
    plan.launch(
        source,
        "local_rows_back",
        Shape::spread(word(pixels)?),
        with(&[lines, rows, by_motion]),
    );
    plan.launch(
        source,
        "local_pull_back",
        Shape::spread(word(local.clip.numbers())?),
        with(&[estimate, by_motion, slope]),
    );
    Ok(plan)
}

/// Clips `[clips, channels, frames, positions]` whose motions are compared by direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CosineAlong {
    /// Clips of the batch.
    pub clips: usize,
    /// Channels of a clip.
    pub channels: usize,
    /// Frames, at least 2.
    pub frames: usize,
    /// Places of a frame.
    pub positions: usize,
    /// Absolute differences of frames instead of signed ones.
    pub absolute: bool,
    /// A vector for each frame, over its channels and places; else one for each place and channel, over the frames.
    pub pixels: bool,
}

impl CosineAlong {
    fn vectors(&self) -> usize {
        if self.pixels {
            self.clips * (self.frames - 1)
        } else {
            self.clips * self.channels * self.positions
        }
    }

    fn with(&self, args: &[Arg]) -> Result<Vec<Arg>> {
        let sizes = [
            int(self.clips)?,
            int(self.channels)?,
            int(self.frames)?,
            flag(self.absolute),
            flag(self.pixels),
            Arg::U64(self.positions as u64),
        ];
        Ok([args, &sizes].concat())
    }
}

/// Inputs the estimate and the target; results the loss `[1]` and the vectors' sums for the backward pass.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn cosine_forward(dtype: DType, cosine: &CosineAlong) -> Result<Plan> {
    let source = Source::of("spectral_cosine", dtype)?;
    let vectors = word(cosine.vectors())?;
    let mut plan = Plan::default();
    let value = plan.buffer(dtype, 1);
    let sums = plan.buffer(DType::F64, 3 * cosine.vectors());
    let (kernel, shape) = if cosine.pixels {
        let blocks = Shape {
            grid: [vectors, 1, 1],
            ..ONE_BLOCK
        };
        ("cosine_sums_pixels", blocks)
    } else {
        ("cosine_sums_frames", Shape::spread(vectors))
    };
    let args = cosine.with(&[Arg::Input(0), Arg::Input(1), sums])?;
    plan.launch(source, kernel, shape, args);
    plan.launch(
        source,
        "cosine_value",
        ONE_BLOCK,
        cosine.with(&[sums, value])?,
    );
    Ok(plan)
}

/// Inputs the estimate, the target, the sums of the forward pass and the gradient of the loss; result the estimate's gradient.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn cosine_backward(dtype: DType, cosine: &CosineAlong) -> Result<Plan> {
    let numbers = cosine.clips * cosine.channels * cosine.frames * cosine.positions;
    let mut plan = Plan::default();
    let slope = plan.buffer(dtype, numbers);
    let [estimate, target, sums, by_value] = [0, 1, 2, 3].map(Arg::Input);
    let args = cosine.with(&[estimate, target, sums, by_value, slope])?;
    let shape = Shape::spread(word(numbers)?);
    plan.launch(
        Source::of("spectral_cosine", dtype)?,
        "cosine_gradient",
        shape,
        args,
    );
    Ok(plan)
}
