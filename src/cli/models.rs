//! `models`: what each method needs, what of it is on this computer, and bringing the rest.

use std::io::{self, IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::{OutputArgs, told};
use super::{Ending, watch};
use crate::job::{self, DownloadRequest};
use crate::library::{
    Entry, Hub, Known, Library, LibraryError, Plan, Removed, State, Suits, gigabytes,
};
use crate::report::{Area, Report};
use crate::train::TransferConfig;

#[derive(Args)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what each method needs and what of it is here; nothing is asked of the network
    List(ListArgs),
    /// Put a model's folder on the list, under a name that `--model` takes
    Add(AddArgs),
    /// Download a model of the list, after telling size and licence
    Get(GetArgs),
    /// Open a model and compare names, shapes and, where they are known, checksums of its files
    Check(CheckArgs),
    /// Take a folder off the list, or remove what was downloaded of a model
    Remove(RemoveArgs),
}

/// A clip, for telling how much memory a training takes.
#[derive(Args)]
struct ClipSize {
    /// Frames of a training, for telling whether it fits into memory [default: the model's own]
    #[arg(long, value_name = "NUMBER")]
    frames: Option<usize>,
    /// Its size in pixels [default: what the model was made for, which for ZeroScope is 576x320; a training that is told no
    /// --size takes 256x256 there]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size)]
    size: Option<(u32, u32)>,
}

impl ClipSize {
    fn settings(&self, known: &Known) -> TransferConfig {
        TransferConfig {
            frames: self.frames,
            size: self.size,
            method: known.methods().next().unwrap_or_default(),
            ..TransferConfig::default()
        }
    }
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once(['x', 'X', '×']);
    let sides = sides.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match sides {
        Some((width, height)) if (8..=8192).contains(&width) && (8..=8192).contains(&height) => {
            Ok((width, height))
        }
        _ => Err("expected a width and a height in pixels, for example 576x320".to_owned()),
    }
}

#[derive(Args)]
struct ListArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    clip: ClipSize,
}

#[derive(Args)]
struct AddArgs {
    /// Folder of a model or a ControlNet in diffusers layout
    folder: PathBuf,
    /// What to call it; the name of a model of the list makes the folder stand for that model [default: the folder's name]
    #[arg(long)]
    name: Option<String>,
}

