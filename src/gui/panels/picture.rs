//! The two pictures: the clip, and what the model made of it.

use std::sync::Arc;

use eframe::egui::{self, Align2, Rect, Sense, TextureHandle, Vec2, pos2, vec2};

use crate::gui::app::App;
use crate::gui::compare::{Mode, Shown, difference};
use crate::gui::media::show_frame;
use crate::gui::player::{clock, frame_at};
use crate::gui::theme;
use crate::train::FitChoice;
use crate::video::Frame;
use crate::video::resample::centre_crop;

/// Largest zoom, times the size that fits.
const CLOSEST: f32 = 32.0;
/// Seconds between the two pictures of a blink.
const BLINK_SECS: f64 = 0.5;

/// Zoom and place of one picture, and its texture.
pub struct PictureView {
    zoom: f32,
    /// From the middle of the pane, in points.
    offset: Vec2,
    texture: Option<TextureHandle>,
    shown: Option<(Source, usize)>,
    as_model_sees: bool,
}

/// What a texture shows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Clip(u64),
    Cut(usize),
    Audible(usize),
    Leading(usize),
}

impl Default for PictureView {
    fn default() -> Self {
        Self {
            zoom: 1.0,
            offset: Vec2::ZERO,
            texture: None,
            shown: None,
            as_model_sees: false,
        }
    }
}

impl PictureView {
    /// Where a picture of this shape stands; wheel and drag move it, a double click puts it back.
    fn place(&mut self, ui: &mut egui::Ui, aspect: f32, name: &str) -> (Rect, egui::Response) {
        let area = ui.available_rect_before_wrap();
        let response = ui.allocate_rect(area, Sense::click_and_drag());
        response
            .widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, name.to_owned()));
        let fitted = if area.width() > area.height() * aspect {
            vec2(area.height() * aspect, area.height())
        } else {
            vec2(area.width(), area.width() / aspect.max(1e-3))
        };
        if let Some(pointer) = response.hover_pos() {
            let (scroll, pinch) =
                ui.input(|input| (input.smooth_scroll_delta().y, input.zoom_delta()));
            let factor = pinch * (scroll * 0.005).exp();
            let zoom = (self.zoom * factor).clamp(1.0, CLOSEST);
            // What is under the pointer stays under it.
            let from_middle = pointer - area.center() - self.offset;
            self.offset += from_middle * (1.0 - zoom / self.zoom);
            self.zoom = zoom;
        }
        self.offset += response.drag_delta();
        if response.double_clicked() {
            (self.zoom, self.offset) = (1.0, Vec2::ZERO);
        }
        let size = fitted * self.zoom;
        let room = ((size - area.size()) / 2.0).max(Vec2::ZERO);
        self.offset = self.offset.clamp(-room, room);
        (
            Rect::from_center_size(area.center() + self.offset, size),
            response,
        )
    }
}

/// The reference, and beside it what leads ControlVideo.
pub fn reference_ui(app: &mut App, ui: &mut egui::Ui) {
    let leading = app.leading.frames().filter(|frames| !frames.is_empty());
    let Some(frames) = leading.cloned() else {
        clip_ui(app, ui);
        return;
    };
    let area = ui.available_rect_before_wrap();
    let (clip, beside) = if area.width() > area.height() {
        area.split_left_right_at_fraction(0.5)
    } else {
        area.split_top_bottom_at_fraction(0.5)
    };
    let room = |area: Rect| egui::UiBuilder::new().max_rect(area);
    ui.scope_builder(room(clip.shrink(1.0)), |ui| clip_ui(app, ui));
    ui.scope_builder(room(beside.shrink(1.0)), |ui| leading_ui(app, ui, &frames));
}

/// What the ControlNet sees at the playhead.
fn leading_ui(app: &mut App, ui: &mut egui::Ui, frames: &Arc<[Frame]>) {
    let at = app.cut_frame().min(frames.len() - 1);
    let what = Source::Leading(frames.as_ptr() as usize);
    let view = &mut app.leading_view;
    if view.shown != Some((what, at)) {
        show_frame(ui.ctx(), &mut view.texture, "leading", &frames[at]);
        view.shown = Some((what, at));
    }
    let aspect = frames[at].width as f32 / frames[at].height.max(1) as f32;
    let text = match &app.document.control.clip {
        None => "What leads: the clip's edges".to_owned(),
        Some(path) => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            format!("What leads: {}", name.to_string_lossy())
        }
    };
    let (rect, response) = view.place(ui, aspect, &text);
    paint(ui, response.rect, rect, view.texture.as_ref());
    caption_ui(ui, response.rect, Align2::LEFT_BOTTOM, &text);
}

