//! Motion in the picture.

use eframe::egui;
use egui::{Align2, Color32, Rect, Shape, Stroke, Ui, pos2, vec2};

use super::View;
use super::chrome::{
    BAR_HEIGHT, Bar, canvas_ui, chips_row_ui, chips_ui, colour, colour_bar, empty_ui, figures,
    fitted, image, pixel_at, readout_ui, split_below, text_inside, wheel,
};
use super::picture::{Easel, Look, Picture, Values};
use super::results::{ClipInput, FlowAt, Motion, Plane, Shown, Side};
use crate::gui::theme;
use crate::motion::picture::colour::{Map, of_motion};
use crate::spectral::plain::Residual;
use crate::viz::Paint;

/// Width of the opacity's slider, in points.
const OPACITY_WIDTH: f32 = 48.0;
/// Below this width everything stands in one row, in points.
const NARROW_ROW: f32 = 400.0;
/// Points between two arrows.
const ARROW_STEP: f32 = 18.0;
/// Motion below this share of the fastest is not drawn as an arrow.
const SLOWEST_ARROW: f32 = 0.08;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mode {
    #[default]
    Vectors,
    Arrows,
    Wheel,
    Speed,
}

/// State of the pane.
pub(super) struct MotionPane {
    mode: Mode,
    /// What the vectors are taken from.
    of: Plane,
    over: bool,
    opacity: f32,
    frame: Picture,
    plane: Picture,
}

impl Default for MotionPane {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            of: Plane::default(),
            over: true,
            opacity: 0.85,
            frame: Picture::default(),
            plane: Picture::default(),
        }
    }
}

impl MotionPane {
    /// What the motion vectors of all panes are taken from.
    pub(super) fn plane(&self) -> Plane {
        self.of
    }

    /// Draws the pane; `channels` are those of the model's latents.
    pub(super) fn ui(
        &mut self,
        ui: &mut Ui,
        view: &View,
        (shown, channels): (&Shown, usize),
        easel: &mut Easel,
    ) {
        let index = usize::from(view.show_sample && shown.sides[1].clip.is_some());
        let side = &shown.sides[index];
        let Some(clip) = &side.clip else {
            empty_ui(
                ui,
                "No motion yet",
                "Open a clip of at least two frames: what changes from frame to frame appears here.",
            );
            return;
        };
        chips_row_ui(ui, |ui| self.chips_row_ui(ui, view, (index == 1, channels)));
        let (rect, response) = canvas_ui(ui);
        let (area, bar) = split_below(rect, BAR_HEIGHT);
        let place = {
            let (h, w) = clip.size();
            fitted(area, w, h)
        };
        let (h, w) = match (self.mode, &side.motion) {
            (Mode::Vectors, Some(motion)) => (motion.h, motion.w),
            _ => clip.size(),
        };
        ui.painter().rect_filled(area, 2.0, theme::sunken(ui));
        let alone = !self.over;
        if !alone {
            let number = view.frame.min(clip.frames.len() - 1);
            let key = egui::util::hash((clip.id, number));
            if let Some(texture) = self.frame.frame(ui.ctx(), key, &clip.frames[number]) {
                image(ui, texture, place, 1.0);
            }
        }
        match self.mode {
            Mode::Vectors => self.vectors_ui(ui, view, side, easel, (place, bar)),
            Mode::Wheel | Mode::Speed => self.flow_ui(ui, side, easel, (place, bar)),
            Mode::Arrows => arrows_ui(ui, side, (place, bar)),
        }
        let hit = pixel_at(place, (w, h), response.hover_pos());
        if let (Some((x, y)), true) = (hit, response.hovered()) {
            let unit = vec2(place.width() / w as f32, place.height() / h as f32);
            let corner = place.min + vec2(x as f32, y as f32) * unit;
            ui.painter().rect_stroke(
                Rect::from_min_size(corner, unit).expand(1.0),
                0.0,
                Stroke::new(1.0, ui.visuals().strong_text_color()),
                egui::StrokeKind::Outside,
            );
        }
        let waiting = shown.waiting[index].as_deref();
        readout_ui(ui, &self.readout((side, waiting), clip, hit));
    }

