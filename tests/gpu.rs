//! On a real GPU, in a build with the feature `cuda`: the layers of `nn` as models call them, and whole training steps, against
//! the processor. What the kernels compute is tested without a GPU too (`cuda`); here it is the compiler, the launches, cuBLAS
//! and the glue. Without a GPU these tests fail.

use candle_core::{DType, Device, Result, Tensor, Var};
use spectral_motion::methods::{Method, Precision};
use spectral_motion::models::ModelFolder;
use spectral_motion::nn::{
    self, Branch, Conv2d, Conv2dConfig, Dropout, GroupNorm, LayerNorm, Linear, Lora, Mask,
    NoiseStream, Padding, Param, Piece, Purpose, Skip, TemporalConv, chain,
};
use spectral_motion::schedulers::NoiseSchedule;
use spectral_motion::spectral::loss::{CosineAxis, MotionLossConfig, Residual, SpectralLoss};
use spectral_motion::train::{Checkpointing, Item, StepStats, Trainer, TransferConfig};

use crate::common::{micro_batch, micro_model};
use crate::cuda::emulator::{assert_close, random, tolerance};

const TYPES: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

fn gpu() -> Device {
    Device::new_cuda(0).expect("these tests need an NVIDIA GPU")
}

/// A layer's value and gradients on a device, for the gradient `by_value` of the value.
fn on(
    device: &Device,
    inputs: &[Tensor],
    by_value: impl Fn(&[usize], DType) -> Tensor,
    f: impl Fn(&Device, DType, &[Tensor]) -> Result<Tensor>,
) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|x| Var::from_tensor(&x.to_device(device).unwrap()).unwrap())
        .collect();
    let leaves: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let dtype = inputs[0].dtype();
    let y = f(device, dtype, &leaves).unwrap();
    let grad = by_value(y.dims(), dtype).to_device(device).unwrap();
    let grads = (&y * grad).unwrap().sum_all().unwrap().backward().unwrap();
    let gradients = vars.iter().map(|v| grads.get(v).unwrap().clone());
    let all = std::iter::once(y.detach()).chain(gradients);
    all.map(|x| x.to_device(&Device::Cpu).unwrap()).collect()
}

/// Value and gradients of `f`, which builds its layer for a device and type, on the GPU in every type and in f64 on the
/// processor from the same rounded numbers.
fn compare(
    what: &str,
    shapes: &[&[usize]],
    types: &[DType],
    f: impl Fn(&Device, DType, &[Tensor]) -> Result<Tensor>,
) {
    for &dtype in types {
        let inputs: Vec<Tensor> = (1..)
            .zip(shapes)
            .map(|(seed, shape)| random(seed, shape, dtype))
            .collect();
        let by_value = |shape: &[usize], to: DType| random(77, shape, dtype).to_dtype(to).unwrap();
        let ours = on(&gpu(), &inputs, by_value, |device, dtype, x| {
            f(device, dtype, x)
        });
        let wide: Vec<Tensor> = inputs
            .iter()
            .map(|x| x.to_dtype(DType::F64).unwrap())
            .collect();
        // The layer's own weights are rounded to `dtype` there too.
        let theirs = on(&Device::Cpu, &wide, by_value, |device, _, x| {
            f(device, dtype, x)
        });
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert!(ours.dtype() == dtype, "{what}: {:?}", ours.dtype());
            // Sums of candle's backward pass in the storage type, beside the kernels' own roundings.
            assert_close(
                &format!("{what} {dtype:?}, result {i}"),
                ours,
                theirs,
                3.0 * tolerance(dtype),
            );
        }
    }
}

/// A layer's weight: rounded to `dtype`, then f64 on the processor, where the reference is computed.
fn weight(seed: u64, shape: &[usize], dtype: DType, device: &Device) -> Tensor {
    let inputs: usize = shape[1..].iter().product();
    let x = (random(seed, shape, DType::F64) / (inputs as f64).sqrt()).unwrap();
    let x = x.to_dtype(dtype).unwrap();
    match device {
        Device::Cpu => x.to_dtype(DType::F64).unwrap(),
        _ => x.to_device(device).unwrap(),
    }
}

