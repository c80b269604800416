//! The instruments' thread: it is told what is wanted, and always does the most urgent thing that is missing.
//!
//! There is no queue: a wish replaces the one before it, so a playhead that runs ahead leaves nothing behind. Results carry
//! the id of their clip; those of an earlier clip are dropped.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use eframe::egui;
use eframe::egui::mutex::Mutex;

use super::audible::from_bands;
use super::results::{
    Bands, ClipInput, Computer, Encoded, Engine, FlowAt, Motion, Plane, Shown, bands_of, flow_at,
    latent_high, motion_of_latents, motion_on_cpu, motion_on_gpu, residual_high,
};
use crate::job::Latents;
use crate::spectral::plain::Residual;
use crate::viz::{Gpu, GpuError};

/// Memory for motion vectors and flows that are not under the playhead, per clip.
const CACHE_BYTES: usize = 96 << 20;
/// Bytes that are kept for each pixel of a motion vector with its spectrum and flow, here and on the device.
const BYTES_PER_PIXEL: usize = 64;

/// What the panes need now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// Reference, sample.
    pub sides: [Option<ClipInput>; 2],
    /// Latents of the clips.
    pub latents: [Option<Encoded>; 2],
    pub plane: Plane,
    pub frame: usize,
    pub residual: Residual,
    pub levels: Option<usize>,
    /// Audible bands of the reference; none while all are.
    pub keep: Option<Vec<bool>>,
}

impl Wanted {
    /// The latents of the clip that is wanted on a side.
    pub(super) fn latents_of(&self, side: usize) -> Option<&Arc<Latents>> {
        let clip = self.sides[side].as_ref()?;
        let encoded = self.latents[side].as_ref()?;
        (encoded.id == clip.id).then_some(&encoded.latents)
    }

    /// Whether the motion vectors of a side can be computed.
    fn has_plane(&self, side: usize) -> bool {
        self.plane == Plane::Pixels || self.latents_of(side).is_some()
    }
}

/// What thread and window share.
#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    shown: Mutex<Shown>,
    ctx: Mutex<Option<egui::Context>>,
}

/// The window's end of the thread. Dropping it ends the thread, without waiting.
pub(super) struct Worker {
    shared: Arc<Shared>,
    /// Holds at most one call: more would say the same.
    wake: Option<Sender<()>>,
}

impl Worker {
    pub(super) fn start(gpu: Option<Gpu>) -> Self {
        let shared = Arc::new(Shared::default());
        let (wake, calls) = bounded(1);
        if gpu.is_none() {
            shared.shown.lock().note =
                Some("Drawn by the processor: no compute shaders here.".into());
        }
        let desk = Desk {
            gpu,
            computer: None,
            shared: shared.clone(),
            calls,
            sides: [Held::default(), Held::default()],
            audible: None,
            shown: shared.shown.lock().clone(),
        };
        let thread = std::thread::Builder::new().name("instruments".into());
        let started = thread.spawn(move || desk.run());
        if let Err(error) = &started {
            shared.shown.lock().note = Some(format!("No thread for the instruments: {error}"));
        }
        Self {
            shared,
            wake: started.is_ok().then_some(wake),
        }
    }

    pub(super) fn ask(&self, ctx: &egui::Context, wanted: &Wanted) {
        *self.shared.wanted.lock() = wanted.clone();
        self.shared.ctx.lock().get_or_insert_with(|| ctx.clone());
        if let Some(wake) = &self.wake {
            // A full channel means that the thread has a call to answer already.
            wake.try_send(()).ok();
        }
    }

    pub(super) fn shown(&self) -> Shown {
        self.shared.shown.lock().clone()
    }
}

/// What the thread has of one clip.
#[derive(Default)]
struct Held {
    clip: Option<ClipInput>,
    /// What `motions` and `high` are of.
    kind: (Residual, Plane),
    high: Option<f64>,
    log_high: f64,
    speed_high: f64,
    motions: HashMap<usize, Arc<Motion>>,
    flows: HashMap<usize, Arc<FlowAt>>,
    bands: Option<Arc<Bands>>,
}

