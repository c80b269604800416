//! Plain spectra: closed forms, reconstruction, and agreement with the losses.

use std::f64::consts::FRAC_1_SQRT_2;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use rustfft::num_complex::Complex;
use spectral_motion::spectral::loss::{MotionLossConfig, SpectralLoss};
use spectral_motion::spectral::plain::{
    Fft2, Residual, amplitude, fftshift, frequency_radius, frequency_weight, haar_forward,
    haar_inverse, ifftshift, log_amplitude, phase, radial_profile, synthesize, weight_at_radius,
    wrap_phase,
};

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: got {got}, want {want}"
    );
}

#[test]
fn haar_matches_the_worked_example() {
    // Spec sma.md 2.3, printed with 8 decimals.
    let bands = haar_forward(&[1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 1, 3);
    let want: [&[f64]; 3] = [
        &[-FRAC_1_SQRT_2, -FRAC_1_SQRT_2, -FRAC_1_SQRT_2, 4.94974747],
        &[-2.0, 2.0],
        &[-2.82842712],
    ];
    for (got, want) in bands.highs.iter().zip(want) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            close(*got, *want, 6e-9, "high");
        }
    }
    close(bands.low[0], 9.89949494, 6e-9, "low");
    assert_eq!(bands.lengths, [7, 4, 2]);
}

proptest! {
    #[test]
    fn haar_reconstructs_and_keeps_energy(
        values in prop::collection::vec(-10.0f64..10.0, 1..60), positions in 1usize..4, levels in 0usize..6,
    ) {
        let n = values.len() / positions;
        prop_assume!(n > 0);
        let values = &values[..n * positions];
        let bands = haar_forward(values, positions, levels);
        // Six orthonormal butterflies in f64.
        for (got, want) in haar_inverse(&bands).iter().zip(values) {
            prop_assert!((got - want).abs() < 1e-13);
        }
        prop_assert_eq!(haar_inverse(&bands).len(), values.len());
        let energy = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>();
        let total = energy(&bands.low) + bands.highs.iter().map(|h| energy(h)).sum::<f64>();
        // Orthonormal, and padding zeros adds nothing.
        prop_assert!((total - energy(values)).abs() <= 1e-12 * total.max(1.0));
        // Bands are a partition: the signal is the sum of its parts.
        let mut sum = vec![0.0; values.len()];
        for band in 0..=levels {
            let keep: Vec<bool> = (0..=levels).map(|i| i == band).collect();
            for (sum, part) in sum.iter_mut().zip(synthesize(&bands, &keep)) {
                *sum += part;
            }
        }
        for (got, want) in sum.iter().zip(values) {
            prop_assert!((got - want).abs() < 1e-12);
        }
    }

    #[test]
    fn fft_is_the_defining_sum_and_parseval_holds(
        (h, w, values) in (1usize..8, 1usize..8).prop_flat_map(|(h, w)| {
            (Just(h), Just(w), prop::collection::vec(-1.0f64..1.0, h * w))
        }),
    ) {
        let fft = Fft2::new(h, w);
        let spectrum = fft.forward(&values);
        for k in 0..h {
            for l in 0..w {
                let (mut re, mut im) = (0.0, 0.0);
                for y in 0..h {
                    for x in 0..w {
                        let turn = -std::f64::consts::TAU * ((k * y) as f64 / h as f64 + (l * x) as f64 / w as f64);
                        re += values[y * w + x] * turn.cos();
                        im += values[y * w + x] * turn.sin();
                    }
                }
                // At most 49 f64 terms of order 1.
                prop_assert!((spectrum[k * w + l].re - re).abs() < 1e-12);
                prop_assert!((spectrum[k * w + l].im - im).abs() < 1e-12);
            }
        }
        let energy: f64 = values.iter().map(|v| v * v).sum();
        let spectral: f64 = spectrum.iter().map(Complex::norm_sqr).sum::<f64>() / (h * w) as f64;
        prop_assert!((energy - spectral).abs() <= 1e-12 * energy.max(1.0));
        for (got, want) in fft.inverse(&spectrum).iter().zip(&values) {
            prop_assert!((got - want).abs() < 1e-13);
        }
        prop_assert_eq!(ifftshift(&fftshift(&values, h, w), h, w), values);
    }

    #[test]
    fn wrapped_angles_keep_their_direction(difference in -7.0f64..7.0) {
        let wrapped = wrap_phase(difference);
        prop_assert!(wrapped > -std::f64::consts::PI - 1e-15 && wrapped <= std::f64::consts::PI + 1e-15);
        prop_assert!((wrapped.sin() - difference.sin()).abs() < 1e-14);
        prop_assert!((wrapped.cos() - difference.cos()).abs() < 1e-14);
    }
}

