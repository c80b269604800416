//! The scorecard of a result: every number that can be known of it, by one pure function.

use serde::{Deserialize, Serialize};

use super::fidelity::motion_fidelity;
use super::look::{Look, look, majority, subject_track};
use super::scene::{Colour, Scene};
use super::spectrum::{SpectrumScore, spectrum_score};
use crate::motion::{PathScore, Track, compare, luma, optical_flows, residuals, track};
use crate::video::Frame;
use crate::video::resample::{Filter, Region, resize, shrink_to};

/// Longer side at which films are compared, in pixels: motion is seen well enough, and a film that was enlarged for
/// watching is not compared more finely than it was painted.
const COMPARED_SIDE: u32 = 128;
/// Levels of each channel in the colour table of [`Leakage::palette`].
const PALETTE_LEVELS: usize = 8;

/// What is known of a result and its reference besides their pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Known<'a> {
    /// What the result shall show.
    pub wanted: Scene,
    /// What the reference shows, as far as its words say; the rest is looked up in its pictures.
    pub shown: Scene,
    /// The true path of the reference's subject in its pixels, for a drawn clip.
    pub path: Option<&'a [(f64, f64)]>,
    /// A path that has nothing to do with the reference, in the same pixels: what chance scores.
    pub other_path: Option<&'a [(f64, f64)]>,
}

/// How well a result follows its reference and its words. `None` is a number that cannot be known of these two films.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scorecard {
    /// Frames compared.
    pub frames: usize,
    /// Size at which they were compared, `[width, height]` in pixels; lengths and frequencies refer to it.
    pub size_px: [u32; 2],
    /// The subject's path against the reference's. None where either subject cannot be told from its ground.
    pub path: Option<PathScore>,
    /// Whether `path` was compared with the truth of a drawn clip instead of the track of the reference's subject.
    pub path_is_true: bool,
    /// The subject's path against one that has nothing to do with the reference.
    pub other_path: Option<PathScore>,
    /// Motion fidelity on optical-flow tracks, see [`motion_fidelity`]; a stand-in for the metric on CoTracker's.
    pub fidelity: Option<f64>,
    /// Distances of the motion's spectra.
    pub spectrum: SpectrumScore,
    /// How alike the two films spend their motion over time, 0..=1: `sum min(p, q)`, where p and q are the energies of
    /// their successive frame differences, each made to add up to 1. 1 is the same pace; a flicker or a freeze lowers it.
    /// A stand-in for frame consistency that needs no model. None where a film stands still.
    pub pace: Option<f64>,
    /// Whether the result shows what its words say.
    pub agreement: Agreement,
    /// What stayed of the reference's look.
    pub leakage: Leakage,
}

/// Shares of the frames, 0..=1, that show what the words say; none for what they do not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Median hue of the subject in the bin of the words' colour.
    pub colour: Option<f64>,
    /// The words' shape recognised.
    pub shape: Option<f64>,
    /// The words' colour nearest to the ground.
    pub ground: Option<f64>,
}

/// What stayed of the reference's look in the result: shares of the frames, 0..=1; none where the words ask for the same
/// as the reference shows, or where the reference's look is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Leakage {
    /// The subject has the reference's colour.
    pub colour: Option<f64>,
    /// The subject has the reference's shape.
    pub shape: Option<f64>,
    /// The ground has the reference's colour.
    pub ground: Option<f64>,
    /// Mean of the three, as far as known.
    pub mean: Option<f64>,
    /// Overlap of the colours of all pixels, `sum min(p, q)` over the shares of 8 x 8 x 8 colours: 1 for the same
    /// picture. Known of any two films, and never 0 where they share a colour by right.
    pub palette: f64,
}

/// Why two films cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// No motion without at least two frames.
    #[error("there are {frames} frames, but motion needs at least 2")]
    TooFew {
        /// Frames of the shorter film.
        frames: usize,
    },
    /// They are compared frame by frame.
    #[error("the reference has {reference} frames and the result {result}")]
    Frames {
        /// Frames of the reference.
        reference: usize,
        /// Frames of the result.
        result: usize,
    },
    /// They are compared pixel by pixel.
    #[error("frames differ in size or are damaged")]
    Sizes,
}

/// Compares a result with its reference: films of one length and size, frame by frame.
///
/// # Errors
/// [`ScoreError`] says what about the films does not fit.
pub fn score(
    reference: &[Frame],
    result: &[Frame],
    known: &Known<'_>,
) -> Result<Scorecard, ScoreError> {
    let (width, height) = check(reference, result)?;
    let (w, h) = (width as usize, height as usize);
    let planes = |film: &[Frame]| {
        film.iter()
            .map(|frame| luma(&frame.rgb))
            .collect::<Vec<_>>()
    };
    let (planes_a, planes_b) = (planes(reference), planes(result));
    let (moved_a, moved_b) = (residuals(&planes_a), residuals(&planes_b));
    let looks = |film: &[Frame]| film.iter().map(look).collect::<Vec<_>>();
    let (looks_a, looks_b) = (looks(reference), looks(result));
    let shown = known.shown.or(majority(&looks_a));
    let found = way(result, known.wanted.colour, &looks_b);
    let target = match known.path {
        Some(path) => Some(Track::from_path(path)),
        None => way(reference, shown.colour, &looks_a),
    };
    let against = |target: Option<&Track>| Some(compare(found.as_ref()?, target?));
    let other = known.other_path.map(Track::from_path);
    let flows = |planes: &[Vec<f32>]| optical_flows(planes, w, h);
    Ok(Scorecard {
        frames: result.len(),
        size_px: [width, height],
        path: against(target.as_ref()),
        path_is_true: known.path.is_some(),
        other_path: against(other.as_ref()),
        fidelity: motion_fidelity(&flows(&planes_a), &flows(&planes_b)),
        spectrum: spectrum_score(&moved_a, &moved_b, (h, w)),
        pace: pace(&moved_a, &moved_b),
        agreement: agreement(&looks_b, known.wanted),
        leakage: Leakage {
            palette: palette_overlap(reference, result),
            ..leakage(&looks_b, known.wanted, shown)
        },
    })
}

