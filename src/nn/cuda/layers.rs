//! The layers as planned operations.

use candle_core::{DType, Result, Tensor};

use super::most_shared;
use super::planned::{Given, Planned};
use crate::nn::attention::Mask;
use crate::nn::plan::{self, ActivationKind, AttentionPlan, Dropping, GroupNormPlan, Resizing};

/// An activation function, any shape.
pub fn activation(x: &Tensor, kind: ActivationKind) -> Result<Tensor> {
    let (dtype, count) = (x.dtype(), x.elem_count());
    let forward = plan::activation_forward(dtype, kind, count)?;
    let backward = plan::activation_backward(dtype, kind, count)?;
    Planned::new("activation", x.dims(), forward, backward).apply1(x)
}

/// `[.., 2 width]` to `[.., width]`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    geglu_op(x.dtype(), x.dims())?.apply1(x)
}

pub(super) fn geglu_op(dtype: DType, dims: &[usize]) -> Result<Planned> {
    let (rows, width) = rows(dims);
    let width = width / 2;
    let mut shape = dims.to_vec();
    shape.pop();
    shape.push(width);
    let forward = plan::geglu_forward(dtype, rows, width)?;
    let backward = plan::geglu_backward(dtype, rows, width)?;
    Ok(Planned::new("geglu", &shape, forward, backward))
}

/// Images `[n, h, w, c]` to another size.
pub fn upsample_nearest(x: &Tensor, to: (usize, usize)) -> Result<Tensor> {
    upsample_op(x.dtype(), x.dims4()?, to)?.apply1(x)
}

pub(super) fn upsample_op(
    dtype: DType,
    (images, h, w, channels): (usize, usize, usize, usize),
    to: (usize, usize),
) -> Result<Planned> {
    let resizing = Resizing {
        images,
        from: (h, w),
        to,
        channels,
    };
    let forward = plan::nearest_forward(dtype, resizing)?;
    let backward = plan::nearest_backward(dtype, resizing)?;
    let shape = [images, to.0, to.1, channels];
    Ok(Planned {
        given: vec![Given::Gradient],
        ..Planned::new("upsample nearest", &shape, forward, backward)
    })
}

/// `[b, p, q, c]` to `[b, q, p, c]`, as `shape`.
pub(super) fn swap_op(
    dtype: DType,
    (batch, outer, inner): (usize, usize, usize),
    width: usize,
    shape: &[usize],
) -> Result<Planned> {
    let forward = plan::swap_axes(dtype, (batch, outer, inner), width)?;
    let backward = plan::swap_axes(dtype, (batch, inner, outer), width)?;
    Ok(Planned {
        given: vec![Given::Gradient],
        ..Planned::new("swap", shape, forward, backward)
    })
}

/// `[b, p, q, c]` to `[b, q, p, c]`.
pub fn swap_axes(x: &Tensor) -> Result<Tensor> {
    let (b, p, q, c) = x.dims4()?;
    swap_op(x.dtype(), (b, p, q), c, &[b, q, p, c])?.apply1(x)
}

/// Dropout, any shape.
pub fn dropout(x: &Tensor, dropping: Dropping) -> Result<Tensor> {
    let plan = plan::dropout(x.dtype(), dropping, x.elem_count())?;
    let planned = Planned {
        given: vec![Given::Gradient],
        ..Planned::new("dropout", x.dims(), plan.clone(), plan)
    };
    planned.apply1(x)
}

/// Rows and their width.
fn rows(dims: &[usize]) -> (usize, usize) {
    let width = dims.last().copied().unwrap_or(1);
    (dims.iter().product::<usize>() / width.max(1), width)
}

/// Layer norm over the last axis; `weight` and `bias` in the wide type.
pub fn layer_norm(x: &Tensor, affine: (Tensor, Tensor), eps: f64) -> Result<Tensor> {
    layer_norm_op(x.dtype(), x.dims(), affine, eps)?.apply1(x)
}

pub(super) fn layer_norm_op(
    dtype: DType,
    dims: &[usize],
    (weight, bias): (Tensor, Tensor),
    eps: f64,
) -> Result<Planned> {
    let (rows, width) = rows(dims);
    let forward = plan::layer_norm_forward(dtype, rows, width, eps)?;
    let backward = plan::layer_norm_backward(dtype, rows, width, eps)?;
    Ok(Planned {
        constants: vec![weight, bias],
        given: vec![Given::Argument(0), Given::Gradient, Given::Constant(0)],
        ..Planned::new("layer norm", dims, forward, backward)
    })
}

/// Group norm of `[n, .., c]`; `weight` and `bias` in the wide type.
pub fn group_norm(x: &Tensor, affine: (Tensor, Tensor), how: (usize, f64, bool)) -> Result<Tensor> {
    group_norm_op(x.dtype(), x.dims(), affine, how)?.apply1(x)
}

pub(super) fn group_norm_op(
    dtype: DType,
    dims: &[usize],
    (weight, bias): (Tensor, Tensor),
    (groups, eps, silu): (usize, f64, bool),
) -> Result<Planned> {
    let (rows, channels) = rows(dims);
    let images = dims.first().copied().unwrap_or(1);
    let norm = GroupNormPlan {
        images,
        rows: rows / images.max(1),
        channels,
        groups,
        eps,
        silu,
    };
    let forward = plan::group_norm_forward(dtype, &norm)?;
    let backward = plan::group_norm_backward(dtype, &norm)?;
    Ok(Planned {
        constants: vec![weight, bias],
        given: vec![
            Given::Argument(0),
            Given::Gradient,
            Given::Kept(1),
            Given::Constant(0),
            Given::Constant(1),
        ],
        ..Planned::new("group norm", dims, forward, backward)
    })
}

/// Attention, or none where the kernels do not take its sizes.
pub fn attention([q, k, v]: [&Tensor; 3], heads: usize, mask: Mask) -> Result<Option<Tensor>> {
    let (n, queries, width) = q.dims3()?;
    let attention = AttentionPlan {
        n,
        heads,
        queries,
        keys: k.dim(1)?,
        width: width / heads,
        causal: mask == Mask::Causal,
    };
    if !attention.fits() {
        return Ok(None);
    }
    let wanted = (q.track_op(), k.track_op() || v.track_op());
    let forward = plan::attention_forward(q.dtype(), &attention)?;
    let backward = plan::attention_backward(q.dtype(), &attention, wanted)?;
    // In 32 bits wide heads want more shared memory than many cards have.
    let wanted = forward.most_shared().max(backward.most_shared());
    if wanted > most_shared(q.device()) {
        return Ok(None);
    }
    let mut given = vec![
        Given::Argument(0),
        Given::Argument(1),
        Given::Argument(2),
        Given::Gradient,
    ];
    // Long sequences keep the logarithms of their rows' sums; short ones compute them again.
    if forward.buffers.len() > 1 {
        given.extend([Given::Result, Given::Kept(1)]);
    }
    let planned = Planned {
        given,
        ..Planned::new("attention", q.dims(), forward, backward)
    };
    planned.apply3([q, k, v]).map(Some)
}
