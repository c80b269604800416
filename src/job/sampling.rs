//! Inversion, denoising and decoding: one path for previews and final samples.

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};

use super::context::JobContext;
use super::message::{Event, Stage};
use super::problem::{Halt, tensors};
use super::session::Session;
use super::{Preview, export};
use crate::methods::{Strength, Tuned};
use crate::models::Conditioning;
use crate::nn::{NoiseStream, Purpose};
use crate::pipelines::{self, GuidedText, Sampled};
use crate::project::{RunFolder, TensorFile, free_name, sha256_hex};
use crate::report::{Area, Report};
use crate::schedulers::{
    Ddim, DpmSolver, Inversion, ReferenceInversion, Sampler, SchedulerConfig, SchedulerError,
};
use crate::train::{
    InversionPrompt, SamplerChoice, TransferConfig, plain_from_tensor, tensor_from_plain,
};
use crate::video::{Clip, Frame};

/// Sampling steps for models that recommend none, as MotionDirector takes for ZeroScope.
pub const SAMPLING_STEPS: usize = 30;
/// Guidance for models that recommend none, the default of diffusers' text-to-video pipeline.
pub const GUIDANCE: f64 = 9.0;

/// What to sample.
#[derive(Clone, Debug)]
pub(super) struct SampleSpec {
    pub(super) prompt: String,
    /// What guidance leads away from.
    pub(super) negative_prompt: String,
    pub(super) seed: u64,
    pub(super) purpose: Purpose,
    /// Share of the inverted clip in the starting latents.
    pub(super) inverted_share: f64,
    /// How strongly adapters act; its clip is the one that is inverted.
    pub(super) strength: Strength,
    pub(super) inversion_prompt: InversionPrompt,
    pub(super) sampler: SamplerChoice,
    pub(super) steps: usize,
    pub(super) guidance: f64,
    /// SHA-256 of the weights, for keeping the inversion; none while they still change.
    pub(super) weights_sha256: Option<String>,
}

impl SampleSpec {
    /// The result of a run with these settings.
    pub(super) fn result(
        config: &TransferConfig,
        prompt: String,
        weights_sha256: Option<String>,
    ) -> Self {
        Self {
            prompt,
            negative_prompt: config.negative_prompt.clone(),
            seed: config.seed,
            purpose: Purpose::Sample,
            inverted_share: config.inverted_share(),
            strength: config.strength(),
            inversion_prompt: config.inversion_prompt,
            sampler: config.sampler,
            steps: config.sampling_steps.unwrap_or(SAMPLING_STEPS),
            guidance: config.guidance.unwrap_or(GUIDANCE),
            weights_sha256,
        }
    }

    /// A preview draws from a noise stream of its own, so that a run gives the same weights with and without previews.
    pub(super) fn preview(config: &TransferConfig, prompt: String, seed: Option<u64>) -> Self {
        Self {
            seed: seed.unwrap_or(config.seed),
            purpose: Purpose::Preview,
            ..Self::result(config, prompt, None)
        }
    }
}

/// Samples and decodes a film.
pub(super) fn sample(
    job: &mut JobContext,
    session: &mut Session,
    run: Option<&RunFolder>,
    tuned: &Tuned,
    spec: &SampleSpec,
) -> Result<Vec<Frame>, Halt> {
    // Made first: what the sampler refuses is told before the clip is inverted.
    let sampler = sampler(
        session.folder.scheduler(),
        spec.sampler,
        spec.steps,
        spec.inverted_share,
    )?;
    let latents = starting_latents(job, session, run, tuned, spec)?;
    let text = GuidedText {
        cond: session.text(&spec.prompt)?,
        uncond: session.text(&spec.negative_prompt)?,
        control: session.control(spec.strength.clip).cloned(),
    };
    job.stage(Stage::Sampling, Some(sampler.timesteps().len()));
    tuned.set_for_sampling(spec.strength);
    let sampled = pipelines::text_to_video(
        &tuned.unet,
        &sampler,
        latents,
        text,
        spec.guidance,
        &mut |done, total| step(job, Stage::Sampling, done, total),
    )
    .map_err(tensors("Sampling failed"))?;
    let latents = finished(sampled, "Sampling")?;
    decode(job, session, &latents)
}

