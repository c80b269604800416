//! Panes and their places: what is where at first, and what a saved layout must hold to be used again.

use eframe::egui;
use egui_tiles::{Container, Linear, LinearDir, Tile, TileId, Tiles, Tree};
use serde::{Deserialize, Serialize};

/// A layout of another version is not used.
pub const VERSION: u32 = 2;

/// A part of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pane {
    /// The clip.
    Reference,
    /// The newest or chosen sample.
    Result,
    /// Two-dimensional Fourier spectrum.
    Spectrum,
    /// Motion vectors and flow.
    Motion,
    /// Wavelet bands along time.
    Bands,
    /// What to do.
    Transfer,
    /// Filmstrip, cut and playhead.
    Timeline,
    /// The training.
    Run,
    /// Everything that was said.
    Log,
}

impl Pane {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Reference,
        Self::Result,
        Self::Spectrum,
        Self::Motion,
        Self::Bands,
        Self::Transfer,
        Self::Timeline,
        Self::Run,
        Self::Log,
    ];

    /// Its name.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Reference => "Reference",
            Self::Result => "Result",
            Self::Spectrum => "Spectrum",
            Self::Motion => "Motion",
            Self::Bands => "Motion in time",
            Self::Transfer => "Transfer",
            Self::Timeline => "Timeline",
            Self::Run => "Run",
            Self::Log => "Log",
        }
    }
}

/// How much room the window has. Each has a layout of its own, which is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// Panes stand beside each other.
    #[default]
    Wide,
    /// Panes stand behind each other: a small screen, or a large scale.
    Narrow,
}

impl Room {
    /// What a window of this size has, in points.
    #[must_use]
    pub fn of(size: egui::Vec2) -> Self {
        if size.x < 860.0 || size.y < 540.0 {
            Self::Narrow
        } else {
            Self::Wide
        }
    }
}

/// The saved form of a layout.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    tree: Tree<Pane>,
}

/// The layout the window opens with first.
#[must_use]
pub fn first(room: Room) -> Tree<Pane> {
    match room {
        Room::Wide => wide(),
        Room::Narrow => narrow(),
    }
}

/// One pane at a time beside the column that says what to do.
fn narrow() -> Tree<Pane> {
    let mut tiles = Tiles::default();
    let tab = |tiles: &mut Tiles<Pane>, panes: &[Pane]| {
        let panes = panes.iter().map(|pane| tiles.insert_pane(*pane)).collect();
        tiles.insert_tab_tile(panes)
    };
    let pictures = [
        Pane::Reference,
        Pane::Motion,
        Pane::Result,
        Pane::Spectrum,
        Pane::Bands,
        Pane::Run,
        Pane::Log,
    ];
    let pictures = tab(&mut tiles, &pictures);
    let transfer = tab(&mut tiles, &[Pane::Transfer]);
    let timeline = tab(&mut tiles, &[Pane::Timeline]);
    let top = shares(
        &mut tiles,
        LinearDir::Horizontal,
        &[(pictures, 0.62), (transfer, 0.38)],
    );
    let root = shares(
        &mut tiles,
        LinearDir::Vertical,
        &[(top, 0.81), (timeline, 0.19)],
    );
    Tree::new(egui::Id::unique("narrow panes"), root, tiles)
}

fn wide() -> Tree<Pane> {
    let mut tiles = Tiles::default();
    let tab = |tiles: &mut Tiles<Pane>, panes: &[Pane]| {
        let panes = panes.iter().map(|pane| tiles.insert_pane(*pane)).collect();
        tiles.insert_tab_tile(panes)
    };
    let reference = tab(&mut tiles, &[Pane::Reference]);
    let result = tab(&mut tiles, &[Pane::Result, Pane::Motion]);
    let spectrum = tab(&mut tiles, &[Pane::Spectrum]);
    let bands = tab(&mut tiles, &[Pane::Bands]);
    let transfer = tab(&mut tiles, &[Pane::Transfer]);
    let timeline = tab(&mut tiles, &[Pane::Timeline]);
    let run = tab(&mut tiles, &[Pane::Run, Pane::Log]);
    let pictures = tiles.insert_horizontal_tile(vec![reference, result]);
    let instruments = tiles.insert_horizontal_tile(vec![spectrum, bands]);
    let left = shares(
        &mut tiles,
        LinearDir::Vertical,
        &[(pictures, 0.47), (instruments, 0.53)],
    );
    let top = shares(
        &mut tiles,
        LinearDir::Horizontal,
        &[(left, 0.745), (transfer, 0.255)],
    );
    let root = shares(
        &mut tiles,
        LinearDir::Vertical,
        &[(top, 0.68), (timeline, 0.09), (run, 0.23)],
    );
    let mut tree = Tree::new(egui::Id::unique("panes"), root, tiles);
    motion_for_result(&mut tree);
    tree
}

