//! Motion spectra: plain numbers for display and metrics, differentiable losses for training.
pub mod loss;
pub mod plain;
