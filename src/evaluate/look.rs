//! What a frame of the drawn world shows: its ground, and the subject in front of it.
//!
//! The ground is the median colour of the frame's border. Where the border is of that one colour the subject is the
//! largest connected part that differs from it; on any other picture, such as a film of the real world, there is no
//! telling what the subject is, and nothing is said.

use super::scene::{Colour, Scene};
use super::shape::{Recognised, area_and_centre, recognise};
use crate::motion::{MIN_SHARE, Track, hue_distance, hue_saturation_value};
use crate::video::Frame;

/// Share of the border that must be of one colour.
const PLAIN_SHARE: f64 = 0.75;
/// A border pixel is of that colour when no channel differs by more than this; the channels are in 0..=1.
const PLAIN_DIFFERENCE: f32 = 0.12;
/// A pixel differs from the ground when one channel differs by more than this.
const SUBJECT_DIFFERENCE: f32 = 0.22;
/// A subject larger than this share of the frame is the ground of something else.
const MAX_SHARE: f64 = 0.6;
/// A ground below this saturation is a grey.
const GREY_SATURATION: f64 = 0.25;

/// A subject in front of a plain ground.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// Its middle, pixels; the first pixel's middle is at 0.5.
    pub centre: (f64, f64),
    /// Share of the frame that it covers, 0..=1.
    pub share: f64,
    /// Median colour of its inside.
    pub rgb: [u8; 3],
    /// Its shape, where it has one of the known ones.
    pub shape: Option<Recognised>,
}

impl Subject {
    /// Whether its median hue lies in a colour's bin: within 25 degrees, with a saturation of at least 0.4 and a value of
    /// at least 0.5.
    #[must_use]
    pub fn is(&self, colour: Colour) -> bool {
        colour.class().is_some_and(|mut class| {
            class.min_value = 0.5;
            class.contains(self.rgb)
        })
    }

    /// The colour in whose bin it lies.
    #[must_use]
    pub fn colour(&self) -> Option<Colour> {
        Colour::HUES.into_iter().find(|colour| self.is(*colour))
    }
}

/// What a frame shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The named colour nearest to the border's median.
    pub ground: Colour,
    /// Whether the border is of one colour.
    pub is_plain: bool,
    /// What stands in front of a plain ground; none where nothing does, or where the ground is not plain.
    pub subject: Option<Subject>,
}

/// Looks at a frame; none for one without pixels.
#[must_use]
pub fn look(frame: &Frame) -> Option<Look> {
    if !frame.is_valid() {
        return None;
    }
    let pixels = Pixels::of(frame);
    let border = pixels.border();
    let ground = pixels.median(&border);
    let alike = |at: &&usize| pixels.difference(**at, ground) <= PLAIN_DIFFERENCE;
    let plain = border.iter().filter(alike).count();
    let is_plain = plain as f64 >= PLAIN_SHARE * border.len() as f64;
    Some(Look {
        ground: ground_colour(ground),
        is_plain,
        subject: is_plain.then(|| pixels.subject(ground)).flatten(),
    })
}

/// What most frames show, each part by itself: a part that no frame shows, or that most frames do not, is left open.
#[must_use]
pub fn majority(looks: &[Option<Look>]) -> Scene {
    let subject = |look: &Look| look.subject.clone();
    Scene {
        colour: most(looks, |look| subject(look)?.colour()),
        shape: most(looks, |look| Some(subject(look)?.shape?.shape)),
        ground: most(looks, |look| look.is_plain.then_some(look.ground)),
    }
}

fn most<T: Copy + PartialEq>(
    looks: &[Option<Look>],
    part: impl Fn(&Look) -> Option<T>,
) -> Option<T> {
    let seen: Vec<T> = looks.iter().flatten().filter_map(part).collect();
    let count = |value: &T| seen.iter().filter(|other| *other == value).count();
    let best = seen.iter().max_by_key(|value| count(value))?;
    (2 * count(best) > looks.len()).then_some(*best)
}

/// The subject's way through the frames, as far as it is seen in front of a plain ground.
#[must_use]
pub fn subject_track(looks: &[Option<Look>]) -> Track {
    let subject = |look: &Option<Look>| look.as_ref()?.subject.clone();
    let subjects: Vec<Option<Subject>> = looks.iter().map(subject).collect();
    Track {
        points: subjects
            .iter()
            .map(|s| s.as_ref().map(|s| s.centre))
            .collect(),
        share: subjects
            .iter()
            .map(|s| s.as_ref().map_or(0.0, |s| s.share))
            .collect(),
    }
}

/// The named colour nearest to a ground: by hue, or by value where it is a grey.
fn ground_colour(rgb: [f32; 3]) -> Colour {
    let found =
        hue_saturation_value(bytes(rgb)).filter(|(_, saturation, _)| *saturation > GREY_SATURATION);
    let value = f64::from(rgb.into_iter().fold(0.0, f32::max));
    let distance = |colour: &Colour| match (found, colour.hue_degrees(), colour.grey_value()) {
        (Some((hue, ..)), Some(named), _) => hue_distance(hue, named),
        (None, _, Some(grey)) => (grey - value).abs(),
        _ => f64::INFINITY,
    };
    let nearest = Colour::ALL
        .into_iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)));
    // There are always nine to choose from.
    nearest.unwrap_or(Colour::Black)
}

