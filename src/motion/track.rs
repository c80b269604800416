//! Where a coloured subject is in each frame, and how well it follows a path.

use std::str::FromStr;

use crate::video::Frame;

/// A frame where the subject covers less than this share of the pixels counts as one without the subject.
pub const MIN_SHARE: f64 = 0.02;

/// Hues of the six named colours in degrees, about 60 apart.
pub const NAMED_HUES: [(&str, f64); 6] = [
    ("red", 0.0),
    ("yellow", 55.0),
    ("green", 125.0),
    ("cyan", 185.0),
    ("blue", 230.0),
    ("purple", 290.0),
];

/// Which pixels belong to a subject: a bin of hue with floors of saturation and value.
///
/// A pixel of 8-bit `r, g, b` with `top = max`, `low = min` has value `top / 255`, saturation `(top - low) / top` and
/// the usual hue in degrees. It belongs when its saturation and value reach the floors and its hue is within
/// `half_width_degrees` of `hue_degrees` around the circle (both ends included). Greys have no hue and never belong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColourClass {
    /// Middle of the hue bin, degrees.
    pub hue_degrees: f64,
    /// How far a hue may lie from the middle, degrees.
    pub half_width_degrees: f64,
    /// Least saturation, 0..=1.
    pub min_saturation: f64,
    /// Least value, 0..=1.
    pub min_value: f64,
}

impl ColourClass {
    /// Bright, saturated pixels within 25 degrees of a hue: a subject, not a muted ground of the same hue.
    pub fn around(hue_degrees: f64) -> Self {
        Self {
            hue_degrees,
            half_width_degrees: 25.0,
            min_saturation: 0.4,
            min_value: 0.6,
        }
    }

    /// Whether a pixel belongs.
    pub fn contains(&self, rgb: [u8; 3]) -> bool {
        let Some((hue, saturation, value)) = hue_saturation_value(rgb) else {
            return false;
        };
        saturation >= self.min_saturation
            && value >= self.min_value
            && hue_distance(hue, self.hue_degrees) <= self.half_width_degrees
    }
}

impl FromStr for ColourClass {
    type Err = String;

    /// A named colour: red, yellow, green, cyan, blue or purple.
    fn from_str(name: &str) -> Result<Self, String> {
        match NAMED_HUES.iter().find(|(known, _)| *known == name) {
            Some(&(_, hue)) => Ok(Self::around(hue)),
            None => {
                let known: Vec<&str> = NAMED_HUES.iter().map(|(name, _)| *name).collect();
                Err(format!(
                    "no colour is called '{name}'; use one of {}",
                    known.join(", ")
                ))
            }
        }
    }
}

/// Hue in degrees (0..360), saturation and value of a pixel; `None` for a grey, which has no hue.
pub fn hue_saturation_value(rgb: [u8; 3]) -> Option<(f64, f64, f64)> {
    let [r, g, b] = rgb.map(f64::from);
    let (top, low) = (r.max(g).max(b), r.min(g).min(b));
    let range = top - low;
    if range <= 0.0 {
        return None;
    }
    let sixth = if top <= r {
        (g - b) / range
    } else if top <= g {
        (b - r) / range + 2.0
    } else {
        (r - g) / range + 4.0
    };
    Some(((sixth * 60.0).rem_euclid(360.0), range / top, top / 255.0))
}

/// Distance of two hues around the circle, 0..=180 degrees.
pub fn hue_distance(a: f64, b: f64) -> f64 {
    let apart = (a - b).rem_euclid(360.0);
    apart.min(360.0 - apart)
}

/// A subject through a film.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    /// Centre of the subject's pixels in each frame, `(x, y)` in pixels; the first pixel's centre is at 0.5.
    ///
    /// `None` where it covers less than [`MIN_SHARE`] of the frame.
    pub points: Vec<Option<(f64, f64)>>,
    /// Share of the frame's pixels that belong to the subject, 0..=1.
    pub share: Vec<f64>,
}

impl Track {
    /// A known path, such as the one a clip was drawn with.
    pub fn from_path(points: &[(f64, f64)]) -> Self {
        Self {
            points: points.iter().copied().map(Some).collect(),
            share: vec![1.0; points.len()],
        }
    }

