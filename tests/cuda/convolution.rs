//! Convolutions and their input gradients, through the geometries that [`nn`](spectral_motion::nn) uses.

use candle_core::{DType, Tensor};
use spectral_motion::nn::plan::{self, Convolution};
use spectral_motion::nn::{Conv2d, Conv2dConfig, Padding};

use super::emulator::{TYPES, assert_close, random, reference, run, tolerance};

struct Case {
    images: usize,
    size: (usize, usize),
    channels: (usize, usize),
    kernel: (usize, usize),
    config: Conv2dConfig,
}

fn case(
    images: usize,
    size: (usize, usize),
    channels: (usize, usize),
    kernel: (usize, usize),
    config: Conv2dConfig,
) -> Case {
    Case {
        images,
        size,
        channels,
        kernel,
        config,
    }
}

/// A temporal convolution sees a clip as an image of frames by places.
const TEMPORAL: Conv2dConfig = Conv2dConfig {
    stride: 1,
    padding: Padding {
        top: 1,
        bottom: 1,
        left: 0,
        right: 0,
    },
};

fn check(case: &Case, types: &[DType]) {
    let (h, w) = case.size;
    let (inp, out) = case.channels;
    let (kh, kw) = case.kernel;
    let padding = case.config.padding;
    let side = |from: usize, around: usize, kernel: usize| {
        (from + around - kernel) / case.config.stride + 1
    };
    let output = (
        side(h, padding.top + padding.bottom, kh),
        side(w, padding.left + padding.right, kw),
    );
    let convolution = Convolution {
        images: case.images,
        input: case.size,
        output,
        kernel: case.kernel,
        stride: case.config.stride,
        before: (padding.top, padding.left),
        depth: inp,
        columns: out,
        gradient: false,
    };
    for &dtype in types {
        let x = random(1, &[case.images, h, w, inp], dtype);
        let scale = 1.0 / ((inp * kh * kw) as f64).sqrt();
        let weight = (random(2, &[out, inp, kh, kw], DType::F64) * scale)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        let bias = random(3, &[out], plan::wide(dtype));
        let grad = random(4, &[case.images, output.0, output.1, out], dtype);
        let f64s = [&weight, &bias].map(|x| x.to_dtype(DType::F64).unwrap());
        let layer = Conv2d::new(&f64s[0], Some(&f64s[1]), case.config).unwrap();
        let (y, dx) = reference(&[&x], |_| grad.clone(), |v| layer.forward(&v[0]));
        let what = format!("{convolution:?} {dtype:?}");
        let packed: Tensor = weight.permute((2, 3, 1, 0)).unwrap().contiguous().unwrap();
        let plan = plan::convolution(dtype, &convolution, true).unwrap();
        assert_close(
            &what,
            &run(&plan, &[&x, &packed, &bias])[0],
            &y,
            tolerance(dtype),
        );
        let plan = plan::convolution(dtype, &convolution.reversed(), false).unwrap();
        let backward = run(&plan, &[&grad, &packed, &bias]);
        assert_close(&what, &backward[0], &dx[0], tolerance(dtype));
        // The same as products with matrices of what is read, in f64 and in two parts.
        let unfolded = |read: &Tensor, size: &Convolution, weight: &Tensor| {
            let pixels = size.images * size.output.0 * size.output.1;
            let first = pixels / 3 + 1;
            let parts = [(0, first), (first, pixels - first)].map(|part| {
                let plan = plan::unfold(dtype, size, part).unwrap();
                let rows = run(&plan, &[read])[0].reshape((part.1, ())).unwrap();
                rows.to_dtype(DType::F64).unwrap()
            });
            let weight = weight.to_dtype(DType::F64).unwrap();
            let weight = weight.reshape(((), size.columns)).unwrap();
            Tensor::cat(&parts, 0).unwrap().matmul(&weight).unwrap()
        };
        let limit = 1e-12;
        let product = unfolded(&x, &convolution, &packed)
            .broadcast_add(&f64s[1])
            .unwrap();
        assert_close(&what, &product, &y, limit);
        let turned = packed.transpose(2, 3).unwrap().contiguous().unwrap();
        let product = unfolded(&grad, &convolution.reversed(), &turned);
        assert_close(&what, &product, &dx[0], limit);
    }
}

#[test]
fn of_images_in_every_type() {
    check(
        &case(2, (12, 20), (24, 40), (3, 3), Conv2dConfig::padded(1)),
        &TYPES,
    );
    // Channels that do not move in pieces of 16 bytes, as at both ends of a network.
    check(
        &case(1, (12, 20), (4, 17), (3, 3), Conv2dConfig::padded(1)),
        &TYPES,
    );
}

#[test]
fn of_large_images_and_wide_layers() {
    let types = [DType::F32, DType::BF16];
    check(
        &case(1, (45, 80), (8, 16), (3, 3), Conv2dConfig::padded(1)),
        &types,
    );
    check(
        &case(1, (4, 5), (72, 136), (3, 3), Conv2dConfig::padded(1)),
        &types,
    );
    check(
        &case(2, (5, 6), (40, 72), (1, 1), Conv2dConfig::default()),
        &types,
    );
}

#[test]
fn with_strides_and_padding_on_some_sides() {
    let types = [DType::F64, DType::F16];
    let halved = Conv2dConfig {
        stride: 2,
        padding: Padding::same(1),
    };
    check(&case(2, (12, 20), (16, 24), (3, 3), halved), &types);
    check(&case(1, (45, 23), (8, 8), (3, 3), halved), &types);
    let padding = Padding {
        bottom: 1,
        right: 1,
        ..Padding::default()
    };
    check(
        &case(
            1,
            (13, 10),
            (16, 8),
            (3, 3),
            Conv2dConfig { stride: 2, padding },
        ),
        &types,
    );
}

#[test]
fn over_one_frame_and_five() {
    let types = [DType::F32, DType::BF16];
    check(&case(1, (1, 240), (16, 16), (3, 1), TEMPORAL), &types);
    check(&case(2, (5, 60), (32, 24), (3, 1), TEMPORAL), &types);
}
