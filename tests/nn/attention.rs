use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::nn::{Mask, attention, no_grad};

use super::support::{assert_close, check_gradients, numbers, random};

/// The definition with the softmax written out, in f64.
fn naive(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Mask) -> Tensor {
    let (n, tq, width) = q.dims3().unwrap();
    let tk = k.dim(1).unwrap();
    let d = width / heads;
    let (q64, k, v) = (numbers(q), numbers(k), numbers(v));
    let mut y = vec![0.0; q64.len()];
    for ((image, head), i) in (0..n)
        .flat_map(|a| (0..heads).map(move |b| (a, b)))
        .flat_map(|p| (0..tq).map(move |i| (p, i)))
    {
        let query = (image * tq + i) * width + head * d;
        let key = |j: usize| (image * tk + j) * width + head * d;
        let seen = if mask == Mask::Causal { i + 1 } else { tk };
        let scores: Vec<f64> = (0..seen)
            .map(|j| {
                (0..d).map(|e| q64[query + e] * k[key(j) + e]).sum::<f64>() / (d as f64).sqrt()
            })
            .collect();
        let largest = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
        let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        for (j, s) in scores.iter().enumerate() {
            for e in 0..d {
                y[query + e] += (s - largest).exp() / sum * v[key(j) + e];
            }
        }
    }
    Tensor::from_vec(y, q.shape(), &Device::Cpu).unwrap()
}

/// Images, queries, keys, heads, head width: one frame, five, tokens of a 12 by 20 image, text of 77, single token.
const SHAPES: [(usize, usize, usize, usize, usize); 8] = [
    (3, 1, 1, 2, 8),
    (40, 5, 5, 2, 8),
    (2, 240, 240, 1, 16),
    (1, 100, 77, 3, 24),
    (17, 16, 16, 4, 64),
    (2, 49, 3, 1, 5),
    (1, 13, 150, 2, 40),
    (1, 200, 200, 1, 32),
];

fn operands(
    dtype: DType,
    (n, tq, tk, heads, d): (usize, usize, usize, usize, usize),
) -> [Tensor; 3] {
    let width = heads * d;
    [
        random(1, (n, tq, width), dtype),
        random(2, (n, tk, width), dtype),
        random(3, (n, tk, width), dtype),
    ]
}

#[test]
fn matches_the_written_out_softmax() {
    for shape in SHAPES {
        let heads = shape.3;
        let [q, k, v] = operands(DType::F32, shape);
        // 0.01: nearly equal weights. 10: scores of hundreds, one weight nearly 1, where the rounding of a score
        // of 300 (3e-5) is the relative error of its exponential.
        for (scale, tolerance) in [(1.0, 2e-6), (0.01, 2e-6), (10.0, 1e-4)] {
            let (q, k) = ((&q * scale).unwrap(), (&k * scale).unwrap());
            let y = attention(&q, &k, &v, heads, Mask::None).unwrap();
            assert_close(&y, &naive(&q, &k, &v, heads, Mask::None), tolerance);
            if shape.1 == shape.2 {
                let y = attention(&q, &k, &v, heads, Mask::Causal).unwrap();
                assert_close(&y, &naive(&q, &k, &v, heads, Mask::Causal), tolerance);
            }
        }
    }
}

#[test]
fn gradients_match_finite_differences() {
    for shape in SHAPES {
        let heads = shape.3;
        let [q, k, v] = operands(DType::F64, shape);
        if shape.2 == 1 {
            // The softmax over a single key is 1: only v has an effect.
            check_gradients(&[v], |x| attention(&q, &k, &x[0], heads, Mask::None));
            continue;
        }
        check_gradients(&[q.clone(), k.clone(), v.clone()], |x| {
            attention(&x[0], &x[1], &x[2], heads, Mask::None)
        });
        if shape.1 == shape.2 {
            check_gradients(&[q, k, v], |x| {
                attention(&x[0], &x[1], &x[2], heads, Mask::Causal)
            });
        }
    }
}

#[test]
fn an_operand_used_three_times_gets_the_sum() {
    check_gradients(&[random(1, (3, 7, 16), DType::F64)], |x| {
        attention(&x[0], &x[0], &x[0], 2, Mask::None)
    });
}

#[test]
fn gradients_go_only_where_they_are_wanted() {
    let [q, k, v] = operands(DType::F32, (2, 6, 9, 2, 8));
    let k = Var::from_tensor(&k).unwrap();
    let y = attention(&q, &k, &v, 2, Mask::None).unwrap();
    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&k).is_some() && grads.get(&q).is_none() && grads.get(&v).is_none());
    assert!(
        !no_grad(|| attention(&q, &k, &v, 2, Mask::None))
            .unwrap()
            .track_op()
    );
}

#[test]
fn half_precision_is_computed_in_f32() {
    let [q, k, v] = operands(DType::F32, (2, 6, 9, 2, 8)).map(|x| x.to_dtype(DType::F16).unwrap());
    let y = attention(&q, &k, &v, 2, Mask::None).unwrap();
    assert_eq!(y.dtype(), DType::F16);
    // One rounding to f16: half a unit in the last of 11 bits.
    assert_close(&y, &naive(&q, &k, &v, 2, Mask::None), 5e-4);
}

#[test]
fn wrong_shapes_are_errors() {
    let [q, k, v] = operands(DType::F32, (2, 6, 9, 2, 8));
    assert!(attention(&q, &k, &v, 3, Mask::None).is_err());
    assert!(attention(&q, &k, &v, 0, Mask::None).is_err());
    assert!(attention(&q, &k, &q, 2, Mask::None).is_err());
    assert!(attention(&q, &k, &v, 2, Mask::Causal).is_err());
}
