//! AdamW as PyTorch computes it, and gradient clipping. State is kept by name, so that nothing depends on an order.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};

use crate::nn::plan::AdamWPlan;

/// The constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, outside of it.
    pub eps: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
        }
    }
}

#[derive(Clone, Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019), in the form of `torch.optim.AdamW`: decay, then moments,
/// then a step of `lr / (1 - β1^n)` along `m / (sqrt(v) / sqrt(1 - β2^n) + eps)`. Everything in f32.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    updates: u32,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimiser that has made no update.
    #[must_use]
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            updates: 0,
            moments: BTreeMap::new(),
        }
    }

    /// Updates made so far.
    #[must_use]
    pub fn updates(&self) -> u32 {
        self.updates
    }

    /// Counts an update and gives its constants.
    pub(super) fn begin_update(&mut self, learning_rate: f64) -> AdamWPlan {
        let AdamWConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.config;
        self.updates += 1;
        let updates = f64::from(self.updates);
        AdamWPlan {
            beta1,
            beta2,
            eps,
            decay: 1.0 - learning_rate * weight_decay,
            step_size: learning_rate / (1.0 - beta1.powf(updates)),
            root_correction: (1.0 - beta2.powf(updates)).sqrt(),
        }
    }

    /// Takes the count of an update back that moved nothing.
    pub(super) fn take_back(&mut self) {
        self.updates = self.updates.saturating_sub(1);
    }

    /// Both moments of a variable, from its first update on.
    pub(super) fn moments(&self, name: &str) -> Option<[&Tensor; 2]> {
        let Moments { first, second } = self.moments.get(name)?;
        Some([first, second])
    }

    /// One update of every variable that has a gradient.
    ///
    /// Gradients are multiplied by `scale` first (the clipping coefficient). The memory that stays is asked for before
    /// anything moves: where a device is full, nothing has.
    ///
    /// # Errors
    /// When a gradient's shape is not its variable's.
    pub fn update(
        &mut self,
        vars: &BTreeMap<String, Var>,
        grads: &BTreeMap<String, Tensor>,
        learning_rate: f64,
        scale: f64,
    ) -> Result<()> {
        for (name, grad) in grads {
            if vars.contains_key(name) && !self.moments.contains_key(name) {
                let (first, second) = (grad.zeros_like()?, grad.zeros_like()?);
                self.moments.insert(name.clone(), Moments { first, second });
            }
        }
        let AdamWPlan {
            beta1,
            beta2,
            eps,
            decay,
            step_size,
            root_correction,
        } = self.begin_update(learning_rate);
        for (name, var) in vars {
            let (Some(grad), Some(old)) = (grads.get(name), self.moments.get(name)) else {
                continue;
            };
            let grad = grad.affine(scale, 0.0)?;
            let first = old.first.affine(beta1, 0.0)?;
            let first = first.add(&grad.affine(1.0 - beta1, 0.0)?)?;
            let second = old.second.affine(beta2, 0.0)?;
            let second = second.add(&grad.sqr()?.affine(1.0 - beta2, 0.0)?)?;
            let denominator = second.sqrt()?.affine(1.0 / root_correction, eps)?;
            let decayed = var.as_detached_tensor().affine(decay, 0.0)?;
            var.set(&decayed.sub(&first.div(&denominator)?.affine(step_size, 0.0)?)?)?;
            self.moments.insert(name.clone(), Moments { first, second });
        }
        Ok(())
    }

    /// The state by name: `{name}.exp_avg` and `{name}.exp_avg_sq`.
    #[must_use]
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            state.insert(format!("{name}.exp_avg"), moments.first.clone());
            state.insert(format!("{name}.exp_avg_sq"), moments.second.clone());
        }
        state
    }

    /// Takes over a state that [`Self::state`] gave.
    pub fn restore(&mut self, updates: u32, state: &BTreeMap<String, Tensor>) {
        self.updates = updates;
        self.moments = state
            .iter()
            .filter_map(|(key, first)| {
                let name = key.strip_suffix(".exp_avg")?;
                let second = state.get(&format!("{name}.exp_avg_sq"))?;
                Some((
                    name.to_owned(),
                    Moments {
                        first: first.clone(),
                        second: second.clone(),
                    },
                ))
            })
            .collect();
    }
}

/// The factor that `torch.nn.utils.clip_grad_norm_` multiplies gradients with: `max_norm / (norm + 1e-6)`, at most 1.
/// A `max_norm` of 0 switches clipping off.
#[must_use]
pub fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 {
        (max_norm / (norm + 1e-6)).min(1.0)
    } else {
        1.0
    }
}