/// The sampler for starting latents of which `inverted_share` are the inverted clip.
///
/// The clip is always inverted by DDIM, which leaves it at the last level of the inversion's grid, for example 958 of 999.
/// DDIM's own grid begins there. DPM-Solver++ has another grid, which would take the latents for noisier than they are, so
/// it is laid from that level down; from fresh noise it begins where the model's schedule says. VMC's code does not do
/// this: it hands latents of level 963 to a solver that begins at level 995.
pub(super) fn sampler(
    schedule: &SchedulerConfig,
    choice: SamplerChoice,
    steps: usize,
    inverted_share: f64,
) -> Result<Sampler, SchedulerError> {
    match choice {
        SamplerChoice::Ddim => Ddim::new(schedule, steps).map(Sampler::Ddim),
        SamplerChoice::Dpm if inverted_share > 0.0 => {
            let inversion = ReferenceInversion::new(schedule, steps)?;
            let level = inversion.timesteps().last().copied().unwrap_or_default();
            DpmSolver::from_level(schedule, steps, level).map(Sampler::DpmSolver)
        }
        SamplerChoice::Dpm => DpmSolver::new(schedule, steps).map(Sampler::DpmSolver),
    }
}

/// `sqrt(p) inverted + sqrt(1 - p) noise`, with p the share of the inverted clip.
///
/// Source: MotionDirector's noise prior (frameworks.md 2.5); p = 1 is VMC's inverted start, p = 0 fresh noise.
fn starting_latents(
    job: &mut JobContext,
    session: &mut Session,
    run: Option<&RunFolder>,
    tuned: &Tuned,
    spec: &SampleSpec,
) -> Result<Tensor, Halt> {
    let failed = tensors("The starting latents could not be made");
    let share = spec.inverted_share;
    let noise = NoiseStream::new(spec.seed, spec.purpose)
        .normal(
            session.latents(spec.strength.clip).shape(),
            DType::F32,
            &session.device,
        )
        .map_err(&failed)?;
    if share <= 0.0 {
        return Ok(noise);
    }
    let inverted = inverted(job, session, run, tuned, spec)?;
    if share >= 1.0 {
        return Ok(inverted);
    }
    let mix = |inverted: &Tensor| {
        inverted
            .affine(share.sqrt(), 0.0)?
            .add(&noise.affine((1.0 - share).sqrt(), 0.0)?)
    };
    mix(&inverted).map_err(&failed)
}

