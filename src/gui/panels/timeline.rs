//! The one time axis: filmstrip, the cut with its handles, the playhead.

use std::sync::Arc;

use eframe::egui::{self, Align2, Rect, Sense, pos2, vec2};

use super::icon::{Icon, button_ui};
use crate::gui::app::App;
use crate::gui::command::Command;
use crate::gui::player::{clock, frame_at};
use crate::gui::theme;
use crate::video::Clip;

/// Width of what grabs a handle, in points.
const GRAB: f32 = 10.0;

/// Where a time stands on the strip.
struct Axis {
    rect: Rect,
    first: f64,
    end: f64,
}

impl Axis {
    fn x(&self, time: f64) -> f32 {
        let share = (time - self.first) / (self.end - self.first).max(1e-9);
        self.rect.min.x + self.rect.width() * share as f32
    }

    fn time(&self, x: f32) -> f64 {
        let share = f64::from((x - self.rect.min.x) / self.rect.width().max(1.0));
        self.first + share.clamp(0.0, 1.0) * (self.end - self.first)
    }
}

/// Draws buttons and strip.
pub fn timeline_ui(app: &mut App, ui: &mut egui::Ui) {
    ui.horizontal_centered(|ui| {
        ui.vertical(|ui| {
            ui.set_width(150.0);
            buttons_ui(app, ui);
        });
        let Some(clip) = app.source.as_ref().map(|source| Arc::clone(&source.clip)) else {
            ui.weak("Time runs here once a clip is open.");
            return;
        };
        strip_ui(app, ui, &clip);
    });
}

fn buttons_ui(app: &mut App, ui: &mut egui::Ui) {
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        let play = if app.player.playing {
            Icon::Pause
        } else {
            Icon::Play
        };
        for (command, icon, selected) in [
            (Command::ToIn, Icon::Begin, false),
            (Command::Previous, Icon::Back, false),
            (Command::Play, play, false),
            (Command::Next, Icon::On, false),
            (Command::Loop, Icon::Loop, app.player.looping),
        ] {
            let response = button_ui(ui, icon, command.about().label, selected);
            let hover = command.hover_text(ui.ctx());
            if response.on_hover_text(hover).clicked() {
                app.obey(command);
            }
        }
    });
    let speed = if (app.player.speed - 1.0).abs() < 1e-9 || !app.player.playing {
        String::new()
    } else {
        format!("  ×{}", app.player.speed)
    };
    let frame = app.source.as_ref().map_or(0, |source| {
        frame_at(&source.clip.times_secs, app.player.time_secs) + 1
    });
    let text = format!("{}  f {frame}{speed}", clock(app.player.time_secs));
    ui.label(egui::RichText::new(text).monospace());
}

fn strip_ui(app: &mut App, ui: &mut egui::Ui, clip: &Clip) {
    let area = ui.available_rect_before_wrap();
    let response = ui.allocate_rect(area, Sense::click_and_drag());
    response.widget_info(|| egui::WidgetInfo::slider(true, app.player.time_secs, "Playhead"));
    let note_height = 16.0;
    let rect = Rect::from_min_max(
        area.min + vec2(GRAB, 0.0),
        area.max - vec2(GRAB, note_height),
    );
    let first = clip.times_secs.first().copied().unwrap_or(0.0);
    let axis = Axis {
        rect,
        first,
        end: first + clip.duration_secs(),
    };
    let painter = ui.painter_at(area);
    painter.rect_filled(rect, 2.0, theme::sunken(ui));
    thumbs_ui(app, &painter, &axis);
    let (start, end) = app.cut_range();
    let shade = theme::shade(ui);
    painter.rect_filled(
        Rect::from_x_y_ranges(rect.min.x..=axis.x(start), rect.y_range()),
        0.0,
        shade,
    );
    painter.rect_filled(
        Rect::from_x_y_ranges(axis.x(end)..=rect.max.x, rect.y_range()),
        0.0,
        shade,
    );
    picks_ui(app, ui, &painter, &axis, start);
    handles_ui(app, ui, &painter, &axis, (start, end), clip);
    if let Some(pointer) = response
        .interact_pointer_pos()
        .filter(|_| response.dragged() || response.clicked())
    {
        let time = axis.time(pointer.x);
        app.player.playing = false;
        let index = frame_at(&clip.times_secs, time);
        app.player.time_secs = clip.times_secs.get(index).copied().unwrap_or(time);
    }
    let keys = super::arrow_steps(ui, &response);
    if keys != 0 {
        app.player.step(&clip.times_secs, keys);
    }
    // A tip would hide what the pointer is about to choose; who listens hears one.
    ui.ctx().accesskit_node_builder(response.id, |node| {
        node.set_description("Click or drag to go there; the arrow keys go frame by frame.");
    });
    let x = axis.x(app.player.time_secs);
    painter.vline(
        x,
        rect.y_range(),
        egui::Stroke::new(2.0, ui.visuals().strong_text_color()),
    );
    note_ui(app, ui, area, clip);
}

