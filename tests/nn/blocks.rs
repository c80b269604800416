//! Activations, resizing, embeddings and layouts; and every block's promise to pass a gradient on.

use candle_core::{DType, Device, Result, Tensor, Var};
use spectral_motion::nn::{
    self, Conv2d, Conv2dConfig, GroupNorm, LayerNorm, Linear, Mask, Padding, Param, TemporalConv,
    layout,
};

use super::support::{assert_close, check_gradients, numbers, random};

fn map(x: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
    Tensor::from_vec(
        numbers(x).into_iter().map(f).collect::<Vec<f64>>(),
        x.shape(),
        &Device::Cpu,
    )
    .unwrap()
}

fn gelu(v: f64) -> f64 {
    v * 0.5 * libm::erfc(-v / 2f64.sqrt())
}

#[test]
fn activations_match_their_definitions() {
    let x = (random(1, (5, 1003), DType::F32) * 4.0).unwrap();
    // Relative to the largest result (about 15): a few roundings of f32.
    assert_close(
        &nn::silu(&x).unwrap(),
        &map(&x, |v| v / (1.0 + (-v).exp())),
        3e-7,
    );
    assert_close(&nn::gelu(&x).unwrap(), &map(&x, gelu), 3e-7);
    assert_close(
        &nn::quick_gelu(&x).unwrap(),
        &map(&x, |v| v / (1.0 + (-1.702 * v).exp())),
        3e-7,
    );
    let small = (random(1, (5, 1003), DType::F32) * 0.01).unwrap();
    assert_close(&nn::gelu(&small).unwrap(), &map(&small, gelu), 6e-7);
    assert_close(
        &nn::silu(&small).unwrap(),
        &map(&small, |v| v / (1.0 + (-v).exp())),
        3e-7,
    );
}

