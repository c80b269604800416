//! What the panes share: chips, colour bars, read-outs, empty states.

use eframe::egui;
use egui::{
    Align2, Color32, FontId, Mesh, Pos2, Rect, RichText, Sense, Shape, Stroke, TextStyle, Ui, Vec2,
    pos2, vec2,
};

use crate::motion::picture::colour::{Map, of_motion};

/// Annotations stay readable whatever the style's small text is, in points.
const SMALLEST: f32 = 11.0;
/// Below this width the chips move together, in points.
const NARROW: f32 = 460.0;
/// Steps of a drawn colour bar.
const BAR_STEPS: usize = 48;
/// Height of a colour bar with its labels.
pub(in crate::gui) const BAR_HEIGHT: f32 = 26.0;
/// Height of a line that tells what the pointer is on.
pub(super) const READOUT_HEIGHT: f32 = 20.0;

/// A colour of a map as egui's.
pub(super) fn colour([r, g, b]: [u8; 3]) -> Color32 {
    Color32::from_rgb(r, g, b)
}

/// Small text, as annotations use it.
pub(super) fn small(ui: &Ui) -> FontId {
    let mut font = TextStyle::Small.resolve(ui.style());
    font.size = font.size.max(SMALLEST);
    font
}

/// Annotations: quieter than text, but to be read.
pub(super) fn quiet(ui: &Ui) -> Color32 {
    ui.visuals().text_color().gamma_multiply(0.8)
}

/// Line colours of reference and sample.
pub(super) fn series(ui: &Ui) -> [Color32; 2] {
    [ui.visuals().hyperlink_color, ui.visuals().warn_fg_color]
}

/// A row of chips, closer together where the pane is narrow.
pub(super) fn chips_row_ui(ui: &mut Ui, chips: impl FnOnce(&mut Ui)) {
    let narrow = ui.available_width() < NARROW;
    ui.horizontal_wrapped(|ui| {
        if narrow {
            ui.spacing_mut().button_padding.x = 4.0;
            ui.spacing_mut().item_spacing.x = 2.0;
        }
        chips(ui);
    });
}

/// One of a few choices in a row; `choices` are value, label and what it shows.
pub(super) fn chips_ui<T: Copy + PartialEq>(
    ui: &mut Ui,
    chosen: &mut T,
    choices: &[(T, &str, &str)],
) {
    for &(value, label, tip) in choices {
        let chip = egui::Button::selectable(*chosen == value, label).min_size(vec2(0.0, 24.0));
        if ui.add(chip).on_hover_text(tip).clicked() {
            *chosen = value;
        }
    }
}

/// A pane with nothing to show yet says why and what to do.
pub(super) fn empty_ui(ui: &mut Ui, headline: &str, advice: &str) {
    let rect = ui.available_rect_before_wrap();
    let mut inner = ui.new_child(
        egui::UiBuilder::new()
            .max_rect(rect.shrink2(vec2(16.0, 8.0)))
            .layout(egui::Layout::top_down(egui::Align::Center)),
    );
    inner.add_space((rect.height() / 2.0 - 32.0).max(0.0));
    inner.label(RichText::new(headline).strong());
    inner.add_space(4.0);
    inner.label(RichText::new(advice).weak());
    ui.advance_cursor_after_rect(rect);
}

/// The largest rectangle of that shape in the middle of another.
pub(super) fn fitted(rect: Rect, width: usize, height: usize) -> Rect {
    let aspect = vec2(width.max(1) as f32, height.max(1) as f32);
    let scale = (rect.width() / aspect.x)
        .min(rect.height() / aspect.y)
        .max(0.0);
    Rect::from_center_size(rect.center(), aspect * scale)
}

