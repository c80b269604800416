use crate::project::ProjectError;

/// What can end a training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting is out of range.
    #[error("{0}")]
    Setting(String),
    /// A tensor operation failed.
    #[error("{during} failed")]
    Tensor {
        /// What was being computed.
        during: &'static str,
        /// candle's own words.
        source: candle_core::Error,
    },
    /// A value became infinite or undefined.
    #[error("step {step} (timestep {timestep}): {what} is not finite")]
    NotFinite {
        /// The step, counted from 1.
        step: u32,
        /// Its diffusion timestep.
        timestep: u32,
        /// The first bad value or tensor.
        what: String,
    },
    /// Weights that shall learn get no gradient: the network is cut somewhere.
    #[error("{} of {total} trainable tensors get no gradient, the first is {}", names.len(), names[0])]
    Dead {
        /// The tensors' names, at least one.
        names: Vec<String>,
        /// How many tensors shall learn.
        total: usize,
    },
    /// The model has no weight that the method trains.
    #[error("the model has no weight that {method} trains")]
    NothingToTrain {
        /// The method's name.
        method: String,
    },
    /// The clips do not belong together.
    #[error("{why}")]
    Clips {
        /// What is wrong with them.
        why: String,
    },
    /// A checkpoint does not belong to this model.
    #[error("the checkpoint does not fit the model: {detail}")]
    Mismatch {
        /// Which tensor, and how it differs.
        detail: String,
    },
    /// A file of the run folder.
    #[error(transparent)]
    Project(#[from] ProjectError),
}

impl TrainError {
    /// Whether the device had no room for a tensor. Such an error comes as text from the device's driver.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        let Self::Tensor { source, .. } = self else {
            return false;
        };
        let text = source.to_string();
        ["out of memory", "OUT_OF_MEMORY", "ALLOC_FAILED"]
            .iter()
            .any(|word| text.contains(word))
    }

    /// For `map_err` on tensor operations.
    pub(crate) fn during(during: &'static str) -> impl FnOnce(candle_core::Error) -> Self {
        move |source| Self::Tensor { during, source }
    }
}
