//! The trainer: state in, one step, numbers out. Nothing here knows of threads, files or clocks.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::config::TransferConfig;
use super::error::TrainError;
use super::items::{Item, Items};
use super::objective::{Batch, Objective, Terms, losses, spatial_loss};
use super::on_device::Numbers;
use super::part::{Part, Rate, Refused, Unasked, total_norm};
use super::scale::LossScale;
use super::state::{file_from_tensors, tensor_from_plain};
use crate::methods::motion_director::{self, SPATIAL_PASS_SKIPPED_ONCE_IN};
use crate::methods::{Branches, Tuned};
use crate::models::{AdapterName, Denoiser as _};
use crate::nn::{Checkpointing, Dropout, NoiseStream, Purpose, Tape};
use crate::project::{Checkpoint, CheckpointState, LiveSettings, TensorFile};
use crate::schedulers::NoiseSchedule;

/// The numbers of one training step. One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepStats {
    /// Steps done, this one included.
    pub step: u32,
    /// Steps of the whole training.
    pub steps: u32,
    /// Which clip the step learned from, from 0; always 0 where there is one.
    #[serde(default)]
    pub clip: usize,
    /// Diffusion timestep of this step.
    pub timestep: u32,
    /// The method's own loss.
    pub base: f64,
    /// Loss of MotionDirector's pass over a single frame; none for other methods and in steps that leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spatial: Option<f64>,
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
    /// Set where a gradient outgrew half precision, so that a pass of this step moved nothing: the smaller factor that the
    /// loss is multiplied with from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflowed: Option<f64>,
}

/// A model being trained on one clip, or on several of the same motion.
pub struct Trainer {
    config: TransferConfig,
    live: LiveSettings,
    tuned: Tuned,
    /// What the loss of the whole clip moves.
    main: Part,
    /// What MotionDirector's single-frame pass moves: a part for each clip, or one for all.
    spatial: Vec<Part>,
    /// The spatial set that had its single-frame pass in this step.
    spatial_acts: Option<usize>,
    /// The single-frame pass of a step whose second pass failed: it has moved its weights and is not run again.
    spatial_done: Option<SpatialDone>,
    loss_scale: LossScale,
    objective: Objective,
    items: Items,
    timesteps: NoiseStream,
    noise: NoiseStream,
    frames: NoiseStream,
    step: u32,
    grad_norms: BTreeMap<String, f64>,
}

/// A single-frame pass that is over, of a step that is not.
#[derive(Clone, Debug)]
struct SpatialDone {
    step: u32,
    acts: Option<usize>,
    value: Option<f64>,
    grad_norms: BTreeMap<String, f64>,
}

