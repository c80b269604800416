//! Adapters given away and taken back, and LoRA files in whole jobs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{DType, Tensor};
use spectral_motion::job::{
    Event, LoraExport, LoraNames, LoraRequest, LoraShare, Request, SampleRequest, check_lora,
    export_lora,
};
use spectral_motion::methods::Method;
use spectral_motion::models::LoraFile;
use spectral_motion::project::TensorFile;
use spectral_motion::report::Area;
use spectral_motion::video;

use super::{noise, save};
use crate::clips::{Place, config, final_weights, refused, sample, train};
use crate::common::micro_model;

const NAMES: [LoraNames; 3] = [LoraNames::Diffusers, LoraNames::Peft, LoraNames::Kohya];

fn trained(method: Method) -> Place {
    let place = Place::new();
    train(place.both(config(method, 4)));
    place
}

fn export(place: &Place, names: LoraNames, share: LoraShare, clip: usize) -> PathBuf {
    let to = place.path(&format!("{names:?}-{share:?}-{clip}.safetensors"));
    export_lora(&LoraExport {
        source: place.run(),
        to: to.clone(),
        names,
        share,
        clip,
        overwrite: true,
    })
    .unwrap_or_else(|report| panic!("{report}"));
    to
}

fn with(place: &Place, name: &str, loras: &[(&Path, f64)]) -> SampleRequest {
    let loras = loras.iter().map(|(file, strength)| LoraRequest {
        file: (*file).to_owned(),
        strength: *strength,
    });
    SampleRequest {
        loras: loras.collect(),
        ..place.sample(micro_model(), name)
    }
}

/// The film of a request, under its name.
fn film(place: &Place, name: &str, request: SampleRequest) -> Vec<Vec<u8>> {
    sample(request);
    place.pixels(name)
}

fn largest_difference(a: &[Vec<u8>], b: &[Vec<u8>]) -> u8 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn exported_adapters_come_back_and_give_the_same_film_bit_for_bit() {
    let place = trained(Method::MotionDirector);
    let own = place.run().join("final/weights.safetensors");
    let of_run = {
        let mut request = place.sample(place.run(), "of the run");
        request.changes.start = Some(spectral_motion::train::Start::Noise);
        film(&place, "of the run", request)
    };
    let plain = film(&place, "plain", with(&place, "plain", &[(&own, 0.0)]));
    assert_ne!(of_run, plain);
    for names in NAMES {
        let motion = export(&place, names, LoraShare::Motion, 1);
        let name = format!("motion {names:?}");
        assert_eq!(
            film(&place, &name, with(&place, &name, &[(&motion, 1.0)])),
            of_run,
            "{name}"
        );

        // The look of the second clip, which has a set of its own.
        let both = export(&place, names, LoraShare::Both, 2);
        let look = |name: &str, file: &Path, clip| {
            let mut request = with(&place, name, &[(file, 1.0)]);
            request.changes.spatial_scale = Some(1.0);
            request.changes.inverted_clip = Some(clip);
            film(&place, name, request)
        };
        let expected = look(&format!("own look {names:?}"), &own, 2);
        assert_eq!(
            look(&format!("look {names:?}"), &both, 1),
            expected,
            "{names:?}"
        );
        assert_ne!(expected, of_run);
    }
    // A strength is the adapters' scale.
    let motion = export(&place, LoraNames::Diffusers, LoraShare::Motion, 1);
    let mut scaled = with(&place, "scaled", &[(&own, 1.0)]);
    scaled.changes.lora_scale = Some(0.5);
    let scaled = film(&place, "scaled", scaled);
    assert_eq!(
        film(&place, "half", with(&place, "half", &[(&motion, 0.5)])),
        scaled
    );
    assert_ne!(scaled, of_run);
}

