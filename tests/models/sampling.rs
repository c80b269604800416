//! The loops over noise levels, and what they keep in memory.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use spectral_motion::models::{Conditioning, UNet3DConditionModel};
use spectral_motion::pipelines::{
    GuidedText, Sampled, decode_latents, encode_clip, invert, text_to_video,
};
use spectral_motion::schedulers::{
    Ddim, DpmSolver, Inversion, ReferenceInversion, Sampler, SchedulerConfig,
};
use spectral_motion::video::Frame;

use super::{micro_folder, noise, relative_error};

fn trained(name: &str) -> bool {
    name.contains("temp_attentions") && name.ends_with(".to_q.weight")
}

fn unet() -> UNet3DConditionModel {
    micro_folder().load_unet(&trained, &Device::Cpu).unwrap().0
}

fn texts() -> GuidedText {
    GuidedText::new(noise(1, &[1, 5, 16]), noise(2, &[1, 5, 16]))
}

fn ddim(steps: usize) -> Sampler {
    Sampler::Ddim(Ddim::new(&SchedulerConfig::stable_diffusion(), steps).unwrap())
}

fn dpm(steps: usize) -> Sampler {
    Sampler::DpmSolver(DpmSolver::new(&SchedulerConfig::stable_diffusion(), steps).unwrap())
}

fn sample(unet: &UNet3DConditionModel, text: GuidedText, guidance: f64) -> Tensor {
    let go_on = &mut |_, _| ControlFlow::Continue(());
    text_to_video(
        unet,
        &ddim(3),
        noise(3, &[1, 4, 2, 4, 4]),
        text,
        guidance,
        go_on,
    )
    .unwrap()
    .done()
    .unwrap()
}

#[test]
fn guidance_moves_away_from_the_other_prompt() {
    let unet = unet();
    let GuidedText { cond, uncond, .. } = texts();
    let text = |cond: &Tensor, uncond: &Tensor| GuidedText::new(cond.clone(), uncond.clone());
    let plain = sample(&unet, text(&cond, &uncond), 1.0);
    // Equal prompts guide nowhere; without guidance the other prompt does not matter.
    let rounding = 1e-5; // three steps of a network in single precision
    assert!(relative_error(&sample(&unet, text(&cond, &cond), 9.0), &plain) < rounding);
    assert_eq!(
        relative_error(&sample(&unet, text(&cond, &cond), 1.0), &plain),
        0.0
    );
    assert!(relative_error(&sample(&unet, text(&cond, &uncond), 9.0), &plain) > 0.01);
}

