//! Weights as layers hold them, and the switch that turns gradients off.

use std::cell::Cell;

use candle_core::{Tensor, Var};

use super::lora::Branch;

/// What a forward pass on a thread is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Training: layers record what they do.
    Recorded,
    /// Training, but the graph is built later by running the same layers again: nothing is recorded, every number is
    /// that of a recorded pass.
    Unrecorded,
    /// Not training: nothing is recorded and nothing is dropped out.
    Evaluation,
}

thread_local! {
    static PASS: Cell<Pass> = const { Cell::new(Pass::Recorded) };
}

fn with_pass<R>(pass: Pass, f: impl FnOnce() -> R) -> R {
    struct Restore(Pass);
    impl Drop for Restore {
        fn drop(&mut self) {
            PASS.set(self.0);
        }
    }
    let _restore = Restore(PASS.replace(pass));
    f()
}

/// True unless the calling thread is inside [`no_grad`], or in a pass that is recorded only when it is repeated.
pub fn grad_enabled() -> bool {
    PASS.get() == Pass::Recorded
}

/// Whether dropout is active: in training, recorded or not.
pub(super) fn training() -> bool {
    PASS.get() != Pass::Evaluation
}

/// Runs `f` as a training pass whose graph is not kept. Inside [`no_grad`] it stays an evaluation.
pub(super) fn unrecorded<R>(f: impl FnOnce() -> R) -> R {
    let pass = if training() {
        Pass::Unrecorded
    } else {
        Pass::Evaluation
    };
    with_pass(pass, f)
}

/// Runs `f` with gradients and dropout off on this thread: layers read trainable weights detached, and no layer of
/// [`crate::nn`] records what it did.
///
/// candle has no such switch: an operation on a `Var` keeps its whole graph alive, so sampling with weights
/// that are being trained would grow without bound. Nests, and restores the former state when `f` panics.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_pass(Pass::Evaluation, f)
}

/// A weight of a layer: frozen, or a variable that is being trained.
///
/// A frozen weight is detached when it is wrapped, so no layer can compute a gradient for it by accident.
#[derive(Clone, Debug)]
pub struct Param(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Frozen(Tensor),
    Trainable(Var),
    /// Learns only while its branch does.
    Adapter(Var, Branch),
}

impl Param {
    /// A weight that never learns.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the layer takes over the weight"
    )]
    pub fn frozen(t: Tensor) -> Self {
        Self(Kind::Frozen(t.detach()))
    }

    /// A weight that learns: the layer sees every later `Var::set`.
    pub fn trainable(v: &Var) -> Self {
        Self(Kind::Trainable(v.clone()))
    }

    /// A weight of an adapter: learns like [`Self::trainable`], but only while its branch does.
    pub fn adapter(v: &Var, branch: Branch) -> Self {
        Self(Kind::Adapter(v.clone(), branch))
    }

    /// Whether this weight is a variable.
    pub fn is_trainable(&self) -> bool {
        !matches!(self.0, Kind::Frozen(_))
    }

    /// The weight for a forward pass; a variable is seen detached inside [`no_grad`]. Shares the storage.
    pub fn tensor(&self) -> Tensor {
        match &self.0 {
            Kind::Frozen(t) => t.clone(),
            Kind::Trainable(v) if grad_enabled() => v.as_tensor().clone(),
            Kind::Adapter(v, branch) if grad_enabled() && branch.learns() => v.as_tensor().clone(),
            Kind::Trainable(v) | Kind::Adapter(v, _) => v.as_tensor().detach(),
        }
    }

    /// The shape of the weight.
    pub fn dims(&self) -> &[usize] {
        match &self.0 {
            Kind::Frozen(t) => t.dims(),
            Kind::Trainable(v) | Kind::Adapter(v, _) => v.as_tensor().dims(),
        }
    }
}