/// There is no result yet: where both share a place, it shows the motion until the first sample is there.
fn motion_for_result(tree: &mut Tree<Pane>) {
    let place = |pane| tree.tiles.parent_of(tree.tiles.find_pane(&pane)?);
    let beside = place(Pane::Reference) != place(Pane::Result);
    let shared = beside && place(Pane::Result) == place(Pane::Motion);
    if shared && is_shown(tree, Pane::Motion) {
        show(tree, Pane::Motion);
    }
}

fn shares(tiles: &mut Tiles<Pane>, dir: LinearDir, children: &[(TileId, f32)]) -> TileId {
    let ids = children.iter().map(|(id, _)| *id).collect();
    let mut linear = Linear::new(dir, ids);
    for (id, share) in children {
        linear.shares.set_share(*id, *share);
    }
    tiles.insert_container(linear)
}

/// The text under which a layout is kept.
#[must_use]
pub fn save(tree: &Tree<Pane>) -> Option<String> {
    serde_json::to_string(&Saved {
        version: VERSION,
        tree: tree.clone(),
    })
    .ok()
}

/// A layout from its text; none when it is of another version, damaged, or has nothing to show.
#[must_use]
pub fn restore(text: &str) -> Option<Tree<Pane>> {
    let saved: Saved = serde_json::from_str(text).ok()?;
    let shown = saved
        .tree
        .tiles
        .iter()
        .any(|(_, tile)| matches!(tile, Tile::Pane(_)));
    let usable = saved.version == VERSION && shown && saved.tree.root.is_some();
    usable.then(|| {
        let mut tree = saved.tree;
        motion_for_result(&mut tree);
        tree
    })
}

/// Brings a pane to the front, or back if it was closed.
pub fn show(tree: &mut Tree<Pane>, pane: Pane) {
    match tree.tiles.find_pane(&pane) {
        Some(id) => {
            tree.tiles.set_visible(id, true);
            tree.make_active(|tile, _| tile == id);
        }
        None => {
            let id = tree.tiles.insert_pane(pane);
            let tabs = tree.tiles.insert_tab_tile(vec![id]);
            match tree.root {
                Some(root) => match tree.tiles.get_mut(root) {
                    Some(Tile::Container(Container::Linear(linear))) => linear.add_child(tabs),
                    _ => {
                        let both = tree.tiles.insert_horizontal_tile(vec![root, tabs]);
                        tree.root = Some(both);
                    }
                },
                None => tree.root = Some(tabs),
            }
        }
    }
}

/// Takes a pane away until it is shown again.
pub fn hide(tree: &mut Tree<Pane>, pane: Pane) {
    if let Some(id) = tree.tiles.find_pane(&pane) {
        tree.tiles.set_visible(id, false);
    }
}

/// Whether a pane is somewhere in the layout.
#[must_use]
pub fn is_shown(tree: &Tree<Pane>, pane: Pane) -> bool {
    tree.tiles
        .find_pane(&pane)
        .is_some_and(|id| tree.tiles.is_visible(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_comes_back_and_a_strange_one_does_not() {
        for room in [Room::Narrow, Room::Wide] {
            let back = restore(&save(&first(room)).unwrap()).unwrap();
            for pane in Pane::ALL {
                assert!(is_shown(&back, pane), "{room:?} {pane:?}");
            }
        }
        let text = save(&first(Room::Wide)).unwrap();
        assert!(restore("{}").is_none());
        assert!(restore(&text.replacen("\"version\":2", "\"version\":1", 1)).is_none());
    }

    #[test]
    fn a_closed_pane_can_be_shown_again() {
        let mut tree = first(Room::Wide);
        hide(&mut tree, Pane::Log);
        assert!(!is_shown(&tree, Pane::Log));
        show(&mut tree, Pane::Log);
        assert!(is_shown(&tree, Pane::Log));
    }
}
