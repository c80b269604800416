//! The losses: spec vectors, finite differences, properties, errors.

use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::spectral::loss::{
    CosineAxis, FftNorm, MotionLossConfig, Residual, SpectralError, SpectralLoss, max_levels,
};

/// Printed with 8 decimals in spec sma.md 9.
const SPEC_VALUE: f64 = 6e-9;
/// Gradients there are printed with 6 decimals and come from central differences of step 1e-6, good to about 1e-6.
const SPEC_GRADIENT: f64 = 2e-6;

type Dims = (usize, usize, usize, usize);

/// Size, levels, residual, bands `A, D1, ..`, then total, amplitude, phase and wrapped phase.
type SpecRow = (Dims, usize, Residual, &'static [f64], [f64; 4]);

/// The two test clips of spec sma.md 9, f64.
fn spec_clips((c, f, h, w): Dims) -> (Tensor, Tensor) {
    let make = |value: &dyn Fn(f64, f64, f64, f64) -> f64| {
        let mut values = Vec::new();
        for ci in 0..c {
            for fi in 0..f {
                for hi in 0..h {
                    for wi in 0..w {
                        values.push(value(ci as f64, fi as f64, hi as f64, wi as f64));
                    }
                }
            }
        }
        Tensor::from_vec(values, (1, c, f, h, w), &Device::Cpu).unwrap()
    };
    (
        make(&|c, f, h, w| (0.7 * c + 1.3 * f + 0.5 * h + 0.9 * w).sin()),
        make(&|c, f, h, w| (0.4 * c + 0.8 * f + 0.3 * h + 1.1 * w).cos()),
    )
}

fn config(levels: usize, residual: Residual) -> MotionLossConfig {
    MotionLossConfig {
        levels,
        residual,
        ..MotionLossConfig::default()
    }
}

fn plan(config: &MotionLossConfig, x: &Tensor) -> SpectralLoss {
    let (_, _, f, h, w) = x.dims5().unwrap();
    SpectralLoss::new(config, f, h, w, x.dtype(), &Device::Cpu).unwrap()
}

fn scalar(x: &Tensor) -> f64 {
    x.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap()
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f64>()
        .unwrap()
}

/// Value and gradient of a scalar function at `x`.
fn value_and_gradient(x: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> (f64, Vec<f64>) {
    let var = Var::from_tensor(x).unwrap();
    let y = f(var.as_tensor());
    let grads = y.backward().unwrap();
    (
        scalar(&y),
        flat(
            grads
                .get(var.as_tensor())
                .expect("a gradient reaches the estimate"),
        ),
    )
}

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: got {got}, want {want}"
    );
}

/// Every scalar the losses give, by name.
fn term<'a>(
    name: &'a str,
    config: &'a MotionLossConfig,
    v0: &'a Tensor,
) -> impl Fn(&Tensor) -> Tensor + 'a {
    move |x| match name {
        "global" => plan(config, v0).global(v0, x).unwrap().total,
        "amp" => plan(config, v0).local(v0, x).unwrap().amplitude,
        "phase" => plan(config, v0).local(v0, x).unwrap().phase,
        "cosine" => {
            SpectralLoss::cosine_alignment(x, v0, config.residual, CosineAxis::Frame).unwrap()
        }
        "cosine over pixels" => {
            SpectralLoss::cosine_alignment(x, v0, config.residual, CosineAxis::Pixel).unwrap()
        }
        other => panic!("no term {other}"),
    }
}