impl Trainer {
    /// A trainer at step 0.
    ///
    /// # Errors
    /// [`TrainError::NothingToTrain`], [`TrainError::Clips`], or when the clips do not fit the settings.
    pub fn new(
        config: &TransferConfig,
        tuned: Tuned,
        schedule: NoiseSchedule,
        items: Vec<Item>,
    ) -> Result<Self, TrainError> {
        let items = Items::new(items, config.method, config.seed)?;
        let sets = tuned.branches.as_ref().map_or(0, |b| b.spatial.len());
        let mut spatial = vec![BTreeMap::new(); sets];
        let mut main = BTreeMap::new();
        for (name, var) in &tuned.vars {
            let part = match spatial_set(name).and_then(|set| spatial.get_mut(set)) {
                Some(set) => set,
                None => &mut main,
            };
            part.insert(name.clone(), var.clone());
        }
        if main.is_empty() {
            let method = config.method.name().to_owned();
            return Err(TrainError::NothingToTrain { method });
        }
        let objective = Objective::new(config, schedule, &items.first().v0)
            .map_err(TrainError::during("preparing the loss"))?;
        let part = |vars| Part::new(vars, config.weight_decay);
        Ok(Self {
            live: config.live(),
            loss_scale: LossScale::for_network(tuned.unet.dtype()),
            tuned,
            main: part(main),
            spatial: spatial.into_iter().map(part).collect(),
            spatial_acts: None,
            spatial_done: None,
            objective,
            items,
            timesteps: NoiseStream::new(config.seed, Purpose::Timestep),
            noise: NoiseStream::new(config.seed, Purpose::Noise),
            frames: NoiseStream::new(config.seed, Purpose::Frame),
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

    /// The network as trained so far; whoever samples with it switches its adapters.
    #[must_use]
    pub fn tuned(&self) -> &Tuned {
        &self.tuned
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
                .set_delta(&self.config, live.delta, self.items.device())
                .map_err(TrainError::during("changing the low-frequency bias"))?;
        }
        self.objective.lambda_g = live.lambda_g;
        self.objective.lambda_l = live.lambda_l;
        self.live = live;
        Ok(())
    }

    /// What a step remembers.
    #[must_use]
    pub fn checkpointing(&self) -> Checkpointing {
        self.config.checkpointing
    }

    /// Sets what the steps to come remember; their numbers stay the same.
    pub fn set_checkpointing(&mut self, checkpointing: Checkpointing) {
        self.config.checkpointing = checkpointing;
    }

    /// One step: draw noise and timestep, compute the loss, update the weights. A step that failed can be done again: it
    /// then draws the same numbers, and a single-frame pass that was over stays over.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] names the first bad tensor and leaves the weights of that pass as they were; in half
    /// precision a gradient is refused only when scaling the loss less did not help.
    /// [`TrainError::Dead`] on the first steps when a trainable tensor gets no gradient.
    pub fn step(&mut self) -> Result<StepStats, TrainError> {
        let streams = [&self.timesteps, &self.noise, &self.frames].map(NoiseStream::position);
        let done = self.drawn_step();
        if done.is_err() {
            let all = [&mut self.timesteps, &mut self.noise, &mut self.frames];
            for (stream, position) in all.into_iter().zip(streams) {
                stream.seek(position);
            }
        }
        done
    }

    fn drawn_step(&mut self) -> Result<StepStats, TrainError> {
        let clip = self.items.of_step(self.step);
        let batch = self
            .draw(clip)
            .map_err(TrainError::during("drawing noise"))?;
        self.grad_norms.clear();
        let scale = self.loss_scale;
        let spatial = self.spatial_pass(clip, &batch)?;
        if self.tuned.branches.is_some() {
            self.spatial_done = Some(SpatialDone {
                step: self.step,
                acts: self.spatial_acts,
                value: spatial,
                grad_norms: self.grad_norms.clone(),
            });
        }
        let mut stats = self.step_on(&batch)?;
        self.spatial_done = None;
        if self.loss_scale != scale {
            stats.overflowed = Some(self.loss_scale.factor());
        }
        Ok(StepStats {
            clip,
            spatial,
            ..stats
        })
    }

    /// One step on a clip, noise and timesteps of the caller's, without a single-frame pass.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_on(&mut self, batch: &Batch) -> Result<StepStats, TrainError> {
        let t = batch.t.first().copied().unwrap_or_default();
        if let Some(branches) = &self.tuned.branches {
            branches.rest();
            branches.temporal.set(1.0, true, self.dropout(1));
            if let Some(set) = self.spatial_acts.and_then(|set| branches.spatial.get(set)) {
                set.set(1.0, false, self.dropout(2));
            }
        }
        let mut tape = Tape::new(self.config.checkpointing);
        let terms = losses(&self.tuned.unet, &mut tape, batch, &self.objective)
            .map_err(TrainError::during("the forward pass"))?;
        let (mut stats, learned) = if self.main.can_learn_unasked() {
            let rate = self.rate();
            let losses = stacked(&terms).map_err(TrainError::during("the forward pass"))?;
            let (numbers, learned) =
                learn_and_read(&mut self.main, &terms.total, tape, rate, &losses)?;
            let stats = self.stats(&terms, &numbers, t);
            self.check_finite(&stats)?;
            (stats, learned)
        } else {
            let stats = read(&terms)
                .map(|numbers| self.stats(&terms, &numbers, t))
                .map_err(TrainError::during("reading the loss"))?;
            self.check_finite(&stats)?;
            let total = terms.total.clone();
            // The other terms hold on to the pass.
            drop(terms);
            (stats, self.main.learn(total, tape, self.rate()))
        };
        match self.settle(learned, t)? {
            Some(norms) => {
                stats.grad_norm = total_norm(&norms);
                self.grad_norms.extend(norms);
            }
            None => stats.overflowed = Some(self.loss_scale.factor()),
        }
        self.spatial_acts = None;
        self.step += 1;
        Ok(stats)
    }

    /// MotionDirector's pass over one frame of the batch, in four steps of five: the spatial adapters of this clip learn what
    /// it looks like, and then act in the pass over the whole clip, so that the temporal ones, which all clips share, need
    /// not learn it.
    ///
    /// Unlike the authors' code the spatial adapters move before the other pass looks, which keeps one graph in memory
    /// instead of two.
    fn spatial_pass(&mut self, clip: usize, batch: &Batch) -> Result<Option<f64>, TrainError> {
        let Some(branches) = self.tuned.branches.clone() else {
            return Ok(None);
        };
        let set = branches.set_of(clip);
        if set >= self.spatial.len() {
            return Ok(None);
        }
        let mut part = self.spatial.swap_remove(set);
        let done = self.learn_one_frame(&mut part, (&branches, set), batch);
        // Back to its place: the last part had moved there.
        self.spatial.push(part);
        let last = self.spatial.len() - 1;
        self.spatial.swap(set, last);
        done
    }

    fn learn_one_frame(
        &mut self,
        part: &mut Part,
        (branches, set): (&Branches, usize),
        batch: &Batch,
    ) -> Result<Option<f64>, TrainError> {
        let t = batch.t.first().copied().unwrap_or_default();
        let frames = batch
            .v0
            .dim(2)
            .map_err(TrainError::during("the single-frame pass"))?;
        let count = u32::try_from(frames).unwrap_or(u32::MAX);
        // Both are drawn in every step, so that the stream's position follows from the step.
        let skipped = self.frames.below(SPATIAL_PASS_SKIPPED_ONCE_IN) == 0;
        let frame = self.frames.below(count) as usize;
        if let Some(done) = self.spatial_done.take_if(|done| done.step == self.step) {
            self.spatial_acts = done.acts;
            self.grad_norms = done.grad_norms;
            return Ok(done.value);
        }
        if skipped {
            return Ok(None);
        }
        branches.rest();
        if let Some(set) = branches.spatial.get(set) {
            set.set(1.0, true, self.dropout(0));
        }
        let mut tape = Tape::new(self.config.checkpointing);
        let schedule = self.objective.schedule();
        let loss = spatial_loss(&self.tuned.unet, &mut tape, batch, frame, schedule)
            .map_err(TrainError::during("the single-frame pass"))?;
        let (value, learned) = if part.can_learn_unasked() {
            let alone = loss
                .reshape(1)
                .and_then(|loss| loss.detach().to_dtype(DType::F64))
                .map_err(TrainError::during("the single-frame pass"))?;
            let (numbers, learned) = learn_and_read(part, &loss, tape, self.rate(), &alone)?;
            (numbers.iter().sum(), learned)
        } else {
            let value = loss
                .to_scalar::<f32>()
                .map(f64::from)
                .map_err(TrainError::during("reading the loss"))?;
            if !value.is_finite() {
                return Err(self.not_finite(t, "the single-frame loss".to_owned()));
            }
            (value, part.learn(loss, tape, self.rate()))
        };
        if !value.is_finite() {
            return Err(self.not_finite(t, "the single-frame loss".to_owned()));
        }
        if let Some(norms) = self.settle(learned, t)? {
            self.grad_norms.extend(norms);
            self.spatial_acts = Some(set);
        }
        Ok(Some(value))
    }

    /// The norms of an update, or none where a gradient outgrew half precision: then nothing has moved, and the loss is
    /// scaled less from now on.
    fn settle(
        &mut self,
        learned: Result<BTreeMap<String, f64>, Refused>,
        timestep: u32,
    ) -> Result<Option<BTreeMap<String, f64>>, TrainError> {
        match learned {
            Ok(norms) => Ok(Some(norms)),
            Err(Refused::NotFinite(_)) if self.loss_scale.halve() => Ok(None),
            Err(refused) => Err(self.refused(refused, timestep)),
        }
    }

    fn rate(&self) -> Rate {
        Rate {
            learning_rate: self.live.learning_rate,
            clip_norm: self.config.clip_norm,
            loss_scale: self.loss_scale.factor(),
        }
    }

    /// Dropout of a pass of this step. Each has its own place in the stream, so that a resumed run drops the same numbers.
    fn dropout(&self, pass: u64) -> Option<Dropout> {
        let probability = self.config.lora_dropout;
        let ended = |until| self.step >= until;
        (probability > 0.0 && !self.config.dropout_until.is_some_and(ended)).then(|| {
            let mut stream = NoiseStream::new(self.config.seed, Purpose::Dropout);
            stream.seek((u64::from(self.step) << 34) | (pass << 32));
            Dropout::new(probability, stream)
        })
    }

    fn draw(&mut self, clip: usize) -> candle_core::Result<Batch> {
        let Item { v0, text, control } = self.items.get(clip);
        let levels = u32::try_from(self.objective.schedule().levels()).unwrap_or(u32::MAX);
        let (from, to) = self.config.timestep_range(levels);
        let batch = v0.dim(0)?;
        let t = (0..batch)
            .map(|_| from + self.timesteps.below(to - from))
            .collect();
        let eps = self.noise.normal(v0.shape(), DType::F32, v0.device())?;
        let anchor = match &self.tuned.branches {
            Some(_) => self
                .frames
                .below(u32::try_from(v0.dim(2)?).unwrap_or(u32::MAX)),
            None => 0,
        };
        Ok(Batch {
            v0: v0.clone(),
            eps,
            t,
            text: text.clone(),
            control: control.clone(),
            anchor: anchor as usize,
        })
    }

    /// `numbers` are those of [`scalars`].
    fn stats(&self, terms: &Terms, numbers: &[f64], timestep: u32) -> StepStats {
        let number = |i: usize| numbers.get(i).copied().unwrap_or(f64::NAN);
        let bands = 5..5 + terms.bands.len();
        StepStats {
            step: self.step + 1,
            steps: self.config.steps,
            clip: 0,
            timestep,
            base: number(0),
            spatial: None,
            bands: bands.map(number).collect(),
            global: number(1),
            amplitude: number(2),
            phase: number(3),
            total: number(4),
            grad_norm: 0.0,
            learning_rate: self.live.learning_rate,
            overflowed: None,
        }
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

    fn refused(&self, refused: Refused, timestep: u32) -> TrainError {
        match refused {
            Refused::Failed(error) => error,
            Refused::NotFinite(name) => {
                self.not_finite(timestep, format!("the gradient of {name}"))
            }
            Refused::Dead(names) => TrainError::Dead {
                names,
                total: self.tuned.vars.len(),
            },
        }
    }

    /// The trained weights by state-dict name; `about` is a short JSON text for the file's header.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn weights(&self, about: String) -> Result<TensorFile, TrainError> {
        let tensors = self.tuned.vars.iter();
        file_from_tensors(tensors.map(|(name, var)| (name, var.as_tensor())), about)
            .map_err(TrainError::during("reading the weights"))
    }

    /// Everything needed to go on later, bit for bit.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        let mut moments = self.main.optimizer.state();
        for part in &self.spatial {
            moments.extend(part.optimizer.state());
        }
        let mut spatial_updates = self.spatial.iter().map(|part| part.optimizer.updates());
        let optimizer = file_from_tensors(&moments, String::new())
            .map_err(TrainError::during("reading the optimiser"))?;
        Ok(Checkpoint {
            state: CheckpointState {
                step: self.step,
                updates: self.main.optimizer.updates(),
                spatial_updates: spatial_updates.next().unwrap_or(0),
                more_spatial_updates: spatial_updates.collect(),
                timestep_stream: self.timesteps.position(),
                noise_stream: self.noise.position(),
                frame_stream: self.frames.position(),
                loss_scale: self.loss_scale.kept(),
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
        load_weights(&self.tuned.vars, &checkpoint.weights)?;
        let state = &checkpoint.state;
        let sets = self.spatial.len();
        if state.more_spatial_updates.len() + 1 != sets.max(1) {
            let detail = format!(
                "it has {} sets of spatial adapters instead of {sets}",
                state.more_spatial_updates.len() + 1
            );
            return Err(TrainError::Mismatch { detail });
        }
        let device = self.items.device().clone();
        let mut main = BTreeMap::new();
        let mut spatial = vec![BTreeMap::new(); sets];
        for (name, plain) in &checkpoint.optimizer.tensors {
            let tensor = tensor_from_plain(plain, &device)
                .map_err(TrainError::during("reading the optimiser"))?;
            let var = name
                .strip_suffix(".exp_avg")
                .or_else(|| name.strip_suffix(".exp_avg_sq"));
            let has = |part: &Part| var.is_some_and(|var| part.vars.contains_key(var));
            let into = match self.spatial.iter().position(has) {
                Some(set) => &mut spatial[set],
                None => &mut main,
            };
            into.insert(name.clone(), tensor);
        }
        self.main.optimizer.restore(state.updates, &main);
        let updates = std::iter::once(state.spatial_updates)
            .chain(state.more_spatial_updates.iter().copied());
        for ((part, moments), updates) in self.spatial.iter_mut().zip(&spatial).zip(updates) {
            part.optimizer.restore(updates, moments);
        }
        self.timesteps.seek(state.timestep_stream);
        self.noise.seek(state.noise_stream);
        self.frames.seek(state.frame_stream);
        self.loss_scale.restore(state.loss_scale);
        self.step = state.step;
        self.set_live(state.live)
    }
}

/// The norms of an update, or why it was refused.
type Learned = Result<BTreeMap<String, f64>, Refused>;

/// Learns without waiting for the device, then reads `losses` (f64, one axis) and norms at once. Where one is not finite nothing
/// has moved.
fn learn_and_read(
    part: &mut Part,
    loss: &Tensor,
    tape: Tape<'_>,
    rate: Rate,
    losses: &Tensor,
) -> Result<(Vec<f64>, Learned), TrainError> {
    let reading = TrainError::during("reading the loss");
    match part.learn_unasked(loss, tape, rate, losses) {
        Ok(Unasked::Pending(pending)) => {
            let Numbers { losses, norms } = pending.read().map_err(reading)?;
            let learned = finite(norms);
            if learned.is_err() || losses.iter().any(|loss| !loss.is_finite()) {
                part.optimizer.take_back();
            }
            Ok((losses, learned))
        }
        Ok(Unasked::Moved(norms)) => Ok((losses.to_vec1().map_err(reading)?, Ok(norms))),
        Err(refused) => Ok((losses.to_vec1().map_err(reading)?, Err(refused))),
    }
}

/// The scalars of a step in the order in which they are read.
fn scalars(terms: &Terms) -> impl Iterator<Item = &Tensor> {
    let named = [
        &terms.base,
        &terms.global,
        &terms.amplitude,
        &terms.phase,
        &terms.total,
    ];
    named.into_iter().chain(&terms.bands)
}

fn read(terms: &Terms) -> candle_core::Result<Vec<f64>> {
    scalars(terms)
        .map(|scalar| Ok(f64::from(scalar.to_scalar::<f32>()?)))
        .collect()
}

/// All of them in one f64 tensor on their device.
fn stacked(terms: &Terms) -> candle_core::Result<Tensor> {
    let scalars: Vec<Tensor> = scalars(terms).map(Tensor::detach).collect();
    Tensor::stack(&scalars, 0)?.to_dtype(DType::F64)
}

/// The norms, unless one is not finite.
fn finite(norms: BTreeMap<String, f64>) -> Learned {
    match norms.iter().find(|(_, norm)| !norm.is_finite()) {
        Some((name, _)) => Err(Refused::NotFinite(name.clone())),
        None => Ok(norms),
    }
}

/// The set whose single-frame pass moves this variable; none for the weights that the pass over the whole clip moves.
fn spatial_set(name: &str) -> Option<usize> {
    let adapter = AdapterName::parse(name)?;
    let part = motion_director::part_of(adapter.layer);
    (part == Some(motion_director::Part::Spatial)).then_some(adapter.set)
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
