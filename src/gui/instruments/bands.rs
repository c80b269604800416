//! Wavelet bands along time: one row for each level, as on a mixing desk.

use eframe::egui;
use egui::{Align2, Color32, Pos2, Rect, Sense, Stroke, StrokeKind, Ui, pos2, vec2};

use super::View;
use super::chrome::{
    BAR_HEIGHT, Bar, READOUT_HEIGHT, axis_stroke, chips_row_ui, colour_bar, empty_ui, figures,
    fitted, image, pixel_at, quiet, readout_ui, series, short_bar, small, split_below, text_inside,
};
use super::desk::Desk;
use super::picture::{Easel, Look, Picture, Values};
use super::results::{Bands, Shown};
use super::scales::{scale_name, scales, seconds_name, times};
use crate::gui::theme;
use crate::motion::picture::colour::Map;
use crate::viz::Paint;

const LABEL_WIDTH: f32 = 84.0;
/// Width of a button's place; the button is two points smaller.
const BUTTON: f32 = 26.0;
const BARS_WIDTH: f32 = 56.0;
const MAX_ROW: f32 = 44.0;
const MIN_ROW: f32 = 26.0;
const GAP: f32 = 6.0;
/// Width of a row whose mosaic can be read.
const ROWS_LEAST: f32 = LABEL_WIDTH + 2.0 * BUTTON + GAP + 70.0 + GAP + BARS_WIDTH;
/// Less is no colour bar, in points.
const MIN_BAR: f32 = 110.0;

/// State of the pane.
#[derive(Default)]
pub(super) struct BandsPane {
    muted: Vec<usize>,
    solo: Vec<usize>,
    /// The band whose map is shown; the strongest until one is chosen.
    chosen: Option<usize>,
    /// Whether the mosaic shows how sample and reference differ.
    difference: bool,
    map: Picture,
}

/// Where the parts of a row lie.
struct Columns {
    label: Rect,
    solo: Rect,
    mute: Rect,
    mosaic: Rect,
    bars: Rect,
}

impl Columns {
    fn of(row: Rect) -> Self {
        let at = |left: f32, width: f32| {
            Rect::from_min_max(
                pos2(left, row.top() + 1.0),
                pos2(left + width, row.bottom() - 1.0),
            )
        };
        let button = |left: f32| {
            Rect::from_center_size(
                pos2(left + BUTTON / 2.0, row.center().y),
                vec2(BUTTON - 2.0, BUTTON.min(row.height()) - 2.0),
            )
        };
        let solo = row.left() + LABEL_WIDTH;
        let mosaic = solo + 2.0 * BUTTON + GAP;
        let bars = row.right() - BARS_WIDTH;
        Self {
            label: at(row.left(), LABEL_WIDTH - 4.0),
            solo: button(solo),
            mute: button(solo + BUTTON),
            mosaic: at(mosaic, (bars - GAP - mosaic).max(1.0)),
            bars: at(bars, BARS_WIDTH),
        }
    }
}

fn row_height(height: f32, count: usize) -> f32 {
    (height / count as f32).clamp(MIN_ROW, MAX_ROW)
}

/// Room for the rows and for the map: beside the rows where the pane is wide, below them where it is not.
fn split(body: Rect, head: f32, count: usize) -> (Rect, Rect) {
    if body.width() >= 360.0 && body.width() > 1.5 * body.height() {
        let most = body.width() - ROWS_LEAST - 12.0;
        let map = (0.36 * body.width()).min(body.height() * 1.1).min(most);
        let edge = body.right() - map;
        return (
            Rect::from_min_max(body.min, pos2(edge - 12.0, body.bottom())),
            Rect::from_min_max(pos2(edge, body.top()), body.max),
        );
    }
    // Rows that cannot all be seen are worse than no map.
    let rows = head + MIN_ROW * count as f32;
    if body.height() < rows + BAR_HEIGHT + 60.0 {
        return (body, Rect::from_min_size(body.max, egui::Vec2::ZERO));
    }
    let wish = head + row_height(0.55 * body.height(), count) * count as f32;
    let edge = body.top() + wish.min(body.height() - 60.0).max(0.0);
    (
        Rect::from_min_max(body.min, pos2(body.right(), edge)),
        Rect::from_min_max(pos2(body.left(), edge + 6.0), body.max),
    )
}

