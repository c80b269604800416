//! The radial profile: mean amplitude against spatial frequency, with the weight of the local loss drawn over it.

use eframe::egui;
use egui::{Align2, Pos2, Rect, Shape, Stroke, Ui, pos2};

use super::chrome::{axis_stroke, figures, quiet, series, small, text_inside};
use super::results::Motion;
use super::spectrum::period;
use crate::spectral::plain::{RadialProfile, weight_at_radius};

/// Most points along the weight's curve.
const CURVE_POINTS: usize = 96;
/// The corner of a spectrum, in cycles per pixel.
const FARTHEST: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// Room for the amplitude's numbers.
const LEFT: f32 = 38.0;

/// What is drawn.
pub(super) struct Curves<'a> {
    /// Reference, sample.
    pub sides: [Option<&'a Motion>; 2],
    pub delta: f64,
    pub cutoff: Option<f64>,
}

/// Where numbers lie on the screen.
struct Axes {
    place: Rect,
    /// Decades of the amplitude.
    low: f64,
    high: f64,
    /// Weight at the top.
    weight_high: f64,
}

impl Axes {
    fn x(&self, radius: f64) -> f32 {
        self.place.left() + (radius / FARTHEST) as f32 * self.place.width()
    }

    fn y(&self, amplitude: f64) -> f32 {
        let t = (amplitude.max(1e-12).log10() - self.low) / (self.high - self.low);
        self.place.bottom() - t.clamp(0.0, 1.0) as f32 * self.place.height()
    }

    fn weight_y(&self, weight: f64) -> f32 {
        let t = (weight / self.weight_high).clamp(0.0, 1.0);
        self.place.bottom() - t as f32 * self.place.height()
    }
}

impl Curves<'_> {
    /// What a period is counted in.
    fn unit(&self) -> &'static str {
        let shown = self.sides.iter().flatten().next();
        shown.map_or("px", |motion| motion.plane.unit())
    }

    fn weight(&self, radius: f64) -> f64 {
        let size = self
            .sides
            .iter()
            .flatten()
            .next()
            .map_or((64, 64), |m| (m.h, m.w));
        weight_at_radius(radius, size, self.delta, 1.0, self.cutoff)
    }

    /// Axes that hold every curve.
    fn axes(&self, place: Rect) -> Axes {
        let means = self.sides.iter().flatten().flat_map(|m| &m.profile.mean);
        let positive = means.copied().filter(|m| *m > 0.0);
        let (least, most) = positive.fold((f64::MAX, 0.0_f64), |(a, b), m| (a.min(m), b.max(m)));
        let high = if most > 0.0 { most.log10().ceil() } else { 1.0 };
        let low = if most > 0.0 {
            least.log10().floor()
        } else {
            0.0
        };
        // Without the cutoff, so that the curve keeps its place when the cutoff moves.
        let uncut = Self {
            sides: self.sides,
            delta: self.delta,
            cutoff: None,
        };
        let height = self
            .sides
            .iter()
            .flatten()
            .next()
            .map_or(64.0, |m| m.h as f64);
        Axes {
            place,
            // More than five decades would make all differences small.
            low: low.clamp(high - 5.0, high - 1.0),
            high,
            weight_high: uncut.weight(1.0 / height).max(1.0) * 1.15,
        }
    }
}

/// Draws the profile; what the pointer is on.
pub(super) fn profile_ui(
    ui: &Ui,
    rect: Rect,
    curves: &Curves<'_>,
    pointer: Option<Pos2>,
) -> Option<String> {
    let line = small(ui).size + 3.0;
    let place = Rect::from_min_max(
        pos2(rect.left() + LEFT, rect.top() + line + 6.0),
        pos2(rect.right() - 30.0, rect.bottom() - 2.0 * line - 6.0),
    );
    if place.width() < 30.0 || place.height() < 30.0 {
        return None;
    }
    let axes = curves.axes(place);
    ui.painter()
        .rect_filled(place, 2.0, ui.visuals().extreme_bg_color);
    grid(ui, &axes, rect, curves.unit());
    weight_curve(ui, &axes, curves);
    let inks = series(ui);
    for (index, (motion, ink)) in curves.sides.iter().zip(inks).enumerate() {
        let Some(motion) = motion else { continue };
        let points = points(&motion.profile, &axes);
        let stroke = Stroke::new(1.75, ink);
        if index == 0 {
            ui.painter().add(Shape::line(points, stroke));
        } else {
            // Dashed, so that the two are told apart without their colours.
            ui.painter()
                .extend(Shape::dashed_line(&points, stroke, 5.0, 3.0));
        }
    }
    legend(ui, rect, curves);
    let at = pointer.filter(|p| place.contains(*p))?;
    let radius = f64::from((at.x - place.left()) / place.width()) * FARTHEST;
    let stroke = axis_stroke(ui);
    ui.painter().vline(at.x, place.y_range(), stroke);
    let unit = curves.unit();
    let mut text = format!(
        "{radius:.3} cycles/{unit} · period {}",
        period(radius, unit)
    );
    for (motion, name) in curves.sides.iter().zip(["reference", "sample"]) {
        if let Some(motion) = motion {
            text += &format!(" · {name} {}", figures(mean_at(&motion.profile, radius)));
        }
    }
    Some(text + &format!(" · w {}", figures(curves.weight(radius))))
}