    /// The same track in other units: `x` and `y` times the factors.
    #[must_use]
    pub fn scaled(mut self, x: f64, y: f64) -> Self {
        for point in self.points.iter_mut().flatten() {
            *point = (point.0 * x, point.1 * y);
        }
        self
    }
}

/// Follow the pixels of one colour through `frames`.
pub fn track(frames: &[Frame], colour: &ColourClass) -> Track {
    let mut found = Track::default();
    for frame in frames {
        let width = (frame.width as usize).max(1);
        let (mut count, mut x, mut y) = (0u32, 0.0, 0.0);
        for (i, pixel) in frame.rgb.chunks_exact(3).enumerate() {
            if colour.contains([pixel[0], pixel[1], pixel[2]]) {
                count += 1;
                x += (i % width) as f64 + 0.5;
                y += (i / width) as f64 + 0.5;
            }
        }
        let pixels = (frame.rgb.len() / 3).max(1);
        let share = f64::from(count) / pixels as f64;
        let centre = (x / f64::from(count), y / f64::from(count));
        found
            .points
            .push((count > 0 && share >= MIN_SHARE).then_some(centre));
        found.share.push(share);
    }
    found
}

/// How well one track follows another.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PathScore {
    /// Frames compared: the length of the longer track.
    pub frames: usize,
    /// Frames where either track has no subject; any of them means the subject was lost.
    pub missing: usize,
    /// Pearson correlation of the x coordinates; `None` with fewer than 3 common frames or where either stands still in x.
    pub corr_x: Option<f64>,
    /// The same for y.
    pub corr_y: Option<f64>,
    /// Both axes together, weighted by how far they move: `sum (p - P)(q - Q) / sqrt(sum (p - P)^2 sum (q - Q)^2)` over
    /// the points p, q and their means; `None` with fewer than 3 common frames or where either stands still.
    pub corr: Option<f64>,
    /// Mean distance of the two over the common frames, in their units; `None` without any.
    pub mean_error_px: Option<f64>,
    /// Mean share of the pixels that show the subject in the first track; 0 for an empty track.
    pub mean_share: f64,
}

/// Compare a track with the path it should follow, frame by frame and in the same units.
pub fn compare(track: &Track, reference: &Track) -> PathScore {
    let frames = track.points.len().max(reference.points.len());
    let pairs: Vec<_> = track
        .points
        .iter()
        .zip(&reference.points)
        .filter_map(|(a, b)| (*a).zip(*b))
        .collect();
    let distance = |((ax, ay), (bx, by)): &((f64, f64), (f64, f64))| (ax - bx).hypot(ay - by);
    let sum: f64 = pairs.iter().map(distance).sum();
    let x: &[(f64, f64)] = &pairs.iter().map(|(a, b)| (a.0, b.0)).collect::<Vec<_>>();
    let y: &[(f64, f64)] = &pairs.iter().map(|(a, b)| (a.1, b.1)).collect::<Vec<_>>();
    PathScore {
        frames,
        missing: frames - pairs.len(),
        corr_x: correlation(&[x]),
        corr_y: correlation(&[y]),
        corr: correlation(&[x, y]),
        mean_error_px: (!pairs.is_empty()).then(|| sum / pairs.len() as f64),
        mean_share: track.share.iter().sum::<f64>() / track.share.len().max(1) as f64,
    }
}

/// Pearson's correlation of pairs along one or more axes, each about its own mean; `None` with fewer than 3 pairs or where
/// one side does not vary.
fn correlation(axes: &[&[(f64, f64)]]) -> Option<f64> {
    let (mut ab, mut aa, mut bb, mut n) = (0.0, 0.0, 0.0, 0);
    for pairs in axes {
        n = pairs.len();
        let sum = |sums: (f64, f64), (a, b): &(f64, f64)| (sums.0 + a, sums.1 + b);
        let sums = pairs.iter().fold((0.0, 0.0), sum);
        let means = (sums.0 / n as f64, sums.1 / n as f64);
        for (a, b) in *pairs {
            let (a, b) = (a - means.0, b - means.1);
            (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
        }
    }
    // Standard deviations below a millionth of a pixel are rounding, not motion.
    let still = n as f64 * 1e-12;
    (n >= 3 && aa > still && bb > still).then(|| ab / (aa * bb).sqrt())
}
