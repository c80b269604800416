use candle_core::{DType, Device, Tensor};
use spectral_motion::nn::{Conv2d, Conv2dConfig, Padding, TemporalConv};

use super::support::{assert_close, check_gradients, numbers, random};

/// The definition, as loops in f64.
fn naive(x: &Tensor, weight: &Tensor, bias: &Tensor, config: &Conv2dConfig) -> Tensor {
    let (n, h, w, c) = x.dims4().unwrap();
    let (out, _, kh, kw) = weight.dims4().unwrap();
    let (x, k, b) = (numbers(x), numbers(weight), numbers(bias));
    let Conv2dConfig { stride, padding } = *config;
    let h2 = (h + padding.top + padding.bottom - kh) / stride + 1;
    let w2 = (w + padding.left + padding.right - kw) / stride + 1;
    let mut y = Vec::new();
    for image in 0..n {
        for (oy, ox) in (0..h2).flat_map(|oy| (0..w2).map(move |ox| (oy, ox))) {
            for o in 0..out {
                let mut sum = b[o];
                for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                    let iy = (oy * stride + ky) as isize - padding.top as isize;
                    let ix = (ox * stride + kx) as isize - padding.left as isize;
                    if iy < 0 || ix < 0 || iy >= h as isize || ix >= w as isize {
                        continue;
                    }
                    let at = ((image * h + iy as usize) * w + ix as usize) * c;
                    for i in 0..c {
                        sum += x[at + i] * k[((o * c + i) * kh + ky) * kw + kx];
                    }
                }
                y.push(sum);
            }
        }
    }
    Tensor::from_vec(y, (n, h2, w2, out), &Device::Cpu).unwrap()
}

/// Input `(n, h, w, c)`, outputs, kernel, stride, padding (top, bottom, left, right).
type Case = (
    (usize, usize, usize, usize),
    usize,
    (usize, usize),
    usize,
    [usize; 4],
);

/// Odd sizes, h other than w, channels that fill no register, asymmetric padding, kernels of one pixel.
const CASES: [Case; 10] = [
    ((1, 5, 7, 3), 4, (3, 3), 1, [1; 4]),
    ((2, 12, 20, 16), 8, (3, 3), 1, [1; 4]),
    ((1, 7, 9, 5), 6, (3, 3), 2, [1; 4]),
    ((2, 8, 12, 4), 7, (3, 3), 2, [1; 4]),
    ((1, 9, 6, 3), 5, (3, 3), 2, [0, 1, 0, 1]),
    ((3, 4, 5, 33), 35, (1, 1), 1, [0; 4]),
    ((1, 6, 5, 4), 4, (1, 1), 2, [0; 4]),
    ((1, 11, 8, 2), 3, (5, 2), 3, [2, 1, 0, 1]),
    ((1, 1, 1, 8), 8, (3, 3), 1, [1; 4]),
    ((1, 6, 4, 3), 2, (3, 1), 1, [1, 1, 0, 0]),
];

fn config(stride: usize, [top, bottom, left, right]: [usize; 4]) -> Conv2dConfig {
    Conv2dConfig {
        stride,
        padding: Padding {
            top,
            bottom,
            left,
            right,
        },
    }
}

#[test]
fn matches_the_definition() {
    for (shape, out, (kh, kw), stride, padding) in CASES {
        let config = config(stride, padding);
        let weight = random(1, (out, shape.3, kh, kw), DType::F32);
        let bias = random(2, out, DType::F32);
        for scale in [1.0, 0.01] {
            let x = (random(3, shape, DType::F32) * scale).unwrap();
            let y = Conv2d::new(&weight, Some(&bias), config)
                .unwrap()
                .forward(&x)
                .unwrap();
            // f32 rounding of a sum of at most 150 products.
            assert_close(&y, &naive(&x, &weight, &bias, &config), 1e-6);
        }
    }
}

#[test]
fn input_gradients_match_finite_differences() {
    for (shape, out, (kh, kw), stride, padding) in CASES {
        let weight = random(1, (out, shape.3, kh, kw), DType::F64);
        check_gradients(&[random(3, shape, DType::F64)], |v| {
            Conv2d::new(&weight, None, config(stride, padding))?.forward(&v[0])
        });
    }
}

/// A depth beyond one block of a panel (2048 channels by nine taps): partial sums meet in the result.
#[test]
fn deep_kernels_are_summed_in_blocks() {
    let weight = random(1, (3, 2100, 3, 3), DType::F64);
    let x = random(2, (1, 3, 4, 2100), DType::F64);
    let config = Conv2dConfig::padded(1);
    let bias = random(3, 3, DType::F64);
    let y = Conv2d::new(&weight, Some(&bias), config)
        .unwrap()
        .forward(&x)
        .unwrap();
    // f64 sums in another order.
    assert_close(&y, &naive(&x, &weight, &bias, &config), 1e-13);
}

#[test]
fn temporal_convolution_runs_over_frames() {
    for (b, f, s, c, out) in [(1, 1, 6, 4, 5), (2, 5, 7, 3, 8), (1, 8, 240, 16, 16)] {
        let weight = random(1, (out, c, 3, 1, 1), DType::F64);
        let bias = random(2, out, DType::F64);
        let x = random(3, (b, f, s, c), DType::F64);
        let y = TemporalConv::new(&weight, Some(&bias))
            .unwrap()
            .forward(&x)
            .unwrap();
        let config = config(1, [1, 1, 0, 0]);
        let expected = naive(&x, &weight.reshape((out, c, 3, 1)).unwrap(), &bias, &config);
        // f64 sums in another order.
        assert_close(&y, &expected, 1e-13);
        if s < 100 {
            check_gradients(&[x], |v| {
                TemporalConv::new(&weight, Some(&bias))?.forward(&v[0])
            });
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let weight = random(1, (4, 3, 3, 3), DType::F32);
    let conv = Conv2d::new(&weight, None, Conv2dConfig::default()).unwrap();
    assert!(conv.forward(&random(1, (1, 5, 5, 4), DType::F32)).is_err());
    assert!(conv.forward(&random(1, (1, 2, 5, 3), DType::F32)).is_err());
    assert!(conv.forward(&random(1, (5, 5, 3), DType::F32)).is_err());
    assert!(
        Conv2d::new(
            &weight,
            Some(&random(1, 3, DType::F32)),
            Conv2dConfig::default()
        )
        .is_err()
    );
    assert!(
        Conv2d::new(
            &weight,
            None,
            Conv2dConfig {
                stride: 0,
                ..Conv2dConfig::default()
            }
        )
        .is_err()
    );
    assert!(TemporalConv::new(&random(1, (4, 3, 1, 3, 1), DType::F32), None).is_err());
}
