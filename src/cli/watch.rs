//! Runs a job and shows its events until `Finished`.

use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::Ending;
use super::args::OutputArgs;
use super::progress::Progress;
use crate::job::{self, Command, Commander, Event, JobHandle, Outcome, Request};
use crate::report::{Area, Report};

/// Starts the job, connects Ctrl-C and standard input, and shows what it tells.
pub(super) fn run(
    request: Request,
    threads: Option<usize>,
    output: &OutputArgs,
) -> Result<Ending, Report> {
    if let Some(threads) = threads {
        job::set_threads(threads)?;
    }
    follow(job::spawn(request, Arc::new(|| {})), output)
}

/// Connects a job that was started with Ctrl-C and standard input, and shows what it tells.
pub(super) fn follow(
    started: io::Result<JobHandle>,
    output: &OutputArgs,
) -> Result<Ending, Report> {
    let handle = started.map_err(|error| {
        Report::new(Area::Run, "The job could not be started").because_of(&error)
    })?;
    stop_on_interrupt(handle.commander());
    if output.commands.is_some() {
        read_commands(handle.commander(), output.json)?;
    }
    let outcome = if output.json {
        print_json(&handle)
    } else {
        print_progress(&handle)
    };
    match outcome {
        Some(Outcome::Completed) => Ok(Ending::Done),
        Some(Outcome::Cancelled { .. }) => Ok(Ending::Cancelled),
        Some(Outcome::Failed(report)) => Err(report),
        None => Err(Report::new(Area::Run, "The job ended without saying how")),
    }
}

/// The first Ctrl-C stops gracefully, the second ends the program.
fn stop_on_interrupt(commander: Commander) {
    let asked = AtomicBool::new(false);
    let installed = ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        commander.send(Command::Stop).ok();
        tell!("Stopping after this step. Press Ctrl-C again to end at once.");
    });
    if let Err(error) = installed {
        // Without a handler Ctrl-C ends the program at once, which is its ordinary meaning.
        tell!("Note: Ctrl-C will end the program at once ({error}).");
    }
}

fn read_commands(commander: Commander, json: bool) -> Result<(), Report> {
    let reader = thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || {
            for line in io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                if line.trim().is_empty() {
                    continue;
                }
                let refused = match serde_json::from_str::<Command>(&line) {
                    Ok(command) => match commander.send(command) {
                        Ok(()) => continue,
                        Err(_) => "the job is over or has too many commands waiting".to_owned(),
                    },
                    Err(error) => error.to_string(),
                };
                let report = Report::new(
                    Area::Request,
                    "A command was not understood or came too late",
                )
                .because(refused)
                .advise("One JSON object a line, for example {\"command\":\"pause\"}.");
                if json {
                    print_line(&Event::Warning(report));
                } else {
                    tell!("Warning: {report}");
                }
            }
        });
    reader
        .map(drop)
        .map_err(|error| Report::new(Area::Run, "Standard input cannot be read").because_of(&error))
}

/// Prints an event as one line; false when nobody reads any more.
fn print_line(event: &Event) -> bool {
    match serde_json::to_string(event) {
        Ok(line) => writeln!(io::stdout().lock(), "{line}").is_ok(),
        Err(_) => false,
    }
}

fn print_json(handle: &JobHandle) -> Option<Outcome> {
    let mut outcome = None;
    for event in handle.events() {
        if !print_line(&event) {
            handle.send(Command::Stop).ok();
        }
        if let Event::Finished(ending) = event {
            outcome = Some(ending);
        }
    }
    outcome
}

fn print_progress(handle: &JobHandle) -> Option<Outcome> {
    let mut progress = Progress::new();
    for event in handle.events() {
        if let Event::Finished(ending) = event {
            progress.finish(&ending);
            return Some(ending);
        }
        progress.show(&event);
    }
    None
}
