//! Motion fidelity on tracks of points.

use crate::motion::Flow;

/// Points of the grid along the longer side.
const GRID: usize = 32;
/// A point that moves less than this in a frame, on average and in thousandths of the longer side, is ground: about a
/// fifth of a pixel of 64, what optical flow leaves on a still picture.
const STILL_SHARE: f64 = 3e-3;

/// How alike the motion of two films is, -1..=1: 1 where every moving point of each finds a point of the other that moves
/// in the same directions at the same times. None where neither film moves; 0 where only one does.
///
/// Points of a grid in the first frame are carried along the flow (Lucas and Kanade's here, where the published metric
/// takes CoTracker: a stand-in, whose numbers cannot be compared with published ones). With `u[t]` a track's displacement
/// in step t over its length plus epsilon, the likeness of two tracks is the cosine of their sequences `u`. For each
/// track the best partner in the other film counts; the mean over the tracks of both films is the score. Tracks that
/// leave the picture or hardly move are left out: on a plain ground they would outvote the subject.
///
/// Source: the diffusion motion transfer metric (Yatim et al. 2024, section 5), in both directions and with an epsilon
/// where the released script divides by zero.
#[must_use]
pub fn motion_fidelity(reference: &[Flow], result: &[Flow]) -> Option<f64> {
    let (a, b) = (tracks(reference), tracks(result));
    if a.is_empty() && b.is_empty() {
        return None;
    }
    if a.is_empty() || b.is_empty() {
        return Some(0.0);
    }
    let best = |of: &[Vec<f64>], among: &[Vec<f64>]| -> f64 {
        let partner = |track: &Vec<f64>| {
            let alike = among.iter().map(|other| dot(track, other));
            alike.fold(-1.0, f64::max)
        };
        of.iter().map(partner).sum()
    };
    Some((best(&a, &b) + best(&b, &a)) / (a.len() + b.len()) as f64)
}

/// Displacements of the moving points as directions, `dx, dy` step by step, each sequence of length 1.
fn tracks(flows: &[Flow]) -> Vec<Vec<f64>> {
    let Some(first) = flows.first() else {
        return Vec::new();
    };
    let longer = first.width.max(first.height);
    let still = STILL_SHARE * longer as f64;
    let stride = (longer as f64 / GRID as f64).max(1.0);
    let along = |size: usize| {
        let count = (size as f64 / stride).floor() as usize;
        (0..count).map(move |i| (i as f64 + 0.5) * stride - 0.5)
    };
    let mut found = Vec::new();
    for y in along(first.height) {
        for x in along(first.width) {
            found.extend(track(flows, (x, y), still));
        }
    }
    found
}

fn track(flows: &[Flow], (mut x, mut y): (f64, f64), still: f64) -> Option<Vec<f64>> {
    let mut directions = Vec::with_capacity(2 * flows.len());
    let mut length = 0.0;
    for flow in flows {
        let (dx, dy) = sample(flow, x, y)?;
        let step = dx.hypot(dy);
        length += step;
        // Below the threshold a direction is noise, and its weight falls with it.
        directions.extend([dx / (step + still), dy / (step + still)]);
        (x, y) = (x + dx, y + dy);
    }
    let norm = dot(&directions, &directions).sqrt();
    let moves = length > still * flows.len() as f64 && norm > 0.0;
    moves.then(|| directions.iter().map(|v| v / norm).collect())
}

/// Flow between pixels, bilinear; none outside the picture.
fn sample(flow: &Flow, x: f64, y: f64) -> Option<(f64, f64)> {
    let (right, bottom) = (flow.width.checked_sub(1)?, flow.height.checked_sub(1)?);
    if !(0.0..=right as f64).contains(&x) || !(0.0..=bottom as f64).contains(&y) {
        return None;
    }
    let (x0, y0) = (x.floor() as usize, y.floor() as usize);
    let (x1, y1) = ((x0 + 1).min(right), (y0 + 1).min(bottom));
    let (tx, ty) = (x - x0 as f64, y - y0 as f64);
    let mix = |plane: &[f32]| {
        let at = |x: usize, y: usize| f64::from(plane[y * flow.width + x]);
        let top = at(x0, y0) * (1.0 - tx) + at(x1, y0) * tx;
        let low = at(x0, y1) * (1.0 - tx) + at(x1, y1) * tx;
        top * (1.0 - ty) + low * ty
    };
    Some((mix(&flow.dx), mix(&flow.dy)))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pixel moves alike.
    fn flows(motion: &[(f32, f32)]) -> Vec<Flow> {
        let flow = |&(dx, dy): &(f32, f32)| Flow {
            width: 64,
            height: 48,
            dx: vec![dx; 64 * 48],
            dy: vec![dy; 64 * 48],
        };
        motion.iter().map(flow).collect()
    }

    #[test]
    fn likeness_is_the_cosine_of_directions() {
        let right = flows(&[(2.0, 0.0), (2.0, 0.0)]);
        let near = |got: Option<f64>, want: f64| {
            let got = got.unwrap();
            // Every pixel of a film moves alike, so that the numbers are closed forms up to rounding.
            assert!((got - want).abs() < 1e-9, "{got} {want}");
        };
        near(motion_fidelity(&right, &right), 1.0);
        near(
            motion_fidelity(&right, &flows(&[(-2.0, 0.0), (-2.0, 0.0)])),
            -1.0,
        );
        near(
            motion_fidelity(&right, &flows(&[(0.0, 2.0), (0.0, 2.0)])),
            0.0,
        );
        // The speed does not count while it is steady; a turn half way is half right.
        near(
            motion_fidelity(&right, &flows(&[(1.0, 0.0), (1.0, 0.0)])),
            1.0,
        );
        near(
            motion_fidelity(&right, &flows(&[(2.0, 0.0), (-2.0, 0.0)])),
            0.0,
        );
        let still = flows(&[(0.0, 0.0), (0.0, 0.0)]);
        near(motion_fidelity(&right, &still), 0.0);
        assert_eq!(motion_fidelity(&still, &still), None);
        assert_eq!(motion_fidelity(&[], &[]), None);
    }
}
