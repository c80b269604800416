//! Text encoder, UNet, autoencoder, DDIM sampling and inversion of one model folder.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{
    AutoencoderKL, ClipTextConfig, ClipTextModel, Conditioning, Denoiser, ModelFolder,
    UNet3DConditionModel, UNet3DConfig, Weights,
};
use spectral_motion::pipelines::{GuidedText, invert, text_to_video};
use spectral_motion::schedulers::{Ddim, DdimInverse, Inversion, Sampler};

use super::{Findings, Tensors};

/// Single precision on both sides, sums in another order: a few units in the last place for each of some hundred
/// layers.
pub const NETWORK_LIMIT: f64 = 5e-6;
/// As above; the mean of the posterior is small beside the activations before it.
const VAE_LIMIT: f64 = 1e-5;
/// Five steps with guidance 9 amplify the network's error about ten times.
const LOOP_LIMIT: f64 = 5e-5;

/// The prompts of the generator; the golden file holds their ids.
const PROMPTS: [&str; 3] = ["the car is running", "A bear, running!", ""];

fn extra_prompts() -> [String; 6] {
    [
        "A man's car isn't running; it's 1984!".to_owned(),
        "café naïve ﬁlm Ünïcode".to_owned(),
        "two   spaces,\ttab\nnew line".to_owned(),
        "🚗 car — “quotes”".to_owned(),
        "the car is running ".repeat(30),
        "A.B-C_D/E 3.14 #tag".to_owned(),
    ]
}

fn go_on(_done: usize, _total: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub fn check(name: &str, folder: &ModelFolder, golden: &Tensors, findings: &mut Findings) {
    check_text_and_vae(name, folder, golden, findings);
    check_unet(name, folder, golden, findings);
}

/// What text-to-video and image models have in common.
pub fn check_text_and_vae(
    name: &str,
    folder: &ModelFolder,
    golden: &Tensors,
    findings: &mut Findings,
) {
    let device = Device::Cpu;
    let (tokenizer, text_encoder) = folder.load_text(&device).unwrap();
    let encode = |prompts: &[&str]| -> Vec<Vec<u32>> {
        prompts
            .iter()
            .map(|prompt| tokenizer.encode(prompt).unwrap())
            .collect()
    };
    let expected_ids = |key: &str| -> Vec<Vec<u32>> {
        let rows = golden[key].to_vec2::<i64>().unwrap();
        rows.into_iter()
            .map(|row| row.into_iter().map(|id| id as u32).collect())
            .collect()
    };
    let ids = encode(&PROMPTS);
    assert_eq!(ids, expected_ids("ids"), "{name}: token ids");
    if golden.contains_key("extra.ids") {
        let extra = extra_prompts();
        let extra: Vec<&str> = extra.iter().map(String::as_str).collect();
        assert_eq!(
            encode(&extra),
            expected_ids("extra.ids"),
            "{name}: token ids of the extra prompts"
        );
    }
    let text = text_encoder.forward(&ids).unwrap();
    findings.compare(
        format!("{name} text"),
        &text,
        &golden["text"],
        NETWORK_LIMIT,
    );

    let vae = folder.load_vae(&device).unwrap();
    let posterior = vae.encode(&golden["vae.in"]).unwrap();
    findings.compare(
        format!("{name} vae mean"),
        &posterior.mean,
        &golden["vae.mean"],
        VAE_LIMIT,
    );
    findings.compare(
        format!("{name} vae logvar"),
        &posterior.logvar,
        &golden["vae.logvar"],
        VAE_LIMIT,
    );
    let decoded = vae.decode(&golden["vae.mean"]).unwrap();
    findings.compare(
        format!("{name} vae decoded"),
        &decoded,
        &golden["vae.out"],
        VAE_LIMIT,
    );
}

fn check_unet(name: &str, folder: &ModelFolder, golden: &Tensors, findings: &mut Findings) {
    let (unet, trainable) = folder.load_unet(&|_| false, &Device::Cpu).unwrap();
    assert!(trainable.is_empty());
    // The expected text goes in, so that one figure does not hide in another.
    let prompt = |i: usize| golden["text"].narrow(0, i, 1).unwrap();
    let x = &golden["unet.in"];
    let t: Vec<f64> = golden["unet.t"]
        .to_vec1::<i64>()
        .unwrap()
        .iter()
        .map(|&t| t as f64)
        .collect();
    let out = unet.forward(x, &t, &prompt(0)).unwrap();
    findings.compare(
        format!("{name} unet"),
        &out,
        &golden["unet.out"],
        NETWORK_LIMIT,
    );
    let one = unet
        .forward(&x.narrow(2, 0, 1).unwrap(), &t, &prompt(0))
        .unwrap();
    findings.compare(
        format!("{name} unet, one frame"),
        &one,
        &golden["unet.one_frame"],
        NETWORK_LIMIT,
    );
    check_loops(name, (folder, &unet), golden, &Tensor::clone, findings);
}

/// DDIM sampling and inversion, 5 steps each. `as_clip` brings what the golden file holds to `[b, c, f, h, w]`.
pub fn check_loops(
    name: &str,
    (folder, unet): (&ModelFolder, &impl Denoiser),
    golden: &Tensors,
    as_clip: &dyn Fn(&Tensor) -> Tensor,
    findings: &mut Findings,
) {
    let prompt = |i: usize| golden["text"].narrow(0, i, 1).unwrap();
    let expected = |key: &str| as_clip(&golden[key]);
    let x = expected("unet.in");
    let timesteps = |key: &str| -> Vec<u32> {
        golden[key]
            .to_vec1::<i64>()
            .unwrap()
            .iter()
            .map(|&t| t as u32)
            .collect()
    };
    let ddim = Sampler::Ddim(Ddim::new(folder.scheduler(), 5).unwrap());
    assert_eq!(ddim.timesteps(), timesteps("ddim.timesteps"));
    let text = GuidedText::new(prompt(0), prompt(2));
    let sampled = text_to_video(unet, &ddim, x.clone(), text, 9.0, &mut go_on)
        .unwrap()
        .done()
        .unwrap();
    findings.compare(
        format!("{name} sampling"),
        &sampled,
        &expected("ddim.out"),
        LOOP_LIMIT,
    );

    let inverse = DdimInverse::new(folder.scheduler(), 5).unwrap();
    assert_eq!(inverse.timesteps(), timesteps("inverse.timesteps"));
    let (inversion, words) = (Inversion::Diffusers(inverse), prompt(2));
    let seen = Conditioning::text(&words);
    let inverted = invert(unet, &inversion, x.clone(), seen, &mut go_on)
        .unwrap()
        .done()
        .unwrap();
    findings.compare(
        format!("{name} inversion"),
        &inverted,
        &expected("inverse.out"),
        LOOP_LIMIT,
    );
}

/// Divides every weight outside the norms by 100, except those that only steer attention and gates: the weights of
/// `tools/golden/quiet.py`.
fn quiet_weights(file: &Path) -> Weights {
    const STEERING: [&str; 7] = [
        "to_q",
        "to_k",
        "q_proj",
        "k_proj",
        "ff.net.0",
        "mlp.fc1",
        "time_embedding",
    ];
    let tensors = candle_core::safetensors::load(file, &Device::Cpu)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| {
            let module = name.rsplit_once('.').unwrap().0;
            // A norm inside `temp_convs` is the first module of its stage and has no other name.
            let norm =
                module.contains("norm") || module.contains("temp_convs") && module.ends_with(".0");
            let kept = norm || STEERING.iter().any(|part| name.contains(part));
            (
                name,
                if kept {
                    tensor
                } else {
                    (tensor * 0.01).unwrap()
                },
            )
        });
    Weights::from_map(tensors.collect(), DType::F32, &Device::Cpu)
}

