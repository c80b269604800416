//! The spectrum of the motion vector under the playhead.

use eframe::egui;
use eframe::egui_wgpu::wgpu;
use egui::{Align2, Color32, Pos2, Rect, Stroke, Ui, pos2, vec2};

use super::View;
use super::chrome::{
    BAR_HEIGHT, Bar, axis_stroke, canvas_ui, chips_row_ui, chips_ui, colour_bar, empty_ui, figures,
    fitted, image, pixel_at, quiet, readout_ui, small, split_below, text_inside,
};
use super::picture::{Easel, Look, Picture, Values};
use super::profile::{Curves, profile_ui};
use super::results::{Engine, Motion, Shown};
use crate::gui::theme;
use crate::motion::picture::colour::Map;
use crate::spectral::plain::{
    frequency_radius, frequency_weight, weight_at_radius, weighted_log_amplitude, wrap_phase,
};
use crate::viz::{Paint, Weighting};

/// Room for the numbers of the axes.
const AXIS_WIDTH: f32 = 30.0;
const AXIS_HEIGHT: f32 = 15.0;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mode {
    #[default]
    Amplitude,
    Phase,
    Weighted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Which {
    #[default]
    Reference,
    Sample,
    Difference,
}

/// State of the pane.
pub(super) struct SpectrumPane {
    mode: Mode,
    which: Which,
    veil: bool,
    picture: Picture,
    /// What the processor computed, with the key of what it was taken from.
    plane: Option<(u64, Vec<f32>)>,
    /// What the device holds: the shown motion vector and the one it is compared with.
    loaded: Option<[Option<Loaded>; 2]>,
}

impl Default for SpectrumPane {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            which: Which::default(),
            veil: true,
            picture: Picture::default(),
            plane: None,
            loaded: None,
        }
    }
}

/// What is drawn: the motion of one side, or of the sample against the reference.
#[derive(Clone, Copy)]
struct Subject<'a> {
    motion: &'a Motion,
    against: Option<&'a Motion>,
    log_high: f64,
}

/// An amplitude in the memory of the window's device, and `ln(1 + w |F|)` of it.
struct Loaded {
    serial: u64,
    values: usize,
    amplitude: wgpu::Buffer,
    weighted: wgpu::Buffer,
}

impl Loaded {
    /// Uploads the amplitude unless it is there already, and weighs it anew.
    fn of(engine: &Engine, motion: &Motion, old: Option<Self>, weighting: &Weighting) -> Self {
        let values = motion.h * motion.w;
        let held = old.filter(|old| old.serial == motion.serial && old.values == values);
        let loaded = held.unwrap_or_else(|| Self {
            serial: motion.serial,
            values,
            amplitude: engine.gpu.upload("amplitude", &motion.amplitude),
            weighted: engine.weight.plane(&engine.gpu, values),
        });
        let buffers = (&loaded.amplitude, &loaded.weighted);
        engine.weight.weigh(&engine.gpu, buffers, weighting);
        loaded
    }
}

