//! The instruments: motion, spectrum and wavelet bands of the reference and of the newest sample.

use std::sync::Arc;

use eframe::egui;

use crate::spectral::plain::Residual;
use crate::video::Frame;

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

/// State of the three panes.
#[derive(Default)]
pub struct Instruments {}

impl Instruments {
    /// Makes the pipelines, where the window is drawn by wgpu with compute shaders; else the processor draws.
    #[must_use]
    pub fn new(_gpu: Option<&eframe::egui_wgpu::RenderState>) -> Self {
        Self::default()
    }

    /// The clip as the model sees it (fitted frames), and its rate. Analysis runs on a thread of its own; `ctx` is asked to repaint when it is done.
    pub fn set_reference(&mut self, _ctx: &egui::Context, _frames: Arc<[Frame]>, _fps: f64) {}

    /// The newest or chosen sample; none clears it.
    pub fn set_sample(&mut self, _ctx: &egui::Context, _sample: Option<(Arc<[Frame]>, f64)>) {}

    /// The reference re-synthesised from the audible bands; none while no band is muted.
    #[must_use]
    pub fn audible(&self) -> Option<Arc<[Frame]>> {
        None
    }

    /// Motion in the picture: vectors as the method sees them, flow arrows, colour wheel, magnitude.
    pub fn motion_ui(&mut self, _ui: &mut egui::Ui, _view: &View) {}

    /// The 2-D Fourier spectrum of the motion vector under the playhead, its radial profile and the weight w(r).
    pub fn spectrum_ui(&mut self, _ui: &mut egui::Ui, _view: &View) {}

    /// Wavelet bands along time: mosaic, energy, heat map, solo and mute.
    pub fn bands_ui(&mut self, _ui: &mut egui::Ui, _view: &View) {}
}
