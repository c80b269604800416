use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::nn::{Linear, Param, no_grad};

use super::support::{assert_close, check_gradients, numbers, random};

/// Written-out `x Wᵀ + b` in f64.
fn naive(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (out, inp) = weight.dims2().unwrap();
    let (x64, w, b) = (numbers(x), numbers(weight), bias.map(numbers));
    let rows = x64.len() / inp;
    let mut y = Vec::new();
    for r in 0..rows {
        for o in 0..out {
            let sum: f64 = (0..inp).map(|i| x64[r * inp + i] * w[o * inp + i]).sum();
            y.push(sum + b.as_ref().map_or(0.0, |b| b[o]));
        }
    }
    let mut shape = x.dims().to_vec();
    *shape.last_mut().unwrap() = out;
    Tensor::from_vec(y, shape, &Device::Cpu).unwrap()
}

/// Widths on both sides of every register and panel, one row and many, any leading axes.
const SHAPES: [(&[usize], usize, usize); 7] = [
    (&[1], 4, 1),
    (&[5], 3, 7),
    (&[2, 3, 7], 16, 33),
    (&[97], 31, 64),
    (&[1, 12, 20], 40, 24),
    (&[2, 77], 65, 130),
    (&[300], 96, 96),
];

#[test]
fn matches_written_out_sums() {
    for (leading, inp, out) in SHAPES {
        let shape = [leading, &[inp]].concat();
        let (weight, bias) = (
            random(1, (out, inp), DType::F32),
            random(2, out, DType::F32),
        );
        for scale in [1.0, 0.01] {
            let x = (random(3, shape.clone(), DType::F32) * scale).unwrap();
            for bias in [None, Some(&bias)] {
                let expected = naive(&x, &weight, bias);
                let frozen = Linear::new(
                    Param::frozen(weight.clone()),
                    bias.cloned().map(Param::frozen),
                )
                .unwrap();
                let var = Var::from_tensor(&weight).unwrap();
                let trained =
                    Linear::new(Param::trainable(&var), bias.cloned().map(Param::frozen)).unwrap();
                // f32 rounding of a sum of at most 96 products, relative to the largest result.
                assert_close(&frozen.forward(&x).unwrap(), &expected, 1e-6);
                assert_close(&trained.forward(&x).unwrap(), &expected, 1e-6);
            }
        }
    }
}

#[test]
fn gradients_match_finite_differences() {
    for (leading, inp, out) in SHAPES {
        let shape = [leading, &[inp]].concat();
        let (weight, bias) = (
            random(1, (out, inp), DType::F64),
            random(2, out, DType::F64),
        );
        let x = random(3, shape, DType::F64);
        check_gradients(std::slice::from_ref(&x), |v| {
            Linear::new(
                Param::frozen(weight.clone()),
                Some(Param::frozen(bias.clone())),
            )?
            .forward(&v[0])
        });
        check_gradients(&[x, weight.clone(), bias], |v| {
            let weight = Param::frozen(v[1].clone());
            assert!(!weight.is_trainable());
            // Not variables of the layer, so composed here; the layer itself is checked below.
            v[0].reshape(((), inp))?
                .matmul(&v[1].t()?)?
                .broadcast_add(&v[2])
        });
    }
}

/// Gradients of a trainable weight and bias against the closed form, over more rows than one partial sum.
#[test]
fn trained_weights_get_their_gradients() {
    for (rows, inp, out) in [(1, 5, 3), (33, 40, 24), (1100, 19, 35)] {
        let x = Var::from_tensor(&random(1, (rows, inp), DType::F64)).unwrap();
        let weight = Var::from_tensor(&random(2, (out, inp), DType::F64)).unwrap();
        let bias = Var::from_tensor(&random(3, out, DType::F64)).unwrap();
        let g = random(4, (rows, out), DType::F64);
        for with_bias in [false, true] {
            let layer = Linear::new(
                Param::trainable(&weight),
                with_bias.then(|| Param::trainable(&bias)),
            )
            .unwrap();
            let y = layer.forward(&x).unwrap();
            let grads = (y * &g).unwrap().sum_all().unwrap().backward().unwrap();
            // f64 sums in another order.
            assert_close(grads.get(&x).unwrap(), &g.matmul(&weight).unwrap(), 1e-13);
            assert_close(
                grads.get(&weight).unwrap(),
                &g.t().unwrap().matmul(&x).unwrap(),
                1e-13,
            );
            assert_eq!(grads.get(&bias).is_some(), with_bias);
            if with_bias {
                assert_close(grads.get(&bias).unwrap(), &g.sum(0).unwrap(), 1e-13);
            }
        }
    }
}

