//! What people name when they are asked for a model's folder, and what they are told.

use std::fs;
use std::path::Path;

use spectral_motion::models::{Mistake, ModelError, ModelFolder};
use tempfile::TempDir;

use super::{micro, micro_copy};

#[track_caller]
fn mistake(path: &Path) -> (Mistake, String) {
    let error = ModelFolder::open(path).unwrap_err();
    let (message, advice) = (error.to_string(), error.advice());
    let ModelError::Mistaken {
        mistake,
        path: named,
    } = error
    else {
        panic!("{message}");
    };
    assert_eq!(named, path);
    assert!(
        message.starts_with(&path.display().to_string()),
        "{message}"
    );
    (mistake, format!("{message}. {advice}"))
}

/// The words of a refusal and its advice.
#[track_caller]
fn told(path: &Path) -> String {
    let error = ModelFolder::open(path).unwrap_err();
    format!("{error}. {}", error.advice())
}

#[test]
fn what_is_not_there_is_told_from_the_name_of_a_model_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(mistake(&dir.path().join("gone")).0, Mistake::NotThere);
    for name in [
        "cerspense/zeroscope_v2_576w",
        "ali-vilab/text-to-video-ms-1.7b",
        "https://huggingface.co/cerspense/zeroscope_v2_576w",
    ] {
        let (what, message) = mistake(Path::new(name));
        assert_eq!(what, Mistake::HubName, "{name}");
        assert!(message.contains("Nothing was downloaded"), "{message}");
    }
    // A path with a slip of the pen, and names that no hub has.
    for name in [
        "tests/golden-models",
        "./model",
        "../x",
        "a/b/c",
        "zeroscope",
        "a b/c",
    ] {
        assert_eq!(mistake(Path::new(name)).0, Mistake::NotThere, "{name}");
    }
}

#[test]
fn a_part_of_a_model_leads_to_the_model() {
    let copy = micro_copy();
    for (part, class) in [
        ("unet", "UNet3DConditionModel"),
        ("vae", "AutoencoderKL"),
        ("text_encoder", "CLIPTextModel"),
    ] {
        let (what, message) = mistake(&copy.path().join(part));
        let model = Some(copy.path().to_owned());
        assert_eq!(
            what,
            Mistake::Part {
                class: class.to_owned(),
                model
            }
        );
        assert!(message.contains("is one part of a model"), "{message}");
        assert!(
            message.ends_with(&format!(
                "Name the folder around it: {}",
                copy.path().display()
            )),
            "{message}"
        );
    }
    fs::remove_file(copy.path().join("model_index.json")).unwrap();
    let (what, _) = mistake(&copy.path().join("unet"));
    assert!(
        matches!(what, Mistake::Part { model: None, .. }),
        "{what:?}"
    );
}

