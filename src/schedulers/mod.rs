//! Noise schedules, DDIM sampling and DDIM inversion.
//!
//! A scheduler holds tables of numbers and moves a latent from one noise level to another; it owns no weights and
//! draws no noise. Tables are kept in `f64` and enter a tensor as scalars, so that rounding never depends on the
//! network's type. Source: spec "Schedulers and inversion", sections 1 to 4; diffusers' `DDIMScheduler` and
//! `DDIMInverseScheduler` for the behavior of every field.

mod config;
mod ddim;
mod schedule;

pub use config::{BetaSchedule, PredictionType, SchedulerConfig, SchedulerError, TimestepSpacing};
pub use ddim::{Ddim, DdimInverse, Inversion, ReferenceInversion};
pub use schedule::NoiseSchedule;
