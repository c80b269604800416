//! Plans of activation functions, biases, resizing and dropout.

use candle_core::{DType, Result};

use super::{Arg, Plan, Shape, Source, flag, pack, word};

/// An activation function of one number; the values are the kernels'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ActivationKind {
    /// `x sigmoid(x)`
    Silu = 0,
    /// `x Φ(x)`
    Gelu = 1,
    /// `x sigmoid(1.702 x)`
    QuickGelu = 2,
}

/// Input `x`; result `f(x)`, each `count` numbers.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn activation_forward(dtype: DType, kind: ActivationKind, count: usize) -> Result<Plan> {
    let mut plan = Plan::default();
    let y = plan.buffer(dtype, count);
    activation(
        plan,
        "activation_forward",
        (dtype, kind, count),
        vec![Arg::Input(0), y],
    )
}

/// Inputs `x` and the gradient of `f(x)`; result the gradient of `x`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn activation_backward(dtype: DType, kind: ActivationKind, count: usize) -> Result<Plan> {
    let mut plan = Plan::default();
    let dx = plan.buffer(dtype, count);
    let args = vec![Arg::Input(0), Arg::Input(1), dx];
    activation(plan, "activation_backward", (dtype, kind, count), args)
}

fn activation(
    mut plan: Plan,
    kernel: &str,
    (dtype, kind, count): (DType, ActivationKind, usize),
    mut args: Vec<Arg>,
) -> Result<Plan> {
    let (packed, size) = pack(dtype, count);
    let runs = word(count / size)?;
    args.extend([Arg::I32(kind as i32), flag(packed), Arg::U32(runs)]);
    plan.launch(
        Source::of("elementwise", dtype)?,
        kernel,
        Shape::spread(runs),
        args,
    );
    Ok(plan)
}

/// Input `[rows, 2 width]` as `(u, g)`; result `u gelu(g)`, `[rows, width]`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn geglu_forward(dtype: DType, rows: usize, width: usize) -> Result<Plan> {
    let mut plan = Plan::default();
    let y = plan.buffer(dtype, rows * width);
    by_width(
        plan,
        "geglu_forward",
        (dtype, rows, width),
        vec![Arg::Input(0), y],
    )
}

/// Inputs `[rows, 2 width]` and the gradient `[rows, width]`; result `[rows, 2 width]`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn geglu_backward(dtype: DType, rows: usize, width: usize) -> Result<Plan> {
    let mut plan = Plan::default();
    let dx = plan.buffer(dtype, rows * 2 * width);
    let args = vec![Arg::Input(0), Arg::Input(1), dx];
    by_width(plan, "geglu_backward", (dtype, rows, width), args)
}

/// What is added to rows of numbers besides each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// A row in the wide type, to all rows.
    pub bias: bool,
    /// As many rows as this, each to an equal share of consecutive rows.
    pub shift: Option<usize>,
    /// Numbers like those that are changed.
    pub skip: bool,
}

/// Inputs `y [rows, width]`, which is changed, then what is added to it, in the order of [`Added`]: `bias [width]`,
/// `shift [groups, width]`, `skip [rows, width]`.
///
/// # Errors
/// When a kernel cannot hold the sizes, or the rows are not a multiple of the groups.
pub fn add_to(dtype: DType, (rows, width): (usize, usize), added: Added) -> Result<Plan> {
    let groups = added.shift.unwrap_or(1);
    if groups == 0 || !rows.is_multiple_of(groups) {
        candle_core::bail!("{rows} rows are not a multiple of {groups}");
    }
    let mut args = vec![Arg::Input(0)];
    let mut next = 1;
    let mut has = 0;
    for (bit, there) in [added.bias, added.shift.is_some(), added.skip]
        .into_iter()
        .enumerate()
    {
        // The kernel does not look at what is not there.
        args.push(Arg::Input(if there { next } else { 0 }));
        next += usize::from(there);
        has |= i32::from(there) << bit;
    }
    let (packed, size) = pack(dtype, width);
    let runs = word(rows * width / size)?;
    args.extend([
        Arg::I32(has),
        flag(packed),
        Arg::U32(word(width / size)?),
        Arg::U32(word(rows / groups * width / size)?),
        Arg::U32(runs),
    ]);
    let mut plan = Plan::default();
    let source = Source::of("elementwise", dtype)?;
    plan.launch(source, "add_to", Shape::spread(runs), args);
    Ok(plan)
}

