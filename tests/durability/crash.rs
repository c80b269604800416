//! The program is killed (SIGKILL, which nothing can catch) at moments of all sorts. What it left goes on to the same end.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use spectral_motion::project::{Checkpoint, RunFolder};

use super::{Place, leftovers, metrics, weights};
use crate::common::damage::Mutator;
use crate::common::{fails, succeeds};

/// Kills in all.
const KILLS: usize = 20;
const STEPS: u32 = 40;
const SIGKILL: i32 = 9;

/// When to kill.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After this share of the time that the whole run takes.
    After(f64),
    /// While the checkpoint of this step is written, this much after its temporary folder was seen.
    WhileSaving { step: u32, delay: Duration },
    /// As soon as a file of this name is in a folder of the run.
    Sees {
        folder: &'static str,
        name: &'static str,
    },
}

impl Moment {
    fn draw(random: &mut Mutator, index: usize) -> Self {
        let share = random.below(1000) as f64 / 1000.0;
        match index % 5 {
            0 | 1 => Self::After(0.95 * share),
            2 | 3 => Self::WhileSaving {
                step: 1 + random.below(STEPS as usize) as u32,
                delay: Duration::from_micros(random.below(4000) as u64),
            },
            _ => [
                Self::Sees {
                    folder: "final",
                    name: ".weights.safetensors.tmp",
                },
                Self::Sees {
                    folder: "cache",
                    name: ".latents.safetensors.tmp",
                },
                Self::Sees {
                    folder: "",
                    name: "run.toml",
                },
                Self::Sees {
                    folder: "samples",
                    name: ".part-",
                },
            ][(index / 5) % 4],
        }
    }

    /// Waits for the moment; false when the program was done before it came.
    fn wait(self, child: &mut Child, run: &Path, whole: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let now = match self {
                Self::After(share) => begun.elapsed() >= whole.mul_f64(share),
                Self::WhileSaving { step, .. } => {
                    let name = Checkpoint::folder_name(step);
                    let saving = run.join("checkpoints").join(format!(".{name}.tmp"));
                    // The temporary folder is there for a moment only and may be missed.
                    saving.exists() || run.join("checkpoints").join(name).exists()
                }
                Self::Sees { folder, name } => {
                    fs::read_dir(run.join(folder)).is_ok_and(|mut entries| {
                        entries.any(|entry| {
                            entry.is_ok_and(|entry| {
                                entry.file_name().to_string_lossy().contains(name)
                            })
                        })
                    })
                }
            };
            if now {
                if let Self::WhileSaving { delay, .. } = self {
                    sleep(delay);
                }
                return true;
            }
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            sleep(Duration::from_micros(200));
        }
    }
}

/// Starts a command and kills it at a moment. True when it was killed before it was done.
fn kill_at(mut command: Command, moment: Moment, run: &Path, whole: Duration) -> bool {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    moment.wait(&mut child, run, whole);
    child.kill().unwrap();
    child.wait().unwrap().signal() == Some(SIGKILL)
}

/// What a kill left, in a word.
fn state_of(run: &Path) -> String {
    if !run.join("run.toml").is_file() {
        return "before it began".to_owned();
    }
    let newest = |run: &Path| {
        let names = super::names(&run.join("checkpoints"));
        names.into_iter().rfind(|name| name.starts_with("step-"))
    };
    let newest = newest(run).unwrap_or_else(|| "no checkpoint".to_owned());
    let torn = fs::read(run.join("metrics.jsonl"))
        .is_ok_and(|lines| lines.last().is_some_and(|byte| *byte != b'\n'));
    format!(
        "{newest}, leftovers {:?}{}",
        leftovers(run),
        if torn { ", a torn line" } else { "" }
    )
}

struct Unbroken {
    flags: Vec<&'static str>,
    took: Duration,
    weights: Vec<u8>,
    metrics: String,
}