    fn chips_row_ui(&mut self, ui: &mut Ui, view: &View, (is_sample, channels): (bool, usize)) {
        let vectors = match view.residual {
            Residual::Signed => {
                "What the method compares: the change of brightness to the next frame, with its sign."
            }
            Residual::Abs => {
                "What the method compares: the size of the change of brightness to the next frame."
            }
        };
        chips_ui(
            ui,
            &mut self.mode,
            &[
                (Mode::Vectors, "Vectors", vectors),
                (
                    Mode::Arrows,
                    "Arrows",
                    "Optical flow: where each part of the picture goes.",
                ),
                (
                    Mode::Wheel,
                    "Direction",
                    "Optical flow as colour: hue is the direction, brightness the speed.",
                ),
                (
                    Mode::Speed,
                    "Speed",
                    "Size of the optical flow, in pixels per frame.",
                ),
            ],
        );
        ui.separator();
        if self.mode == Mode::Vectors {
            self.of_ui(ui, channels);
        }
        let narrow = ui.max_rect().width() < NARROW_ROW;
        let label = if narrow { "Over" } else { "Over clip" };
        let chip = egui::Button::selectable(self.over, label).min_size(vec2(0.0, 24.0));
        let tip = "Draw the motion over the picture. Off: the motion alone.";
        if ui.add(chip).on_hover_text(tip).clicked() {
            self.over = !self.over;
        }
        // In a narrow pane the picture needs the height that a second row would take.
        let fits = ui.available_size_before_wrap().x >= OPACITY_WIDTH + 16.0;
        if self.over && self.mode != Mode::Arrows && (fits || !narrow) {
            // Where there is no room beside the chips, the slider is on a row of its own: it must not widen the pane.
            if !fits {
                ui.end_row();
            }
            ui.spacing_mut().slider_width = OPACITY_WIDTH;
            let slider = egui::Slider::new(&mut self.opacity, 0.1..=1.0).show_value(false);
            let response = ui.add(slider);
            let opacity = self.opacity;
            response.widget_info(|| {
                let value = f64::from(opacity);
                egui::WidgetInfo::slider(true, value, "Opacity of the motion")
            });
            response.on_hover_text(format!("Opacity {:.0} %", 100.0 * opacity));
        }
        if is_sample {
            ui.label(egui::RichText::new("Sample").strong());
        }
    }

    /// Pixels, or a channel of the latents.
    fn of_ui(&mut self, ui: &mut Ui, channels: usize) {
        let latents = (0..channels).map(Plane::Latent);
        let choice = egui::ComboBox::from_id_salt("plane")
            .width(64.0)
            .selected_text(self.of.name())
            .show_ui(ui, |ui| {
                for plane in std::iter::once(Plane::Pixels).chain(latents) {
                    ui.selectable_value(&mut self.of, plane, plane.name());
                }
            });
        let tip = "What the motion and its spectrum are taken from: the clip's brightness, or a channel of the model's latents, which are what the training compares.";
        // There is no room for a label; who listens hears one.
        ui.ctx()
            .accesskit_node_builder(choice.response.id, |node| node.set_label("Motion of"));
        choice.response.on_hover_text(tip);
    }

    fn strength(&self) -> (f32, f32) {
        if self.over {
            (1.0, self.opacity)
        } else {
            (0.0, 1.0)
        }
    }

    fn vectors_ui(
        &mut self,
        ui: &Ui,
        view: &View,
        side: &Side,
        easel: &Easel,
        (place, bar): (Rect, Rect),
    ) {
        let high = side.residual_high;
        let (map, low) = match view.residual {
            Residual::Signed => (Map::Diverging, -high),
            Residual::Abs => (Map::Magnitude, 0.0),
        };
        if let Some(motion) = &side.motion {
            let (fade, opacity) = self.strength();
            let mut paint = Paint::new(motion.h, motion.w, low, high);
            paint.fade = fade;
            let key = egui::util::hash((motion.serial, low.to_bits(), high.to_bits(), self.over));
            let values = Values::Plane(&motion.residual);
            let look = Look {
                map,
                paint,
                weighting: None,
            };
            if let Some(texture) = self.plane.draw(ui.ctx(), easel, key, values, &look) {
                image(ui, texture, place, opacity);
            }
        }
        let bar_of = Bar {
            map,
            low: figures(low),
            high: figures(high),
            title: match (side.plane, view.residual) {
                (Plane::Pixels, Residual::Signed) => "change of brightness (0..1), linear, signed",
                (Plane::Pixels, Residual::Abs) => "size of change of brightness (0..1), linear",
                (Plane::Latent(_), Residual::Signed) => "change of the latent, linear, signed",
                (Plane::Latent(_), Residual::Abs) => "size of change of the latent, linear",
            },
        };
        colour_bar(ui, bar, &bar_of);
    }

    /// The flow as colour: its speed alone, or its direction too.
    fn flow_ui(&mut self, ui: &Ui, side: &Side, easel: &Easel, (place, bar): (Rect, Rect)) {
        let high = full_speed(side);
        let map = match self.mode {
            Mode::Wheel => Map::Cyclic,
            _ => Map::Magnitude,
        };
        if let Some(flow) = &side.flow {
            let (fade, opacity) = self.strength();
            let mut paint = Paint::new(flow.flow.height, flow.flow.width, 0.0, high);
            paint.fade = fade;
            let key = egui::util::hash((flow.serial, high.to_bits(), self.over, self.mode));
            let look = Look {
                map,
                paint,
                weighting: None,
            };
            let values = match self.mode {
                Mode::Wheel => Values::Flow(&flow.pairs),
                _ => Values::Plane(&flow.speed),
            };
            if let Some(texture) = self.plane.draw(ui.ctx(), easel, key, values, &look) {
                image(ui, texture, place, opacity);
            }
        }
        if self.mode == Mode::Wheel {
            wheel_key(ui, bar, high);
            return;
        }
        let bar_of = Bar {
            map,
            low: "0".into(),
            high: figures(high),
            title: "speed, px/frame, linear",
        };
        colour_bar(ui, bar, &bar_of);
    }

