//! The one integration-test binary. Each module is one area; `cargo test --test main <area>` runs it alone.

mod architecture;
mod cli;
mod common;
mod gradients;
mod jobs;
mod methods;
mod models;
mod nn;
mod parity;
mod schedulers;
mod spectral;
mod video;
