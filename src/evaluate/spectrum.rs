//! How alike the spectra of two films' motion are: their residuals of brightness, by wavelet band along time and by
//! radius in the plane.

use serde::{Deserialize, Serialize};

use crate::spectral::plain::{
    Fft2, amplitude, fftshift, frequency_radius, haar_forward, max_levels,
};

/// Outer edges of the rings, cycles per pixel: octaves, so that a subject of another size moves its energy little.
const RING_EDGES: [f64; 5] = [1.0 / 32.0, 1.0 / 16.0, 1.0 / 8.0, 1.0 / 4.0, 1.0];

/// A part of a spectrum: a wavelet band or a ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpectrumPart {
    /// `A`, `D1` (fastest) to `DJ`; or the ring's edges in cycles per pixel.
    pub name: String,
    /// Share of the reference's energy that lies here, 0..=1.
    pub reference_share: f64,
    /// Share of the result's energy that lies here, 0..=1.
    pub result_share: f64,
    /// `1 - cos` between the magnitudes of the two films here: 0 where they are alike up to a factor, 1 where they share
    /// nothing. None where neither has energy.
    pub distance: Option<f64>,
}

/// Distances of two residual spectra.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpectrumScore {
    /// Wavelet bands, `A` first, then details from the finest.
    pub bands: Vec<SpectrumPart>,
    /// Rings of the Fourier plane, from the middle.
    pub rings: Vec<SpectrumPart>,
    /// Mean distance of the bands, weighted by the reference's shares; none for a still reference.
    pub band_distance: Option<f64>,
    /// Mean distance of the rings, weighted likewise.
    pub ring_distance: Option<f64>,
}

/// Compares the signed residuals of two films, `[f - 1][h * w]` each, of one size and length.
///
/// Bands compare `|coefficient|` at each place and time step of the Haar transform along time: *where* the motion is, at
/// each time scale. Rings compare `|F|` of each residual: how fine it is, wherever it is. Magnitudes leave out the sign,
/// which only tells whether the subject is brighter than its ground, and the cosine leaves out contrast, so that a
/// subject of another colour is not taken for another motion. Shares add up to 1 (Parseval).
#[must_use]
pub fn spectrum_score(
    reference: &[Vec<f32>],
    result: &[Vec<f32>],
    (h, w): (usize, usize),
) -> SpectrumScore {
    let bands = parts(
        band_magnitudes(reference, h * w),
        band_magnitudes(result, h * w),
    );
    let rings = parts(
        ring_magnitudes(reference, h, w),
        ring_magnitudes(result, h, w),
    );
    SpectrumScore {
        band_distance: weighted(&bands),
        ring_distance: weighted(&rings),
        bands,
        rings,
    }
}

/// Names and magnitudes of parts.
type Magnitudes = Vec<(String, Vec<f64>)>;

fn band_magnitudes(residuals: &[Vec<f32>], positions: usize) -> Magnitudes {
    let values: Vec<f64> = residuals.iter().flatten().map(|v| f64::from(*v)).collect();
    let bands = haar_forward(&values, positions, max_levels(residuals.len() + 1));
    let sizes = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let mut found = vec![("A".to_owned(), sizes(&bands.low))];
    for (level, high) in bands.highs.iter().enumerate() {
        found.push((format!("D{}", level + 1), sizes(high)));
    }
    found
}

fn ring_magnitudes(residuals: &[Vec<f32>], h: usize, w: usize) -> Magnitudes {
    let mut low = 0.0;
    let mut rings: Magnitudes = Vec::new();
    for high in RING_EDGES {
        let name = if high < 0.5 {
            format!("{low:.3}-{high:.3}")
        } else {
            format!("{low:.3} and more")
        };
        rings.push((name, Vec::new()));
        low = high;
    }
    let fft = Fft2::<f64>::new(h, w);
    for plane in residuals {
        let plane: Vec<f64> = plane.iter().map(|v| f64::from(*v)).collect();
        let amplitude = fftshift(&amplitude(&fft.forward(&plane)), h, w);
        for (at, value) in amplitude.into_iter().enumerate() {
            let radius = frequency_radius(at / w, at % w, h, w);
            let ring = RING_EDGES.iter().position(|edge| radius < *edge);
            // No radius reaches 1.
            if let Some(ring) = ring {
                rings[ring].1.push(value);
            }
        }
    }
    rings
}

fn parts(reference: Magnitudes, result: Magnitudes) -> Vec<SpectrumPart> {
    let energy = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
    let total = |parts: &Magnitudes| parts.iter().map(|(_, values)| energy(values)).sum::<f64>();
    let (all_a, all_b) = (total(&reference), total(&result));
    let share = |part: f64, all: f64| if all > 0.0 { part / all } else { 0.0 };
    let part = |((name, a), (_, b)): ((String, Vec<f64>), (String, Vec<f64>))| {
        let (aa, bb) = (energy(&a), energy(&b));
        let ab: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        let distance = if aa > 0.0 && bb > 0.0 {
            Some((1.0 - ab / (aa * bb).sqrt()).clamp(0.0, 1.0))
        } else {
            // One of them moves where the other does not: nothing in common.
            (aa > 0.0 || bb > 0.0).then_some(1.0)
        };
        SpectrumPart {
            name,
            reference_share: share(aa, all_a),
            result_share: share(bb, all_b),
            distance,
        }
    };
    reference.into_iter().zip(result).map(part).collect()
}

fn weighted(parts: &[SpectrumPart]) -> Option<f64> {
    let known = parts
        .iter()
        .filter_map(|part| Some((part.reference_share, part.distance?)));
    let (weight, sum) = known.fold((0.0, 0.0), |(weight, sum), (share, distance)| {
        (weight + share, sum + share * distance)
    });
    (weight > 0.0).then(|| sum / weight)
}