/// The latents of the chosen clip inverted, with the weights as they are or with adapters at rest. Kept in the run once the
/// weights are final.
fn inverted(
    job: &mut JobContext,
    session: &mut Session,
    run: Option<&RunFolder>,
    tuned: &Tuned,
    spec: &SampleSpec,
) -> Result<Tensor, Halt> {
    let clip = spec.strength.clip;
    let words = match spec.inversion_prompt {
        InversionPrompt::Empty => String::new(),
        InversionPrompt::Subject => session.record.clip(clip).0.to_owned(),
    };
    let latents = session.latents(clip).clone();
    let kept = run.zip(spec.weights_sha256.as_ref()).map(|(run, sha256)| {
        let mut key = format!("{sha256} {} {words}", spec.steps);
        if tuned.branches.is_some() {
            key.push_str(", adapters at rest");
        }
        for lora in &session.loras {
            key.push_str(&format!(", lora {} x {}", lora.sha256, lora.strength));
        }
        if clip > 0 {
            key.push_str(&format!(", clip {}", clip + 1));
        }
        let key = sha256_hex(key.as_bytes());
        run.cache(&format!("inverted-{}.safetensors", &key[..16]))
    });
    if let Some(path) = &kept
        && let Ok(file) = TensorFile::read(path)
        && let Some(plain) = file.tensors.get("inverted")
        && plain.shape == latents.dims()
    {
        return tensor_from_plain(plain, &session.device)
            .map_err(tensors("The inverted clip could not be read"));
    }
    let text = session.text(&words)?;
    let inversion = Inversion::Reference(ReferenceInversion::new(
        session.folder.scheduler(),
        spec.steps,
    )?);
    job.stage(Stage::Inverting, Some(spec.steps));
    tuned.set_for_inversion();
    let unet = &tuned.unet;
    let seen = Conditioning {
        text: &text,
        control: session.control(clip),
    };
    let inverted = pipelines::invert(unet, &inversion, latents, seen, &mut |done, total| {
        step(job, Stage::Inverting, done, total)
    })
    .map_err(tensors("Inverting the clip failed"))?;
    let inverted = finished(inverted, "Inverting the clip")?;
    if let Some(path) = kept {
        let mut file = TensorFile::default();
        let plain = plain_from_tensor(&inverted).map_err(tensors("Inverting the clip failed"))?;
        file.tensors.insert("inverted".to_owned(), plain);
        file.write(&path)?;
    }
    Ok(inverted)
}

/// The pictures of latents.
pub(super) fn decode(
    job: &mut JobContext,
    session: &mut Session,
    latents: &Tensor,
) -> Result<Vec<Frame>, Halt> {
    job.stage(Stage::Decoding, latents.dim(2).ok());
    let decoder = session.decoder()?;
    let frames = pipelines::decode_latents(decoder, latents, &mut |done, total| {
        step(job, Stage::Decoding, done, total)
    })
    .map_err(tensors("Decoding the sample failed"))?;
    frames.done().ok_or(Halt::Stopped)
}

/// Samples with the weights as they are, into `samples/` and the preview slot.
pub(super) fn preview(
    job: &mut JobContext,
    session: &mut Session,
    run: &RunFolder,
    tuned: &Tuned,
    spec: &SampleSpec,
    trained_steps: u32,
) -> Result<(), Halt> {
    let frames = sample(job, session, Some(run), tuned, spec)?;
    let taken_fps = session.record.clip(spec.strength.clip).1.fps;
    let fps = session.record.settings.film_fps(taken_fps);
    let path = free_name(&run.samples(), &format!("step-{trained_steps:06}"), "gif");
    let clip = Clip::from_frames(frames.clone(), fps, "preview");
    export::write_preview(job, &clip, &path)?;
    let prompt = spec.prompt.clone();
    job.publish_preview(Preview {
        step: trained_steps,
        prompt: prompt.clone(),
        frames,
        fps,
    });
    job.emit(Event::PreviewReady {
        step: trained_steps,
        prompt,
        path,
    });
    Ok(())
}

fn step(job: &mut JobContext, stage: Stage, done: usize, total: usize) -> ControlFlow<()> {
    job.progress(stage, done, total);
    job.poll()
}

/// What a loop came to. Numbers that are none would become a black film, which looks like a result.
fn finished(sampled: Sampled, doing: &str) -> Result<Tensor, Halt> {
    let Sampled::Done(latents) = sampled else {
        return Err(Halt::Stopped);
    };
    let numbers = latents
        .to_dtype(DType::F32)
        .and_then(|latents| latents.flatten_all()?.to_vec1::<f32>())
        .map_err(tensors("The sample could not be looked at"))?;
    if numbers.iter().all(|number| number.is_finite()) {
        return Ok(latents);
    }
    Err(Report::new(Area::Run, format!("{doing} led to numbers that are infinite or undefined"))
        .because("Half precision overflows in some models (--precision f16), and weights that were trained too hard do the same.")
        .advise("Train with --precision bf16 or f32, or with a smaller learning rate.")
        .into())
}
