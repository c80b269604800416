//! A tape's gradients are those of an uncut pass, bit for bit, and no gradient is lost without a word.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::{DType, Device, Result, Tensor, Var};
use spectral_motion::nn::{
    Branch, Checkpointing, Dropout, Linear, Lora, NoiseStream, Param, Purpose, Tape, no_grad, silu,
};

use super::support::{numbers, random};

const ALL: [Checkpointing; 3] = [
    Checkpointing::Off,
    Checkpointing::Block,
    Checkpointing::Level,
];

/// Layers that learn, with a skip over the middle: every tensor between them is read twice.
struct Net {
    layers: Vec<Linear>,
    vars: BTreeMap<String, Var>,
    branch: Branch,
    runs: Rc<Cell<usize>>,
}

impl Net {
    fn new() -> Self {
        let mut vars = BTreeMap::new();
        let branch = Branch::default();
        let mut var = |name: String, seed, shape: [usize; 2]| {
            let value = random(seed, &shape[..], DType::F32)
                .affine(0.3, 0.0)
                .unwrap();
            let var = Var::from_tensor(&value).unwrap();
            vars.insert(name, var.clone());
            var
        };
        let layers = (0..4)
            .map(|i| {
                let weight = var(format!("{i}.weight"), i, [8, 8]);
                let (down, up) = (
                    var(format!("{i}.down"), 10 + i, [2, 8]),
                    var(format!("{i}.up"), 20 + i, [8, 2]),
                );
                let lora = Lora::new(&down, &up, branch.clone()).unwrap();
                Linear::new(Param::trainable(&weight), None)
                    .unwrap()
                    .with_lora(lora)
            })
            .collect();
        Self {
            layers,
            vars,
            branch,
            runs: Rc::default(),
        }
    }

    fn layer(&self, i: usize, x: &Tensor) -> Result<Tensor> {
        self.runs.set(self.runs.get() + 1);
        x + silu(&self.layers[i].forward(x)?)?
    }

    /// Down two layers, up two, each of the latter with a skip of the former.
    fn forward<'a>(&'a self, tape: &mut Tape<'a>, x: &Tensor) -> Result<Tensor> {
        let down = tape.level(&[x], move |inputs, tape| {
            let a = tape.segment(&[&inputs[0]], move |inputs| self.layer(0, &inputs[0]))?;
            let b = tape.segment(&[&a], move |inputs| self.layer(1, &inputs[0]))?;
            Ok(vec![a, b])
        })?;
        let (a, b) = (&down[0], &down[1]);
        let up = tape.level(&[b, a, b], move |inputs, tape| {
            let c = tape.segment(&[&inputs[0], &inputs[2]], move |inputs| {
                self.layer(2, &inputs[0].mul(&inputs[1])?)
            })?;
            let d = tape.segment(&[&c, &inputs[1]], move |inputs| {
                self.layer(3, &(&inputs[0] + &inputs[1])?)
            })?;
            Ok(vec![d])
        })?;
        tape.end(up[0].clone())
    }

    fn gradients(&self, checkpointing: Checkpointing) -> (Vec<f64>, BTreeMap<String, Vec<f64>>) {
        let mut tape = Tape::new(checkpointing);
        let y = self
            .forward(&mut tape, &random(5, (6, 8), DType::F32))
            .unwrap();
        let loss = y.sqr().unwrap().sum_all().unwrap();
        let gradients = tape.gradients(&loss, &self.vars).unwrap();
        let gradients = gradients
            .iter()
            .map(|(name, gradient)| (name.clone(), numbers(gradient)))
            .collect();
        (numbers(&y), gradients)
    }
}

fn dropout(place: u64) -> Option<Dropout> {
    let mut stream = NoiseStream::new(4, Purpose::Dropout);
    stream.seek(place);
    Some(Dropout::new(0.4, stream))
}

#[test]
fn cut_passes_have_the_numbers_of_uncut_ones_bit_for_bit() {
    let net = Net::new();
    for masks in [None, dropout(0)] {
        net.branch.set(1.0, true, masks.clone());
        let uncut = net.gradients(Checkpointing::Off);
        assert_eq!(uncut.1.len(), net.vars.len());
        // Every layer runs once to look and once to learn.
        for (checkpointing, runs) in ALL.into_iter().zip([4, 8, 8]) {
            net.runs.set(0);
            // The same operations on the same values in the same order: no tolerance.
            assert!(net.gradients(checkpointing) == uncut, "{checkpointing:?}");
            assert_eq!(net.runs.get(), runs, "{checkpointing:?}");
        }
    }
    net.branch.set(1.0, true, None);
    let whole = net.gradients(Checkpointing::Block);
    net.branch.set(1.0, true, dropout(0));
    assert_ne!(whole, net.gradients(Checkpointing::Block), "dropout acts");
}

