//! The losses against PyTorch: `tests/golden/losses.safetensors`, see tests/golden/README.md for how it is made.

use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::spectral::loss::{CosineAxis, MotionLossConfig, Residual, SpectralLoss};

#[test]
fn values_and_gradients_match_pytorch() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/losses.safetensors"
    );
    let golden = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let mut checked = 0;
    for case in (0..).take_while(|i| golden.contains_key(&format!("{i}.v0"))) {
        let levels = golden[&format!("{case}.levels")]
            .to_scalar::<i64>()
            .unwrap() as usize;
        let v0 = &golden[&format!("{case}.v0")];
        for (mode, residual) in [("abs", Residual::Abs), ("signed", Residual::Signed)] {
            let config = MotionLossConfig {
                levels,
                residual,
                ..MotionLossConfig::default()
            };
            let (_, _, f, h, w) = v0.dims5().unwrap();
            let loss = SpectralLoss::new(&config, f, h, w, DType::F32, &Device::Cpu).unwrap();
            for name in ["global", "amp", "phase", "cosine"] {
                let x = Var::from_tensor(&golden[&format!("{case}.v0hat")]).unwrap();
                let x = x.as_tensor();
                let value = match name {
                    "global" => loss.global(v0, x).unwrap().total,
                    "amp" => loss.local(v0, x).unwrap().amplitude,
                    "phase" => loss.local(v0, x).unwrap().phase,
                    _ => {
                        SpectralLoss::cosine_alignment(x, v0, residual, CosineAxis::Frame).unwrap()
                    }
                };
                let key = format!("{case}.{mode}.{name}");
                let want = golden[&key].to_scalar::<f32>().unwrap();
                let got = value.to_scalar::<f32>().unwrap();
                // f32 sums of a few thousand terms of like size, in another order: about 1e-6 relative.
                assert!(
                    (got - want).abs() <= 1e-5 * want.abs(),
                    "{key}: got {got}, want {want}"
                );
                let gradient = value.backward().unwrap().get(x).unwrap().clone();
                let off = distance(&gradient, &golden[&format!("{key}.grad")]);
                // The phase gradient goes with 1 / |F|: f32 rounding of the quietest bins is amplified by about 100.
                assert!(
                    off <= 1e-4,
                    "{key}: gradients differ by {off} of their norm"
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= 24, "only {checked} golden terms found in {file}");
}

/// `|a - b| / |b|`.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let norm = |x: &Tensor| {
        x.sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
            .sqrt()
    };
    norm(&(a - b).unwrap()) / norm(b)
}