#[test]
fn added_to_the_weights_an_adapter_does_what_it_does_beside_them() {
    let place = trained(Method::MotionDirector);
    let motion = export(&place, LoraNames::Diffusers, LoraShare::Motion, 1);
    let own = place.run().join("final/weights.safetensors");
    // Without the note of where it is from it is anybody's LoRA.
    let mut file = TensorFile::read(&motion).unwrap();
    file.about.clear();
    let foreign = place.path("foreign.safetensors");
    file.write(&foreign).unwrap();
    // At rest the run's own file only says how large the film is. Four steps are little: the strength makes it visible.
    let strength = 8.0;
    let plain = film(&place, "plain", with(&place, "plain", &[(&own, 0.0)]));
    let beside = film(
        &place,
        "beside",
        with(&place, "beside", &[(&own, strength)]),
    );
    let events = sample(with(&place, "added", &[(&own, 0.0), (&foreign, strength)]));
    let told = |event: &Event| matches!(event, Event::Note { text } if text.contains("LoRA foreign.safetensors (diffusers)"));
    assert!(events.iter().any(told), "{events:#?}");
    let added = place.pixels("added");
    assert!(largest_difference(&added, &beside) <= 1);
    assert!(largest_difference(&plain, &beside) > 1);
    // Nothing at no strength, to the bit.
    let request = with(&place, "nothing", &[(&own, 0.0), (&foreign, 0.0)]);
    assert_eq!(film(&place, "nothing", request), plain);
    // The film says what was added.
    let recipe = video::read_recipe(&place.path("added")).unwrap().unwrap();
    let recipe: serde_json::Value = serde_json::from_str(&recipe).unwrap();
    assert_eq!(recipe["loras"][0]["name"], "foreign.safetensors");
    assert_eq!(recipe["loras"][0]["strength"], strength);
}

/// A LoRA of a single layer of the network or of the text encoder, in kohya's names.
fn single(place: &Place, name: &str, layer: &str, (i, o): (usize, usize)) -> PathBuf {
    let path = place.path(name);
    let large = |x: Tensor| x.affine(2.0, 0.0).unwrap().to_dtype(DType::F16).unwrap();
    save(
        &path,
        BTreeMap::from([
            (
                format!("{layer}.lora_down.weight"),
                large(noise(1, &[2, i])),
            ),
            (format!("{layer}.lora_up.weight"), large(noise(2, &[o, 2]))),
        ]),
    );
    path
}

