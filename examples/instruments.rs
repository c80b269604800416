//! Looks at the motion of any clip: motion vectors and flow, spectrum with the weight of the local loss, wavelet bands.
//!
//! `cargo run --release --example instruments -- [CLIP] [--sample CLIP] [--size WIDTHxHEIGHTxFRAMES] [--light] [--cpu]`
//!
//! Without a clip it opens the bundled one. `--sample` lays a second clip beside it, `--cpu` draws without shaders.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use eframe::egui;
use spectral_motion::gui::instruments::{Instruments, View};
use spectral_motion::spectral::plain::Residual;
use spectral_motion::video::{self, Fit, FitMode, Fitted, Frame, Limits, ShortClip};

#[derive(Parser)]
struct Options {
    /// Film, GIF or folder of pictures
    #[arg(default_value = "assets/sample/red-circle.mp4")]
    clip: PathBuf,
    /// A second clip to compare
    #[arg(long)]
    sample: Option<PathBuf>,
    /// Width, height and frames that both are cut to
    #[arg(long, default_value = "64x64x8")]
    size: String,
    /// Light theme
    #[arg(long)]
    light: bool,
    /// Draw on the processor
    #[arg(long)]
    cpu: bool,
}

fn load(path: &Path, size: &str) -> Result<Fitted> {
    let parts: Vec<u32> = size
        .split('x')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("'{size}' is not WIDTHxHEIGHTxFRAMES"))?;
    let [width, height, frames] = parts[..] else {
        bail!("'{size}' is not WIDTHxHEIGHTxFRAMES");
    };
    let clip = video::load(path, &Limits::default(), &|| false)
        .with_context(|| format!("reading {}", path.display()))?;
    let fit = Fit {
        frames: frames as usize,
        width,
        height,
        fps: None,
        mode: FitMode::Crop,
        start_secs: 0.0,
        short: ShortClip::Loop,
    };
    Ok(video::fit(&clip, &fit)?)
}

struct Viewer {
    instruments: Instruments,
    view: View,
    frames: usize,
    fps: f64,
    playing: bool,
    cutoff: f64,
}

impl Viewer {
    fn controls_ui(&mut self, ui: &mut egui::Ui) {
        ui.horizontal_wrapped(|ui| {
            ui.toggle_value(&mut self.playing, "Play");
            let last = self.frames.saturating_sub(1);
            ui.add(egui::Slider::new(&mut self.view.frame, 0..=last).text("frame"));
            let delta = egui::Slider::new(&mut self.view.delta, 0.0..=1.0);
            ui.add(delta.text("low-frequency bias δ (exponent)"));
            let cutoff = egui::Slider::new(&mut self.cutoff, 0.0..=0.71);
            ui.add(cutoff.text("cutoff, cycles/px (0.71: none)"));
            self.view.cutoff = (self.cutoff < 0.71).then_some(self.cutoff);
            let mut signed = self.view.residual == Residual::Signed;
            ui.checkbox(&mut signed, "signed");
            self.view.residual = if signed {
                Residual::Signed
            } else {
                Residual::Abs
            };
        });
        self.view.show_sample = ui.input(|i| i.key_down(egui::Key::C));
    }
}

impl eframe::App for Viewer {
    fn ui(&mut self, ui: &mut egui::Ui, _frame: &mut eframe::Frame) {
        if self.playing && self.frames > 0 {
            let time = ui.input(|i| i.time);
            self.view.frame = (time * self.fps) as usize % self.frames;
            let next = Duration::from_secs_f64(0.5 / self.fps.max(1.0));
            ui.ctx().request_repaint_after(next);
        }
        egui::Panel::bottom("controls").show(ui, |ui| self.controls_ui(ui));
        let size = ui.available_size();
        let columns = egui::Panel::left("left").exact_size(size.x / 2.0);
        columns.show(ui, |ui| {
            let motion = egui::Panel::top("motion").exact_size(size.y / 2.0);
            motion.show(ui, |ui| self.instruments.motion_ui(ui, &self.view));
            egui::CentralPanel::default().show(ui, |ui| {
                self.instruments.bands_ui(ui, &self.view);
            });
        });
        let spectrum = egui::Panel::top("spectrum").exact_size(size.y / 2.0);
        spectrum.show(ui, |ui| self.instruments.spectrum_ui(ui, &self.view));
        egui::CentralPanel::default().show(ui, |ui| {
            if let Some(frames) = self.instruments.audible() {
                ui.label("Reference from the audible bands");
                picture_ui(ui, &frames[self.view.frame.min(frames.len() - 1)]);
            } else {
                ui.label("Solo or mute a band: its motion plays here.");
            }
        });
    }
}

fn picture_ui(ui: &mut egui::Ui, frame: &Frame) {
    let size = [frame.width as usize, frame.height as usize];
    let image = egui::ColorImage::from_rgb(size, &frame.rgb);
    let texture = ui
        .ctx()
        .load_texture("audible", image, egui::TextureOptions::NEAREST);
    ui.add(egui::Image::new(&texture).fit_to_exact_size(ui.available_size()));
}

fn main() -> Result<()> {
    let options = Options::parse();
    let reference = load(&options.clip, &options.size)?.clip;
    let sample = options.sample.as_deref();
    let sample = sample.map(|path| load(path, &options.size)).transpose()?;
    let native = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default().with_inner_size([1000.0, 720.0]),
        ..eframe::NativeOptions::default()
    };
    let opened = eframe::run_native(
        "Spectral Motion instruments",
        native,
        Box::new(move |cc| {
            let theme = if options.light {
                egui::Theme::Light
            } else {
                egui::Theme::Dark
            };
            cc.egui_ctx.set_theme(theme);
            let gpu = cc.wgpu_render_state.as_ref().filter(|_| !options.cpu);
            let mut instruments = Instruments::new(gpu);
            let (frames, fps) = (reference.frames.len(), reference.fps);
            instruments.set_reference(&cc.egui_ctx, Arc::from(reference.frames), fps);
            instruments.set_sample(
                &cc.egui_ctx,
                sample.map(|s| (Arc::from(s.clip.frames), s.clip.fps)),
            );
            Ok(Box::new(Viewer {
                instruments,
                view: View {
                    frame: 0,
                    delta: 0.05,
                    cutoff: None,
                    levels: None,
                    residual: Residual::Signed,
                    show_sample: false,
                },
                frames,
                fps,
                playing: false,
                cutoff: 0.71,
            }))
        }),
    );
    // The error of eframe may not be sent between threads, as anyhow wants it.
    opened.map_err(|error| anyhow::anyhow!("the window could not be opened: {error}"))
}
