//! The losses' kernels against the losses on the processor (which are held against the reference implementation and against
//! finite differences elsewhere), and against finite differences of their own.

use candle_core::{DType, Device, Tensor};
use spectral_motion::nn::plan::{self, ClipSize, CosineAlong, LocalPlanSize, Plan};
use spectral_motion::spectral::loss::{CosineAxis, MotionLossConfig, Residual, SpectralLoss};

use super::emulator::{assert_close, random, reference, run};

/// Clips `[b, c, f, h, w]` with odd and even sides, two frames and more, and levels beyond what the frames can use.
const CLIPS: [([usize; 5], usize); 4] = [
    ([1, 2, 4, 4, 6], 2),
    ([2, 3, 8, 5, 7], 3),
    ([1, 1, 2, 9, 4], 2),
    ([1, 4, 16, 12, 20], 4),
];
const RESIDUALS: [Residual; 2] = [Residual::Abs, Residual::Signed];

/// f64 sums in another order; in f32 the clips themselves are rounded, but so are those the processor is given.
fn limit(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-10 } else { 1e-6 }
}

fn size([b, c, frames, h, w]: [usize; 5], residual: Residual) -> ClipSize {
    ClipSize {
        planes: b * c,
        frames,
        size: (h, w),
        absolute: residual == Residual::Abs,
    }
}

fn clips(shape: [usize; 5], dtype: DType) -> [Tensor; 2] {
    [1, 2].map(|seed| random(seed, &shape, dtype))
}

fn loss(config: &MotionLossConfig, [_, _, f, h, w]: [usize; 5]) -> SpectralLoss {
    SpectralLoss::new(config, f, h, w, DType::F64, &Device::Cpu).unwrap()
}

#[test]
fn wavelet_bands_and_their_gradient() {
    for (shape, levels) in CLIPS {
        for residual in RESIDUALS {
            for dtype in [DType::F64, DType::F32] {
                let [v0, v0hat] = clips(shape, dtype);
                let config = MotionLossConfig {
                    levels,
                    residual,
                    ..MotionLossConfig::default()
                };
                let host = loss(&config, shape);
                let by_means = random(3, &[levels + 1], dtype);
                let clip = v0.to_dtype(DType::F64).unwrap();
                let (means, gradients) = reference(
                    &[&v0hat],
                    |_| by_means.clone(),
                    |x| {
                        let terms = host
                            .global(&clip, &x[0])
                            .map_err(candle_core::Error::from)?;
                        Tensor::stack(&terms.bands, 0)
                    },
                );
                let what = format!("{shape:?} {levels} levels {residual:?} {dtype:?}");
                let size = size(shape, residual);
                let plan = plan::global_forward(dtype, &size, levels).unwrap();
                assert_close(&what, &run(&plan, &[&v0hat, &v0])[0], &means, limit(dtype));
                let plan = plan::global_backward(dtype, &size, levels).unwrap();
                let slope = run(&plan, &[&v0hat, &v0, &by_means]);
                assert_close(&what, &slope[0], &gradients[0], limit(dtype));
            }
        }
    }
}

/// The tables of a plan, made here from the published formulas: `cos, sin`, and the weight folded onto half a spectrum.
fn tables(config: &MotionLossConfig, (h, w): (usize, usize)) -> [Tensor; 4] {
    use spectral_motion::spectral::plain::{frequency_weight, ifftshift, is_self_conjugate};
    let weight = frequency_weight(
        h,
        w,
        config.delta,
        config.base,
        config.cutoff,
        config.zero_border,
    );
    let native = ifftshift(&weight, h, w);
    let turns = |n: usize| -> Tensor {
        let angles = (0..n).map(|i| std::f64::consts::TAU * i as f64 / n as f64);
        let table: Vec<f64> = angles.flat_map(|a| [a.cos(), a.sin()]).collect();
        Tensor::new(table, &Device::Cpu).unwrap()
    };
    let (mut folded, mut mask) = (Vec::new(), Vec::new());
    for l in 0..=w / 2 {
        for k in 0..h {
            let (own, mirror) = (native[k * w + l], native[(h - k) % h * w + (w - l) % w]);
            folded.push(if (w - l) % w == l { own } else { own + mirror });
            mask.push(if is_self_conjugate(k, l, h, w) {
                0.0
            } else {
                1.0f64
            });
        }
    }
    let tensor = |x: Vec<f64>| Tensor::new(x, &Device::Cpu).unwrap();
    [turns(w), turns(h), tensor(folded), tensor(mask)]
}

#[test]
fn fourier_terms_and_their_gradient() {
    for (shape, _) in CLIPS {
        for (residual, phase_wrap) in [(Residual::Abs, false), (Residual::Signed, true)] {
            for dtype in [DType::F64, DType::F32] {
                let [v0, v0hat] = clips(shape, dtype);
                let config = MotionLossConfig {
                    residual,
                    phase_wrap,
                    ..MotionLossConfig::default()
                };
                let host = loss(&config, shape);
                let by_terms = random(3, &[2], dtype);
                let clip = v0.to_dtype(DType::F64).unwrap();
                let (terms, gradients) = reference(
                    &[&v0hat],
                    |_| by_terms.clone(),
                    |x| {
                        let terms = host.local(&clip, &x[0]).map_err(candle_core::Error::from)?;
                        Tensor::stack(&[terms.amplitude, terms.phase], 0)
                    },
                );
                let what = format!("{shape:?} {residual:?} {dtype:?}");
                let local = LocalPlanSize {
                    clip: size(shape, residual),
                    amplitude_scale: 1.0,
                    wrap: phase_wrap,
                };
                let [rows, columns, weight, mask] = tables(&config, (shape[3], shape[4]));
                let plan = plan::local_forward(dtype, &local).unwrap();
                let forward = run(&plan, &[&v0hat, &v0, &rows, &columns, &weight, &mask]);
                assert_close(&what, &forward[0], &terms, limit(dtype));
                let plan = plan::local_backward(dtype, &local).unwrap();
                let slope = run(&plan, &[&v0hat, &forward[1], &by_terms, &rows, &columns]);
                assert_close(&what, &slope[0], &gradients[0], limit(dtype));
            }
        }
    }
}