impl SpectrumPane {
    pub(super) fn ui(&mut self, ui: &mut Ui, view: &View, shown: &Shown, easel: &mut Easel) {
        let [reference, sample] = &shown.sides;
        if reference.clip.is_none() && sample.clip.is_none() {
            empty_ui(
                ui,
                "No spectrum yet",
                "Open a clip: the spatial frequencies of its motion appear here, with the weight that the local loss gives them.",
            );
            return;
        }
        chips_row_ui(ui, |ui| self.chips_row_ui(ui, sample.clip.is_some()));
        let which = match (view.show_sample, self.which) {
            (true, _) => Which::Sample,
            (false, which) => which,
        };
        let (rect, response) = canvas_ui(ui);
        let gap = 12.0;
        let split = (rect.width() * 0.5 - gap / 2.0)
            .min(rect.height() + AXIS_WIDTH)
            .max(60.0);
        let left = Rect::from_min_size(rect.min, vec2(split, rect.height()));
        let right = Rect::from_min_max(pos2(left.right() + gap, rect.top()), rect.max);

        let subject = match (which, &reference.motion, &sample.motion) {
            (Which::Reference, Some(motion), _) => Some((motion, None, reference.log_high)),
            (Which::Sample, _, Some(motion)) => Some((motion, None, sample.log_high)),
            (Which::Difference, Some(a), Some(b)) if (a.h, a.w) == (b.h, b.w) => {
                Some((b, Some(a), reference.log_high.max(sample.log_high)))
            }
            _ => None,
        };
        let pointer = response.hover_pos();
        let mut readout = None;
        if let Some((motion, against, log_high)) = subject {
            let subject = Subject {
                motion,
                against: against.map(|a| &**a),
                log_high,
            };
            readout = self.picture_ui(ui, view, easel, &subject, (left, pointer));
        } else {
            let text = match which {
                Which::Reference => shown.waiting[0].as_deref().unwrap_or("Computing…"),
                Which::Sample if sample.clip.is_none() => "No sample yet",
                Which::Sample => shown.waiting[1].as_deref().unwrap_or("Computing…"),
                Which::Difference if sample.clip.is_none() => "No sample to compare yet",
                Which::Difference => "The sample has another size",
            };
            missing(ui, left, text);
        }
        let curves = Curves {
            sides: [reference.motion.as_deref(), sample.motion.as_deref()],
            delta: view.delta,
            cutoff: view.cutoff,
        };
        let on_curve = profile_ui(ui, right, &curves, pointer);
        let idle = || {
            let tip = "low-frequency bias δ (exponent)";
            let unit = reference.plane.unit();
            let cut = view.cutoff.map_or("no cutoff".into(), |c| {
                format!("cutoff {} cycles/{unit}", figures(c))
            });
            let note = shown
                .note
                .as_deref()
                .map_or(String::new(), |n| format!(" · {n}"));
            format!("{tip} {:.3} · {cut}{note}", view.delta)
        };
        readout_ui(ui, &readout.or(on_curve).unwrap_or_else(idle));
    }

    fn chips_row_ui(&mut self, ui: &mut Ui, has_sample: bool) {
        chips_ui(
            ui,
            &mut self.mode,
            &[
                (
                    Mode::Amplitude,
                    "Amplitude",
                    "How much of each spatial frequency the motion holds, ln(1 + |F|). Slow, wide shapes are in the middle.",
                ),
                (
                    Mode::Phase,
                    "Phase",
                    "Where the shapes of each frequency lie, as an angle.",
                ),
                (
                    Mode::Weighted,
                    "Weighted",
                    "What the local loss sees: the amplitude times the weight w(r).",
                ),
            ],
        );
        if self.mode == Mode::Amplitude && self.which != Which::Difference {
            let chip = egui::Button::selectable(self.veil, "w(r)").min_size(vec2(0.0, 24.0));
            let tip = "Darken what the weight w(r) holds back: low-frequency bias δ (exponent) and cutoff.";
            if ui.add(chip).on_hover_text(tip).clicked() {
                self.veil = !self.veil;
            }
        }
        let choices = [
            (Which::Reference, "Ref.", "The clip's motion."),
            (Which::Sample, "Sample", "The newest sample's motion."),
            (Which::Difference, "Diff.", "Sample minus reference."),
        ];
        if has_sample {
            ui.separator();
            chips_ui(ui, &mut self.which, &choices);
        } else {
            self.which = Which::Reference;
        }
    }

