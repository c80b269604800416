//! The program beside a peer: the same operations and the same steps of the same networks, timed in turn in one run.
//!
//! `./x bench` prints the table; `./x bench --help` says what else it does.

#[path = "../../src/heap.rs"]
mod heap;
mod memory;
mod network;
mod ops;
mod peer;
mod rows;
mod step;
mod table;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};

/// Frames of the clips whose time and memory are compared.
const FRAMES: [usize; 4] = [8, 16, 24, 32];
/// candle's backward pass recurses.
const STACK_BYTES: usize = 256 << 20;

#[derive(Parser)]
#[command(
    name = "./x bench",
    args_conflicts_with_subcommands = true,
    about = "Times operations and steps, beside a peer where there is one"
)]
struct Options {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    table: table::Options,
    /// cargo says so to every benchmark
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// Single operations, forward and backward to the input: one JSON object a line
    Ops(ops::Options),
    /// One network: a training step, a guided sampling step, a forward pass and their memory: one JSON object
    Step(step::Options),
}

fn main() -> Result<()> {
    calm_candle();
    let options = Options::parse();
    let worker = std::thread::Builder::new()
        .name("bench".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || run(options))?;
    worker
        .join()
        .map_err(|_| anyhow!("the benchmark panicked"))?
}

/// As the program itself does: candle's own threads wait by spinning, the kernels' sleep.
#[expect(
    unsafe_code,
    reason = "the variable must be set inside the program, before candle reads it"
)]
fn calm_candle() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: the first thing this program does; no other thread exists that could read the environment.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}

fn run(options: Options) -> Result<()> {
    match options.what {
        Some(What::Ops(options)) => ops::measure(&options),
        Some(What::Step(options)) => {
            println!("{}", serde_json::to_string(&step::measure(&options)?)?);
            Ok(())
        }
        None => table::print(&options.table),
    }
}
