//! Plans of attention: long sequences in tiles, short ones a warp each.

use candle_core::{DType, Result};

use super::{Arg, Plan, Shape, Source, flag, int, side, wide, word};

/// An attention of `q [n, queries, heads * width]` over `k` and `v` `[n, keys, heads * width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionPlan {
    /// Sequences.
    pub n: usize,
    /// Heads side by side in the last axis.
    pub heads: usize,
    /// Tokens that ask.
    pub queries: usize,
    /// Tokens that answer.
    pub keys: usize,
    /// Width of a head, at most [`AttentionPlan::WIDEST`].
    pub width: usize,
    /// Whether a query sees keys up to its own place only.
    pub causal: bool,
}

/// Most tokens of a sequence that one warp takes.
const SHORT: usize = 64;
/// Rows and warps of a block of the long kernels.
const ROWS: usize = 64;
const WARPS: usize = 4;
/// Shared memory that every block may have without being asked, in bytes.
const USUAL_SHARED: usize = 48 << 10;

impl AttentionPlan {
    /// The widest head of the kernels.
    pub const WIDEST: usize = 160;

    /// Whether the kernels take it.
    #[must_use]
    pub fn fits(&self) -> bool {
        (1..=Self::WIDEST).contains(&self.width) && self.queries > 0 && self.keys > 0
    }

    /// The number of tokens that a kernel for short sequences is compiled for; none for long ones.
    fn short(&self) -> Option<usize> {
        let tokens = self.queries.max(self.keys);
        (tokens <= SHORT).then(|| tokens.next_power_of_two().max(16))
    }

    fn padded(&self) -> usize {
        self.width.next_multiple_of(16)
    }

    fn source(&self, dtype: DType) -> Result<Source> {
        let tokens = self.short();
        let file = if tokens.is_some() {
            "attention_short"
        } else {
            "attention"
        };
        Ok(Source {
            head: Some(self.padded()),
            tokens,
            ..Source::of(file, dtype)?
        })
    }

    fn sizes(&self) -> Result<Vec<Arg>> {
        Ok(vec![
            int(self.heads)?,
            int(self.queries)?,
            int(self.keys)?,
            int(self.width)?,
            flag(self.causal),
            Arg::F64(1.0 / (self.width as f64).sqrt()),
        ])
    }

    /// Blocks of 64 `rows` of every head.
    fn tiles(&self, rows: usize, shared: usize) -> Result<Shape> {
        Ok(Shape {
            grid: [word(rows.div_ceil(ROWS))?, side(self.heads)?, side(self.n)?],
            threads: 32 * WARPS as u32,
            shared: word(shared)?,
        })
    }

    /// As many warps to a block as usual shared memory holds, four at most.
    fn warps(&self, each: usize) -> Result<Shape> {
        let warps = (USUAL_SHARED / each).clamp(1, WARPS);
        let problems = self.n * self.heads;
        Ok(Shape {
            grid: [word(problems.div_ceil(warps))?, 1, 1],
            threads: 32 * word(warps)?,
            shared: word(warps * each)?,
        })
    }

    fn query_numbers(&self) -> usize {
        self.n * self.queries * self.heads * self.width
    }

    fn key_numbers(&self) -> usize {
        self.n * self.keys * self.heads * self.width
    }

    fn problems(&self) -> Result<Arg> {
        Ok(Arg::U32(word(self.n * self.heads)?))
    }
}

/// Numbers between rows of a tile of `width` numbers.
fn pitch(width: usize, size: usize) -> usize {
    width + 16 / size
}

