//! The panes. Each one is a function that draws the window's state and asks for commands.

mod advanced;
pub mod bar;
mod clips;
mod control;
pub mod drop;
mod icon;
mod method;
pub mod models;
pub mod picture;
mod plots;
pub mod run;
mod settings;
pub mod timeline;
pub mod transfer;

use eframe::egui;
use egui_tiles::{Behavior, SimplificationOptions, TabState, TileId, Tiles, UiResponse};

use super::app::App;
use super::layout::Pane;
use super::theme;

/// How far the arrow keys move a widget that has the focus: steps to the right, negative to the left. Meanwhile they do not
/// move the focus.
pub fn arrow_steps(ui: &egui::Ui, response: &egui::Response) -> i64 {
    if !response.has_focus() {
        return 0;
    }
    let filter = egui::EventFilter {
        horizontal_arrows: true,
        ..egui::EventFilter::default()
    };
    ui.memory_mut(|memory| memory.set_focus_lock_filter(response.id, filter));
    let pressed = |key| {
        let presses = ui.input(|input| input.num_presses(key));
        i64::try_from(presses).unwrap_or_default()
    };
    pressed(egui::Key::ArrowRight) - pressed(egui::Key::ArrowLeft)
}

/// A whole number that the arrow keys move by one. egui's own speed for whole numbers, a quarter, is right for dragging and
/// rounds to nothing at a key.
pub fn whole_number<N: egui::emath::Numeric>(value: &mut N) -> egui::DragValue<'_> {
    egui::DragValue::new(value).speed(1.0)
}

/// A line around what has the focus. Only for those who move it by the keyboard: a click needs no such sign.
pub fn focus_ui(ui: &egui::Ui) {
    let ctx = ui.ctx();
    let Some(focused) = ctx.memory(egui::Memory::focused) else {
        return;
    };
    let Some(response) = ctx.read_response(focused) else {
        return;
    };
    let layer = egui::LayerId::new(egui::Order::Tooltip, egui::Id::unique("focus"));
    ctx.layer_painter(layer).rect_stroke(
        response.interact_rect.expand(2.0),
        4.0,
        egui::Stroke::new(2.0, theme::accent(ui)),
        egui::StrokeKind::Outside,
    );
}

/// Draws the panes of the layout.
pub struct Panes<'a> {
    /// The window they belong to.
    pub app: &'a mut App,
    /// The timeline's tile: it needs no name and every point of height.
    pub timeline: Option<TileId>,
}

impl Panes<'_> {
    fn pane_content_ui(&mut self, ui: &mut egui::Ui, pane: Pane) {
        let view = self.app.view();
        match pane {
            Pane::Reference => picture::reference_ui(self.app, ui),
            Pane::Result => picture::result_ui(self.app, ui),
            Pane::Spectrum => self.app.instruments.spectrum_ui(ui, &view),
            Pane::Motion => self.app.instruments.motion_ui(ui, &view),
            Pane::Bands => {
                if let Some(weights) = self.app.instruments.bands_ui(ui, &view) {
                    self.app.train_with_mix(weights);
                }
            }
            Pane::Transfer => transfer::transfer_ui(self.app, ui),
            Pane::Timeline => timeline::timeline_ui(self.app, ui),
            Pane::Run => run::run_ui(self.app, ui),
            Pane::Log => self.app.notices.log_ui(ui),
        }
    }
}

/// Whether a pane can be drawn without its parts lying over each other.
fn has_room(pane: Pane, room: egui::Vec2) -> bool {
    let least = match pane {
        Pane::Spectrum | Pane::Motion => egui::vec2(200.0, 110.0),
        Pane::Bands => egui::vec2(250.0, 130.0),
        Pane::Run => egui::vec2(300.0, 60.0),
        Pane::Reference | Pane::Result | Pane::Transfer | Pane::Timeline | Pane::Log => {
            egui::Vec2::ZERO
        }
    };
    room.x >= least.x && room.y >= least.y
}

impl Behavior<Pane> for Panes<'_> {
    fn pane_ui(&mut self, ui: &mut egui::Ui, _tile: TileId, pane: &mut Pane) -> UiResponse {
        theme::pane(ui.visuals()).show(ui, |ui| {
            ui.set_min_size(ui.available_size());
            if has_room(*pane, ui.available_size()) {
                self.pane_content_ui(ui, *pane);
            } else {
                ui.centered_and_justified(|ui| ui.weak("Make this pane larger."));
            }
        });
        UiResponse::None
    }

    fn tab_title_for_pane(&mut self, pane: &Pane) -> egui::WidgetText {
        pane.title().into()
    }

    fn simplification_options(&self) -> SimplificationOptions {
        SimplificationOptions {
            all_panes_must_have_tabs: true,
            ..SimplificationOptions::default()
        }
    }

    fn is_tab_closable(&self, _tiles: &Tiles<Pane>, _tile: TileId) -> bool {
        false
    }

    fn tab_bar_height(&self, _style: &egui::Style) -> f32 {
        theme::HIT_SIZE
    }

    fn gap_width(&self, _style: &egui::Style) -> f32 {
        theme::GRID
    }

    fn tab_bar_color(&self, visuals: &egui::Visuals) -> egui::Color32 {
        theme::ground(visuals)
    }

    fn tab_outline_stroke(
        &self,
        _visuals: &egui::Visuals,
        _tiles: &Tiles<Pane>,
        _tile: TileId,
        _state: &TabState,
    ) -> egui::Stroke {
        egui::Stroke::NONE
    }

    fn tab_bar_hline_stroke(&self, _visuals: &egui::Visuals) -> egui::Stroke {
        egui::Stroke::NONE
    }

    fn is_tab_bar_visible(&self, _tile: TileId, tabs: &egui_tiles::Tabs) -> bool {
        tabs.children.len() > 1 || tabs.children.first().copied() != self.timeline
    }
}
