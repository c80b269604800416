//! Loops that own no weights: text to video, inversion of a clip to noise, and frames to latents and back.
//!
//! All of them run inside [`crate::nn::no_grad`], so that sampling between two training steps keeps no graph, and
//! report each finished step; a caller that answers [`ControlFlow::Break`] ends the loop after that step.

mod depth;
mod pixels;
mod sampling;

use std::ops::ControlFlow;

use candle_core::Tensor;

pub use depth::estimate_depth;
pub use pixels::{control_from_frames, decode_latents, encode_clip};
pub use sampling::{GuidedText, invert, predict_guided, text_to_video};

/// What a pipeline made, unless it was told to stop.
#[derive(Clone, Debug)]
pub enum Sampled<T = Tensor> {
    /// The loop ran to its end.
    Done(T),
    /// The caller broke it off.
    Cancelled,
}

impl<T> Sampled<T> {
    /// The result, or nothing after a cancellation.
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Cancelled => None,
        }
    }
}

/// Told after each step how many are done and how many there are.
pub type OnStep<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;
