//! Pictures of planes on the screen: drawn by the device where there is one, else by the twins.

use std::sync::Arc;

use eframe::egui;
use eframe::egui_wgpu::{RenderState, wgpu};
use egui::{ColorImage, TextureFilter, TextureHandle, TextureId, TextureOptions};

use super::results::Engine;
use crate::motion::picture::colour::Map;
use crate::video::Frame;
use crate::viz::{Canvas, Paint, Table, Weighting, twin};

/// Values stay squares when they are enlarged: a smoothed pixel would show numbers that are not there.
const SHARP: TextureOptions = TextureOptions {
    magnification: TextureFilter::Nearest,
    minification: TextureFilter::Linear,
    wrap_mode: egui::TextureWrapMode::ClampToEdge,
    mipmap_mode: None,
};

/// What draws: the window's renderer and, once they are made, the pipelines.
#[derive(Default)]
pub(super) struct Easel {
    state: Option<RenderState>,
    pub engine: Option<Arc<Engine>>,
}

impl Easel {
    pub(super) fn new(state: Option<&RenderState>) -> Self {
        Self {
            state: state.cloned(),
            engine: None,
        }
    }

    pub(super) fn draws_by_device(&self) -> bool {
        self.device().is_some()
    }

    fn device(&self) -> Option<(&RenderState, &Engine)> {
        Some((self.state.as_ref()?, self.engine.as_deref()?))
    }
}

/// What a picture shows.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    /// A plane of numbers.
    Plane(&'a [f32]),
    /// A flow's pairs.
    Flow(&'a [[f32; 2]]),
    /// A plane that only the device has.
    Device(&'a wgpu::Buffer),
}

/// How it shows it.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub map: Map,
    pub paint: Paint,
    /// The disc of weights over a spectrum.
    pub weighting: Option<Weighting>,
}

/// A picture that is drawn again only when what it shows has changed.
#[derive(Default)]
pub(super) struct Picture {
    key: Option<u64>,
    canvas: Option<(Canvas, TextureId)>,
    texture: Option<TextureHandle>,
    by_device: bool,
}

impl Picture {
    /// The texture to show; `key` names everything that the picture depends on.
    pub(super) fn draw(
        &mut self,
        ctx: &egui::Context,
        easel: &Easel,
        key: u64,
        values: Values<'_>,
        look: &Look,
    ) -> Option<TextureId> {
        let device = easel.device();
        if self.key != Some(key) || self.by_device != device.is_some() {
            match device {
                Some((state, engine)) => self.on_device(state, engine, values, look),
                None => self.on_cpu(ctx, values, look),
            }
            self.key = Some(key);
            self.by_device = device.is_some();
        }
        if self.by_device {
            self.canvas.as_ref().map(|(_, id)| *id)
        } else {
            self.texture.as_ref().map(TextureHandle::id)
        }
    }

    /// Whether the next [`draw`](Self::draw) with this key draws anew.
    pub(super) fn is_stale(&self, key: u64) -> bool {
        self.key != Some(key) || !self.by_device
    }

    fn on_device(&mut self, state: &RenderState, engine: &Engine, values: Values<'_>, look: &Look) {
        let gpu = &engine.gpu;
        let (h, w) = (look.paint.h as usize, look.paint.w as usize);
        if self.canvas.as_ref().is_none_or(|(c, _)| c.size() != (w, h)) {
            let canvas = Canvas::new(gpu, h, w);
            let mut renderer = state.renderer.write();
            if let Some((_, old)) = self.canvas.take() {
                renderer.free_texture(&old);
            }
            let sampler = wgpu::SamplerDescriptor {
                label: Some("instrument"),
                mag_filter: wgpu::FilterMode::Nearest,
                min_filter: wgpu::FilterMode::Linear,
                ..wgpu::SamplerDescriptor::default()
            };
            let id = renderer.register_native_texture_with_sampler_options(
                &state.device,
                &canvas.view,
                sampler,
            );
            self.canvas = Some((canvas, id));
        }
        let Some((canvas, _)) = &self.canvas else {
            return;
        };
        let (buffer, table) = match values {
            Values::Device(buffer) => (buffer.clone(), Table::Map(look.map)),
            Values::Plane(plane) => (gpu.upload("plane", plane), Table::Map(look.map)),
            Values::Flow(pairs) => (gpu.upload("flow", pairs), Table::Flow),
        };
        match &look.weighting {
            Some(weighting) => {
                let style = (look.map, &look.paint);
                engine
                    .painter
                    .spectrum(gpu, canvas, &buffer, style, weighting);
            }
            None => engine
                .painter
                .plane(gpu, canvas, &buffer, (table, &look.paint)),
        }
    }

    fn on_cpu(&mut self, ctx: &egui::Context, values: Values<'_>, look: &Look) {
        let rgba = match (values, &look.weighting) {
            (Values::Plane(plane), Some(weighting)) => {
                twin::spectrum(plane, look.map, &look.paint, weighting)
            }
            (Values::Plane(plane), None) => twin::plane(plane, look.map, &look.paint),
            (Values::Flow(pairs), _) => twin::flow(pairs, &look.paint),
            (Values::Device(_), _) => return,
        };
        let size = [look.paint.w as usize, look.paint.h as usize];
        let image = ColorImage::from_rgba_premultiplied(size, &rgba);
        self.set(ctx, image);
    }

    fn set(&mut self, ctx: &egui::Context, image: ColorImage) {
        match &mut self.texture {
            Some(texture) => texture.set(image, SHARP),
            None => self.texture = Some(ctx.load_texture("instrument", image, SHARP)),
        }
    }

    /// A frame of the clip itself.
    pub(super) fn frame(
        &mut self,
        ctx: &egui::Context,
        key: u64,
        frame: &Frame,
    ) -> Option<TextureId> {
        if self.key != Some(key) {
            let size = [frame.width as usize, frame.height as usize];
            self.set(ctx, ColorImage::from_rgb(size, &frame.rgb));
            self.key = Some(key);
        }
        self.texture.as_ref().map(TextureHandle::id)
    }
}