impl BandsPane {
    /// Which of so many bands are audible (`A, D1, .. DJ`); none while all are.
    pub(super) fn keep(&self, bands: usize) -> Option<Vec<bool>> {
        let solo = self.solo.iter().any(|b| *b < bands);
        let audible = |band: usize| {
            if solo {
                self.solo.contains(&band)
            } else {
                !self.muted.contains(&band)
            }
        };
        let keep: Vec<bool> = (0..bands).map(audible).collect();
        keep.contains(&false).then_some(keep)
    }

    /// The mixing desk's own buttons; the weights, when the mix is asked for.
    fn desk_ui(&mut self, ui: &mut Ui, desk: &Desk<'_>) -> Option<Vec<f64>> {
        let mix = self.keep(desk.bands.levels + 1);
        let mut asked = None;
        chips_row_ui(ui, |ui| {
            let button = |label| egui::Button::new(label).min_size(vec2(0.0, 24.0));
            let all = ui.add_enabled(mix.is_some(), button("All bands"));
            let tip = "Solo and mute nothing: the reference plays as it is.";
            if all.on_hover_text(tip).clicked() {
                self.solo.clear();
                self.muted.clear();
            }
            let train = ui.add_enabled(mix.is_some(), button("Train with this mix"));
            let tip = "The global term counts the bands that are heard, and no others: they become the band weights of the panel.";
            if train.on_hover_text(tip).clicked() {
                let weight = |keep: &bool| f64::from(u8::from(*keep));
                asked = mix.as_ref().map(|keep| keep.iter().map(weight).collect());
            }
            if desk.sample.is_some() {
                let chip = egui::Button::selectable(self.difference, "Diff.");
                let tip = "Rows show how much more of the motion the sample has than the reference, or how much less.";
                let chip = ui.add(chip.min_size(vec2(0.0, 24.0)));
                let chip = chip.on_hover_text(tip);
                let on = self.difference;
                // The spectrum beside it has a choice of the same word.
                chip.widget_info(|| {
                    egui::WidgetInfo::selected(egui::Role::Button, true, on, "Difference in time")
                });
                if chip.clicked() {
                    self.difference = !self.difference;
                }
            }
            let room = ui.available_size_before_wrap().x - 8.0;
            if room > MIN_BAR {
                let (rect, key) = ui.allocate_exact_size(vec2(room, 24.0), Sense::hover());
                short_bar(ui, rect.shrink2(vec2(8.0, 5.0)), &desk.key());
                key.on_hover_text("What the colours of the rows mean: mean square of the motion in a stretch of time, square-root scale.");
            }
        });
        asked
    }

