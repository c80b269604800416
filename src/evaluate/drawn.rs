//! The drawn world: clips of a plain shape on a plain ground whose motion is known because they were drawn.
//!
//! The same shapes, hues and grounds as the clips that the built-in model learned from. Places are in *units*: 64 to the
//! shorter side of a frame, whatever its size in pixels; x grows to the right, y downwards.

use std::f64::consts::PI;

use super::dice::Dice;
use super::scene::{Colour, Scene, Shape};
use crate::motion::{Track, compare};
use crate::video::Frame;

/// Units along the shorter side of a frame.
pub const UNIT: f64 = 64.0;
/// Half side of a square of radius 1: a square looks as large as a circle of the same radius.
const SQUARE: f64 = 0.86;
/// Inner radius of a triangle of radius 1.
const TRIANGLE: f64 = 0.64;
/// Distance of a star's tips and of its notches from the middle, for radius 1.
const STAR: (f64, f64) = (1.27, 0.66);
/// Farthest that any point of a subject of radius 1 is from its middle.
const REACH: f64 = 2.0 * TRIANGLE;
/// Fastest that a path moves, in units over the whole clip divided by its steps: 11 units a frame for 8 frames.
const FASTEST: f64 = 77.0;
/// Largest correlation of two paths that have nothing to do with each other.
const ALONGSIDE: f64 = 0.3;
/// Paths that are tried before the last one is taken as it is. About one in eight fits.
const TRIES: usize = 1000;

/// Signed distance in units of a point from the outline of a shape of radius `radius` at the origin: negative inside.
///
/// Exact along the sides; beyond corners it is that of the nearest side's line, which is what anti-aliasing needs.
#[must_use]
pub fn shape_distance(shape: Shape, radius: f64, (x, y): (f64, f64)) -> f64 {
    match shape {
        Shape::Circle => x.hypot(y) - radius,
        Shape::Square => x.abs().max(y.abs()) - SQUARE * radius,
        Shape::Triangle => y.max(0.5 * 3f64.sqrt() * x.abs() - 0.5 * y) - TRIANGLE * radius,
        Shape::Star => {
            let sector = 2.0 * PI / 5.0;
            // 0 at the upper tip; folded into half a sector, where the outline is one line from tip to notch.
            let angle = libm::atan2(x, -y);
            let folded = (angle - sector * (angle / sector).round()).abs();
            let away = x.hypot(y);
            let (along, across) = (away * libm::cos(folded), away * libm::sin(folded));
            let (tip, notch) = STAR;
            let (nx, ny) = (
                notch * libm::sin(sector / 2.0),
                tip - notch * libm::cos(sector / 2.0),
            );
            ((along - tip * radius) * nx + across * ny) / nx.hypot(ny)
        }
    }
}

/// Area of a shape of radius 1.
#[must_use]
pub fn unit_area(shape: Shape) -> f64 {
    match shape {
        Shape::Circle => PI,
        Shape::Square => 4.0 * SQUARE * SQUARE,
        Shape::Triangle => 3.0 * 3f64.sqrt() * TRIANGLE * TRIANGLE,
        Shape::Star => 5.0 * STAR.0 * STAR.1 * libm::sin(PI / 5.0),
    }
}

/// A subject at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// Its middle, units.
    pub centre: (f64, f64),
    /// Its radius, units.
    pub radius: f64,
    /// Turned clockwise by this, radians.
    pub turn: f64,
}

/// Share of each pixel that a subject covers, `[height, width]`, its edge one pixel wide.
#[must_use]
pub fn coverage(shape: Shape, pose: Pose, (width, height): (u32, u32)) -> Vec<f32> {
    let pixel = UNIT / f64::from(width.min(height).max(1));
    let (sin, cos) = (libm::sin(pose.turn), libm::cos(pose.turn));
    let mut cover = Vec::with_capacity(width as usize * height as usize);
    for row in 0..height {
        for column in 0..width {
            let (x, y) = to_units(
                (f64::from(column) + 0.5, f64::from(row) + 0.5),
                (width, height),
            );
            let (x, y) = (x - pose.centre.0, y - pose.centre.1);
            let place = (x * cos + y * sin, y * cos - x * sin);
            let distance = shape_distance(shape, pose.radius, place) / pixel;
            cover.push((0.5 - distance).clamp(0.0, 1.0) as f32);
        }
    }
    cover
}

/// A place in pixels, in units. The units' square is in the middle of the frame.
fn to_units((x, y): (f64, f64), (width, height): (u32, u32)) -> (f64, f64) {
    let pixel = UNIT / f64::from(width.min(height).max(1));
    (
        (x - f64::from(width) / 2.0) * pixel + UNIT / 2.0,
        (y - f64::from(height) / 2.0) * pixel + UNIT / 2.0,
    )
}