#[test]
fn a_single_file_is_no_model() {
    let unet = micro().join("unet/diffusion_pytorch_model.safetensors");
    let (what, message) = mistake(&unet);
    assert_eq!(
        what,
        Mistake::WeightFile {
            model: Some(micro())
        }
    );
    assert!(message.contains("is a single file of weights"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "zs2_XL.pth",
        "model.ckpt",
        "v1-5-pruned.SafeTensors",
        "pytorch_model.bin",
    ] {
        let path = dir.path().join(name);
        fs::write(&path, b"weights").unwrap();
        let (what, message) = mistake(&path);
        assert_eq!(what, Mistake::WeightFile { model: None });
        assert!(
            message.contains("Get the model in diffusers layout"),
            "{message}"
        );
    }
    let film = dir.path().join("film.mp4");
    fs::write(&film, b"film").unwrap();
    assert_eq!(mistake(&film).0, Mistake::File);
    assert_eq!(mistake(&micro().join("model_index.json")).0, Mistake::File);
}

#[test]
fn an_image_model_of_another_family_is_told_with_the_methods_that_need_one() {
    // Stable Diffusion XL as it is published, of which only the index is looked at.
    let dir = tempfile::tempdir().unwrap();
    let index = r#"{"_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.19.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]}"#;
    fs::write(dir.path().join("model_index.json"), index).unwrap();
    let (what, message) = mistake(dir.path());
    let pipeline = "StableDiffusionXLPipeline".to_owned();
    assert_eq!(what, Mistake::ImageModel { pipeline });
    for words in [
        "still pictures",
        "VMC and MotionDirector need a text-to-video model",
        "begin with Stable Diffusion 1.x",
    ] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn notes_of_git_lfs_are_no_weights() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 2823086369\n";
    for file in [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "vae/config.json",
    ] {
        let copy = micro_copy();
        fs::write(copy.path().join(file), pointer).unwrap();
        let message = told(copy.path());
        assert!(
            message.contains(file) && message.contains("a note of Git LFS"),
            "{message}"
        );
        assert!(message.contains("git lfs pull"), "{message}");
    }
}

#[test]
fn a_download_that_did_not_end_is_told() {
    let copy = micro_copy();
    let unet = copy.path().join("unet");
    let weights = unet.join("diffusion_pytorch_model.safetensors");
    fs::rename(
        &weights,
        unet.join("diffusion_pytorch_model.safetensors.part"),
    )
    .unwrap();
    fs::remove_file(copy.path().join("tokenizer/vocab.json")).unwrap();
    fs::remove_file(copy.path().join("tokenizer/tokenizer.json")).unwrap();
    let message = told(copy.path());
    for words in [
        "is not complete",
        "unet/diffusion_pytorch_model.safetensors",
        "tokenizer/vocab.json and tokenizer/merges.txt, or tokenizer/tokenizer.json missing",
        "a download did not end: unet/diffusion_pytorch_model.safetensors.part",
        "let it finish",
    ] {
        assert!(message.contains(words), "says {words:?}: {message}");
    }
    // One that ended too early, told before any weight is read.
    let copy = micro_copy();
    let weights = copy.path().join("vae/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let error = ModelFolder::open(copy.path())
        .unwrap()
        .check_weights()
        .unwrap_err();
    assert!(
        error.to_string().contains("bytes of numbers and holds"),
        "{error}"
    );
    assert!(error.advice().contains("Get the model again"));
}

/// Puts the micro model where Hugging Face's own program would put it, links and all.
#[cfg(unix)]
fn cache(entry: &Path, version: &str) {
    use std::os::unix::fs::symlink;
    let (blobs, snapshot) = (entry.join("blobs"), entry.join("snapshots").join(version));
    fs::create_dir_all(&blobs).unwrap();
    for part in ["", "unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        fs::create_dir_all(snapshot.join(part)).unwrap();
        for file in fs::read_dir(micro().join(part)).unwrap() {
            let file = file.unwrap();
            if file.path().is_file() {
                let name = file.file_name().into_string().unwrap();
                let blob = format!("{version}-{part}-{name}");
                fs::copy(file.path(), blobs.join(&blob)).unwrap();
                let up = if part.is_empty() {
                    "../../"
                } else {
                    "../../../"
                };
                symlink(format!("{up}blobs/{blob}"), snapshot.join(part).join(name)).unwrap();
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_folder_of_hugging_faces_cache_is_the_model_in_it() {
    let hub = TempDir::new().unwrap();
    let entry = hub.path().join("models--cerspense--zeroscope_v2_576w");
    let (first, second) = ("6963642a64dbefa93663d1ecebb4ceda2d9ecb28", "b2d9ecb28");
    cache(&entry, first);
    let snapshots = entry.join("snapshots");
    let opened = |path: &Path| {
        let folder = ModelFolder::open(path).unwrap();
        folder.check_weights().unwrap();
        assert_eq!(folder.name(), "cerspense/zeroscope_v2_576w");
        folder.source().locate("")
    };
    let dir = |version: &str| snapshots.join(version);
    for path in [&dir(first), &snapshots, &entry] {
        assert_eq!(
            opened(path).components().next_back(),
            dir(first).components().next_back()
        );
    }
    // With two versions the one called main is taken.
    cache(&entry, second);
    let (what, message) = mistake(&entry);
    assert_eq!(what, Mistake::NoSnapshot { versions: 2 });
    assert!(
        message.contains("Name one of the folders in its snapshots"),
        "{message}"
    );
    fs::create_dir_all(entry.join("refs")).unwrap();
    let main = |text: &str| fs::write(entry.join("refs/main"), text).unwrap();
    main(second);
    assert!(opened(&entry).ends_with(second));
    // A reference that leads out of the cache is none.
    main("../../../elsewhere");
    assert_eq!(mistake(&entry).0, Mistake::NoSnapshot { versions: 2 });
    // A version of which a blob is still being fetched.
    main(second);
    let blob = entry.join(format!(
        "blobs/{second}-unet-diffusion_pytorch_model.safetensors"
    ));
    fs::rename(&blob, entry.join("blobs/4d7a2146.incomplete")).unwrap();
    let message = told(&entry);
    assert!(
        message.contains("unet/diffusion_pytorch_model.safetensors missing")
            && message.contains("4d7a2146.incomplete"),
        "{message}"
    );
    // The folder around all models.
    fs::create_dir_all(hub.path().join("models--a--b/snapshots")).unwrap();
    let (what, message) = mistake(hub.path());
    let models = vec![
        "models--a--b".to_owned(),
        "models--cerspense--zeroscope_v2_576w".to_owned(),
    ];
    assert_eq!(what, Mistake::Around { models });
    assert!(message.contains("Name one of them"), "{message}");
    let (what, _) = mistake(&hub.path().join("models--a--b"));
    assert_eq!(what, Mistake::NoSnapshot { versions: 0 });
}

#[test]
fn a_run_and_a_folder_around_models_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("run.toml"), "format = 1").unwrap();
    let (what, message) = mistake(dir.path());
    assert_eq!(what, Mistake::Run);
    assert!(message.contains("is a run of this program"), "{message}");
    let (what, message) = mistake(micro().parent().unwrap());
    assert_eq!(
        what,
        Mistake::Around {
            models: vec!["model".to_owned()]
        }
    );
    assert!(
        message.contains("there are models in it: model"),
        "{message}"
    );
}

#[test]
fn modelscopes_own_layout_is_known() {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "configuration.json",
        "VQGAN_autoencoder.pth",
        "open_clip_pytorch_model.bin",
        "text2video_pytorch_model.pth",
    ] {
        fs::write(dir.path().join(file), b"weights").unwrap();
    }
    let (what, message) = mistake(dir.path());
    assert_eq!(what, Mistake::OriginalLayout);
    assert!(
        message.contains("Get the same model in diffusers layout"),
        "{message}"
    );
}

#[test]
fn what_looks_like_a_model_is_meant_as_one() {
    let copy = micro_copy();
    for meant in ["", "unet", "unet/diffusion_pytorch_model.safetensors"] {
        assert!(ModelFolder::is_meant(&copy.path().join(meant)), "{meant}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("001.png"), b"picture").unwrap();
    for other in [
        dir.path().to_owned(),
        dir.path().join("001.png"),
        dir.path().join("gone"),
    ] {
        assert!(!ModelFolder::is_meant(&other), "{}", other.display());
    }
}
