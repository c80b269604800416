//! Single operations, forward and backward to the input. Names and sizes are those of the peer.

use std::time::Instant;

use super::FRAMES;
use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use clap::Args;
use spectral_motion::nn::{
    self, Conv2d, Conv2dConfig, GroupNorm, LayerNorm, Linear, Mask, NoiseStream, Param, Purpose,
    TemporalConv,
};

/// What is measured.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Only operations whose name contains this
    #[arg(default_value = "")]
    pub filter: String,
    /// Runs whose median is taken
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
}

struct Bench<'a>(&'a Options);

impl Bench<'_> {
    fn line(&self, name: &str, mut f: impl FnMut() -> Result<()>) -> Result<()> {
        if !name.contains(&self.0.filter) {
            return Ok(());
        }
        for _ in 0..2 {
            f()?;
        }
        let mut times = Vec::new();
        for _ in 0..self.0.runs {
            let start = Instant::now();
            f()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let line =
            serde_json::json!({ "name": name, "ms": times[times.len() / 2], "best_ms": times[0] });
        println!("{line}");
        Ok(())
    }

    /// `f` without gradients, then with the gradient of every input.
    fn both(
        &self,
        name: &str,
        inputs: &[Tensor],
        f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
    ) -> Result<()> {
        self.line(&format!("{name} fwd"), || {
            Ok(nn::no_grad(|| f(inputs)).map(drop)?)
        })?;
        let vars = inputs
            .iter()
            .map(Var::from_tensor)
            .collect::<candle_core::Result<Vec<_>>>()?;
        let leaves: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        self.line(&format!("{name} fwd+bwd"), || {
            Ok(f(&leaves)?.backward().map(drop)?)
        })
    }
}

/// What a product of two matrices of 1024 by 1024 reaches, in 10^9 multiplications a second: the best of ten.
pub fn gemm_giga_per_s(device: &Device) -> Result<f64> {
    let mut stream = NoiseStream::new(0, Purpose::Noise);
    let mut random = || stream.normal(&[1024, 1024], DType::F32, device);
    let (matrix, x) = (Linear::new(Param::frozen(random()?), None)?, random()?);
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        device.synchronize()?;
        let start = Instant::now();
        matrix.forward(&x)?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(1.073_741_824 / best)
}

/// Prints a JSON object an operation: `ms` the median and `best_ms` the fastest of the runs.
pub fn measure(options: &Options) -> Result<()> {
    let bench = Bench(options);
    let mut stream = NoiseStream::new(0, Purpose::Noise);
    let mut random = |shape: &[usize]| stream.normal(shape, DType::F32, &Device::Cpu);
    let matrix = Linear::new(Param::frozen(random(&[1024, 1024])?), None)?;
    let m = random(&[1024, 1024])?;
    bench.line("matmul 1024^3", || Ok(matrix.forward(&m).map(drop)?))?;
    for (b, c, s) in [(16, 64, 32), (16, 128, 16), (16, 320, 32)] {
        let image = random(&[b, s, s, c])?;
        let conv = Conv2d::new(&random(&[c, c, 3, 3])?, None, Conv2dConfig::padded(1))?;
        bench.both(&format!("conv3x3 {b}x{c}x{s}x{s}"), &[image], |x| {
            conv.forward(&x[0])
        })?;
        let clip = random(&[1, b, s * s, c])?;
        let temporal = TemporalConv::new(&random(&[c, c, 3, 1, 1])?, None)?;
        bench.both(&format!("temporal conv3 {}x{c}x{b}", s * s), &[clip], |x| {
            temporal.forward(&x[0])
        })?;
        let norm = GroupNorm::new(&random(&[c])?, &random(&[c])?, 32, 1e-5)?;
        let rows = random(&[b, s * s, c])?;
        bench.both(
            &format!("group norm + silu {b}x{c}x{s}x{s}"),
            &[rows],
            |x| norm.forward_silu(&x[0]),
        )?;
    }
    for (b, heads, n, d) in [(16, 4, 1024, 16), (16, 5, 1024, 64), (1024, 5, 16, 64)] {
        let operands = [
            random(&[b, n, heads * d])?,
            random(&[b, n, heads * d])?,
            random(&[b, n, heads * d])?,
        ];
        let name = format!("attention {b}x{heads}x{n}x{d}");
        bench.both(&name, &operands, |x| {
            nn::attention(&x[0], &x[1], &x[2], heads, Mask::None)
        })?;
    }
    // The part of a step that grows with the square of the frames: 1024 positions, each with a row of frames.
    for frames in FRAMES {
        let operands = [
            random(&[1024, frames, 64])?,
            random(&[1024, frames, 64])?,
            random(&[1024, frames, 64])?,
        ];
        let name = format!("temporal attention 1024x2x{frames}x32");
        bench.both(&name, &operands, |x| {
            nn::attention(&x[0], &x[1], &x[2], 2, Mask::None)
        })?;
    }
    let norm = LayerNorm::new(&random(&[320])?, &random(&[320])?, 1e-5)?;
    bench.both("layer norm 16384x320", &[random(&[16384, 320])?], |x| {
        norm.forward(&x[0])
    })?;
    bench.both("geglu 16384x2560", &[random(&[16384, 2560])?], |x| {
        nn::geglu(&x[0])
    })
}
