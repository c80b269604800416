//! Motion of a clip in plain numbers: residuals of frames, optical flow for display and metrics, and a subject's track.
//!
//! Stands alone: planes are `f32` slices, `[h, w]` row major; a clip is a slice of planes.

mod residual;

pub use residual::{absolute, luma, residuals};
