//! Attention: long sequences, short ones, and what lies between.

use candle_core::DType;
use spectral_motion::nn::plan::{self, AttentionPlan};
use spectral_motion::nn::{self, Mask};

use super::emulator::{TYPES, assert_close, random, reference, run, tolerance};

fn check(attention: AttentionPlan, types: &[DType]) {
    let AttentionPlan {
        n,
        heads,
        queries,
        keys,
        width,
        causal,
    } = attention;
    let mask = if causal { Mask::Causal } else { Mask::None };
    for &dtype in types {
        let q = random(1, &[n, queries, heads * width], dtype);
        let [k, v] = [2, 3].map(|seed| random(seed, &[n, keys, heads * width], dtype));
        let grad = random(4, &[n, queries, heads * width], dtype);
        let (y, gradients) = reference(
            &[&q, &k, &v],
            |_| grad.clone(),
            |x| nn::attention(&x[0], &x[1], &x[2], heads, mask),
        );
        let what = format!("{attention:?} {dtype:?}");
        let forward = run(
            &plan::attention_forward(dtype, &attention).unwrap(),
            &[&q, &k, &v],
        );
        assert_close(&what, &forward[0], &y, tolerance(dtype));
        let mut inputs = vec![&q, &k, &v, &grad];
        inputs.extend(
            forward
                .get(1)
                .filter(|_| queries.max(keys) > 64)
                .map(|_| &forward[0]),
        );
        if inputs.len() > 4 {
            inputs.push(&forward[1]);
        }
        let plan = plan::attention_backward(dtype, &attention, (true, true)).unwrap();
        let backward = run(&plan, &inputs);
        for (i, name) in ["q", "k", "v"].iter().enumerate() {
            // A gradient passes through two roundings more than a value: of probabilities and of their gradients.
            let limit = 2.0 * tolerance(dtype);
            assert_close(
                &format!("gradient of {name}, {what}"),
                &backward[i],
                &gradients[i],
                limit,
            );
        }
    }
}

const fn sizes(
    n: usize,
    heads: usize,
    tokens: (usize, usize),
    width: usize,
    causal: bool,
) -> AttentionPlan {
    AttentionPlan {
        n,
        heads,
        queries: tokens.0,
        keys: tokens.1,
        width,
        causal,
    }
}

#[test]
fn over_the_frames_of_every_place() {
    check(sizes(13, 3, (5, 5), 16, false), &TYPES);
    check(sizes(9, 2, (1, 1), 16, false), &[DType::F32, DType::BF16]);
    check(sizes(6, 2, (16, 16), 40, false), &[DType::BF16]);
    check(sizes(3, 2, (24, 24), 64, false), &[DType::BF16]);
    check(sizes(2, 1, (64, 64), 64, false), &[DType::F16]);
    check(sizes(5, 2, (7, 33), 8, false), &[DType::F64]);
    check(sizes(2, 2, (20, 20), 16, true), &[DType::F64]);
}

#[test]
fn over_the_places_of_a_frame() {
    check(
        sizes(1, 2, (240, 240), 40, false),
        &[DType::F32, DType::BF16],
    );
    check(sizes(2, 1, (100, 77), 64, false), &[DType::F16]);
    check(sizes(1, 1, (70, 90), 160, false), &[DType::BF16]);
    // Heads whose rows do not begin at multiples of 16 bytes.
    check(sizes(2, 2, (65, 67), 13, false), &[DType::F64, DType::BF16]);
    check(
        sizes(1, 2, (100, 100), 16, true),
        &[DType::F64, DType::BF16],
    );
}

#[test]
fn wide_heads_of_few_tokens() {
    check(sizes(1, 2, (16, 16), 160, false), &[DType::BF16]);
}
