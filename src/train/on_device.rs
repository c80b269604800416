//! An update of trained weights on an NVIDIA GPU that waits for nothing: norms, clipping and AdamW follow the backward pass, and
//! where a number is not finite the kernels leave everything as it was. The numbers are read once, afterwards.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};

use super::optim::AdamW;
use super::part::Rate;
use crate::nn::{cuda, plan};

/// Pieces in which squares are summed, as [`plan::gradient_squares`] has them.
const PIECES: usize = 32;

/// What an update left on the device.
pub(super) struct Pending {
    names: Vec<String>,
    /// The losses that were given, then the squares of the gradients, f64.
    numbers: Tensor,
    losses: usize,
}

/// The numbers of an update.
pub(super) struct Numbers {
    /// The losses that were given.
    pub losses: Vec<f64>,
    /// Norm of each gradient before clipping.
    pub norms: BTreeMap<String, f64>,
}

impl Pending {
    /// Waits for the device and reads them, all at once.
    pub(super) fn read(self) -> Result<Numbers> {
        let mut losses = self.numbers.to_vec1::<f64>()?;
        let squares = losses.split_off(self.losses);
        let norms = squares.into_iter().map(f64::sqrt);
        Ok(Numbers {
            losses,
            norms: self.names.into_iter().zip(norms).collect(),
        })
    }
}

/// Whether these variables can be updated so: all f32 on a GPU with our kernels.
pub(super) fn fits(vars: &BTreeMap<String, Var>) -> bool {
    vars.values().all(|var| {
        let whole = var.is_contiguous() && var.layout().start_offset() == 0;
        var.dtype() == DType::F32 && whole && cuda::is_ready(var)
    })
}

/// One update of every variable that has a gradient, or none where a gradient or one of the `losses` (f64, one axis) is not
/// finite. Nothing is done where the optimiser has no moments yet or a gradient is not f32.
pub(super) fn update(
    optimizer: &mut AdamW,
    vars: &BTreeMap<String, Var>,
    grads: &BTreeMap<String, Tensor>,
    rate: Rate,
    losses: &Tensor,
) -> Result<Option<Pending>> {
    let mut together = Vec::with_capacity(grads.len());
    for (name, grad) in grads {
        let (Some(var), Some([first, second])) = (vars.get(name), optimizer.moments(name)) else {
            return Ok(None);
        };
        if [grad, first, second]
            .iter()
            .any(|x| x.dtype() != DType::F32 || x.shape() != var.shape())
        {
            return Ok(None);
        }
        let operands = [
            var.as_tensor().clone(),
            grad.contiguous()?,
            first.clone(),
            second.clone(),
        ];
        together.push((name.clone(), operands));
    }
    let device = losses.device();
    let squares = Tensor::zeros(together.len() * PIECES, DType::F64, device)?;
    for (slot, (_, [_, grad, ..])) in together.iter().enumerate() {
        cuda::run(
            &plan::gradient_squares(slot, grad.elem_count())?,
            &[grad, &squares],
        )?;
    }
    let count = losses.elem_count();
    let plan = plan::update_scale(together.len(), count, rate.clip_norm)?;
    let results = cuda::run(&plan, &[&squares, losses])?;
    let [totals, scale] = &results[..] else {
        candle_core::bail!("an update has {} results instead of 2", results.len());
    };
    let constants = optimizer.begin_update(rate.learning_rate);
    for (_, [var, grad, first, second]) in &together {
        let plan = plan::adamw(constants, grad.elem_count())?;
        cuda::run(&plan, &[var, grad, first, second, scale])?;
    }
    Ok(Some(Pending {
        names: together.into_iter().map(|(name, _)| name).collect(),
        numbers: Tensor::cat(&[losses, totals], 0)?,
        losses: count,
    }))
}