#[test]
fn a_mask_follows_from_the_place_and_the_adapter_and_not_from_what_ran_before() {
    let net = Net::new();
    let x = random(5, (6, 8), DType::F32);
    let run = |order: [usize; 2]| {
        net.branch.set(1.0, true, dropout(9));
        let mut results = order.map(|i| (i, numbers(&net.layer(i, &x).unwrap())));
        results.sort_by_key(|(i, _)| *i);
        results
    };
    assert_eq!(run([0, 1]), run([1, 0]));
    let mask = |i: usize| {
        net.branch.set(1.0, true, None);
        let whole = numbers(&net.layers[i].forward(&x).unwrap());
        net.branch.set(1.0, true, dropout(9));
        let some = numbers(&net.layers[i].forward(&x).unwrap());
        net.branch.set(0.0, true, None);
        let none = numbers(&net.layers[i].forward(&x).unwrap());
        assert_ne!(whole, some);
        some.iter()
            .zip(&none)
            .map(|(a, b)| a == b)
            .collect::<Vec<_>>()
    };
    assert_ne!(mask(0), mask(1), "every adapter has a mask of its own");
}

#[test]
fn switching_adapters_before_the_backward_pass_spoils_it() {
    // The rule that trainers keep: ask the tape before the switches are set for the next pass.
    let net = Net::new();
    let gradients = |then: Option<Dropout>| {
        net.branch.set(1.0, true, dropout(0));
        let mut tape = Tape::new(Checkpointing::Block);
        let y = net
            .forward(&mut tape, &random(5, (6, 8), DType::F32))
            .unwrap();
        net.branch.set(1.0, true, then);
        let gradients = tape.gradients(&y.sqr().unwrap().sum_all().unwrap(), &net.vars);
        numbers(&gradients.unwrap()["0.down"])
    };
    assert_eq!(gradients(dropout(0)), gradients(dropout(0)));
    assert_ne!(gradients(dropout(0)), gradients(dropout(1)));
}

#[test]
fn parts_that_the_loss_does_not_see_run_once_and_have_no_gradient() {
    let net = Net::new();
    let mut tape = Tape::new(Checkpointing::Block);
    let x = random(5, (6, 8), DType::F32);
    let net = &net;
    let seen = tape
        .segment(&[&x], move |inputs| net.layer(0, &inputs[0]))
        .unwrap();
    tape.segment(&[&seen], move |inputs| net.layer(1, &inputs[0]))
        .unwrap();
    let y = tape.end(seen).unwrap();
    let gradients = tape.gradients(&y.sum_all().unwrap(), &net.vars).unwrap();
    assert_eq!(
        gradients.keys().collect::<Vec<_>>(),
        ["0.down", "0.up", "0.weight"]
    );
    assert_eq!(net.runs.get(), 3);
}

#[test]
fn a_variable_used_in_two_segments_gets_both_gradients() {
    let net = Net::new();
    let run = |checkpointing| {
        let mut tape = Tape::new(checkpointing);
        let x = random(5, (6, 8), DType::F32);
        let net = &net;
        let once = tape
            .segment(&[&x], move |inputs| net.layer(0, &inputs[0]))
            .unwrap();
        let twice = tape
            .segment(&[&once], move |inputs| net.layer(0, &inputs[0]))
            .unwrap();
        let y = tape.end(twice).unwrap();
        let gradients = tape.gradients(&y.sum_all().unwrap(), &net.vars).unwrap();
        numbers(&gradients["0.weight"])
    };
    assert_eq!(run(Checkpointing::Block), run(Checkpointing::Off));
}

#[test]
fn an_input_with_a_graph_is_refused_and_evaluation_stays_evaluation() {
    let net = Net::new();
    let var = Var::from_tensor(&random(5, (6, 8), DType::F32)).unwrap();
    let mut tape = Tape::new(Checkpointing::Block);
    let refused = tape
        .segment(&[var.as_tensor()], |inputs| inputs[0].sqr())
        .unwrap_err();
    assert!(refused.to_string().contains("would be lost"), "{refused}");

    net.branch.set(1.0, true, dropout(0));
    let x = random(5, (6, 8), DType::F32);
    let evaluated = |checkpointing| {
        no_grad(|| numbers(&net.forward(&mut Tape::new(checkpointing), &x).unwrap()))
    };
    net.branch.set(1.0, true, None);
    let whole = numbers(&net.forward(&mut Tape::off(), &x).unwrap());
    net.branch.set(1.0, true, dropout(0));
    for checkpointing in ALL {
        assert_eq!(evaluated(checkpointing), whole, "nothing is dropped");
    }
    let held = no_grad(|| net.forward(&mut Tape::off(), &x).unwrap());
    assert!(!held.track_op() && held.device().same_device(&Device::Cpu));
}
