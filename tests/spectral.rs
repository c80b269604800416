//! Spectral losses, plain spectra and motion against numbers this crate did not make.

mod golden;
mod inspect;
mod loss;
mod motion;
mod plain;
