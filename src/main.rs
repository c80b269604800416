//! The program: read the command line, do what it says, print a problem once.

mod heap;

use std::process::ExitCode;

fn main() -> ExitCode {
    calm_candle();
    prefer_x11();
    spectral_motion::cli::main()
}

/// Keeps candle from splitting its additions over threads of its own.
///
/// Those threads wait by spinning. On a machine that has other things to do that is where the time goes: six training
/// steps took 8 s of processor time with them and 3.4 s without. The kernels of `nn` share rayon's threads, which
/// sleep, and leave little to candle. Whoever sets the variable keeps their value.
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

/// Draws the window through X11 where both kinds of desktop are at hand: files can be dropped on it only there.
#[cfg(all(feature = "gui", target_os = "linux"))]
#[expect(
    unsafe_code,
    reason = "the window library chooses by this variable alone"
)]
fn prefer_x11() {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("DISPLAY") && set("WAYLAND_DISPLAY") {
        // SAFETY: called before any thread is made, as above.
        unsafe { std::env::remove_var("WAYLAND_DISPLAY") };
    }
}

/// There is nothing to choose.
#[cfg(not(all(feature = "gui", target_os = "linux")))]
fn prefer_x11() {}
