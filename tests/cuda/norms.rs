//! Group norm and layer norm.

use candle_core::DType;
use spectral_motion::nn::plan::{self, GroupNormPlan};
use spectral_motion::nn::{GroupNorm, LayerNorm};

use super::emulator::{TYPES, assert_close, random, reference, run, tolerance};

#[test]
fn layer_norm_and_its_gradient() {
    for (rows, width) in [(21, 40), (9, 77)] {
        for dtype in TYPES {
            let [x, grad] = [1, 2].map(|seed| random(seed, &[rows, width], dtype));
            let [weight, bias] = [3, 4].map(|seed| random(seed, &[width], plan::wide(dtype)));
            let f64s = [&weight, &bias].map(|x| x.to_dtype(DType::F64).unwrap());
            let layer = LayerNorm::new(&f64s[0], &f64s[1], 1e-5).unwrap();
            let (y, dx) = reference(&[&x], |_| grad.clone(), |v| layer.forward(&v[0]));
            let what = format!("layer norm {rows}x{width} {dtype:?}");
            let plan = plan::layer_norm_forward(dtype, rows, width, 1e-5).unwrap();
            assert_close(
                &what,
                &run(&plan, &[&x, &weight, &bias])[0],
                &y,
                tolerance(dtype),
            );
            let plan = plan::layer_norm_backward(dtype, rows, width, 1e-5).unwrap();
            assert_close(
                &what,
                &run(&plan, &[&x, &grad, &weight])[0],
                &dx[0],
                tolerance(dtype),
            );
        }
    }
}

#[test]
fn group_norm_with_and_without_silu_and_its_gradient() {
    // Many rows of one image; several images of few rows; channels that do not move in pieces of 16 bytes.
    for (images, rows, channels, groups, silu) in [
        (1, 1200, 32, 8, true),
        (5, 37, 48, 16, false),
        (2, 3600, 6, 3, true),
        (3, 1, 320, 32, false),
    ] {
        for dtype in TYPES {
            let norm = GroupNormPlan {
                images,
                rows,
                channels,
                groups,
                eps: 1e-5,
                silu,
            };
            // Numbers far from zero: differences of large sums would show.
            let shape = [images, rows, channels];
            let x = (random(1, &shape, DType::F64) + 3.0)
                .unwrap()
                .to_dtype(dtype)
                .unwrap();
            let grad = random(2, &shape, dtype);
            let [weight, bias] = [3, 4].map(|seed| random(seed, &[channels], plan::wide(dtype)));
            let f64s = [&weight, &bias].map(|x| x.to_dtype(DType::F64).unwrap());
            let layer = GroupNorm::new(&f64s[0], &f64s[1], groups, 1e-5).unwrap();
            let (y, dx) = reference(
                &[&x],
                |_| grad.clone(),
                |v| {
                    if silu {
                        layer.forward_silu(&v[0])
                    } else {
                        layer.forward(&v[0])
                    }
                },
            );
            let what = format!("group norm {shape:?} {dtype:?}");
            let plan = plan::group_norm_forward(dtype, &norm).unwrap();
            let forward = run(&plan, &[&x, &weight, &bias]);
            assert_close(&what, &forward[0], &y, tolerance(dtype));
            let plan = plan::group_norm_backward(dtype, &norm).unwrap();
            let backward = run(&plan, &[&x, &grad, &forward[1], &weight, &bias]);
            assert_close(&what, &backward[0], &dx[0], tolerance(dtype));
        }
    }
}