/// Far out, activations are the identity or nothing, and their slopes 1 or 0: no overflow on the way.
#[test]
fn activations_are_finite_far_out() {
    let x = Var::new(
        &[-1e30f32, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30],
        &Device::Cpu,
    )
    .unwrap();
    for f in [nn::silu, nn::gelu, nn::quick_gelu] {
        let y = f(&x).unwrap();
        let grad = y.sum_all().unwrap().backward().unwrap();
        assert_close(&y, &x.relu().unwrap(), 1e-6);
        assert_eq!(
            numbers(grad.get(&x).unwrap()),
            [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
        );
    }
}

#[test]
fn geglu_takes_its_halves_in_order() {
    for width in [1, 7, 40, 300] {
        let x = random(1, (3, 5, 2 * width), DType::F32);
        let (u, g) = (
            x.narrow(2, 0, width).unwrap(),
            x.narrow(2, width, width).unwrap(),
        );
        let expected = (u.to_dtype(DType::F64).unwrap() * map(&g, gelu)).unwrap();
        assert_close(&nn::geglu(&x).unwrap(), &expected, 5e-7);
    }
    assert!(nn::geglu(&random(1, (2, 3), DType::F32)).is_err());
}

#[test]
fn activation_gradients_match_finite_differences() {
    let x = (random(1, (3, 7, 10), DType::F64) * 2.0).unwrap();
    for f in [nn::silu, nn::gelu, nn::quick_gelu, nn::geglu] {
        check_gradients(std::slice::from_ref(&x), |v| f(&v[0]));
    }
}

/// The f32 slopes of the kernels against f64.
#[test]
fn activation_gradients_in_f32() {
    let x = (random(1, 4001, DType::F32) * 3.0).unwrap();
    for f in [nn::silu, nn::gelu, nn::quick_gelu] {
        let grad = |x: &Tensor| {
            let x = Var::from_tensor(x).unwrap();
            f(&x)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap()
                .get(&x)
                .unwrap()
                .clone()
        };
        // A few roundings of f32 in slopes of about 1.
        assert_close(&grad(&x), &grad(&x.to_dtype(DType::F64).unwrap()), 6e-7);
    }
}

#[test]
fn upsampling_repeats_positions() {
    for ((h, w), (h2, w2)) in [
        ((3, 5), (6, 10)),
        ((6, 5), (12, 9)),
        ((4, 4), (3, 7)),
        ((1, 1), (2, 3)),
    ] {
        let x = random(1, (2, h, w, 3), DType::F32);
        let y = nn::upsample_nearest(&x, h2, w2).unwrap();
        assert_eq!(y.dims(), [2, h2, w2, 3]);
        let (from, to) = (numbers(&x), numbers(&y));
        for (i, v) in to.iter().enumerate() {
            let (c, x2, y2, n) = (i % 3, i / 3 % w2, i / 3 / w2 % h2, i / 3 / w2 / h2);
            assert_eq!(*v, from[((n * h + y2 * h / h2) * w + x2 * w / w2) * 3 + c]);
        }
        if h2 >= h && w2 >= w {
            let x = x.to_dtype(DType::F64).unwrap();
            // The input is used twice, where candle's own upsampling loses one of the gradients.
            check_gradients(&[x], |v| {
                nn::upsample_nearest(&v[0], h2, w2)?.sqr()? + nn::upsample_nearest(&v[0], h2, w2)?
            });
        }
    }
    assert!(nn::upsample_nearest(&random(1, (1, 2, 2, 1), DType::F32), 0, 4).is_err());
}

/// Values by the formula of spec/models.md 1.1 in double precision; f32 phases move them by at most 3.1e-5 at
/// t = 999 (half a unit in the last place of 999, and of the frequency).
#[test]
fn timestep_embedding_follows_its_formula() {
    let (width, steps) = (10, [0.0, 1.0, 37.5, 999.0]);
    let y = nn::timestep_embedding(&steps, width, DType::F64, &Device::Cpu).unwrap();
    assert_eq!(y.dims(), [4, width]);
    let rows: Vec<Vec<f64>> = y.to_vec2().unwrap();
    for (row, t) in rows.iter().zip(steps) {
        for i in 0..width / 2 {
            let phase = t * (-(10_000f64.ln()) * i as f64 / 5.0).exp();
            assert!(
                (row[i] - phase.cos()).abs() < 6e-5
                    && (row[i + width / 2] - phase.sin()).abs() < 6e-5
            );
        }
    }
    assert!(nn::timestep_embedding(&steps, 7, DType::F32, &Device::Cpu).is_err());
}

#[test]
fn layouts_are_inverse_and_put_numbers_in_place() {
    let x = random(1, (2, 3, 4, 5, 6), DType::F32);
    let last = layout::channels_last(&x).unwrap();
    assert_eq!(last.dims(), [2, 4, 5, 6, 3]);
    let at = |x: &Tensor, place: [usize; 5]| {
        place
            .iter()
            .try_fold(x.clone(), |x, &i| x.get(i))
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
    };
    assert_eq!(at(&last, [1, 2, 3, 4, 0]), at(&x, [1, 0, 2, 3, 4]));
    assert_close(&layout::channels_first(&last).unwrap(), &x, 0.0);
    let images = layout::frames_to_batch(&last).unwrap();
    assert_eq!(images.dims(), [8, 5, 6, 3]);
    assert_close(&layout::batch_to_frames(&images, 4).unwrap(), &last, 0.0);
    assert!(
        layout::batch_to_frames(&images, 3).is_err()
            && layout::batch_to_frames(&images, 0).is_err()
    );
    let tokens = last.reshape((2, 4, 30, 3)).unwrap();
    let positions = layout::positions_to_batch(&tokens).unwrap();
    assert_eq!(positions.dims(), [60, 4, 3]);
    assert_close(
        &positions.get(37).unwrap(),
        &tokens
            .get(1)
            .unwrap()
            .narrow(1, 7, 1)
            .unwrap()
            .squeeze(1)
            .unwrap(),
        0.0,
    );
    assert_close(
        &layout::batch_to_positions(&positions, 2).unwrap(),
        &tokens,
        0.0,
    );
    assert!(layout::batch_to_positions(&positions, 7).is_err());
    let one = tokens.narrow(1, 0, 1).unwrap();
    let there = layout::positions_to_batch(&one).unwrap();
    assert_close(&layout::batch_to_positions(&there, 2).unwrap(), &one, 0.0);
}

type Apply = Box<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;
type Block = (&'static str, Vec<usize>, Apply);

fn weight(shape: &[usize]) -> Tensor {
    random(5, shape, DType::F32)
}

fn block(
    name: &'static str,
    shape: &[usize],
    f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Block {
    (name, shape.to_vec(), Box::new(f))
}

/// Every block of `nn` that takes a tensor, with the shape of an input. A new block belongs in this list.
fn blocks() -> Vec<Block> {
    let (image, tokens, clip) = ([2, 5, 7, 8], [2, 6, 8], [1, 2, 3, 4, 5]);
    let bias = Some(Param::frozen(weight(&[6])));
    let linear = Linear::new(Param::frozen(weight(&[6, 8])), bias).unwrap();
    let var = Var::from_tensor(&weight(&[6, 8])).unwrap();
    let trained = Linear::new(Param::trainable(&var), None).unwrap();
    let conv = Conv2d::new(&weight(&[6, 8, 3, 3]), None, Conv2dConfig::padded(1)).unwrap();
    let strided = Conv2dConfig {
        stride: 2,
        padding: Padding::same(1),
    };
    let down = Conv2d::new(&weight(&[6, 8, 3, 3]), None, strided).unwrap();
    let temporal = TemporalConv::new(&weight(&[8, 8, 3, 1, 1]), None).unwrap();
    let group = GroupNorm::new(&weight(&[8]), &weight(&[8]), 4, 1e-5).unwrap();
    let group_silu = group.clone();
    let layer = LayerNorm::new(&weight(&[8]), &weight(&[8]), 1e-5).unwrap();
    vec![
        block("linear", &tokens, move |x| linear.forward(x)),
        block("trained linear", &tokens, move |x| trained.forward(x)),
        block("conv", &image, move |x| conv.forward(x)),
        block("strided conv", &image, move |x| down.forward(x)),
        block("temporal conv", &image, move |x| temporal.forward(x)),
        block("group norm", &tokens, move |x| group.forward(x)),
        block("group norm + silu", &tokens, move |x| {
            group_silu.forward_silu(x)
        }),
        block("layer norm", &tokens, move |x| layer.forward(x)),
        block("attention", &tokens, |x| {
            nn::attention(x, x, x, 2, Mask::None)
        }),
        block("silu", &tokens, nn::silu),
        block("gelu", &tokens, nn::gelu),
        block("quick gelu", &tokens, nn::quick_gelu),
        block("geglu", &tokens, nn::geglu),
        block("upsample", &image, |x| nn::upsample_nearest(x, 10, 14)),
        block("positions", &image, |x| {
            layout::batch_to_positions(&layout::positions_to_batch(x)?, 2)
        }),
        block("channels", &clip, layout::channels_last),
        block("channels back", &clip, layout::channels_first),
    ]
}

/// Whatever the type, the layout of the input and the layout of the gradient that comes back.
#[test]
fn no_block_drops_a_gradient() {
    for (name, shape, block) in blocks() {
        for dtype in [DType::F32, DType::F64, DType::F16] {
            let x = Var::from_tensor(&random(1, shape.clone(), dtype)).unwrap();
            let rank = shape.len();
            // The same numbers out of order in memory, and a gradient that arrives transposed.
            let scattered = x
                .transpose(0, rank - 1)
                .unwrap()
                .contiguous()
                .unwrap()
                .transpose(0, rank - 1)
                .unwrap();
            let y = block(&scattered).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(y.dtype(), dtype, "{name}");
            let turned = y.transpose(0, 1).unwrap();
            let r = random(2, turned.shape(), dtype);
            let grads = (turned * r).unwrap().sum_all().unwrap().backward().unwrap();
            let grad = numbers(
                grads
                    .get(&x)
                    .unwrap_or_else(|| panic!("{name} dropped the gradient of its input")),
            );
            assert!(
                grad.iter().all(|g| g.is_finite()) && grad.iter().any(|g| *g != 0.0),
                "{name}"
            );
        }
    }
}

#[test]
fn no_block_records_anything_inside_no_grad() {
    for (name, shape, block) in blocks() {
        let y = nn::no_grad(|| block(&random(1, shape, DType::F32))).unwrap();
        assert!(!y.track_op(), "{name}");
    }
}

/// Work is cut by the shape of a problem, not by the number of threads: a run repeats on another machine.
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (name, shape, block) in blocks() {
        let shape: Vec<usize> = shape
            .iter()
            .map(|&d| if d == 8 { 8 } else { d * 4 })
            .collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let x = Var::from_tensor(&random(1, shape.clone(), DType::F32)).unwrap();
                let y = block(&x).unwrap();
                let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                (numbers(&y), numbers(grads.get(&x).unwrap()))
            })
        };
        assert_eq!(run(1), run(3), "{name}");
    }
}

/// Passes through a trainable layer keep nothing of each other inside `no_grad`; with gradients they would hold
/// 400 MiB here.
#[cfg(target_os = "linux")]
#[test]
fn no_grad_does_not_grow() {
    let resident = || -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let var = Var::from_tensor(&(random(1, (64, 64), DType::F32) * 0.1).unwrap()).unwrap();
    let layer = Linear::new(Param::trainable(&var), None).unwrap();
    let before = resident();
    let mut x = random(2, (16384, 64), DType::F32);
    nn::no_grad(|| {
        for _ in 0..100 {
            x = layer.forward(&x).unwrap();
        }
    });
    // Half of what a kept graph would hold: other tests run beside this one.
    assert!(resident().saturating_sub(before) < 200 << 20);
    assert!(numbers(&x).iter().all(|v| v.is_finite()));
}

#[test]
fn threads_are_set_once() {
    nn::threads(2).ok();
    assert!(nn::threads(2).is_err());
}
