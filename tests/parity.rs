//! Our networks, loops and losses against PyTorch and diffusers.
//!
//! Every folder and `*.safetensors` file in `tests/golden`, and in the folder named by the environment variable
//! `SPECTRAL_MOTION_GOLDEN`, is *checked*, *known but not built yet* (one list below), or *unknown*, which fails.

mod image;
mod losses;
mod networks;
mod trace;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use spectral_motion::models::{self, ModelFolder, ModelKind};

type Tensors = HashMap<String, Tensor>;

/// Golden files of methods and networks that this program does not have yet.
const NOT_BUILT_YET: &[&str] = &[
    "show1-base.safetensors",
    "show1-interp.safetensors",
    "show1-sr1.safetensors",
];

/// A figure that must stay below its limit.
struct Figure {
    name: String,
    error: f64,
    limit: f64,
}

/// What the goldens in one or more folders gave.
#[derive(Default)]
struct Findings {
    figures: Vec<Figure>,
    checked: Vec<String>,
    not_built: Vec<String>,
    unknown: Vec<String>,
}

impl Findings {
    /// Compares by the norm of the difference over the norm of what is expected.
    fn compare(&mut self, name: String, ours: &Tensor, expected: &Tensor, limit: f64) {
        assert_eq!(ours.dims(), expected.dims(), "{name}");
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        let norm = |x: &Tensor| {
            x.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f64>()
                .unwrap()
                .sqrt()
        };
        let error = norm(&(wide(ours) - wide(expected)).unwrap()) / norm(&wide(expected));
        self.note(name, error, limit);
    }

    /// Adds a figure that was computed elsewhere.
    fn note(&mut self, name: String, error: f64, limit: f64) {
        self.figures.push(Figure { name, error, limit });
    }
}

fn load(path: &Path) -> Tensors {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Looks at everything directly inside `root`.
fn visit(root: &Path, findings: &mut Findings) {
    for path in entries(root) {
        let name = file_name(&path);
        if path.is_dir() && name == "torch" {
            // Weight files without a network; `models::torch_files` reads them.
            findings.checked.push(name);
        } else if path.is_dir() && name == "depth" {
            // An estimator of depth; `models::depth` holds it against transformers.
            findings.checked.push(name);
        } else if path.is_dir() && name == "lora" {
            // Files of adapters; `lora::peer` reads them and holds them against the peer's outputs.
            findings.checked.push(name);
        } else if path.is_dir() {
            visit_model(&path, &name, findings);
        } else if name.ends_with(".safetensors") {
            if name == "tune-a-video.safetensors" || name == "control-video.safetensors" {
                image::check_published(&name, &path, &load(&path), findings);
                findings.checked.push(name);
            } else if NOT_BUILT_YET.contains(&name.as_str()) {
                findings.not_built.push(name);
            } else if name == "builtin.safetensors" {
                networks::check(
                    "builtin",
                    &models::builtin().unwrap(),
                    &load(&path),
                    findings,
                );
                findings.checked.push(name);
            } else if name.starts_with("losses") {
                losses::check(&name, &load(&path), findings);
                findings.checked.push(name);
            } else {
                findings.unknown.push(name);
            }
        }
    }
}

/// Looks at a folder of one model: `model/`, `golden.safetensors` and training traces.
fn visit_model(folder: &Path, name: &str, findings: &mut Findings) {
    let model = folder.join("model");
    for path in entries(folder) {
        let file = file_name(&path);
        let label = format!("{name}/{file}");
        match file.as_str() {
            "model" => {}
            "golden.safetensors" => {
                let (folder, golden) = (ModelFolder::open(&model).unwrap(), load(&path));
                match folder.kind() {
                    ModelKind::Video => networks::check(name, &folder, &golden, findings),
                    ModelKind::Image => image::check(name, &folder, &golden, findings),
                }
                findings.checked.push(label);
            }
            "quiet.safetensors" => {
                let golden = load(&folder.join("golden.safetensors"));
                networks::check_quiet(
                    &format!("{name} quiet"),
                    &model,
                    &load(&path),
                    &golden,
                    findings,
                );
                findings.checked.push(label);
            }
            "train-vmc.safetensors" => {
                let name = format!("{name} vmc");
                trace::check(&name, &model, trace::Host::Vmc, &load(&path), findings);
                findings.checked.push(label);
            }
            "train-motion_director.safetensors" => {
                let (name, host) = (format!("{name} md"), trace::Host::MotionDirector);
                trace::check(&name, &model, host, &load(&path), findings);
                findings.checked.push(label);
            }
            _ if NOT_BUILT_YET.contains(&file.as_str()) => findings.not_built.push(label),
            _ => findings.unknown.push(label),
        }
    }
}

#[test]
fn parity() {
    let mut findings = Findings::default();
    visit(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        &mut findings,
    );
    if let Some(folder) = std::env::var_os("SPECTRAL_MOTION_GOLDEN") {
        visit(Path::new(&folder), &mut findings);
    }
    for Figure { name, error, limit } in &findings.figures {
        println!("{name:<44} {error:9.2e} of {limit:.0e}");
    }
    println!(
        "{} checked: {}",
        findings.checked.len(),
        findings.checked.join(", ")
    );
    println!(
        "{} known but not built yet: {}",
        findings.not_built.len(),
        findings.not_built.join(", ")
    );
    assert!(
        findings.unknown.is_empty(),
        "unknown golden files: {:?}",
        findings.unknown
    );
    assert!(!findings.checked.is_empty(), "no golden file was found");
    // `is_none_or` of the comparison, so that a NaN counts as far off.
    let off = |f: &&Figure| {
        f.error
            .partial_cmp(&f.limit)
            .is_none_or(std::cmp::Ordering::is_gt)
    };
    let far: Vec<String> = findings
        .figures
        .iter()
        .filter(off)
        .map(|f| format!("{}: {:.2e}", f.name, f.error))
        .collect();
    assert!(far.is_empty(), "beyond their limits: {far:?}");
}
