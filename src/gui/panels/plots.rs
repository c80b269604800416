//! The numbers of a run as curves and as a map.

use eframe::egui::{self, ColorImage, TextureHandle, TextureOptions, vec2};
use egui_plot::{Line, LineStyle, Plot, PlotPoints, VLine};

use crate::gui::instruments::{BAR_HEIGHT, Bar, colour_bar, figures, scale_name};
use crate::gui::run::Run;
use crate::gui::theme;
use crate::motion::picture::colour::Map;
use crate::train::StepStats;

/// Points of a curve, and columns of the map, at most: more than a screen has.
const MOST_POINTS: usize = 1500;
/// Room for the names of the bands, in points.
const NAMES: f32 = 66.0;

/// A name and what it reads from a step.
type Curve<'a> = (String, Box<dyn Fn(&StepStats) -> Option<f64> + 'a>);

fn curve<'a>(name: &str, read: impl Fn(&StepStats) -> f64 + 'a) -> Curve<'a> {
    (name.to_owned(), Box::new(move |stats| Some(read(stats))))
}

fn curves_ui(run: &Run, ui: &mut egui::Ui, id: &str, curves: Vec<Curve<'_>>) {
    if run.stats.is_empty() {
        ui.weak("The first step is on its way.");
        return;
    }
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing = vec2(10.0, 0.0);
        for (index, (name, read)) in curves.iter().enumerate() {
            let newest = run.stats.last().and_then(read);
            let value = newest.map_or(String::new(), |value| format!(" {value:.3}"));
            let text = egui::RichText::new(format!("{name}{value}")).small();
            ui.label(text.color(theme::series(ui, index)));
        }
    });
    let lines: Vec<Line<'_>> = curves
        .into_iter()
        .enumerate()
        .map(|(index, (name, read))| {
            let points: PlotPoints<'_> = run
                .stats
                .iter()
                .step_by(run.stats.len().div_ceil(MOST_POINTS))
                .filter_map(|stats| Some([f64::from(stats.step), read(stats)?]))
                .collect();
            Line::new(name, points)
                .color(theme::series(ui, index))
                .width(if index == 0 { 2.0 } else { 1.5 })
        })
        .collect();
    let marks: Vec<VLine> = run
        .marks
        .iter()
        .map(|mark| {
            VLine::new(mark.text.clone(), f64::from(mark.step) + 0.5)
                .color(theme::warning(ui))
                .style(LineStyle::dashed_loose())
        })
        .collect();
    Plot::new(id.to_owned())
        .height(ui.available_height().max(40.0))
        .allow_scroll(false)
        .include_y(0.0)
        .include_x(0.0)
        .include_x(f64::from(run.steps))
        .show_background(false)
        .set_margin_fraction(vec2(0.01, 0.08))
        .show(ui, |plot| {
            for line in lines {
                plot.line(line);
            }
            for mark in marks {
                plot.vline(mark);
            }
        });
}

/// The terms of the loss.
pub fn losses_ui(run: &Run, ui: &mut egui::Ui) {
    let curves = vec![
        curve("total", |stats| stats.total),
        curve("base", |stats| stats.base),
        curve("global", |stats| stats.global),
        curve("amplitude", |stats| stats.amplitude),
        curve("phase", |stats| stats.phase),
    ];
    curves_ui(run, ui, "losses", curves);
}

/// The wavelet bands.
pub fn bands_ui(run: &Run, ui: &mut egui::Ui) {
    let bands = run.stats.last().map_or(0, |stats| stats.bands.len());
    let curves = (0..bands)
        .map(|band| -> Curve<'_> {
            (
                band_name(band, bands),
                Box::new(move |stats: &StepStats| stats.bands.get(band).copied()),
            )
        })
        .collect();
    curves_ui(run, ui, "bands", curves);
}

/// The time scale a band sees.
fn band_name(band: usize, bands: usize) -> String {
    scale_name(band, bands.saturating_sub(1))
}

/// The norm of all gradients over the steps, and of each weight now; weights that learn nothing stand out.
pub fn gradients_ui(run: &Run, ui: &mut egui::Ui) {
    let dead = run.gradients.values().filter(|norm| **norm <= 0.0).count();
    if dead > 0 {
        let text = format!(
            "{dead} of {} weights get no gradient: they learn nothing.",
            run.gradients.len()
        );
        ui.colored_label(theme::warning(ui), text);
    }
    let room = ui.available_size();
    ui.horizontal_top(|ui| {
        let half = vec2(room.x * 0.45, room.y);
        ui.allocate_ui(half, |ui| {
            ui.set_min_size(half);
            ui.vertical(|ui| {
                let curves = vec![curve("all weights", |stats| stats.grad_norm)];
                curves_ui(run, ui, "gradients", curves);
            });
        });
        egui::ScrollArea::vertical()
            .auto_shrink(false)
            .show(ui, |ui| ui.vertical(|ui| weights_ui(run, ui)));
    });
}