#[test]
fn convolutions() {
    for (config, size) in [
        (Conv2dConfig::padded(1), (12, 20)),
        (
            Conv2dConfig {
                stride: 2,
                padding: Padding::same(1),
            },
            (45, 80),
        ),
        (Conv2dConfig::default(), (9, 7)),
    ] {
        for (i, o) in [(32, 64), (4, 36)] {
            let kernel = if config == Conv2dConfig::default() {
                1
            } else {
                3
            };
            compare(
                &format!("conv {config:?}"),
                &[&[2, size.0, size.1, i]],
                &TYPES,
                |device, dtype, x| {
                    let weights = [
                        weight(5, &[o, i, kernel, kernel], dtype, device),
                        weight(6, &[o], dtype, device),
                    ];
                    Conv2d::new(&weights[0], Some(&weights[1]), config)?.forward(&x[0])
                },
            );
        }
    }
    compare(
        "temporal conv",
        &[&[1, 5, 60, 32]],
        &TYPES,
        |device, dtype, x| {
            TemporalConv::new(&weight(5, &[32, 32, 3, 1, 1], dtype, device), None)?.forward(&x[0])
        },
    );
}

#[test]
fn linear_layers_frozen_and_trained() {
    compare("linear", &[&[3, 7, 40]], &TYPES, |device, dtype, x| {
        let (w, b) = (
            weight(5, &[24, 40], dtype, device),
            weight(6, &[24], dtype, device),
        );
        Linear::new(Param::frozen(w), Some(Param::frozen(b)))?.forward(&x[0])
    });
    // What learns is f32 and so is its gradient, whatever passes through.
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let gradients = [gpu(), Device::Cpu].map(|device| {
            let cpu = matches!(device, Device::Cpu);
            let master = random(5, &[24, 40], dtype).to_dtype(DType::F32).unwrap();
            let var = Var::from_tensor(&master.to_device(&device).unwrap()).unwrap();
            let layer = Linear::new(Param::trainable(&var), None).unwrap();
            let x = random(1, &[300, 40], dtype);
            let x = if cpu {
                x.to_dtype(DType::F32).unwrap()
            } else {
                x
            };
            let y = layer.forward(&x.to_device(&device).unwrap()).unwrap();
            let grad = random(2, &[300, 24], dtype).to_dtype(y.dtype()).unwrap();
            let loss = (y * grad.to_device(&device).unwrap())
                .unwrap()
                .sum_all()
                .unwrap();
            let gradient = loss.backward().unwrap().remove(&var).unwrap();
            assert_eq!(gradient.dtype(), DType::F32);
            gradient.to_device(&Device::Cpu).unwrap()
        });
        // Products of 16-bit numbers are exact in f32; only the order of the sums differs.
        assert_close(
            &format!("weight gradient {dtype:?}"),
            &gradients[0],
            &gradients[1],
            1e-5,
        );
    }
}

#[test]
fn norms_activations_and_resizing() {
    for silu in [true, false] {
        compare(
            "group norm",
            &[&[2, 240, 64]],
            &TYPES,
            |device, dtype, x| {
                let norm = GroupNorm::new(
                    &weight(5, &[64], dtype, device),
                    &weight(6, &[64], dtype, device),
                    32,
                    1e-5,
                )?;
                if silu {
                    norm.forward_silu(&x[0])
                } else {
                    norm.forward(&x[0])
                }
            },
        );
    }
    compare(
        "layer norm",
        &[&[5, 77, 320]],
        &TYPES,
        |device, dtype, x| {
            LayerNorm::new(
                &weight(5, &[320], dtype, device),
                &weight(6, &[320], dtype, device),
                1e-5,
            )?
            .forward(&x[0])
        },
    );
    compare("silu", &[&[1003]], &TYPES, |_, _, x| nn::silu(&x[0]));
    compare("gelu", &[&[1003]], &TYPES, |_, _, x| nn::gelu(&x[0]));
    compare("quick gelu", &[&[1003]], &TYPES, |_, _, x| {
        nn::quick_gelu(&x[0])
    });
    compare("geglu", &[&[7, 2, 48]], &TYPES, |_, _, x| nn::geglu(&x[0]));
    compare("upsampling", &[&[2, 5, 7, 24]], &TYPES, |_, _, x| {
        nn::upsample_nearest(&x[0], 9, 14)
    });
}