#[test]
fn a_transform_of_prime_size_in_single_precision_is_close_to_double() {
    let (h, w) = (13, 17);
    let values: Vec<f64> = (0..h * w).map(|i| (i as f64 * 0.37).sin()).collect();
    let single: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let (wide, narrow) = (
        Fft2::new(h, w).forward(&values),
        Fft2::new(h, w).forward(&single),
    );
    for (wide, narrow) in wide.iter().zip(&narrow) {
        // 221 terms of order 1 rounded to 6e-8.
        close(f64::from(narrow.re), wide.re, 1e-4, "re");
        close(f64::from(narrow.im), wide.im, 1e-4, "im");
    }
}

#[test]
fn the_zero_frequency_moves_to_the_centre() {
    for (h, w) in [(4, 6), (5, 7), (1, 3)] {
        let mut corner = vec![0; h * w];
        corner[0] = 1;
        let shifted = fftshift(&corner, h, w);
        assert_eq!(shifted[h / 2 * w + w / 2], 1, "{h}x{w}");
    }
}

#[test]
fn a_shift_of_the_plane_turns_the_phase() {
    // Shift theorem: moving by one pixel right multiplies F[k, l] by exp(-2 pi i l / w).
    let (h, w) = (6, 8);
    let plane = |dx: usize| -> Vec<f64> {
        (0..h * w)
            .map(|i| ((i / w * w + (i % w + w - dx) % w) as f64 * 0.7).sin())
            .collect()
    };
    let fft = Fft2::new(h, w);
    let (before, after) = (fft.forward(&plane(0)), fft.forward(&plane(1)));
    let (a, b) = (phase(&before, h, w), phase(&after, h, w));
    for i in 0..h * w {
        close(
            amplitude(&before)[i],
            amplitude(&after)[i],
            1e-12,
            "amplitude",
        );
        close(
            log_amplitude(&before)[i],
            before[i].norm().ln_1p(),
            1e-15,
            "log amplitude",
        );
        if before[i].norm() > 1e-6 {
            let turn = wrap_phase(b[i] - a[i] + std::f64::consts::TAU * (i % w) as f64 / w as f64);
            close(turn.sin(), 0.0, 1e-9, "phase");
            close(turn.cos(), 1.0, 1e-9, "phase");
        }
    }
}

#[test]
fn a_negative_real_bin_is_always_at_plus_pi() {
    let fft = Fft2::new(4, 4);
    let dark = vec![-1.0f64; 16];
    assert_eq!(phase(&fft.forward(&dark), 4, 4)[0], std::f64::consts::PI);
    assert_eq!(phase(&fft.forward(&[0.0f64; 16]), 4, 4), [0.0; 16]);
}

#[test]
fn weights_match_the_published_table() {
    // Spec sma.md 3.2: h, w, DC, 1 px off DC, (0, 0), mean; printed with 8 decimals. The last row there was taken in f32
    // (2.45034487); this is 1 + 1696^0.05 in f64.
    #[rustfmt::skip]
    let rows = [
        (40, 64, 2.43772392, 1.43772392, 1.0, 1.10056513),
        (64, 64, 2.46408570, 1.46408570, 1.0, 1.09943954),
        (48, 48, 2.42256665, 1.42256665, 1.0, 1.09677831),
        (40, 72, 2.45034490, 1.45034490, 1.0, 1.10284100),
    ];
    for (h, w, dc, beside, corner, mean) in rows {
        let weight = frequency_weight(h, w, 0.05, 1.0, None, false);
        let centre = h / 2 * w + w / 2;
        close(weight[centre], dc, 6e-9, "dc");
        close(weight[centre + 1], beside, 6e-9, "1 px off");
        close(weight[centre - w], beside, 6e-9, "1 px off");
        close(weight[0], corner, 6e-9, "corner");
        close(
            weight.iter().sum::<f64>() / weight.len() as f64,
            mean,
            6e-9,
            "mean",
        );
    }
    let weight = frequency_weight(40, 64, 0.05, 1.0, None, false);
    close(weight[20 * 64 + 36], 1.28902557, 6e-9, "4 px off");
    close(weight[39 * 64 + 63], 1.00533296, 6e-9, "far corner");
}

#[test]
fn weights_stop_at_the_cutoff_and_at_the_border() {
    let (h, w) = (10, 7);
    let free = frequency_weight(h, w, 0.05, 1.0, None, false);
    let cut = frequency_weight(h, w, 0.05, 1.0, Some(0.25), false);
    let bordered = frequency_weight(h, w, 0.05, 1.0, None, true);
    for r in 0..h {
        for c in 0..w {
            let i = r * w + c;
            let radius =
                (((r as f64 - 5.0) / 10.0).powi(2) + ((c as f64 - 3.0) / 7.0).powi(2)).sqrt();
            close(frequency_radius(r, c, h, w), radius, 1e-15, "radius");
            assert_eq!(cut[i], if radius > 0.25 { 0.0 } else { free[i] });
            assert_eq!(bordered[i], if r == 0 || c == 0 { 0.0 } else { free[i] });
        }
    }
    // The drawn curve passes through the bins of the centre column.
    let free = frequency_weight(10, 8, 0.05, 1.0, None, false);
    for r in 0..10 {
        let radius = frequency_radius(r, 4, 10, 8);
        close(
            weight_at_radius(radius, (10, 8), 0.05, 1.0, None),
            free[r * 8 + 4],
            1e-14,
            "curve",
        );
    }
    assert_eq!(weight_at_radius(0.3, (10, 8), 0.05, 1.0, Some(0.25)), 0.0);
}

