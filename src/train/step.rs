//! The trainer: state in, one step, numbers out. Nothing here knows of threads, files or clocks.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::config::TransferConfig;
use super::error::TrainError;
use super::objective::{Batch, Objective, Terms, losses};
use super::optim::{AdamW, AdamWConfig, clip_coefficient};
use super::state::{file_from_tensors, tensor_from_plain};
use crate::models::UNet3DConditionModel;
use crate::nn::{NoiseStream, Purpose};
use crate::project::{Checkpoint, CheckpointState, LiveSettings, TensorFile};
use crate::schedulers::NoiseSchedule;

/// The numbers of one training step. One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepStats {
    /// Steps done, this one included.
    pub step: u32,
    /// Steps of the whole training.
    pub steps: u32,
    /// Diffusion timestep of this step.
    pub timestep: u32,
    /// The method's own loss.
    pub base: f64,
    /// Wavelet terms, coarse approximation first, then details from the finest.
    pub bands: Vec<f64>,
    /// Weighted sum of the bands, before λg.
    pub global: f64,
    /// Fourier amplitude term, before λl.
    pub amplitude: f64,
    /// Fourier phase term, before λl.
    pub phase: f64,
    /// What was minimised.
    pub total: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
}

/// A model being trained on one clip.
pub struct Trainer {
    config: TransferConfig,
    live: LiveSettings,
    unet: UNet3DConditionModel,
    vars: BTreeMap<String, Var>,
    objective: Objective,
    optimizer: AdamW,
    v0: Tensor,
    text: Tensor,
    timesteps: NoiseStream,
    noise: NoiseStream,
    step: u32,
    grad_norms: BTreeMap<String, f64>,
}

impl Trainer {
    /// A trainer at step 0.
    ///
    /// Shape: `v0` `[1, c, f, h, w]` latents times the VAE's scaling factor; `text` `[1, n, d]`; `vars` are the weights of
    /// `unet` that learn, by state-dict name.
    ///
    /// # Errors
    /// [`TrainError::NothingToTrain`], or when the clip does not fit the settings.
    pub fn new(
        config: &TransferConfig,
        unet: UNet3DConditionModel,
        vars: BTreeMap<String, Var>,
        schedule: NoiseSchedule,
        v0: &Tensor,
        text: &Tensor,
    ) -> Result<Self, TrainError> {
        if vars.is_empty() {
            let method = format!("{:?}", config.method);
            return Err(TrainError::NothingToTrain { method });
        }
        let objective = Objective::new(config, schedule, v0)
            .map_err(TrainError::during("preparing the loss"))?;
        let optimizer = AdamW::new(AdamWConfig {
            weight_decay: config.weight_decay,
            ..AdamWConfig::default()
        });
        Ok(Self {
            live: config.live(),
            unet,
            vars,
            objective,
            optimizer,
            v0: v0.detach(),
            text: text.detach(),
            timesteps: NoiseStream::new(config.seed, Purpose::Timestep),
            noise: NoiseStream::new(config.seed, Purpose::Noise),
            step: 0,
            grad_norms: BTreeMap::new(),
            config: config.clone(),
        })
    }

    /// Steps done.
    #[must_use]
    pub fn step_count(&self) -> u32 {
        self.step
    }

