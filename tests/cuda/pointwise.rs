//! Activation functions, biases, resizing and dropout.

use candle_core::{DType, Device, Tensor};
use spectral_motion::nn::plan::{self, ActivationKind, Added, Dropping, Resizing};
use spectral_motion::nn::{self, NoiseStream, Purpose};

use super::emulator::{TYPES, assert_close, random, reference, run, tolerance};

#[test]
fn activations_and_their_gradients() {
    // Not a multiple of a piece of 16 bytes, then one.
    for (kind, count) in [
        (ActivationKind::Silu, 1003),
        (ActivationKind::Gelu, 1008),
        (ActivationKind::QuickGelu, 77),
    ] {
        for dtype in TYPES {
            let x = random(1, &[count], dtype);
            let grad = random(2, &[count], dtype);
            let (y, dx) = reference(
                &[&x],
                |_| grad.clone(),
                |v| match kind {
                    ActivationKind::Silu => nn::silu(&v[0]),
                    ActivationKind::Gelu => nn::gelu(&v[0]),
                    ActivationKind::QuickGelu => nn::quick_gelu(&v[0]),
                },
            );
            let what = format!("{kind:?} {dtype:?}");
            let forward = run(
                &plan::activation_forward(dtype, kind, count).unwrap(),
                &[&x],
            );
            assert_close(&what, &forward[0], &y, tolerance(dtype));
            let plan = plan::activation_backward(dtype, kind, count).unwrap();
            let backward = run(&plan, &[&x, &grad]);
            assert_close(&what, &backward[0], &dx[0], tolerance(dtype));
        }
    }
}

#[test]
fn geglu_and_its_gradient() {
    for (rows, width) in [(19, 24), (7, 13)] {
        for dtype in TYPES {
            let (x, grad) = (
                random(1, &[rows, 2 * width], dtype),
                random(2, &[rows, width], dtype),
            );
            let (y, dx) = reference(&[&x], |_| grad.clone(), |v| nn::geglu(&v[0]));
            let what = format!("geglu {rows}x{width} {dtype:?}");
            let forward = run(&plan::geglu_forward(dtype, rows, width).unwrap(), &[&x]);
            assert_close(&what, &forward[0], &y, tolerance(dtype));
            let plan = plan::geglu_backward(dtype, rows, width).unwrap();
            assert_close(
                &what,
                &run(&plan, &[&x, &grad])[0],
                &dx[0],
                tolerance(dtype),
            );
        }
    }
}

#[test]
fn what_is_added_in_place() {
    let all = Added {
        bias: true,
        shift: Some(3),
        skip: true,
    };
    let bias = Added {
        bias: true,
        ..Added::default()
    };
    let skip = Added {
        skip: true,
        ..Added::default()
    };
    let shift = Added {
        shift: Some(1),
        ..Added::default()
    };
    for (rows, width, added) in [
        (21, 24, all),
        (6, 13, all),
        (19, 24, bias),
        (7, 13, skip),
        (7, 16, shift),
    ] {
        for dtype in TYPES {
            let groups = added.shift.unwrap_or(1);
            let y = random(1, &[rows, width], dtype);
            let bias = random(2, &[width], plan::wide(dtype));
            let shift = random(3, &[groups, width], dtype);
            let skip = random(4, &[rows, width], dtype);
            let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let mut expected = wide(&y).reshape((groups, rows / groups, width)).unwrap();
            let mut inputs = vec![&y];
            if added.bias {
                inputs.push(&bias);
                expected = expected.broadcast_add(&wide(&bias)).unwrap();
            }
            if added.shift.is_some() {
                inputs.push(&shift);
                let shift = wide(&shift).unsqueeze(1).unwrap();
                expected = expected.broadcast_add(&shift).unwrap();
            }
            if added.skip {
                inputs.push(&skip);
                let skip = wide(&skip).reshape(expected.shape()).unwrap();
                expected = (expected + skip).unwrap();
            }
            let results = run(&plan::add_to(dtype, (rows, width), added).unwrap(), &inputs);
            let what = format!("{added:?} {dtype:?}");
            assert_close(&what, &results[0], &expected, tolerance(dtype));
        }
    }
}

#[test]
fn axes_change_places() {
    for (b, p, q, c) in [(2, 5, 12, 24), (1, 1, 7, 3), (1, 16, 9, 8)] {
        for dtype in TYPES {
            let x = random(1, &[b, p, q, c], dtype);
            let expected = x.transpose(1, 2).unwrap().contiguous().unwrap();
            let plan = plan::swap_axes(dtype, (b, p, q), c).unwrap();
            assert_close("swap", &run(&plan, &[&x])[0], &expected, 0.0);
        }
    }
    for (b, rows, columns) in [(2, 70, 130), (3, 8, 64), (1, 2, 2)] {
        for dtype in TYPES {
            let x = random(1, &[b, rows, columns], dtype);
            let expected = x.t().unwrap().contiguous().unwrap();
            let plan = plan::transpose(dtype, b, (rows, columns)).unwrap();
            assert_close("transpose", &run(&plan, &[&x])[0], &expected, 0.0);
        }
    }
}

#[test]
fn resizing_and_its_gradient() {
    // Up, down, and both at once; channels in pieces of 16 bytes and not.
    for (from, to, channels) in [
        ((12, 20), (24, 40), 8),
        ((5, 7), (9, 3), 3),
        ((23, 40), (45, 80), 4),
    ] {
        let resizing = Resizing {
            images: 2,
            from,
            to,
            channels,
        };
        for dtype in [DType::F64, DType::BF16] {
            let x = random(1, &[2, from.0, from.1, channels], dtype);
            let grad = random(2, &[2, to.0, to.1, channels], dtype);
            let (y, dx) = reference(
                &[&x],
                |_| grad.clone(),
                |v| nn::upsample_nearest(&v[0], to.0, to.1),
            );
            let what = format!("{from:?} to {to:?} {dtype:?}");
            let forward = run(&plan::nearest_forward(dtype, resizing).unwrap(), &[&x]);
            assert_close(&what, &forward[0], &y, 0.0);
            let backward = run(&plan::nearest_backward(dtype, resizing).unwrap(), &[&grad]);
            assert_close(&what, &backward[0], &dx[0], tolerance(dtype));
        }
    }
}

#[test]
fn dropout_masks_are_those_of_the_noise_stream() {
    let (seed, count, p) = (0x0123_4567_89ab_cdef, 1001, 0.9);
    let mut stream = NoiseStream::new(seed, Purpose::Dropout).lane(5);
    stream.seek((3 << 34) | (1 << 32));
    let dropping = Dropping {
        seed,
        block: stream.position(),
        purpose: Purpose::Dropout as u32,
        lane: 5,
        limit: (p * 4_294_967_296.0) as u64,
        scale: 1.0 / p,
    };
    let mask = stream.chance(count, p, &Device::Cpu).unwrap();
    for dtype in TYPES {
        let x = random(1, &[count], dtype);
        let kept = (x.to_dtype(DType::F64).unwrap() * mask.to_dtype(DType::F64).unwrap()).unwrap();
        let results = run(&plan::dropout(dtype, dropping, count).unwrap(), &[&x]);
        assert_close(
            "dropout",
            &results[0],
            &(kept / p).unwrap(),
            tolerance(dtype),
        );
    }
}