/// The two films at one size, at which [`score()`] compares them: the result's, its longer side 128 pixels or less.
#[must_use]
pub fn at_one_size(reference: &[Frame], result: &[Frame]) -> (Vec<Frame>, Vec<Frame>) {
    let shrunk = |frame: &Frame| shrink_to(frame.clone(), COMPARED_SIDE);
    let result: Vec<Frame> = result.iter().map(shrunk).collect();
    let (width, height) = result
        .first()
        .map_or((1, 1), |frame| (frame.width, frame.height));
    let fitted = |frame: &Frame| resize(frame, Region::of(frame), width, height, Filter::Triangle);
    (reference.iter().map(fitted).collect(), result)
}

fn check(reference: &[Frame], result: &[Frame]) -> Result<(u32, u32), ScoreError> {
    let frames = reference.len().min(result.len());
    if frames < 2 {
        return Err(ScoreError::TooFew { frames });
    }
    if reference.len() != result.len() {
        return Err(ScoreError::Frames {
            reference: reference.len(),
            result: result.len(),
        });
    }
    let (width, height) = (result[0].width, result[0].height);
    let fits = |f: &Frame| f.is_valid() && (f.width, f.height) == (width, height);
    if reference.iter().chain(result).all(fits) {
        Ok((width, height))
    } else {
        Err(ScoreError::Sizes)
    }
}

/// The subject's track: by its colour where that is known, so that another subject is not taken for it; else whatever
/// stands in front of a plain ground. None where it is in no frame.
fn way(film: &[Frame], colour: Option<Colour>, looks: &[Option<Look>]) -> Option<Track> {
    let found = match colour.and_then(Colour::class) {
        Some(class) => track(film, &class),
        None => subject_track(looks),
    };
    found.points.iter().any(Option::is_some).then_some(found)
}

/// See [`Scorecard::pace`].
fn pace(reference: &[Vec<f32>], result: &[Vec<f32>]) -> Option<f64> {
    let shares = |film: &[Vec<f32>]| {
        let energy = |plane: &Vec<f32>| plane.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let energies: Vec<f64> = film.iter().map(energy).collect();
        let all: f64 = energies.iter().sum();
        (all > 0.0).then(|| energies.into_iter().map(|e| e / all).collect::<Vec<_>>())
    };
    let (p, q) = (shares(reference)?, shares(result)?);
    Some(p.iter().zip(&q).map(|(p, q)| p.min(*q)).sum())
}

/// Share of the frames of which something holds; a frame that could not be looked at does not hold.
fn share(looks: &[Option<Look>], holds: impl Fn(&Look) -> bool) -> f64 {
    let count = looks.iter().flatten().filter(|look| holds(look)).count();
    count as f64 / looks.len().max(1) as f64
}

fn agreement(looks: &[Option<Look>], scene: Scene) -> Agreement {
    // A film without a single plain ground cannot be looked at: nothing is known then.
    let seen = looks.iter().flatten().any(|look| look.is_plain);
    let subject_share = |holds: &dyn Fn(&super::look::Subject) -> bool| {
        share(looks, |look| look.subject.as_ref().is_some_and(holds))
    };
    Agreement {
        colour: scene
            .colour
            .filter(|_| seen)
            .map(|colour| subject_share(&|s| s.is(colour))),
        shape: scene
            .shape
            .filter(|_| seen)
            .map(|shape| subject_share(&|s| s.shape.is_some_and(|found| found.shape == shape))),
        ground: scene
            .ground
            .map(|ground| share(looks, |look| look.ground == ground)),
    }
}

fn leakage(looks: &[Option<Look>], wanted: Scene, shown: Scene) -> Leakage {
    // Only what the words change can leak.
    let stays = Scene {
        colour: shown
            .colour
            .filter(|was| wanted.colour.is_some_and(|new| new != *was)),
        shape: shown
            .shape
            .filter(|was| wanted.shape.is_some_and(|new| new != *was)),
        ground: shown
            .ground
            .filter(|was| wanted.ground.is_some_and(|new| new != *was)),
    };
    let found = agreement(looks, stays);
    let known: Vec<f64> = [found.colour, found.shape, found.ground]
        .into_iter()
        .flatten()
        .collect();
    Leakage {
        colour: found.colour,
        shape: found.shape,
        ground: found.ground,
        mean: (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64),
        palette: 0.0,
    }
}

fn palette_overlap(reference: &[Frame], result: &[Frame]) -> f64 {
    let table = |film: &[Frame]| {
        let mut counts = vec![0u64; PALETTE_LEVELS.pow(3)];
        for pixel in film.iter().flat_map(|frame| frame.rgb.chunks_exact(3)) {
            let level = |value: u8| usize::from(value) * PALETTE_LEVELS / 256;
            let at = pixel
                .iter()
                .fold(0, |at, value| at * PALETTE_LEVELS + level(*value));
            counts[at] += 1;
        }
        let all = counts.iter().sum::<u64>().max(1) as f64;
        counts.into_iter().map(move |count| count as f64 / all)
    };
    table(reference)
        .zip(table(result))
        .map(|(p, q)| p.min(q))
        .sum()
}