fn thumbs_ui(app: &App, painter: &egui::Painter, axis: &Axis) {
    let Some(source) = &app.source else { return };
    let thumbs = &source.thumbs;
    let Some(size) = thumbs.first().map(egui::TextureHandle::size_vec2) else {
        return;
    };
    let rect = axis.rect;
    let width = rect.height() * size.x / size.y.max(1.0);
    let places = (rect.width() / width.max(1.0)).ceil().max(1.0);
    let all = Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
    let clipped = painter.with_clip_rect(rect);
    let mut place = 0.0;
    while place < places {
        let left = rect.min.x + place * width;
        // The picture of the middle of its place.
        let share = ((place + 0.5) * width / rect.width()).clamp(0.0, 1.0);
        let index = (share * thumbs.len() as f32).floor();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a small number, not negative"
        )]
        let index = (index as usize).min(thumbs.len() - 1);
        let at = Rect::from_min_size(pos2(left, rect.min.y), vec2(width, rect.height()));
        clipped.image(thumbs[index].id(), at, all, theme::untinted());
        place += 1.0;
    }
}

/// Ticks where the model takes its frames.
fn picks_ui(app: &App, ui: &egui::Ui, painter: &egui::Painter, axis: &Axis, start: f64) {
    let Some(cut) = &app.cut else { return };
    for index in 0..cut.frames.len() {
        let time = start + index as f64 / cut.fps.max(1e-9);
        if time > axis.end {
            break;
        }
        let x = axis.x(time);
        let bottom = axis.rect.max.y;
        painter.vline(
            x,
            bottom - 6.0..=bottom,
            egui::Stroke::new(2.0, theme::accent(ui)),
        );
    }
}

fn handles_ui(
    app: &mut App,
    ui: &egui::Ui,
    painter: &egui::Painter,
    axis: &Axis,
    (start, end): (f64, f64),
    clip: &Clip,
) {
    if app.cut.is_none() {
        return;
    }
    for (name, time, is_start) in [
        ("Begin of the cut", start, true),
        ("End of the cut", end, false),
    ] {
        let x = axis.x(time);
        let grab = Rect::from_center_size(
            pos2(x, axis.rect.center().y),
            vec2(2.0 * GRAB, axis.rect.height()),
        );
        let drag = ui.interact(grab, ui.scope_id().with(name), Sense::drag());
        drag.widget_info(|| egui::WidgetInfo::slider(true, time, name));
        if drag.hovered() || drag.dragged() {
            ui.ctx().set_cursor_icon(egui::CursorIcon::ResizeHorizontal);
        }
        let lit = drag.hovered() || drag.dragged();
        let stroke = egui::Stroke::new(if lit { 4.0 } else { 3.0 }, theme::accent(ui));
        painter.vline(x, axis.rect.y_range(), stroke);
        if let Some(pointer) = drag.interact_pointer_pos().filter(|_| drag.dragged()) {
            let time = axis.time(pointer.x);
            let snapped = clip.times_secs[frame_at(&clip.times_secs, time)];
            if is_start {
                set_cut(app, Some(snapped), None);
            } else {
                // The handle stands where the last frame leaves the screen.
                let last = frame_at(&clip.times_secs, time - 0.5 / clip.fps.max(1e-9));
                set_cut(app, None, Some(clip.times_secs[last]));
            }
        }
        move_by_frames(app, clip, super::arrow_steps(ui, &drag), is_start);
        drag.on_hover_text(format!(
            "{name}: {}. Drag it, or use the arrow keys or {}. It snaps to what the model accepts.",
            clock(time),
            if is_start { "I" } else { "O" }
        ));
    }
}

