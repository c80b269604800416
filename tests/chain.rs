//! Chains of layers: the numbers of the layers run by themselves, in less memory.

use candle_core::{DType, Device, Result, Tensor, Var};
use spectral_motion::nn::{
    self, Branch, Conv2d, Conv2dConfig, Dropout, GroupNorm, LayerNorm, Linear, Lora, NoiseStream,
    Param, Piece, Purpose, Skip, TemporalConv, chain,
};

use crate::common::allocation::measured;

fn random(seed: u64, shape: &[usize]) -> Tensor {
    NoiseStream::new(seed, Purpose::Noise)
        .normal(shape, DType::F64, &Device::Cpu)
        .unwrap()
}

/// Value and gradient of a weighted sum of `f(x)`.
fn pulled(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> (Tensor, Tensor) {
    let leaf = Var::from_tensor(x).unwrap();
    let y = f(leaf.as_tensor()).unwrap();
    let sum = (&y * random(9, y.dims())).unwrap().sum_all().unwrap();
    let gradients = sum.backward().unwrap();
    (y, gradients.get(&leaf).unwrap().clone())
}

fn assert_near(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    let largest = difference.max(0).unwrap().to_scalar::<f64>().unwrap();
    // f64 throughout; sums of some hundred terms in another order.
    assert!(largest < 1e-11, "{what}: {largest}");
}

fn assert_same(
    what: &str,
    x: &Tensor,
    pieces: &[Piece<'_>],
    skip: Skip<'_>,
    alone: impl Fn(&Tensor) -> Result<Tensor>,
) {
    let (y, dx) = pulled(x, |x| chain(x, pieces, skip));
    let (expected, gradient) = pulled(x, alone);
    assert_near(&y, &expected, what);
    assert_near(&dx, &gradient, &format!("gradient of {what}"));
}

#[test]
fn a_residual_layer_is_its_parts() {
    let x = random(1, &[4, 6, 5, 8]);
    let norm = |c: usize| GroupNorm::new(&random(2, &[c]), &random(3, &[c]), 4, 1e-5).unwrap();
    let (norm1, norm2) = (norm(8), norm(12));
    let conv = |o: usize, i: usize, k: usize| {
        let config = Conv2dConfig::padded(k / 2);
        Conv2d::new(&random(4, &[o, i, k, k]), Some(&random(5, &[o])), config).unwrap()
    };
    let (conv1, conv2, shortcut) = (conv(12, 8, 3), conv(12, 12, 3), conv(12, 8, 1));
    // Two clips of two frames.
    let shift = random(6, &[2, 12]);
    let pieces = [
        Piece::NormSilu(&norm1),
        Piece::Conv(&conv1),
        Piece::Shift(&shift),
        Piece::NormSilu(&norm2),
        Piece::Conv(&conv2),
    ];
    assert_same(
        "residual layer",
        &x,
        &pieces,
        Skip::Through(&shortcut),
        |x| {
            let hidden = conv1.forward(&norm1.forward_silu(x)?)?;
            let rows = hidden.reshape((2, 60, 12))?;
            let shifted = rows.broadcast_add(&shift.unsqueeze(1)?)?;
            let shifted = shifted.reshape((4, 6, 5, 12))?;
            shortcut.forward(x)? + conv2.forward(&norm2.forward_silu(&shifted)?)?
        },
    );
}

#[test]
fn resizing_norms_and_the_feed_forward_are_their_parts() {
    let x = random(1, &[2, 3, 4, 6]);
    let conv = Conv2d::new(&random(2, &[5, 6, 3, 3]), None, Conv2dConfig::padded(1)).unwrap();
    let pieces = [Piece::Upsample(5, 8), Piece::Conv(&conv)];
    assert_same("upsampler", &x, &pieces, Skip::Nothing, |x| {
        conv.forward(&nn::upsample_nearest(x, 5, 8)?)
    });
    let norm = LayerNorm::new(&random(3, &[6]), &random(4, &[6]), 1e-5).unwrap();
    let linear = |seed, o: usize, i: usize| {
        let bias = Some(Param::frozen(random(seed + 1, &[o])));
        Linear::new(Param::frozen(random(seed, &[o, i])), bias).unwrap()
    };
    let (wide, back) = (linear(5, 16, 6), linear(7, 6, 8));
    let pieces = [
        Piece::LayerNorm(&norm),
        Piece::Linear(&wide),
        Piece::Geglu,
        Piece::Linear(&back),
    ];
    assert_same("feed-forward", &x, &pieces, Skip::Input, |x| {
        x + back.forward(&nn::geglu(&wide.forward(&norm.forward(x)?)?)?)?
    });
}

#[test]
fn layers_over_time_are_their_parts() {
    // Two clips of three frames, five positions.
    let x = random(1, &[2, 3, 5, 4]);
    let norm = GroupNorm::new(&random(2, &[4]), &random(3, &[4]), 2, 1e-5).unwrap();
    let conv = TemporalConv::new(&random(4, &[4, 4, 3, 1, 1]), Some(&random(5, &[4]))).unwrap();
    let pieces = [Piece::NormSilu(&norm), Piece::TemporalConv(&conv)];
    assert_same("temporal convolution", &x, &pieces, Skip::Input, |x| {
        x + conv.forward(&norm.forward_silu(x)?)?
    });
    let linear = Linear::new(Param::frozen(random(6, &[7, 4])), None).unwrap();
    let pieces = [
        Piece::Norm(&norm),
        Piece::PositionsToBatch,
        Piece::Linear(&linear),
    ];
    assert_same("way in", &x, &pieces, Skip::Nothing, |x| {
        linear.forward(&nn::layout::positions_to_batch(&norm.forward(x)?)?)
    });
    let tokens = random(7, &[10, 3, 4]);
    let skip = random(8, &[2, 3, 5, 7]);
    let pieces = [Piece::Linear(&linear), Piece::BatchToPositions(2)];
    assert_same("way out", &tokens, &pieces, Skip::Tensor(&skip), |x| {
        nn::layout::batch_to_positions(&linear.forward(x)?, 2)? + &skip
    });
    // The second operand gets its gradient too.
    let (_, dx) = pulled(&skip, |skip| chain(&tokens, &pieces, Skip::Tensor(skip)));
    assert_near(&dx, &random(9, skip.dims()), "gradient of what is added");
}

#[test]
fn a_chain_keeps_what_its_gradient_reads_and_no_more() {
    let x = Var::from_tensor(&random(1, &[1, 4, 1024, 32])).unwrap();
    let norm = GroupNorm::new(&random(2, &[32]), &random(3, &[32]), 4, 1e-5).unwrap();
    let conv = TemporalConv::new(&random(4, &[32, 32, 3, 1, 1]), None).unwrap();
    let run = || {
        let pieces = [
            Piece::NormSilu(&norm),
            Piece::TemporalConv(&conv),
            Piece::NormSilu(&norm),
            Piece::TemporalConv(&conv),
        ];
        chain(x.as_tensor(), &pieces, Skip::Input).unwrap()
    };
    // Packs the weights.
    drop(run());
    let (_y, asked) = measured(run);
    let one = 8 * 4 * 1024 * 32;
    // The result, the input of the second norm, and small change either way: what the first run left behind may go now.
    let about = |count: usize| count * one - one / 8..count * one + one / 8;
    assert!(about(2).contains(&asked.kept), "{asked:?}");
    let (_y, asked) = measured(|| nn::no_grad(run));
    assert!(about(1).contains(&asked.kept), "{asked:?}");
}

/// An adapted layer against its definition, with and without dropout; gradients of input and both factors.
#[test]
fn an_adapter_beside_a_layer_is_its_definition() {
    let x = random(1, &[3, 7, 6]);
    let (down, up) = (random(2, &[2, 6]), random(3, &[5, 2]));
    let weight = random(4, &[5, 6]);
    for dropout in [None, Some(0.4)] {
        let branch = Branch::default();
        let stream = || NoiseStream::new(7, Purpose::Dropout);
        branch.set(0.7, true, dropout.map(|p| Dropout::new(p, stream())));
        let vars = [&x, &down, &up].map(|t| Var::from_tensor(t).unwrap());
        let lora = Lora::new(&vars[1], &vars[2], branch).unwrap();
        let layer = Linear::new(Param::frozen(weight.clone()), None).unwrap();
        let y = layer.with_lora(lora).forward(vars[0].as_tensor()).unwrap();
        let mask = match dropout {
            None => Tensor::ones((3, 7, 5), DType::F64, &Device::Cpu).unwrap(),
            Some(p) => {
                let mut lane = stream().lane(0);
                let mask = lane.chance((3, 7, 5), 1.0 - p, &Device::Cpu).unwrap();
                let keep = mask.affine(1.0 / (1.0 - p), 0.0).unwrap();
                keep.to_dtype(DType::F64).unwrap()
            }
        };
        let expected_vars = [&x, &down, &up].map(|t| Var::from_tensor(t).unwrap());
        let [x2, down2, up2] = &expected_vars;
        let product = |x: &Tensor, w: &Tensor| {
            let rows = x.reshape((21, ())).unwrap();
            let y = rows.matmul(&w.t().unwrap()).unwrap();
            y.reshape((3, 7, ())).unwrap()
        };
        let added = product(&product(x2.as_tensor(), down2.as_tensor()), up2.as_tensor());
        let added = (added.affine(0.7, 0.0).unwrap() * mask).unwrap();
        let expected = (product(x2.as_tensor(), &weight) + added).unwrap();
        assert_near(&y, &expected, "adapted layer");
        let pull = |y: &Tensor| {
            let sum = (y * random(9, y.dims())).unwrap().sum_all().unwrap();
            sum.backward().unwrap()
        };
        let (found, wanted) = (pull(&y), pull(&expected));
        for (mine, theirs) in vars.iter().zip(&expected_vars) {
            let (mine, theirs) = (found.get(mine).unwrap(), wanted.get(theirs).unwrap());
            // The mask's factor is f32 in one of the two: 1 part in 10^7 of numbers below 10^2.
            let difference = (mine - theirs).unwrap().abs().unwrap();
            let largest = difference.flatten_all().unwrap().max(0).unwrap();
            assert!(largest.to_scalar::<f64>().unwrap() < 1e-9, "{dropout:?}");
        }
    }
}