/// The clip.
fn clip_ui(app: &mut App, ui: &mut egui::Ui) {
    let Some(source) = &app.source else {
        empty_ui(
            ui,
            if app.opening.is_some() {
                "Opening…"
            } else {
                "Drop a film here, or press Ctrl+O."
            },
        );
        return;
    };
    if app.compare.flipped && sample_frame(app).is_some() {
        flipped_ui(app, ui, true);
        return;
    }
    let clip = Arc::clone(&source.clip);
    let generation = source.generation;
    let audible = app.instruments.audible();
    let cut = app.cut.as_ref().map(|cut| Arc::clone(&cut.frames));
    let index = frame_at(&clip.times_secs, app.player.time_secs);
    let cut_index = app.cut_frame();
    let (what, frame, label) = match (&audible, &cut) {
        (Some(frames), _) if !frames.is_empty() => {
            let at = cut_index.min(frames.len() - 1);
            let version = Arc::as_ptr(frames).cast::<Frame>() as usize;
            (Source::Audible(version), &frames[at], "audible bands only")
        }
        (_, Some(frames)) if app.reference_view.as_model_sees => {
            let at = cut_index.min(frames.len() - 1);
            let version = frames.as_ptr() as usize;
            (Source::Cut(version), &frames[at], "as the model sees it")
        }
        _ => (Source::Clip(generation), &clip.frames[index], ""),
    };
    let at = if matches!(what, Source::Clip(_)) {
        index
    } else {
        cut_index
    };
    let view = &mut app.reference_view;
    if view.shown != Some((what, at)) {
        show_frame(ui.ctx(), &mut view.texture, "reference", frame);
        view.shown = Some((what, at));
    }
    let aspect = frame.width as f32 / frame.height.max(1) as f32;
    let (rect, response) = view.place(ui, aspect, "Reference picture");
    paint(ui, response.rect, rect, view.texture.as_ref());
    if matches!(what, Source::Clip(_)) {
        crop_ui(app, ui, response.rect, rect, frame);
    }
    let time = clock(clip.times_secs[index]);
    let mut text = format!("{time}  f {} of {}", index + 1, clip.frames.len());
    if !label.is_empty() {
        text = format!("{text}  {label}");
    }
    caption_ui(ui, response.rect, Align2::LEFT_BOTTOM, &text);
    let corner = Rect::from_min_size(
        response.rect.right_top() + vec2(-112.0, 4.0),
        vec2(108.0, theme::HIT_SIZE),
    );
    let label = if app.reference_view.as_model_sees {
        "Model's view"
    } else {
        "Whole clip"
    };
    let toggle = ui.put(corner, egui::Button::new(label));
    let hover = "Change between the clip and what the model sees of it.";
    if toggle.on_hover_text(hover).clicked() {
        app.reference_view.as_model_sees ^= true;
    }
}

/// Darkens what the model does not see.
fn crop_ui(app: &App, ui: &egui::Ui, area: Rect, rect: Rect, frame: &Frame) {
    let Some(cut) = &app.cut else { return };
    let Some(first) = cut.frames.first() else {
        return;
    };
    let (start, end) = app.cut_range();
    let painter = ui.painter_at(area);
    let shade = theme::shade(ui);
    let now = app.player.time_secs;
    if now < start - 1e-6 || now > end + 1e-6 {
        painter.rect_filled(rect, 0.0, shade);
        return;
    }
    if app.document.settings.fit != FitChoice::Crop {
        return;
    }
    let region = centre_crop(frame, first.width, first.height);
    let scale = rect.width() / frame.width.max(1) as f32;
    let seen = Rect::from_min_size(
        rect.min + vec2(region.left as f32, region.top as f32) * scale,
        vec2(
            (region.right - region.left) as f32,
            (region.bottom - region.top) as f32,
        ) * scale,
    );
    if seen.width() > rect.width() - 1.0 && seen.height() > rect.height() - 1.0 {
        return;
    }
    for outside in [
        Rect::from_min_max(rect.min, pos2(seen.min.x, rect.max.y)),
        Rect::from_min_max(pos2(seen.max.x, rect.min.y), rect.max),
        Rect::from_min_max(pos2(seen.min.x, rect.min.y), pos2(seen.max.x, seen.min.y)),
        Rect::from_min_max(pos2(seen.min.x, seen.max.y), pos2(seen.max.x, rect.max.y)),
    ] {
        painter.rect_filled(outside, 0.0, shade);
    }
}

