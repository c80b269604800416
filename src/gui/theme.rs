//! Every colour, size and gap of the window. No other file of the window names a colour.

use eframe::egui::{
    self, Color32, CornerRadius, FontFamily, FontId, Margin, Stroke, TextStyle, Theme, Visuals,
    style::WidgetVisuals,
};

/// The grid that gaps and sizes are multiples of, in points.
pub const GRID: f32 = 4.0;
/// Smallest height of what can be clicked, in points.
pub const HIT_SIZE: f32 = 24.0;

/// The greys and the accent of one theme.
struct Palette {
    ground: Color32,
    panel: Color32,
    raised: Color32,
    hover: Color32,
    press: Color32,
    line: Color32,
    sunken: Color32,
    text: Color32,
    weak: Color32,
    strong: Color32,
    accent: Color32,
    warning: Color32,
    error: Color32,
}

const DARK: Palette = Palette {
    ground: Color32::from_rgb(0x16, 0x18, 0x1c),
    panel: Color32::from_rgb(0x1c, 0x1f, 0x24),
    raised: Color32::from_rgb(0x2a, 0x2e, 0x35),
    hover: Color32::from_rgb(0x35, 0x3a, 0x43),
    press: Color32::from_rgb(0x42, 0x48, 0x53),
    line: Color32::from_rgb(0x2e, 0x32, 0x39),
    sunken: Color32::from_rgb(0x10, 0x12, 0x15),
    text: Color32::from_rgb(0xc9, 0xcd, 0xd4),
    weak: Color32::from_rgb(0x92, 0x99, 0xa5),
    strong: Color32::from_rgb(0xf0, 0xf2, 0xf5),
    accent: Color32::from_rgb(0x4c, 0xa6, 0xe8),
    warning: Color32::from_rgb(0xe3, 0xb3, 0x41),
    error: Color32::from_rgb(0xf0, 0x71, 0x6b),
};

const LIGHT: Palette = Palette {
    ground: Color32::from_rgb(0xe4, 0xe6, 0xea),
    panel: Color32::from_rgb(0xf5, 0xf6, 0xf8),
    raised: Color32::from_rgb(0xe2, 0xe5, 0xea),
    hover: Color32::from_rgb(0xd5, 0xd9, 0xe0),
    press: Color32::from_rgb(0xc4, 0xca, 0xd3),
    line: Color32::from_rgb(0xcf, 0xd3, 0xda),
    sunken: Color32::from_rgb(0xff, 0xff, 0xff),
    text: Color32::from_rgb(0x2b, 0x30, 0x38),
    weak: Color32::from_rgb(0x5d, 0x66, 0x73),
    strong: Color32::from_rgb(0x0c, 0x10, 0x16),
    accent: Color32::from_rgb(0x0b, 0x6b, 0xb8),
    warning: Color32::from_rgb(0x8a, 0x5a, 0x00),
    error: Color32::from_rgb(0xb3, 0x26, 0x1e),
};

fn palette(dark: bool) -> &'static Palette {
    if dark { &DARK } else { &LIGHT }
}

fn of(ui: &egui::Ui) -> &'static Palette {
    palette(ui.visuals().dark_mode)
}

/// The one hue that draws attention.
#[must_use]
pub fn accent(ui: &egui::Ui) -> Color32 {
    of(ui).accent
}

/// Text on the accent.
#[must_use]
pub fn on_accent(ui: &egui::Ui) -> Color32 {
    if ui.visuals().dark_mode {
        DARK.sunken
    } else {
        LIGHT.sunken
    }
}

/// Something to know.
#[must_use]
pub fn warning(ui: &egui::Ui) -> Color32 {
    of(ui).warning
}

/// Something failed.
#[must_use]
pub fn error(ui: &egui::Ui) -> Color32 {
    of(ui).error
}

/// Words that stand back.
#[must_use]
pub fn weak(ui: &egui::Ui) -> Color32 {
    of(ui).weak
}

/// Thin lines.
#[must_use]
pub fn line(ui: &egui::Ui) -> Color32 {
    of(ui).line
}

/// The ground below pictures and plots.
#[must_use]
pub fn sunken(ui: &egui::Ui) -> Color32 {
    if ui.visuals().dark_mode {
        DARK.sunken
    } else {
        LIGHT.ground
    }
}

/// Laid over what is not used: outside the trim, outside the crop.
#[must_use]
pub fn shade(ui: &egui::Ui) -> Color32 {
    of(ui).ground.gamma_multiply(0.72)
}

/// The ground below a text that stands on a picture.
#[must_use]
pub fn caption_ground() -> Color32 {
    Color32::from_black_alpha(150)
}

/// A text that stands on a picture.
#[must_use]
pub fn caption_text() -> Color32 {
    Color32::from_gray(235)
}

/// Pictures are drawn as they are.
#[must_use]
pub fn untinted() -> Color32 {
    Color32::WHITE
}

/// The ground of the window, where no pane is.
#[must_use]
pub fn ground(visuals: &Visuals) -> Color32 {
    palette(visuals.dark_mode).ground
}