#[test]
fn attention_of_every_kind() {
    let types = [DType::F32, DType::F16, DType::BF16];
    for (n, heads, queries, keys, width, mask) in [
        (64, 5, 16, 16, 64, Mask::None),
        (3, 2, 24, 24, 160, Mask::None),
        (9, 2, 5, 33, 8, Mask::None),
        (2, 5, 576, 576, 64, Mask::None),
        (2, 5, 300, 77, 40, Mask::None),
        (1, 1, 100, 130, 160, Mask::None),
        (1, 8, 77, 77, 64, Mask::Causal),
        // Too wide for the kernels: composed.
        (1, 1, 40, 40, 192, Mask::None),
    ] {
        let (q, k) = ([n, queries, heads * width], [n, keys, heads * width]);
        compare(
            &format!("attention {q:?} {k:?}"),
            &[&q, &k, &k],
            &types,
            |_, _, x| nn::attention(&x[0], &x[1], &x[2], heads, mask),
        );
    }
}

#[test]
fn chains_of_frozen_layers() {
    let conv = |seed: u64, (i, o): (usize, usize), kernel: usize, dtype, device: &Device| {
        let weights = [
            weight(seed, &[o, i, kernel, kernel], dtype, device),
            weight(seed + 1, &[o], dtype, device),
        ];
        let config = Conv2dConfig::padded(kernel / 2);
        Conv2d::new(&weights[0], Some(&weights[1]), config).unwrap()
    };
    let norm = |seed: u64, c: usize, dtype, device: &Device| {
        let weights = [seed, seed + 1].map(|seed| weight(seed, &[c], dtype, device));
        GroupNorm::new(&weights[0], &weights[1], 8, 1e-5).unwrap()
    };
    let linear = |seed: u64, (i, o): (usize, usize), dtype, device: &Device| {
        let weights = [
            weight(seed, &[o, i], dtype, device),
            weight(seed + 1, &[o], dtype, device),
        ]
        .map(Param::frozen);
        let [w, b] = weights;
        Linear::new(w, Some(b)).unwrap()
    };
    // Sums of several roundings of what passes between.
    compare(
        "residual layer",
        &[&[4, 6, 10, 32]],
        &TYPES,
        |device, dtype, x| {
            let norms = [norm(5, 32, dtype, device), norm(7, 64, dtype, device)];
            let convs = [(9, 32, 64, 3), (11, 64, 64, 3), (13, 32, 64, 1)]
                .map(|(seed, i, o, kernel)| conv(seed, (i, o), kernel, dtype, device));
            let shift = weight(15, &[2, 64], dtype, device);
            let pieces = [
                Piece::NormSilu(&norms[0]),
                Piece::Conv(&convs[0]),
                Piece::Shift(&shift),
                Piece::NormSilu(&norms[1]),
                Piece::Conv(&convs[1]),
            ];
            chain(&x[0], &pieces, Skip::Through(&convs[2]))
        },
    );
    compare(
        "temporal layer",
        &[&[2, 5, 12, 32]],
        &TYPES,
        |device, dtype, x| {
            let norm = norm(5, 32, dtype, device);
            let weight = weight(9, &[32, 32, 3, 1, 1], dtype, device);
            let conv = TemporalConv::new(&weight, None)?;
            let pieces = [
                Piece::NormSilu(&norm),
                Piece::TemporalConv(&conv),
                Piece::NormSilu(&norm),
                Piece::TemporalConv(&conv),
            ];
            chain(&x[0], &pieces, Skip::Input)
        },
    );
    compare(
        "feed forward",
        &[&[3, 7, 32]],
        &TYPES,
        |device, dtype, x| {
            let weights = [5, 6].map(|seed| weight(seed, &[32], dtype, device));
            let norm = LayerNorm::new(&weights[0], &weights[1], 1e-5)?;
            let (wide, narrow) = (
                linear(7, (32, 256), dtype, device),
                linear(9, (128, 32), dtype, device),
            );
            let pieces = [
                Piece::LayerNorm(&norm),
                Piece::Linear(&wide),
                Piece::Geglu,
                Piece::Linear(&narrow),
            ];
            chain(&x[0], &pieces, Skip::Input)
        },
    );
    compare(
        "there and back",
        &[&[2, 5, 12, 32], &[10, 3, 4, 32]],
        &TYPES,
        |device, dtype, x| {
            let norm = norm(5, 32, dtype, device);
            let layers = [7, 9].map(|seed| linear(seed, (32, 32), dtype, device));
            let entry = [
                Piece::Norm(&norm),
                Piece::PositionsToBatch,
                Piece::Linear(&layers[0]),
            ];
            let tokens = chain(&x[0], &entry, Skip::Nothing)?;
            let exit = [Piece::Linear(&layers[1]), Piece::BatchToPositions(2)];
            chain(&tokens, &exit, Skip::Tensor(&x[1]))
        },
    );
}