fn weights_ui(run: &Run, ui: &mut egui::Ui) {
    if run.gradients.is_empty() {
        ui.weak("Each weight's own norm is told while a run trains.");
        return;
    }
    let most = run.gradients.values().copied().fold(0.0, f64::max);
    let mut rows: Vec<_> = run.gradients.iter().collect();
    // What learns nothing first, then from the strongest down.
    rows.sort_by(|(_, a), (_, b)| (**a > 0.0).cmp(&(**b > 0.0)).then(b.total_cmp(a)));
    let font = egui::TextStyle::Small.resolve(ui.style());
    for (name, norm) in rows {
        let size = vec2(ui.available_width() - 8.0, 16.0);
        let (rect, response) = ui.allocate_exact_size(size, egui::Sense::hover());
        if !ui.is_rect_visible(rect) {
            continue;
        }
        let share = if most > 0.0 {
            (norm / most) as f32
        } else {
            0.0
        };
        let mut bar = rect.shrink2(vec2(0.0, 2.0));
        bar.set_width(rect.width() * share);
        let painter = ui.painter_at(rect);
        painter.rect_filled(bar, 2.0, theme::accent(ui).gamma_multiply(0.4));
        let colour = if *norm > 0.0 {
            ui.visuals().text_color()
        } else {
            theme::warning(ui)
        };
        let text = format!("{norm:.1e}  {}", short_name(name));
        painter.text(
            rect.left_center() + vec2(4.0, 0.0),
            egui::Align2::LEFT_CENTER,
            text,
            font.clone(),
            colour,
        );
        response.on_hover_text(format!("{name}: {norm:.3e}"));
    }
}

/// The parts of a weight's name that tell it from the others.
fn short_name(name: &str) -> String {
    name.replace("temp_attentions", "temp")
        .replace(".transformer_blocks", "")
        .replace("_blocks", "")
        .replace(".weight", "")
}

/// Step by band as a heat map, the slowest band at the bottom.
pub fn map_ui(run: &Run, kept: &mut Option<(usize, TextureHandle)>, ui: &mut egui::Ui) {
    let bands = run.stats.iter().map(|stats| stats.bands.len()).max();
    let (Some(bands), steps) = (bands.filter(|bands| *bands > 0), run.stats.len()) else {
        ui.weak("The first step is on its way.");
        return;
    };
    let most = run
        .stats
        .iter()
        .flat_map(|stats| stats.bands.iter().copied())
        .fold(0.0, f64::max);
    if kept.as_ref().is_none_or(|(drawn, _)| *drawn != steps) {
        let image = map_image(run, bands, most);
        let texture = ui
            .ctx()
            .load_texture("loss map", image, TextureOptions::NEAREST);
        *kept = Some((steps, texture));
    }
    let Some((_, texture)) = kept else { return };
    let room = ui.available_size() - vec2(NAMES + 14.0, BAR_HEIGHT + 6.0);
    ui.horizontal_top(|ui| {
        let (names, _) = ui.allocate_exact_size(vec2(NAMES, room.y), egui::Sense::hover());
        let font = egui::TextStyle::Small.resolve(ui.style());
        let row = room.y / bands as f32;
        for band in 0..bands {
            let y = names.max.y - (band_row(band, bands) as f32 + 0.5) * row;
            ui.painter().text(
                egui::pos2(names.max.x, y),
                egui::Align2::RIGHT_CENTER,
                band_name(band, bands),
                font.clone(),
                theme::weak(ui),
            );
        }
        let (rect, response) =
            ui.allocate_exact_size(room.max(vec2(20.0, 20.0)), egui::Sense::hover());
        let all = egui::Rect::from_min_max(egui::pos2(0.0, 0.0), egui::pos2(1.0, 1.0));
        ui.painter()
            .image(texture.id(), rect, all, theme::untinted());
        if let Some(pointer) = response.hover_pos() {
            let share = (pointer - rect.min) / rect.size();
            let at = |share: f32, count: usize| {
                ((f64::from(share) * count as f64).max(0.0) as usize).min(count - 1)
            };
            let stats = &run.stats[at(share.x, steps)];
            let row = bands - 1 - at(share.y, bands);
            let band = (0..bands).find(|band| band_row(*band, bands) == row);
            if let Some((band, value)) = band.and_then(|b| Some((b, stats.bands.get(b)?))) {
                response.on_hover_text(format!(
                    "step {}, {}: {value:.4}",
                    stats.step,
                    band_name(band, bands)
                ));
            }
        }
    });
    let size = vec2(ui.available_width(), BAR_HEIGHT);
    let (mut bar, _) = ui.allocate_exact_size(size, egui::Sense::hover());
    bar.min.x += NAMES + ui.spacing().item_spacing.x;
    bar.max.x = bar.min.x + room.x.max(20.0);
    let bar_of = Bar {
        map: Map::Magnitude,
        low: "0".to_owned(),
        high: figures(most),
        title: "loss of the band, linear; steps from left to right",
    };
    colour_bar(ui, bar, &bar_of);
}

/// Rows rise from slow to fast; the numbers name the slowest first and then count from the fastest.
fn band_row(band: usize, bands: usize) -> usize {
    if band == 0 { 0 } else { bands - band }
}

fn map_image(run: &Run, bands: usize, most: f64) -> ColorImage {
    let every = run.stats.len().div_ceil(MOST_POINTS).max(1);
    let columns = run.stats.len().div_ceil(every);
    let ground = theme::mapped(Map::Magnitude.colour(0.0));
    let mut image = ColorImage::filled([columns, bands], ground);
    for (x, stats) in run.stats.iter().step_by(every).enumerate() {
        for (band, value) in stats.bands.iter().enumerate().take(bands) {
            let y = bands - 1 - band_row(band, bands);
            let share = if most > 0.0 { value / most } else { 0.0 };
            image.pixels[y * columns + x] = theme::mapped(Map::Magnitude.colour(share));
        }
    }
    image
}