/// Text that stays inside `bounds`.
pub(super) fn text_inside(
    ui: &Ui,
    bounds: Rect,
    at: Pos2,
    anchor: Align2,
    text: &str,
    colour: Color32,
) -> Rect {
    let galley = ui.painter().layout_no_wrap(text.into(), small(ui), colour);
    let mut rect = anchor.anchor_size(at, galley.size());
    let shift = vec2(
        (bounds.left() - rect.left()).max(0.0) + (bounds.right() - rect.right()).min(0.0),
        (bounds.top() - rect.top()).max(0.0) + (bounds.bottom() - rect.bottom()).min(0.0),
    );
    rect = rect.translate(shift);
    ui.painter().galley(rect.min, galley, colour);
    rect
}

/// What a colour bar says.
pub(in crate::gui) struct Bar<'a> {
    pub map: Map,
    pub low: String,
    pub high: String,
    /// Quantity, unit and scale.
    pub title: &'a str,
}

/// The colours of a map from left to right.
fn ramp(ui: &Ui, strip: Rect, map: Map) {
    let mut mesh = Mesh::default();
    for step in 0..=BAR_STEPS {
        let t = step as f32 / BAR_STEPS as f32;
        let ink = colour(map.colour(f64::from(t)));
        let x = strip.left() + t * strip.width();
        mesh.colored_vertex(pos2(x, strip.top()), ink);
        mesh.colored_vertex(pos2(x, strip.bottom()), ink);
    }
    for step in 0..BAR_STEPS as u32 {
        let at = 2 * step;
        mesh.add_triangle(at, at + 1, at + 2);
        mesh.add_triangle(at + 1, at + 2, at + 3);
    }
    ui.painter().add(Shape::mesh(mesh));
}

/// A colour bar in one line of text, its ends at its sides; what does not fit is left out, the meaning first.
pub(super) fn short_bar(ui: &Ui, rect: Rect, bar: &Bar<'_>) {
    const STRIP: f32 = 40.0;
    let layout = |text: &str, ink| ui.painter().layout_no_wrap(text.into(), small(ui), ink);
    let plain = ui.visuals().text_color();
    let (low, high) = (layout(&bar.low, plain), layout(&bar.high, plain));
    let title = layout(bar.title, quiet(ui));
    let needed = low.size().x + high.size().x + STRIP + 8.0;
    if needed > rect.width() {
        return;
    }
    let strip = rect.left() + low.size().x + 4.0;
    let end = strip + STRIP + 4.0;
    let after = end + high.size().x + 8.0;
    let middle = rect.top() + 0.6 * small(ui).size;
    let painter = ui.painter();
    painter.galley(rect.min, low, plain);
    let (from, to) = (pos2(strip, middle - 3.0), pos2(strip + STRIP, middle + 3.0));
    ramp(ui, Rect::from_min_max(from, to), bar.map);
    painter.galley(pos2(end, rect.top()), high, plain);
    if after + title.size().x <= rect.right() {
        painter.galley(pos2(after, rect.top()), title, quiet(ui));
    }
}

/// A colour bar over the whole width of `rect`, its ends and its meaning below it.
pub(in crate::gui) fn colour_bar(ui: &Ui, rect: Rect, bar: &Bar<'_>) {
    let strip = Rect::from_min_size(rect.min, vec2(rect.width(), 8.0));
    ramp(ui, strip, bar.map);
    let (weak, plain) = (quiet(ui), ui.visuals().text_color());
    let y = strip.bottom() + 2.0;
    let low = text_inside(
        ui,
        rect,
        pos2(rect.left(), y),
        Align2::LEFT_TOP,
        &bar.low,
        plain,
    );
    let high = text_inside(
        ui,
        rect,
        pos2(rect.right(), y),
        Align2::RIGHT_TOP,
        &bar.high,
        plain,
    );
    let between = Rect::from_min_max(
        pos2(low.right() + 6.0, y),
        pos2(high.left() - 6.0, rect.bottom()),
    );
    let galley = ui
        .painter()
        .layout_no_wrap(bar.title.into(), small(ui), weak);
    // In a narrow pane the numbers matter more than their name, which the chip above tells as well.
    if galley.size().x <= between.width() {
        let at = pos2(between.center().x - galley.size().x / 2.0, y);
        ui.painter().galley(at, galley, weak);
    }
}

