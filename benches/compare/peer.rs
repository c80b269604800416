//! The peer: another implementation of the same steps, a Python script that prints one JSON object a line.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How to start it.
#[derive(Clone, Debug)]
pub struct Peer(Vec<String>);

impl Peer {
    /// From `PYTHON SCRIPT`, separated by a space.
    pub fn new(command: &str) -> Result<Self> {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let [_, script, ..] = words.as_slice() else {
            bail!("--peer wants a Python and a script, as in --peer 'python3 reference.py'");
        };
        if !Path::new(script).is_file() {
            bail!("--peer: there is no script {script}");
        }
        Ok(Self(words))
    }

    /// Runs it with these arguments and as many threads as this program has.
    pub fn run(&self, args: &[String]) -> Result<Vec<Value>> {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).args(args);
        lines(command.env("OMP_NUM_THREADS", rayon::current_num_threads().to_string()))
    }
}

/// Runs this very program with other arguments, in a process of its own.
pub fn ours(args: &[String]) -> Result<Vec<Value>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args);
    lines(command.env(
        "RAYON_NUM_THREADS",
        rayon::current_num_threads().to_string(),
    ))
}

fn lines(command: &mut Command) -> Result<Vec<Value>> {
    let shown = format!("{command:?}");
    let out = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("{shown} could not be started"))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        let last = why.lines().last().unwrap_or_default();
        bail!("{shown} ended with {}: {last}", out.status);
    }
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).with_context(|| format!("{shown} said {line}")))
        .collect()
}