#[test]
fn values_match_the_spec_vectors() {
    use Residual::{Abs, Signed};
    #[rustfmt::skip]
    let rows: [SpecRow; 6] = [
        ((2, 4, 4, 6), 2, Abs, &[0.40024879, 0.40439621, 0.31643963], [1.12108464, 1.42063766, 1.71657079, 1.52541635]),
        ((2, 4, 4, 6), 2, Signed, &[0.50983826, 0.43267343, 0.70856035], [1.65107204, 1.56947588, 2.27430782, 1.95768037]),
        ((3, 8, 5, 7), 3, Abs, &[0.67947195, 0.43912962, 0.35487319, 0.17405813], [1.64753289, 1.32969818, 2.19344192, 1.68459092]),
        ((3, 8, 5, 7), 3, Signed, &[0.57750646, 0.56456025, 0.76632482, 0.58239601], [2.49078754, 2.03210788, 1.49860692, 0.96703361]),
        ((1, 8, 4, 4), 2, Abs, &[0.46316231, 0.44426155, 0.37065276], [1.27807662, 1.20996347, 1.87124658, 1.65922084]),
        ((1, 8, 4, 4), 2, Signed, &[0.54052397, 0.57361472, 0.73590168], [1.85004036, 1.75974769, 1.19502394, 0.97873432]),
    ];
    for (dims, levels, residual, bands, [total, amplitude, phase, wrapped]) in rows {
        let what = format!("{dims:?} {residual:?}");
        let (x, v) = spec_clips(dims);
        let config = config(levels, residual);
        let global = plan(&config, &x).global(&x, &v).unwrap();
        for (i, (got, want)) in global.bands.iter().zip(bands).enumerate() {
            close(scalar(got), *want, SPEC_VALUE, &format!("{what} band {i}"));
        }
        close(scalar(&global.total), total, SPEC_VALUE, &what);
        let local = plan(&config, &x).local(&x, &v).unwrap();
        close(scalar(&local.amplitude), amplitude, SPEC_VALUE, &what);
        close(scalar(&local.phase), phase, SPEC_VALUE, &what);
        let config = MotionLossConfig {
            phase_wrap: true,
            ..config
        };
        close(
            scalar(&plan(&config, &x).local(&x, &v).unwrap().phase),
            wrapped,
            SPEC_VALUE,
            &what,
        );
    }
    let (x, v) = spec_clips((2, 4, 4, 6));
    for (residual, want) in [(Abs, 0.20171193), (Signed, 0.45099651)] {
        let got = SpectralLoss::cosine_alignment(&v, &x, residual, CosineAxis::Frame).unwrap();
        close(scalar(&got), want, SPEC_VALUE, "cosine");
    }
}

#[test]
fn gradients_match_the_spec_vectors() {
    use Residual::{Abs, Signed};
    let (x, v) = spec_clips((2, 4, 4, 6));
    // Rows of spec sma.md 9: term, wrap, residual, L2 norm, entries [0,0,0,0,0], [0,0,1,2,3], [0,1,3,3,5].
    #[rustfmt::skip]
    let rows = [
        ("global", false, Abs, 0.303429, [-0.007366, 0.014731, 0.028199]),
        ("amp", false, Abs, 0.585463, [0.070580, -0.062573, -0.025181]),
        ("phase", false, Abs, 3.193624, [-0.029250, -0.207990, 0.233308]),
        ("phase", true, Abs, 3.355442, [0.040600, -0.247148, -0.103620]),
        ("cosine", false, Abs, 0.146876, [-0.006936, 0.007434, 0.006061]),
        ("global", false, Signed, 0.259623, [0.028199, 0.014731, 0.007366]),
        ("amp", false, Signed, 0.470434, [0.059881, -0.006276, -0.059655]),
        ("phase", false, Signed, 4.012574, [0.687302, -0.272465, 0.373921]),
        ("phase", true, Signed, 3.950741, [0.687302, -0.232210, 0.209060]),
        ("cosine", false, Signed, 0.152208, [0.014751, 0.019349, 0.009663]),
    ];
    for (name, phase_wrap, residual, norm, entries) in rows {
        let what = format!("{name} {residual:?} wrap {phase_wrap}");
        let config = MotionLossConfig {
            phase_wrap,
            ..config(2, residual)
        };
        let (_, gradient) = value_and_gradient(&v, term(name, &config, &x));
        close(
            gradient.iter().map(|g| g * g).sum::<f64>().sqrt(),
            norm,
            SPEC_GRADIENT,
            &what,
        );
        let at = |c: usize, f: usize, h: usize, w: usize| gradient[((c * 4 + f) * 4 + h) * 6 + w];
        for (got, want) in [at(0, 0, 0, 0), at(0, 1, 2, 3), at(1, 3, 3, 5)]
            .into_iter()
            .zip(entries)
        {
            close(got, want, SPEC_GRADIENT, &what);
        }
    }
}

