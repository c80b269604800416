//! Noise schedules, sampling by DDIM or DPM-Solver++, and DDIM inversion.
//!
//! A scheduler holds tables of numbers and moves a latent from one noise level to another; it owns no weights and
//! draws no noise. Tables are kept in `f64` and enter a tensor as scalars, so that rounding never depends on the
//! network's type. Source: spec "Schedulers and inversion", sections 1 to 5; diffusers' `DDIMScheduler`,
//! `DDIMInverseScheduler` and `DPMSolverMultistepScheduler` for the behavior of every field.

mod config;
mod ddim;
mod dpm_solver;
mod sampler;
mod schedule;

pub use config::{
    BetaSchedule, PredictionType, SchedulerConfig, SchedulerError, SolverConfig, TimestepSpacing,
};
pub use ddim::{Ddim, DdimInverse, Inversion, ReferenceInversion};
pub use dpm_solver::DpmSolver;
pub use sampler::{Sampler, SamplerRun};
pub use schedule::NoiseSchedule;