/// Moves one end of the cut by frames of the clip.
fn move_by_frames(app: &mut App, clip: &Clip, frames: i64, is_start: bool) {
    let times = &clip.times_secs;
    let (Some(cut), true) = (&app.cut, frames != 0) else {
        return;
    };
    let moved = |time: f64| {
        let at = i64::try_from(frame_at(times, time)).unwrap_or_default();
        let place = usize::try_from((at + frames).max(0)).unwrap_or_default();
        times.get(place.min(times.len().saturating_sub(1))).copied()
    };
    let (start, _) = app.cut_range();
    if is_start {
        set_cut(app, moved(start), None);
        return;
    }
    let gaps = cut.frames.len().saturating_sub(1) as f64;
    let last = match app.document.settings.fps {
        Some(fps) => Some(start + gaps / fps.max(1e-9)),
        None => times.last().copied(),
    };
    set_cut(app, None, last.and_then(moved));
}

/// Moves begin or end of the cut. The model takes a fixed number of frames: they are spread from the first to the last, and
/// never closer than the clip has frames.
pub(in crate::gui) fn set_cut(app: &mut App, begin: Option<f64>, last: Option<f64>) {
    let (Some(source), Some(model)) = (&app.source, &app.model) else {
        return;
    };
    let clip = &source.clip;
    let settings = &mut app.document.settings;
    let frames = settings.frames.unwrap_or(model.limits.default_frames);
    let gaps = frames.saturating_sub(1).max(1) as f64;
    let film_first = clip.times_secs.first().copied().unwrap_or(0.0);
    let film_last = clip.times_secs.last().copied().unwrap_or(0.0);
    let shortest = gaps / clip.fps.max(1e-9);
    let old_start = settings.start_secs.max(film_first);
    let old_last = match settings.fps {
        Some(fps) => (old_start + gaps / fps).min(film_last),
        None => film_last,
    };
    let latest_start = (film_last - shortest).max(film_first);
    let start = begin.unwrap_or(old_start).clamp(film_first, latest_start);
    let last = last.unwrap_or(old_last).max(start + shortest);
    settings.start_secs = if start <= film_first { 0.0 } else { start };
    let whole = last >= film_last - 1e-6;
    settings.fps = (!whole && last > start).then(|| gaps / (last - start));
    app.player.time_secs = app.player.time_secs.clamp(start, last);
}

/// One sentence on what the model sees.
fn note_ui(app: &App, ui: &egui::Ui, area: Rect, clip: &Clip) {
    let (text, colour) = match (&app.cut, &app.cut_problem) {
        (Some(cut), _) => {
            let size = cut
                .frames
                .first()
                .map_or((0, 0), |frame| (frame.width, frame.height));
            let mut text = format!(
                "The model sees {} frames of {}×{}.",
                cut.frames.len(),
                size.0,
                size.1
            );
            for note in &cut.notes {
                text.push(' ');
                text.push_str(note);
            }
            (text, theme::weak(ui))
        }
        (None, Some(problem)) => (
            format!("{} {}", problem.headline, problem.what_to_do),
            theme::warning(ui),
        ),
        (None, None) => (format!("{} frames", clip.frames.len()), theme::weak(ui)),
    };
    let place = Rect::from_min_max(pos2(area.min.x + GRAB, area.max.y - 16.0), area.max);
    let font = egui::TextStyle::Small.resolve(ui.style());
    let mut job = egui::text::LayoutJob::simple_singleline(text, font, colour);
    job.wrap = egui::text::TextWrapping::truncate_at_width(place.width());
    let galley = ui.painter().layout_job(job);
    let at = Align2::LEFT_BOTTOM.align_size_within_rect(galley.size(), place);
    ui.painter().galley(at.min, galley, colour);
}