    /// The picture with its axes and its colour bar; what the pointer is on.
    fn picture_ui(
        &mut self,
        ui: &Ui,
        view: &View,
        easel: &Easel,
        subject: &Subject<'_>,
        (rect, pointer): (Rect, Option<Pos2>),
    ) -> Option<String> {
        let (h, w) = (subject.motion.h, subject.motion.w);
        let (area, bar) = split_below(rect, BAR_HEIGHT);
        let area = Rect::from_min_max(
            pos2(area.left() + AXIS_WIDTH, area.top() + 4.0),
            pos2(area.right(), area.bottom() - AXIS_HEIGHT),
        );
        // Frequencies, not bins: both axes run from -0.5 to 0.5, so a picture of any shape has a square spectrum.
        let place = fitted(area, 1, 1);
        let weighting = Weighting::new(h, w, view.delta, view.cutoff);
        let bar_of = self.paint_ui(ui, easel, subject, &weighting, place);
        axes(ui, place, subject.motion.plane.unit());
        cutoff_ring(ui, place, view, (h, w));
        colour_bar(ui, bar, &bar_of);
        let (x, y) = pixel_at(place, (w, h), pointer)?;
        let at = place.min
            + vec2(
                (x as f32 + 0.5) / w as f32 * place.width(),
                (y as f32 + 0.5) / h as f32 * place.height(),
            );
        let stroke = Stroke::new(1.0, ui.visuals().strong_text_color());
        ui.painter().circle_stroke(at, 4.0, stroke);
        Some(self.readout(subject, view, (x, y)))
    }

    /// Draws the values and says what the colours mean.
    fn paint_ui(
        &mut self,
        ui: &Ui,
        easel: &Easel,
        subject: &Subject<'_>,
        weighting: &Weighting,
        place: Rect,
    ) -> Bar<'static> {
        let motion = subject.motion;
        let plain_key = (self.mode, motion.serial, subject.against.map(|m| m.serial));
        let (map, low, high, title) = match (self.mode, subject.against) {
            (Mode::Phase, _) => (
                Map::Cyclic,
                -std::f64::consts::PI,
                std::f64::consts::PI,
                "phase, radians",
            ),
            (Mode::Amplitude, None) => (Map::Magnitude, 0.0, subject.log_high, "ln(1 + |F|)"),
            (Mode::Weighted, None) => {
                let high = weighted_high(motion, weighting);
                (Map::Magnitude, 0.0, high, "ln(1 + w |F|)")
            }
            (_, Some(_)) => (Map::Diverging, -2.0, 2.0, "ln, sample - reference"),
        };
        let mut paint = Paint::new(motion.h, motion.w, low, high);
        let veil = self.veil && self.mode == Mode::Amplitude && subject.against.is_none();
        paint.veil = f32::from(veil);
        let weights = (weighting.delta.to_bits(), weighting.cutoff.to_bits());
        let weighed = veil || self.mode == Mode::Weighted;
        let key = egui::util::hash((plain_key, high.to_bits(), veil, weighed.then_some(weights)));
        let look = Look {
            map,
            paint,
            weighting: veil.then_some(*weighting),
        };
        let texture = self.draw(ui.ctx(), easel, key, (subject, weighting), &look);
        if let Some(texture) = texture {
            image(ui, texture, place, 1.0);
        }
        let (low, high) = match self.mode {
            Mode::Phase => ("-π".into(), "π".into()),
            Mode::Amplitude | Mode::Weighted => (figures(low), figures(high)),
        };
        Bar {
            map,
            low,
            high,
            title,
        }
    }

    fn draw(
        &mut self,
        ctx: &egui::Context,
        easel: &Easel,
        key: u64,
        (subject, weighting): (&Subject<'_>, &Weighting),
        look: &Look,
    ) -> Option<egui::TextureId> {
        let device = easel.engine.as_deref().filter(|_| easel.draws_by_device());
        let Some(engine) = device.filter(|_| self.mode != Mode::Phase) else {
            let stale = self.plane.as_ref().is_none_or(|(held, _)| *held != key);
            if stale {
                self.plane = Some((key, self.on_cpu(subject, weighting)));
            }
            let values = self.plane.as_ref().map_or(&[][..], |(_, v)| v.as_slice());
            let values = Values::Plane(values);
            return self.picture.draw(ctx, easel, key, values, look);
        };
        let size = subject.motion.h * subject.motion.w;
        if self.loaded.is_none() || self.picture.is_stale(key) {
            let weighting = match self.mode {
                Mode::Weighted => *weighting,
                Mode::Amplitude | Mode::Phase => {
                    Weighting::even(subject.motion.h, subject.motion.w)
                }
            };
            let old = self.loaded.take();
            let [own, other] = old.map_or([None, None], |[a, b]| [a, b]);
            let own = Loaded::of(engine, subject.motion, own, &weighting);
            let other = subject
                .against
                .map(|motion| Loaded::of(engine, motion, other, &weighting));
            self.loaded = Some([Some(own), other]);
        }
        let shown = match self.loaded.as_ref()? {
            [Some(own), Some(other)] if self.picture.is_stale(key) => {
                let pair = (&own.weighted, &other.weighted);
                engine.weight.difference(&engine.gpu, pair.0, pair.1, size)
            }
            [Some(own), _] => own.weighted.clone(),
            [None, _] => return None,
        };
        let values = Values::Device(&shown);
        self.picture.draw(ctx, easel, key, values, look)
    }

    /// The plane that is shown, on the processor.
    fn on_cpu(&self, subject: &Subject<'_>, weighting: &Weighting) -> Vec<f32> {
        let plane = |motion: &Motion| -> Vec<f32> {
            match self.mode {
                Mode::Phase => motion.phase.clone(),
                Mode::Amplitude => motion.amplitude.iter().map(|a| a.ln_1p()).collect(),
                Mode::Weighted => {
                    let cutoff = (weighting.cutoff >= 0.0).then_some(f64::from(weighting.cutoff));
                    let delta = f64::from(weighting.delta);
                    let weights = frequency_weight(motion.h, motion.w, delta, 1.0, cutoff, false);
                    weighted_log_amplitude(&motion.amplitude, &weights)
                }
            }
        };
        let mut values = plane(subject.motion);
        if let Some(against) = subject.against {
            for (value, other) in values.iter_mut().zip(plane(against)) {
                *value -= other;
                if self.mode == Mode::Phase {
                    *value = wrap_phase(f64::from(*value)) as f32;
                }
            }
        }
        values
    }

    fn readout(&self, subject: &Subject<'_>, view: &View, (x, y): (usize, usize)) -> String {
        let motion = subject.motion;
        let (h, w) = (motion.h, motion.w);
        let across = (x as f64 - (w / 2) as f64) / w as f64;
        let down = (y as f64 - (h / 2) as f64) / h as f64;
        let radius = frequency_radius(y, x, h, w);
        let at = y * w + x;
        let part = |plane: &[f32]| f64::from(plane.get(at).copied().unwrap_or_default());
        let weight = weight_of(motion, view, (x, y));
        let value = |motion: &Motion| match self.mode {
            Mode::Phase => part(&motion.phase),
            Mode::Amplitude => part(&motion.amplitude),
            Mode::Weighted => weight * part(&motion.amplitude),
        };
        let named = match self.mode {
            Mode::Phase => "phase",
            Mode::Amplitude => "|F|",
            Mode::Weighted => "w |F|",
        };
        let values = match subject.against {
            None => format!("{named} {}", figures(value(motion))),
            Some(other) => format!(
                "{named} {}, reference {}",
                figures(value(motion)),
                figures(value(other))
            ),
        };
        let unit = motion.plane.unit();
        format!(
            "{across:+.3}, {down:+.3} cycles/{unit} · period {} · {values} · w {}",
            period(radius, unit),
            figures(weight)
        )
    }
}

