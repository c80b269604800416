//! Random inputs and gradient checks by finite differences.

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use spectral_motion::nn::{NoiseStream, Purpose};

/// Standard normal numbers, the same on every run.
pub fn random(seed: u64, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    NoiseStream::new(seed, Purpose::Noise)
        .normal(shape, dtype, &Device::Cpu)
        .unwrap()
}

/// All numbers of a tensor as f64.
pub fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The largest difference between two tensors, relative to the largest number of the second.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (numbers(a), numbers(b));
    let largest = b.iter().fold(1e-300, |m: f64, v| m.max(v.abs()));
    a.iter().zip(&b).fold(0.0, |m: f64, (a, b)| {
        if a.is_nan() || b.is_nan() {
            f64::INFINITY
        } else {
            m.max((a - b).abs())
        }
    }) / largest
}

/// Asserts that two tensors agree.
#[track_caller]
pub fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64) {
    let d = difference(a, b);
    assert!(
        d <= tolerance,
        "tensors of {:?} differ by {d:e}, allowed {tolerance:e}",
        a.shape()
    );
}

/// Checks the gradient of `f` for each of its inputs against central differences.
///
/// The scalar is `Σ f(..) r` with fixed random `r`. In f64 a step of 1e-5 leaves an error of about 1e-9
/// relative (third derivative times 1e-10, and rounding 1e-16 / 1e-5 of the sum); 1e-6 is far below any mistake.
#[track_caller]
pub fn check_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|x| Var::from_tensor(&x.to_dtype(DType::F64).unwrap()).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let weights = random(99, y.shape(), DType::F64);
    let grads = (&y * &weights)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let plain: Vec<Tensor> = vars
        .iter()
        .map(|v| v.as_tensor().copy().unwrap().detach())
        .collect();
    let loss = |inputs: &[Tensor]| -> f64 {
        (f(inputs).unwrap() * &weights)
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    for (which, var) in vars.iter().enumerate() {
        let grad = grads
            .get(var)
            .unwrap_or_else(|| panic!("input {which} has no gradient"));
        assert_eq!(grad.dims(), var.dims(), "gradient of input {which}");
        let grad = numbers(grad);
        let largest = grad.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        assert!(
            grad.iter().all(|v| v.is_finite()) && largest > 0.0,
            "gradient of input {which}"
        );
        let base = numbers(&plain[which]);
        // Up to 24 places spread over the input, the first and the last among them.
        let places = base.len().min(24);
        for p in 0..places {
            let i = p * (base.len() - 1) / (places - 1).max(1);
            let step = 1e-5;
            let at = |delta: f64| {
                let mut moved = base.clone();
                moved[i] += delta;
                let mut all = plain.clone();
                all[which] = Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap();
                loss(&all)
            };
            let expected = (at(step) - at(-step)) / (2.0 * step);
            let error = (grad[i] - expected).abs() / largest;
            assert!(
                error < 1e-6,
                "input {which}, place {i}: {} against {expected}",
                grad[i]
            );
        }
    }
}
