//! A few optimizer steps of a host method with spectral alignment, given the noise.
//!
//! The optimizer is written out here, so that the trace checks networks, losses and gradients on their own.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use spectral_motion::methods::motion_director::{self, Part};
use spectral_motion::models::{
    Adapter, AdapterName, Adapters, Factor, ModelFolder, UNet3DConditionModel,
};
use spectral_motion::nn::Branch;
use spectral_motion::schedulers::NoiseSchedule;
use spectral_motion::spectral::loss::{CosineAxis, MotionLossConfig, Residual, SpectralLoss};

use super::{Findings, Tensors};

/// Terms after some steps carry the difference of all updates before.
const TERM_LIMIT: f64 = 1e-4;
/// Single precision through the whole network, forwards and backwards.
const GRADIENT_LIMIT: f64 = 5e-5;
/// AdamW divides by the gradient's own size: the update of a weight with a tiny gradient is as large as any other, and
/// as uncertain as that gradient is in relation to its size.
const WEIGHT_LIMIT: f64 = 1e-3;

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 1e-2;
const LAMBDA_GLOBAL: f64 = 0.4;
const LAMBDA_LOCAL: f64 = 0.2;

/// The methods that traces exist for.
#[derive(Clone, Copy, PartialEq)]
pub enum Host {
    Vmc,
    /// The temporal pass alone, with adapters of rank 4.
    MotionDirector,
}

/// Rank of the adapters in the traces.
const RANK: usize = 4;

impl Host {
    /// The network and what learns in it, by the names of the trace and with its starting values.
    fn load(self, folder: &ModelFolder, golden: &Tensors) -> (UNet3DConditionModel, Vars) {
        let device = Device::Cpu;
        if self == Self::Vmc {
            return folder.load_unet(&learns, &device).unwrap();
        }
        let (unet, vars) = folder
            .load_tuned_unet(
                &|weights| {
                    weights.set_adapters(Adapters {
                        choose: Box::new(|layer| {
                            let temporal = motion_director::part_of(layer) == Some(Part::Temporal);
                            let adapter = temporal.then(|| Adapter {
                                branch: Branch::default(),
                                set: 0,
                                rank: RANK,
                            });
                            adapter.into_iter().collect()
                        }),
                        seed: 1,
                    });
                },
                DType::F32,
                &device,
            )
            .unwrap();
        let named = vars.into_iter().map(|(name, var)| {
            let adapter = AdapterName::parse(&name).unwrap();
            let name = match adapter.factor {
                Factor::Down => format!("{}.down", adapter.layer),
                Factor::Up => format!("{}.up", adapter.layer),
            };
            var.set(&golden[&format!("init.{name}")]).unwrap();
            (name, var)
        });
        (unet, named.collect())
    }

    fn base(self, out: &Tensor, eps: &Tensor, anchor: usize) -> Tensor {
        match self {
            Self::Vmc => {
                SpectralLoss::cosine_alignment(out, eps, Residual::Abs, CosineAxis::Frame).unwrap()
            }
            Self::MotionDirector => motion_director::base_loss(out, eps, anchor).unwrap(),
        }
    }
}

pub type Vars = BTreeMap<String, Var>;

fn learns(name: &str) -> bool {
    name.contains("temp_attentions")
        && [".to_q.weight", ".to_k.weight", ".to_v.weight"]
            .iter()
            .any(|end| name.ends_with(end))
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all()
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn norm<'a>(all: impl Iterator<Item = &'a f64>) -> f64 {
    all.map(|v| v * v).sum::<f64>().sqrt()
}

/// Error of many tensors together: norm of all differences over norm of `scale`.
fn together(pairs: &[(Vec<f64>, Vec<f64>)], scale: f64) -> f64 {
    let differences: Vec<f64> = pairs
        .iter()
        .flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b))
        .collect();
    norm(differences.iter()) / scale
}

/// First and second moments of AdamW, as PyTorch keeps them.
#[derive(Default)]
struct AdamW {
    learning_rate: f64,
    moments: BTreeMap<String, Vec<(f64, f64)>>,
    steps: i32,
}

impl AdamW {
    /// Clips all gradients together to norm 1, then moves every variable.
    fn step(&mut self, vars: &BTreeMap<String, Var>, gradients: &BTreeMap<String, Vec<f64>>) {
        self.steps += 1;
        let total = norm(gradients.values().flatten());
        let scale = (1.0 / (total + 1e-6)).min(1.0);
        let correct = |beta: f64| 1.0 - beta.powi(self.steps);
        for (name, var) in vars {
            let gradient = &gradients[name];
            let moments = self
                .moments
                .entry(name.clone())
                .or_insert_with(|| vec![(0.0, 0.0); gradient.len()]);
            let moved =
                values(var)
                    .into_iter()
                    .zip(gradient)
                    .zip(moments)
                    .map(|((w, g), (m, v))| {
                        let g = g * scale;
                        *m = BETAS.0 * *m + (1.0 - BETAS.0) * g;
                        *v = BETAS.1 * *v + (1.0 - BETAS.1) * g * g;
                        let direction =
                            *m / correct(BETAS.0) / ((*v / correct(BETAS.1)).sqrt() + EPSILON);
                        let rate = self.learning_rate;
                        (w * (1.0 - rate * WEIGHT_DECAY) - rate * direction) as f32
                    });
            let moved = Tensor::from_vec(moved.collect(), var.shape(), &Device::Cpu).unwrap();
            var.set(&moved).unwrap();
        }
    }
}

