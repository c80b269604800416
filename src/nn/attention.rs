//! Scaled dot-product attention.

use candle_core::{Result, Tensor};

use super::kernels::attention::AttentionOp;
use super::kernels::{compute_dtype, is_cpu};
use super::param::grad_enabled;
use super::{composed, cuda};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Those up to its own place.
    Causal,
}

/// `softmax(q kᵀ / sqrt(d)) v` for each head; heads lie side by side in the last axis (head-major).
///
/// Shape: `q [n, tq, heads * d]`, `k` and `v [n, tk, heads * d]`; returns `[n, tq, heads * d]`. Gradients go to
/// all three. Source: spec/models.md 1.5.
///
/// # Errors
/// When the shapes do not fit, or a causal mask is asked for with `tq` other than `tk`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    let (n, tq, width) = q.dims3()?;
    let (_, tk, _) = k.dims3()?;
    let fits = k.dims() == [n, tk, width]
        && v.dims() == k.dims()
        && heads > 0
        && width.is_multiple_of(heads);
    if !fits || tk == 0 {
        candle_core::bail!(
            "attention: q {:?}, k {:?}, v {:?}, {heads} heads",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    if mask == Mask::Causal && tq != tk {
        candle_core::bail!(
            "attention: a causal mask needs as many queries as keys, got {tq} and {tk}"
        );
    }
    if cuda::is_ready(q)
        && let Some(y) = cuda::attention([q, k, v], heads, mask)?
    {
        return Ok(y);
    }
    if !is_cpu(q) {
        return composed::attention(q, k, v, heads, mask);
    }
    let dtype = compute_dtype(q.dtype());
    let ready = |x: &Tensor| -> Result<Tensor> {
        let x = if grad_enabled() {
            x.clone()
        } else {
            x.detach()
        };
        x.to_dtype(dtype)?.contiguous()
    };
    let (ready_q, ready_k, ready_v) = (ready(q)?, ready(k)?, ready(v)?);
    let wanted = [ready_q.track_op(), ready_k.track_op(), ready_v.track_op()];
    ready_q
        .apply_op3(&ready_k, &ready_v, AttentionOp::new(heads, mask, wanted))?
        .to_dtype(q.dtype())
}
