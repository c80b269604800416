//! The whole table: every row measured in turn, ours and the peer's, some rounds after each other.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use super::FRAMES;
use super::peer::{Peer, ours};
use super::rows::{Readings, Side, Unit};

/// The peer's name of a method, and ours.
const METHODS: [&str; 2] = ["vmc", "motion_director"];

/// How the table is made.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// The peer to compare with: a Python and its script, `'python3 reference.py'` [default: the variable
    /// SPECTRAL_MOTION_PEER]
    #[arg(long)]
    pub peer: Option<String>,
    /// One JSON object a row: name, ours, peer, ratio
    #[arg(long)]
    pub json: bool,
    /// `cpu`, or `cuda` for the network of real size on a graphics card
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Rounds whose median is taken; in each, ours and the peer's take turns
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Runs of every measurement in a round
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
}

/// Measures everything and prints it.
pub fn print(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let named = options.peer.clone();
    let peer = named.or_else(|| std::env::var("SPECTRAL_MOTION_PEER").ok());
    let peer = peer.as_deref().map(Peer::new).transpose()?;
    let mut table = Table {
        options,
        peer,
        readings: Readings::default(),
    };
    match options.device.as_str() {
        "cpu" => table.on_cpu()?,
        "cuda" => table.on_cuda()?,
        other => bail!("--device {other}: there are cpu and cuda"),
    }
    table.show();
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    eprintln!("{minutes:.1} minutes in all");
    Ok(())
}

struct Table<'a> {
    options: &'a Options,
    peer: Option<Peer>,
    readings: Readings,
}

/// What is measured in one process: a network, a method and a clip.
struct Case<'a> {
    /// In the names of rows.
    label: String,
    /// The network by our name and by the peer's.
    model: (&'a str, &'a str),
    method: &'a str,
    frames: Option<usize>,
    more: (&'a [&'a str], &'a [&'a str]),
}

