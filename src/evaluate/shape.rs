//! Which of the drawn shapes a mask is: the best overlap with rendered templates of the same middle and area.

use serde::{Deserialize, Serialize};

use super::drawn::{shape_distance, unit_area};
use super::scene::Shape;

/// Degrees between two templates.
const TURN_STEP: f64 = 5.0;
/// With less overlap than this a mask is none of the shapes.
const LEAST_OVERLAP: f64 = 0.6;

/// A recognised shape.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recognised {
    /// Which one.
    pub shape: Shape,
    /// Its overlap with the template: intersection over union, 0..=1.
    pub overlap: f64,
}

/// The shape of a mask `[height, width]` of coverage in 0..=1; none for an empty mask and for one that looks like none of
/// them.
///
/// Each shape is rendered about the mask's centroid with the mask's area, turned in steps of 5 degrees through its
/// symmetry. The overlap is `sum(min) / sum(max)` of mask and template, so that soft edges count as what they are.
///
/// Accuracy, measured by this room's tests on shapes of any rotation and place: see [`super`].
#[must_use]
pub fn recognise(cover: &[f32], width: usize) -> Option<Recognised> {
    let mask = Mask::of(cover, width)?;
    let mut best: Option<Recognised> = None;
    for shape in Shape::ALL {
        let turns = (symmetry_degrees(shape) / TURN_STEP).round().max(1.0) as usize;
        for turn in 0..turns {
            let turn = (turn as f64 * TURN_STEP).to_radians();
            let overlap = mask.overlap(shape, turn);
            if best.is_none_or(|best| overlap > best.overlap) {
                best = Some(Recognised { shape, overlap });
            }
        }
    }
    best.filter(|best| best.overlap >= LEAST_OVERLAP)
}

/// The smallest turn that a shape looks the same after; a circle looks the same after any.
fn symmetry_degrees(shape: Shape) -> f64 {
    match shape {
        Shape::Circle => 0.0,
        Shape::Square => 90.0,
        Shape::Triangle => 120.0,
        Shape::Star => 72.0,
    }
}

/// A mask with what its templates are made from, in pixels.
struct Mask<'a> {
    cover: &'a [f32],
    width: usize,
    area: f64,
    centre: (f64, f64),
}

impl<'a> Mask<'a> {
    fn of(cover: &'a [f32], width: usize) -> Option<Self> {
        let (area, centre) = area_and_centre(cover, width)?;
        Some(Self {
            cover,
            width,
            area,
            centre,
        })
    }

    fn overlap(&self, shape: Shape, turn: f64) -> f64 {
        let radius = (self.area / unit_area(shape)).sqrt();
        let (sin, cos) = turn.sin_cos();
        let height = self.cover.len() / self.width;
        // No point of a subject is farther from its middle than 1.28 radii; one pixel more for the soft edge.
        let reach = 1.28 * radius + 1.5;
        let span = |middle: f64, size: usize| {
            let from = (middle - reach).floor().max(0.0) as usize;
            from..((middle + reach).ceil().max(0.0) as usize).min(size)
        };
        let (mut common, mut template) = (0.0, 0.0);
        for row in span(self.centre.1, height) {
            for column in span(self.centre.0, self.width) {
                let x = column as f64 + 0.5 - self.centre.0;
                let y = row as f64 + 0.5 - self.centre.1;
                let place = (x * cos + y * sin, y * cos - x * sin);
                let value = (0.5 - shape_distance(shape, radius, place)).clamp(0.0, 1.0);
                template += value;
                common += value.min(f64::from(self.cover[row * self.width + column]));
            }
        }
        // sum(max) = sum(a) + sum(b) - sum(min).
        common / (self.area + template - common).max(f64::MIN_POSITIVE)
    }
}

/// Sum of a mask, and its centroid in pixels (the first pixel's middle is at 0.5); none for an empty mask.
pub(super) fn area_and_centre(cover: &[f32], width: usize) -> Option<(f64, (f64, f64))> {
    let (mut area, mut x, mut y) = (0.0, 0.0, 0.0);
    for (at, value) in cover.iter().enumerate() {
        let value = f64::from(*value);
        area += value;
        x += value * ((at % width.max(1)) as f64 + 0.5);
        y += value * ((at / width.max(1)) as f64 + 0.5);
    }
    (area > 0.0).then(|| (area, (x / area, y / area)))
}