/// A place in units, in pixels of a frame of this size.
#[must_use]
pub fn to_pixels((x, y): (f64, f64), (width, height): (u32, u32)) -> (f64, f64) {
    let pixel = UNIT / f64::from(width.min(height).max(1));
    (
        (x - UNIT / 2.0) / pixel + f64::from(width) / 2.0,
        (y - UNIT / 2.0) / pixel + f64::from(height) / 2.0,
    )
}

/// Red, green and blue in 0..=1 of hue (degrees), saturation and value.
fn rgb(hue_degrees: f64, saturation: f64, value: f64) -> [f64; 3] {
    [5.0, 3.0, 1.0].map(|offset: f64| {
        let k = (offset + hue_degrees / 60.0).rem_euclid(6.0);
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

/// A subject's paint: bright and saturated.
fn paint(colour: Colour) -> [f64; 3] {
    rgb(colour.hue_degrees().unwrap_or_default(), 1.0, 1.0)
}

/// A ground's paint: darker and muted, or a grey.
fn ground_paint(colour: Colour) -> [f64; 3] {
    match (colour.hue_degrees(), colour.grey_value()) {
        (Some(hue), _) => rgb(hue, 0.55, 0.48),
        (None, grey) => [grey.unwrap_or_default(); 3],
    }
}

/// One picture: a subject over a plain ground.
#[must_use]
pub fn draw(
    (shape, colour): (Shape, Colour),
    ground: Colour,
    pose: Pose,
    (width, height): (u32, u32),
) -> Frame {
    let (subject, ground) = (paint(colour), ground_paint(ground));
    let mix = |cover: f32| {
        [0, 1, 2].map(|c| {
            let value = ground[c] + (subject[c] - ground[c]) * f64::from(cover);
            // In 0..=255 by construction.
            (value * 255.0).round() as u8
        })
    };
    let cover = coverage(shape, pose, (width, height));
    Frame {
        width,
        height,
        rgb: cover.into_iter().flat_map(mix).collect(),
    }
}

/// A clip with its truth. Everything follows from its seed and its number of frames.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnClip {
    /// What it shows.
    pub scene: Scene,
    /// What a transfer of its motion is asked to show: another shape, colour and ground.
    pub edit: Scene,
    /// Middle of the subject in each frame, units. It turns back at least once along each axis where the clip has 4
    /// frames or more.
    pub path: Vec<(f64, f64)>,
    /// A path of the same kind that has nothing to do with this clip (their correlation is within 0.3 of 0): what
    /// following is compared with.
    pub other_path: Vec<(f64, f64)>,
    shape: Shape,
    colour: Colour,
    ground: Colour,
    radius: f64,
    turn: f64,
}

impl DrawnClip {
    /// The clip of a seed.
    #[must_use]
    pub fn new(seed: u64, frames: usize) -> Self {
        let mut dice = Dice::new(seed);
        let mut colour = |but: &[Option<Colour>]| {
            let free = Colour::HUES
                .into_iter()
                .filter(|c| !but.contains(&Some(*c)));
            dice.pick(&free.collect::<Vec<_>>()).unwrap_or(Colour::Red)
        };
        let subject = colour(&[]);
        let ground = colour(&[Some(subject)]);
        let new = colour(&[Some(subject), Some(ground)]);
        let new_ground = colour(&[Some(subject), Some(ground), Some(new)]);
        let shape = dice.pick(&Shape::ALL).unwrap_or(Shape::Circle);
        let others: Vec<_> = Shape::ALL.into_iter().filter(|s| *s != shape).collect();
        let new_shape = dice.pick(&others).unwrap_or(Shape::Star);
        let radius = dice.within(9.5, 13.0);
        let turn = dice.within(-0.1, 0.1);
        let scene = |colour, shape, ground| Scene {
            colour: Some(colour),
            shape: Some(shape),
            ground: Some(ground),
        };
        let way = path(&mut dice, frames, radius);
        Self {
            scene: scene(subject, shape, ground),
            edit: scene(new, new_shape, new_ground),
            other_path: other_path(&mut dice, &way, radius),
            path: way,
            shape,
            colour: subject,
            ground,
            radius,
            turn,
        }
    }

    /// Its pictures at this size.
    #[must_use]
    pub fn frames(&self, size: (u32, u32)) -> Vec<Frame> {
        let pose = |centre: &(f64, f64)| Pose {
            centre: *centre,
            radius: self.radius,
            turn: self.turn,
        };
        let subject = (self.shape, self.colour);
        let poses = self.path.iter().map(pose);
        poses
            .map(|pose| draw(subject, self.ground, pose, size))
            .collect()
    }
}

/// A wave along each axis that stays inside the frame, moves far, turns back and does not run along a diagonal.
fn path(dice: &mut Dice, frames: usize, radius: f64) -> Vec<(f64, f64)> {
    let room = UNIT / 2.0 - REACH * radius - 1.0;
    let last = frames.saturating_sub(1).max(1) as f64;
    let mut found = Vec::new();
    for _ in 0..TRIES {
        let mut axis = || {
            let (size, cycles, phase) = (
                room * dice.within(0.75, 1.0),
                dice.within(0.55, 0.95),
                dice.within(0.0, 1.0),
            );
            let at = |i: usize| {
                let turns = cycles * i as f64 / last + phase;
                UNIT / 2.0 + size * libm::sin(2.0 * PI * turns)
            };
            (0..frames).map(at).collect::<Vec<_>>()
        };
        let (x, y) = (axis(), axis());
        let good = is_lively(&x, &y, room);
        found = x.into_iter().zip(y).collect();
        if good || frames < 4 {
            break;
        }
    }
    found
}

/// Another path, which does not happen to run alongside this one.
fn other_path(dice: &mut Dice, way: &[(f64, f64)], radius: f64) -> Vec<(f64, f64)> {
    let mut found = Vec::new();
    for _ in 0..TRIES {
        found = path(dice, way.len(), radius);
        let score = compare(&Track::from_path(&found), &Track::from_path(way));
        if score.corr.is_none_or(|corr| corr.abs() <= ALONGSIDE) {
            break;
        }
    }
    found
}

fn is_lively(x: &[f64], y: &[f64], room: f64) -> bool {
    let steps =
        |axis: &[f64]| -> Vec<f64> { axis.windows(2).map(|pair| pair[1] - pair[0]).collect() };
    let (dx, dy) = (steps(x), steps(y));
    let turns = |steps: &[f64]| steps.windows(2).any(|pair| pair[0] * pair[1] < 0.0);
    let spread = |axis: &[f64]| {
        let low = axis.iter().copied().fold(f64::INFINITY, f64::min);
        axis.iter().copied().fold(f64::NEG_INFINITY, f64::max) - low
    };
    let fastest = dx
        .iter()
        .zip(&dy)
        .map(|(x, y)| x.hypot(*y))
        .fold(0.0, f64::max);
    let mean = |axis: &[f64]| axis.iter().sum::<f64>() / axis.len().max(1) as f64;
    let (mx, my) = (mean(x), mean(y));
    let sums = x.iter().zip(y).fold((0.0, 0.0, 0.0), |sums, (x, y)| {
        let (x, y) = (x - mx, y - my);
        (sums.0 + x * y, sums.1 + x * x, sums.2 + y * y)
    });
    let diagonal = sums.0.abs() > 0.7 * (sums.1 * sums.2).sqrt();
    turns(&dx)
        && turns(&dy)
        && spread(x).min(spread(y)) >= room
        && fastest * dx.len() as f64 <= FASTEST
        && !diagonal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_area_of_their_formula() {
        let pose = Pose {
            centre: (31.3, 33.1),
            radius: 14.0,
            turn: 0.4,
        };
        for shape in Shape::ALL {
            let cover = coverage(shape, pose, (256, 256));
            // 256 pixels are 64 units: 16 pixels a square unit.
            let got = cover.iter().map(|c| f64::from(*c)).sum::<f64>() / 16.0;
            let want = unit_area(shape) * 14.0 * 14.0;
            // Anti-aliasing is exact along straight sides; corners lose or gain a fraction of a pixel.
            assert!((got / want - 1.0).abs() < 0.005, "{shape:?}: {got} {want}");
        }
    }

    #[test]
    fn a_clip_follows_from_its_seed_and_its_path_turns_back_inside_the_frame() {
        for seed in 0..40 {
            let clip = DrawnClip::new(seed, 8);
            assert_eq!(clip, DrawnClip::new(seed, 8));
            assert_ne!(clip.path, clip.other_path);
            for path in [&clip.path, &clip.other_path] {
                let (x, y): (Vec<_>, Vec<_>) = path.iter().copied().unzip();
                let room = UNIT / 2.0 - REACH * clip.radius - 1.0;
                assert!(is_lively(&x, &y, room), "seed {seed}: {path:?}");
                let reach = REACH * clip.radius;
                let inside = |v: &f64| (reach..=UNIT - reach).contains(v);
                assert!(x.iter().all(inside) && y.iter().all(inside), "seed {seed}");
            }
            let null = compare(
                &Track::from_path(&clip.other_path),
                &Track::from_path(&clip.path),
            );
            assert!(null.corr.unwrap().abs() <= ALONGSIDE, "seed {seed}");
            let (was, new) = (clip.scene, clip.edit);
            assert!(was.shape != new.shape && was.colour != new.colour && was.ground != new.ground);
            assert!(![was.colour, was.ground, new.colour].contains(&new.ground));
        }
        assert_ne!(DrawnClip::new(1, 8), DrawnClip::new(2, 8));
    }

    #[test]
    fn a_place_is_the_same_in_pixels_and_units() {
        let size = (96, 64);
        assert_eq!(to_pixels((32.0, 32.0), size), (48.0, 32.0));
        let (x, y) = to_units(to_pixels((20.5, 7.25), (300, 128)), (300, 128));
        assert!((x - 20.5).abs() < 1e-12 && (y - 7.25).abs() < 1e-12);
    }
}
