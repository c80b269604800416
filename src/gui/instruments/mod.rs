//! The instruments: motion, spectrum and wavelet bands of the reference and of the newest sample.
//!
//! A thread of its own (`worker`) computes what the panes show, newest wish first; the panes draw what is there.
//! Pictures are drawn by the shaders of [`crate::viz`] where the window's adapter runs them, else by their twins.

mod audible;
mod bands;
mod chrome;
mod desk;
mod motion;
mod picture;
mod profile;
mod results;
mod scales;
mod spectrum;
mod worker;

use std::sync::Arc;

use eframe::egui;
use eframe::egui_wgpu::RenderState;

use crate::job::Latents;
use crate::spectral::plain::{Residual, max_levels};
use crate::video::Frame;
use crate::viz::Gpu;

pub(super) use chrome::{BAR_HEIGHT, Bar, colour_bar, figures};
use picture::Easel;
use results::{ClipInput, Encoded, Plane, Shown};
pub(super) use scales::scale_name;
use worker::{Wanted, Worker};

/// What the other panes have set and the instruments follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Frame under the playhead, counted in the clip as the model sees it.
    pub frame: usize,
    /// δ, the low-frequency bias (an exponent).
    pub delta: f64,
    /// Cutoff radius in cycles per pixel; none is the paper.
    pub cutoff: Option<f64>,
    /// Wavelet levels; none is as many as the frames allow.
    pub levels: Option<usize>,
    /// Motion vectors with or without their sign.
    pub residual: Residual,
    /// Show the sample instead of the reference (while the comparison key is held).
    pub show_sample: bool,
}

/// Channels of the latents of every published model; the model's own number is known when a clip is encoded.
const LATENT_CHANNELS: usize = 4;

/// A clip whose latents are wanted.
#[derive(Clone, Debug)]
pub struct Unencoded {
    side: usize,
    id: u64,
    /// Its frames.
    pub frames: Arc<[Frame]>,
}

/// State of the three panes.
pub struct Instruments {
    worker: Worker,
    shown: Shown,
    wanted: Wanted,
    clips: u64,
    /// Channels of the model's latents, as far as known.
    channels: usize,
    /// Clips whose latents could not be made, and why.
    refused: [Option<(u64, String)>; 2],
    easel: Easel,
    motion: motion::MotionPane,
    spectrum: spectrum::SpectrumPane,
    bands: bands::BandsPane,
}

impl Default for Instruments {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Instruments {
    /// Makes the pipelines (on the instruments' thread), where the window is drawn by wgpu with compute shaders; else
    /// the processor draws.
    #[must_use]
    pub fn new(gpu: Option<&RenderState>) -> Self {
        let device = gpu.and_then(|state| Gpu::of(&state.adapter, &state.device, &state.queue));
        let easel = Easel::new(gpu.filter(|_| device.is_some()));
        Self {
            worker: Worker::start(device),
            shown: Shown::default(),
            wanted: Wanted::default(),
            clips: 0,
            channels: LATENT_CHANNELS,
            refused: [None, None],
            easel,
            motion: motion::MotionPane::default(),
            spectrum: spectrum::SpectrumPane::default(),
            bands: bands::BandsPane::default(),
        }
    }

    /// The clip as the model sees it (fitted frames), and its rate. Analysis runs on a thread of its own; `ctx` is asked to repaint when it is done.
    pub fn set_reference(&mut self, ctx: &egui::Context, frames: Arc<[Frame]>, fps: f64) {
        self.set_clip(ctx, 0, Some((frames, fps)));
    }

    /// The newest or chosen sample; none clears it.
    pub fn set_sample(&mut self, ctx: &egui::Context, sample: Option<(Arc<[Frame]>, f64)>) {
        self.set_clip(ctx, 1, sample);
    }

    fn set_clip(&mut self, ctx: &egui::Context, side: usize, clip: Option<(Arc<[Frame]>, f64)>) {
        self.clips += 1;
        let id = self.clips;
        self.wanted.sides[side] = clip.and_then(|(frames, fps)| ClipInput::new(id, frames, fps));
        self.worker.ask(ctx, &self.wanted);
    }