/// The quietened UNet on the golden input.
fn quiet_unet(model: &Path, config: &UNet3DConfig, golden: &Tensors) -> Tensor {
    let weights = quiet_weights(&model.join("unet/diffusion_pytorch_model.safetensors"));
    let unet = UNet3DConditionModel::new(&weights, config).unwrap();
    let t = golden["unet.t"].to_vec1::<i64>().unwrap()[0] as f64;
    let prompt = golden["text"].narrow(0, 0, 1).unwrap();
    unet.forward(&golden["unet.in"], &[t], &prompt).unwrap()
}

/// What the quiet check is for: an epsilon that is wrong by the usual slip (1e-6 for 1e-5) is far beyond its limit.
#[test]
fn the_quiet_check_sees_a_wrong_epsilon() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/micro");
    let read = |file: &str| candle_core::safetensors::load(place.join(file), &Device::Cpu).unwrap();
    let (golden, quiet) = (read("golden.safetensors"), read("quiet.safetensors"));
    let folder = ModelFolder::open(&place.join("model")).unwrap();
    let right = folder.unet_config().unwrap();
    let mut wrong = right.clone();
    wrong.norm_eps /= 10.0;
    let error = |config: &UNet3DConfig| {
        let mut findings = Findings::default();
        let out = quiet_unet(&place.join("model"), config, &golden);
        findings.compare(String::new(), &out, &quiet["unet.out"], f64::INFINITY);
        findings.figures[0].error
    };
    assert!(error(right) <= NETWORK_LIMIT);
    // Measured 100 limits and more; the factor leaves room for other weights.
    assert!(
        error(&wrong) > 20.0 * NETWORK_LIMIT,
        "{:e} would pass unseen",
        error(&wrong)
    );
}

/// The networks on activations near 0.01, where a wrong epsilon of any norm changes the output by percents.
pub fn check_quiet(
    name: &str,
    model: &Path,
    quiet: &Tensors,
    golden: &Tensors,
    findings: &mut Findings,
) {
    let folder = ModelFolder::open(model).unwrap();
    let weights = |part: &str| quiet_weights(&model.join(part));
    let config =
        ClipTextConfig::from_json(&folder.source().text("text_encoder/config.json").unwrap())
            .unwrap();
    let text = ClipTextModel::new(&weights("text_encoder/model.safetensors"), &config).unwrap();
    let ids = golden["ids"].to_vec2::<i64>().unwrap();
    let ids: Vec<Vec<u32>> = ids
        .into_iter()
        .map(|row| row.into_iter().map(|id| id as u32).collect())
        .collect();
    let limit = NETWORK_LIMIT;
    findings.compare(
        format!("{name} text"),
        &text.forward(&ids).unwrap(),
        &quiet["text"],
        limit,
    );

    let out = quiet_unet(model, folder.unet_config().unwrap(), golden);
    findings.compare(format!("{name} unet"), &out, &quiet["unet.out"], limit);

    let vae_weights = weights("vae/diffusion_pytorch_model.safetensors");
    let vae = AutoencoderKL::new(&vae_weights, folder.vae_config()).unwrap();
    let posterior = vae.encode(&golden["vae.in"]).unwrap();
    findings.compare(
        format!("{name} vae mean"),
        &posterior.mean,
        &quiet["vae.mean"],
        VAE_LIMIT,
    );
    findings.compare(
        format!("{name} vae logvar"),
        &posterior.logvar,
        &quiet["vae.logvar"],
        VAE_LIMIT,
    );
    let decoded = vae.decode(&golden["vae.mean"]).unwrap();
    findings.compare(
        format!("{name} vae decoded"),
        &decoded,
        &quiet["vae.out"],
        VAE_LIMIT,
    );
}
