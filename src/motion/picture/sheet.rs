//! Sheets of small pictures, and the keys that go with them.

use super::colour::{Map, of_motion};
use crate::video::Frame;

/// Ground of sheets and plots: dark enough not to compete with any map.
pub const GROUND: [u8; 3] = [24, 24, 27];
const GAP: usize = 4;
const BAR_HEIGHT: usize = 10;

/// Copy `picture` onto `canvas` with its top left corner at `(x, y)`; what lies outside is cut off.
pub fn on_canvas(canvas: &mut Frame, picture: &Frame, x: usize, y: usize) {
    let (canvas_width, canvas_height) = (canvas.width as usize, canvas.height as usize);
    let (width, height) = (picture.width as usize, picture.height as usize);
    let visible = width.min(canvas_width.saturating_sub(x)) * 3;
    for row in 0..height.min(canvas_height.saturating_sub(y)) {
        let from = row * width * 3;
        let to = ((y + row) * canvas_width + x) * 3;
        canvas.rgb[to..to + visible].copy_from_slice(&picture.rgb[from..from + visible]);
    }
}

/// Pictures in reading order on rows of `columns`, with `key` (a colour bar or wheel) below them.
///
/// Cells have the size of the largest picture.
pub fn contact_sheet(pictures: &[Frame], columns: usize, key: Option<&Frame>) -> Frame {
    let columns = columns.clamp(1, pictures.len().max(1));
    let cell_width = pictures.iter().map(|p| p.width as usize).max().unwrap_or(1);
    let cell_height = pictures
        .iter()
        .map(|p| p.height as usize)
        .max()
        .unwrap_or(1);
    let rows = pictures.len().div_ceil(columns);
    let (key_width, key_height) =
        key.map_or((0, 0), |k| (k.width as usize, k.height as usize + GAP));
    let width = GAP + (columns * (cell_width + GAP)).max(key_width + GAP);
    let height = GAP + rows * (cell_height + GAP) + key_height;
    let mut sheet = Frame::filled(width as u32, height as u32, GROUND);
    for (i, picture) in pictures.iter().enumerate() {
        let x = GAP + i % columns * (cell_width + GAP);
        let y = GAP + i / columns * (cell_height + GAP);
        on_canvas(&mut sheet, picture, x, y);
    }
    if let Some(key) = key {
        on_canvas(&mut sheet, key, GAP, GAP + rows * (cell_height + GAP));
    }
    sheet
}

/// A strip of a map's colours from its start (left) to its end.
pub fn colour_bar(map: Map, width: usize) -> Frame {
    let width = width.max(2);
    let row: Vec<u8> = (0..width)
        .flat_map(|x| map.colour(x as f64 / (width - 1) as f64))
        .collect();
    Frame {
        width: width as u32,
        height: BAR_HEIGHT as u32,
        rgb: row.repeat(BAR_HEIGHT),
    }
}

/// The colour wheel of a flow picture: the colour at a place is that of motion from the centre to that place, full
/// speed at the rim.
pub fn flow_key(side: usize) -> Frame {
    let mut key = Frame::filled(side as u32, side as u32, GROUND);
    let radius = side as f64 / 2.0;
    for y in 0..side {
        for x in 0..side {
            let (dx, dy) = (
                (x as f64 + 0.5) / radius - 1.0,
                (y as f64 + 0.5) / radius - 1.0,
            );
            if dx.hypot(dy) <= 1.0 {
                let at = (y * side + x) * 3;
                key.rgb[at..at + 3].copy_from_slice(&of_motion(dx, dy));
            }
        }
    }
    key
}