/// The weight of one bin, as [`frequency_weight`] gives it.
fn weight_of(motion: &Motion, view: &View, (x, y): (usize, usize)) -> f64 {
    let (h, w) = (motion.h, motion.w);
    if view
        .cutoff
        .is_some_and(|c| frequency_radius(y, x, h, w) > c)
    {
        return 0.0;
    }
    let (dy, dx) = (y as f64 - h as f64 / 2.0, x as f64 - w as f64 / 2.0);
    // Measured in pixels of the height, as the curve's radius is.
    let radius = dy.hypot(dx) / h as f64;
    weight_at_radius(radius, (h, w), view.delta, 1.0, None)
}

/// Largest value of the weighted spectrum: no bin of a ring exceeds the ring's largest amplitude times the weight at its
/// inner edge. A bound that is found from a few hundred rings, however large the picture is.
fn weighted_high(motion: &Motion, weighting: &Weighting) -> f64 {
    let (h, w) = (motion.h, motion.w);
    let cutoff = (weighting.cutoff >= 0.0).then_some(f64::from(weighting.cutoff));
    let delta = f64::from(weighting.delta);
    let rings = motion
        .profile
        .cycles_per_pixel
        .iter()
        .zip(&motion.profile.largest);
    let high = rings
        .filter(|(r, _)| cutoff.is_none_or(|c| **r <= c))
        .map(|(r, largest)| {
            largest * weight_at_radius(*r, (h.min(w), h.min(w)), delta, 1.0, None).max(1.0)
        })
        .fold(0.0, f64::max)
        .ln_1p();
    if high > 0.0 { high } else { 1.0 }
}

