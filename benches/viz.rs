//! Times the spectrum of one motion vector on the adapter at hand and on the processor: one JSON line each, `ms` the
//! median and `best_ms` the fastest of the runs. "delta change" is all that a move of the δ slider costs: the weighted
//! spectrum anew and its picture in a texture, waited for.
//!
//! `cargo bench --bench viz [-- RUNS]`; a software adapter is taken first, WGPU_BACKEND narrows the choice.

use std::time::Instant;

use anyhow::Result;
use spectral_motion::motion::picture::colour::Map;
use spectral_motion::spectral::plain::{
    Fft2, amplitude, fftshift, frequency_weight, weighted_log_amplitude,
};
use spectral_motion::viz::{
    Canvas, Gpu, Paint, Painter, SpectrumStages, Table, WeightStages, Weighting, twin,
};

fn line(name: &str, runs: usize, mut f: impl FnMut(usize) -> Result<()>) -> Result<()> {
    f(0)?;
    let mut times = Vec::new();
    for run in 1..=runs {
        let start = Instant::now();
        f(run)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let (ms, best_ms) = (times[times.len() / 2], times[0]);
    println!(
        "{}",
        serde_json::json!({ "name": name, "ms": ms, "best_ms": best_ms })
    );
    Ok(())
}

fn main() -> Result<()> {
    // cargo passes `--bench`.
    let mut args = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let runs = args.next().map_or(Ok(21), |runs| runs.parse())?.max(1);
    let gpu = Gpu::headless()?;
    println!("{}", serde_json::json!({ "adapter": gpu.name() }));
    let start = Instant::now();
    let (stages, painter) = (SpectrumStages::new(&gpu)?, Painter::new(&gpu)?);
    let weight = WeightStages::new(&gpu)?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    println!("{}", serde_json::json!({ "name": "pipelines", "ms": ms }));
    for (h, w) in [(64, 64), (256, 256), (320, 576), (1024, 1024)] {
        let wave = |i: usize| (0.37 * (i % w) as f32).sin() * (0.11 * (i / w) as f32).cos();
        let plane: Vec<f32> = (0..h * w).map(wave).collect();
        let canvas = Canvas::new(&gpu, h, w);
        let mut parts = stages.transform(&gpu, gpu.upload("plane", &plane), (h, w))?;
        line(&format!("spectrum {h}x{w} adapter"), runs, |_| {
            parts = stages.transform(&gpu, gpu.upload("plane", &plane), (h, w))?;
            Ok(gpu.read::<f32>(&parts.amplitude).map(drop)?)
        })?;
        let fft = Fft2::<f32>::new(h, w);
        let mut amplitudes = Vec::new();
        line(&format!("spectrum {h}x{w} processor"), runs, |_| {
            amplitudes = fftshift(&amplitude(&fft.forward(&plane)), h, w);
            Ok(())
        })?;
        let weighted = weight.plane(&gpu, h * w);
        let paint = Paint::new(h, w, 0.0, 8.0);
        line(&format!("delta change {h}x{w} adapter"), runs, |run| {
            let weighting = Weighting::new(h, w, 0.05 + 0.01 * run as f64, Some(0.4));
            weight.weigh(&gpu, (&parts.amplitude, &weighted), &weighting);
            let look = (Table::Map(Map::Magnitude), &paint);
            painter.plane(&gpu, &canvas, &weighted, look);
            Ok(canvas.read(&gpu).map(drop)?)
        })?;
        line(&format!("delta change {h}x{w} processor"), runs, |run| {
            let delta = 0.05 + 0.01 * run as f64;
            let weights = frequency_weight(h, w, delta, 1.0, Some(0.4), false);
            let weighted = weighted_log_amplitude(&amplitudes, &weights);
            std::hint::black_box(twin::plane(&weighted, Map::Magnitude, &paint));
            Ok(())
        })?;
    }
    Ok(())
}
