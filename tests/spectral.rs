//! Spectral losses, plain spectra and motion against numbers this crate did not make.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests that fails should stop its test"
)]

mod golden;
mod inspect;
mod loss;
mod motion;
mod plain;
