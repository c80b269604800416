//! The blocks composed of plain candle operations whose gradients are known to be right.
//!
//! Used on devices without kernels of our own, and by the tests as a second opinion. Slow where it must be.

use candle_core::{D, DType, Result, Tensor};

use super::attention::Mask;
use super::conv::Conv2dConfig;

/// `x [rows, i]` times `weight [o, i]` transposed, plus `bias [o]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// Convolution of `x [n, h, w, i]` with `weight [o, i, kh, kw]` as a sum of matrix products, one a kernel tap.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    config: &Conv2dConfig,
) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let (o, _, kh, kw) = weight.dims4()?;
    let (out_h, out_w) = config.output_size((h, w), (kh, kw))?;
    let padding = &config.padding;
    let padded = x
        .pad_with_zeros(1, padding.top, padding.bottom)?
        .pad_with_zeros(2, padding.left, padding.right)?;
    let mut sum: Option<Tensor> = None;
    for ky in 0..kh {
        let rows = strided(&padded, 1, ky, out_h, config.stride)?;
        for kx in 0..kw {
            let tap =
                strided(&rows, 2, kx, out_w, config.stride)?.reshape((n * out_h * out_w, c))?;
            let kernel = weight.narrow(2, ky, 1)?.narrow(3, kx, 1)?.reshape((o, c))?;
            let y = linear(&tap, &kernel, None)?;
            sum = Some(match sum {
                Some(sum) => (sum + y)?,
                None => y,
            });
        }
    }
    let Some(sum) = sum else {
        candle_core::bail!("conv2d: empty kernel {:?}", weight.shape());
    };
    let sum = match bias {
        Some(bias) => sum.broadcast_add(bias)?,
        None => sum,
    };
    sum.reshape((n, out_h, out_w, o))
}

/// Every `stride`-th entry of an axis, `count` of them from `start`.
fn strided(x: &Tensor, axis: usize, start: usize, count: usize, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return x.narrow(axis, start, count)?.contiguous();
    }
    let indexes: Vec<u32> = (0..count).map(|i| (start + i * stride) as u32).collect();
    x.index_select(&Tensor::new(indexes, x.device())?, axis)
}

/// Group norm of `x [n, s, c]` with statistics over `s` and the channels of a group.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    let (n, s, c) = x.dims3()?;
    let wide = widened(x)?.reshape((n, s, groups, c / groups))?;
    let count = (s * c / groups) as f64;
    let mean = (wide.sum_keepdim((1, 3))? / count)?;
    let centred = wide.broadcast_sub(&mean)?;
    let variance = (centred.sqr()?.sum_keepdim((1, 3))? / count)?;
    let normed = centred
        .broadcast_div(&(variance + eps)?.sqrt()?)?
        .reshape((n, s, c))?;
    let weight = weight.to_dtype(normed.dtype())?;
    normed
        .broadcast_mul(&weight)?
        .broadcast_add(&bias.to_dtype(normed.dtype())?)?
        .to_dtype(x.dtype())
}

/// Layer norm over the last axis.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = widened(x)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let weight = weight.to_dtype(normed.dtype())?;
    normed
        .broadcast_mul(&weight)?
        .broadcast_add(&bias.to_dtype(normed.dtype())?)?
        .to_dtype(x.dtype())
}

/// Attention by the written-out softmax, holding all scores of one head group at once.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    let (n, tq, width) = q.dims3()?;
    let tk = k.dim(1)?;
    let d = width / heads;
    let split = |x: &Tensor, t: usize| x.reshape((n, t, heads, d))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q, tq)?, split(k, tk)?, split(v, tk)?);
    // Scaled before the product: the scores of half precision could overflow.
    let mut scores = widened(&(&q * (1.0 / (d as f64).sqrt()))?.matmul(&k.t()?)?)?;
    if mask == Mask::Causal {
        let hidden: Vec<f32> = (0..tq)
            .flat_map(|i| (0..tk).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }))
            .collect();
        let hidden = Tensor::from_vec(hidden, (tq, tk), q.device())?.to_dtype(scores.dtype())?;
        scores = scores.broadcast_add(&hidden)?;
    }
    // The maximum only guards the exponential: the softmax does not depend on it, so it carries no gradient.
    let shifted = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?
        .exp()?;
    let probabilities = shifted
        .broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?
        .to_dtype(q.dtype())?;
    probabilities
        .matmul(&v)?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((n, tq, width))
}

/// `x * sigmoid(a * x)`. The logistic function goes through `tanh`, whose gradient stays finite everywhere.
pub fn gated_by_sigmoid(x: &Tensor, a: f64) -> Result<Tensor> {
    let sigmoid = (((x * (0.5 * a))?.tanh()? + 1.0)? * 0.5)?;
    x * sigmoid
}

/// `x * Φ(x)`. candle's own form has a gradient with a constant of six digits.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    let cdf = (((x / std::f64::consts::SQRT_2)?.erf()? + 1.0)? * 0.5)?;
    x * cdf
}

