//! The choice of a way to sample, and one walk of it.

use candle_core::{Result, Tensor};

use super::ddim::Ddim;
use super::dpm_solver::DpmSolver;

/// Either way to sample.
#[derive(Clone, Debug)]
pub enum Sampler {
    /// DDIM.
    Ddim(Ddim),
    /// DPM-Solver++.
    DpmSolver(DpmSolver),
}

impl Sampler {
    /// Timesteps in sampling order, from the noisiest down.
    pub fn timesteps(&self) -> &[u32] {
        match self {
            Self::Ddim(ddim) => ddim.timesteps(),
            Self::DpmSolver(solver) => solver.timesteps(),
        }
    }

    /// Begins the walk of one sample; what a walk remembers ends with it.
    pub fn begin(&self) -> SamplerRun<'_> {
        SamplerRun {
            sampler: self,
            before: None,
        }
    }
}

/// One sample's walk over the noise levels.
#[derive(Clone, Debug)]
pub struct SamplerRun<'a> {
    sampler: &'a Sampler,
    /// The clean sample told at the step before, for DPM-Solver++.
    before: Option<Tensor>,
}

impl SamplerRun<'_> {
    /// One step: the sample at the level that follows `t`. To be called for the sampler's timesteps in their order.
    ///
    /// Shape: `out` (the network's output at `x` and `t`) and `x` are equal, for example `[b, c, f, h, w]`.
    ///
    /// # Errors
    /// When the shapes differ or `t` is no timestep of the sampler.
    pub fn step(&mut self, out: &Tensor, t: u32, x: &Tensor) -> Result<Tensor> {
        match self.sampler {
            Sampler::Ddim(ddim) => ddim.step(out, t, x),
            Sampler::DpmSolver(solver) => {
                let (next, clean) = solver.step(out, t, x, self.before.as_ref())?;
                self.before = Some(clean);
                Ok(next)
            }
        }
    }
}