/// Mean amplitude of the ring nearest to a radius.
fn mean_at(profile: &RadialProfile, radius: f64) -> f64 {
    let rings = profile.cycles_per_pixel.iter().zip(&profile.mean);
    let nearest = rings.min_by(|a, b| (a.0 - radius).abs().total_cmp(&(b.0 - radius).abs()));
    nearest.map_or(0.0, |(_, mean)| *mean)
}

fn points(profile: &RadialProfile, axes: &Axes) -> Vec<Pos2> {
    let rings = profile.cycles_per_pixel.iter().zip(&profile.mean);
    rings
        .map(|(r, mean)| pos2(axes.x(*r), axes.y(*mean)))
        .collect()
}

/// Lines and numbers of both axes: decades at the left, weights at the right, frequencies below.
fn grid(ui: &Ui, axes: &Axes, rect: Rect, unit: &str) {
    let stroke = Stroke::new(1.0, ui.visuals().weak_text_color().gamma_multiply(0.25));
    let ink = quiet(ui);
    let font = small(ui);
    let painter = ui.painter();
    let place = axes.place;
    for decade in axes.low as i32..=axes.high as i32 {
        let y = axes.y(10_f64.powi(decade));
        painter.hline(place.x_range(), y, stroke);
        let label = match decade {
            -2..=3 => format!("{}", 10_f64.powi(decade)),
            _ => format!("1e{decade}"),
        };
        painter.text(
            pos2(place.left() - 4.0, y),
            Align2::RIGHT_CENTER,
            label,
            font.clone(),
            ink,
        );
    }
    let step = if place.width() < 150.0 { 0.25 } else { 0.1 };
    let mut tick = 0.0;
    while tick < FARTHEST {
        let x = axes.x(tick);
        painter.vline(x, place.y_range(), stroke);
        let label = if tick == 0.0 {
            "0".into()
        } else {
            format!("{tick:.2}").trim_end_matches('0').to_owned()
        };
        painter.text(
            pos2(x, place.bottom() + 2.0),
            Align2::CENTER_TOP,
            label,
            font.clone(),
            ink,
        );
        tick += step;
    }
    let below = pos2(place.center().x, rect.bottom());
    let name = format!("cycles/{unit}");
    text_inside(ui, rect, below, Align2::CENTER_BOTTOM, &name, ink);
    for weight in [0.0, axes.weight_high / 1.15] {
        let at = pos2(place.right() + 3.0, axes.weight_y(weight));
        text_inside(ui, rect, at, Align2::LEFT_CENTER, &figures(weight), ink);
    }
}

/// w(r) as a filled curve, and the cutoff as a line.
fn weight_curve(ui: &Ui, axes: &Axes, curves: &Curves<'_>) {
    let ink = ui.visuals().text_color();
    let fill = ink.gamma_multiply(0.10);
    let end = curves.cutoff.unwrap_or(FARTHEST).clamp(0.0, FARTHEST);
    let mut mesh = egui::Mesh::default();
    let mut line = Vec::new();
    for point in 0..=CURVE_POINTS {
        let radius = end * point as f64 / CURVE_POINTS as f64;
        let top = pos2(axes.x(radius), axes.weight_y(curves.weight(radius)));
        mesh.colored_vertex(top, fill);
        mesh.colored_vertex(pos2(top.x, axes.place.bottom()), fill);
        line.push(top);
    }
    for point in 0..CURVE_POINTS as u32 {
        mesh.add_triangle(2 * point, 2 * point + 1, 2 * point + 2);
        mesh.add_triangle(2 * point + 1, 2 * point + 2, 2 * point + 3);
    }
    ui.painter().add(Shape::mesh(mesh));
    ui.painter().add(Shape::line(
        line,
        Stroke::new(1.25, ink.gamma_multiply(0.7)),
    ));
    if let Some(cutoff) = curves.cutoff.filter(|c| *c <= FARTHEST) {
        let stroke = Stroke::new(1.5, ui.visuals().warn_fg_color);
        let x = axes.x(cutoff);
        let line = [pos2(x, axes.place.top()), pos2(x, axes.place.bottom())];
        ui.painter()
            .extend(Shape::dashed_line(&line, stroke, 2.0, 2.0));
    }
}

/// Names of the lines, above the plot; shorter ones where those do not fit beside each other.
fn legend(ui: &Ui, rect: Rect, curves: &Curves<'_>) {
    const GAP: f32 = 10.0;
    let inks = series(ui);
    let names = [("reference", "ref"), ("sample", "sample")];
    let mut entries = Vec::new();
    for ((motion, name), ink) in curves.sides.iter().zip(names).zip(inks) {
        if motion.is_some() {
            entries.push((name, ink));
        }
    }
    entries.push((("weight w(r)", "w(r)"), quiet(ui)));
    let width = |name: &str, ink| {
        let galley = ui.painter().layout_no_wrap(name.into(), small(ui), ink);
        galley.size().x + GAP
    };
    let full: f32 = entries.iter().map(|(name, ink)| width(name.0, *ink)).sum();
    let short = LEFT + full - GAP > rect.width();
    let mut x = rect.left() + LEFT;
    for ((long, brief), ink) in entries {
        let at = pos2(x, rect.top() + 2.0);
        let name = if short { brief } else { long };
        x = text_inside(ui, rect, at, Align2::LEFT_TOP, name, ink).right() + GAP;
    }
}