/// Repeats the trace and compares every number in it.
pub fn check(name: &str, model: &Path, host: Host, golden: &Tensors, findings: &mut Findings) {
    let folder = ModelFolder::open(model).unwrap();
    let (unet, vars) = host.load(&folder, golden);
    let expected: Vec<&str> = golden
        .keys()
        .filter_map(|key| key.strip_prefix("init."))
        .collect();
    assert_eq!(
        vars.len(),
        expected.len(),
        "{name}: number of trained tensors"
    );
    for (key, var) in &vars {
        assert_eq!(
            values(var),
            values(&golden[&format!("init.{key}")]),
            "{name}: {key} at the start"
        );
    }
    let text = &golden["text"];
    let trace = Trace {
        vars: &vars,
        schedule: NoiseSchedule::new(folder.scheduler()),
        learning_rate: 1e-4,
        predict: &|v_t, t| unet.forward(v_t, &[f64::from(t)], text).unwrap(),
        base: &|out, eps, anchor| host.base(out, eps, anchor),
    };
    trace.check(name, golden, findings);
}

/// What learns, and the loss it learns by.
pub struct Trace<'a> {
    /// What learns, by the names of the trace, at its starting values.
    pub vars: &'a Vars,
    pub schedule: NoiseSchedule,
    pub learning_rate: f64,
    pub predict: &'a dyn Fn(&Tensor, u32) -> Tensor,
    /// The host's loss of the prediction and the noise, and a frame that one host takes the others relative to.
    pub base: &'a dyn Fn(&Tensor, &Tensor, usize) -> Tensor,
}

impl Trace<'_> {
    /// Repeats the steps and compares every number.
    pub fn check(&self, name: &str, golden: &Tensors, findings: &mut Findings) {
        let (vars, schedule) = (self.vars, &self.schedule);
        let starts: BTreeMap<&String, Vec<f64>> =
            vars.iter().map(|(key, var)| (key, values(var))).collect();
        let v0 = &golden["v0"];
        let (_, _, frames, h, w) = v0.dims5().unwrap();
        let losses = SpectralLoss::new(
            &MotionLossConfig::default(),
            frames,
            h,
            w,
            DType::F32,
            &Device::Cpu,
        )
        .unwrap();
        let mut optimizer = AdamW {
            learning_rate: self.learning_rate,
            ..AdamW::default()
        };
        for step in (0..).take_while(|i| golden.contains_key(&format!("{i}.eps"))) {
            let eps = &golden[&format!("{step}.eps")];
            let t = golden[&format!("{step}.t")].to_vec1::<i64>().unwrap()[0] as u32;
            let v_t = schedule.add_noise(v0, eps, &[t]).unwrap();
            let out = (self.predict)(&v_t, t);
            let v0_hat = schedule.predict_x0(&v_t, &out, &[t]).unwrap();
            let anchor = golden
                .get(&format!("{step}.anchor"))
                .map_or(0, |anchor| anchor.to_scalar::<i64>().unwrap() as usize);
            let base = (self.base)(&out, eps, anchor);
            let global = losses.global(v0, &v0_hat).unwrap().total;
            let local = losses.local(v0, &v0_hat).unwrap();
            let both = (&local.amplitude + &local.phase).unwrap();
            let loss = ((&base + (&global * LAMBDA_GLOBAL).unwrap()).unwrap()
                + (both * LAMBDA_LOCAL).unwrap())
            .unwrap();
            for (term, ours) in [
                ("base", &base),
                ("glob", &global),
                ("amp", &local.amplitude),
                ("phase", &local.phase),
                ("loss", &loss),
            ] {
                let key = format!("{step}.{term}");
                findings.compare(
                    format!("{name} step {key}"),
                    ours,
                    &golden[&key],
                    TERM_LIMIT,
                );
            }
            let store = loss.backward().unwrap();
            let gradients: BTreeMap<String, Vec<f64>> = vars
                .iter()
                .map(|(key, var)| (key.clone(), values(store.get(var).unwrap())))
                .collect();
            if step == 0 {
                let pairs: Vec<_> = gradients
                    .iter()
                    .map(|(key, ours)| (ours.clone(), values(&golden[&format!("grad.{key}")])))
                    .collect();
                let scale = norm(pairs.iter().flat_map(|(_, expected)| expected));
                findings.note(
                    format!("{name} first gradients"),
                    together(&pairs, scale),
                    GRADIENT_LIMIT,
                );
            }
            optimizer.step(vars, &gradients);
        }
        let end = |key: &str| values(&golden[&format!("final.{key}")]);
        let pairs: Vec<_> = vars
            .iter()
            .map(|(key, var)| (values(var), end(key)))
            .collect();
        let updates: Vec<f64> = vars
            .keys()
            .flat_map(|key| end(key).into_iter().zip(&starts[key]).map(|(a, b)| a - b))
            .collect();
        findings.note(
            format!("{name} final weights"),
            together(&pairs, norm(updates.iter())),
            WEIGHT_LIMIT,
        );
    }
}
