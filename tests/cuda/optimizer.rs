//! Norms, clipping and AdamW on the device, against the same in f64 as PyTorch documents it.

use candle_core::{DType, Device, Tensor};
use spectral_motion::nn::plan::{self, AdamWPlan};

use super::emulator::{assert_close, random, run};

const CONSTANTS: AdamWPlan = AdamWPlan {
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    decay: 1.0 - 1e-4 * 1e-2,
    step_size: 1e-4 / 0.1,
    root_correction: 0.031_622_776_601_683_79,
};

/// Squares of two gradients and the factor of an update, as the device gives them.
fn scale(grads: [&Tensor; 2], losses: &[f64], max_norm: f64) -> (Vec<f64>, f64) {
    let mut squares = Tensor::zeros(64, DType::F64, &Device::Cpu).unwrap();
    for (slot, grad) in grads.into_iter().enumerate() {
        let plan = plan::gradient_squares(slot, grad.elem_count()).unwrap();
        squares = run(&plan, &[grad, &squares])[1].clone();
    }
    let losses = Tensor::new(losses, &Device::Cpu).unwrap();
    let plan = plan::update_scale(2, losses.elem_count(), max_norm).unwrap();
    let results = run(&plan, &[&squares, &losses]);
    (
        results[0].to_vec1().unwrap(),
        results[1].to_vec1::<f64>().unwrap()[0],
    )
}

#[test]
fn gradients_are_clipped_by_their_common_norm() {
    let grads = [random(1, &[7001], DType::F32), random(2, &[13], DType::F32)];
    let square = |x: &Tensor| -> f64 {
        let x: Vec<f32> = x.to_vec1().unwrap();
        x.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
    };
    let expected = [square(&grads[0]), square(&grads[1])];
    let norm = (expected[0] + expected[1]).sqrt();
    let [a, b] = &grads;
    for (max_norm, factor) in [(1.0, 1.0 / (norm + 1e-6)), (0.0, 1.0), (1e9, 1.0)] {
        let (squares, scale) = scale([a, b], &[0.5, 0.25], max_norm);
        for (square, expected) in squares.iter().zip(expected) {
            // f64 sums in another order.
            assert!(
                (square - expected).abs() <= 1e-12 * expected,
                "{square} {expected}"
            );
        }
        assert!((scale - factor).abs() <= 1e-12 * factor, "{scale} {factor}");
    }
}

#[test]
fn what_is_not_finite_is_seen() {
    let good = random(1, &[100], DType::F32);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut numbers: Vec<f32> = good.to_vec1().unwrap();
        numbers[57] = bad;
        let bad_gradient = Tensor::new(numbers, &Device::Cpu).unwrap();
        assert!(scale([&good, &bad_gradient], &[1.0], 1.0).1.is_nan());
        assert!(
            scale([&good, &good], &[1.0, f64::from(bad)], 0.0)
                .1
                .is_nan()
        );
    }
    assert!(scale([&good, &good], &[1.0, 2.0], 0.0).1 == 1.0);
}

#[test]
fn adamw_moves_as_documented_and_stands_still_without_a_factor() {
    let count = 1003;
    let [weight, grad, first] = [1, 2, 3].map(|seed| random(seed, &[count], DType::F32));
    let second = random(4, &[count], DType::F32).sqr().unwrap();
    let plan = plan::adamw(CONSTANTS, count).unwrap();
    let factor = Tensor::new(&[0.25f64], &Device::Cpu).unwrap();
    let moved = run(&plan, &[&weight, &grad, &first, &second, &factor]);
    let wide = |x: &Tensor| -> Vec<f64> { x.to_dtype(DType::F64).unwrap().to_vec1().unwrap() };
    let (w, g, m, v) = (wide(&weight), wide(&grad), wide(&first), wide(&second));
    let c = CONSTANTS;
    let expected: Vec<[f64; 3]> = (0..count)
        .map(|i| {
            let g = g[i] * 0.25;
            let m = c.beta1 * m[i] + (1.0 - c.beta1) * g;
            let v = c.beta2 * v[i] + (1.0 - c.beta2) * g * g;
            let step = c.step_size * m / (v.sqrt() / c.root_correction + c.eps);
            [w[i] * c.decay - step, m, v]
        })
        .collect();
    for (part, place) in [(0, 0), (1, 2), (2, 3)] {
        let expected: Vec<f64> = expected.iter().map(|e| e[part]).collect();
        let expected = Tensor::new(expected, &Device::Cpu).unwrap();
        // A few roundings of f32.
        assert_close("adamw", &moved[place], &expected, 5e-7);
    }
    let nothing = Tensor::new(&[f64::NAN], &Device::Cpu).unwrap();
    let still = run(&plan, &[&weight, &grad, &first, &second, &nothing]);
    for (after, before) in [(0, &weight), (2, &first), (3, &second)] {
        assert_close(
            "a weight that should stand still",
            &still[after],
            before,
            0.0,
        );
    }
}