#[test]
fn cosines_and_their_gradient() {
    for (shape, _) in CLIPS {
        for (residual, axis) in [
            (Residual::Abs, CosineAxis::Frame),
            (Residual::Signed, CosineAxis::Pixel),
            (Residual::Signed, CosineAxis::Frame),
            (Residual::Abs, CosineAxis::Pixel),
        ] {
            let dtype = if axis == CosineAxis::Frame {
                DType::F32
            } else {
                DType::F64
            };
            let [target, estimate] = clips(shape, dtype);
            let by_value = random(3, &[1], dtype);
            let wide = target.to_dtype(DType::F64).unwrap();
            let (value, gradients) = reference(
                &[&estimate],
                |_| by_value.reshape(()).unwrap(),
                |x| {
                    SpectralLoss::cosine_alignment(&x[0], &wide, residual, axis)
                        .map_err(candle_core::Error::from)
                },
            );
            let cosine = cosine_size(shape, residual, axis);
            let what = format!("{cosine:?} {dtype:?}");
            let forward = run(
                &plan::cosine_forward(dtype, &cosine).unwrap(),
                &[&estimate, &target],
            );
            assert_close(&what, &forward[0], &value, limit(dtype));
            let plan = plan::cosine_backward(dtype, &cosine).unwrap();
            let slope = run(&plan, &[&estimate, &target, &forward[1], &by_value]);
            assert_close(&what, &slope[0], &gradients[0], limit(dtype));
        }
    }
}

fn cosine_size(
    [clips, channels, frames, h, w]: [usize; 5],
    residual: Residual,
    axis: CosineAxis,
) -> CosineAlong {
    CosineAlong {
        clips,
        channels,
        frames,
        positions: h * w,
        absolute: residual == Residual::Abs,
        pixels: axis == CosineAxis::Pixel,
    }
}

/// Central differences of a forward plan at some places, against the gradient of the backward plan.
#[track_caller]
fn check_differences(x: &Tensor, value: impl Fn(&Tensor) -> f64, gradient: &Tensor) {
    const STEP: f64 = 1e-6;
    let flat: Vec<f64> = x.flatten_all().unwrap().to_vec1().unwrap();
    let gradient: Vec<f64> = gradient.to_vec1().unwrap();
    let largest = gradient.iter().fold(0.0f64, |a, g| a.max(g.abs()));
    for place in (0..flat.len()).step_by(flat.len() / 5 + 1) {
        let at = |step: f64| {
            let mut moved = flat.clone();
            moved[place] += step;
            value(&Tensor::from_vec(moved, x.dims(), &Device::Cpu).unwrap())
        };
        let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        // Third derivatives times the step squared, and rounding over the step: 1e-8 of the largest; the rest is room.
        let off = (difference - gradient[place]).abs();
        assert!(
            off <= 1e-6 * largest,
            "place {place}: {difference} and {}",
            gradient[place]
        );
    }
}

#[test]
fn gradients_are_those_of_the_kernels_own_values() {
    let shape = [1, 2, 5, 5, 6];
    let [v0, v0hat] = clips(shape, DType::F64);
    let one = Tensor::new(&[1f64], &Device::Cpu).unwrap();
    let clip = size(shape, Residual::Abs);
    let first = |plan: &Plan, inputs: &[&Tensor]| {
        run(plan, inputs)[0]
            .to_vec1::<f64>()
            .unwrap()
            .iter()
            .sum::<f64>()
    };

    let forward = plan::global_forward(DType::F64, &clip, 2).unwrap();
    let ones = Tensor::new(&[1f64; 3], &Device::Cpu).unwrap();
    let backward = plan::global_backward(DType::F64, &clip, 2).unwrap();
    let slope = run(&backward, &[&v0hat, &v0, &ones]);
    check_differences(&v0hat, |x| first(&forward, &[x, &v0]), &slope[0]);

    let local = LocalPlanSize {
        clip,
        amplitude_scale: 0.5,
        wrap: false,
    };
    let [rows, columns, weight, mask] = tables(&MotionLossConfig::default(), (5, 6));
    let forward = plan::local_forward(DType::F64, &local).unwrap();
    let given = |x: &Tensor| first(&forward, &[x, &v0, &rows, &columns, &weight, &mask]);
    let kept = run(&forward, &[&v0hat, &v0, &rows, &columns, &weight, &mask]);
    let ones = Tensor::new(&[1f64; 2], &Device::Cpu).unwrap();
    let backward = plan::local_backward(DType::F64, &local).unwrap();
    let slope = run(&backward, &[&v0hat, &kept[1], &ones, &rows, &columns]);
    check_differences(&v0hat, given, &slope[0]);

    let cosine = cosine_size(shape, Residual::Signed, CosineAxis::Frame);
    let forward = plan::cosine_forward(DType::F64, &cosine).unwrap();
    let kept = run(&forward, &[&v0hat, &v0]);
    let backward = plan::cosine_backward(DType::F64, &cosine).unwrap();
    let slope = run(&backward, &[&v0hat, &v0, &kept[1], &one]);
    check_differences(&v0hat, |x| first(&forward, &[x, &v0]), &slope[0]);
}
