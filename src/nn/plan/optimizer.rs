//! Plans of an update of trained weights that asks the device nothing.

use candle_core::{DType, Result};

use super::{Arg, Plan, Shape, Source, THREADS, int, word};

/// Pieces in which the squares of a gradient are summed.
const PIECES: u32 = 32;

/// Inputs a gradient of `count` numbers and `squares [tensors, 32]` (f64), whose row `slot` is filled.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn gradient_squares(slot: usize, count: usize) -> Result<Plan> {
    let mut plan = Plan::default();
    let shape = Shape {
        grid: [PIECES, 1, 1],
        threads: THREADS,
        shared: THREADS / 32 * 8,
    };
    let args = vec![
        Arg::Input(0),
        Arg::Input(1),
        int(slot)?,
        Arg::U64(count as u64),
    ];
    plan.launch(Source::plain("optimizer"), "gradient_squares", shape, args);
    Ok(plan)
}

/// Inputs `squares [tensors, 32]` and `losses [losses]` (both f64); results the squares of each gradient `[tensors]` and the
/// factor `[1]` that brings their norm to `max_norm` where it is larger (0 for no clipping), which is NaN where a square or a
/// loss is not finite.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn update_scale(tensors: usize, losses: usize, max_norm: f64) -> Result<Plan> {
    let mut plan = Plan::default();
    let totals = plan.buffer(DType::F64, tensors);
    let scale = plan.buffer(DType::F64, 1);
    let shape = Shape {
        grid: [1, 1, 1],
        threads: THREADS,
        shared: 0,
    };
    let args = vec![
        Arg::Input(0),
        Arg::Input(1),
        totals,
        scale,
        int(tensors)?,
        int(PIECES as usize)?,
        int(losses)?,
        Arg::F64(max_norm),
    ];
    plan.launch(Source::plain("optimizer"), "update_scale", shape, args);
    Ok(plan)
}

/// The constants of one update of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWPlan {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// What the weight is multiplied with before the step.
    pub decay: f64,
    /// Learning rate divided by the first moment's correction.
    pub step_size: f64,
    /// Root of the second moment's correction.
    pub root_correction: f64,
}

/// Inputs a weight, its gradient, its moments (f32, `count` numbers each) and the factor of [`update_scale`]; weight and
/// moments are changed, unless the factor is NaN.
///
/// # Errors
/// When a kernel cannot hold the sizes.
pub fn adamw(constants: AdamWPlan, count: usize) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut args: Vec<Arg> = (0..5).map(Arg::Input).collect();
    let AdamWPlan {
        beta1,
        beta2,
        eps,
        decay,
        step_size,
        root_correction,
    } = constants;
    args.extend([beta1, beta2, eps, decay, step_size, root_correction].map(Arg::F64));
    args.push(Arg::U64(count as u64));
    let shape = Shape::spread(word(count)?);
    plan.launch(Source::plain("optimizer"), "adamw", shape, args);
    Ok(plan)
}
