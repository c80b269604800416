//! Spectral losses, plain spectra and motion against numbers this crate did not make.

mod golden;
mod loss;
mod plain;