#[test]
fn takes_inputs_of_any_layout() {
    let layer = Linear::new(Param::frozen(random(1, (6, 5), DType::F32)), None).unwrap();
    let x = random(2, (4, 5, 3), DType::F32).transpose(1, 2).unwrap();
    assert!(!x.is_contiguous());
    let expected = layer.forward(&x.contiguous().unwrap()).unwrap();
    assert_close(&layer.forward(&x).unwrap(), &expected, 0.0);
    let narrow = random(2, (9, 5), DType::F32).narrow(0, 3, 4).unwrap();
    assert_close(
        &layer.forward(&narrow).unwrap(),
        &layer.forward(&narrow.copy().unwrap()).unwrap(),
        0.0,
    );
}

#[test]
fn half_precision_is_computed_in_f32() {
    let weight = random(1, (24, 40), DType::F32)
        .to_dtype(DType::F16)
        .unwrap();
    let x = random(2, (7, 40), DType::F32).to_dtype(DType::F16).unwrap();
    let y = Linear::new(Param::frozen(weight.clone()), None)
        .unwrap()
        .forward(&x)
        .unwrap();
    assert_eq!(y.dtype(), DType::F16);
    // One rounding to f16: half a unit in the last of 11 bits.
    assert_close(&y, &naive(&x, &weight, None), 5e-4);
    let var = Var::from_tensor(&weight.to_dtype(DType::F32).unwrap()).unwrap();
    let trained = Linear::new(Param::trainable(&var), None)
        .unwrap()
        .forward(&x)
        .unwrap();
    assert_close(&trained, &y, 0.0);
    let grads = trained
        .to_dtype(DType::F32)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    assert_eq!(grads.get(&var).unwrap().dtype(), DType::F32);
}

#[test]
fn frozen_weights_have_no_gradient_and_no_grad_keeps_nothing() {
    let var = Var::from_tensor(&random(1, (4, 3), DType::F32)).unwrap();
    let x = Var::from_tensor(&random(2, (5, 3), DType::F32)).unwrap();
    let frozen = Linear::new(Param::frozen(var.as_tensor().clone()), None).unwrap();
    let y = frozen.forward(&x).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&var).is_none() && grads.get(&x).is_some());
    let trained = Linear::new(Param::trainable(&var), None).unwrap();
    assert!(trained.forward(&x).unwrap().track_op());
    assert!(!no_grad(|| trained.forward(&x)).unwrap().track_op());
    assert!(!no_grad(|| frozen.forward(&x)).unwrap().track_op());
}

#[test]
fn layers_see_updates_of_their_variable_even_without_gradients() {
    let var = Var::from_tensor(&random(1, (4, 3), DType::F32)).unwrap();
    let layer = Linear::new(Param::trainable(&var), None).unwrap();
    let x = random(2, (5, 3), DType::F32);
    let before = no_grad(|| layer.forward(&x)).unwrap();
    var.set(&(var.as_tensor() * 2.0).unwrap().detach()).unwrap();
    assert_close(
        &no_grad(|| layer.forward(&x)).unwrap(),
        &(before * 2.0).unwrap(),
        1e-7,
    );
}

#[test]
fn an_input_used_twice_gets_the_sum_of_its_gradients() {
    let x = random(1, (6, 5), DType::F64);
    let (a, b) = (random(2, (5, 5), DType::F64), random(3, (5, 5), DType::F64));
    check_gradients(&[x], |v| {
        let (a, b) = (
            Linear::new(Param::frozen(a.clone()), None)?,
            Linear::new(Param::frozen(b.clone()), None)?,
        );
        b.forward(&v[0])? + a.forward(&v[0])?
    });
}

#[test]
fn no_grad_ends_with_its_closure_even_by_panic() {
    use spectral_motion::nn::grad_enabled;
    no_grad(|| {
        assert!(!grad_enabled());
        no_grad(|| assert!(!grad_enabled()));
        assert!(!grad_enabled());
    });
    assert!(grad_enabled());
    std::panic::catch_unwind(|| no_grad(|| panic!("on purpose"))).unwrap_err();
    assert!(grad_enabled());
}

#[test]
fn wrong_shapes_are_errors() {
    let weight = || Param::frozen(random(1, (4, 3), DType::F32));
    assert!(Linear::new(weight(), Some(Param::frozen(random(1, 3, DType::F32)))).is_err());
    assert!(Linear::new(Param::frozen(random(1, 4, DType::F32)), None).is_err());
    let layer = Linear::new(weight(), None).unwrap();
    assert!(layer.forward(&random(1, (3, 4), DType::F32)).is_err());
    assert!(
        layer
            .forward(&Tensor::new(1f32, &Device::Cpu).unwrap())
            .is_err()
    );
}
