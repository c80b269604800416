//! The numbers of a run as curves and as a map.

use eframe::egui::{self, ColorImage, TextureHandle, TextureOptions, vec2};
use egui_plot::{Corner, Legend, Line, LineStyle, Plot, PlotPoints, VLine};

use crate::gui::run::Run;
use crate::gui::theme;
use crate::motion::picture::colour::Map;
use crate::train::StepStats;

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
    let legend = Legend::default()
        .position(Corner::RightTop)
        .text_style(egui::TextStyle::Small)
        .background_alpha(0.6)
        .follow_insertion_order(true);
    let lines: Vec<Line<'_>> = curves
        .into_iter()
        .enumerate()
        .map(|(index, (name, read))| {
            let points: PlotPoints<'_> = run
                .stats
                .iter()
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
        .legend(legend)
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

/// What a band sees.
fn band_name(band: usize, bands: usize) -> String {
    match band {
        0 => "slowest".to_owned(),
        1 => "fastest".to_owned(),
        _ if band + 1 == bands => "slow".to_owned(),
        _ => format!("detail {band}"),
    }
}

/// The norm of all gradients, with a warning when there is none.
pub fn gradients_ui(run: &Run, ui: &mut egui::Ui) {
    if run.stats.last().is_some_and(|stats| stats.grad_norm <= 0.0) {
        ui.colored_label(
            theme::warning(ui),
            "No gradient arrives: nothing is learnt.",
        );
    }
    let curves = vec![curve("gradient norm", |stats| stats.grad_norm)];
    curves_ui(run, ui, "gradients", curves);
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
    let room = ui.available_size() - vec2(70.0, 18.0);
    ui.horizontal_top(|ui| {
        let (names, _) = ui.allocate_exact_size(vec2(56.0, room.y), egui::Sense::hover());
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
    ui.label(
        egui::RichText::new(format!(
            "dark 0, bright {most:.3}; linear; steps from left to right"
        ))
        .small()
        .color(theme::weak(ui)),
    );
}

/// Rows rise from slow to fast; the numbers name the slowest first and then count from the fastest.
fn band_row(band: usize, bands: usize) -> usize {
    if band == 0 { 0 } else { bands - band }
}

fn map_image(run: &Run, bands: usize, most: f64) -> ColorImage {
    let steps = run.stats.len();
    let mut image = ColorImage::filled([steps, bands], theme::mapped(Map::Magnitude.colour(0.0)));
    for (x, stats) in run.stats.iter().enumerate() {
        for (band, value) in stats.bands.iter().enumerate().take(bands) {
            let y = bands - 1 - band_row(band, bands);
            let share = if most > 0.0 { value / most } else { 0.0 };
            image.pixels[y * steps + x] = theme::mapped(Map::Magnitude.colour(share));
        }
    }
    image
}