/// The frames of the shown sample and the one under the playhead.
fn sample_frame(app: &App) -> Option<(Arc<[Frame]>, usize)> {
    let sample = app.queue.sample(app.compare.chosen)?;
    let count = sample.frames.len();
    (count > 0).then(|| (Arc::clone(&sample.frames), app.cut_frame().min(count - 1)))
}

/// The result.
pub fn result_ui(app: &mut App, ui: &mut egui::Ui) {
    let Some((frames, index)) = sample_frame(app) else {
        let text = match app.queue.current() {
            Some(run) if run.is_going() => run.status(),
            _ => "The result appears here. Press Train, or Ctrl+Enter.".to_owned(),
        };
        empty_ui(ui, &text);
        return;
    };
    if app.compare.flipped && app.cut.is_some() {
        flipped_ui(app, ui, false);
        return;
    }
    upload(app, ui.ctx(), &frames, index);
    score_ui(app, ui);
    let aspect = frames[index].width as f32 / frames[index].height.max(1) as f32;
    let (rect, response) = app.result_view.place(ui, aspect, "Result picture");
    let blink_reference = app.compare.mode == Mode::Blink
        && (app.now_secs() / BLINK_SECS).rem_euclid(2.0) < 1.0
        && app.compare.reference_texture.is_some();
    if app.compare.mode == Mode::Blink {
        ui.ctx().request_repaint_after_secs(0.1);
    }
    if blink_reference {
        paint(
            ui,
            response.rect,
            rect,
            app.compare.reference_texture.as_ref(),
        );
    } else {
        paint(ui, response.rect, rect, app.compare.sample_texture.as_ref());
    }
    if app.compare.mode == Mode::Wipe {
        wipe_ui(app, ui, &response, rect);
    }
    let text = match app.queue.sample(app.compare.chosen) {
        Some(sample) if sample.is_result => format!("Result: {}", sample.prompt),
        Some(sample) => format!("Step {}: {}", sample.step, sample.prompt),
        None => String::new(),
    };
    let text = if blink_reference {
        "Reference".to_owned()
    } else {
        text
    };
    caption_ui(ui, response.rect, Align2::LEFT_BOTTOM, &text);
    modes_ui(app, ui, response.rect);
}

/// The scorecard, in a row at the bottom of the pane.
fn score_ui(app: &App, ui: &mut egui::Ui) {
    let Some(scoring) = &app.scoring else { return };
    let row = egui::Panel::bottom("scorecard")
        .exact_size(theme::HIT_SIZE)
        .show_separator_line(false)
        .frame(egui::Frame::NONE);
    row.show(ui, |ui| scoring.ui(ui));
}

/// Brings the frames under the playhead into the textures.
fn upload(app: &mut App, ctx: &egui::Context, frames: &[Frame], index: usize) {
    let shown = Shown {
        frame: index,
        mode: app.compare.mode,
    };
    if app.compare.shown == Some(shown) {
        return;
    }
    let beside = app.reference_frames();
    let reference = beside
        .as_ref()
        .and_then(|frames| frames.get(index.min(frames.len().max(1) - 1)));
    let compare = &mut app.compare;
    match (compare.mode, reference) {
        (Mode::Difference, Some(reference)) => {
            let apart = difference(reference, &frames[index]);
            show_frame(ctx, &mut compare.sample_texture, "sample", &apart);
        }
        _ => {
            show_frame(ctx, &mut compare.sample_texture, "sample", &frames[index]);
        }
    }
    if let Some(reference) = reference {
        let slot = &mut compare.reference_texture;
        show_frame(ctx, slot, "reference beside", reference);
    }
    compare.shown = Some(shown);
}

/// While the key is held the panes change places.
fn flipped_ui(app: &mut App, ui: &mut egui::Ui, sample: bool) {
    let Some((frames, index)) = sample_frame(app) else {
        return;
    };
    upload(app, ui.ctx(), &frames, index);
    let aspect = frames[index].width as f32 / frames[index].height.max(1) as f32;
    let view = if sample {
        &mut app.reference_view
    } else {
        &mut app.result_view
    };
    let name = if sample { "Result" } else { "Reference" };
    let (rect, response) = view.place(ui, aspect, name);
    let texture = if sample {
        &app.compare.sample_texture
    } else {
        &app.compare.reference_texture
    };
    paint(ui, response.rect, rect, texture.as_ref());
    caption_ui(ui, response.rect, Align2::LEFT_BOTTOM, name);
}