    fn readout(
        &self,
        (side, waiting): (&Side, Option<&str>),
        clip: &ClipInput,
        hit: Option<(usize, usize)>,
    ) -> String {
        let ready = match self.mode {
            Mode::Vectors => side.motion.as_ref().map(|m| vector_readout(m, hit)),
            Mode::Arrows | Mode::Wheel | Mode::Speed => {
                side.flow.as_ref().map(|f| flow_readout(f, clip, hit))
            }
        };
        ready.unwrap_or_else(|| waiting.unwrap_or("Computing…").into())
    }
}

/// Speed of full colour: never so small that noise would look like motion.
fn full_speed(side: &Side) -> f64 {
    side.speed_high.max(0.5)
}

fn vector_readout(motion: &Motion, hit: Option<(usize, usize)>) -> String {
    let frames = format!("f {} to {}", motion.step, motion.step + 1);
    match hit {
        Some((x, y)) => {
            let value = motion
                .residual
                .get(y * motion.w + x)
                .copied()
                .unwrap_or_default();
            format!(
                "{frames} · x {x}, y {y} {} · change {}",
                motion.plane.unit(),
                figures(f64::from(value))
            )
        }
        None => {
            format!(
                "{frames} · {}, mean change {}, most {}",
                motion.plane.name().to_lowercase(),
                figures(motion.mean),
                figures(motion.most)
            )
        }
    }
}

fn flow_readout(flow: &FlowAt, clip: &ClipInput, hit: Option<(usize, usize)>) -> String {
    let frames = format!("f {} to {}", flow.step, flow.step + 1);
    match hit {
        Some((x, y)) => {
            let at = y * flow.flow.width + x;
            let part = |plane: &[f32]| f64::from(plane.get(at).copied().unwrap_or_default());
            let (dx, dy) = (part(&flow.flow.dx), part(&flow.flow.dy));
            format!(
                "{frames} · x {x}, y {y} px · right {}, down {} · {} px/frame, {} px/s",
                figures(dx),
                figures(dy),
                figures(dx.hypot(dy)),
                figures(dx.hypot(dy) * clip.fps)
            )
        }
        None => format!("{frames} · fastest {} px/frame", figures(flow.fastest)),
    }
}

/// The wheel and how fast its rim is.
fn wheel_key(ui: &Ui, bar: Rect, high: f64) {
    let radius = bar.height() / 2.0;
    wheel(ui, pos2(bar.left() + radius, bar.center().y), radius);
    let at = pos2(bar.left() + 2.0 * radius + 8.0, bar.center().y);
    let text = format!("rim: {} px/frame · hue is the direction", figures(high));
    text_inside(
        ui,
        bar,
        at,
        Align2::LEFT_CENTER,
        &text,
        ui.visuals().text_color(),
    );
}

/// Arrows on a grid, coloured by direction, the fastest as long as the grid's step and a half.
fn arrows_ui(ui: &Ui, side: &Side, (place, bar): (Rect, Rect)) {
    let high = full_speed(side) as f32;
    wheel_key(ui, bar, f64::from(high));
    let Some(at) = &side.flow else { return };
    let (w, h) = (at.flow.width, at.flow.height);
    let (columns, rows) = (
        ((place.width() / ARROW_STEP) as usize).clamp(1, w),
        ((place.height() / ARROW_STEP) as usize).clamp(1, h),
    );
    let painter = ui.painter().with_clip_rect(place.expand(2.0));
    let shade = Color32::BLACK.gamma_multiply(0.75);
    for row in 0..rows {
        for column in 0..columns {
            let (u, v) = (
                (column as f32 + 0.5) / columns as f32,
                (row as f32 + 0.5) / rows as f32,
            );
            let (x, y) = ((u * w as f32) as usize, (v * h as f32) as usize);
            let from = place.min + vec2(u * place.width(), v * place.height());
            let motion = vec2(at.flow.dx[y * w + x], at.flow.dy[y * w + x]) / high;
            if motion.length() < SLOWEST_ARROW {
                painter.circle_filled(
                    from,
                    1.0,
                    ui.visuals().weak_text_color().gamma_multiply(0.5),
                );
                continue;
            }
            let unit = motion.normalized();
            let ink = colour(of_motion(f64::from(unit.x), f64::from(unit.y)));
            let to = from + motion * ARROW_STEP * 1.5;
            let barb = 4.0_f32.min(motion.length() * ARROW_STEP);
            for (width, ink) in [(3.5, shade), (1.5, ink)] {
                let stroke = Stroke::new(width, ink);
                painter.line_segment([from, to], stroke);
                let side = vec2(-unit.y, unit.x) * barb * 0.6;
                let back = to - unit * barb;
                painter.add(Shape::line(vec![back + side, to, back - side], stroke));
            }
        }
    }
}
