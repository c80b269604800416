//! Small signs for buttons, drawn with lines and triangles: fonts lack most of them or draw them unevenly.

use eframe::egui::{self, Color32, Pos2, Rect, Shape, Stroke, pos2, vec2};

use crate::gui::theme;

/// A sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icon {
    /// Go.
    Play,
    /// Hold.
    Pause,
    /// To the beginning.
    Begin,
    /// One back.
    Back,
    /// One on.
    On,
    /// Again and again.
    Loop,
}

/// A square button with a sign and a name for those who cannot see it.
pub fn button_ui(ui: &mut egui::Ui, icon: Icon, name: &str, selected: bool) -> egui::Response {
    let size = vec2(theme::HIT_SIZE + 2.0, theme::HIT_SIZE);
    let (rect, response) = ui.allocate_exact_size(size, egui::Sense::click());
    response.widget_info(|| {
        egui::WidgetInfo::selected(egui::Role::Button, ui.is_enabled(), selected, name)
    });
    let visuals = ui.style().interact_selectable(&response, selected);
    ui.painter().rect(
        rect,
        visuals.corner_radius,
        visuals.weak_bg_fill,
        visuals.bg_stroke,
        egui::StrokeKind::Inside,
    );
    let colour = visuals.text_color();
    for shape in shapes(
        icon,
        Rect::from_center_size(rect.center(), vec2(10.0, 10.0)),
        colour,
    ) {
        ui.painter().add(shape);
    }
    response
}

fn triangle(points: [Pos2; 3], colour: Color32) -> Shape {
    Shape::convex_polygon(points.to_vec(), colour, Stroke::NONE)
}

fn shapes(icon: Icon, rect: Rect, colour: Color32) -> Vec<Shape> {
    let (left, right, top, bottom) = (rect.min.x, rect.max.x, rect.min.y, rect.max.y);
    let (middle, centre) = (rect.center().y, rect.center().x);
    let stroke = Stroke::new(2.0, colour);
    let bar = |x: f32| Shape::line_segment([pos2(x, top), pos2(x, bottom)], stroke);
    match icon {
        Icon::Play => vec![triangle(
            [
                pos2(left + 1.0, top),
                pos2(right, middle),
                pos2(left + 1.0, bottom),
            ],
            colour,
        )],
        Icon::Pause => vec![bar(left + 2.0), bar(right - 2.0)],
        Icon::Begin => vec![
            bar(left + 1.0),
            triangle(
                [
                    pos2(right, top),
                    pos2(left + 3.0, middle),
                    pos2(right, bottom),
                ],
                colour,
            ),
        ],
        Icon::Back => vec![Shape::line(
            vec![
                pos2(centre + 2.0, top),
                pos2(centre - 3.0, middle),
                pos2(centre + 2.0, bottom),
            ],
            stroke,
        )],
        Icon::On => vec![Shape::line(
            vec![
                pos2(centre - 2.0, top),
                pos2(centre + 3.0, middle),
                pos2(centre - 2.0, bottom),
            ],
            stroke,
        )],
        Icon::Loop => {
            // Most of a circle, with a head at its end.
            let radius = rect.width() * 0.42;
            let at = |turn: f32| {
                let angle = turn * std::f32::consts::TAU;
                rect.center() + radius * vec2(angle.cos(), angle.sin())
            };
            let points = (0..=14_u8)
                .map(|i| at(0.1 + 0.8 * f32::from(i) / 14.0))
                .collect();
            let tip = at(0.98);
            vec![
                Shape::line(points, Stroke::new(1.5, colour)),
                triangle(
                    [
                        tip + vec2(-4.0, -1.5),
                        tip + vec2(2.5, -2.0),
                        tip + vec2(0.0, 3.0),
                    ],
                    colour,
                ),
            ]
        }
    }
}