impl Table<'_> {
    fn on_cpu(&mut self) -> Result<()> {
        let builtin = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin");
        for round in 0..self.options.rounds {
            self.say(round, "operations");
            self.ops()?;
            for model in [("small", "small"), ("builtin", builtin)] {
                for method in METHODS {
                    let label = format!("{}, {}", model.0, shown(method));
                    self.say(round, &label);
                    self.case(&Case {
                        label,
                        model,
                        method,
                        frames: None,
                        more: (&[], &[]),
                    })?;
                }
            }
            for frames in FRAMES {
                let label = format!("builtin, VMC, {frames} frames");
                self.say(round, &label);
                let model = ("builtin", builtin);
                let frames = Some(frames);
                self.case(&Case {
                    label,
                    model,
                    method: "vmc",
                    frames,
                    more: (&[], &[]),
                })?;
            }
        }
        self.growth("training step", "training step: builtin, VMC, ");
        self.growth("working memory", "working memory: builtin, VMC, ");
        self.attention_growth();
        Ok(())
    }

    fn on_cuda(&mut self) -> Result<()> {
        for round in 0..self.options.rounds {
            for method in METHODS {
                let label = format!("zeroscope f16, {}", shown(method));
                self.say(round, &label);
                let model = ("zeroscope", "zeroscope");
                let more: (&[&str], &[&str]) = (
                    &[
                        "--device",
                        "cuda",
                        "--precision",
                        "f16",
                        "--checkpointing",
                        "block",
                    ],
                    &["--device", "cuda", "--dtype", "f16", "--checkpointing"],
                );
                self.case(&Case {
                    label,
                    model,
                    method,
                    frames: None,
                    more,
                })?;
            }
        }
        Ok(())
    }

    fn say(&self, round: usize, what: &str) {
        eprintln!("round {} of {}: {what}", round + 1, self.options.rounds);
    }

    /// Single operations.
    fn ops(&mut self) -> Result<()> {
        let args = words(&["ops", "--runs", &self.options.runs.to_string()]);
        self.note_ops(Side::Ours, &ours(&args)?);
        if let Some(peer) = &self.peer {
            let said = peer.run(&args)?;
            self.note_ops(Side::Peer, &said);
        }
        Ok(())
    }

    fn note_ops(&mut self, side: Side, said: &[Value]) {
        for line in said {
            if let (Some(name), Some(ms)) = (line["name"].as_str(), line["ms"].as_f64()) {
                self.readings.note(side, name, Unit::Milliseconds, ms);
            }
        }
    }

    /// The steps of one network.
    fn case(&mut self, case: &Case<'_>) -> Result<()> {
        let (runs, frames) = (
            self.options.runs.to_string(),
            case.frames.map(|f| f.to_string()),
        );
        let method = case.method.replace('_', "-");
        let args = |words_: [&str; 4], more: &[&str]| {
            let mut args = words(&words_);
            args.extend(words(&["--runs", &runs, "--warmup", "1"]));
            args.extend(
                frames
                    .iter()
                    .flat_map(|frames| words(&["--frames", frames])),
            );
            args.extend(words(more));
            args
        };
        let said = ours(&args(
            ["step", case.model.0, "--method", &method],
            case.more.0,
        ))?;
        self.note_case(Side::Ours, &case.label, &said);
        if let Some(peer) = &self.peer {
            let said = peer.run(&args(
                ["bench", case.model.1, "--method", case.method],
                case.more.1,
            ))?;
            self.note_case(Side::Peer, &case.label, &said);
        }
        Ok(())
    }

    fn note_case(&mut self, side: Side, label: &str, said: &[Value]) {
        let number = |key: &str| said.last().and_then(|said| said[key].as_f64());
        let readings = &mut self.readings;
        let mut note = |name: &str, unit, value: Option<f64>| {
            if let Some(value) = value {
                readings.note(side, &format!("{name}: {label}"), unit, value);
            }
        };
        let ms = |key| number(key).map(|seconds| 1e3 * seconds);
        let mib = |key| number(key).map(|bytes| bytes / f64::from(1 << 20));
        note("training step", Unit::Milliseconds, ms("train_step_s"));
        note(
            "training step with the single-frame pass",
            Unit::Milliseconds,
            ms("both_passes_s"),
        );
        note(
            "guided sampling step",
            Unit::Milliseconds,
            ms("cfg_sample_step_s"),
        );
        note("forward pass", Unit::Milliseconds, ms("forward_s"));
        note("working memory", Unit::Mib, mib("working_bytes"));
        note(
            "working memory while training",
            Unit::Mib,
            mib("train_working_bytes"),
        );
        let step = number("train_step_s");
        let sma = number("sma_s").zip(step).map(|(sma, step)| sma / step);
        note("share of the spectral terms", Unit::Share, sma);
        let rate = number("train_step_giga")
            .zip(step)
            .map(|(work, step)| work / step);
        let reached = rate
            .zip(number("gemm_giga_per_s"))
            .map(|(rate, peak)| rate / peak);
        note("share of the matrix product's peak", Unit::Share, reached);
    }

    /// How a row grows from 8 to 32 frames: the exponent of the frames, 1 for a line through nothing.
    fn growth(&mut self, what: &str, prefix: &str) {
        let at = |frames: usize| self.readings.ours(&format!("{prefix}{frames} frames"));
        let exponent = exponent(at(FRAMES[0]), at(FRAMES[3]));
        if let Some(exponent) = exponent {
            let name = format!("growth with frames (exponent): {what}");
            self.readings.note(Side::Ours, &name, Unit::Share, exponent);
        }
    }

    fn attention_growth(&mut self) {
        let at = |frames: usize| {
            let name = format!("temporal attention 1024x2x{frames}x32 fwd+bwd");
            self.readings.ours(&name)
        };
        if let Some(exponent) = exponent(at(FRAMES[0]), at(FRAMES[3])) {
            let name = "growth with frames (exponent): temporal attention alone";
            self.readings.note(Side::Ours, name, Unit::Share, exponent);
        }
    }

    fn show(&self) {
        let rows = self.readings.rows();
        if self.options.json {
            for row in rows {
                println!("{}", serde_json::json!(row));
            }
            return;
        }
        println!("| row | ours | peer | ours / peer |\n| --- | ---: | ---: | ---: |");
        for row in rows {
            println!("{}", row.markdown());
        }
        println!(
            "\n{} threads; medians of {} rounds of {} runs.",
            rayon::current_num_threads(),
            self.options.rounds,
            self.options.runs
        );
        if self.peer.is_none() {
            println!(
                "Without a peer. Add one by --peer 'PYTHON SCRIPT' or the variable SPECTRAL_MOTION_PEER."
            );
        }
    }
}

/// `log(last / first) / log(frames)` over the outermost numbers of frames.
fn exponent(first: Option<f64>, last: Option<f64>) -> Option<f64> {
    let frames = FRAMES[3] as f64 / FRAMES[0] as f64;
    first
        .zip(last)
        .map(|(first, last)| (last / first).ln() / frames.ln())
}

fn shown(method: &str) -> &'static str {
    match method {
        "vmc" => "VMC",
        _ => "MotionDirector",
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