#[test]
fn gradients_match_finite_differences_with_every_switch() {
    let base = config(2, Residual::Signed);
    let configs = [
        base.clone(),
        MotionLossConfig {
            residual: Residual::Abs,
            ..base.clone()
        },
        MotionLossConfig {
            phase_wrap: true,
            ..base.clone()
        },
        MotionLossConfig {
            zero_border: true,
            ..base.clone()
        },
        MotionLossConfig {
            cutoff: Some(0.3),
            ..base.clone()
        },
        MotionLossConfig {
            fft_norm: FftNorm::Ortho,
            delta: 0.4,
            base: 0.5,
            ..base.clone()
        },
        MotionLossConfig {
            levels: 0,
            ..base.clone()
        },
        MotionLossConfig {
            levels: 3,
            level_weights: vec![0.5, 2.0, 0.0, 1.5],
            ..base
        },
    ];
    for (dims, config) in [(2, 5, 4, 6), (1, 4, 5, 7), (1, 3, 3, 4), (2, 2, 6, 3)]
        .into_iter()
        .flat_map(|dims| configs.iter().map(move |config| (dims, config)))
    {
        let (x, v) = spec_clips(dims);
        for name in ["global", "amp", "phase", "cosine", "cosine over pixels"] {
            let f = term(name, config, &x);
            let (_, gradient) = value_and_gradient(&v, &f);
            let values = flat(&v);
            for i in (0..values.len()).step_by(7) {
                let moved = |step: f64| {
                    let mut values = values.clone();
                    values[i] += step;
                    scalar(&f(
                        &Tensor::from_vec(values, v.dims(), &Device::Cpu).unwrap()
                    ))
                };
                // Central differences in f64: rounding 1e-16 / 1e-6 and curvature 1e-12, times values of order 1 to 100.
                let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                let what = format!("{name} {dims:?} {config:?} entry {i}");
                close(gradient[i], slope, 1e-6 * slope.abs().max(1.0), &what);
            }
        }
    }
}

#[test]
fn equal_clips_cost_nothing_and_pull_nowhere() {
    for residual in [Residual::Abs, Residual::Signed] {
        let (x, _) = spec_clips((2, 6, 5, 6));
        for name in ["global", "amp", "phase"] {
            let (value, gradient) = value_and_gradient(&x, term(name, &config(2, residual), &x));
            assert_eq!(value, 0.0, "{name}");
            assert!(gradient.iter().all(|&g| g == 0.0), "{name}");
        }
        let (value, gradient) = value_and_gradient(&x, term("cosine", &config(2, residual), &x));
        // A rounded square root: 1 - x.x / (|x| |x|) is a few units in the last place of 1.
        close(value, 0.0, 1e-14, "cosine");
        assert!(gradient.iter().all(|g| g.abs() < 1e-14));
    }
}

#[test]
fn losses_see_motion_only() {
    let (x, v) = spec_clips((2, 6, 5, 6));
    let image = (Tensor::arange(0.0, 60.0, &Device::Cpu).unwrap() * 0.01).unwrap();
    let image = image.reshape((1, 2, 1, 5, 6)).unwrap();
    for residual in [Residual::Abs, Residual::Signed] {
        let config = config(2, residual);
        for name in ["global", "amp", "phase", "cosine", "cosine over pixels"] {
            let (value, gradient) = value_and_gradient(&v, term(name, &config, &x));
            // Sums of up to 360 f64 terms of order 1.
            close(gradient.iter().sum::<f64>(), 0.0, 1e-12, name);
            let shifted = term(name, &config, &x)(&v.broadcast_add(&image).unwrap());
            close(scalar(&shifted), value, 1e-12, name);
        }
        let scale = |x: &Tensor| (x * 3.0).unwrap();
        for (name, factor) in [("global", 3.0), ("amp", 3.0), ("phase", 1.0)] {
            let value = scalar(&term(name, &config, &x)(&v));
            let scaled = scalar(&term(name, &config, &scale(&x))(&scale(&v)));
            close(scaled, factor * value, 1e-12, name);
        }
    }
    let backwards = |x: &Tensor| x.flip(&[2]).unwrap();
    for name in ["amp", "phase"] {
        let config = config(2, Residual::Abs);
        let value = scalar(&term(name, &config, &x)(&v));
        let reversed = scalar(&term(name, &config, &backwards(&x))(&backwards(&v)));
        close(reversed, value, 1e-12, name);
    }
}

