//! Whole runs of the methods for image models, by the program and by its jobs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use spectral_motion::job::{
    self, DeviceChoice, Event, LoraRequest, Outcome, Request, ResultRequest, ResumeRequest,
    SampleRequest, SamplingChanges, TrainRequest, Until,
};
use spectral_motion::methods::Method;
use spectral_motion::project::{Control, MoreClip, RunFolder, RunRecord, TensorFile};
use spectral_motion::report::{Area, Report};
use spectral_motion::train::{InversionPrompt, Preset, TransferConfig};

use super::METHODS;
use crate::common::{
    assert_same_bits, fails, golden, image_model, micro_model, moving_square, succeeds,
};
use crate::models::copy_of;

struct Place {
    folder: tempfile::TempDir,
    clip: PathBuf,
}

fn config(method: Method, steps: u32) -> TransferConfig {
    TransferConfig {
        method,
        steps,
        frames: Some(4),
        sampling_steps: Some(2),
        preview_every: 0,
        ..TransferConfig::default()
    }
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clip = moving_square(folder.path(), 4);
        Self { folder, clip }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn request(&self, config: TransferConfig, run: &str) -> TrainRequest {
        TrainRequest {
            clip: self.clip.clone(),
            subject: "a red square".to_owned(),
            more_clips: Vec::new(),
            control: Control::default(),
            model: Some(image_model()),
            device: DeviceChoice::Cpu,
            config,
            run: Some(self.path(run)),
            result: None,
        }
    }

    fn film(&self, name: &str) -> ResultRequest {
        ResultRequest {
            prompt: "a bear".to_owned(),
            output: Some(self.path(name)),
            overwrite: false,
            scale_to: None,
        }
    }

    fn sample(&self, source: &Path, weights: Option<PathBuf>, film: &str) -> SampleRequest {
        SampleRequest {
            source: source.to_owned(),
            loras: weights.into_iter().map(LoraRequest::new).collect(),
            result: self.film(film),
            changes: SamplingChanges::default(),
            device: DeviceChoice::Cpu,
        }
    }

    /// The image model without its ControlNet, which goes beside it.
    fn apart(&self) -> (tempfile::TempDir, PathBuf) {
        let (model, controlnet) = (copy_of(&image_model()), self.path("edges"));
        fs::rename(model.path().join("controlnet"), &controlnet).unwrap();
        (model, controlnet)
    }
}

fn done(request: Request) -> Vec<Event> {
    let events = job::spawn(request, Arc::new(|| {})).unwrap().wait();
    match events.last() {
        Some(Event::Finished(Outcome::Completed)) => events,
        other => panic!("{other:?}"),
    }
}

fn train(request: TrainRequest) -> Vec<Event> {
    done(Request::Train(Box::new(request)))
}

fn refused(request: Request) -> Report {
    let events = job::spawn(request, Arc::new(|| {})).unwrap().wait();
    match events.last() {
        Some(Event::Finished(Outcome::Failed(report))) => report.clone(),
        other => panic!("{other:?}"),
    }
}

fn refused_training(request: TrainRequest) -> Report {
    refused(Request::Train(Box::new(request)))
}

fn weights(run: &Path) -> TensorFile {
    TensorFile::read(&run.join("final/weights.safetensors")).unwrap()
}

