//! The program: read the command line, do what it says, print a problem once.

use std::process::ExitCode;

fn main() -> ExitCode {
    spectral_motion::cli::main()
}