    pub(super) fn ui(
        &mut self,
        ui: &mut Ui,
        view: &View,
        shown: &Shown,
        easel: &mut Easel,
    ) -> Option<Vec<f64>> {
        let [reference, sample] = &shown.sides;
        let Some(clip) = &reference.clip else {
            empty_ui(
                ui,
                "No motion in time yet",
                "Open a clip: its motion appears here in bands, from fast to slow, and each can be played alone.",
            );
            return None;
        };
        let Some(bands) = &reference.bands else {
            empty_ui(
                ui,
                "Computing the bands…",
                "Each row will show one time scale of the motion.",
            );
            return None;
        };
        let of_sample = sample.bands.as_deref().filter(|s| s.levels == bands.levels);
        let wanted = (self.chosen, self.difference);
        let desk = Desk::new(clip, (bands, of_sample), view, wanted);
        let count = bands.levels + 1;
        let asked = self.desk_ui(ui, &desk);
        let rect = ui.available_rect_before_wrap();
        let body = Rect::from_min_max(
            rect.min,
            pos2(rect.right(), rect.bottom() - READOUT_HEIGHT - 4.0),
        );
        ui.advance_cursor_after_rect(body);
        let head = small(ui).size + 6.0;
        let (rows, map) = split(body, head, count);
        heading(
            ui,
            Rect::from_min_size(rows.min, vec2(rows.width(), head)),
            of_sample.is_some(),
        );
        let rows = Rect::from_min_max(pos2(rows.left(), rows.top() + head), rows.max);
        let height = row_height(rows.height(), count);
        let mut readout = None;
        let mut inner = ui.new_child(
            egui::UiBuilder::new()
                .max_rect(rows)
                .layout(egui::Layout::top_down(egui::Align::Min)),
        );
        egui::ScrollArea::vertical()
            .id_salt("wavelet bands")
            .show(&mut inner, |ui| {
                ui.spacing_mut().item_spacing.y = 0.0;
                // Fastest first, the slow rest at the bottom.
                for band in (1..count).chain([0]) {
                    let (row, response) =
                        ui.allocate_exact_size(vec2(rows.width(), height), Sense::click());
                    if response.clicked() {
                        self.chosen = Some(band);
                    }
                    readout = self.row_ui(ui, row, band, &desk).or(readout.take());
                }
            });
        let on_map = self.map_ui(ui, map, &desk, easel);
        let idle = || {
            format!(
                "{}: {} of the motion's energy · {}",
                scale_name(desk.chosen, bands.levels),
                percent(share(bands, desk.chosen)),
                scales(desk.chosen, bands.levels, clip.fps)
            )
        };
        let note = if self.keep(count).is_some() {
            " · muted bands are left out of the reference's playback"
        } else {
            ""
        };
        readout_ui(ui, &(on_map.or(readout).unwrap_or_else(idle) + note));
        asked
    }

    /// One band; what the pointer is on.
    fn row_ui(&mut self, ui: &mut Ui, row: Rect, band: usize, desk: &Desk<'_>) -> Option<String> {
        let columns = Columns::of(row);
        let levels = desk.bands.levels;
        let name = scale_name(band, levels);
        if desk.chosen == band {
            ui.painter()
                .rect_filled(row, 2.0, ui.visuals().faint_bg_color);
            let edge = Rect::from_min_size(row.min, vec2(2.0, row.height()));
            ui.painter()
                .rect_filled(edge, 0.0, ui.visuals().hyperlink_color);
        }
        let audible = self.keep(levels + 1).is_none_or(|keep| keep[band]);
        let seconds = seconds_name(band, levels, desk.clip.fps);
        let strong = if audible {
            ui.visuals().text_color()
        } else {
            ui.visuals().weak_text_color()
        };
        let left = columns.label.left() + 6.0;
        let both = seconds.filter(|_| row.height() >= 34.0);
        let shift = if both.is_some() { 7.0 } else { 0.0 };
        text_inside(
            ui,
            columns.label,
            pos2(left, row.center().y - shift),
            Align2::LEFT_CENTER,
            &name,
            strong,
        );
        if let Some(seconds) = both {
            let weak = quiet(ui);
            text_inside(
                ui,
                columns.label,
                pos2(left, row.center().y + 7.0),
                Align2::LEFT_CENTER,
                &seconds,
                weak,
            );
        }
        let solo = format!("Solo {name}");
        let tip = "Play the reference with the motion of this band alone.";
        toggle_ui(ui, columns.solo, (&mut self.solo, band), [&solo, tip]);
        let mute = format!("Mute {name}");
        let tip = "Play the reference without the motion of this band.";
        toggle_ui(ui, columns.mute, (&mut self.muted, band), [&mute, tip]);
        mosaic(ui, columns.mosaic, band, desk, audible);
        bars(ui, columns.bars, band, desk);
        let pointer = ui
            .ctx()
            .pointer_hover_pos()
            .filter(|p| ui.clip_rect().contains(*p))?;
        if columns.mosaic.contains(pointer) {
            return Some(cell_readout(columns.mosaic, band, desk, pointer));
        }
        columns.bars.contains(pointer).then(|| {
            let mut text = format!(
                "{name} · reference energy {} ({})",
                figures(desk.bands.energies.energy(band)),
                percent(share(desk.bands, band))
            );
            if let Some(sample) = desk.sample {
                text += &format!(
                    " · sample {} ({})",
                    figures(sample.energies.energy(band)),
                    percent(share(sample, band))
                );
            }
            text
        })
    }

