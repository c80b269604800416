//! Disks that are full or read-only, folders that go away, runs that somebody else works in.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use spectral_motion::job::{self, DeviceChoice, Event, Outcome, Request, TrainRequest};
use spectral_motion::project::Checkpoint;
use spectral_motion::train::TransferConfig;

use super::{Place, leftovers, names, weights};
use crate::common::{ended, errors, fails, micro_model, succeeds};

const STEPS: u32 = 8;

/// The newest checkpoint's step; it must be whole.
fn newest(run: &Path) -> u32 {
    let newest = names(&run.join("checkpoints")).pop().unwrap();
    Checkpoint::read(&run.join("checkpoints").join(newest))
        .unwrap()
        .state
        .step
}

/// A shell that runs `script` with these files at hand: `$program`, `$clip`, `$model`, and the working folder.
fn shell(place: &Place, program: &str, before: &[&str], script: &str) -> Command {
    let mut command = Command::new(program);
    command
        .args(before)
        .args(["-c", script])
        .current_dir(place.folder.path())
        .env("program", env!("CARGO_BIN_EXE_spectral-motion"))
        .env("clip", &place.clip)
        .env("model", micro_model())
        .env("XDG_DATA_HOME", place.path("data"))
        .stdin(Stdio::null());
    command
}

/// No file may grow beyond a limit, which ends a write in its middle as a full disk does. Works for every user.
#[test]
fn a_write_that_is_cut_off_ends_the_training_and_keeps_the_last_checkpoint() {
    let place = Place::new();
    let (unbroken, run) = (place.path("unbroken"), place.path("run"));
    succeeds(place.train(&unbroken, 4, &["--checkpoint-every", "1"]));
    succeeds(place.train(&run, 2, &["--checkpoint-every", "1"]));
    // 16 blocks of 512 bytes (or 1024: shells differ) are less than the weights and more than the metrics. Without the
    // trap the system would end the program by a signal.
    let weights_bytes = fs::metadata(run.join("final/weights.safetensors"))
        .unwrap()
        .len();
    assert!(weights_bytes > 16 * 1024, "{weights_bytes}");
    let script =
        "trap '' XFSZ; ulimit -f 16; \"$program\" resume run --more 2 --device cpu --threads 1";
    let output = shell(&place, "sh", &[], script).output().unwrap();
    ended(
        &output,
        1,
        &[
            "Cannot write",
            "weights.safetensors",
            "File too large",
            "Make room",
            "resume",
        ],
    );
    assert_eq!(newest(&run), 2);
    assert_eq!(leftovers(&run), [""; 0]);
    succeeds(place.resume(&run));
    assert!(weights(&run) == weights(&unbroken));
}

/// A disk of its own for one shell: mounted in a namespace that ends with the shell, so that nothing stays mounted.
#[cfg(target_os = "linux")]
const UNSHARE: &[&str] = &["--map-root-user", "--mount", "sh"];

/// Whether this machine lets a test mount a small disk. CI must: the project's promise about full disks is tested there.
#[cfg(target_os = "linux")]
fn can_mount(place: &Place) -> bool {
    let script = "mkdir -p probe && mount -t tmpfs -o size=64k tmpfs probe";
    let output = shell(place, "unshare", UNSHARE, script).output();
    let why = match output {
        Ok(output) if output.status.success() => return true,
        Ok(output) => errors(&output),
        Err(error) => error.to_string(),
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must be able to mount a small disk (unshare --map-root-user --mount): {why}"
    );
    eprintln!("NOT TESTED: a full disk, because this machine lets nobody mount one: {why}");
    false
}