impl Held {
    /// Motion vectors and flows that may be kept.
    fn room(&self) -> usize {
        let (h, w) = self.clip.as_ref().map_or((0, 0), ClipInput::size);
        (CACHE_BYTES / (h * w * BYTES_PER_PIXEL).max(1)).max(1)
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Range(usize),
    Motion(usize, usize),
    Bands(usize),
    Flow(usize, usize),
    Audible,
}

/// The thread's own state.
struct Desk {
    /// The window's device, until the pipelines are made.
    gpu: Option<Gpu>,
    computer: Option<Computer>,
    shared: Arc<Shared>,
    calls: Receiver<()>,
    sides: [Held; 2],
    /// The clip and the bands that the audible frames were made of.
    audible: Option<(u64, usize, Vec<bool>)>,
    shown: Shown,
}

impl Desk {
    fn run(mut self) {
        if let Some(gpu) = self.gpu.take() {
            match Computer::new(&gpu) {
                Ok(computer) => self.computer = Some(computer),
                Err(error) => self.without_gpu(&error),
            }
            match Engine::new(gpu) {
                Ok(engine) => self.shown.engine = Some(Arc::new(engine)),
                Err(error) => self.without_gpu(&error),
            }
        }
        loop {
            let wanted = self.shared.wanted.lock().clone();
            self.tidy(&wanted);
            let step = self.next(&wanted);
            self.publish(&wanted);
            match step {
                Some(step) => self.work(&wanted, step),
                // The window is gone when its end of the channel is.
                None if self.calls.recv().is_err() => return,
                None => {}
            }
            if self.is_over() {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    fn without_gpu(&mut self, error: &GpuError) {
        self.computer = None;
        self.shown.note = Some(format!("Computed by the processor: {error}."));
    }

    /// Drops what belongs to other clips or settings.
    fn tidy(&mut self, wanted: &Wanted) {
        let kind = (wanted.residual, wanted.plane);
        for (held, clip) in self.sides.iter_mut().zip(&wanted.sides) {
            if held.clip != *clip {
                *held = Held {
                    clip: clip.clone(),
                    kind,
                    ..Held::default()
                };
            }
            if held.kind != kind {
                held.kind = kind;
                held.motions.clear();
                (held.high, held.log_high) = (None, 0.0);
            }
            let Some(clip) = &held.clip else { continue };
            let now = clip.step_at(wanted.frame);
            let room = held.room();
            if held.motions.len() > room {
                held.motions.retain(|&step, _| step == now);
            }
            if held.flows.len() > room {
                held.flows.retain(|&step, _| step == now);
            }
        }
    }

    /// The most urgent thing that is missing: what is under the playhead first, what it will reach last.
    fn next(&self, wanted: &Wanted) -> Option<Step> {
        let sides = || {
            let held = self.sides.iter().enumerate();
            held.filter_map(|(side, held)| Some((side, held, held.clip.as_ref()?)))
        };
        for (side, held, clip) in sides().filter(|(side, ..)| wanted.has_plane(*side)) {
            let step = clip.step_at(wanted.frame);
            if held.high.is_none() {
                return Some(Step::Range(side));
            }
            if !held.motions.contains_key(&step) {
                return Some(Step::Motion(side, step));
            }
        }
        for (side, held, clip) in sides() {
            let key = (wanted.residual, clip.levels(wanted.levels));
            let has = held.bands.as_ref().map(|b| (b.residual, b.levels));
            if has != Some(key) {
                return Some(Step::Bands(side));
            }
        }
        for (side, held, clip) in sides() {
            let step = clip.step_at(wanted.frame);
            if !held.flows.contains_key(&step) {
                return Some(Step::Flow(side, step));
            }
        }
        if self
            .audible_key(wanted)
            .is_some_and(|key| self.audible.as_ref() != Some(&key))
        {
            return Some(Step::Audible);
        }
        for (side, held, clip) in sides().filter(|(_, held, clip)| clip.steps() <= held.room()) {
            for step in 0..clip.steps() {
                if wanted.has_plane(side) && !held.motions.contains_key(&step) {
                    return Some(Step::Motion(side, step));
                }
                if !held.flows.contains_key(&step) {
                    return Some(Step::Flow(side, step));
                }
            }
        }
        None
    }

    fn audible_key(&self, wanted: &Wanted) -> Option<(u64, usize, Vec<bool>)> {
        let clip = self.sides[0].clip.as_ref()?;
        let keep = wanted.keep.clone()?;
        Some((clip.id, clip.levels(wanted.levels), keep))
    }

    fn work(&mut self, wanted: &Wanted, step: Step) {
        match step {
            Step::Range(side) => {
                let held = &mut self.sides[side];
                held.high = match wanted.plane {
                    Plane::Pixels => held.clip.as_ref().map(residual_high),
                    Plane::Latent(_) => wanted.latents_of(side).map(|l| latent_high(l)),
                };
            }
            Step::Motion(side, at) => self.motion(wanted, side, at),
            Step::Flow(side, at) => {
                let held = &mut self.sides[side];
                let Some(clip) = &held.clip else { return };
                let flow = flow_at(clip, at);
                held.speed_high = held.speed_high.max(flow.fastest);
                held.flows.insert(at, Arc::new(flow));
            }
            Step::Bands(side) => self.bands(wanted, side),
            Step::Audible => self.make_audible(wanted),
        }
    }

    fn motion(&mut self, wanted: &Wanted, side: usize, at: usize) {
        let motion = match wanted.plane {
            Plane::Pixels => self.motion_of_pixels(side, at),
            Plane::Latent(channel) => wanted
                .latents_of(side)
                .map(|latents| motion_of_latents(latents, channel, at, wanted.residual)),
        };
        let Some(motion) = motion else { return };
        let largest = motion.profile.largest.iter().copied().fold(0.0, f64::max);
        let held = &mut self.sides[side];
        held.log_high = held.log_high.max(largest.ln_1p());
        held.motions.insert(at, Arc::new(motion));
    }

    fn motion_of_pixels(&mut self, side: usize, at: usize) -> Option<Motion> {
        let clip = self.sides[side].clip.clone()?;
        let (kind, _) = self.sides[side].kind;
        let computer = self.computer.as_ref();
        let made = computer.map(|computer| motion_on_gpu(computer, &clip, at, kind));
        Some(match made {
            Some(Ok(motion)) => motion,
            Some(Err(error)) => {
                self.without_gpu(&error);
                motion_on_cpu(&clip, at, kind)
            }
            None => motion_on_cpu(&clip, at, kind),
        })
    }

    /// Whether a long step has lost its point: the window wants another clip or other settings, or is gone.
    fn is_stale(shared: &Arc<Shared>, start: &Wanted) -> bool {
        let now = shared.wanted.lock();
        now.sides != start.sides
            || now.residual != start.residual
            || now.levels != start.levels
            || now.keep != start.keep
            || Arc::strong_count(shared) == 1
    }

    fn bands(&mut self, wanted: &Wanted, side: usize) {
        let Some(clip) = self.sides[side].clip.clone() else {
            return;
        };
        let settings = (wanted.residual, clip.levels(wanted.levels));
        let stop = || Self::is_stale(&self.shared, wanted);
        let made = match bands_of(self.computer.as_ref(), &clip, settings, &stop) {
            Ok(made) => made,
            Err(error) => {
                self.without_gpu(&error);
                None
            }
        };
        if let Some(bands) = made {
            self.sides[side].bands = Some(Arc::new(bands));
        }
    }

    fn make_audible(&mut self, wanted: &Wanted) {
        let Some(key) = self.audible_key(wanted) else {
            return;
        };
        let Some(clip) = self.sides[0].clip.clone() else {
            return;
        };
        let stop = || Self::is_stale(&self.shared, wanted);
        if let Some(frames) = from_bands(&clip.frames, key.1, &key.2, &stop) {
            self.shown.audible = Some((key.0, frames.into()));
            self.audible = Some(key);
        }
    }

    fn publish(&mut self, wanted: &Wanted) {
        for (side, held) in self.shown.sides.iter_mut().zip(&self.sides) {
            let step = held.clip.as_ref().map(|clip| clip.step_at(wanted.frame));
            let changed = side.clip != held.clip || side.plane != held.kind.1;
            side.plane = held.kind.1;
            side.clip.clone_from(&held.clip);
            side.residual_high = held.high.unwrap_or(1.0);
            side.log_high = held.log_high;
            side.speed_high = held.speed_high;
            side.bands.clone_from(&held.bands);
            // While the playhead runs, the last picture stays until the next is there; never that of another clip.
            let motion = step.and_then(|step| held.motions.get(&step).cloned());
            if changed || motion.is_some() {
                side.motion = motion;
            }
            let flow = step.and_then(|step| held.flows.get(&step).cloned());
            if changed || flow.is_some() {
                side.flow = flow;
            }
        }
        *self.shared.shown.lock() = self.shown.clone();
        if let Some(ctx) = self.shared.ctx.lock().as_ref() {
            ctx.request_repaint();
        }
    }
}
