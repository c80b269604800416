//! What can be wrong with a spectral loss.

/// A spectral loss that cannot be built or evaluated.
#[derive(Debug, thiserror::Error)]
pub enum SpectralError {
    /// Motion needs two frames.
    #[error(
        "{op}: a clip of {frames} frame(s) has no motion; use at least 2 frames or turn the spectral losses off"
    )]
    NoMotion {
        /// The loss that was asked for.
        op: &'static str,
        /// Frames of the clip.
        frames: usize,
    },
    /// One weight for the low band and one for each level.
    #[error(
        "{levels} wavelet levels need {} level weights (low band first, then finest to coarsest), but {got} are given; \
         give that many, or none for equal weights", levels + 1
    )]
    LevelWeights {
        /// Wavelet levels.
        levels: usize,
        /// Weights that were given.
        got: usize,
    },
    /// A setting outside its range.
    #[error("{name} = {value}: {why}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it was set to.
        value: f64,
        /// What it may be.
        why: &'static str,
    },
    /// Losses run in f32 or f64 only.
    #[error("spectral losses run in f32 or f64, not in {0:?}: half precision loses small motion")]
    DType(candle_core::DType),
    /// Tensors that do not fit the plan or each other.
    #[error("{op}: expected shape {expected:?} (b c f h w), got {got:?}")]
    Shape {
        /// The loss that was asked for.
        op: &'static str,
        /// The shape it was planned for, or the other tensor's.
        expected: Vec<usize>,
        /// The shape it was given.
        got: Vec<usize>,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<SpectralError> for candle_core::Error {
    /// For callers whose own results are candle's, such as the training step.
    fn from(error: SpectralError) -> Self {
        match error {
            SpectralError::Candle(inner) => inner,
            other => candle_core::Error::wrap(other),
        }
    }
}