#[test]
fn still_clips_give_finite_values_and_no_gradient() {
    let still = Tensor::ones((1, 2, 5, 6, 8), DType::F32, &Device::Cpu).unwrap();
    // Another still image: motion is zero everywhere, so every bin is silent in both.
    let other = (&still * 0.25).unwrap();
    for residual in [Residual::Abs, Residual::Signed] {
        for phase_wrap in [false, true] {
            let config = MotionLossConfig {
                phase_wrap,
                ..config(2, residual)
            };
            for name in ["global", "amp", "phase", "cosine", "cosine over pixels"] {
                let (value, gradient) = value_and_gradient(&other, term(name, &config, &still));
                // Two motionless clips: no distance; the cosine of two zero vectors counts as 0.
                assert_eq!(
                    value,
                    if name.starts_with("cosine") { 1.0 } else { 0.0 },
                    "{name}"
                );
                assert!(gradient.iter().all(|&g| g == 0.0), "{name}");
            }
        }
    }
}

#[test]
fn a_still_background_does_not_blow_up_the_gradient() {
    // One pixel of 64 flickers by 1e-9: every bin is almost silent. Unbounded derivatives would be near 1e9.
    let mut values = vec![0.0f64; 3 * 64];
    values[64 + 5] = 1e-9;
    let v = Tensor::from_vec(values, (1, 1, 3, 8, 8), &Device::Cpu).unwrap();
    let (x, _) = spec_clips((1, 3, 8, 8));
    let (value, gradient) = value_and_gradient(&v, term("phase", &config(1, Residual::Signed), &x));
    assert!(value.is_finite());
    // Each of 64 bins gives at most weight 2.5 / 1e-6 * |F| / 1e-6 / 128 = 2e1 at |F| = 1e-9.
    assert!(gradient.iter().all(|g| g.abs() < 2e3), "{gradient:?}");
}

#[test]
fn a_cutoff_ignores_what_lies_beyond_it() {
    // Motion of one stripe pattern at 3/12 = 0.25 cycles per pixel along x, on top of slow motion at 1/12.
    let clip = |fine: f64| {
        let mut values = Vec::new();
        for f in 0..4 {
            for _y in 0..10 {
                for x in 0..12 {
                    let turn = std::f64::consts::TAU * f64::from(x) / 12.0;
                    values.push(f64::from(f) * (turn.cos() + fine * (3.0 * turn).cos()));
                }
            }
        }
        Tensor::from_vec(values, (1, 1, 4, 10, 12), &Device::Cpu).unwrap()
    };
    let (plain, striped) = (clip(0.0), clip(0.7));
    let amplitude = |cutoff| {
        let config = MotionLossConfig {
            cutoff,
            ..config(1, Residual::Signed)
        };
        scalar(
            &plan(&config, &plain)
                .local(&plain, &striped)
                .unwrap()
                .amplitude,
        )
    };
    // A cosine of amplitude 0.7 over 120 pixels has |F| = 0.7 * 60 in two bins, at distance 3 from the weight's centre.
    let weight = (25.0f64 + 36.0).powf(0.05) - 9.0f64.powf(0.05) + 1.0;
    close(
        amplitude(None),
        2.0 * 42.0 * weight / 120.0,
        1e-9,
        "no cutoff",
    );
    close(
        amplitude(Some(0.26)),
        amplitude(None),
        1e-9,
        "cutoff above the stripes",
    );
    close(amplitude(Some(0.24)), 0.0, 1e-9, "cutoff below the stripes");
}

#[test]
fn level_weights_and_batches_combine_linearly() {
    let (x, v) = spec_clips((2, 8, 4, 6));
    let weights = vec![0.5, 2.0, 3.0];
    let weighted = MotionLossConfig {
        level_weights: weights.clone(),
        ..config(2, Residual::Abs)
    };
    let terms = plan(&weighted, &x).global(&x, &v).unwrap();
    let sum: f64 = terms
        .bands
        .iter()
        .zip(&weights)
        .map(|(band, w)| scalar(band) * w)
        .sum();
    close(scalar(&terms.total), sum, 1e-14, "weighted sum");
    let pair = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 0).unwrap();
    for name in ["global", "amp", "phase", "cosine", "cosine over pixels"] {
        let config = config(2, Residual::Abs);
        let one = scalar(&term(name, &config, &x)(&v));
        let other = scalar(&term(name, &config, &v)(&x));
        let both = scalar(&term(name, &config, &pair(&x, &v))(&pair(&v, &x)));
        close(both, (one + other) / 2.0, 1e-13, name);
    }
}