#[test]
fn adapters_beside_frozen_layers() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let dropout = || Dropout::new(0.1, NoiseStream::new(4, Purpose::Dropout));
        let results = [gpu(), Device::Cpu].map(|device| {
            let cpu = matches!(device, Device::Cpu);
            // The factors are f32 masters of numbers that `dtype` holds, so that both sides multiply the same.
            let master = |seed: u64, shape: &[usize]| {
                let x = (random(seed, shape, DType::F64) * 0.3).unwrap();
                let x = x.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
                Var::from_tensor(&x.to_device(&device).unwrap()).unwrap()
            };
            let (down, up) = (master(1, &[4, 40]), master(2, &[24, 4]));
            let branch = Branch::default();
            branch.set(0.5, true, Some(dropout()));
            let frozen = |seed: u64, shape: &[usize]| {
                let x = weight(seed, shape, dtype, &device);
                Param::frozen(if cpu {
                    x.to_dtype(DType::F32).unwrap()
                } else {
                    x
                })
            };
            let layer = Linear::new(frozen(5, &[24, 40]), Some(frozen(6, &[24]))).unwrap();
            let layer = layer.with_lora(Lora::new(&down, &up, branch).unwrap());
            let x = random(3, &[2, 9, 40], dtype);
            let x = if cpu {
                x.to_dtype(DType::F32).unwrap()
            } else {
                x
            };
            let x = Var::from_tensor(&x.to_device(&device).unwrap()).unwrap();
            let y = layer.forward(&x).unwrap();
            let grad = random(4, &[2, 9, 24], dtype).to_dtype(y.dtype()).unwrap();
            let grad = grad.to_device(&device).unwrap();
            let grads = (&y * grad).unwrap().sum_all().unwrap().backward().unwrap();
            let gradients = [&x, &down, &up].map(|v| grads.get(v).unwrap().clone());
            let all = [y.detach()].into_iter().chain(gradients);
            all.map(|x| x.to_device(&Device::Cpu).unwrap())
                .collect::<Vec<_>>()
        });
        for (i, (ours, theirs)) in results[0].iter().zip(&results[1]).enumerate() {
            let what = format!("adapter {dtype:?}, result {i}");
            // The inner product and the masked gradient are rounded once more.
            assert_close(&what, ours, theirs, 3.0 * tolerance(dtype));
        }
    }
}

#[test]
fn parts_of_other_tensors_are_inputs_too() {
    // A narrow that begins at no multiple of 16 bytes, and one that is not contiguous.
    compare("narrow", &[&[9, 24]], &TYPES, |device, dtype, x| {
        let norm = LayerNorm::new(
            &weight(5, &[23], dtype, device),
            &weight(6, &[23], dtype, device),
            1e-5,
        )?;
        norm.forward(&x[0].narrow(1, 1, 23)?)?
            .add(&norm.forward(&x[0].flatten_all()?.narrow(0, 1, 9 * 23)?.reshape((9, 23))?)?)
    });
}

#[test]
fn spectral_losses() {
    for residual in [Residual::Abs, Residual::Signed] {
        let shape = [1, 4, 16, 12, 20];
        let results = [gpu(), Device::Cpu].map(|device| {
            let clips =
                [1, 2, 3].map(|seed| random(seed, &shape, DType::F32).to_device(&device).unwrap());
            let var = Var::from_tensor(&clips[1]).unwrap();
            let config = MotionLossConfig {
                residual,
                ..MotionLossConfig::default()
            };
            let loss = SpectralLoss::new(&config, 16, 12, 20, DType::F32, &device).unwrap();
            let global = loss.global(&clips[0], &var).unwrap();
            let local = loss.local(&clips[0], &var).unwrap();
            let cosines = [CosineAxis::Frame, CosineAxis::Pixel].map(|axis| {
                SpectralLoss::cosine_alignment(&var, &clips[2], residual, axis).unwrap()
            });
            let terms = [
                global.total,
                local.amplitude,
                local.phase,
                cosines[0].clone(),
                cosines[1].clone(),
            ];
            let mut results = Vec::new();
            for term in &terms {
                results.push(term.to_device(&Device::Cpu).unwrap());
                let gradient = term.backward().unwrap().remove(&var).unwrap();
                results.push(gradient.to_device(&Device::Cpu).unwrap());
            }
            results
        });
        for (i, (ours, theirs)) in results[0].iter().zip(&results[1]).enumerate() {
            // f64 inside on both; f32 at the edges.
            assert_close(&format!("{residual:?}, result {i}"), ours, theirs, 2e-6);
        }
    }
}