/// Inputs `q`, `k`, `v`; results `y` like `q`, and for long sequences the logarithms of the rows' sums `[n, heads, queries]`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn attention_forward(dtype: DType, attention: &AttentionPlan) -> Result<Plan> {
    let source = attention.source(dtype)?;
    let size = dtype.size_in_bytes();
    let row = pitch(attention.padded(), size);
    let mut plan = Plan::default();
    let y = plan.buffer(dtype, attention.query_numbers());
    let mut args = vec![Arg::Input(0), Arg::Input(1), Arg::Input(2), y];
    if let Some(tokens) = attention.short() {
        args.extend(attention.sizes()?);
        args.push(attention.problems()?);
        let each = ((16 + 2 * tokens) * row + 16 * pitch(tokens, size)) * size;
        let shape = attention.warps(each)?;
        plan.launch(source, "attention_short_forward", shape, args);
        return Ok(plan);
    }
    let rows = attention.n * attention.heads * attention.queries;
    args.push(plan.buffer(wide(dtype), rows));
    args.extend(attention.sizes()?);
    let held = if attention.padded() * size <= 128 {
        64
    } else {
        32
    };
    let shared = ((ROWS + 2 * held) * row + ROWS * pitch(held, size)) * size;
    let shape = attention.tiles(attention.queries, shared)?;
    plan.launch(source, "attention_forward", shape, args);
    Ok(plan)
}

/// Inputs `q`, `k`, `v`, the gradient of `y`, and for long sequences `y` and the forward pass's logarithms; results the
/// gradients of `q`, `k` and `v`. For long sequences those of `k` and `v` are left unwritten unless `keys` is set, that of
/// `q` unless `queries` is.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn attention_backward(
    dtype: DType,
    attention: &AttentionPlan,
    (queries, keys): (bool, bool),
) -> Result<Plan> {
    let source = attention.source(dtype)?;
    let size = dtype.size_in_bytes();
    let wide_type = wide(dtype);
    let row = pitch(attention.padded(), size);
    let mut plan = Plan::default();
    let dq = plan.buffer(dtype, attention.query_numbers());
    let dk = plan.buffer(dtype, attention.key_numbers());
    let dv = plan.buffer(dtype, attention.key_numbers());
    let operands = [0, 1, 2, 3].map(Arg::Input);
    if let Some(tokens) = attention.short() {
        let mut args = [operands.as_slice(), &[dq, dk, dv]].concat();
        args.extend(attention.sizes()?);
        args.push(attention.problems()?);
        let numbers = 4 * tokens * row + 16 * pitch(tokens, size);
        let each = numbers * size + 2 * tokens * wide_type.size_in_bytes();
        let shape = attention.warps(each.next_multiple_of(16))?;
        plan.launch(source, "attention_short_backward", shape, args);
        return Ok(plan);
    }
    let rows = attention.n * attention.heads * attention.queries;
    let products = plan.buffer(wide_type, rows);
    let plain = Source {
        head: None,
        tokens: None,
        ..source
    };
    let count = word(rows)?;
    plan.launch(
        // The same file, so that nothing more is compiled.
        source,
        "attention_products",
        Shape::warps(count),
        vec![
            Arg::Input(4),
            Arg::Input(3),
            products,
            int(attention.heads)?,
            int(attention.queries)?,
            int(attention.width)?,
            Arg::U32(count),
        ],
    );
    if let Some(launch) = plan.launches.last_mut() {
        launch.kernel = plain.kernel("attention_products");
    }
    let statistics = [Arg::Input(5), products];
    if queries {
        let mut args = [operands.as_slice(), &statistics, &[dq]].concat();
        args.extend(attention.sizes()?);
        let held = 32;
        let shared = ((2 * ROWS + 2 * held) * row + ROWS * pitch(held, size)) * size;
        let shape = attention.tiles(attention.queries, shared)?;
        plan.launch(source, "attention_query_gradient", shape, args);
    }
    if keys {
        let mut args = [operands.as_slice(), &statistics, &[dk, dv]].concat();
        args.extend(attention.sizes()?);
        let held = if attention.padded() > 128 { 16 } else { 32 };
        let numbers = (2 * ROWS + 2 * held) * row + ROWS * pitch(held, size);
        let shared = numbers * size + 2 * held * wide_type.size_in_bytes();
        let shape = attention.tiles(attention.keys, shared)?;
        plan.launch(source, "attention_key_gradient", shape, args);
    }
    Ok(plan)
}