    /// A clip whose latents are to be shown and are not known: the window has the model that encodes it.
    #[must_use]
    pub fn unencoded(&self) -> Option<Unencoded> {
        if self.wanted.plane == Plane::Pixels {
            return None;
        }
        let missing = |side: usize| {
            let clip = self.wanted.sides[side].as_ref()?;
            let refused = self.refused[side].as_ref();
            let is_refused = refused.is_some_and(|(id, _)| *id == clip.id);
            let known = self.wanted.latents_of(side).is_some() || is_refused;
            (!known).then(|| Unencoded {
                side,
                id: clip.id,
                frames: clip.frames.clone(),
            })
        };
        missing(0).or_else(|| missing(1))
    }

    /// The latents that [`Self::unencoded`] asked for, or why there are none.
    pub fn set_latents(
        &mut self,
        ctx: &egui::Context,
        asked: &Unencoded,
        latents: Result<Latents, String>,
    ) {
        match latents {
            Ok(latents) if latents.frames == asked.frames.len() => {
                self.channels = latents.channels.max(1);
                self.wanted.latents[asked.side] = Some(Encoded {
                    id: asked.id,
                    latents: Arc::new(latents),
                });
            }
            Ok(_) => {
                let text = "The model's latents have another number of frames.".to_owned();
                self.refused[asked.side] = Some((asked.id, text));
            }
            Err(text) => self.refused[asked.side] = Some((asked.id, text)),
        }
        self.worker.ask(ctx, &self.wanted);
    }

    /// What to say of latents that are not there.
    fn waiting(&self, side: usize) -> Option<String> {
        let clip = self.wanted.sides[side].as_ref()?;
        if self.wanted.plane == Plane::Pixels || self.wanted.latents_of(side).is_some() {
            return None;
        }
        let refused = self.refused[side].as_ref().filter(|(id, _)| *id == clip.id);
        Some(
            refused.map_or("The model encodes the clip…".into(), |(_, why)| {
                why.clone()
            }),
        )
    }

    /// The reference re-synthesised from the audible bands; none while no band is muted.
    #[must_use]
    pub fn audible(&self) -> Option<Arc<[Frame]>> {
        self.wanted.keep.as_ref()?;
        let (id, frames) = self.shown.audible.as_ref()?;
        let clip = self.wanted.sides[0].as_ref()?;
        (*id == clip.id).then(|| frames.clone())
    }

    /// Tells the thread what the panes need now, and takes what is ready.
    fn follow(&mut self, ctx: &egui::Context, view: &View) {
        let mut wanted = self.wanted.clone();
        wanted.frame = view.frame;
        wanted.residual = view.residual;
        wanted.levels = view.levels;
        wanted.plane = self.motion.plane();
        wanted.keep = wanted.sides[0].as_ref().and_then(|clip| {
            let most = max_levels(clip.frames.len());
            self.bands.keep(view.levels.unwrap_or(most).min(most) + 1)
        });
        if wanted != self.wanted {
            self.wanted = wanted;
            self.worker.ask(ctx, &self.wanted);
        }
        self.shown = self.worker.shown();
        self.shown.waiting = [self.waiting(0), self.waiting(1)];
        self.easel.engine.clone_from(&self.shown.engine);
    }

    /// Motion in the picture: vectors as the method sees them, flow arrows, colour wheel, magnitude.
    pub fn motion_ui(&mut self, ui: &mut egui::Ui, view: &View) {
        self.follow(ui.ctx(), view);
        let channels = self.channels;
        self.motion
            .ui(ui, view, (&self.shown, channels), &mut self.easel);
    }

    /// The 2-D Fourier spectrum of the motion vector under the playhead, its radial profile and the weight w(r).
    pub fn spectrum_ui(&mut self, ui: &mut egui::Ui, view: &View) {
        self.follow(ui.ctx(), view);
        self.spectrum.ui(ui, view, &self.shown, &mut self.easel);
    }

    /// Wavelet bands along time: mosaic, energy, heat map, solo and mute. Gives a weight for each band, `A, D1, .. DJ`,
    /// when the audible ones are asked for as what is trained.
    pub fn bands_ui(&mut self, ui: &mut egui::Ui, view: &View) -> Option<Vec<f64>> {
        self.follow(ui.ctx(), view);
        self.bands.ui(ui, view, &self.shown, &mut self.easel)
    }

    /// Why the processor does the work of the shaders, where it does.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        self.shown.note.clone()
    }
}