    /// Whether all steps of the settings are done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.step >= self.config.steps
    }

    /// The network, as trained so far.
    #[must_use]
    pub fn unet(&self) -> &UNet3DConditionModel {
        &self.unet
    }

    /// The settings as they stand after live changes.
    #[must_use]
    pub fn live(&self) -> LiveSettings {
        self.live
    }

    /// Gradient norms of the last step by tensor, before clipping.
    #[must_use]
    pub fn grad_norms(&self) -> &BTreeMap<String, f64> {
        &self.grad_norms
    }

    /// Changes the live settings from the next step on.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when a value is out of range; nothing is changed then.
    pub fn set_live(&mut self, live: LiveSettings) -> Result<(), TrainError> {
        TransferConfig {
            ..self.config.clone()
        }
        .with_live(&live)
        .check()?;
        if live.delta.to_bits() != self.live.delta.to_bits() {
            self.objective
                .set_delta(&self.config, live.delta, self.v0.device())
                .map_err(TrainError::during("changing the low-frequency bias"))?;
        }
        self.objective.lambda_g = live.lambda_g;
        self.objective.lambda_l = live.lambda_l;
        self.live = live;
        Ok(())
    }

    /// One step: draw noise and timestep, compute the loss, update the weights.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] names the first bad tensor and leaves the weights as they were;
    /// [`TrainError::Dead`] on the first step when a trainable tensor gets no gradient.
    pub fn step(&mut self) -> Result<StepStats, TrainError> {
        let batch = self.draw().map_err(TrainError::during("drawing noise"))?;
        self.step_on(&batch)
    }

    /// One step on noise and timesteps of the caller's.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_on(&mut self, batch: &Batch) -> Result<StepStats, TrainError> {
        let t = batch.t.first().copied().unwrap_or_default();
        let terms = losses(&self.unet, batch, &self.objective)
            .map_err(TrainError::during("the forward pass"))?;
        let mut stats = self
            .stats(&terms, t)
            .map_err(TrainError::during("reading the loss"))?;
        self.check_finite(&stats)?;
        let grads = self.gradients(&terms.total)?;
        stats.grad_norm = self.measure(&grads, t)?;
        self.optimizer
            .update(
                &self.vars,
                &grads,
                self.live.learning_rate,
                clip_coefficient(stats.grad_norm, self.config.clip_norm),
            )
            .map_err(TrainError::during("updating the weights"))?;
        self.step += 1;
        Ok(stats)
    }

    fn draw(&mut self) -> candle_core::Result<Batch> {
        let levels = u32::try_from(self.objective.schedule().levels()).unwrap_or(u32::MAX);
        let (from, to) = self.config.timestep_range(levels);
        let batch = self.v0.dim(0)?;
        let t = (0..batch)
            .map(|_| from + self.timesteps.below(to - from))
            .collect();
        let eps = self
            .noise
            .normal(self.v0.shape(), DType::F32, self.v0.device())?;
        Ok(Batch {
            v0: self.v0.clone(),
            eps,
            t,
            text: self.text.clone(),
        })
    }

    fn stats(&self, terms: &Terms, timestep: u32) -> candle_core::Result<StepStats> {
        let number =
            |tensor: &Tensor| Ok::<_, candle_core::Error>(f64::from(tensor.to_scalar::<f32>()?));
        Ok(StepStats {
            step: self.step + 1,
            steps: self.config.steps,
            timestep,
            base: number(&terms.base)?,
            bands: terms.bands.iter().map(number).collect::<Result<_, _>>()?,
            global: number(&terms.global)?,
            amplitude: number(&terms.amplitude)?,
            phase: number(&terms.phase)?,
            total: number(&terms.total)?,
            grad_norm: 0.0,
            learning_rate: self.live.learning_rate,
        })
    }

    fn check_finite(&self, stats: &StepStats) -> Result<(), TrainError> {
        let named = [
            ("the host loss", stats.base),
            ("the global term", stats.global),
            ("the amplitude term", stats.amplitude),
            ("the phase term", stats.phase),
            ("the total loss", stats.total),
        ];
        match named.iter().find(|(_, value)| !value.is_finite()) {
            Some((what, _)) => Err(self.not_finite(stats.timestep, (*what).to_owned())),
            None => Ok(()),
        }
    }

    fn not_finite(&self, timestep: u32, what: String) -> TrainError {
        TrainError::NotFinite {
            step: self.step + 1,
            timestep,
            what,
        }
    }

    fn gradients(&self, loss: &Tensor) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let store = loss
            .backward()
            .map_err(TrainError::during("the backward pass"))?;
        let mut grads = BTreeMap::new();
        for (name, var) in &self.vars {
            if let Some(grad) = store.get(var.as_tensor()) {
                grads.insert(name.clone(), grad.detach());
            }
        }
        Ok(grads)
    }

    /// Norms by tensor and their total, summed in name order; refuses what cannot be trained with.
    fn measure(&mut self, grads: &BTreeMap<String, Tensor>, t: u32) -> Result<f64, TrainError> {
        self.grad_norms.clear();
        let mut sum = 0.0;
        for (name, grad) in grads {
            let square = grad
                .to_dtype(DType::F64)
                .and_then(|grad| grad.sqr()?.sum_all()?.to_scalar::<f64>())
                .map_err(TrainError::during("measuring the gradient"))?;
            if !square.is_finite() {
                return Err(self.not_finite(t, format!("the gradient of {name}")));
            }
            self.grad_norms.insert(name.clone(), square.sqrt());
            sum += square;
        }
        if self.step == 0 {
            let dead = |name: &&String| self.grad_norms.get(*name).is_none_or(|norm| *norm == 0.0);
            let names: Vec<_> = self.vars.keys().filter(dead).cloned().collect();
            if !names.is_empty() {
                return Err(TrainError::Dead {
                    names,
                    total: self.vars.len(),
                });
            }
        }
        Ok(sum.sqrt())
    }

    /// The trained weights by state-dict name; `about` is a short JSON text for the file's header.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn weights(&self, about: String) -> Result<TensorFile, TrainError> {
        file_from_tensors(
            self.vars.iter().map(|(name, var)| (name, var.as_tensor())),
            about,
        )
        .map_err(TrainError::during("reading the weights"))
    }

    /// Everything needed to go on later, bit for bit.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        let optimizer = file_from_tensors(&self.optimizer.state(), String::new())
            .map_err(TrainError::during("reading the optimiser"))?;
        Ok(Checkpoint {
            state: CheckpointState {
                step: self.step,
                updates: self.optimizer.updates(),
                timestep_stream: self.timesteps.position(),
                noise_stream: self.noise.position(),
                live: self.live,
            },
            weights: self.weights(String::new())?,
            optimizer,
        })
    }

    /// Goes to where a checkpoint stands.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] when it belongs to another model.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        load_weights(&self.vars, &checkpoint.weights)?;
        let device = self.v0.device().clone();
        let mut state = BTreeMap::new();
        for (name, plain) in &checkpoint.optimizer.tensors {
            let tensor = tensor_from_plain(plain, &device)
                .map_err(TrainError::during("reading the optimiser"))?;
            state.insert(name.clone(), tensor);
        }
        self.optimizer.restore(checkpoint.state.updates, &state);
        self.timesteps.seek(checkpoint.state.timestep_stream);
        self.noise.seek(checkpoint.state.noise_stream);
        self.step = checkpoint.state.step;
        self.set_live(checkpoint.state.live)
    }
}

/// Sets every variable to the tensor of its name.
///
/// # Errors
/// [`TrainError::Mismatch`] when a tensor is missing, left over or of another shape.
pub fn load_weights(vars: &BTreeMap<String, Var>, file: &TensorFile) -> Result<(), TrainError> {
    if let Some(extra) = file.tensors.keys().find(|name| !vars.contains_key(*name)) {
        let detail = format!("{extra} is not a weight that the method trains");
        return Err(TrainError::Mismatch { detail });
    }
    for (name, var) in vars {
        let Some(plain) = file.tensors.get(name) else {
            return Err(TrainError::Mismatch {
                detail: format!("{name} is missing"),
            });
        };
        if plain.shape != var.dims() {
            let detail = format!(
                "{name} has shape {:?} instead of {:?}",
                plain.shape,
                var.dims()
            );
            return Err(TrainError::Mismatch { detail });
        }
        tensor_from_plain(plain, var.device())
            .and_then(|tensor| var.set(&tensor))
            .map_err(TrainError::during("loading the weights"))?;
    }
    Ok(())
}
