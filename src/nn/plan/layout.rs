//! Plans that move numbers: axes that change places, and the matrix that a convolution reads.

use candle_core::{DType, Result};

use super::convolution::Convolution;
use super::{Arg, Plan, Shape, Source, flag, int, pack, side, word};

/// Input `[batch, outer, inner, width]`; result `[batch, inner, outer, width]`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn swap_axes(
    dtype: DType,
    (batch, outer, inner): (usize, usize, usize),
    width: usize,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let count = batch * outer * inner * width;
    let y = plan.buffer(dtype, count);
    let (packed, size) = pack(dtype, width);
    let runs = word(count / size)?;
    let args = vec![
        Arg::Input(0),
        y,
        Arg::U32(word(outer)?),
        Arg::U32(word(inner)?),
        flag(packed),
        Arg::U32(word(width / size)?),
        Arg::U32(runs),
    ];
    let source = Source::of("layout", dtype)?;
    plan.launch(source, "swap_axes", Shape::spread(runs), args);
    Ok(plan)
}

/// Sides of the tiles of [`transpose`], the kernel's.
const SIDE: usize = 64;
const PITCH: usize = SIDE + 2;

/// Input `[batch, rows, columns]`, both even; result `[batch, columns, rows]`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn transpose(dtype: DType, batch: usize, (rows, columns): (usize, usize)) -> Result<Plan> {
    if !rows.is_multiple_of(2) || !columns.is_multiple_of(2) {
        candle_core::bail!("a matrix of {rows} by {columns} does not move by pairs");
    }
    let mut plan = Plan::default();
    let y = plan.buffer(dtype, batch * rows * columns);
    let shape = Shape {
        grid: [
            word(columns.div_ceil(SIDE))?,
            side(rows.div_ceil(SIDE))?,
            side(batch)?,
        ],
        threads: super::THREADS,
        shared: word(SIDE * PITCH * dtype.size_in_bytes())?,
    };
    let args = vec![
        Arg::Input(0),
        y,
        Arg::U32(word(rows)?),
        Arg::U32(word(columns)?),
    ];
    plan.launch(Source::of("layout", dtype)?, "transpose", shape, args);
    Ok(plan)
}

/// Input: what the convolution reads; result `[count, taps, depth]`: what the places `first..first + count` of what it writes
/// are made of, zeros where a place of the kernel lies outside.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn unfold(
    dtype: DType,
    convolution: &Convolution,
    (first, count): (usize, usize),
) -> Result<Plan> {
    let taps = convolution.kernel.0 * convolution.kernel.1;
    let mut plan = Plan::default();
    let matrix = plan.buffer(dtype, count * taps * convolution.depth);
    let (packed, _) = pack(dtype, convolution.depth);
    let mut args = vec![Arg::Input(0), matrix];
    for size in convolution.sizes() {
        args.push(int(size)?);
    }
    let rows = word(count)?;
    args.extend([flag(packed), Arg::U64(first as u64), Arg::U32(rows)]);
    let kernel = if convolution.gradient {
        "unfold_gradient"
    } else {
        "unfold"
    };
    plan.launch(
        Source::of("layout", dtype)?,
        kernel,
        Shape::warps(rows),
        args,
    );
    Ok(plan)
}