#[test]
fn stripes_show_up_at_their_frequency() {
    // A cosine of 4 cycles over 32 pixels: 0.125 cycles per pixel, |F| = 32 * 32 / 2 in two bins.
    let plane: Vec<f64> = (0..1024)
        .map(|i| (std::f64::consts::TAU * 4.0 * f64::from(i % 32) / 32.0).cos())
        .collect();
    let shifted = fftshift(&amplitude(&Fft2::new(32, 32).forward(&plane)), 32, 32);
    let profile = radial_profile(&shifted, 32, 32);
    let peak = (0..profile.mean.len()).max_by(|&a, &b| profile.mean[a].total_cmp(&profile.mean[b]));
    let peak = peak.unwrap();
    assert_eq!(profile.cycles_per_pixel[peak], 0.125);
    close(
        profile.mean[peak] * profile.bins[peak] as f64,
        1024.0,
        1e-9,
        "amplitude in the ring",
    );
    assert_eq!(profile.bins.iter().sum::<usize>(), 1024);
}

#[test]
fn plain_spectra_and_losses_agree() {
    for (c, f, h, w) in [(2usize, 6usize, 5usize, 6usize), (1, 8, 8, 7), (2, 5, 4, 4)] {
        let clip = |a: f64| -> Vec<f64> {
            (0..c * f * h * w)
                .map(|i| (i as f64 * a + 0.3 * (i % 7) as f64).sin())
                .collect()
        };
        let (x, v) = (clip(0.37), clip(0.91));
        let tensor =
            |x: &[f64]| Tensor::from_vec(x.to_vec(), (1, c, f, h, w), &Device::Cpu).unwrap();
        for residual in [Residual::Abs, Residual::Signed] {
            let config = MotionLossConfig {
                levels: 2,
                residual,
                ..MotionLossConfig::default()
            };
            let loss = SpectralLoss::new(&config, f, h, w, DType::F64, &Device::Cpu).unwrap();
            let scalar = |t: &Tensor| t.to_scalar::<f64>().unwrap();
            let motion = |x: &[f64], channel: usize| -> Vec<f64> {
                let x = &x[channel * f * h * w..(channel + 1) * f * h * w];
                let step = |(a, b): (&f64, &f64)| match residual {
                    Residual::Abs => (b - a).abs(),
                    Residual::Signed => b - a,
                };
                x.iter().zip(&x[h * w..]).map(step).collect()
            };
            let weight = ifftshift(&frequency_weight(h, w, 0.05, 1.0, None, false), h, w);
            let fft = Fft2::new(h, w);
            let (mut bands, mut terms) = ([(0.0, 0); 3], [0.0; 2]);
            for channel in 0..c {
                let (p, q) = (motion(&x, channel), motion(&v, channel));
                let (wp, wq) = (haar_forward(&p, h * w, 2), haar_forward(&q, h * w, 2));
                let pairs =
                    std::iter::once((&wp.low, &wq.low)).chain(wp.highs.iter().zip(&wq.highs));
                for (band, (a, b)) in bands.iter_mut().zip(pairs) {
                    band.0 += a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>();
                    band.1 += a.len();
                }
                for (p, q) in p.chunks_exact(h * w).zip(q.chunks_exact(h * w)) {
                    let (p, q) = (fft.forward(p), fft.forward(q));
                    let (pa, qa) = (amplitude(&p), amplitude(&q));
                    let (pp, qp) = (phase(&p, h, w), phase(&q, h, w));
                    for i in 0..h * w {
                        terms[0] += weight[i] * (pa[i] - qa[i]).abs();
                        terms[1] += weight[i] * (pp[i] - qp[i]).abs();
                    }
                }
            }
            let global = loss.global(&tensor(&x), &tensor(&v)).unwrap();
            for (got, (sum, count)) in global.bands.iter().zip(bands) {
                close(scalar(got), sum / count as f64, 1e-13, "band");
            }
            let local = loss.local(&tensor(&x), &tensor(&v)).unwrap();
            let count = (c * (f - 1) * h * w) as f64;
            close(
                scalar(&local.amplitude),
                terms[0] / count,
                1e-12,
                "amplitude",
            );
            close(scalar(&local.phase), terms[1] / count, 1e-12, "phase");
        }
    }
}