fn pictures(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .collect();
    files.sort();
    files.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn notes(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Note { text } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_run_that_goes_on_ends_bitwise_where_a_whole_one_does() {
    for method in METHODS {
        let place = Place::new();
        train(place.request(config(method, 4), "whole"));
        train(place.request(config(method, 2), "half"));
        let resume = ResumeRequest {
            run: place.path("half"),
            until: Until::Steps(4),
            prompt: None,
            result: place.film("unused.gif"),
            device: DeviceChoice::Cpu,
        };
        done(Request::Resume(Box::new(resume)));
        let (whole, half) = (weights(&place.path("whole")), weights(&place.path("half")));
        assert_same_bits(&whole, &half);
        assert!(
            whole.tensors.keys().all(|name| method.trains(name)),
            "{method:?}"
        );
        let controlnets = whole
            .tensors
            .keys()
            .filter(|name| name.starts_with("controlnet."));
        assert_eq!(controlnets.count() > 0, method.is_controlled());
        let file = place.path("whole").join("final/weights.safetensors");
        let about = job::WeightsAbout::of_file(&file).unwrap().unwrap();
        assert_eq!((about.method, about.steps), (method, 4));
        assert!(!about.subject.is_empty() && !about.model_sha256.is_empty());
    }
}

#[test]
fn a_run_samples_as_it_was_sampled_and_so_do_its_weights_on_the_model() {
    let place = Place::new();
    let mut request = place.request(config(Method::TuneAVideo, 2), "run");
    request.result = Some(place.film("first"));
    train(request);
    let run = place.path("run");
    done(Request::Sample(Box::new(place.sample(&run, None, "again"))));
    let first = pictures(&place.path("first"));
    assert_eq!(first.len(), 4);
    assert_eq!(first, pictures(&place.path("again")));

    // From noise, so that the run needs its clip no more than the model alone.
    let from_noise = |source: &Path, weights, film| {
        let mut request = place.sample(source, weights, film);
        request.changes.start = Some(spectral_motion::train::Start::Noise);
        request.changes.seed = Some(5);
        request.changes.sampling_steps = Some(2);
        request.changes.guidance = Some(9.0);
        request
    };
    done(Request::Sample(Box::new(from_noise(&run, None, "noise"))));
    let file = run.join("final/weights.safetensors");
    let events = done(Request::Sample(Box::new(from_noise(
        &image_model(),
        Some(file),
        "model",
    ))));
    assert_eq!(
        pictures(&place.path("noise")),
        pictures(&place.path("model"))
    );
    assert_ne!(first, pictures(&place.path("noise")));
    // A LoRA for the image model, its text encoder among it, changes weights that the run trained and others.
    for (film, strength) in [("lora", 1.0), ("no lora", 0.0)] {
        let mut request = from_noise(&run, None, film);
        request.loras.push(LoraRequest {
            file: golden("lora/image.safetensors"),
            strength,
        });
        done(Request::Sample(Box::new(request)));
    }
    let noise = pictures(&place.path("noise"));
    assert_ne!(pictures(&place.path("lora")), noise);
    assert_eq!(pictures(&place.path("no lora")), noise);
    assert!(
        notes(&events)
            .iter()
            .any(|note| note.contains("whole weights"))
    );
}

/// The clip that leads it is drawn by the program or given by a person, kept in the run, and used in training, inversion and
/// samples.
#[test]
fn control_video_follows_edges_or_a_clip_of_ones_own() {
    let place = Place::new();
    let config = TransferConfig {
        inversion_prompt: InversionPrompt::Subject,
        ..config(Method::ControlVideo, 2)
    };
    let run = |name: &str, clip: Option<&Path>| {
        let mut request = place.request(config.clone(), name);
        request.control.clip = clip.map(Path::to_owned);
        request.result = Some(place.film(&format!("{name} film")));
        train(request)
    };
    let events = run("edges", None);
    assert!(
        notes(&events).contains(&"Edges lead it (Canny, 100 and 100)."),
        "{:?}",
        notes(&events)
    );
    // The clip's edges as files: the same training, to the bit.
    let clip = spectral_motion::video::load(&place.clip, &Default::default(), &|| false).unwrap();
    let drawn = place.path("drawn");
    fs::create_dir_all(&drawn).unwrap();
    for (i, frame) in clip.frames.iter().enumerate() {
        let edges = spectral_motion::video::canny(frame, 100.0, 100.0);
        let picture = image::RgbImage::from_raw(edges.width, edges.height, edges.rgb).unwrap();
        picture.save(drawn.join(format!("{i:03}.png"))).unwrap();
    }
    let events = run("own", Some(&drawn));
    assert!(notes(&events).contains(&"drawn leads it."));
    assert_same_bits(&weights(&place.path("edges")), &weights(&place.path("own")));
    assert_eq!(
        pictures(&place.path("edges film")),
        pictures(&place.path("own film"))
    );
    // Another clip in their place: another training.
    run("other", Some(&place.clip));
    let (one, other) = (weights(&place.path("edges")), weights(&place.path("other")));
    assert!(one.tensors != other.tensors);
    assert_ne!(
        pictures(&place.path("edges film")),
        pictures(&place.path("other film"))
    );

    // A run knows what led it; its weights alone do not.
    let whole = place.path("other");
    fs::remove_dir_all(&place.clip).unwrap();
    done(Request::Sample(Box::new(
        place.sample(&whole, None, "again"),
    )));
    assert_eq!(
        pictures(&place.path("again")),
        pictures(&place.path("other film"))
    );
    let file = whole.join("final/weights.safetensors");
    let sample = place.sample(&image_model(), Some(file), "none");
    let report = refused(Request::Sample(Box::new(sample)));
    assert_eq!(report.area, Area::Request);
    assert!(report.to_string().contains("no clip to follow"), "{report}");
    assert!(
        report.to_string().contains("Sample from the run"),
        "{report}"
    );
}

#[test]
fn a_control_clip_must_fit_its_clip() {
    let place = Place::new();
    let config = config(Method::ControlVideo, 1);
    let short = moving_square(&place.path("short"), 2);
    let mut request = place.request(config.clone(), "run");
    request.control.clip = Some(short);
    let report = refused_training(request);
    assert_eq!(report.area, Area::Clip);
    let mut request = place.request(config, "run");
    request.control.clip = Some(place.clip.clone());
    request.more_clips = vec![MoreClip {
        path: place.clip.clone(),
        subject: "a square".to_owned(),
    }];
    let report = refused_training(request);
    assert!(
        report.to_string().contains("cannot lead several clips"),
        "{report}"
    );
    assert!(!place.path("run").exists());
}

#[test]
fn a_controlnet_of_its_own_folder_is_found_again() {
    let place = Place::new();
    let (model, controlnet) = place.apart();
    let mut request = place.request(config(Method::ControlVideo, 1), "run");
    request.model = Some(model.path().to_owned());
    let report = refused_training(request.clone());
    let told = report.to_string();
    assert!(
        told.contains("no ControlNet in the model's folder") && told.contains("--controlnet"),
        "{told}"
    );
    request.control.controlnet = Some(controlnet.clone());
    train(request);
    let run = RunFolder::open(&place.path("run")).unwrap();
    let record: RunRecord<TransferConfig> = run.read_record().unwrap();
    assert_eq!(
        record.model.controlnet,
        Some(controlnet.display().to_string())
    );
    let hashed = record.model.weights_sha256.keys();
    assert!(
        hashed.clone().any(|file| file.starts_with("controlnet/")),
        "{hashed:?}"
    );
    drop(run);
    // As with the ControlNet inside the model, to the bit.
    train(place.request(config(Method::ControlVideo, 1), "inside"));
    assert_same_bits(
        &weights(&place.path("run")),
        &weights(&place.path("inside")),
    );
    let sample = |film| Request::Sample(Box::new(place.sample(&place.path("run"), None, film)));
    done(sample("film.gif"));
    // Another one in its place is told.
    let file = controlnet.join("diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let report = refused(sample("other.gif"));
    assert!(
        report
            .to_string()
            .contains("is not the one this run was made with"),
        "{report}"
    );
}

fn program(place: &Place) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spectral-motion"));
    command
        .current_dir(place.folder.path())
        .env("XDG_DATA_HOME", place.path("data"))
        .stdin(Stdio::null());
    command
}

#[test]
fn the_command_line_says_what_a_method_needs() {
    let place = Place::new();
    let transfer = |method: &str, model: Option<&Path>| {
        let mut command = program(&place);
        command
            .arg("transfer")
            .arg(&place.clip)
            .args(["--method", method]);
        command.args([
            "--subject",
            "a red square",
            "--prompt",
            "a bear",
            "--device",
            "cpu",
        ]);
        command.args(["--frames", "4", "--sampling-steps", "2", "--steps", "1"]);
        if let Some(model) = model {
            command.arg("--model").arg(model);
        }
        command
    };
    for method in ["tune-a-video", "control-video"] {
        let says = [
            "begins with a model for still pictures",
            "Leave --model out for the built-in one",
            "models get sd15",
        ];
        fails(transfer(method, Some(&micro_model())), 2, &says);
        let mut command = transfer(method, Some(&image_model()));
        command.args(["--output", &format!("{method}.gif")]);
        succeeds(command);
        assert!(place.path(&format!("{method}.gif")).is_file());
    }
    for method in ["vmc", "motion-director"] {
        let says = ["needs a text-to-video model", "--method tune-a-video"];
        fails(transfer(method, Some(&image_model())), 2, &says);
    }
    let mut sample = program(&place);
    sample
        .arg("sample")
        .arg(image_model())
        .args(["--prompt", "a bear"]);
    fails(sample, 2, &["makes still pictures, not films", "--lora"]);
    let mut sample = program(&place);
    sample.args(["sample", "builtin-image", "--prompt", "a red star"]);
    fails(sample, 2, &["makes still pictures, not films", "--lora"]);
    let mut suite = program(&place);
    suite.args([
        "evaluate",
        "--suite",
        "drawn",
        "--method",
        "vmc,tune-a-video",
    ]);
    fails(suite, 2, &["no rows of one table", "two suites"]);
    let mut command = transfer("control-video", Some(&image_model()));
    command.args(["--canny", "200,100"]);
    fails(command, 2, &["--canny is 200"]);
    let mut command = transfer("control-video", Some(&image_model()));
    command.args(["--condition", "nothing.mp4"]);
    fails(command, 3, &["nothing.mp4"]);
}

/// The folder of a Depth Anything model leads by the depth it estimates, of several clips too; the run keeps what led it.
#[test]
fn depth_that_a_model_estimates_leads() {
    let place = Place::new();
    let second = moving_square(&place.path("second"), 4);
    let run = place.path("run");
    let mut command = program(&place);
    command.arg("train").arg(&place.clip).arg(&second);
    command.args(["--subject", "a red square", "--method", "control-video"]);
    command.args(["--frames", "4", "--steps", "2", "--device", "cpu"]);
    command
        .arg("--condition")
        .arg(golden("depth"))
        .arg("--run")
        .arg(&run);
    succeeds(command);
    let record: RunRecord<TransferConfig> = RunFolder::look(&run).unwrap();
    let says = "Depth leads it, as depth estimates it.";
    assert!(
        record.clip.notes.iter().any(|note| note == says),
        "{:?}",
        record.clip.notes
    );
    assert!(
        record.more_clips[0]
            .clip
            .notes
            .iter()
            .any(|note| note == says)
    );

    let damaged = place.path("damaged");
    fs::create_dir(&damaged).unwrap();
    fs::copy(golden("depth/config.json"), damaged.join("config.json")).unwrap();
    let mut command = program(&place);
    command.arg("train").arg(&place.clip);
    command.args(["--subject", "a red square", "--method", "control-video"]);
    command.args(["--frames", "4", "--steps", "2", "--device", "cpu"]);
    command.arg("--condition").arg(&damaged);
    fails(command, 4, &["is not complete", "model.safetensors"]);
}

/// Without a model each method begins with the built-in one of its kind; the run knows it again, and so do its weights.
#[test]
fn without_a_model_the_built_in_image_model_is_taken() {
    let place = Place::new();
    let few = ["--steps", "2", "--sampling-steps", "2"];
    let run = |arguments: &[&str]| {
        let mut command = program(&place);
        command.args(arguments).args(["--device", "cpu"]);
        succeeds(command);
    };
    for method in ["tune-a-video", "control-video"] {
        let run_folder = place.path(method);
        let folder = run_folder.display().to_string();
        let film = format!("{method}.gif");
        let clip = place.clip.display().to_string();
        let mut transfer = vec!["transfer", &clip, "--method", method, "--run", &folder];
        transfer.extend(["--subject", "a red square", "--prompt", "a yellow star"]);
        transfer.extend(["--frames", "4", "--output", &film]);
        transfer.extend(few);
        run(&transfer);
        assert!(place.path(&film).is_file());
        let run_record: RunRecord<TransferConfig> = RunFolder::look(&run_folder).unwrap();
        assert_eq!(run_record.model.name, "builtin-image");
        assert_eq!(
            (run_record.model.folder, run_record.model.controlnet),
            (None, None)
        );
        let settings = run_record.settings;
        let preset = Preset::of(settings.method, true).unwrap().config().unwrap();
        assert_eq!(
            settings.learning_rate.to_bits(),
            preset.learning_rate.to_bits()
        );
        run(&["resume", &folder, "--steps", "3"]);
        let again = format!("{method} again.gif");
        run(&[
            "sample",
            &folder,
            "--prompt",
            "a blue circle",
            "--output",
            &again,
        ]);
        assert!(place.path(&again).is_file());
    }
    // The weights say by which method they came, and with it which of the built-in models they are for.
    let weights = place.path("tune-a-video/final/weights.safetensors");
    let weights = weights.display().to_string();
    let mut sample = vec![
        "sample",
        "builtin",
        "--lora",
        &weights,
        "--prompt",
        "a yellow star",
    ];
    sample.extend(["--sampling-steps", "2", "--output", "of weights.gif"]);
    run(&sample);
    assert!(place.path("of weights.gif").is_file());
}