fn by_width(
    mut plan: Plan,
    kernel: &str,
    (dtype, rows, width): (DType, usize, usize),
    mut args: Vec<Arg>,
) -> Result<Plan> {
    let (packed, size) = pack(dtype, width);
    let runs = word(rows * width / size)?;
    args.extend([flag(packed), Arg::U32(word(width / size)?), Arg::U32(runs)]);
    plan.launch(
        Source::of("elementwise", dtype)?,
        kernel,
        Shape::spread(runs),
        args,
    );
    Ok(plan)
}

/// Images `[images, h, w, channels]` and their other size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resizing {
    /// How many images.
    pub images: usize,
    /// `(h, w)`
    pub from: (usize, usize),
    /// `(h2, w2)`
    pub to: (usize, usize),
    /// Channels.
    pub channels: usize,
}

impl Resizing {
    fn plan(self, kernel: &str, dtype: DType, of: (usize, usize)) -> Result<Plan> {
        let mut plan = Plan::default();
        let count = self.images * of.0 * of.1 * self.channels;
        let out = plan.buffer(dtype, count);
        let (packed, size) = pack(dtype, self.channels);
        let runs = word(count / size)?;
        let mut args = vec![Arg::Input(0), out];
        for side in [self.from.0, self.from.1, self.to.0, self.to.1] {
            args.push(Arg::U32(word(side)?));
        }
        args.extend([
            flag(packed),
            Arg::U32(word(self.channels / size)?),
            Arg::U32(runs),
        ]);
        plan.launch(
            Source::of("resize", dtype)?,
            kernel,
            Shape::spread(runs),
            args,
        );
        Ok(plan)
    }
}

/// Input images of size `from`; result of size `to`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn nearest_forward(dtype: DType, resizing: Resizing) -> Result<Plan> {
    resizing.plan("nearest_forward", dtype, resizing.to)
}

/// Input the gradient of size `to`; result of size `from`.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn nearest_backward(dtype: DType, resizing: Resizing) -> Result<Plan> {
    resizing.plan("nearest_backward", dtype, resizing.from)
}

/// Where in the noise a dropout mask lies, and how much it keeps: see [`crate::nn::NoiseStream`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropping {
    /// Seed of the stream.
    pub seed: u64,
    /// First block of four numbers.
    pub block: u64,
    /// Number of the purpose.
    pub purpose: u32,
    /// Lane of the stream.
    pub lane: u32,
    /// A word of the stream below this keeps its number.
    pub limit: u64,
    /// What a kept number is multiplied with.
    pub scale: f64,
}

/// Input `x`, `count` numbers; result those that are kept, enlarged, and zeros. The gradient is the same of the gradient.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn dropout(dtype: DType, dropping: Dropping, count: usize) -> Result<Plan> {
    let mut plan = Plan::default();
    let y = plan.buffer(dtype, count);
    let args = vec![
        Arg::Input(0),
        y,
        Arg::U64(dropping.seed),
        Arg::U64(dropping.block),
        Arg::U32(dropping.purpose),
        Arg::U32(dropping.lane),
        Arg::U64(dropping.limit),
        Arg::F64(dropping.scale),
        Arg::U64(count as u64),
    ];
    let blocks = word(count.div_ceil(4))?;
    plan.launch(
        Source::of("random", dtype)?,
        "dropout",
        Shape::spread(blocks),
        args,
    );
    Ok(plan)
}
