//! The inflated transformer block against the same sums written out one by one, on random inputs.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::super::weights::Weights;
use super::attention::{InflatedBlock, Inflation};
use super::config::ImageUNetConfig;
use crate::nn::{NoiseStream, Purpose};

const CLIPS: usize = 2;
const FRAMES: usize = 4;
const TOKENS: usize = 5;
const WIDTH: usize = 8;
const HEADS: usize = 2;
const WORDS: usize = 3;
const TEXT_WIDTH: usize = 6;
/// Both sides in double precision; the sums run in another order.
const LIMIT: f64 = 1e-12;

type Row = Vec<f64>;

/// Weights by name, and the block's parts with plain loops.
struct Plain {
    weights: BTreeMap<String, Tensor>,
}

impl Plain {
    fn numbers(&self, name: &str) -> Row {
        let flat = self.weights[name].flatten_all().unwrap();
        flat.to_vec1::<f64>().unwrap()
    }

    fn linear(&self, name: &str, x: &[f64], bias: bool) -> Row {
        let weight = self.numbers(&format!("{name}.weight"));
        let bias = bias.then(|| self.numbers(&format!("{name}.bias")));
        let outputs = weight.len() / x.len();
        (0..outputs)
            .map(|o| {
                let sum: f64 = (0..x.len()).map(|i| weight[o * x.len() + i] * x[i]).sum();
                sum + bias.as_ref().map_or(0.0, |bias| bias[o])
            })
            .collect()
    }

    fn layer_norm(&self, name: &str, x: &[f64]) -> Row {
        let (weight, bias) = (
            self.numbers(&format!("{name}.weight")),
            self.numbers(&format!("{name}.bias")),
        );
        let count = x.len() as f64;
        let mean = x.iter().sum::<f64>() / count;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + 1e-5).sqrt();
        (0..x.len())
            .map(|i| (x[i] - mean) * scale * weight[i] + bias[i])
            .collect()
    }

    /// One query over all `seen` rows.
    fn attention(&self, name: &str, query: &[f64], seen: &[&Row]) -> Row {
        let q = self.linear(&format!("{name}.to_q"), query, false);
        let project = |part: &str| -> Vec<Row> {
            let part = format!("{name}.{part}");
            seen.iter()
                .map(|row| self.linear(&part, row, false))
                .collect()
        };
        let (k, v) = (project("to_k"), project("to_v"));
        let size = WIDTH / HEADS;
        let mut attended = vec![0.0; WIDTH];
        for head in 0..HEADS {
            let places = head * size..(head + 1) * size;
            let logits: Row = k
                .iter()
                .map(|k| places.clone().map(|i| q[i] * k[i]).sum::<f64>() / (size as f64).sqrt())
                .collect();
            let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
            for (logit, v) in logits.iter().zip(&v) {
                for i in places.clone() {
                    attended[i] += logit.exp() / total * v[i];
                }
            }
        }
        self.linear(&format!("{name}.to_out.0"), &attended, true)
    }

    fn feed_forward(&self, x: &[f64]) -> Row {
        let both = self.linear("ff.net.0.proj", x, true);
        let (u, gate) = both.split_at(both.len() / 2);
        let gelu = |g: f64| g * 0.5 * (1.0 + libm::erf(g / 2f64.sqrt()));
        let hidden: Row = u.iter().zip(gate).map(|(u, g)| u * gelu(*g)).collect();
        self.linear("ff.net.2", &hidden, true)
    }

    /// Tokens by clip, frame and place, and words by clip.
    fn block(&self, inflation: Inflation, x: &[Vec<Vec<Row>>], text: &[Vec<Row>]) -> Vec<Row> {
        let mut out = Vec::new();
        for (frames, words) in x.iter().zip(text) {
            let norm1 =
                |frame: usize, place: usize| self.layer_norm("norm1", &frames[frame][place]);
            let normed: Vec<Vec<Row>> = (0..FRAMES)
                .map(|frame| (0..TOKENS).map(|place| norm1(frame, place)).collect())
                .collect();
            // Everything but the attention over frames behind the block.
            let hidden: Vec<Vec<Row>> = (0..FRAMES)
                .map(|frame| {
                    (0..TOKENS)
                        .map(|place| {
                            let seen: Vec<&Row> = match inflation {
                                Inflation::Pictures => normed[frame].iter().collect(),
                                Inflation::KeyFrame => normed[0].iter().collect(),
                                Inflation::SparseCausal => {
                                    let former = frame.saturating_sub(1);
                                    normed[0].iter().chain(&normed[former]).collect()
                                }
                            };
                            let mut row = frames[frame][place].clone();
                            let query = &normed[frame][place];
                            add(&mut row, &self.attention("attn1", query, &seen));
                            if inflation == Inflation::KeyFrame {
                                let seen: Vec<&Row> = normed.iter().map(|f| &f[place]).collect();
                                let over = self.attention("attn_temp", query, &seen);
                                add(&mut row, &self.linear("conv_temp", &over, true));
                            }
                            let query = self.layer_norm("norm2", &row);
                            let seen: Vec<&Row> = words.iter().collect();
                            add(&mut row, &self.attention("attn2", &query, &seen));
                            let normed = self.layer_norm("norm3", &row);
                            add(&mut row, &self.feed_forward(&normed));
                            row
                        })
                        .collect()
                })
                .collect();
            for (frame, places) in hidden.iter().enumerate() {
                for (place, row) in places.iter().enumerate() {
                    let mut row = row.clone();
                    if inflation == Inflation::SparseCausal {
                        let column = hidden.iter().map(|places| &places[place]);
                        let normed: Vec<Row> = column
                            .map(|row| self.layer_norm("norm_temp", row))
                            .collect();
                        let seen: Vec<&Row> = normed.iter().collect();
                        add(
                            &mut row,
                            &self.attention("attn_temp", &normed[frame], &seen),
                        );
                    }
                    out.push(row);
                }
            }
        }
        out
    }
}

