//! The real program in a fresh folder: exit codes, messages, files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{errors, fails, micro_model, moving_square};
use crate::models::torch_writer::{Pickle, checkpoint};

struct Place {
    folder: tempfile::TempDir,
    clip: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clip = moving_square(folder.path(), 4);
        Self { folder, clip }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spectral-motion"));
        // Runs go into the test's folder, not into the data folder of whoever runs the tests.
        command
            .current_dir(self.path())
            .env("XDG_DATA_HOME", self.path().join("data"))
            .env("HF_HOME", self.path().join("home"))
            .env_remove("HF_HUB_CACHE");
        command.stdin(Stdio::null());
        command
    }

    /// `COMMAND CLIP` with the micro model and settings that take a second.
    fn quick(&self, command: &str, clip: &Path) -> Command {
        let mut program = self.program();
        program
            .arg(command)
            .arg(clip)
            .args(["--subject", "a red square", "--steps", "2"]);
        program.args([
            "--frames",
            "4",
            "--sampling-steps",
            "2",
            "--device",
            "cpu",
            "--model",
        ]);
        program.arg(micro_model());
        program
    }

    fn transfer(&self, clip: &Path) -> Command {
        let mut program = self.quick("transfer", clip);
        program.args(["--prompt", "a bear / on the moon"]);
        program
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_transfer_names_its_film_after_clip_and_prompt_and_overwrites_nothing() {
    let place = Place::new();
    for name in [
        "moving square - a bear on the moon",
        "moving square - a bear on the moon 2",
    ] {
        let output = place.transfer(&place.clip).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        let extension = if cfg!(feature = "video") {
            "mp4"
        } else {
            "gif"
        };
        let film = format!("{name}.{extension}");
        assert_eq!(
            stdout(&output).trim(),
            film,
            "standard output has the film's name only"
        );
        assert!(place.path().join(&film).is_file());
    }
    let runs: Vec<_> = fs::read_dir(place.path().join("data/spectral-motion/runs"))
        .unwrap()
        .collect();
    assert_eq!(runs.len(), 2, "each transfer has a run of its own");
}

#[test]
fn json_is_one_event_a_line_and_ends_with_finished() {
    let place = Place::new();
    let mut program = place.quick("train", &place.clip);
    let output = program.args(["--json", "--run", "run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let text = stdout(&output);
    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.first().unwrap()["event"], "started");
    assert_eq!(events.last().unwrap()["event"], "finished");
    assert_eq!(events.last().unwrap()["outcome"], "completed");
    assert_eq!(
        events
            .iter()
            .filter(|event| event["event"] == "step")
            .count(),
        2
    );
    assert!(place.path().join("run/final/weights.safetensors").is_file());

    let mut program = place.program();
    program.args([
        "sample", "run", "--prompt", "a car", "-o", "film.gif", "--json",
    ]);
    let output = program.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(
        stdout(&output)
            .lines()
            .last()
            .unwrap()
            .contains("\"finished\"")
    );
    assert!(place.path().join("film.gif").is_file());
}

#[test]
fn several_clips_are_learned_together_and_their_weights_put_on_a_model() {
    let place = Place::new();
    let other = moving_square(&place.path().join("other"), 5);
    let mut program = place.quick("train", &place.clip);
    program.arg(&other).args([
        "--subject",
        "a square that moves",
        "--method",
        "motion-director",
        "--rank",
        "2",
        "--run",
        "run",
    ]);
    let output = program.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let record = fs::read_to_string(place.path().join("run/run.toml")).unwrap();
    for words in ["[[more_clips]]", "a red square", "a square that moves"] {
        assert!(record.contains(words), "{record}");
    }

    let weights = "run/final/weights.safetensors";
    for flag in ["--lora", "--weights"] {
        let mut program = place.program();
        program.arg("sample").arg(micro_model()).args([
            flag,
            weights,
            "--lora-scale",
            "0.5",
            "--prompt",
            "a car",
            "--sampling-steps",
            "2",
            "-o",
            "film.gif",
            "--overwrite",
        ]);
        let output = program.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        assert!(errors(&output).contains("adapters of rank 2"));
        assert!(place.path().join("film.gif").is_file());
    }
    let mut misfit = place.program();
    misfit.args(["sample", "builtin", "--lora", weights, "--prompt", "a car"]);
    fails(
        misfit,
        2,
        &["do not fit this model", "wrong shape", "lora_down"],
    );
    let mut on_a_run = place.program();
    on_a_run.args(["sample", "run", "--lora", weights, "--prompt", "a car"]);
    fails(on_a_run, 2, &["weights of its own", "--lora"]);
    let mut nothing_to_scale = place.program();
    nothing_to_scale.args([
        "sample",
        "builtin",
        "--lora-scale",
        "2",
        "--prompt",
        "a car",
    ]);
    fails(nothing_to_scale, 2, &["no adapters"]);
    let mut no_such_clip = place.program();
    no_such_clip.args(["sample", "run", "--inverted-clip", "3", "--prompt", "a car"]);
    fails(no_such_clip, 2, &["--inverted-clip is 3", "2 clips"]);
}

#[test]
fn words_are_given_once_or_for_every_clip() {
    let place = Place::new();
    let mut program = place.transfer(&place.clip);
    program.args(["--subject", "a square"]);
    fails(program, 2, &["1 clip and 2 --subjects", "once for each"]);
    let mut program = place.transfer(&place.clip);
    program
        .arg(&place.clip)
        .arg(&place.clip)
        .args(["--subject", "a square"]);
    fails(program, 2, &["3 clips and 2 --subjects"]);
    let mut program = place.transfer(&place.clip);
    program.arg(&place.clip).args(["--subject", " "]);
    fails(program, 2, &["--subject has no words"]);
    let mut program = place.transfer(&place.clip);
    program.arg("missing.mp4");
    fails(program, 3, &["missing.mp4"]);
}

#[test]
fn a_failure_is_told_on_the_last_json_line_too() {
    let place = Place::new();
    let output = place
        .transfer(Path::new("nothing.mp4"))
        .arg("--json")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    let text = stdout(&output);
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "finished");
    assert_eq!(last["outcome"], "failed");
    assert_eq!(last["area"], "clip");
    assert!(!last["what_to_do"].as_str().unwrap().is_empty());
}

#[test]
fn clips_that_are_none_are_told_apart_with_exit_code_3() {
    let place = Place::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = place.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let text = file(
        "notes.mp4",
        b"dear diary, today I saw a film and it was long and good\n",
    );
    let empty = file("empty.mp4", b"");
    let folder = place.path().join("empty folder");
    fs::create_dir(&folder).unwrap();
    fails(
        place.transfer(Path::new("missing.mp4")),
        3,
        &["missing.mp4", "no file"],
    );
    fails(place.transfer(&empty), 3, &["empty.mp4", "0 bytes"]);
    fails(place.transfer(&folder), 3, &["empty folder", "no pictures"]);
    fails(
        place.transfer(Path::new("https://example.com/film.mp4")),
        3,
        &["address", "Nothing was downloaded"],
    );
    if cfg!(feature = "video") {
        fails(place.transfer(&text), 3, &["notes.mp4", "not a film"]);
    }
    let runs = place.path().join("data");
    assert!(
        !runs.exists(),
        "no run is begun for a clip that cannot be read"
    );
}

#[cfg(unix)]
#[test]
fn a_name_that_is_not_utf8_works() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    let odd = place.path().join(std::ffi::OsStr::from_bytes(b"cl\xffip"));
    fs::rename(&place.clip, &odd).unwrap();
    let output = place
        .transfer(&odd)
        .arg("--json")
        .args(["-o", "film.gif"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(place.path().join("film.gif").is_file());
}

/// Whoever reads the progress may go away: the work is done all the same.
#[test]
fn a_closed_terminal_ends_nothing() {
    let place = Place::new();
    let mut program = place.transfer(&place.clip);
    let mut child = program
        .args(["-o", "film.gif"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(place.path().join("film.gif").is_file());
}

/// A run writes the model's folder down as text.
#[cfg(target_os = "linux")]
#[test]
fn a_model_in_a_folder_that_is_no_text_is_refused_before_training() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    let odd = place.path().join(std::ffi::OsStr::from_bytes(b"mo\xffdel"));
    std::os::unix::fs::symlink(micro_model(), &odd).unwrap();
    let mut program = place.program();
    program.arg("train").arg(&place.clip);
    program.args(["--subject", "a red square", "--frames", "4", "--model"]);
    program.arg(&odd);
    fails(program, 4, &["a name that is no text", "Rename"]);
}

/// A network that overflows would paint a black film, which looks like a result.
#[test]
fn a_sample_that_is_no_number_is_no_film() {
    let place = Place::new();
    let model = place.path().join("model");
    let parts = ["", "unet", "vae", "text_encoder", "tokenizer", "scheduler"];
    for part in parts {
        fs::create_dir_all(model.join(part)).unwrap();
        for entry in fs::read_dir(micro_model().join(part)).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() {
                fs::copy(&from, model.join(part).join(from.file_name().unwrap())).unwrap();
            }
        }
    }
    let path = model.join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let about: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let first = about["conv_out.bias"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[header + first..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let mut program = place.program();
    program.arg("sample").arg(&model);
    program.args([
        "--prompt",
        "a car",
        "--sampling-steps",
        "2",
        "-o",
        "film.gif",
    ]);
    fails(program, 1, &["Sampling led to numbers", "--precision"]);
    assert!(!place.path().join("film.gif").exists());
}

#[test]
fn what_cannot_be_asked_for_has_exit_code_2() {
    let place = Place::new();
    let mut no_subject = place.program();
    no_subject.args(["transfer", "clip.mp4", "--prompt", "a bear"]);
    fails(no_subject, 2, &["--subject"]);
    let mut empty_words = place.program();
    empty_words.args(["transfer", "clip.mp4", "--prompt", " ", "--subject", "x"]);
    fails(empty_words, 2, &["--prompt has no words"]);
    let mut range = place.transfer(&place.clip);
    range.args(["--lambda-g", "-1"]);
    fails(range, 2, &["--lambda-g"]);
    let mut range = place.transfer(&place.clip);
    range.args(["--learning-rate", "0"]);
    fails(range, 2, &["--learning-rate is 0", "above 0"]);
    fs::write(place.path().join("film.gif"), "mine").unwrap();
    let mut taken = place.transfer(&place.clip);
    taken.args(["-o", "film.gif"]);
    fails(taken, 2, &["film.gif exists already"]);
    assert_eq!(fs::read(place.path().join("film.gif")).unwrap(), b"mine");
    let mut nowhere = place.transfer(&place.clip);
    nowhere.args(["-o", "no/such/folder/film.gif"]);
    fails(nowhere, 2, &["no folder"]);
    let mut format = place.transfer(&place.clip);
    format.args(["-o", "film.docx"]);
    fails(format, 2, &["which format"]);
    let mut idle = place.transfer(&place.clip);
    idle.args(["--condition", "edges.mp4"]);
    fails(
        idle,
        2,
        &["--condition is for ControlVideo alone", "--method"],
    );
    // A preset may bring the method that knows the flag: then it is the clip that is missing.
    for flags in [
        ["--preset", "motion-director", "--rank", "16"],
        ["--preset", "tune-a-video", "--temporal-bias", "zero"],
    ] {
        let mut known = place.transfer(Path::new("missing.mp4"));
        known.args(flags);
        let (code, says) = match flags[1] {
            "tune-a-video" => (2, "Tune-A-Video cannot work with"),
            _ => (3, "missing.mp4"),
        };
        fails(known, code, &[says]);
    }
    let mut seed = place.transfer(&place.clip);
    seed.args(["--seed", "12345678901234567890"]);
    fails(seed, 2, &["--seed is", "at most"]);
    let mut frames = place.transfer(&place.clip);
    frames.args(["--frames", "100000000"]);
    fails(frames, 2, &["--frames is 100000000", "2 to 10000"]);
    fs::create_dir(place.path().join("mine")).unwrap();
    fs::write(place.path().join("mine/diary.txt"), "mine").unwrap();
    let mut other = place.transfer(&place.clip);
    other.args(["-o", "mine", "--overwrite"]);
    fails(other, 2, &["diary.txt exists already"]);
    // A folder of pictures takes no file's place.
    fs::write(place.path().join("file"), "mine").unwrap();
    let mut other = place.transfer(&place.clip);
    other.args(["-o", "file", "--overwrite"]);
    fails(other, 2, &["exists already", "never take each other"]);
    #[cfg(target_os = "linux")]
    {
        // Not even the administrator can make a file there.
        let mut locked = place.transfer(&place.clip);
        locked.args(["-o", "/sys/film.gif"]);
        fails(locked, 2, &["/sys/film.gif", "cannot be written"]);
    }
    let mut threads = place.transfer(&place.clip);
    threads.args(["--threads", "0"]);
    fails(threads, 2, &["0 threads"]);
    let mut no_run = place.program();
    no_run.args(["resume", "nothing"]);
    fails(no_run, 2, &["not a run folder"]);
    if !cfg!(feature = "cuda") {
        let mut device = place.transfer(&place.clip);
        device.args(["--device", "cuda"]);
        fails(device, 2, &["CUDA cannot be used"]);
    }
}

#[test]
fn a_model_that_is_none_has_exit_code_4() {
    let place = Place::new();
    let mut program = place.program();
    program
        .arg("train")
        .arg(&place.clip)
        .args(["--subject", "x", "--model"])
        .arg(&place.clip);
    fails(program, 4, &["not a model folder", "model_index.json"]);
}

/// A copy of the micro model in `folder`.
fn model_in(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    for part in ["", "unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        fs::create_dir_all(model.join(part)).unwrap();
        for entry in fs::read_dir(micro_model().join(part)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                fs::copy(entry.path(), model.join(part).join(entry.file_name())).unwrap();
            }
        }
    }
    model
}

#[test]
fn what_is_near_a_model_is_told_with_what_to_do_and_exit_code_4() {
    let place = Place::new();
    let model = model_in(place.path());
    let sample = |source: &Path| {
        let mut program = place.program();
        program
            .arg("sample")
            .arg(source)
            .args(["--prompt", "a bear", "-o", "film.gif"]);
        program
    };
    let unet = model.join("unet");
    let weights = unet.join("diffusion_pytorch_model.safetensors");
    fails(
        sample(Path::new("somebody/another_model")),
        4,
        &["Nothing was downloaded"],
    );
    fails(
        sample(Path::new("cerspense/zeroscope_v2_576w")),
        4,
        &["is not on this computer", "models get zeroscope"],
    );
    fails(
        sample(&unet),
        4,
        &["one part of a model", "Name the folder around it", "model"],
    );
    fails(
        sample(&weights),
        4,
        &["a single file of weights", "Name the folder around it"],
    );
    let mut transfer = place.quick("transfer", &place.clip);
    transfer.args(["--prompt", "a bear", "--model"]).arg(&unet);
    fails(transfer, 4, &["one part of a model"]);

    let index = fs::read_to_string(model.join("model_index.json")).unwrap();
    let image = index.replace("TextToVideoSDPipeline", "StableDiffusionXLPipeline");
    fs::write(model.join("model_index.json"), image).unwrap();
    fails(
        sample(&model),
        4,
        &[
            "still pictures",
            "VMC and MotionDirector need a text-to-video model",
        ],
    );
    fs::write(model.join("model_index.json"), index).unwrap();

    // A hostile .bin in place of the weights, a download that broke off, a note of Git LFS.
    let whole = fs::read(&weights).unwrap();
    fs::remove_file(&weights).unwrap();
    let torch = unet.join("diffusion_pytorch_model.bin");
    let touched = place.path().join("touched");
    let call = Pickle::start().global("os", "system").raw("(");
    let call = call
        .text(&format!("touch '{}'", touched.display()))
        .raw("tR")
        .end();
    fs::write(&torch, checkpoint(call, &[])).unwrap();
    let never = "it asks for code this program never runs (os.system)";
    fails(
        sample(&model),
        4,
        &["diffusion_pytorch_model.bin", never, "Get the model again"],
    );
    assert!(!touched.exists());
    fs::remove_file(&torch).unwrap();
    fails(
        sample(&model),
        4,
        &[
            "is not complete",
            "diffusion_pytorch_model.safetensors missing",
        ],
    );
    fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    fails(
        sample(&model),
        4,
        &["bytes of numbers and holds", "Get the model again"],
    );
    fs::write(
        &weights,
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
    )
    .unwrap();
    fails(sample(&model), 4, &["a note of Git LFS", "git lfs pull"]);
    fs::write(&weights, &whole).unwrap();

    let config = unet.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace(
            "\"layers_per_block\": 1",
            "\"layers_per_block\": 1000000000",
        ),
    )
    .unwrap();
    fails(
        sample(&model),
        4,
        &["layers_per_block is 1000000000, expected 1 to 64"],
    );
    assert!(!place.path().join("film.gif").exists());
}

#[cfg(unix)]
#[test]
fn a_model_in_hugging_faces_cache_is_sampled_by_any_of_its_folders() {
    let place = Place::new();
    let model = model_in(place.path());
    let entry = place.path().join("hub/models--owner--micro");
    let version = entry.join("snapshots/0123abcd");
    fs::create_dir_all(entry.join("snapshots")).unwrap();
    fs::create_dir_all(entry.join("refs")).unwrap();
    fs::write(entry.join("refs/main"), "0123abcd\n").unwrap();
    std::os::unix::fs::symlink(model, &version).unwrap();
    for (i, source) in [&entry, &version].into_iter().enumerate() {
        let film = format!("film {i}.gif");
        let mut program = place.program();
        program
            .arg("sample")
            .arg(source)
            .args(["--prompt", "a bear", "--sampling-steps", "1"]);
        let output = program
            .args(["--device", "cpu", "-o", &film])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        assert!(place.path().join(film).is_file());
    }
}

#[test]
fn commands_come_from_standard_input_only_when_asked_for() {
    use std::io::Write as _;
    let place = Place::new();
    let mut program = place.quick("train", &place.clip);
    program.args([
        "--steps",
        "100000",
        "--run",
        "run",
        "--json",
        "--commands",
        "-",
    ]);
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"{\"command\":\"dance\"}\n{\"command\":\"pause\"}\n{\"command\":\"stop\"}\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.status.code(), Some(130), "{}", errors(&output));
    let text = stdout(&output);
    assert!(text.contains("A command was not understood"), "{text}");
    assert!(
        text.lines().last().unwrap().contains("\"cancelled\""),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_gracefully_and_leaves_a_checkpoint() {
    use std::io::BufRead as _;
    let place = Place::new();
    let mut program = place.quick("train", &place.clip);
    program.args(["--steps", "100000", "--run", "run", "--json"]);
    program.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = program.spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().unwrap().contains("\"step\""))
        .unwrap()
        .unwrap();
    // The shell's own `kill`: the program of that name is not on every system.
    let kill = Command::new("sh")
        .args(["-c", &format!("kill -INT {}", child.id())])
        .status()
        .unwrap();
    assert!(kill.success());
    let last = lines.last().unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(last.contains("\"cancelled\""), "{last}");
    let saved = fs::read_dir(place.path().join("run/checkpoints"))
        .unwrap()
        .count();
    assert!(saved >= 1);
}

#[test]
fn help_tells_the_exit_codes() {
    let place = Place::new();
    let output = place.program().arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for words in [
        "Exit codes",
        "130",
        "transfer",
        "resume",
        "sample",
        "inspect",
        "evaluate",
    ] {
        assert!(text.contains(words), "{text}");
    }
}