    /// Where in the picture the chosen band moves.
    fn map_ui(&mut self, ui: &Ui, rect: Rect, desk: &Desk<'_>, easel: &Easel) -> Option<String> {
        if rect.height() < BAR_HEIGHT + 24.0 || rect.width() < 40.0 {
            return None;
        }
        let (rms, high) = desk.shown.rms.get(desk.chosen)?;
        let (h, w) = desk.clip.size();
        let (area, bar) = split_below(rect, BAR_HEIGHT);
        ui.painter().rect_filled(area, 2.0, theme::sunken(ui));
        let place = fitted(area, w, h);
        let paint = Paint::new(h, w, 0.0, *high);
        let key = egui::util::hash((desk.shown.serial, desk.chosen));
        let look = Look {
            map: Map::Magnitude,
            paint,
            weighting: None,
        };
        if let Some(texture) = self
            .map
            .draw(ui.ctx(), easel, key, Values::Plane(rms), &look)
        {
            image(ui, texture, place, 1.0);
        }
        let name = scale_name(desk.chosen, desk.bands.levels);
        let title = format!("motion at {name}, RMS");
        colour_bar(
            ui,
            bar,
            &Bar {
                map: Map::Magnitude,
                low: "0".into(),
                high: figures(*high),
                title: &title,
            },
        );
        let pointer = ui
            .ctx()
            .pointer_hover_pos()
            .filter(|p| ui.clip_rect().contains(*p));
        let (x, y) = pixel_at(place, (w, h), pointer)?;
        let value = rms.get(y * w + x).copied().unwrap_or_default();
        Some(format!(
            "{name} · x {x}, y {y} px · RMS change {} · {}",
            figures(f64::from(value)),
            scales(desk.chosen, desk.bands.levels, desk.clip.fps)
        ))
    }
}