#[test]
fn a_run_of_whole_weights_takes_a_lora_on_top() {
    let place = trained(Method::Vmc);
    let run = film(
        &place,
        "of the run",
        place.sample(place.run(), "of the run"),
    );
    let on_run = |name: &str, file: &Path, strength| {
        let mut request = with(&place, name, &[(file, strength)]);
        request.source = place.run();
        film(&place, name, request)
    };
    // A weight that VMC trained itself, a frozen one, and one of the text encoder whose words the run keeps.
    for (name, layer, sizes) in [
        (
            "trained.safetensors",
            "lora_unet_mid_block_temp_attentions_0_transformer_blocks_0_attn1_to_v",
            (32, 32),
        ),
        (
            "frozen.safetensors",
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_v",
            (32, 32),
        ),
        (
            "words.safetensors",
            "lora_te_text_model_encoder_layers_1_mlp_fc1",
            (16, 64),
        ),
    ] {
        let file = single(&place, name, layer, sizes);
        // A name without an ending: pictures in a folder.
        let stem = name.trim_end_matches(".safetensors");
        assert_ne!(on_run(&format!("{stem} 1"), &file, 1.0), run, "{name}");
        assert_eq!(on_run(&format!("{stem} 0"), &file, 0.0), run, "{name}");
    }
    // On the model with the run's file, and without the inverted clip, it is the same sum.
    let own = place.run().join("final/weights.safetensors");
    let file = place.path("trained.safetensors");
    let mut from_run = with(&place, "from the run", &[(&file, 1.0)]);
    from_run.source = place.run();
    from_run.changes.start = Some(spectral_motion::train::Start::Noise);
    let from_run = film(&place, "from the run", from_run);
    let request = with(&place, "from the file", &[(&file, 1.0), (&own, 1.0)]);
    assert_eq!(film(&place, "from the file", request), from_run);
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let place = trained(Method::MotionDirector);
    let own = place.run().join("final/weights.safetensors");
    let vmc = trained(Method::Vmc);
    let whole = vmc.run().join("final/weights.safetensors");
    let wrong = single(
        &place,
        "wrong.safetensors",
        "lora_unet_mid_block_attentions_0_proj_in",
        (7, 32),
    );
    let text = place.path("text.pt");
    fs::write(&text, b"dear all").unwrap();
    let loud = place.path("LOUD.PT");
    fs::write(&loud, b"DEAR ALL").unwrap();
    let gone = place.path("gone.pt");
    for (loras, says) in [
        (
            vec![(own.as_path(), 1.0), (whole.as_path(), 1.0)],
            "second training",
        ),
        (vec![(whole.as_path(), 0.5)], "strength 0.5"),
        (vec![(own.as_path(), -1.0)], "strength -1"),
        (
            vec![(wrong.as_path(), 1.0)],
            "wrong.safetensors cannot be put on this model",
        ),
        (vec![(text.as_path(), 1.0)], "text.pt"),
        (vec![(loud.as_path(), 1.0)], "not a PyTorch file"),
        (vec![(gone.as_path(), 1.0)], "gone.pt"),
    ] {
        let report = refused(Request::Sample(Box::new(with(&place, "refused", &loras))));
        assert_eq!(report.area, Area::Request, "{report}");
        assert!(report.headline.contains(says), "{report}");
        assert!(!report.what_to_do.is_empty(), "{report}");
    }
}

#[test]
fn an_export_says_what_is_in_it_and_refuses_what_is_not_there() {
    let place = trained(Method::MotionDirector);
    let export = |to: &str, share, clip| {
        export_lora(&LoraExport {
            source: place.run(),
            to: place.path(to),
            names: LoraNames::Peft,
            share,
            clip,
            overwrite: false,
        })
    };
    let written = export("a.safetensors", LoraShare::Both, 1).unwrap();
    assert_eq!(written.rank, 2);
    assert_eq!(
        written.motion_layers + written.look_layers,
        final_weights(&place.run()).tensors.len() / 2 - written.look_layers
    );
    let refused = |result: Result<_, spectral_motion::report::Report>, says: &str| {
        let report = match result {
            Err(report) => report,
            Ok(written) => panic!("{written:?}"),
        };
        assert!(report.headline.contains(says), "{report}");
        assert!(!report.what_to_do.is_empty(), "{report}");
    };
    refused(
        export("a.safetensors", LoraShare::Both, 1),
        "is there already",
    );
    refused(
        export("b.safetensors", LoraShare::Look, 3),
        "no look of clip 3",
    );
    refused(
        export("b.bin", LoraShare::Motion, 1),
        "does not end in .safetensors",
    );
    let vmc = trained(Method::Vmc);
    let of_vmc = LoraExport {
        source: vmc.run(),
        to: vmc.path("c.safetensors"),
        names: LoraNames::Diffusers,
        share: LoraShare::Motion,
        clip: 1,
        overwrite: false,
    };
    refused(export_lora(&of_vmc), "no such adapters");
    assert!(!of_vmc.to.exists());

    let model = micro_model();
    let found = check_lora(&place.path("a.safetensors"), Some(&model)).unwrap();
    assert!(
        found.fits && found.format == "PEFT" && found.ranks == Some((2, 2)),
        "{found:?}"
    );
    assert_eq!(
        found.unet_layers,
        written.motion_layers + written.look_layers
    );
    assert_eq!(found.about.unwrap().subject, "a red square");
    // On another model, and the run's own file, which has two looks.
    let found = check_lora(&place.path("a.safetensors"), None).unwrap();
    assert!(
        !(found.fits || found.wrong.is_empty() && found.unmatched.is_empty()),
        "{found:?}"
    );
    let own = place.run().join("final/weights.safetensors");
    let found = check_lora(&own, Some(&model)).unwrap();
    assert!(found.fits && found.unmatched.is_empty(), "{found:?}");
    // Equal contents, equal bytes, and none of ours in them but what the header says.
    let bytes = fs::read(place.path("a.safetensors")).unwrap();
    export("again.safetensors", LoraShare::Both, 1).unwrap();
    assert_eq!(bytes, fs::read(place.path("again.safetensors")).unwrap());
    let lora = LoraFile::open(&place.path("a.safetensors")).unwrap();
    assert_eq!(lora.note("format"), Some("pt"));
}

