//! Compiles the kernels with the host's C++ compiler, runs plans on them, and compares.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Result, Tensor, Var};
use half::{bf16, f16};
use spectral_motion::nn::plan::{Arg, Plan, Source};
use spectral_motion::nn::{NoiseStream, Purpose};

/// The storage types of the kernels.
pub const TYPES: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

/// Orders in which the threads of a block are resumed: last to first, and shuffled.
const ORDERS: [u32; 2] = [1, 7];

/// How far results may be from f64's, in parts of the largest: f64's own rounding; f32's, whose products on tensor cores drop
/// the smallest of four partial products (2⁻²²); and for 16 bits the rounding of results and of what passes between products
/// (half a unit in the last place is 2⁻¹¹ and 2⁻⁸).
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 4e-6,
        DType::F16 => 1.5e-3,
        _ => 1.2e-2,
    }
}

/// Seeded normal numbers rounded to `dtype`.
pub fn random(seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    NoiseStream::new(seed, Purpose::Noise)
        .normal(shape, DType::F64, &Device::Cpu)
        .and_then(|x| x.to_dtype(dtype))
        .unwrap()
}

/// The largest difference in parts of the largest expected number; what is not finite fails.
pub fn error(got: &Tensor, expected: &Tensor) -> f64 {
    let flat = |x: &Tensor| -> Vec<f64> {
        let x = x.to_dtype(DType::F64).unwrap();
        x.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (got, expected) = (flat(got), flat(expected));
    assert_eq!(got.len(), expected.len());
    let size = expected.iter().fold(1e-30f64, |a, x| a.max(x.abs()));
    let differences = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    differences.fold(
        0.0f64,
        |a, d| if d.is_nan() { f64::INFINITY } else { a.max(d) },
    ) / size
}

/// Fails unless `got` is within `limit` parts of the largest expected number.
#[track_caller]
pub fn assert_close(what: &str, got: &Tensor, expected: &Tensor, limit: f64) {
    let error = error(got, expected);
    assert!(error <= limit, "{what}: off by {error:e}, limit {limit:e}");
}

/// Value of `f` and its gradients by the inputs, in f64, for the gradient `by_value` of the value.
pub fn reference(
    inputs: &[&Tensor],
    by_value: impl Fn(&[usize]) -> Tensor,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|x| Var::from_tensor(&x.to_dtype(DType::F64).unwrap()).unwrap())
        .collect();
    let leaves: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&leaves).unwrap();
    let weights = by_value(y.dims()).to_dtype(DType::F64).unwrap();
    let grads = (&y * weights)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let gradients = vars.iter().map(|v| grads.get(v).unwrap().clone()).collect();
    (y, gradients)
}

/// Runs a plan; gives its buffers, then its inputs as they are afterwards. Fails where the order of threads matters.
pub fn run(plan: &Plan, inputs: &[&Tensor]) -> Vec<Tensor> {
    let runs = ORDERS.map(|order| run_in_order(plan, inputs, order));
    assert!(
        runs[0] == runs[1],
        "the result depends on the order of threads: a barrier is missing in {:?}",
        plan.launches.iter().map(|l| &l.kernel).collect::<Vec<_>>()
    );
    let mut rest = runs[0].as_slice();
    let mut take = |dtype: DType, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let (bytes, after) = rest.split_at(count * dtype.size_in_bytes());
        rest = after;
        tensor(bytes, dtype, shape)
    };
    let changed: Vec<Tensor> = inputs.iter().map(|x| take(x.dtype(), x.dims())).collect();
    let buffers = plan.buffers.iter().map(|b| take(b.dtype, &[b.len]));
    let mut results: Vec<Tensor> = buffers.collect();
    results.extend(changed);
    results
}

