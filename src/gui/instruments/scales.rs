//! What a wavelet band is called: by the periods it sees, in frames and in seconds, and by its frequencies.

use super::chrome::figures;
use crate::gui::player::clock;

/// The time scale that a band sees, in frames: `Dj` differences of 2^(j-1) frames, so periods from 2^j to 2^(j+1).
pub(in crate::gui) fn scale_name(band: usize, levels: usize) -> String {
    match band {
        0 if levels == 0 => "all motion".into(),
        0 => format!("{}+ frames", 2 << levels),
        _ => format!("{}–{} frames", 1 << band, 2 << band),
    }
}

/// The frequencies that a band sees, in cycles per frame: one cycle in each of its periods.
fn frequency_name(band: usize, levels: usize) -> String {
    let at = |frames: usize| {
        let text = format!("{:.4}", 1.0 / frames as f64);
        text.trim_end_matches('0').to_owned()
    };
    match band {
        0 if levels == 0 => "up to 0.5 cycles/frame".into(),
        0 => format!("below {} cycles/frame", at(2 << levels)),
        _ => format!("{}–{} cycles/frame", at(2 << band), at(1 << band)),
    }
}

/// Both scales of a band, for a read-out.
pub(super) fn scales(band: usize, levels: usize, fps: f64) -> String {
    let frequency = frequency_name(band, levels);
    match seconds_name(band, levels, fps) {
        Some(seconds) => format!("{frequency}, {seconds}"),
        None => frequency,
    }
}

/// The time scale that a band sees, in seconds; nothing for a clip without a rate.
pub(super) fn seconds_name(band: usize, levels: usize, fps: f64) -> Option<String> {
    if !(fps.is_finite() && fps > 0.0) || (band == 0 && levels == 0) {
        return None;
    }
    let at = |frames: usize| figures(frames as f64 / fps);
    Some(match band {
        0 => format!("{}+ s", at(2 << levels)),
        _ => format!("{}–{} s", at(1 << band), at(2 << band)),
    })
}

/// When the frames from `first` to `last` are, as ` (0:00.5 to 0:01.0)`; nothing for a clip without a rate.
pub(super) fn times(first: usize, last: usize, fps: f64) -> String {
    if !(fps.is_finite() && fps > 0.0) {
        return String::new();
    }
    let at = |frame: usize| clock(frame as f64 / fps);
    format!(" ({} to {})", at(first), at(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_is_named_by_its_periods_and_by_its_frequencies() {
        // 8 frames have 3 levels; D2 differences pairs of pairs of motion vectors: periods of 4 to 8 frames.
        assert_eq!(scale_name(2, 3), "4–8 frames");
        assert_eq!(frequency_name(2, 3), "0.125–0.25 cycles/frame");
        assert_eq!(scales(2, 3, 8.0), "0.125–0.25 cycles/frame, 0.50–1.00 s");
        assert_eq!(frequency_name(1, 3), "0.25–0.5 cycles/frame");
        assert_eq!(frequency_name(0, 3), "below 0.0625 cycles/frame");
        assert_eq!(scales(0, 0, f64::NAN), "up to 0.5 cycles/frame");
    }
}