#[test]
fn single_precision_and_strided_inputs_agree_with_double() {
    let (x, v) = spec_clips((2, 8, 5, 6));
    let single = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
    // Channels-last memory seen as b c f h w.
    let strided = |x: &Tensor| {
        x.permute([0, 2, 3, 4, 1])
            .unwrap()
            .contiguous()
            .unwrap()
            .permute([0, 4, 1, 2, 3])
            .unwrap()
    };
    for name in ["global", "amp", "phase", "cosine", "cosine over pixels"] {
        let config = config(2, Residual::Abs);
        let (want, want_gradient) = value_and_gradient(&v, term(name, &config, &x));
        let (got, gradient) = value_and_gradient(&single(&v), term(name, &config, &single(&x)));
        // Inputs rounded to f32 (6e-8 relative), amplified by bins with |F| down to about 1e-2.
        close(got, want, 1e-5 * want, name);
        for (got, want) in gradient.iter().zip(&want_gradient) {
            close(*got, *want, 1e-4, name);
        }
        let value = scalar(&term(name, &config, &strided(&x))(&strided(&v)));
        close(value, want, 1e-14, name);
    }
}

#[test]
fn wrong_use_is_told_plainly() {
    let new = |config: &MotionLossConfig, frames| {
        SpectralLoss::new(config, frames, 4, 4, DType::F32, &Device::Cpu).map(|_| ())
    };
    let default = MotionLossConfig::default();
    let error = new(&default, 1).unwrap_err();
    assert!(
        matches!(error, SpectralError::NoMotion { frames: 1, .. }),
        "{error}"
    );
    let weights = MotionLossConfig {
        level_weights: vec![1.0, 1.0],
        ..default.clone()
    };
    let error = new(&weights, 8).unwrap_err().to_string();
    assert!(
        error.contains("need 3 level weights") && error.contains("2 are given"),
        "{error}"
    );
    for bad in [
        MotionLossConfig {
            delta: f64::NAN,
            ..default.clone()
        },
        MotionLossConfig {
            delta: -0.1,
            ..default.clone()
        },
        MotionLossConfig {
            base: f64::INFINITY,
            ..default.clone()
        },
        MotionLossConfig {
            cutoff: Some(0.0),
            ..default.clone()
        },
        MotionLossConfig {
            levels: 17,
            ..default.clone()
        },
    ] {
        assert!(
            matches!(new(&bad, 8), Err(SpectralError::Setting { .. })),
            "{bad:?}"
        );
    }
    let half = SpectralLoss::new(&default, 8, 4, 4, DType::F16, &Device::Cpu).map(|_| ());
    assert!(matches!(half, Err(SpectralError::DType(DType::F16))));
    let (x, _) = spec_clips((1, 8, 4, 4));
    let (other, _) = spec_clips((1, 7, 4, 4));
    let loss = plan(&default, &x);
    assert!(matches!(
        loss.global(&x, &other),
        Err(SpectralError::Shape { .. })
    ));
    assert!(matches!(
        loss.local(&other, &x),
        Err(SpectralError::Shape { .. })
    ));
    let inner: candle_core::Error = loss.local(&other, &x).unwrap_err().into();
    assert!(inner.to_string().contains("b c f h w"), "{inner}");
}

#[test]
fn useful_levels_follow_the_number_of_residuals() {
    // ceil(log2(frames - 1)), spec sma.md 2.3.
    for (frames, levels) in [
        (1, 0),
        (2, 0),
        (3, 1),
        (4, 2),
        (5, 2),
        (8, 3),
        (9, 3),
        (12, 4),
        (16, 4),
        (24, 5),
    ] {
        assert_eq!(max_levels(frames), levels, "{frames} frames");
    }
}

#[test]
fn settings_survive_a_file_and_unknown_ones_are_refused() {
    let config = MotionLossConfig {
        cutoff: Some(0.25),
        level_weights: vec![1.0, 0.5, 0.0],
        ..config(2, Residual::Signed)
    };
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<MotionLossConfig>(&text).unwrap(), config);
    assert_eq!(
        toml::from_str::<MotionLossConfig>("").unwrap(),
        MotionLossConfig::default()
    );
    assert!(toml::from_str::<MotionLossConfig>("loss_mode = 1").is_err());
}
