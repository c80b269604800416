//! A clip from some of its wavelet bands.

use crate::spectral::plain::{haar_forward, synthesize};
use crate::video::Frame;

/// Channel values that are taken together, each with all its time steps.
const TILE_BYTES: usize = 8 << 20;

/// The frames that follow from the first one when only the kept bands of the motion go on (`keep[0]` is `A`, `keep[j]` is
/// `Dj`). Every colour channel moves for itself and with its sign, so that keeping all bands gives the clip back.
///
/// Frames of one size, as a clip has them. Nothing once `stop` says so.
pub(super) fn from_bands(
    frames: &[Frame],
    levels: usize,
    keep: &[bool],
    stop: &dyn Fn() -> bool,
) -> Option<Vec<Frame>> {
    let mut out = frames.to_vec();
    let channels = frames.first()?.rgb.len();
    let tile = (TILE_BYTES / (4 * frames.len())).max(1);
    for start in (0..channels).step_by(tile) {
        if stop() {
            return None;
        }
        let range = start..(start + tile).min(channels);
        let steps = frames.windows(2).flat_map(|pair| {
            let (now, next) = (&pair[0].rgb[range.clone()], &pair[1].rgb[range.clone()]);
            now.iter()
                .zip(next)
                .map(|(&n, &m)| f32::from(m) - f32::from(n))
        });
        let steps: Vec<f32> = steps.collect();
        let kept = synthesize(&haar_forward(&steps, range.len(), levels), keep);
        let first = frames[0].rgb[range.clone()].iter();
        let mut level: Vec<f32> = first.map(|&v| f32::from(v)).collect();
        for (frame, step) in out[1..].iter_mut().zip(kept.chunks_exact(range.len())) {
            let values = frame.rgb[range.clone()].iter_mut();
            for ((value, level), step) in values.zip(&mut level).zip(step) {
                *level += step;
                *value = level.round().clamp(0.0, 255.0) as u8;
            }
        }
    }
    Some(out)
}
