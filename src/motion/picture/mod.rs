//! Pictures of planes, flows and curves: numbers in, 8-bit sRGB frames out. No text is drawn; ranges go with the file.

pub mod colour;
mod plot;
mod sheet;

pub use plot::{Curve, plot};
pub use sheet::{GROUND, colour_bar, contact_sheet, flow_key, on_canvas};

use crate::motion::Flow;
use crate::video::Frame;

use colour::Map;

/// The range of values that a colour map spans.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Range {
    /// Value at the map's start.
    pub low: f64,
    /// Value at the map's end.
    pub high: f64,
}

impl Range {
    /// From 0 to the largest value of all planes, a few outliers aside; never empty.
    pub fn from_zero<'a>(planes: impl IntoIterator<Item = &'a Vec<f32>>) -> Self {
        Self {
            low: 0.0,
            high: largest(planes),
        }
    }

    /// Balanced around 0, as signed values need (a diverging map's middle must mean "none"), a few outliers aside.
    pub fn balanced<'a>(planes: impl IntoIterator<Item = &'a Vec<f32>>) -> Self {
        let high = largest(planes);
        Self { low: -high, high }
    }

    /// One turn of a phase.
    pub fn phase() -> Self {
        Self {
            low: -std::f64::consts::PI,
            high: std::f64::consts::PI,
        }
    }
}

/// Share of the values that a range must hold: a few outliers would leave the rest of a picture dark.
const HELD: f64 = 0.998;

/// Magnitude that [`HELD`] of all finite values do not exceed; where that is 0 the largest, and 1 where all are 0, so
/// that a range is never empty.
fn largest<'a>(planes: impl IntoIterator<Item = &'a Vec<f32>>) -> f64 {
    let mut values: Vec<f32> = planes
        .into_iter()
        .flatten()
        .map(|v| v.abs())
        .filter(|v| v.is_finite())
        .collect();
    values.sort_unstable_by(f32::total_cmp);
    let held = (HELD * values.len() as f64).ceil() as usize;
    let candidates = [values.get(held.saturating_sub(1)), values.last()];
    candidates
        .into_iter()
        .flatten()
        .copied()
        .find(|high| *high > 0.0)
        .map_or(1.0, f64::from)
}

/// A plane of `width` columns in the colours of `map`; values outside `range` take the nearest end, NaN is black.
pub fn from_plane(plane: &[f32], width: usize, map: Map, range: Range) -> Frame {
    let table = map.table();
    let span = range.high - range.low;
    let mut rgb = Vec::with_capacity(plane.len() * 3);
    for &value in plane {
        let t = (f64::from(value) - range.low) / span;
        let colour = if t.is_nan() {
            [0; 3]
        } else {
            table[(t.clamp(0.0, 1.0) * 255.0).round() as usize]
        };
        rgb.extend(colour);
    }
    let width = width.max(1);
    Frame {
        width: width as u32,
        height: (plane.len() / width) as u32,
        rgb,
    }
}

/// A flow as hue (direction) and brightness (speed, `full_speed` pixels per frame being full): see [`flow_key`].
pub fn from_flow(flow: &Flow, full_speed: f64) -> Frame {
    let full_speed = if full_speed > 0.0 { full_speed } else { 1.0 };
    let mut rgb = Vec::with_capacity(flow.dx.len() * 3);
    for (&dx, &dy) in flow.dx.iter().zip(&flow.dy) {
        rgb.extend(colour::of_motion(
            f64::from(dx) / full_speed,
            f64::from(dy) / full_speed,
        ));
    }
    Frame {
        width: flow.width as u32,
        height: flow.height as u32,
        rgb,
    }
}