fn bytes(rgb: [f32; 3]) -> [u8; 3] {
    rgb.map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8)
}

/// A frame with channels in 0..=1.
struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<[f32; 3]>,
}

impl Pixels {
    fn of(frame: &Frame) -> Self {
        let pixel = |p: &[u8]| [p[0], p[1], p[2]].map(|v| f32::from(v) / 255.0);
        Self {
            width: frame.width as usize,
            height: frame.height as usize,
            rgb: frame.rgb.chunks_exact(3).map(pixel).collect(),
        }
    }

    /// The pixels within a thirty-second of the shorter side from the edge, at least one pixel.
    fn border(&self) -> Vec<usize> {
        let wide = (self.width.min(self.height) / 32).max(1);
        let near = |at: usize, size: usize| at < wide || at + wide >= size;
        let outer =
            |at: &usize| near(at % self.width, self.width) || near(at / self.width, self.height);
        (0..self.rgb.len()).filter(outer).collect()
    }

    /// Median of each channel over some pixels; black of none.
    fn median(&self, at: &[usize]) -> [f32; 3] {
        [0, 1, 2].map(|channel| {
            let mut values: Vec<f32> = at.iter().map(|at| self.rgb[*at][channel]).collect();
            values.sort_by(f32::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        })
    }

    fn difference(&self, at: usize, from: [f32; 3]) -> f32 {
        let apart = self.rgb[at].iter().zip(from).map(|(a, b)| (a - b).abs());
        apart.fold(0.0, f32::max)
    }

    fn subject(&self, ground: [f32; 3]) -> Option<Subject> {
        let differs: Vec<f32> = (0..self.rgb.len())
            .map(|at| self.difference(at, ground))
            .collect();
        let rough = self.largest_part(|at| differs[at] > SUBJECT_DIFFERENCE);
        let most = rough.iter().map(|at| differs[*at]).fold(0.0, f32::max);
        // The inside, without edges that are half ground.
        let inside: Vec<usize> = rough
            .into_iter()
            .filter(|at| differs[*at] > 0.5 * most)
            .collect();
        if inside.is_empty() {
            return None;
        }
        let colour = self.median(&inside);
        let cover = self.coverage(ground, colour);
        let (area, centre) = area_and_centre(&cover, self.width)?;
        let share = area / self.rgb.len() as f64;
        (MIN_SHARE..=MAX_SHARE).contains(&share).then(|| Subject {
            centre,
            share,
            rgb: bytes(colour),
            shape: recognise(&cover, self.width),
        })
    }

    /// Share of each pixel that is subject: where its colour lies between the ground's and the subject's. Only the
    /// largest part and the pixels that touch it count; the rest is noise.
    fn coverage(&self, ground: [f32; 3], subject: [f32; 3]) -> Vec<f32> {
        let way = [0, 1, 2].map(|c| subject[c] - ground[c]);
        let length: f32 = way.iter().map(|v| v * v).sum();
        let along = |pixel: &[f32; 3]| {
            let sum: f32 = (0..3).map(|c| (pixel[c] - ground[c]) * way[c]).sum();
            (sum / length.max(f32::MIN_POSITIVE)).clamp(0.0, 1.0)
        };
        let mut cover: Vec<f32> = self.rgb.iter().map(along).collect();
        let part = self.largest_part(|at| cover[at] >= 0.5);
        let mut near = vec![false; cover.len()];
        for at in part {
            let (x, y) = (at % self.width, at / self.width);
            for row in y.saturating_sub(1)..(y + 2).min(self.height) {
                for column in x.saturating_sub(1)..(x + 2).min(self.width) {
                    near[row * self.width + column] = true;
                }
            }
        }
        for (value, near) in cover.iter_mut().zip(near) {
            if !near {
                *value = 0.0;
            }
        }
        cover
    }

    /// The largest set of pixels that belong and touch each other along sides.
    fn largest_part(&self, belongs: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut seen = vec![false; self.rgb.len()];
        let mut largest = Vec::new();
        for start in 0..self.rgb.len() {
            if seen[start] || !belongs(start) {
                continue;
            }
            seen[start] = true;
            let mut part = vec![start];
            let mut next = 0;
            while let Some(&at) = part.get(next) {
                next += 1;
                let (x, y) = (at % self.width, at / self.width);
                let sides = [
                    (x > 0).then(|| at - 1),
                    (x + 1 < self.width).then_some(at + 1),
                    (y > 0).then(|| at - self.width),
                    (y + 1 < self.height).then_some(at + self.width),
                ];
                for side in sides.into_iter().flatten() {
                    if !seen[side] && belongs(side) {
                        seen[side] = true;
                        part.push(side);
                    }
                }
            }
            if part.len() > largest.len() {
                largest = part;
            }
        }
        largest
    }
}