fn train(
    device: &Device,
    method: Method,
    precision: Precision,
    steps: u32,
) -> (Vec<StepStats>, Vec<Tensor>) {
    let config = TransferConfig {
        method,
        precision,
        steps,
        rank: 4,
        seed: 3,
        checkpointing: Checkpointing::Block,
        ..TransferConfig::default()
    };
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let tuned = method.load(&folder, config.tuning(1), device).unwrap();
    let vars = tuned.vars.clone();
    let schedule = NoiseSchedule::new(folder.scheduler());
    let batch = micro_batch();
    let on = |x: &Tensor| x.to_device(device).unwrap();
    let items = vec![Item::new(&on(&batch.v0), &on(&batch.text))];
    let mut trainer = Trainer::new(&config, tuned, schedule, items).unwrap();
    let stats = (0..steps).map(|_| trainer.step().unwrap()).collect();
    let weights = vars
        .values()
        .map(|v| v.as_tensor().to_device(&Device::Cpu).unwrap())
        .collect();
    (stats, weights)
}

#[test]
fn training_steps_follow_those_of_the_processor() {
    for method in [Method::Vmc, Method::MotionDirector] {
        // From the third update on the optimiser asks the device nothing.
        let (ours, our_weights) = train(&gpu(), method, Precision::F32, 6);
        let (theirs, their_weights) = train(&Device::Cpu, method, Precision::F32, 6);
        for (a, b) in ours.iter().zip(&theirs) {
            for (a, b) in [(a.total, b.total), (a.grad_norm, b.grad_norm)] {
                // f32 sums in another order through six updates of Adam, which divides by small numbers.
                assert!((a - b).abs() <= 2e-3 * b.abs(), "{method:?}: {a} and {b}");
            }
        }
        for (a, b) in our_weights.iter().zip(&their_weights) {
            assert_close(&format!("{method:?} weights"), a, b, 2e-3);
        }
        for precision in [Precision::F16, Precision::Bf16] {
            let (half, weights) = train(&gpu(), method, precision, 6);
            let close = (half[0].total - theirs[0].total).abs() <= 0.15 * theirs[0].total;
            assert!(
                close,
                "{method:?} {precision:?}: {} and {}",
                half[0].total, theirs[0].total
            );
            let finite = |x: &Tensor| {
                x.sqr()
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap()
                    .is_finite()
            };
            assert!(weights.iter().all(finite), "{method:?} {precision:?}");
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_moves_nothing() {
    let device = gpu();
    let config = TransferConfig {
        method: Method::Vmc,
        steps: 9,
        seed: 3,
        ..TransferConfig::default()
    };
    let folder = ModelFolder::open(&micro_model()).unwrap();
    let tuned = config
        .method
        .load(&folder, config.tuning(1), &device)
        .unwrap();
    let vars = tuned.vars.clone();
    let batch = micro_batch();
    let on = |x: &Tensor| x.to_device(&device).unwrap();
    let items = vec![Item::new(&on(&batch.v0), &on(&batch.text))];
    let schedule = NoiseSchedule::new(folder.scheduler());
    let mut trainer = Trainer::new(&config, tuned, schedule, items).unwrap();
    for _ in 0..3 {
        trainer.step().unwrap();
    }
    let copies = || -> Vec<Vec<f32>> {
        vars.values()
            .map(|v| v.as_tensor().flatten_all().unwrap().to_vec1().unwrap())
            .collect()
    };
    let before = copies();
    let mut bad = batch.clone();
    bad.v0 = on(&(batch.v0 * f64::NAN).unwrap());
    bad.eps = on(&bad.eps);
    bad.text = on(&bad.text);
    assert!(trainer.step_on(&bad).is_err());
    assert!(copies() == before, "weights moved");
    assert_eq!(trainer.checkpoint().unwrap().state.updates, 3);
    trainer.step().unwrap();
    assert!(copies() != before);
}

#[test]
fn dropout_is_the_same_on_every_device() {
    // The masks of the stream; MotionDirector's steps above run with them.
    let mask = NoiseStream::new(9, Purpose::Dropout)
        .chance(1001, 0.9, &gpu())
        .unwrap();
    let same = NoiseStream::new(9, Purpose::Dropout)
        .chance(1001, 0.9, &Device::Cpu)
        .unwrap();
    assert_close("chance", &mask.to_device(&Device::Cpu).unwrap(), &same, 0.0);
}