fn run_in_order(plan: &Plan, inputs: &[&Tensor], order: u32) -> Vec<u8> {
    let mut bytes: Vec<Vec<u8>> = inputs.iter().map(|x| numbers(x)).collect();
    let sizes = plan.buffers.iter().map(|b| b.len * b.dtype.size_in_bytes());
    // A plan may use several files: what one leaves is what the next is given.
    let mut known = bytes.len();
    bytes.extend(sizes.map(|size| vec![0; size]));
    let mut launches = plan.launches.as_slice();
    while let Some(first) = launches.first() {
        let together = launches
            .iter()
            .take_while(|l| l.source == first.source)
            .count();
        let request = request(&bytes, known, &launches[..together], (inputs.len(), order));
        let answer = serve(&program(first.source), request);
        let mut answer = answer.unwrap_or_else(|said| panic!("{said}")).into_iter();
        for buffer in &mut bytes {
            buffer
                .iter_mut()
                .for_each(|byte| *byte = answer.next().unwrap());
        }
        known = bytes.len();
        launches = &launches[together..];
    }
    bytes.concat()
}

fn request(
    buffers: &[Vec<u8>],
    known: usize,
    launches: &[spectral_motion::nn::plan::Launch],
    (inputs, order): (usize, u32),
) -> Vec<u8> {
    let mut out = Vec::new();
    let word = |out: &mut Vec<u8>, n: usize| out.extend(u32::try_from(n).unwrap().to_le_bytes());
    word(&mut out, buffers.len());
    for (i, buffer) in buffers.iter().enumerate() {
        out.extend((buffer.len() as u64).to_le_bytes());
        out.push(u8::from(i < known));
        if i < known {
            out.extend(buffer);
        }
    }
    word(&mut out, launches.len());
    for launch in launches {
        word(&mut out, launch.kernel.len());
        out.extend(launch.kernel.as_bytes());
        let [x, y, z] = launch.grid;
        for n in [x, y, z, launch.threads, launch.shared, order] {
            out.extend(n.to_le_bytes());
        }
        for arg in &launch.args {
            match *arg {
                Arg::Input(i) => {
                    out.push(b'b');
                    word(&mut out, i);
                }
                Arg::Buffer(i) => {
                    out.push(b'b');
                    word(&mut out, inputs + i);
                }
                Arg::I32(n) => {
                    out.push(b'i');
                    out.extend(n.to_le_bytes());
                }
                Arg::U32(n) => {
                    out.push(b'w');
                    out.extend(n.to_le_bytes());
                }
                Arg::U64(n) => {
                    out.push(b'u');
                    out.extend(n.to_le_bytes());
                }
                Arg::F64(n) => {
                    out.push(b'd');
                    out.extend(n.to_le_bytes());
                }
            }
        }
    }
    out
}

fn serve(program: &Path, request: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::Builder::new()
        .name("emulator input".to_owned())
        // A program that ends early closes its input; what it says is shown below.
        .spawn(move || drop(input.write_all(&request)))
        .unwrap();
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{} ended with {}: {said}",
        program.display(),
        output.status
    ))
}

/// What becomes of one kernel of a text of one's own in both orders of threads: the bytes of all buffers, the input `x` first.
pub fn run_text(text: &str, plan: &Plan, x: &[f32]) -> [std::result::Result<Vec<u8>, String>; 2] {
    let headers = Source {
        file: "strictness",
        dtype: None,
        head: None,
        tokens: None,
    }
    .text();
    let program = compile("strictness", &format!("{headers}\n{text}"));
    let x: Vec<u8> = x.iter().flat_map(|n| n.to_le_bytes()).collect();
    ORDERS.map(|order| {
        let mut buffers = vec![x.clone()];
        buffers.extend(
            plan.buffers
                .iter()
                .map(|b| vec![0; b.len * b.dtype.size_in_bytes()]),
        );
        serve(&program, request(&buffers, 1, &plan.launches, (1, order)))
    })
}