/// Lines of one plot, told apart by lightness as well as by hue; the names stand in the legend.
#[must_use]
pub fn series(ui: &egui::Ui, index: usize) -> Color32 {
    const DARK_SERIES: [Color32; 6] = [
        Color32::from_rgb(0xf0, 0xf2, 0xf5),
        Color32::from_rgb(0x4c, 0xa6, 0xe8),
        Color32::from_rgb(0xe3, 0xb3, 0x41),
        Color32::from_rgb(0x5f, 0xc9, 0x9b),
        Color32::from_rgb(0xe0, 0x8a, 0xc0),
        Color32::from_rgb(0x9a, 0x8c, 0xf0),
    ];
    const LIGHT_SERIES: [Color32; 6] = [
        Color32::from_rgb(0x0c, 0x10, 0x16),
        Color32::from_rgb(0x0b, 0x6b, 0xb8),
        Color32::from_rgb(0x9a, 0x66, 0x00),
        Color32::from_rgb(0x1c, 0x7a, 0x4d),
        Color32::from_rgb(0xa0, 0x32, 0x78),
        Color32::from_rgb(0x55, 0x45, 0xc0),
    ];
    if ui.visuals().dark_mode {
        DARK_SERIES[index % DARK_SERIES.len()]
    } else {
        LIGHT_SERIES[index % LIGHT_SERIES.len()]
    }
}

/// A colour of one of the scientific maps.
#[must_use]
pub fn mapped(rgb: [u8; 3]) -> Color32 {
    Color32::from_rgb(rgb[0], rgb[1], rgb[2])
}

/// The frame of a pane.
pub fn pane(visuals: &Visuals) -> egui::Frame {
    egui::Frame::new()
        .fill(palette(visuals.dark_mode).panel)
        .inner_margin(Margin::same(8))
}

/// Sets both themes up. Called once; switching between them is egui's own.
pub fn install(ctx: &egui::Context) {
    for theme in [Theme::Dark, Theme::Light] {
        let colours = palette(theme == Theme::Dark);
        ctx.set_visuals_of(theme, visuals(theme, colours));
        ctx.style_mut_of(theme, spacing);
    }
}

fn visuals(theme: Theme, colours: &Palette) -> Visuals {
    let mut visuals = theme.default_visuals();
    let radius = CornerRadius::same(4);
    let widget = |fill: Color32, border: Color32, text: Color32| WidgetVisuals {
        bg_fill: fill,
        weak_bg_fill: fill,
        bg_stroke: Stroke::new(1.0, border),
        corner_radius: radius,
        fg_stroke: Stroke::new(1.0, text),
        expansion: 0.0,
    };
    visuals.widgets.noninteractive = widget(colours.panel, colours.line, colours.text);
    visuals.widgets.inactive = widget(colours.raised, Color32::TRANSPARENT, colours.text);
    visuals.widgets.hovered = widget(colours.hover, colours.press, colours.strong);
    visuals.widgets.active = widget(colours.press, colours.accent, colours.strong);
    visuals.widgets.open = widget(colours.hover, colours.line, colours.strong);
    // What is chosen is read as easily as what is not.
    let share = if theme == Theme::Dark { 0.45 } else { 0.3 };
    visuals.selection.bg_fill = colours.accent.gamma_multiply(share);
    visuals.selection.stroke = Stroke::new(1.0, colours.strong);
    visuals.hyperlink_color = colours.accent;
    visuals.weak_text_color = Some(colours.weak);
    visuals.faint_bg_color = colours.raised.gamma_multiply(0.5);
    visuals.extreme_bg_color = colours.sunken;
    visuals.code_bg_color = colours.raised;
    visuals.warn_fg_color = colours.warning;
    visuals.error_fg_color = colours.error;
    visuals.window_fill = colours.panel;
    visuals.window_stroke = Stroke::new(1.0, colours.line);
    visuals.window_corner_radius = CornerRadius::same(8);
    visuals.menu_corner_radius = CornerRadius::same(6);
    visuals.panel_fill = colours.panel;
    visuals.slider_trailing_fill = true;
    visuals.striped = false;
    visuals
}

fn spacing(style: &mut egui::Style) {
    let proportional = |size| FontId::new(size, FontFamily::Proportional);
    style.text_styles = [
        (TextStyle::Small, proportional(12.0)),
        (TextStyle::Body, proportional(13.5)),
        (TextStyle::Button, proportional(13.5)),
        (TextStyle::Heading, proportional(15.5)),
        (
            TextStyle::Monospace,
            FontId::new(12.5, FontFamily::Monospace),
        ),
    ]
    .into();
    style.animation_time = 0.12;
    let spacing = &mut style.spacing;
    spacing.item_spacing = egui::vec2(8.0, GRID);
    spacing.button_padding = egui::vec2(8.0, GRID);
    spacing.interact_size = egui::vec2(40.0, HIT_SIZE);
    spacing.slider_width = 120.0;
    spacing.slider_rail_height = GRID;
    spacing.indent = 12.0;
    spacing.window_margin = Margin::same(12);
    spacing.menu_margin = Margin::same(6);
    spacing.scroll.bar_width = 8.0;
    spacing.scroll.floating = true;
    // Without it nothing says that a panel goes on below.
    spacing.scroll.dormant_handle_opacity = 0.5;
    style.interaction.selectable_labels = false;
    style.interaction.tooltip_delay = 0.35;
}
