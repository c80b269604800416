//! Plans of group norm and layer norm. Scale and shift are in the wide type.

use candle_core::{DType, Result};

use super::{Arg, Plan, Shape, Source, THREADS, flag, int, pack, side, wide, word};

/// Inputs `x [rows, width]`, scale and shift `[width]`; result like `x`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn layer_norm_forward(dtype: DType, rows: usize, width: usize, eps: f64) -> Result<Plan> {
    let mut plan = Plan::default();
    let y = plan.buffer(dtype, rows * width);
    let args = vec![Arg::Input(0), Arg::Input(1), Arg::Input(2), y];
    layer_norm(plan, "layer_norm_forward", (dtype, rows, width, eps), args)
}

/// Inputs `x` and the gradient `[rows, width]`, and the scale `[width]`; result the gradient of `x`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn layer_norm_backward(dtype: DType, rows: usize, width: usize, eps: f64) -> Result<Plan> {
    let mut plan = Plan::default();
    let dx = plan.buffer(dtype, rows * width);
    let args = vec![Arg::Input(0), Arg::Input(1), Arg::Input(2), dx];
    layer_norm(plan, "layer_norm_backward", (dtype, rows, width, eps), args)
}

fn layer_norm(
    mut plan: Plan,
    kernel: &str,
    (dtype, rows, width, eps): (DType, usize, usize, f64),
    mut args: Vec<Arg>,
) -> Result<Plan> {
    args.extend([int(rows)?, int(width)?, Arg::F64(eps)]);
    let shape = Shape::warps(word(rows)?);
    plan.launch(Source::of("layer_norm", dtype)?, kernel, shape, args);
    Ok(plan)
}

/// A group norm of `x [images, rows, channels]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormPlan {
    /// How many images; each has statistics of its own.
    pub images: usize,
    /// Rows of an image.
    pub rows: usize,
    /// Channels of a row.
    pub channels: usize,
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Numbers of one piece of an image: read twice, so it should stay in the first-level cache.
const PIECE: usize = 1 << 13;
/// Blocks that keep a GPU busy; few images are cut finer than [`PIECE`], down to [`FEWEST_ROWS`].
const BUSY: usize = 512;
const FEWEST_ROWS: usize = 4;

impl GroupNormPlan {
    /// Rows of a piece, and pieces of an image.
    fn pieces(&self) -> (usize, usize) {
        let by_cache = (PIECE / self.channels.max(1)).max(FEWEST_ROWS);
        let by_blocks = (self.rows * self.images / BUSY).max(FEWEST_ROWS);
        let rows = by_cache.min(by_blocks).min(self.rows.max(1));
        (rows, self.rows.div_ceil(rows))
    }

    fn pieces_shape(&self, shared: usize) -> Result<Shape> {
        let (_, pieces) = self.pieces();
        let rounds = self.channels.div_ceil(THREADS as usize).max(1);
        let share = self.channels.div_ceil(rounds).max(1);
        Ok(Shape {
            grid: [word(pieces)?, side(self.images)?, 1],
            // Whole warps, and every thread the same number of channels.
            threads: word(share.next_multiple_of(32))?,
            shared: word(shared)?,
        })
    }

    /// Shape over all numbers of each image, and the arguments that say how they move.
    fn runs(&self, dtype: DType) -> Result<(Shape, [Arg; 5])> {
        let (packed, size) = pack(dtype, self.channels);
        let runs = word(self.rows * self.channels / size)?;
        let mut shape = Shape::spread(runs);
        shape.grid[1] = side(self.images)?;
        let channels = Arg::U32(word(self.channels)?);
        let args = [
            flag(packed),
            channels,
            int(self.groups)?,
            flag(self.silu),
            Arg::U32(runs),
        ];
        Ok((shape, args))
    }
}

/// Inputs `x`, scale and shift; results like `x`, then the statistics `[images, groups, 2]` for the backward pass.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn group_norm_forward(dtype: DType, norm: &GroupNormPlan) -> Result<Plan> {
    let source = Source::of("group_norm", dtype)?;
    let (piece, pieces) = norm.pieces();
    let wide_type = wide(dtype);
    let size = wide_type.size_in_bytes();
    let groups = norm.images * norm.groups;
    let mut plan = Plan::default();
    let y = plan.buffer(dtype, norm.images * norm.rows * norm.channels);
    let statistics = plan.buffer(wide_type, groups * 2);
    let moments = plan.buffer(wide_type, groups * pieces * 2);
    let [rows, channels, group_count, piece_rows] =
        [norm.rows, norm.channels, norm.groups, piece].map(int);
    let (rows, channels, group_count, piece_rows) = (rows?, channels?, group_count?, piece_rows?);
    plan.launch(
        source,
        "group_norm_moments",
        norm.pieces_shape((norm.channels + norm.groups) * size)?,
        vec![
            Arg::Input(0),
            moments,
            rows,
            channels,
            group_count,
            piece_rows,
        ],
    );
    let wide_group = int(norm.channels / norm.groups)?;
    // A thread takes a few pieces.
    let threads = (pieces.next_multiple_of(32)).min(THREADS as usize);
    plan.launch(
        source,
        "group_norm_statistics",
        Shape {
            grid: [word(groups)?, 1, 1],
            threads: word(threads)?,
            shared: word(threads / 32 * 3 * size)?,
        },
        vec![
            moments,
            statistics,
            group_count,
            int(pieces)?,
            rows,
            wide_group,
            piece_rows,
            Arg::F64(norm.eps),
        ],
    );
    let (shape, how) = norm.runs(dtype)?;
    let mut args = vec![Arg::Input(0), statistics, Arg::Input(1), Arg::Input(2), y];
    args.extend(how);
    plan.launch(source, "group_norm_apply", shape, args);
    Ok(plan)
}

/// Inputs `x`, the gradient, the statistics of the forward pass, scale and shift; result the gradient of `x`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn group_norm_backward(dtype: DType, norm: &GroupNormPlan) -> Result<Plan> {
    let source = Source::of("group_norm", dtype)?;
    let (piece, pieces) = norm.pieces();
    let wide_type = wide(dtype);
    let groups = norm.images * norm.groups;
    let mut plan = Plan::default();
    let dx = plan.buffer(dtype, norm.images * norm.rows * norm.channels);
    let means = plan.buffer(wide_type, groups * 2);
    let sums = plan.buffer(wide_type, groups * pieces * 2);
    let [x, grad, statistics, weight, bias] = [0, 1, 2, 3, 4].map(Arg::Input);
    plan.launch(
        source,
        "group_norm_sums",
        norm.pieces_shape(2 * norm.channels * wide_type.size_in_bytes())?,
        vec![
            x,
            grad,
            statistics,
            weight,
            bias,
            sums,
            int(norm.rows)?,
            int(norm.channels)?,
            int(norm.groups)?,
            int(piece)?,
            flag(norm.silu),
        ],
    );
    let count = norm.rows * norm.channels / norm.groups;
    plan.launch(
        source,
        "group_norm_means",
        Shape::warps(word(groups * 2)?),
        vec![
            sums,
            means,
            int(norm.images)?,
            int(norm.groups)?,
            int(pieces)?,
            Arg::U64(count as u64),
        ],
    );
    let (shape, how) = norm.runs(dtype)?;
    let mut args = vec![x, grad, statistics, means, weight, bias, dx];
    args.extend(how);
    plan.launch(source, "group_norm_gradient", shape, args);
    Ok(plan)
}