fn program(place: &Place, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spectral-motion"))
        .current_dir(place.path(""))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_command_line_exports_checks_and_samples() {
    let place = trained(Method::MotionDirector);
    let model = micro_model();
    let model = model.to_str().unwrap();
    let run = |arguments: &[&str], code: i32| {
        let output = program(&place, arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {out}{err}"
        );
        (out, err)
    };
    let (out, err) = run(&["lora", "export", "run", "--to", "motion.safetensors"], 0);
    assert_eq!(out.trim(), "motion.safetensors");
    assert!(err.contains("rank 2"), "{err}");
    let (out, _) = run(
        &["lora", "check", "motion.safetensors", "--model", model],
        0,
    );
    assert!(
        out.contains("Format   diffusers") && out.contains("Rank     2"),
        "{out}"
    );
    let (_, err) = run(
        &[
            "lora",
            "check",
            "motion.safetensors",
            "--model",
            "zeroscope",
        ],
        4,
    );
    assert!(err.contains("models get"), "{err}");
    let (_, err) = run(&["lora", "check", "motion.safetensors"], 2);
    assert!(
        err.contains("does not fit") && err.contains("--model"),
        "{err}"
    );
    let (out, _) = run(
        &[
            "lora",
            "check",
            "motion.safetensors",
            "--model",
            model,
            "--json",
        ],
        0,
    );
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["fits"], true);
    let words = single(
        &place,
        "words.safetensors",
        "lora_te_text_model_encoder_layers_1_mlp_fc1",
        (16, 64),
    );
    let words = format!("{}:0.25", words.display());
    // PEFT's own names, without the file that PEFT writes beside them.
    let adapter = place.path("adapter.safetensors");
    let query = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let factors = [("A", noise(1, &[2, 32])), ("B", noise(2, &[32, 2]))];
    let factors = factors.map(|(name, x)| (format!("{query}.lora_{name}.weight"), x));
    save(&adapter, factors.into_iter().collect());
    let assumed = "its alpha is in adapter_config.json, which is not beside it";
    let (out, _) = run(
        &["lora", "check", "adapter.safetensors", "--model", model],
        0,
    );
    assert!(out.contains(&format!("Note     {assumed}")), "{out}");
    let (_, err) = run(
        &[
            "sample",
            model,
            "--prompt",
            "a bear",
            "--sampling-steps",
            "2",
            "--lora",
            "motion.safetensors:0.5",
            "--lora",
            &words,
            "--lora",
            "adapter.safetensors",
            "-o",
            "film.gif",
        ],
        0,
    );
    assert!(
        err.contains("adapters of rank 2") && err.contains("strength 0.25"),
        "{err}"
    );
    assert!(
        err.contains(&format!("LoRA adapter.safetensors: {assumed}")),
        "{err}"
    );
    let (_, err) = run(
        &[
            "sample",
            model,
            "--prompt",
            "a bear",
            "--lora",
            "motion.safetensors:99",
        ],
        2,
    );
    assert!(err.contains("-10 to 10"), "{err}");
}