/// `u * gelu(g)` of the halves `(u, g)` of the last axis.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let u = x.narrow(D::Minus1, 0, half)?;
    let g = x.narrow(D::Minus1, half, half)?.contiguous()?;
    u * gelu(&g)?
}

/// Nearest-neighbour resize of `x [n, h, w, c]`.
pub fn upsample_nearest(x: &Tensor, h2: usize, w2: usize) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let index = |from: usize, to: usize| {
        let indexes: Vec<u32> = (0..to).map(|i| (i * from / to) as u32).collect();
        Tensor::new(indexes, x.device())
    };
    x.index_select(&index(h, h2)?, 1)?
        .index_select(&index(w, w2)?, 2)
}

/// Half precision is computed in f32.
fn widened(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

#[cfg(test)]
mod tests {
    //! Kernels against compositions, values and gradients, in f64.

    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::{self, Conv2d, GroupNorm, LayerNorm, NoiseStream, Padding, Purpose};

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        NoiseStream::new(seed, Purpose::Noise)
            .normal(shape, DType::F64, &Device::Cpu)
            .unwrap()
    }

    /// Both forms on the same inputs: values and gradients agree up to the order of f64 sums.
    fn agree(
        inputs: &[Tensor],
        ours: impl Fn(&[Tensor]) -> Result<Tensor>,
        other: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        let vars: Vec<Var> = inputs
            .iter()
            .map(|x| Var::from_tensor(x).unwrap())
            .collect();
        let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let (a, b) = (ours(&inputs).unwrap(), other(&inputs).unwrap());
        let weights = random(77, a.dims());
        let grads = |y: &Tensor| {
            (y * &weights)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap()
        };
        let (da, db) = (grads(&a), grads(&b));
        let close = |a: &Tensor, b: &Tensor| {
            let difference = (a - b)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f64>()
                .unwrap();
            let size = b
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f64>()
                .unwrap();
            assert!(
                difference <= 1e-12 * size.max(1e-3),
                "{difference:e} beside {size:e}"
            );
        };
        close(&a, &b);
        for var in &vars {
            close(da.get(var).unwrap(), db.get(var).unwrap());
        }
    }

    #[test]
    fn convolutions() {
        for (stride, padding) in [
            (1, Padding::same(1)),
            (
                2,
                Padding {
                    bottom: 1,
                    right: 1,
                    ..Padding::default()
                },
            ),
        ] {
            let config = Conv2dConfig { stride, padding };
            let (weight, bias) = (random(1, &[5, 3, 3, 3]), random(2, &[5]));
            let ours = Conv2d::new(&weight, Some(&bias), config).unwrap();
            let x = random(3, &[2, 7, 12, 3]);
            agree(
                &[x],
                |v| ours.forward(&v[0]),
                |v| conv2d(&v[0], &weight, Some(&bias), &config),
            );
        }
    }

    #[test]
    fn norms() {
        let (weight, bias) = (random(1, &[12]), random(2, &[12]));
        let group = GroupNorm::new(&weight, &bias, 4, 1e-5).unwrap();
        let layer = LayerNorm::new(&weight, &bias, 1e-5).unwrap();
        let x = random(3, &[2, 35, 12]);
        let composed = |v: &[Tensor]| group_norm(&v[0], &weight, &bias, 4, 1e-5);
        agree(std::slice::from_ref(&x), |v| group.forward(&v[0]), composed);
        agree(
            std::slice::from_ref(&x),
            |v| group.forward_silu(&v[0]),
            |v| gated_by_sigmoid(&composed(v)?, 1.0),
        );
        agree(
            &[x],
            |v| layer.forward(&v[0]),
            |v| layer_norm(&v[0], &weight, &bias, 1e-5),
        );
    }

    #[test]
    fn attentions() {
        for (tq, tk, mask) in [
            (1, 5, Mask::None),
            (70, 33, Mask::None),
            (9, 9, Mask::Causal),
        ] {
            let inputs = [
                random(1, &[2, tq, 24]),
                random(2, &[2, tk, 24]),
                random(3, &[2, tk, 24]),
            ];
            let ours = |v: &[Tensor]| nn::attention(&v[0], &v[1], &v[2], 3, mask);
            agree(&inputs, ours, |v| attention(&v[0], &v[1], &v[2], 3, mask));
        }
    }

    #[test]
    fn activations_and_resizing() {
        let x = random(1, &[2, 5, 4, 6]);
        agree(
            std::slice::from_ref(&x),
            |v| nn::silu(&v[0]),
            |v| gated_by_sigmoid(&v[0], 1.0),
        );
        agree(
            std::slice::from_ref(&x),
            |v| nn::quick_gelu(&v[0]),
            |v| gated_by_sigmoid(&v[0], 1.702),
        );
        agree(
            std::slice::from_ref(&x),
            |v| nn::geglu(&v[0]),
            |v| geglu(&v[0]),
        );
        agree(
            &[x],
            |v| nn::upsample_nearest(&v[0], 9, 7),
            |v| upsample_nearest(&v[0], 9, 7),
        );
    }
}
