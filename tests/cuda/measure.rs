//! The program that measures a GPU, on its tiny networks: where a GPU is at hand there is no time to mend it.

use std::path::Path;
use std::process::Command;

#[test]
fn every_part_of_the_measurement_runs() {
    let bin = Path::new(env!("CARGO_BIN_EXE_spectral-motion"));
    let name = format!("cuda_measure{}", std::env::consts::EXE_SUFFIX);
    let program = bin.with_file_name("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: `cargo build --example cuda_measure`",
        program.display()
    );
    let out = tempfile::tempdir().unwrap();
    let done = Command::new(program)
        .args([
            "--small",
            "--parts",
            "vmc,motion-director,sample",
            "--frames",
            "4",
        ])
        .args(["--side", "8", "--steps", "3", "--denoising", "2", "--out"])
        .arg(out.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    for figure in [
        "Vmc step, median",
        "MotionDirector step, median",
        "guided denoising step",
    ] {
        assert!(said.contains(figure), "no {figure} in {said}");
    }
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 4);
}