fn share(bands: &Bands, band: usize) -> f64 {
    // A band's energy in the signal is its mean square times its coefficients.
    let total = |b: usize| {
        bands
            .energies
            .over_time
            .get(b)
            .map_or(0.0, |steps| steps.iter().sum::<f64>())
    };
    let all: f64 = (0..=bands.levels).map(total).sum();
    if all > 0.0 { total(band) / all } else { 0.0 }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn heading(ui: &Ui, rect: Rect, has_sample: bool) {
    let columns = Columns::of(rect);
    let weak = quiet(ui);
    let y = rect.top();
    text_inside(
        ui,
        rect,
        pos2(columns.label.left() + 6.0, y),
        Align2::LEFT_TOP,
        "time scale",
        weak,
    );
    text_inside(
        ui,
        rect.with_max_x(columns.bars.left()),
        pos2(columns.mosaic.left(), y),
        Align2::LEFT_TOP,
        if columns.mosaic.width() > 110.0 {
            "energy over time"
        } else {
            "energy"
        },
        weak,
    );
    let [reference, sample] = series(ui);
    let drawn = text_inside(
        ui,
        rect,
        pos2(columns.bars.left(), y),
        Align2::LEFT_TOP,
        "ref",
        reference,
    );
    if has_sample {
        text_inside(
            ui,
            rect,
            pos2(drawn.right() + 4.0, y),
            Align2::LEFT_TOP,
            "sample",
            sample,
        );
    }
}

/// A small button, the first letter of its name, that holds a band in a list or takes it out.
fn toggle_ui(
    ui: &mut Ui,
    rect: Rect,
    (list, band): (&mut Vec<usize>, usize),
    [name, tip]: [&str; 2],
) {
    let on = list.contains(&band);
    let letter = egui::RichText::new(&name[..1]).font(small(ui));
    let button = egui::Button::selectable(on, letter).min_size(rect.size());
    // In a layout of its own: the rows below must not move.
    let mut inner = ui.new_child(egui::UiBuilder::new().max_rect(rect));
    let response = inner.add(button).on_hover_text(format!("{name}. {tip}"));
    response.widget_info(|| egui::WidgetInfo::selected(egui::Role::CheckBox, true, on, name));
    if response.clicked() {
        if on {
            list.retain(|b| *b != band);
        } else {
            list.push(band);
        }
    }
}

/// Motion vectors that one coefficient of a band spans.
fn span(band: usize, levels: usize) -> usize {
    1 << if band == 0 { levels } else { band }
}

/// Where one coefficient lies along the row.
fn cell(rect: Rect, index: usize, span: usize, steps: usize) -> Rect {
    let x = |step: usize| rect.left() + rect.width() * step.min(steps) as f32 / steps.max(1) as f32;
    Rect::from_min_max(
        pos2(x(index * span), rect.top() + 1.0),
        pos2(x((index + 1) * span), rect.bottom() - 1.0),
    )
}

fn mosaic(ui: &Ui, rect: Rect, band: usize, desk: &Desk<'_>, audible: bool) {
    let steps = desk.clip.steps();
    let span = span(band, desk.bands.levels);
    for (index, value) in desk.cells(band).enumerate() {
        let place = cell(rect, index, span, steps);
        let ink = desk
            .ink(value)
            .gamma_multiply(if audible { 1.0 } else { 0.25 });
        let gap = if place.width() > 6.0 { 1.0 } else { 0.0 };
        ui.painter()
            .rect_filled(place.with_max_x(place.right() - gap), 1.0, ink);
    }
    let step = desk.clip.step_at(desk.frame);
    let x = rect.left() + rect.width() * (step as f32 + 0.5) / steps as f32;
    ui.painter().vline(
        x,
        rect.y_range(),
        Stroke::new(2.5, Color32::BLACK.gamma_multiply(0.5)),
    );
    ui.painter()
        .vline(x, rect.y_range(), Stroke::new(1.0, Color32::WHITE));
}

fn cell_readout(rect: Rect, band: usize, desk: &Desk<'_>, pointer: Pos2) -> String {
    let steps = desk.clip.steps();
    let span = span(band, desk.bands.levels);
    let step = ((pointer.x - rect.left()) / rect.width() * steps as f32) as usize;
    let index = step / span;
    let energy = |bands: &Bands| {
        bands
            .energies
            .over_time
            .get(band)
            .and_then(|c| c.get(index))
            .copied()
            .unwrap_or_default()
    };
    let last = ((index + 1) * span).min(steps);
    let first = index * span;
    // The row says the time scale already, and the line must fit where the window is small.
    let place = format!("f {first} to {last}");
    let seen = match desk.sample {
        Some(sample) => format!(
            "{place} · energy {}, sample {}",
            figures(energy(desk.bands)),
            figures(energy(sample))
        ),
        None => format!(
            "{place}{} · energy {}",
            times(first, last, desk.clip.fps),
            figures(energy(desk.bands))
        ),
    };
    seen + " · " + &scales(band, desk.bands.levels, desk.clip.fps)
}

/// Energy of reference and sample side by side, on the scale of the strongest band.
fn bars(ui: &Ui, rect: Rect, band: usize, desk: &Desk<'_>) {
    let inks = series(ui);
    let sides = [Some(desk.bands), desk.sample];
    let shown = sides.iter().flatten().count() as f32;
    let inner = rect.shrink2(vec2(0.0, 3.0));
    let height = (inner.height() / shown).min(9.0);
    let top = inner.center().y - height * shown / 2.0;
    for (place, (bands, ink)) in sides
        .iter()
        .zip(inks)
        .filter_map(|(b, i)| Some(((*b)?, i)))
        .enumerate()
    {
        let strength = (bands.energies.energy(band) / desk.most_band).sqrt() as f32;
        let y = top + height * place as f32;
        let whole = Rect::from_min_size(pos2(rect.left(), y), vec2(rect.width(), height - 1.0));
        ui.painter()
            .rect_filled(whole, 1.0, ui.visuals().extreme_bg_color);
        ui.painter().rect_filled(
            whole.with_max_x(rect.left() + rect.width() * strength.clamp(0.0, 1.0)),
            1.0,
            ink,
        );
        ui.painter()
            .rect_stroke(whole, 1.0, axis_stroke(ui), StrokeKind::Inside);
    }
}
