use candle_core::{DType, Device, Tensor};
use spectral_motion::nn::{GroupNorm, LayerNorm};

use super::support::{assert_close, check_gradients, numbers, random};

/// The definition in f64; one group over the whole row gives layer norm.
fn naive_group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Tensor {
    let (n, s, c) = x.dims3().unwrap();
    let (v, w, b) = (numbers(x), numbers(weight), numbers(bias));
    let wide = c / groups;
    let mut y = vec![0.0; v.len()];
    for (image, group) in (0..n).flat_map(|i| (0..groups).map(move |g| (i, g))) {
        let at = |p: usize, j: usize| (image * s + p) * c + group * wide + j;
        let places: Vec<usize> = (0..s)
            .flat_map(|p| (0..wide).map(move |j| at(p, j)))
            .collect();
        let mean = places.iter().map(|&i| v[i]).sum::<f64>() / places.len() as f64;
        let variance =
            places.iter().map(|&i| (v[i] - mean).powi(2)).sum::<f64>() / places.len() as f64;
        for &i in &places {
            let z = (v[i] - mean) / (variance + eps).sqrt() * w[i % c] + b[i % c];
            y[i] = if silu { z / (1.0 + (-z).exp()) } else { z };
        }
    }
    Tensor::from_vec(y, x.shape(), &Device::Cpu).unwrap()
}

/// `(n, s, c)` and groups: one frame, five, odd sizes, one channel a group, more rows than one piece of work.
const SHAPES: [((usize, usize, usize), usize); 6] = [
    ((1, 1, 8), 4),
    ((5, 240, 24), 8),
    ((2, 35, 6), 6),
    ((1, 77, 10), 2),
    ((2, 3000, 8), 2),
    ((3, 9, 300), 3),
];

#[test]
fn group_norm_matches_the_definition() {
    for (shape, groups) in SHAPES {
        let (weight, bias) = (
            random(1, shape.2, DType::F32),
            random(2, shape.2, DType::F32),
        );
        let norm = GroupNorm::new(&weight, &bias, groups, 1e-5).unwrap();
        for (scale, shift) in [(1.0, 0.0), (0.01, 0.0), (1.0, 30.0)] {
            let x = random(3, shape, DType::F32).affine(scale, shift).unwrap();
            // A group mean near 30 is rounded to f32 (1e-6), which a group of two close numbers magnifies.
            let tolerance = if shift == 0.0 { 1e-6 } else { 3e-5 };
            let expected = |silu| naive_group_norm(&x, &weight, &bias, groups, 1e-5, silu);
            assert_close(&norm.forward(&x).unwrap(), &expected(false), tolerance);
            assert_close(&norm.forward_silu(&x).unwrap(), &expected(true), tolerance);
        }
    }
}

#[test]
fn group_norm_takes_axes_between() {
    let (weight, bias) = (random(1, 8, DType::F32), random(2, 8, DType::F32));
    let norm = GroupNorm::new(&weight, &bias, 2, 1e-5).unwrap();
    let x = random(3, (2, 5, 3, 4, 8), DType::F32);
    let folded = norm.forward(&x.reshape((2, 60, 8)).unwrap()).unwrap();
    assert_close(
        &norm.forward(&x).unwrap(),
        &folded.reshape(x.shape()).unwrap(),
        0.0,
    );
}

#[test]
fn group_norm_gradients_match_finite_differences() {
    for (shape, groups) in SHAPES {
        let (weight, bias) = (
            random(1, shape.2, DType::F64),
            random(2, shape.2, DType::F64),
        );
        let norm = GroupNorm::new(&weight, &bias, groups, 1e-5).unwrap();
        check_gradients(&[random(3, shape, DType::F64)], |v| norm.forward(&v[0]));
        check_gradients(&[random(3, shape, DType::F64)], |v| {
            norm.forward_silu(&v[0])
        });
    }
}

#[test]
fn layer_norm_matches_the_definition() {
    for shape in [(1, 1, 8), (2, 77, 40), (3, 5, 33), (1, 900, 20)] {
        let (weight, bias) = (
            random(1, shape.2, DType::F64),
            random(2, shape.2, DType::F64),
        );
        let norm = LayerNorm::new(&weight, &bias, 1e-5).unwrap();
        for scale in [1.0, 0.01] {
            let x = (random(3, shape, DType::F64) * scale).unwrap();
            let rows = x.reshape((shape.0 * shape.1, 1, shape.2)).unwrap();
            let expected = naive_group_norm(&rows, &weight, &bias, 1, 1e-5, false)
                .reshape(shape)
                .unwrap();
            // f64 sums in another order, and one rounding of each step in f32.
            assert_close(&norm.forward(&x).unwrap(), &expected, 1e-12);
            assert_close(
                &norm.forward(&x.to_dtype(DType::F32).unwrap()).unwrap(),
                &expected,
                1e-6,
            );
        }
        check_gradients(&[random(3, shape, DType::F64)], |v| norm.forward(&v[0]));
    }
}

/// Statistics that the eps decides: constant input, where the result is the shift.
#[test]
fn constant_input_gives_the_shift() {
    let (weight, bias) = (random(1, 8, DType::F32), random(2, 8, DType::F32));
    let x = Tensor::full(3f32, (2, 6, 8), &Device::Cpu).unwrap();
    let expected = bias.broadcast_as(x.shape()).unwrap().contiguous().unwrap();
    assert_close(
        &GroupNorm::new(&weight, &bias, 2, 1e-6)
            .unwrap()
            .forward(&x)
            .unwrap(),
        &expected,
        1e-6,
    );
    assert_close(
        &LayerNorm::new(&weight, &bias, 1e-6)
            .unwrap()
            .forward(&x)
            .unwrap(),
        &expected,
        1e-6,
    );
}

#[test]
fn wrong_shapes_are_errors() {
    let (weight, bias) = (random(1, 8, DType::F32), random(2, 8, DType::F32));
    assert!(GroupNorm::new(&weight, &bias, 3, 1e-5).is_err());
    assert!(GroupNorm::new(&weight, &bias, 0, 1e-5).is_err());
    assert!(GroupNorm::new(&weight, &random(2, 4, DType::F32), 2, 1e-5).is_err());
    assert!(LayerNorm::new(&weight, &random(2, 4, DType::F32), 1e-5).is_err());
    let x = random(3, (2, 6, 4), DType::F32);
    assert!(
        GroupNorm::new(&weight, &bias, 2, 1e-5)
            .unwrap()
            .forward(&x)
            .is_err()
    );
    assert!(
        LayerNorm::new(&weight, &bias, 1e-5)
            .unwrap()
            .forward(&x)
            .is_err()
    );
}
