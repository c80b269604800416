//! Motion of a clip in plain numbers: residuals of frames, optical flow for display and metrics, a subject's track, and
//! pictures of them.
//!
//! Planes are `f32` slices, `[h, w]` row major; x grows to the right, y downwards. A clip of planes is a slice of them.

mod flow;
pub mod picture;
mod residual;
mod track;

pub use flow::{Flow, optical_flow, optical_flows};
pub use residual::{absolute, luma, residuals};
pub use track::{
    ColourClass, MIN_SHARE, NAMED_HUES, PathScore, Track, compare, hue_distance,
    hue_saturation_value, track,
};
