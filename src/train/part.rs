//! A set of variables that learn together: their optimiser, and what their gradients say.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use super::error::TrainError;
use super::on_device::{self, Pending};
use super::optim::{AdamW, AdamWConfig, clip_coefficient};
use crate::methods::waits_for_another;
use crate::nn::Tape;

/// Variables by state-dict name with the optimiser that moves them.
pub(super) struct Part {
    pub(super) vars: BTreeMap<String, Var>,
    pub(super) optimizer: AdamW,
}

/// How far an update goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) learning_rate: f64,
    /// Norm that the gradients of the part are clipped to, 0 for no clipping.
    pub(super) clip_norm: f64,
    /// What the loss is multiplied with before the backward pass and its gradients are divided by after it.
    pub(super) loss_scale: f64,
}

/// Why an update was refused.
pub(super) enum Refused {
    /// This tensor's gradient is infinite or undefined.
    NotFinite(String),
    /// These tensors get no gradient.
    Dead(Vec<String>),
    Failed(TrainError),
}

/// What came of an update that the device was not asked about.
pub(super) enum Unasked {
    /// Its numbers are still on the device.
    Pending(Pending),
    /// It was made as usual.
    Moved(BTreeMap<String, f64>),
}

impl Part {
    pub(super) fn new(vars: BTreeMap<String, Var>, weight_decay: f64) -> Self {
        let optimizer = AdamW::new(AdamWConfig {
            weight_decay,
            ..AdamWConfig::default()
        });
        Self { vars, optimizer }
    }

    /// Computes the gradients of `loss`, whose pass is on `tape`, and moves the variables. Gives the norm of every gradient
    /// before clipping.
    ///
    /// A refusal leaves the variables as they were.
    pub(super) fn learn(
        &mut self,
        loss: Tensor,
        tape: Tape<'_>,
        rate: Rate,
    ) -> Result<BTreeMap<String, f64>, Refused> {
        let grads = self.backward(&loss, tape, rate)?;
        // What the pass remembered goes before the optimiser asks for memory.
        drop(loss);
        self.move_by(&grads, rate)
    }

    /// Whether [`Self::learn_unasked`] can be tried: from the third update on, when nothing is checked for being dead.
    pub(super) fn can_learn_unasked(&self) -> bool {
        self.optimizer.updates() > 1 && on_device::fits(&self.vars)
    }

    /// Like [`Self::learn`] without waiting for the device: where a gradient or one of `losses` (f64, one axis) is not finite
    /// the variables stay as they were, which the numbers will say; [`AdamW::take_back`] is then due.
    pub(super) fn learn_unasked(
        &mut self,
        loss: &Tensor,
        tape: Tape<'_>,
        rate: Rate,
        losses: &Tensor,
    ) -> Result<Unasked, Refused> {
        let grads = self.backward(loss, tape, rate)?;
        let pending = on_device::update(&mut self.optimizer, &self.vars, &grads, rate, losses)
            .map_err(TrainError::during("updating the weights"))
            .map_err(Refused::Failed)?;
        match pending {
            Some(pending) => Ok(Unasked::Pending(pending)),
            None => Ok(Unasked::Moved(self.move_by(&grads, rate)?)),
        }
    }

    fn backward(
        &self,
        loss: &Tensor,
        tape: Tape<'_>,
        rate: Rate,
    ) -> Result<BTreeMap<String, Tensor>, Refused> {
        self.gradients(loss, tape, rate.loss_scale)
            .map_err(TrainError::during("the backward pass"))
            .map_err(Refused::Failed)
    }

    fn move_by(
        &mut self,
        grads: &BTreeMap<String, Tensor>,
        rate: Rate,
    ) -> Result<BTreeMap<String, f64>, Refused> {
        let norms = norms(grads)?;
        let dead = self.dead(&norms);
        if !dead.is_empty() {
            return Err(Refused::Dead(dead));
        }
        let scale = clip_coefficient(total_norm(&norms), rate.clip_norm);
        self.optimizer
            .update(&self.vars, grads, rate.learning_rate, scale)
            .map_err(TrainError::during("updating the weights"))
            .map_err(Refused::Failed)?;
        Ok(norms)
    }

    fn gradients(
        &self,
        loss: &Tensor,
        tape: Tape<'_>,
        scale: f64,
    ) -> candle_core::Result<BTreeMap<String, Tensor>> {
        if scale == 1.0 {
            return tape.gradients(loss, &self.vars);
        }
        let scaled = tape.gradients(&loss.affine(scale, 0.0)?, &self.vars)?;
        scaled
            .into_iter()
            .map(|(name, grad)| Ok((name, grad.affine(1.0 / scale, 0.0)?)))
            .collect()
    }

    /// Tensors that should have a gradient by now and have none. What stands behind a weight that starts at zero gets its
    /// first one after that has moved.
    fn dead(&self, norms: &BTreeMap<String, f64>) -> Vec<String> {
        let updates = self.optimizer.updates();
        let due = |name: &str| updates == u32::from(waits_for_another(name));
        self.vars
            .keys()
            .filter(|name| due(name) && norms.get(*name).is_none_or(|norm| *norm == 0.0))
            .cloned()
            .collect()
    }
}

/// Norms by tensor, or the first tensor whose gradient is not finite.
fn norms(grads: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, f64>, Refused> {
    let mut norms = BTreeMap::new();
    for (name, grad) in grads {
        let square = square(grad)
            .map_err(TrainError::during("measuring the gradient"))
            .map_err(Refused::Failed)?;
        if !square.is_finite() {
            return Err(Refused::NotFinite(name.clone()));
        }
        norms.insert(name.clone(), square.sqrt());
    }
    Ok(norms)
}

/// Sum of the squares, in f64, which Metal does not have.
fn square(grad: &Tensor) -> candle_core::Result<f64> {
    let grad = match grad.device() {
        Device::Metal(_) => grad.to_device(&Device::Cpu)?,
        _ => grad.clone(),
    };
    grad.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()
}

/// Norm of all gradients together, summed in name order.
pub(super) fn total_norm(norms: &BTreeMap<String, f64>) -> f64 {
    norms.values().map(|norm| norm * norm).sum::<f64>().sqrt()
}