#[derive(Args)]
struct GetArgs {
    /// Models of the list, by name or by their names on the Hugging Face hub
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask: the licence was read and is agreed to
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    clip: ClipSize,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct CheckArgs {
    /// Models to check [default: every one that is here]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Args)]
struct RemoveArgs {
    /// The model
    name: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(super) fn run(args: &ModelsArgs) -> Result<Ending, Report> {
    let library = Library::from_environment();
    match &args.command {
        Command::List(args) => list(args, &library),
        Command::Add(args) => add(args, &library),
        Command::Get(args) => get(args, library),
        Command::Check(args) => check(args, &library),
        Command::Remove(args) => remove(args, &library),
    }
}

/// A line of `list --json`.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    title: &'a str,
    repo: Option<&'a str>,
    #[serde(flatten)]
    state: &'a State,
    folder: Option<String>,
    added: bool,
    bytes: u64,
    about_bytes: Option<u64>,
    licence: Option<&'a str>,
    licence_link: Option<&'a str>,
    methods: Vec<&'a str>,
    memory_bytes: Option<u64>,
    memory_frames: Option<usize>,
    memory_size: Option<String>,
    fits: Option<bool>,
}

impl<'a> Row<'a> {
    fn of(entry: &'a Entry, suits: Option<&Suits>) -> Self {
        let known = entry.known;
        Self {
            name: &entry.name,
            title: entry.title(),
            repo: known.map(|known| known.repo),
            state: &entry.state,
            folder: entry
                .folder
                .as_ref()
                .map(|folder| folder.display().to_string()),
            added: entry.is_added,
            bytes: entry.bytes,
            about_bytes: known.map(Known::about_bytes),
            licence: known.map(|known| known.licence.name),
            licence_link: known.map(|known| known.licence.link),
            methods: known
                .into_iter()
                .flat_map(Known::methods)
                .map(crate::methods::Method::name)
                .collect(),
            memory_bytes: suits.map(|suits| suits.needed_bytes),
            memory_frames: suits.map(|suits| suits.clip.0),
            memory_size: suits.map(|suits| format!("{}x{}", suits.clip.1, suits.clip.2)),
            fits: suits.map(Suits::fits),
        }
    }
}

fn list(args: &ListArgs, library: &Library) -> Result<Ending, Report> {
    let entries = library.entries().map_err(told)?;
    let suits = |entry: &Entry| {
        let known = entry.known?;
        Some(Suits::of(known, &args.clip.settings(known)))
    };
    let mut out = io::stdout().lock();
    if args.json {
        let suits: Vec<_> = entries.iter().map(suits).collect();
        let rows: Vec<_> = entries
            .iter()
            .zip(&suits)
            .map(|(entry, suits)| Row::of(entry, suits.as_ref()))
            .collect();
        let text = serde_json::to_string_pretty(&rows).map_err(|error| {
            Report::new(Area::Run, "The list could not be written").because_of(&error)
        })?;
        // A closed pipe is the reader's own decision.
        writeln!(out, "{text}").ok();
        return Ok(Ending::Done);
    }
    let mut line = |text: String| writeln!(out, "{text}").ok();
    line(format!(
        "{:<20} {:<11} {:>8}  {}",
        "NAME", "STATE", "SIZE", "MODEL"
    ));
    line(format!(
        "{:<20} {:<11} {:>8}  The models inside this program, for video and for pictures (every method)",
        "builtin", "present", ""
    ));
    for entry in &entries {
        let bytes = match (entry.state.is_present(), entry.known) {
            (false, Some(known)) => format!("~{}", gigabytes(known.about_bytes())),
            _ => gigabytes(entry.bytes),
        };
        let serves = entry
            .known
            .map_or_else(String::new, |known| format!(" ({})", known.method_names()));
        line(format!(
            "{:<20} {:<11} {bytes:>8}  {}{serves}",
            entry.name,
            entry.state.word(),
            entry.title()
        ));
        for detail in details(entry, suits(entry).as_ref()) {
            line(format!("{:<20} {detail}", ""));
        }
    }
    line(String::new());
    line("`models get NAME` downloads one, after telling size and licence. `models add FOLDER` takes one that is here.".to_owned());
    Ok(Ending::Done)
}

/// What stands below a model's line.
fn details(entry: &Entry, suits: Option<&Suits>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(known) = entry.known {
        lines.push(format!(
            "Licence: {} ({})",
            known.licence.name, known.licence.link
        ));
    }
    if let Some(folder) = &entry.folder {
        lines.push(format!("Folder: {}", folder.display()));
    }
    match &entry.state {
        State::Present => {}
        State::Missing { files, here_bytes } => {
            if *here_bytes > 0 || entry.folder.is_some() {
                lines.push(format!("Missing: {}", files.join(", ")));
                lines.push(format!(
                    "{} of it are here already.",
                    gigabytes(*here_bytes)
                ));
            }
        }
        State::Broken { why, advice } => {
            lines.push(format!("Broken: {why}"));
            lines.push(advice.clone());
        }
    }
    if let Some(suits) = suits.filter(|suits| !suits.fits()) {
        lines.push(suits.text());
    }
    lines
}

fn add(args: &AddArgs, library: &Library) -> Result<Ending, Report> {
    let added = library
        .add(&args.folder, args.name.as_deref())
        .map_err(told)?;
    tell!(
        "{} is on the list; `--model {}` takes it.",
        added.folder.display(),
        added.name
    );
    put!("{}", added.name);
    Ok(Ending::Done)
}

fn get(args: &GetArgs, library: Library) -> Result<Ending, Report> {
    let hub = Hub::from_environment();
    let mut plans: Vec<Plan> = Vec::new();
    for name in &args.names {
        let unknown = || told(LibraryError::Unknown { name: name.clone() });
        let known = Known::find(name).ok_or_else(unknown)?;
        let damaged = match whole(known, &library)? {
            Whole::Yes(folder) => {
                tell!("{} is here already.", known.title);
                put!("{}", folder.display());
                continue;
            }
            Whole::Damaged(file) => Some(file),
            Whole::No => None,
        };
        if plans.iter().any(|plan| plan.known == known) {
            continue;
        }
        let plan = hub.plan(known, &library.cache, &mut |_| ControlFlow::Continue(()));
        let mut plan = plan.map_err(told)?;
        let is_damaged = |path: &str| damaged.as_ref().is_some_and(|file| file.ends_with(path));
        for file in plan.files.iter_mut().filter(|file| is_damaged(&file.path)) {
            file.here_bytes = 0;
        }
        tell(
            &plan,
            &library,
            &Suits::of(known, &args.clip.settings(known)),
        );
        plans.push(plan);
    }
    if plans.is_empty() {
        return Ok(Ending::Done);
    }
    let many = plans.len() > 1;
    let question = match many {
        true => "Download them under these licences?",
        false => "Download it under this licence?",
    };
    if !args.yes && !agreed(question, "Nothing was downloaded")? {
        return Ok(Ending::Cancelled);
    }
    let request = DownloadRequest {
        library,
        hub,
        plans,
    };
    let started = job::spawn_task("download job", Arc::new(|| {}), move |job| {
        job::download(job, &request)
    });
    watch::follow(started, &args.output)
}

/// Whether a model is here.
enum Whole {
    Yes(PathBuf),
    /// But for this file.
    Damaged(PathBuf),
    No,
}

/// Looks whether a model is here, with the checksums that are known: a file may have been damaged since it came.
fn whole(known: &Known, library: &Library) -> Result<Whole, Report> {
    let entry = library.entry(known.name).map_err(told)?;
    let (State::Present, Some(folder)) = (entry.state, entry.folder) else {
        return Ok(Whole::No);
    };
    match library.check(known.name, &mut |_| ControlFlow::Continue(())) {
        Ok(_) => Ok(Whole::Yes(folder)),
        Err(LibraryError::Damaged { path, .. }) => {
            tell!("{} is damaged and is fetched again.", path.display());
            Ok(Whole::Damaged(path))
        }
        Err(error) => Err(told(error)),
    }
}

/// What a person must know before a download.
fn tell(plan: &Plan, library: &Library, suits: &Suits) {
    let known = plan.known;
    let (bytes, left) = (plan.bytes(), plan.left_bytes());
    let mut size = format!("{} in {} files", gigabytes(bytes), plan.files.len());
    match left {
        0 => size.push_str(", all of that size here; what is damaged is fetched again"),
        left if left < bytes => {
            size.push_str(&format!(
                ", of which {} are left to download",
                gigabytes(left)
            ));
        }
        _ => {}
    }
    tell!("{} ({})", known.title, known.repo);
    tell!("  {}", known.about);
    tell!("  Size:     {size}");
    tell!("  Licence:  {}", known.licence.name);
    tell!("            {}", known.licence.link);
    tell!("  Serves:   {}", known.method_names());
    tell!("  Memory:   {}", suits.text());
    tell!("  Goes to:  {}", library.cache.entry(known.repo).display());
}

fn check(args: &CheckArgs, library: &Library) -> Result<Ending, Report> {
    let names = match args.names.as_slice() {
        [] => {
            let entries = library.entries().map_err(told)?.into_iter();
            let here = entries.filter(|entry| entry.folder.is_some());
            here.map(|entry| entry.name).collect()
        }
        names => names.to_vec(),
    };
    if names.is_empty() {
        tell!("No model is here but the built-in one.");
    }
    let mut wrong = Vec::new();
    for name in &names {
        match library.check(name, &mut |_| ControlFlow::Continue(())) {
            Ok(0) => put!("{name}: whole (names and shapes; no checksums are known)"),
            Ok(files) => put!("{name}: whole (names, shapes and checksums of {files} files)"),
            Err(error) => {
                put!("{name}: {error}");
                wrong.push(told(error));
            }
        }
    }
    match (wrong.len(), names.len()) {
        (0, _) => Ok(Ending::Done),
        (1, _) => Err(wrong.remove(0)),
        (some, all) => {
            let report = Report::new(Area::Model, format!("{some} of {all} models are not whole"));
            Err(wrong
                .into_iter()
                .fold(report, |report, one| report.because(one.headline)))
        }
    }
}

fn remove(args: &RemoveArgs, library: &Library) -> Result<Ending, Report> {
    let question = match library.removal(&args.name).map_err(told)? {
        Removed::Folder(folder) => {
            tell!(
                "{} leaves the list and stays where it is.",
                folder.display()
            );
            None
        }
        Removed::Files {
            place,
            files,
            bytes,
        } => {
            tell!(
                "{files} files, {}, that were downloaded to {}",
                gigabytes(bytes),
                place.display()
            );
            Some("Remove them?")
        }
    };
    if let Some(question) = question
        && !args.yes
        && !agreed(question, "Nothing was removed")?
    {
        return Ok(Ending::Cancelled);
    }
    library.remove(&args.name).map_err(told)?;
    Ok(Ending::Done)
}

/// Asks on a terminal; elsewhere nobody could answer, and nothing is done.
fn agreed(question: &str, nothing: &str) -> Result<bool, Report> {
    if !io::stdin().is_terminal() {
        return Err(Report::new(Area::Request, nothing)
            .because("There is nobody to ask: standard input is no terminal.")
            .advise("Add --yes if you agree."));
    }
    let mut asked = io::stderr();
    write!(asked, "{question} [y/N] ").ok();
    asked.flush().ok();
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Report::new(Area::Run, nothing).because_of(&error))?;
    let agreed = ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str());
    if !agreed {
        tell!("{nothing}.");
    }
    Ok(agreed)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_width_and_height() {
        assert_eq!(size("576x320"), Ok((576, 320)));
        assert_eq!(size("576×320"), Ok((576, 320)));
        for wrong in ["576", "x320", "0x0", "-8x8", "99999x8"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
