//! The layers as planned operations.

use candle_core::{D, Result, Tensor};

use super::planned::{Given, Planned};
use crate::nn::attention::Mask;
use crate::nn::plan::{
    self, ActivationKind, AttentionPlan, Convolution, Dropping, GroupNormPlan, Resizing,
};

/// An activation function, any shape.
pub fn activation(x: &Tensor, kind: ActivationKind) -> Result<Tensor> {
    let (dtype, count) = (x.dtype(), x.elem_count());
    let forward = plan::activation_forward(dtype, kind, count)?;
    let backward = plan::activation_backward(dtype, kind, count)?;
    Planned::new("activation", x.dims(), forward, backward).apply1(x)
}

/// `[.., 2 width]` to `[.., width]`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    let rows = x.elem_count() / (2 * width).max(1);
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(width);
    let forward = plan::geglu_forward(x.dtype(), rows, width)?;
    let backward = plan::geglu_backward(x.dtype(), rows, width)?;
    Planned::new("geglu", &shape, forward, backward).apply1(x)
}

/// Images `[n, h, w, c]` to another size.
pub fn upsample_nearest(x: &Tensor, to: (usize, usize)) -> Result<Tensor> {
    let (images, h, w, channels) = x.dims4()?;
    let resizing = Resizing {
        images,
        from: (h, w),
        to,
        channels,
    };
    let forward = plan::nearest_forward(x.dtype(), resizing)?;
    let backward = plan::nearest_backward(x.dtype(), resizing)?;
    let planned = Planned {
        given: vec![Given::Gradient],
        ..Planned::new(
            "upsample nearest",
            &[images, to.0, to.1, channels],
            forward,
            backward,
        )
    };
    planned.apply1(x)
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

/// Layer norm over the last axis; `weight` and `bias` in the wide type.
pub fn layer_norm(x: &Tensor, (weight, bias): (Tensor, Tensor), eps: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    let forward = plan::layer_norm_forward(x.dtype(), rows, width, eps)?;
    let backward = plan::layer_norm_backward(x.dtype(), rows, width, eps)?;
    let planned = Planned {
        constants: vec![weight, bias],
        given: vec![Given::Argument(0), Given::Gradient, Given::Constant(0)],
        ..Planned::new("layer norm", x.dims(), forward, backward)
    };
    planned.apply1(x)
}

/// Group norm of `[n, .., c]`; `weight` and `bias` in the wide type.
pub fn group_norm(
    x: &Tensor,
    (weight, bias): (Tensor, Tensor),
    (groups, eps, silu): (usize, f64, bool),
) -> Result<Tensor> {
    let (images, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    let norm = GroupNormPlan {
        images,
        rows: x.elem_count() / (images * channels).max(1),
        channels,
        groups,
        eps,
        silu,
    };
    let forward = plan::group_norm_forward(x.dtype(), &norm)?;
    let backward = plan::group_norm_backward(x.dtype(), &norm)?;
    let planned = Planned {
        constants: vec![weight, bias],
        given: vec![
            Given::Argument(0),
            Given::Gradient,
            Given::Kept(1),
            Given::Constant(0),
            Given::Constant(1),
        ],
        ..Planned::new("group norm", x.dims(), forward, backward)
    };
    planned.apply1(x)
}

/// A convolution; `weight [kh kw, i, o]` in the type of `x`, `bias` in the wide type.
pub fn convolution(
    x: &Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    convolution: &Convolution,
) -> Result<Tensor> {
    let (h, w) = convolution.output;
    let shape = [convolution.images, h, w, convolution.columns];
    let forward = plan::convolution(x.dtype(), convolution, bias.is_some())?;
    let backward = plan::convolution(x.dtype(), &convolution.reversed(), false)?;
    // Without a bias the kernel is given the weight in its place and does not look.
    let bias = bias.unwrap_or_else(|| weight.clone());
    let planned = Planned {
        constants: vec![weight, bias],
        given: vec![Given::Gradient, Given::Constant(0), Given::Constant(1)],
        ..Planned::new("convolution", &shape, forward, backward)
    };
    planned.apply1(x)
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