#[test]
fn loops_stop_within_one_step_and_keep_no_graph() {
    let unet = unet();
    let x = noise(3, &[1, 4, 2, 4, 4]);
    let inversion = Inversion::Reference(
        ReferenceInversion::new(&SchedulerConfig::stable_diffusion(), 4).unwrap(),
    );
    let run = |last: usize, sampler: Option<Sampler>| {
        let mut seen = Vec::new();
        let on_step = &mut |done, total| {
            seen.push((done, total));
            if done == last {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let sampled = match sampler {
            None => {
                let words = texts().uncond;
                let seen = Conditioning::text(&words);
                invert(&unet, &inversion, x.clone(), seen, on_step)
            }
            Some(sampler) => text_to_video(&unet, &sampler, x.clone(), texts(), 7.0, on_step),
        };
        (sampled.unwrap(), seen)
    };
    for sampler in [None, Some(ddim(4)), Some(dpm(4))] {
        let (sampled, seen) = run(2, sampler.clone());
        assert!(matches!(sampled, Sampled::Cancelled));
        assert_eq!(seen, [(1, 4), (2, 4)]);
        let (sampled, seen) = run(usize::MAX, sampler);
        assert_eq!(seen.len(), 4);
        assert!(
            !sampled.done().unwrap().track_op(),
            "the result drags its graph along"
        );
    }
}

#[test]
fn frames_pass_the_autoencoder_a_few_at_a_time() {
    let vae = micro_folder().load_vae(&Device::Cpu).unwrap();
    let shades = [0, 60, 120, 200, 255];
    let frames: Vec<Frame> = shades
        .iter()
        .map(|&shade| Frame::filled(16, 24, [shade, 128, 0]))
        .collect();
    let mut seen = Vec::new();
    let encoded = encode_clip(&vae, &frames, &Device::Cpu, &mut |done, total| {
        seen.push((done, total));
        ControlFlow::Continue(())
    });
    let latents = encoded.unwrap().done().unwrap();
    assert_eq!(latents.dims(), [1, 4, 5, 3, 2]);
    assert_eq!(seen, [(4, 5), (5, 5)]);
    let stopped = encode_clip(&vae, &frames, &Device::Cpu, &mut |_, _| {
        ControlFlow::Break(())
    });
    assert!(stopped.unwrap().done().is_none());
    // The last frame on its own: red 255 is 1, green 128 is 1/255, blue 0 is -1.
    let plane = |value: f32| Tensor::full(value, (1, 1, 24, 16), &Device::Cpu).unwrap();
    let image = Tensor::cat(&[plane(1.0), plane(1.0 / 255.0), plane(-1.0)], 1).unwrap();
    let alone = (vae.encode(&image).unwrap().mean * vae.scaling_factor).unwrap();
    let last = latents.narrow(2, 4, 1).unwrap().squeeze(2).unwrap();
    assert!(relative_error(&last, &alone) < 1e-5); // single precision, other batch

    let mut seen = Vec::new();
    let decoded = decode_latents(&vae, &latents, &mut |done, total| {
        seen.push((done, total));
        ControlFlow::Continue(())
    });
    let decoded = decoded.unwrap().done().unwrap();
    assert_eq!(seen, [(4, 5), (5, 5)]);
    assert!(
        decoded.len() == 5
            && decoded
                .iter()
                .all(|frame| frame.is_valid() && frame.width == 16)
    );
    let image = vae.decode(&(alone / vae.scaling_factor).unwrap()).unwrap();
    let value = image
        .get(0)
        .unwrap()
        .get(0)
        .unwrap()
        .get(7)
        .unwrap()
        .get(3)
        .unwrap()
        .to_scalar::<f32>()
        .unwrap();
    let expected = (value.clamp(-1.0, 1.0) + 1.0) * 127.5;
    // Half a step of rounding and a little for the other batch.
    assert!((f32::from(decoded[4].pixel(3, 7)[0]) - expected).abs() < 0.51);
    let stopped = decode_latents(&vae, &latents, &mut |_, _| ControlFlow::Break(())).unwrap();
    assert!(matches!(stopped, Sampled::Cancelled));
}

/// Resident memory of this process in bytes.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
fn memory_probe() {
    let unet = unet();
    let x = noise(3, &[1, 4, 8, 16, 16]);
    let mut sizes = Vec::new();
    let on_step = &mut |_, _| {
        sizes.push(resident());
        ControlFlow::Continue(())
    };
    text_to_video(&unet, &ddim(20), x.clone(), texts(), 7.0, on_step).unwrap();
    // The first steps fill the allocator's reserves.
    let grown = sizes[19].saturating_sub(sizes[4]);
    // The same fifteen steps with gradients on keep every activation alive.
    let before = resident();
    let mut chained = x;
    for _ in 0..15 {
        chained = unet.forward(&chained, &[437.0], &texts().cond).unwrap();
    }
    let with_graph = resident().saturating_sub(before);
    assert!(chained.track_op());
    println!("grown {grown}, with graph {with_graph}");
    assert!(
        with_graph > 64 << 20,
        "the probe would not notice a kept graph: {with_graph} bytes"
    );
    assert!(
        grown < with_graph / 16,
        "sampling keeps {grown} bytes, a kept graph {with_graph}"
    );
}

/// Set in the process that this test starts: it measures alone, because other tests would blur the figures.
#[cfg(target_os = "linux")]
const ALONE: &str = "SPECTRAL_MOTION_MEMORY_PROBE";

#[test]
#[cfg(target_os = "linux")]
fn sampling_does_not_grow() {
    if std::env::var_os(ALONE).is_some() {
        return memory_probe();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "models::sampling::sampling_does_not_grow",
            "--exact",
            "--nocapture",
        ])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed") && text.contains("with graph"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
