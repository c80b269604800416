//! The spectral losses and their gradients.

use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::spectral::loss::{CosineAxis, MotionLossConfig, Residual, SpectralLoss};

use super::{Findings, Tensors};

/// Single precision in PyTorch, double in ours; sums of some ten thousand terms.
const LOSS_LIMIT: f64 = 1e-5;
/// Gradients of the phase are divided by the amplitude, which is small for some frequencies.
const GRADIENT_LIMIT: f64 = 1e-4;

/// Checks every case of a file of losses.
pub fn check(name: &str, golden: &Tensors, findings: &mut Findings) {
    let cases = (0..)
        .take_while(|i| golden.contains_key(&format!("{i}.v0")))
        .count();
    assert!(cases > 0, "{name} holds no case");
    for case in 0..cases {
        let get = |key: &str| &golden[&format!("{case}.{key}")];
        let levels = get("levels")
            .to_dtype(DType::U32)
            .unwrap()
            .to_scalar::<u32>()
            .unwrap() as usize;
        for (mode, residual) in [("abs", Residual::Abs), ("signed", Residual::Signed)] {
            let config = MotionLossConfig {
                levels,
                residual,
                ..MotionLossConfig::default()
            };
            for term in ["global", "amp", "phase", "cosine"] {
                let key = format!("{mode}.{term}");
                let (loss, gradient) = evaluate(&config, term, get("v0"), get("v0hat"));
                findings.compare(format!("{name} {case}.{key}"), &loss, get(&key), LOSS_LIMIT);
                let expected = get(&format!("{key}.grad"));
                findings.compare(
                    format!("{name} {case}.{key} gradient"),
                    &gradient,
                    expected,
                    GRADIENT_LIMIT,
                );
            }
        }
    }
}

/// One term and its gradient with respect to `v0hat`.
fn evaluate(
    config: &MotionLossConfig,
    term: &str,
    v0: &Tensor,
    v0hat: &Tensor,
) -> (Tensor, Tensor) {
    let (_, _, frames, h, w) = v0.dims5().unwrap();
    let losses = SpectralLoss::new(config, frames, h, w, DType::F32, &Device::Cpu).unwrap();
    let v0hat = Var::from_tensor(v0hat).unwrap();
    let loss = match term {
        "global" => losses.global(v0, &v0hat).unwrap().total,
        "amp" => losses.local(v0, &v0hat).unwrap().amplitude,
        "phase" => losses.local(v0, &v0hat).unwrap().phase,
        "cosine" => {
            SpectralLoss::cosine_alignment(&v0hat, v0, config.residual, CosineAxis::Frame).unwrap()
        }
        other => panic!("no term {other}"),
    };
    let gradients = loss.backward().unwrap();
    (loss, gradients.get(&v0hat).unwrap().clone())
}
