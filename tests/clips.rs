//! Several clips of one motion, and trained weights that are put on a model again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use spectral_motion::job::{
    self, DeviceChoice, Event, LoraRequest, Outcome, Request, ResultRequest, ResumeRequest,
    SampleRequest, SamplingChanges, TrainRequest, Until, WeightsAbout,
};
use spectral_motion::methods::{Method, Saved, Shapes};
use spectral_motion::models::{ModelError, ModelFolder};
use spectral_motion::project::{Checkpoint, MoreClip, PlainTensor, RunFolder, TensorFile};
use spectral_motion::report::{Area, Report};
use spectral_motion::train::{Start, StepStats, TransferConfig, load_weights};
use spectral_motion::video::{self, Limits};

use crate::common::{assert_same_bits, micro_model, moving_square};

/// Latents `[1, 4, 4, 8, 8]`, as in the tests of jobs.
pub fn config(method: Method, steps: u32) -> TransferConfig {
    TransferConfig {
        method,
        rank: 2,
        steps,
        frames: Some(4),
        sampling_steps: Some(2),
        preview_every: 0,
        checkpoint_every: 2,
        ..TransferConfig::default()
    }
}

pub struct Place {
    folder: tempfile::TempDir,
    clip: PathBuf,
    other: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clip = moving_square(folder.path(), 4);
        let other = blue_circle(folder.path(), 7);
        Self {
            folder,
            clip,
            other,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn run(&self) -> PathBuf {
        self.path("run")
    }

    pub fn request(&self, config: TransferConfig) -> TrainRequest {
        TrainRequest {
            clip: self.clip.clone(),
            subject: "a red square".to_owned(),
            more_clips: Vec::new(),
            control: Default::default(),
            model: Some(micro_model()),
            device: DeviceChoice::Cpu,
            config,
            run: Some(self.run()),
            result: None,
        }
    }

    /// A training on both clips.
    pub fn both(&self, config: TransferConfig) -> TrainRequest {
        TrainRequest {
            more_clips: vec![MoreClip {
                path: self.other.clone(),
                subject: "a blue circle".to_owned(),
            }],
            ..self.request(config)
        }
    }

    /// A sample as a folder of pictures, which keep every number.
    pub fn sample(&self, source: PathBuf, name: &str) -> SampleRequest {
        SampleRequest {
            source,
            loras: Vec::new(),
            result: ResultRequest {
                prompt: "a bear".to_owned(),
                output: Some(self.path(name)),
                overwrite: false,
                scale_to: None,
            },
            changes: SamplingChanges {
                sampling_steps: Some(2),
                ..SamplingChanges::default()
            },
            device: DeviceChoice::Cpu,
        }
    }

    pub fn pixels(&self, name: &str) -> Vec<Vec<u8>> {
        let clip = video::load(&self.path(name), &Limits::default(), &|| false).unwrap();
        clip.frames.into_iter().map(|frame| frame.rgb).collect()
    }
}

/// Another subject, ground and path than [`moving_square`], and other times.
fn blue_circle(folder: &Path, frames: u32) -> PathBuf {
    let clip = folder.join("blue circle");
    fs::create_dir_all(&clip).unwrap();
    for index in 0..frames {
        let centre = (50.0 - 5.0 * f64::from(index), 30.0);
        let picture = image::RgbImage::from_fn(96, 64, |x, y| {
            let from = (f64::from(x) - centre.0).hypot(f64::from(y) - centre.1);
            image::Rgb(if from < 12.0 {
                [30, 60, 230]
            } else {
                [200, 200, 190]
            })
        });
        picture.save(clip.join(format!("{index:03}.png"))).unwrap();
    }
    clip
}

fn done(request: Request) -> Vec<Event> {
    job::spawn(request, Arc::new(|| {})).unwrap().wait()
}

#[track_caller]
fn completes(request: Request) -> Vec<Event> {
    let events = done(request);
    assert_eq!(
        events.last(),
        Some(&Event::Finished(Outcome::Completed)),
        "{events:#?}"
    );
    events
}

#[track_caller]
pub fn train(request: TrainRequest) -> Vec<Event> {
    completes(Request::Train(Box::new(request)))
}

#[track_caller]
pub fn sample(request: SampleRequest) -> Vec<Event> {
    completes(Request::Sample(Box::new(request)))
}

#[track_caller]
pub fn refused(request: Request) -> Report {
    match done(request).pop() {
        Some(Event::Finished(Outcome::Failed(report))) => report,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn metrics(run: &Path) -> Vec<StepStats> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub fn final_weights(run: &Path) -> TensorFile {
    TensorFile::read(&run.join("final/weights.safetensors")).unwrap()
}

#[test]
fn a_run_keeps_all_its_clips_and_takes_each_in_every_round() {
    for method in [Method::Vmc, Method::MotionDirector] {
        let place = Place::new();
        let events = train(place.both(config(method, 6)));
        let told = |words: &str| {
            events
                .iter()
                .any(|event| matches!(event, Event::Note { text } if text.starts_with(words)))
        };
        assert!(
            told("blue circle: "),
            "what was cut of which clip: {events:#?}"
        );

        let run = place.run();
        let text = fs::read_to_string(run.join("run.toml")).unwrap();
        assert!(
            text.starts_with("format = 2\n"),
            "programs that know one clip must refuse it: {text}"
        );
        let record = RunFolder::look::<TransferConfig>(&run).unwrap();
        assert_eq!(record.clips(), 2);
        let (words, clip) = record.clip(1);
        assert_eq!(
            (words, clip.name.as_str()),
            ("a blue circle", "blue circle")
        );
        assert_eq!((clip.frames, clip.width, clip.height), (4, 64, 64));
        assert_ne!(clip.pixels_sha256, record.clip.pixels_sha256);

        let cache = TensorFile::read(&run.join("cache/latents.safetensors")).unwrap();
        let (first, second) = (&cache.tensors["latents"], &cache.tensors["latents.2"]);
        assert_eq!(first.shape, second.shape);
        assert_ne!(first.bytes, second.bytes);
        for words in ["a red square", "a blue circle"] {
            assert!(cache.about.contains(words), "{}", cache.about);
        }

        let clips: Vec<usize> = metrics(&run).iter().map(|stats| stats.clip).collect();
        for round in clips.chunks(2) {
            let seen: BTreeSet<usize> = round.iter().copied().collect();
            assert_eq!(seen, BTreeSet::from([0, 1]), "{clips:?}");
        }
        let own_sets = final_weights(&run)
            .tensors
            .keys()
            .filter(|name| name.ends_with(".lora_up.2.weight"))
            .count();
        assert_eq!(own_sets > 0, method == Method::MotionDirector);
    }
}

/// The clip of every step, the optimiser of every set and what each set has learned must all go on where they were.
#[test]
fn a_resumed_run_of_several_clips_is_the_uninterrupted_one_bit_for_bit() {
    for method in [Method::Vmc, Method::MotionDirector] {
        let (straight, stopped) = (Place::new(), Place::new());
        train(straight.both(config(method, 5)));
        // Ends after three steps, in the middle of a round, and is extended.
        train(stopped.both(config(method, 3)));
        fs::remove_dir_all(&stopped.clip).unwrap();
        fs::remove_dir_all(&stopped.other).unwrap();
        let result = stopped.sample(stopped.run(), "unused").result;
        completes(Request::Resume(Box::new(ResumeRequest {
            run: stopped.run(),
            until: Until::Steps(5),
            prompt: None,
            result,
            device: DeviceChoice::Cpu,
        })));
        let last = |place: &Place| {
            let folders = RunFolder::open(&place.run())
                .unwrap()
                .checkpoints()
                .unwrap();
            Checkpoint::read(folders.last().unwrap()).unwrap()
        };
        let (a, b) = (last(&straight), last(&stopped));
        assert_same_bits(&a.weights, &b.weights);
        assert_same_bits(&a.optimizer, &b.optimizer);
        assert_eq!(a.state, b.state);
        if method == Method::MotionDirector {
            assert_eq!(a.state.more_spatial_updates.len(), 1);
        }
        // A run of three steps wrote its own number of steps into its first lines.
        let without_steps = |place: &Place| -> Vec<StepStats> {
            let lines = metrics(&place.run()).into_iter();
            lines.map(|stats| StepStats { steps: 0, ..stats }).collect()
        };
        assert_eq!(without_steps(&straight), without_steps(&stopped));
    }
}

/// `tests/clips/run-of-one-clip.toml` was written by the program before there could be several clips.
#[test]
fn a_run_of_one_clip_is_read_and_written_as_it_always_was() {
    let place = Place::new();
    let old = place.path("old");
    fs::create_dir(&old).unwrap();
    let text = include_str!("clips/run-of-one-clip.toml");
    fs::write(old.join("run.toml"), text).unwrap();
    let record = RunFolder::look::<TransferConfig>(&old).unwrap();
    assert_eq!(record.clips(), 1);
    assert_eq!(record.clip(0), (record.subject.as_str(), &record.clip));
    assert_eq!(record.clip.name, "moving square");
    assert_eq!(record.settings.inverted_clip, 1);

    train(place.request(config(Method::Vmc, 1)));
    let text = fs::read_to_string(place.run().join("run.toml")).unwrap();
    assert!(text.starts_with("format = 1\n"), "{text}");
    assert!(!text.contains("more_clips"), "{text}");
    let now = RunFolder::look::<TransferConfig>(&place.run()).unwrap();
    assert_eq!(
        now.clip.pixels_sha256, record.clip.pixels_sha256,
        "the same cut"
    );
    let line = fs::read_to_string(place.run().join("metrics.jsonl")).unwrap();
    let mut line: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    line.as_object_mut().unwrap().remove("clip");
    let older: StepStats = serde_json::from_value(line).unwrap();
    assert_eq!(older.clip, 0, "a line of an older run");
}

#[test]
fn samples_begin_from_the_clip_that_is_chosen() {
    let place = Place::new();
    train(place.both(config(Method::MotionDirector, 6)));
    let from = |clip: usize, look: Option<f64>, name: &str| {
        let mut request = place.sample(place.run(), name);
        request.changes.inverted_clip = Some(clip);
        request.changes.spatial_scale = look;
        request
    };
    for (clip, look, name) in [
        (1, None, "first"),
        (2, None, "second"),
        (2, Some(1.0), "second with its look"),
    ] {
        sample(from(clip, look, name));
    }
    assert_ne!(place.pixels("first"), place.pixels("second"));
    assert_ne!(place.pixels("second"), place.pixels("second with its look"));
    let report = refused(Request::Sample(Box::new(from(3, None, "third"))));
    assert_eq!(report.area, Area::Request);
    assert!(report.headline.contains("2 clips"), "{report}");
    let many = TransferConfig {
        inverted_clip: 2,
        ..config(Method::Vmc, 1)
    };
    let alone = Place::new();
    let report = refused(Request::Train(Box::new(alone.request(many))));
    assert!(report.headline.contains("there is one clip"), "{report}");
    assert!(!alone.run().exists());
}

#[test]
fn a_bad_clip_among_several_is_named() {
    let place = Place::new();
    let short = blue_circle(&place.path("short"), 3);
    let mut request = place.both(config(Method::Vmc, 1));
    request.more_clips[0].path = short.clone();
    let report = refused(Request::Train(Box::new(request)));
    assert_eq!(report.area, Area::Clip);
    assert!(
        report.to_string().contains(&short.display().to_string()),
        "{report}"
    );
    assert!(!place.run().exists());
}

/// A sample of the run and one of the model with the run's file on it, from the same noise.
fn sampled_with_the_run_and_with_its_file(method: Method) -> Place {
    let place = Place::new();
    train(place.both(config(method, 6)));
    let mut with_run = place.sample(place.run(), "with the run");
    with_run.changes.start = Some(Start::Noise);
    sample(with_run);
    let mut with_file = place.sample(micro_model(), "with its file");
    with_file.loras = vec![LoraRequest::new(
        place.run().join("final/weights.safetensors"),
    )];
    let events = sample(with_file);
    let told = events.iter().any(|event| {
        matches!(event, Event::Note { text } if text.contains("6 steps") && text.contains("a red square"))
    });
    assert!(told, "{events:#?}");
    assert_eq!(
        place.pixels("with the run"),
        place.pixels("with its file"),
        "{method:?}: saved, loaded, the same sample"
    );
    place
}

#[test]
fn adapters_are_saved_and_loaded_and_give_the_same_sample_bit_for_bit() {
    let place = sampled_with_the_run_and_with_its_file(Method::MotionDirector);
    let file = place.run().join("final/weights.safetensors");
    let with = |name: &str, changes: SamplingChanges| SampleRequest {
        loras: vec![LoraRequest::new(file.clone())],
        changes: SamplingChanges {
            sampling_steps: Some(2),
            ..changes
        },
        ..place.sample(micro_model(), name)
    };
    let scaled = |lora_scale| SamplingChanges {
        lora_scale: Some(lora_scale),
        ..SamplingChanges::default()
    };
    sample(with("half", scaled(0.5)));
    assert_ne!(place.pixels("half"), place.pixels("with its file"));
    let look = |clip| SamplingChanges {
        spatial_scale: Some(1.0),
        inverted_clip: Some(clip),
        ..SamplingChanges::default()
    };
    sample(with("look of the first", look(1)));
    sample(with("look of the second", look(2)));
    assert_ne!(
        place.pixels("look of the first"),
        place.pixels("look of the second"),
        "each clip has a set of its own"
    );
    let report = refused(Request::Sample(Box::new(with("third", look(3)))));
    assert!(report.headline.contains("2 clips"), "{report}");
    let mut on_a_run = with("on a run", SamplingChanges::default());
    on_a_run.source = place.run();
    let report = refused(Request::Sample(Box::new(on_a_run)));
    assert!(report.headline.contains("weights of its own"), "{report}");

    // The motion alone can be given away.
    let mut motion = TensorFile::read(&file).unwrap();
    motion
        .tensors
        .retain(|name, _| !name.contains(".attentions."));
    motion.about.clear();
    let motion_file = place.path("motion.safetensors");
    motion.write(&motion_file).unwrap();
    let mut without_look = with("motion alone", look(1));
    without_look.loras = vec![LoraRequest::new(motion_file)];
    let report = refused(Request::Sample(Box::new(without_look.clone())));
    assert!(
        report.headline.contains("no adapters for the look"),
        "{report}"
    );
    without_look.changes.spatial_scale = None;
    let events = sample(without_look);
    assert!(
        events.iter().any(
            |event| matches!(event, Event::Note { text } if text.contains("does not say where"))
        )
    );
}

#[test]
fn whole_weights_are_saved_and_loaded_and_give_the_same_sample_bit_for_bit() {
    let place = sampled_with_the_run_and_with_its_file(Method::Vmc);
    for (source, weights) in [
        (place.run(), None),
        (
            micro_model(),
            Some(place.run().join("final/weights.safetensors")),
        ),
        (micro_model(), None),
    ] {
        let mut request = place.sample(source, "scaled");
        request.loras = weights.into_iter().map(LoraRequest::new).collect();
        request.changes.lora_scale = Some(0.5);
        let report = refused(Request::Sample(Box::new(request)));
        assert_eq!(report.area, Area::Request);
        assert!(report.headline.contains("no adapters"), "{report}");
    }
}

#[test]
fn a_file_of_weights_says_what_it_is_and_is_the_same_for_the_same_training() {
    let (place, again) = (Place::new(), Place::new());
    train(place.both(config(Method::MotionDirector, 2)));
    train(again.both(config(Method::MotionDirector, 2)));
    let bytes = |place: &Place| fs::read(place.run().join("final/weights.safetensors")).unwrap();
    assert!(bytes(&place) == bytes(&again), "no clock and no path in it");
    let path = place.run().join("final/weights.safetensors");
    let about = WeightsAbout::of_file(&path).unwrap().unwrap();
    assert_eq!(about.method, Method::MotionDirector);
    assert_eq!((about.rank, about.steps), (Some(2), 2));
    assert_eq!(about.subject, "a red square");
    assert_eq!(about.more_subjects, ["a blue circle"]);
    assert_eq!((about.frames, about.width, about.height), (4, 64, 64));
    let record = RunFolder::look::<TransferConfig>(&place.run()).unwrap();
    assert_eq!(about.model_sha256, record.model.weights_sha256);
    // One key, whose text comes back the same when it is written again.
    let text = TensorFile::read(&path).unwrap().about;
    assert_eq!(serde_json::to_string(&about).unwrap(), text);
}

fn shapes_of(file: &TensorFile) -> Shapes {
    let tensors = file.tensors.iter();
    tensors
        .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
        .collect()
}

#[test]
fn what_does_not_fit_the_model_is_refused_by_name() {
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let place = Place::new();
    train(place.both(config(Method::MotionDirector, 1)));
    let good = shapes_of(&final_weights(&place.run()));
    let saved = Saved::check("good", good.clone(), &folder).unwrap();
    assert_eq!(saved.method(), Method::MotionDirector);
    assert_eq!((saved.rank(), saved.spatial_sets()), (Some(2), 2));

    let layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let (down, up) = (
        format!("{layer}.lora_down.weight"),
        format!("{layer}.lora_up.weight"),
    );
    let matrix = "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_q.weight";
    let changed = |change: &dyn Fn(&mut Shapes)| {
        let mut shapes = good.clone();
        change(&mut shapes);
        shapes
    };
    let whole = |name: &str, shape: Vec<usize>| Shapes::from([(name.to_owned(), shape)]);
    let cases: Vec<(&str, Shapes, &str)> = vec![
        (
            "a layer that is not there",
            changed(&|s| {
                s.insert(
                    "mid_block.attentions.7.ff.net.2.lora_up.weight".to_owned(),
                    vec![4, 2],
                );
            }),
            "1 unexpected: mid_block.attentions.7",
        ),
        (
            "a layer that gets none",
            changed(&|s| {
                s.insert(
                    "time_embedding.linear_1.lora_up.weight".to_owned(),
                    vec![4, 2],
                );
            }),
            "1 unexpected: time_embedding.linear_1",
        ),
        (
            "half an adapter",
            changed(&|s| {
                s.remove(&up);
            }),
            "1 missing: mid_block.attentions.0",
        ),
        (
            "halves of two ranks",
            changed(&|s| {
                s.insert(up.clone(), vec![32, 3]);
            }),
            "1 wrong shape: mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_up.weight is [32, 3] instead of [32, 2]",
        ),
        (
            "a rank beyond the layer",
            changed(&|s| {
                s.insert(down.clone(), vec![64, 32]);
                s.insert(up.clone(), vec![32, 64]);
            }),
            "2 wrong shape",
        ),
        (
            "no rank",
            changed(&|s| {
                s.insert(down.clone(), vec![0, 32]);
                s.insert(up.clone(), vec![32, 0]);
            }),
            "2 wrong shape",
        ),
        (
            "a million sets",
            changed(&|s| {
                s.insert(format!("{layer}.lora_down.1000000.weight"), vec![2, 32]);
                s.insert(format!("{layer}.lora_up.1000000.weight"), vec![32, 2]);
            }),
            "2 unexpected",
        ),
        (
            "adapters and weights",
            changed(&|s| {
                s.insert(matrix.to_owned(), vec![16, 16]);
            }),
            "1 unexpected: mid_block.temp_attentions.0",
        ),
        (
            "a weight of another shape",
            whole(matrix, vec![3, 3]),
            "1 wrong shape: mid_block.temp_attentions.0",
        ),
        (
            "a convolution",
            whole("conv_in.weight", vec![16, 4, 3, 3]),
            "1 unexpected: conv_in.weight",
        ),
        (
            "a name for a terminal",
            whole("\u{1b}[31mred", vec![1]),
            "1 unexpected: \\u{1b}[31mred",
        ),
        ("nothing", Shapes::new(), "holds no weights"),
    ];
    for (what, shapes, says) in cases {
        match Saved::check("bad.safetensors", shapes, &folder) {
            Err(error @ ModelError::Trained(_)) => {
                let text = error.to_string();
                assert!(text.contains("bad.safetensors"), "{what}: {text}");
                assert!(text.contains(says), "{what}: {text}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_is_none_is_refused_in_words() {
    let place = Place::new();
    train(place.request(config(Method::MotionDirector, 1)));
    let good = fs::read(place.run().join("final/weights.safetensors")).unwrap();
    let mut foreign = TensorFile::default();
    let tensor = PlainTensor::from_f32(&[1], &[1.0]);
    foreign
        .tensors
        .insert("a.lora_up.weight".to_owned(), tensor);
    let foreign = foreign.to_bytes(Path::new("foreign")).unwrap();
    for (name, bytes, area) in [
        ("text", b"dear all".to_vec(), Area::Request),
        ("cut", good[..good.len() / 2].to_vec(), Area::Request),
        ("header", good[..40].to_vec(), Area::Request),
        ("empty", Vec::new(), Area::Request),
        ("foreign", foreign, Area::Request),
    ] {
        let path = place.path(name);
        fs::write(&path, bytes).unwrap();
        let mut request = place.sample(micro_model(), "film");
        request.loras = vec![LoraRequest::new(path)];
        let report = refused(Request::Sample(Box::new(request)));
        assert_eq!(report.area, area, "{report}");
        assert!(report.headline.contains(name), "{report}");
        assert!(!report.what_to_do.is_empty(), "{report}");
    }
    let mut request = place.sample(micro_model(), "film");
    request.loras = vec![LoraRequest::new(place.path("gone"))];
    let report = refused(Request::Sample(Box::new(request)));
    assert_eq!(report.area, Area::Request, "{report}");
}

/// The header is a stranger's text: it may ask for a sample of any size.
#[test]
fn a_header_cannot_ask_for_more_than_the_model_could_paint() {
    let place = Place::new();
    train(place.request(config(Method::MotionDirector, 1)));
    let path = place.run().join("final/weights.safetensors");
    let mut file = TensorFile::read(&path).unwrap();
    let mut about: BTreeMap<String, serde_json::Value> = serde_json::from_str(&file.about).unwrap();
    about.insert("frames".to_owned(), 4_000_000_000_u64.into());
    about.insert("fps".to_owned(), 1e300.into());
    file.about = serde_json::to_string(&about).unwrap();
    let greedy = place.path("greedy.safetensors");
    file.write(&greedy).unwrap();
    let mut request = place.sample(micro_model(), "greedy");
    request.loras = vec![LoraRequest::new(greedy)];
    sample(request);
    let limits = ModelFolder::open(&micro_model()).unwrap().clip_limits();
    assert_eq!(place.pixels("greedy").len(), limits.default_frames);
}

#[test]
fn a_loaded_file_has_the_values_that_were_saved() {
    let place = Place::new();
    train(place.both(config(Method::MotionDirector, 2)));
    let file = final_weights(&place.run());
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let saved = Saved::check("file", shapes_of(&file), &folder).unwrap();
    let tuned = saved.load(&folder, &Device::Cpu).unwrap();
    load_weights(&tuned.vars, &file).unwrap();
    for (name, var) in &tuned.vars {
        let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&values), bits(&file.tensors[name].to_f32()), "{name}");
    }
    assert_eq!(tuned.vars.len(), file.tensors.len());
}