/// Bytes of the files in a folder, each rounded up to the pages that a disk in memory gives out.
#[cfg(target_os = "linux")]
fn pages(folder: &Path) -> u64 {
    const PAGE: u64 = 4096;
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pages(&path),
                false => path.metadata().unwrap().len().next_multiple_of(PAGE),
            }
        })
        .sum()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_the_training_and_room_lets_it_go_on() {
    let place = Place::new();
    if !can_mount(&place) {
        return;
    }
    let unbroken = place.path("unbroken");
    succeeds(place.train(&unbroken, STEPS, &["--checkpoint-every", "1"]));
    let checkpoint = pages(&unbroken.join("checkpoints/step-000008"));
    // Room for the beginning and four checkpoints and a half, of a training that keeps them all.
    let room = pages(&unbroken.join("cache")) + 2 * 4096 + checkpoint * 9 / 2;
    let script = r#"
        mkdir disk && mount -t tmpfs -o size="$room" tmpfs disk || exit 99
        train() {
            "$program" train "$clip" --subject 'a red square' --frames 4 --steps "$steps" --model "$model" --run "$1" \
                --device cpu --threads 1 --checkpoint-every 1 --keep-checkpoints 1000 --preview-every 0
        }
        train disk/run
        echo "exit code $?" >&2
        cp -a disk/run full
        "$program" resume disk/run --device cpu --threads 1
        echo "exit code again $?" >&2
        cp -a disk/run still-full
        mount -o remount,size=64m disk || exit 99
        "$program" resume disk/run --device cpu --threads 1 || exit 98
        cp -a disk/run whole
        mount -o remount,ro disk || exit 99
        "$program" resume disk/run --device cpu --threads 1
        echo "exit code read-only $?" >&2
        mkdir small && mount -t tmpfs -o size=8k tmpfs small || exit 99
        train small/run
        echo "exit code small $?" >&2
        ls -A small >&2
        echo "end of small" >&2
    "#;
    let mut command = shell(&place, "unshare", UNSHARE, script);
    let output = command
        .env("room", room.to_string())
        .env("steps", STEPS.to_string())
        .output()
        .unwrap();
    let text = errors(&output);
    println!("{text}");
    ended(
        &output,
        0,
        &[
            "No space left on device",
            "Make room on that disk",
            "exit code 1\n",
            "exit code again 1\n",
            "Read-only file system",
            "Use a folder where you may write",
            "exit code read-only 1\n",
            "exit code small 1\nend of small",
        ],
    );
    let (full, still) = (place.path("full"), place.path("still-full"));
    let saved = newest(&full);
    assert!((1..STEPS).contains(&saved), "{saved}");
    assert_eq!(leftovers(&full), [""; 0]);
    assert!(newest(&still) >= saved, "nothing is lost by trying again");
    assert!(weights(&place.path("whole")) == weights(&unbroken));
}

/// A training in this process, to be disturbed between two of its steps.
fn endless(place: &Place) -> (job::JobHandle, std::path::PathBuf) {
    let run = place.path("run");
    let request = TrainRequest {
        clip: place.clip.clone(),
        subject: "a red square".to_owned(),
        more_clips: Vec::new(),
        control: Default::default(),
        model: Some(micro_model()),
        device: DeviceChoice::Cpu,
        config: TransferConfig {
            steps: 100_000,
            frames: Some(4),
            sampling_steps: Some(2),
            preview_every: 7,
            checkpoint_every: 3,
            ..TransferConfig::default()
        },
        run: Some(run.clone()),
        result: None,
    };
    let handle = job::spawn(Request::Train(Box::new(request)), Arc::new(|| {})).unwrap();
    for event in handle.events() {
        match event {
            Event::Step(stats) if stats.step >= 4 => break,
            Event::Finished(outcome) => panic!("over before it was disturbed: {outcome:?}"),
            _ => {}
        }
    }
    (handle, run)
}

#[test]
fn a_run_folder_that_goes_away_ends_the_training_and_stays_away() {
    for is_removed in [false, true] {
        let place = Place::new();
        let (handle, run) = endless(&place);
        let moved = place.path("moved");
        fs::rename(&run, &moved).unwrap();
        if is_removed {
            fs::remove_dir_all(&moved).unwrap();
        }
        let events = handle.wait();
        let Some(Event::Finished(Outcome::Failed(report))) = events.last() else {
            panic!("{events:#?}");
        };
        let text = report.to_string();
        assert!(text.contains("was moved or removed"), "{text}");
        assert!(text.contains("Put the folder back"), "{text}");
        assert!(!run.exists(), "{:?}", names(&run));
        if !is_removed {
            // Put back, it goes on.
            fs::rename(&moved, &run).unwrap();
            let step = newest(&run);
            let mut resume = place.resume(&run);
            resume.args(["--steps", &(step + 2).to_string()]);
            succeeds(resume);
        }
    }
}

#[test]
fn two_programs_never_work_in_one_run() {
    let place = Place::new();
    let (handle, run) = endless(&place);
    let locked = &[
        "Another program is working in",
        "Wait until the other program is done",
    ];
    fails(place.resume(&run), 2, locked);
    fails(place.train(&run, 2, &[]), 2, locked);
    let mut sample = place.program();
    sample
        .arg("sample")
        .arg(&run)
        .args(["--prompt", "a bear", "-o", "bear.gif"]);
    fails(sample, 2, locked);
    assert!(!place.path("bear.gif").exists());
    handle.send(job::Command::Stop).unwrap();
    handle.wait();
    // A lock that nobody holds is no lock.
    fails(
        place.train(&run, 2, &[]),
        2,
        &["already holds a run", "resume"],
    );
}