impl Unbroken {
    fn run(place: &Place, name: &str, flags: &[&'static str]) -> Self {
        let run = place.path(name);
        let begun = Instant::now();
        succeeds(place.train(&run, STEPS, flags));
        Self {
            flags: flags.to_vec(),
            took: begun.elapsed(),
            weights: weights(&run),
            metrics: metrics(&run),
        }
    }
}

#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_weights() {
    let place = Place::new();
    let often = ["--checkpoint-every", "1", "--preview-every", "0"];
    let adapters = ["--method", "motion-director", "--rank", "2"];
    // Made slowly, so that only one kill has it.
    let with_preview = ["--checkpoint-every", "1", "--preview-every", "25"];
    let unbroken = [
        Unbroken::run(&place, "vmc", &often),
        Unbroken::run(&place, "adapters", &[&often[..], &adapters].concat()),
        Unbroken::run(&place, "with preview", &with_preview),
    ];
    let mut random = Mutator::default();
    let (mut killed, mut saving) = (0, 0);
    for index in 0..KILLS {
        let run = place.path(&format!("run {index}"));
        let moment = Moment::draw(&mut random, index);
        let unbroken = match moment {
            Moment::Sees {
                folder: "samples", ..
            } => &unbroken[2],
            _ => &unbroken[usize::from(index % 4 == 3)],
        };
        let was_killed = kill_at(
            place.train(&run, STEPS, &unbroken.flags),
            moment,
            &run,
            unbroken.took,
        );
        killed += usize::from(was_killed);
        let mut state = state_of(&run);
        saving += usize::from(state.contains("step-") && state.contains(".tmp"));
        // A run that comes to nothing but a kill may be killed again.
        if run.join("run.toml").is_file() && index % 3 == 0 {
            let again = Moment::After(random.below(1000) as f64 / 1000.0);
            kill_at(place.resume(&run), again, &run, unbroken.took);
            state = format!("{state}; then {}", state_of(&run));
        }
        println!("{index:2} {moment:?}: {state}");
        if run.join("run.toml").is_file() {
            let offered = RunFolder::unfinished(place.folder.path()).contains(&run);
            assert_eq!(
                offered,
                !run.join("final/weights.safetensors").is_file(),
                "{state}"
            );
            succeeds(place.resume(&run));
        } else {
            fails(place.resume(&run), 2, &[]);
            succeeds(place.train(&run, STEPS, &unbroken.flags));
        }
        assert!(
            weights(&run) == unbroken.weights,
            "other weights after {moment:?}: {state}"
        );
        assert_eq!(metrics(&run), unbroken.metrics, "{moment:?}: {state}");
        assert_eq!(leftovers(&run), [""; 0], "{moment:?}: {state}");
        fs::remove_dir_all(&run).unwrap();
    }
    println!(
        "{killed} of {KILLS} killed before they were done, {saving} of them inside a checkpoint"
    );
    // Some moments come too late on a machine that is slower at first; most do not.
    assert!(killed >= KILLS / 2, "{killed} of {KILLS} were killed");
}

#[test]
fn a_kill_before_the_first_checkpoint_costs_nothing() {
    let place = Place::new();
    let unbroken = place.path("unbroken");
    let rarely = ["--checkpoint-every", "0", "--checkpoint-secs", "0"];
    succeeds(place.train(&unbroken, 6, &rarely));
    let run = place.path("run");
    let sees = Moment::Sees {
        folder: "",
        name: "metrics.jsonl",
    };
    let mut train = place.train(&run, 6, &rarely);
    // Long enough that the kill comes before the end.
    train.args(["--steps", "100000"]);
    assert!(kill_at(train, sees, &run, Duration::ZERO));
    assert_eq!(super::names(&run.join("checkpoints")), [""; 0]);
    let offered = RunFolder::unfinished(place.folder.path());
    assert_eq!(offered, std::slice::from_ref(&run));
    let mut resume = place.resume(&run);
    resume.args(["--steps", "6"]);
    succeeds(resume);
    assert!(weights(&run) == weights(&unbroken));
}

#[test]
fn a_run_extended_twice_is_one_that_was_as_long_from_the_start() {
    let place = Place::new();
    let (long, run) = (place.path("long"), place.path("run"));
    succeeds(place.train(&long, 7, &[]));
    succeeds(place.train(&run, 2, &[]));
    for more in ["3", "2"] {
        let mut resume = place.resume(&run);
        resume.args(["--more", more]);
        succeeds(resume);
    }
    assert!(weights(&run) == weights(&long));
    let mut both = place.resume(&run);
    both.args(["--more", "3", "--steps", "9"]);
    fails(both, 2, &["cannot be used with"]);
    let mut endless = place.resume(&run);
    endless.args(["--more", "4294967295"]);
    fails(endless, 2, &["too many"]);
    // Neither has changed what the run is.
    succeeds(place.resume(&run));
    assert!(weights(&run) == weights(&long));
}