fn add(row: &mut [f64], more: &[f64]) {
    for (value, more) in row.iter_mut().zip(more) {
        *value += more;
    }
}

fn noise(seed: u64, shape: &[usize]) -> Tensor {
    NoiseStream::new(seed, Purpose::Init)
        .normal(shape, DType::F64, &Device::Cpu)
        .unwrap()
}

/// `[n, t, c]` as nested rows.
fn rows(x: &Tensor) -> Vec<Vec<Row>> {
    x.to_vec3::<f64>().unwrap()
}

#[test]
fn every_inflation_is_the_sum_it_is_said_to_be() {
    let config = ImageUNetConfig::from_json(
        r#"{"block_out_channels": [8, 8, 8, 8], "cross_attention_dim": 6, "attention_head_dim": 2,
            "norm_num_groups": 2}"#,
    )
    .unwrap();
    assert_eq!((config.heads, config.text_width), (HEADS, TEXT_WIDTH));
    let x = noise(1, &[CLIPS * FRAMES, TOKENS, WIDTH]);
    let text = noise(2, &[CLIPS, WORDS, TEXT_WIDTH]);
    let clips: Vec<_> = rows(&x).chunks(FRAMES).map(<[_]>::to_vec).collect();
    let mut outputs = Vec::new();
    for inflation in [
        Inflation::Pictures,
        Inflation::SparseCausal,
        Inflation::KeyFrame,
    ] {
        let recorder = Weights::recorder();
        InflatedBlock::new(&recorder, WIDTH, &config, inflation, true).unwrap();
        let asked = recorder.asked().into_iter().enumerate();
        let weights: BTreeMap<String, Tensor> = asked
            .map(|(i, (name, shape))| {
                (name, noise(10 + i as u64, &shape).affine(0.6, 0.0).unwrap())
            })
            .collect();
        let at = Weights::from_map(weights.clone(), DType::F64, &Device::Cpu);
        let block = InflatedBlock::new(&at, WIDTH, &config, inflation, true).unwrap();
        let ours = block.forward(&x, &text, FRAMES).unwrap();
        let expected = Plain { weights }.block(inflation, &clips, &rows(&text));
        let ours: Vec<Row> = rows(&ours).into_iter().flatten().collect();
        let size = expected
            .iter()
            .flatten()
            .fold(0.0, |a: f64, b| a.max(b.abs()));
        let pairs = ours.iter().flatten().zip(expected.iter().flatten());
        let error = pairs.fold(0.0, |worst: f64, (a, b)| worst.max((a - b).abs()));
        assert!(error <= LIMIT * size, "{inflation:?}: {error:e} of {size}");
        outputs.push(ours);
    }
    // Different computations: none of them could stand for another.
    assert!(outputs[0] != outputs[1] && outputs[1] != outputs[2] && outputs[0] != outputs[2]);
}
