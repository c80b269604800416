//! Activation functions.

use candle_core::{D, Result, Tensor};

use super::kernels::elementwise::{Activation, Geglu};
use super::kernels::{apply1, is_cpu};
use super::plan::ActivationKind;
use super::{composed, cuda};

/// `x * sigmoid(x)`, any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if is_cpu(x) {
        apply1(x, Activation::Silu)
    } else if cuda::is_ready(x) {
        cuda::activation(x, ActivationKind::Silu)
    } else {
        composed::gated_by_sigmoid(x, 1.0)
    }
}

/// `x * Φ(x)` with the exact normal distribution function (erf), any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if is_cpu(x) {
        apply1(x, Activation::Gelu)
    } else if cuda::is_ready(x) {
        cuda::activation(x, ActivationKind::Gelu)
    } else {
        composed::gelu(x)
    }
}

/// `x * sigmoid(1.702 x)`, any shape (CLIP ViT-L).
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if is_cpu(x) {
        apply1(x, Activation::QuickGelu)
    } else if cuda::is_ready(x) {
        cuda::activation(x, ActivationKind::QuickGelu)
    } else {
        composed::gated_by_sigmoid(x, 1.702)
    }
}

/// `u * gelu(g)` of the halves `(u, g)` of the last axis, in this order.
///
/// Shape: `[.., 2c]` to `[.., c]`. Source: spec/models.md 1.6.
///
/// # Errors
/// When the last axis is odd.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if !width.is_multiple_of(2) {
        candle_core::bail!("geglu: the last axis of {:?} is odd", x.shape());
    }
    if is_cpu(x) {
        apply1(x, Geglu)
    } else if cuda::is_ready(x) {
        cuda::geglu(x)
    } else {
        composed::geglu(x)
    }
}