/// The reference left of a line that can be dragged.
fn wipe_ui(app: &mut App, ui: &mut egui::Ui, response: &egui::Response, rect: Rect) {
    let Some(texture) = &app.compare.reference_texture else {
        return;
    };
    let at = app.compare.wipe.clamp(0.0, 1.0);
    let line = rect.min.x + rect.width() * at;
    let painter = ui.painter_at(response.rect);
    painter.image(
        texture.id(),
        Rect::from_min_max(rect.min, pos2(line, rect.max.y)),
        Rect::from_min_max(pos2(0.0, 0.0), pos2(at, 1.0)),
        theme::untinted(),
    );
    painter.vline(
        line,
        rect.y_range(),
        egui::Stroke::new(2.0, theme::accent(ui)),
    );
    let handle = Rect::from_center_size(pos2(line, rect.center().y), vec2(16.0, rect.height()));
    let id = ui.scope_id().with("wipe");
    let drag = ui.interact(handle, id, Sense::drag());
    drag.widget_info(|| {
        egui::WidgetInfo::slider(true, f64::from(at), "Line between reference and result")
    });
    if drag.hovered() || drag.dragged() {
        ui.ctx().set_cursor_icon(egui::CursorIcon::ResizeHorizontal);
    }
    let keys = 0.02 * super::arrow_steps(ui, &drag) as f32;
    if rect.width() > 0.0 {
        app.compare.wipe = (at + drag.drag_delta().x / rect.width() + keys).clamp(0.0, 1.0);
    }
    drag.on_hover_text("Drag it, or move it by the arrow keys.");
}

fn modes_ui(app: &mut App, ui: &mut egui::Ui, area: Rect) {
    // One below the other at the side, where most pictures leave room: the picture is what people came for.
    let side = Rect::from_min_size(
        area.right_top() + vec2(-92.0, 4.0),
        vec2(88.0, area.height() - 8.0),
    );
    let layout = egui::Layout::top_down_justified(egui::Align::Center);
    ui.scope_builder(egui::UiBuilder::new().max_rect(side).layout(layout), |ui| {
        ui.spacing_mut().item_spacing.y = 2.0;
        for mode in Mode::ALL {
            let button = egui::Button::new(mode.label()).selected(app.compare.mode == mode);
            if ui.add(button).on_hover_text(mode.tooltip()).clicked() {
                app.compare.mode = mode;
                app.compare.wipe = 0.5;
                app.compare.renew();
            }
        }
    });
}

fn paint(ui: &egui::Ui, area: Rect, rect: Rect, texture: Option<&TextureHandle>) {
    let painter = ui.painter_at(area);
    painter.rect_filled(area, 2.0, theme::sunken(ui));
    if let Some(texture) = texture {
        let all = Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
        painter.image(texture.id(), rect, all, theme::untinted());
    }
}

/// A text that can be read on any picture.
fn caption_ui(ui: &egui::Ui, area: Rect, align: Align2, text: &str) {
    let painter = ui.painter_at(area);
    let font = egui::TextStyle::Small.resolve(ui.style());
    let room = area.width() - 24.0;
    let mut job =
        egui::text::LayoutJob::simple_singleline(text.to_owned(), font, theme::caption_text());
    job.wrap = egui::text::TextWrapping::truncate_at_width(room.max(20.0));
    let galley = painter.layout_job(job);
    let place = align.anchor_size(
        align.pos_in_rect(&area.shrink(6.0)),
        galley.size() + vec2(8.0, 4.0),
    );
    painter.rect_filled(place, 3.0, theme::caption_ground());
    painter.galley(place.min + vec2(4.0, 2.0), galley, theme::caption_text());
}

fn empty_ui(ui: &mut egui::Ui, text: &str) {
    let area = ui.available_rect_before_wrap();
    ui.painter().rect_filled(area, 2.0, theme::sunken(ui));
    ui.scope_builder(egui::UiBuilder::new().max_rect(area), |ui| {
        ui.centered_and_justified(|ui| {
            ui.label(egui::RichText::new(text).color(theme::weak(ui)));
        });
    });
}