/// The colour wheel of a flow picture: the colour of motion from the centre outwards.
pub(super) fn wheel(ui: &Ui, centre: Pos2, radius: f32) {
    const SPOKES: u32 = 48;
    const RINGS: u32 = 6;
    let mut mesh = Mesh::default();
    for ring in 0..=RINGS {
        for spoke in 0..SPOKES {
            let (sin, cos) = (std::f32::consts::TAU * spoke as f32 / SPOKES as f32).sin_cos();
            let speed = ring as f32 / RINGS as f32;
            let direction = vec2(cos, sin) * speed;
            let ink = colour(of_motion(f64::from(direction.x), f64::from(direction.y)));
            mesh.colored_vertex(centre + direction * radius, ink);
        }
    }
    for ring in 0..RINGS {
        for spoke in 0..SPOKES {
            let next = (spoke + 1) % SPOKES;
            let (inner, outer) = (ring * SPOKES, (ring + 1) * SPOKES);
            mesh.add_triangle(inner + spoke, outer + spoke, outer + next);
            mesh.add_triangle(inner + spoke, outer + next, inner + next);
        }
    }
    ui.painter().add(Shape::mesh(mesh));
}

/// A line of small text that fills the width, cut off with dots where it is too long.
pub(super) fn readout_ui(ui: &mut Ui, text: &str) {
    let font = small(ui);
    let size = vec2(ui.available_width(), READOUT_HEIGHT);
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    let mut job = egui::text::LayoutJob::single_section(
        text.to_owned(),
        egui::TextFormat::simple(font, quiet(ui)),
    );
    job.wrap = egui::text::TextWrapping::truncate_at_width(rect.width());
    let galley = ui.painter().layout_job(job);
    let at = pos2(rect.left(), rect.center().y - galley.size().y / 2.0);
    let cut = galley.elided;
    ui.painter()
        .galley(at, galley, ui.visuals().weak_text_color());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, text));
    if cut {
        response.on_hover_text(text);
    }
}

/// The pixel of a picture of `size` (columns, rows) that the pointer is on.
pub(super) fn pixel_at(
    rect: Rect,
    (w, h): (usize, usize),
    pointer: Option<Pos2>,
) -> Option<(usize, usize)> {
    let at = pointer.filter(|p| rect.contains(*p))? - rect.min;
    let x = (at.x / rect.width() * w as f32) as usize;
    let y = (at.y / rect.height() * h as f32) as usize;
    Some((x.min(w.saturating_sub(1)), y.min(h.saturating_sub(1))))
}

/// A thin line in the colour of axes.
pub(super) fn axis_stroke(ui: &Ui) -> Stroke {
    Stroke::new(1.0, ui.visuals().weak_text_color().gamma_multiply(0.6))
}

/// A picture in a rectangle.
pub(super) fn image(ui: &Ui, texture: egui::TextureId, rect: Rect, opacity: f32) {
    let whole = Rect::from_min_max(Pos2::ZERO, pos2(1.0, 1.0));
    ui.painter()
        .image(texture, rect, whole, Color32::WHITE.gamma_multiply(opacity));
}

/// A number with about three figures.
pub(in crate::gui) fn figures(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if !(0.000_95..9999.5).contains(&size) {
        format!("{value:.1e}")
    } else if size >= 99.95 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.095 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// Room for the picture of a pane, and below it for a bar of `below` points.
pub(super) fn split_below(rect: Rect, below: f32) -> (Rect, Rect) {
    let edge = (rect.bottom() - below).max(rect.top());
    (
        Rect::from_min_max(rect.min, pos2(rect.right(), edge - 4.0)),
        Rect::from_min_max(pos2(rect.left(), edge), rect.max),
    )
}

/// The rest of the pane but for the read-out.
pub(super) fn canvas_ui(ui: &mut Ui) -> (Rect, egui::Response) {
    let size = ui.available_size() - Vec2::new(0.0, READOUT_HEIGHT + ui.spacing().item_spacing.y);
    ui.allocate_exact_size(size.max(vec2(40.0, 40.0)), Sense::hover())
}
