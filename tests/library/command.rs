//! `models` and `--model NAME` with the real program, against the hub on this computer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::server::{Proxy, Server, Twist};
use crate::common::{ended, errors, fails, image_model, micro_model, moving_square};

struct Desk {
    folder: tempfile::TempDir,
    server: Server,
}

impl Desk {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            server: Server::with_micro_model(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spectral-motion"));
        command
            .args(args)
            .current_dir(self.path())
            .env("XDG_DATA_HOME", self.path().join("data"))
            .env("HF_HOME", self.path().join("home"))
            .env("HF_ENDPOINT", self.server.address())
            .stdin(Stdio::null());
        let of_hub = [
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
        ];
        for variable in of_hub {
            command.env_remove(variable);
        }
        command
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> Output {
        let output = self.program(args).output().unwrap();
        ended(&output, 0, &[]);
        output
    }

    fn entry(&self) -> PathBuf {
        self.path()
            .join("home/hub/models--cerspense--zeroscope_v2_576w")
    }

    /// The state of a model as `list --json` says it.
    #[track_caller]
    fn state(&self, name: &str) -> String {
        let rows: serde_json::Value =
            serde_json::from_str(&stdout(&self.done(&["models", "list", "--json"]))).unwrap();
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == name)
            .unwrap();
        match row["here_bytes"].as_u64() {
            Some(bytes) if bytes > 0 => "unfinished".to_owned(),
            _ => row["state"].as_str().unwrap().to_owned(),
        }
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_model_is_got_used_checked_and_removed_by_its_name() {
    let desk = Desk::new();
    let list = stdout(&desk.done(&["models", "list"]));
    for part in [
        "zeroscope",
        "missing",
        "~3.7 GB",
        "MotionDirector",
        "CC BY-NC 4.0",
        "controlnet-openpose",
    ] {
        assert!(list.contains(part), "{part}: {list}");
    }
    assert!(desk.server.asked().is_empty(), "a list asks nobody");
    let clip = moving_square(desk.path(), 4);
    let train = |run: &str| {
        let mut program = desk.program(&["train"]);
        program
            .arg(&clip)
            .args(["--subject", "a red square", "--steps", "2", "--frames", "4"]);
        program.args(["--device", "cpu", "--model", "zeroscope", "--run", run]);
        program
    };
    fails(
        train("none"),
        4,
        &[
            "ZeroScope v2 576w is not on this computer",
            "models get zeroscope",
        ],
    );

    // Nobody is there to agree: size and licence are told, and nothing is fetched.
    let told = [
        "CC BY-NC 4.0",
        "creativecommons.org",
        "in 11 files",
        "Training 16 frames of 576×320",
        "Add --yes",
    ];
    fails(desk.program(&["models", "get", "zeroscope"]), 2, &told);
    assert_eq!(desk.server.sent(""), 0);
    assert!(!desk.entry().exists());
    fails(
        desk.program(&["models", "get", "zeroscop", "--yes"]),
        2,
        &["No model is called", "models list"],
    );

    let output = desk.done(&["models", "get", "zeroscope", "--yes"]);
    let folder = PathBuf::from(stdout(&output).trim());
    assert!(folder.starts_with(desk.entry()) && folder.join("model_index.json").is_file());
    assert_eq!(desk.state("zeroscope"), "present");
    assert!(stdout(&desk.done(&["models", "list"])).contains("present"));
    let sent = desk.server.sent("");
    let output = desk.done(&["models", "get", "cerspense/zeroscope_v2_576w", "--yes"]);
    assert_eq!(stdout(&output).trim(), folder.display().to_string());
    assert_eq!(desk.server.sent(""), sent, "it is here already");

    ended(&train("run").output().unwrap(), 0, &[]);
    let record = fs::read_to_string(desk.path().join("run/run.toml")).unwrap();
    assert!(record.contains("cerspense/zeroscope_v2_576w"), "{record}");
    let sample = [
        "sample",
        "zeroscope",
        "--prompt",
        "a bear",
        "--sampling-steps",
        "1",
        "--device",
        "cpu",
        "-o",
        "film.gif",
    ];
    desk.done(&sample);
    assert!(desk.path().join("film.gif").is_file());

    let checked = stdout(&desk.done(&["models", "check"]));
    assert!(
        checked.contains("zeroscope: whole (names, shapes and checksums of 11 files)"),
        "{checked}"
    );
    let weights = folder
        .join("vae/diffusion_pytorch_model.safetensors")
        .canonicalize()
        .unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    fails(
        desk.program(&["models", "check", "zeroscope"]),
        4,
        &["vae/diffusion_pytorch_model.safetensors", "is damaged"],
    );

    let sent = desk.server.sent("");
    let output = desk.done(&["models", "get", "zeroscope", "--yes"]);
    assert!(
        errors(&output).contains("is damaged and is fetched again"),
        "{}",
        errors(&output)
    );
    let vae = desk.server.size("vae/diffusion_pytorch_model.safetensors");
    assert_eq!(
        desk.server.sent(""),
        sent + vae,
        "that file alone is fetched again"
    );
    desk.done(&["models", "check", "zeroscope"]);

    fails(
        desk.program(&["models", "remove", "zeroscope"]),
        2,
        &["Nothing was removed", "--yes"],
    );
    assert!(folder.exists());
    desk.done(&["models", "remove", "zeroscope", "--yes"]);
    assert!(!desk.entry().exists());
    assert_eq!(desk.state("zeroscope"), "missing");
}

#[test]
fn a_folder_is_added_and_used_by_its_name() {
    let desk = Desk::new();
    let mut add = desk.program(&["models", "add", "--name", "tiny"]);
    let output = add.arg(micro_model()).output().unwrap();
    ended(&output, 0, &["is on the list"]);
    assert_eq!(stdout(&output), "tiny\n");
    assert_eq!(desk.state("tiny"), "present");
    let sample = [
        "sample",
        "tiny",
        "--prompt",
        "a bear",
        "--sampling-steps",
        "1",
        "--device",
        "cpu",
        "-o",
        "film.gif",
    ];
    desk.done(&sample);
    desk.done(&["models", "remove", "tiny"]);
    assert!(micro_model().join("model_index.json").is_file());
    fails(
        desk.program(&["models", "remove", "tiny"]),
        2,
        &["No model is called"],
    );
    let mut wrong = desk.program(&["models", "add"]);
    wrong.arg(micro_model().join("unet"));
    fails(
        wrong,
        4,
        &["one part of a model", "Name the folder around it"],
    );
    let mut control = desk.program(&["models", "add", "--name", "controlnet-canny"]);
    ended(
        &control
            .arg(image_model().join("controlnet"))
            .output()
            .unwrap(),
        0,
        &[],
    );
    assert_eq!(desk.state("controlnet-canny"), "present");
    assert!(desk.server.asked().is_empty());
}

#[test]
fn what_goes_wrong_is_told_with_what_to_do() {
    let desk = Desk::new();
    let get = || desk.program(&["models", "get", "zeroscope", "--yes"]);
    let mut offline = get();
    offline.env("HF_HUB_OFFLINE", "1");
    fails(offline, 2, &["HF_HUB_OFFLINE"]);
    assert!(desk.server.asked().is_empty());
    let mut nowhere = get();
    nowhere.env("HF_ENDPOINT", "http://127.0.0.1:1");
    fails(
        nowhere,
        1,
        &["127.0.0.1:1 cannot be reached", "Check the connection"],
    );

    desk.server.twist(
        "unet/diffusion",
        Twist::Status {
            status: 401,
            headers: Vec::new(),
            times: 100,
            content: false,
        },
    );
    let mut closed = get();
    closed.env("HF_TOKEN", "hf_secret");
    let output = closed.output().unwrap();
    ended(
        &output,
        1,
        &[
            "refuses cerspense/zeroscope_v2_576w",
            "does not know your token",
        ],
    );
    assert!(!format!("{}{}", errors(&output), stdout(&output)).contains("secret"));
    desk.server.behave();

    desk.server.twist("vae/diffusion", Twist::WrongByte);
    fails(
        get(),
        1,
        &[
            "vae/diffusion_pytorch_model.safetensors came with wrong content",
            "thrown away",
        ],
    );
    assert_eq!(desk.state("zeroscope"), "unfinished");
    desk.server.behave();
    // What had come before is kept.
    let output = get().output().unwrap();
    ended(&output, 0, &["are left to download"]);
    assert_eq!(desk.state("zeroscope"), "present");
}

/// The hub is asked through the proxy that the environment names; one that is none is not passed over.
#[test]
fn a_socks_proxy_leads_to_the_hub() {
    let desk = Desk::new();
    let proxy = Proxy::to(&desk.server);
    let get = |variable: &str, address: &str| {
        let mut get = desk.program(&["models", "get", "zeroscope", "--yes"]);
        get.env("HF_ENDPOINT", "http://hub.test");
        for name in ["HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY", "NO_PROXY"] {
            get.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        get.env(variable, address);
        get
    };
    let wrong = get("HTTPS_PROXY", "gopher://hub.test");
    fails(wrong, 2, &["HTTPS_PROXY", "socks5h://HOST:PORT"]);
    assert!(desk.server.asked().is_empty());
    let output = get("ALL_PROXY", &proxy.address()).output().unwrap();
    ended(&output, 0, &[]);
    assert_eq!(desk.state("zeroscope"), "present");
    let asked = proxy.asked();
    assert!(!asked.is_empty() && asked.iter().all(|name| name == "hub.test"));
}

#[test]
fn a_tilde_in_hf_home_is_the_home_of_whoever_runs_the_program() {
    let desk = Desk::new();
    let mut get = desk.program(&["models", "get", "zeroscope", "--yes"]);
    get.env("HOME", desk.path()).env("HF_HOME", "~/home");
    let output = get.output().unwrap();
    ended(&output, 0, &[]);
    let folder = PathBuf::from(stdout(&output).trim());
    assert!(folder.starts_with(desk.entry()), "{}", folder.display());
    assert!(!desk.path().join("~").exists());
}

/// What is said of the memory is said of a clip of this size.
#[test]
fn a_list_says_for_which_size_the_memory_is_told() {
    let desk = Desk::new();
    let row = |arguments: &[&str]| {
        let list = stdout(&desk.done(&[&["models", "list", "--json"], arguments].concat()));
        let rows: serde_json::Value = serde_json::from_str(&list).unwrap();
        rows[0].clone()
    };
    let own = row(&[]);
    assert_eq!(
        (&own["name"], &own["memory_size"]),
        (&"zeroscope".into(), &"576x320".into())
    );
    assert_eq!(own["memory_frames"], 16);
    let smaller = row(&["--size", "256x256", "--frames", "8"]);
    assert_eq!(smaller["memory_size"], "256x256");
    assert_eq!(smaller["memory_frames"], 8);
    assert!(smaller["memory_bytes"].as_u64() < own["memory_bytes"].as_u64());
}

#[test]
fn events_of_a_download_are_json_where_that_is_asked_for() {
    let desk = Desk::new();
    let output = desk.done(&["models", "get", "zeroscope", "--yes", "--json"]);
    let text = stdout(&output);
    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.first().unwrap()["stage"], "downloading");
    let ready = events
        .iter()
        .find(|event| event["event"] == "model_ready")
        .unwrap();
    assert_eq!(ready["name"], "zeroscope");
    assert!(
        Path::new(ready["path"].as_str().unwrap())
            .join("unet/config.json")
            .is_file()
    );
    assert_eq!(events.last().unwrap()["outcome"], "completed");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_download_that_goes_on_later() {
    let desk = Desk::new();
    let unet = "unet/diffusion_pytorch_model.safetensors";
    desk.server.twist(unet, Twist::Slow);
    let mut program = desk.program(&["models", "get", "zeroscope", "--yes"]);
    let mut running = program
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while desk.server.sent(unet) < 2000 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it does not begin"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let kill = Command::new("kill")
        .args(["-INT", &running.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    let asked = Instant::now();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(20));
    assert_eq!(desk.state("zeroscope"), "unfinished");
    desk.server.behave();
    desk.done(&["models", "get", "zeroscope", "--yes"]);
    assert_eq!(desk.state("zeroscope"), "present");
    let last = desk.server.content_asked(unet).pop().unwrap();
    assert!(last.headers.contains_key("range"), "{last:?}");
}