/// The length of one cycle, in `unit`.
pub(super) fn period(cycles_per_pixel: f64, unit: &str) -> String {
    if cycles_per_pixel <= 0.0 {
        "∞".into()
    } else {
        format!("{} {unit}", figures(1.0 / cycles_per_pixel))
    }
}

fn missing(ui: &Ui, rect: Rect, text: &str) {
    ui.painter().rect_filled(rect, 2.0, theme::sunken(ui));
    let colour = ui.visuals().weak_text_color();
    text_inside(ui, rect, rect.center(), Align2::CENTER_CENTER, text, colour);
}

/// Ticks at -0.5, 0 and 0.5 cycles per pixel on both axes.
fn axes(ui: &Ui, place: Rect, unit: &str) {
    let stroke = axis_stroke(ui);
    let ink = quiet(ui);
    let font = small(ui);
    for (t, label) in [(0.0, "-0.5"), (0.5, "0"), (1.0, "0.5")] {
        let x = place.left() + t * place.width();
        let y = place.top() + t * place.height();
        let painter = ui.painter();
        painter.line_segment(
            [pos2(x, place.bottom()), pos2(x, place.bottom() + 3.0)],
            stroke,
        );
        painter.line_segment([pos2(place.left() - 3.0, y), pos2(place.left(), y)], stroke);
        let under = pos2(x, place.bottom() + 3.0);
        // The unit stands once, where there is room for it.
        let with_unit = if t == 0.5 && place.width() > 100.0 {
            format!("0 cycles/{unit}")
        } else {
            label.to_owned()
        };
        painter.text(under, Align2::CENTER_TOP, with_unit, font.clone(), ink);
        let beside = pos2(place.left() - 5.0, y);
        painter.text(beside, Align2::RIGHT_CENTER, label, font.clone(), ink);
    }
}

/// The cutoff as a circle with its value.
fn cutoff_ring(ui: &Ui, place: Rect, view: &View, (h, w): (usize, usize)) {
    let painter = ui.painter().with_clip_rect(place);
    let ring = |radius: f64, stroke: Stroke| {
        let size = vec2(place.width(), place.height()) * radius as f32;
        // The zero frequency lies in the middle of its bin, half a bin beyond the middle of an even picture.
        let bin = vec2(place.width() / w as f32, place.height() / h as f32) / 2.0;
        let odd = vec2(
            if w % 2 == 1 { 0.0 } else { bin.x },
            if h % 2 == 1 { 0.0 } else { bin.y },
        );
        let centre = place.center() + odd;
        painter.add(egui::epaint::EllipseShape::stroke(centre, size, stroke));
    };
    if let Some(cutoff) = view.cutoff {
        ring(cutoff, Stroke::new(3.0, Color32::BLACK.gamma_multiply(0.6)));
        ring(cutoff, Stroke::new(1.5, ui.visuals().warn_fg_color));
        let label = format!("cutoff {}", figures(cutoff));
        let corner = place.shrink(3.0);
        let shade = Color32::BLACK.gamma_multiply(0.6);
        let back = ui.painter().add(egui::Shape::Noop);
        let ink = ui.visuals().warn_fg_color;
        let rect = text_inside(
            ui,
            corner,
            corner.right_top(),
            Align2::RIGHT_TOP,
            &label,
            ink,
        );
        let shape = egui::Shape::rect_filled(rect.expand(2.0), 2.0, shade);
        ui.painter().set(back, shape);
    }
}