/// The program that holds the kernels of a source.
fn program(source: Source) -> PathBuf {
    let source = Source {
        // All types at once, as far as a file does not grow large from its sizes.
        dtype: source.dtype.filter(|_| source.head.is_some()),
        ..source
    };
    // What keeps sums in registers on a GPU only makes a host's compiler slow.
    compile(source.file, &source.text().replace("#pragma unroll", ""))
}

/// The program of a text, compiled once.
fn compile(name: &str, text: &str) -> PathBuf {
    type Programs = Mutex<HashMap<PathBuf, Arc<OnceLock<()>>>>;
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    let emulator = include_str!("emulator.hpp");
    let mut hasher = DefaultHasher::new();
    (emulator, text, compiler()).hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    let program = folder.join(format!("{name}-{:016x}", hasher.finish()));
    let made = {
        let mut programs = PROGRAMS
            .get_or_init(Programs::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        programs.entry(program.clone()).or_default().clone()
    };
    made.get_or_init(|| {
        if program.exists() {
            return;
        }
        std::fs::create_dir_all(&folder).unwrap();
        let kernels = kernel_names(text);
        assert!(!kernels.is_empty(), "{name} has no kernels");
        let entry = |kernel: &String| {
            format!("{{\"{kernel}\", [](u32 s, u32 o) {{ emulated::launch({kernel}, s, o); }}}},\n")
        };
        let table: String = kernels.iter().map(entry).collect();
        let main = format!(
            "{emulator}\n{text}\nint main() {{ return emulated::serve({{\n{table}}}); }}\n"
        );
        // Whole or absent, also where another process compiles the same.
        let unfinished = program.with_extension(std::process::id().to_string());
        let out = unfinished.to_string_lossy();
        run_compiler(
            &["-std=c++17", "-O1", "-w", "-x", "c++", "-", "-o", &out],
            &main,
        );
        std::fs::rename(&unfinished, &program).unwrap();
    });
    program
}

/// The kernels of a source, which its macros make.
fn kernel_names(text: &str) -> Vec<String> {
    let expanded = run_compiler(
        &[
            "-E",
            "-P",
            "-x",
            "c++",
            "-D__global__=A_KERNEL",
            "-D__launch_bounds__(...)=",
            "-",
        ],
        text,
    );
    let after = expanded.split("A_KERNEL").skip(1);
    after
        .map(|rest| {
            let declared = rest.split('(').next().unwrap_or_default();
            declared.trim().trim_start_matches("void").trim().to_owned()
        })
        .collect()
}

fn run_compiler(args: &[&str], input: &str) -> String {
    let mut child = Command::new(compiler())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::Builder::new()
        .name("compiler input".to_owned())
        .spawn(move || drop(stdin.write_all(input.as_bytes())))
        .unwrap();
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} failed:\n{said}", compiler());
    String::from_utf8(output.stdout).unwrap()
}

/// The C++ compiler that `CXX` names, or the first of the usual ones that is here. The build needs one anyway.
fn compiler() -> &'static str {
    static COMPILER: OnceLock<String> = OnceLock::new();
    COMPILER.get_or_init(|| {
        let named = std::env::var("CXX").ok();
        let usual = ["clang++", "c++", "g++"].map(str::to_owned);
        named
            .into_iter()
            .chain(usual)
            .find(|name| Command::new(name).arg("--version").output().is_ok())
            .expect("no C++ compiler (clang++, c++ or g++) is here to compile the CUDA kernels with; set CXX")
    })
}

fn numbers(x: &Tensor) -> Vec<u8> {
    let x = x.flatten_all().unwrap();
    match x.dtype() {
        DType::F64 => x
            .to_vec1::<f64>()
            .unwrap()
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect(),
        DType::F32 => x
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect(),
        DType::F16 => x
            .to_vec1::<f16>()
            .unwrap()
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect(),
        DType::BF16 => x
            .to_vec1::<bf16>()
            .unwrap()
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect(),
        other => panic!("no kernel takes {other:?}"),
    }
}

fn tensor(bytes: &[u8], dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu).unwrap()
}
