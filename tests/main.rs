//! The one integration-test binary. Each module is one area; `cargo test --test main <area>` runs it alone.

#![expect(
    clippy::too_many_lines,
    reason = "a journey through the program is one test"
)]
#![expect(
    clippy::excessive_precision,
    reason = "reference values stand as their source printed them"
)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod architecture;
mod chain;
mod checkpointing;
mod cli;
mod clips;
mod common;
mod cuda;
mod durability;
mod evaluate;
#[cfg(feature = "cuda")]
mod gpu;
mod gradients;
#[cfg(feature = "gui")]
mod gui;
mod image;
#[cfg(feature = "gui")]
mod instruments;
mod jobs;
#[cfg(feature = "hub")]
mod library;
mod lora;
mod memory;
mod methods;
mod models;
mod nn;
mod parity;
mod precision;
mod replay;
mod schedulers;
#[cfg(feature = "gui")]
mod shaders;
mod spectral;
mod video;
