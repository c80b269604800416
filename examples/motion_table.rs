//! Does the transfer follow the clip? A table over the parts of the method, measured with the motion that is known
//! because the bundled clip was drawn.
//!
//! `cargo run --release --example motion_table -- --help`
//!
//! Each cell trains (or not), samples the edited prompt, finds the new subject by its colour and compares its path with
//! the clip's: Pearson correlation in x and y, mean distance in pixels of 64, share of the picture in the subject's
//! colour. The path of another clip is the null: what a method that knows nothing of this clip would score.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, FromArgMatches};
use serde::Deserialize;
use spectral_motion::job::{
    self, DeviceChoice, Event, Outcome, Request, ResultRequest, TrainRequest,
};
use spectral_motion::motion::{ColourClass, PathScore, Track, compare, track};
use spectral_motion::train::{Start, TransferConfig};
use spectral_motion::video::{self, Frame, Limits};

/// Settings of the table; every training and sampling flag of the program is accepted beside them.
#[derive(Args)]
struct Options {
    /// The clip
    #[arg(long, default_value = "assets/sample/red-circle.mp4")]
    clip: PathBuf,
    /// Its true path, beside the words to use
    #[arg(long, default_value = "assets/sample/red-circle.json")]
    truth: PathBuf,
    /// Words for the clip
    #[arg(long, default_value = "a red circle")]
    subject: String,
    /// Words for the result [default: the file's]
    #[arg(long)]
    prompt: Option<String>,
    /// Colour of the new subject
    #[arg(long, default_value = "yellow")]
    colour: ColourClass,
    /// Model folder [default: the built-in model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Seeds, one film each in every cell
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    seeds: Vec<u64>,
    /// Starts to compare
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "noise,inverted"
    )]
    starts: Vec<Start>,
    /// Keep the films in this folder
    #[arg(long)]
    keep: Option<PathBuf>,
    #[command(flatten)]
    config: TransferConfig,
}

/// The file beside the clip.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Truth {
    edit_prompt: String,
    /// Side of the square in which the paths are given.
    unit: f64,
    path: Vec<(f64, f64)>,
    other_path: Vec<(f64, f64)>,
}

/// One row: a name and what it changes.
struct Variant {
    name: &'static str,
    train: bool,
    global: bool,
    local: bool,
}

const VARIANTS: [Variant; 5] = [
    Variant {
        name: "no training",
        train: false,
        global: false,
        local: false,
    },
    Variant {
        name: "base loss only",
        train: true,
        global: false,
        local: false,
    },
    Variant {
        name: "+ global",
        train: true,
        global: true,
        local: false,
    },
    Variant {
        name: "+ local",
        train: true,
        global: false,
        local: true,
    },
    Variant {
        name: "+ both",
        train: true,
        global: true,
        local: true,
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    let command = Options::augment_args(clap::Command::new("motion_table"));
    let options = Options::from_arg_matches(&command.get_matches())?;
    if let Some(keep) = &options.keep {
        std::fs::create_dir_all(keep)?;
    }
    let truth: Truth = serde_json::from_str(&std::fs::read_to_string(&options.truth)?)?;
    println!(
        "| start | training | seed | corr x | corr y | error px | colour share | null corr x | null corr y | seconds |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for start in &options.starts {
        for variant in &VARIANTS {
            for seed in &options.seeds {
                let began = Instant::now();
                let frames = film(&options, &truth, *start, variant, *seed)?;
                let secs = began.elapsed().as_secs_f64();
                let found = found_path(&frames, &options.colour, truth.unit);
                let score = compare(&found, &Track::from_path(&truth.path));
                let null = compare(&found, &Track::from_path(&truth.other_path));
                let start = format!("{start:?}").to_lowercase();
                println!("{}", row(&start, variant.name, *seed, &score, &null, secs));
            }
        }
    }
    Ok(())
}

/// Trains and samples one film in a run folder of its own.
fn film(
    options: &Options,
    truth: &Truth,
    start: Start,
    variant: &Variant,
    seed: u64,
) -> Result<Vec<Frame>, Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    let name = format!("{start:?} {} {seed}", variant.name).to_lowercase();
    let pictures = options.keep.as_deref().unwrap_or(place.path()).join(name);
    let on = |used: bool, lambda: f64| if used { lambda } else { 0.0 };
    let config = TransferConfig {
        steps: if variant.train {
            options.config.steps
        } else {
            0
        },
        lambda_g: on(variant.global, options.config.lambda_g),
        lambda_l: on(variant.local, options.config.lambda_l),
        start,
        seed,
        preview_every: 0,
        checkpoint_every: 0,
        ..options.config.clone()
    };
    let request = TrainRequest {
        clip: options.clip.clone(),
        subject: options.subject.clone(),
        more_clips: Vec::new(),
        model: options.model.clone(),
        device: DeviceChoice::Auto,
        config,
        run: Some(place.path().join("run")),
        result: Some(ResultRequest {
            prompt: options
                .prompt
                .clone()
                .unwrap_or_else(|| truth.edit_prompt.clone()),
            output: Some(pictures.clone()),
            overwrite: false,
            scale_to: None,
        }),
    };
    let job = job::spawn(Request::Train(Box::new(request)), Arc::new(|| {}))?;
    match job.wait().pop() {
        Some(Event::Finished(Outcome::Completed)) => {}
        other => return Err(format!("the transfer ended with {other:?}").into()),
    }
    Ok(video::load(&pictures, &Limits::default(), &|| false)?.frames)
}

/// The subject's path in units of `unit` pixels a side.
fn found_path(frames: &[Frame], colour: &ColourClass, unit: f64) -> Track {
    let (width, height) = frames
        .first()
        .map_or((1, 1), |frame| (frame.width, frame.height));
    track(frames, colour).scaled(unit / f64::from(width), unit / f64::from(height))
}

fn row(
    start: &str,
    variant: &str,
    seed: u64,
    score: &PathScore,
    null: &PathScore,
    secs: f64,
) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    format!(
        "| {start} | {variant} | {seed} | {} | {} | {} | {:.3} | {} | {} | {secs:.1} |",
        number(score.corr_x),
        number(score.corr_y),
        number(score.mean_error_px),
        score.mean_share,
        number(null.corr_x),
        number(null.corr_y),
    )
}
