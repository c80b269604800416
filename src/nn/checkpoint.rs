//! Gradient checkpointing: parts of a network are computed again in the backward pass instead of being remembered.
//!
//! candle keeps every activation of a forward pass until the backward pass has used it. A [`Tape`] cuts the pass into
//! segments: the first pass keeps only what goes into each, the backward pass runs one segment again at a time, last one
//! first, with its graph, and hands the gradient of its inputs to the segment before. Source: Chen and others, "Training
//! deep nets with sublinear memory cost" (arXiv 1604.06174).

use std::collections::{BTreeMap, HashMap, HashSet};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Layout, MetalStorage, Result, Shape, Tensor,
    TensorId, Var,
};
use serde::{Deserialize, Serialize};

use super::param::unrecorded;

/// What a training pass remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpointing {
    /// Everything.
    #[default]
    Off,
    /// What goes into each block: a residual layer with its attentions.
    Block,
    /// What goes into each level: all blocks of one resolution on the way down or up.
    Level,
}

type Run<'a> = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + 'a>;

/// A training pass through a network, cut into segments as [`Checkpointing`] says, and the way back.
///
/// The numbers of both passes are those of an uncut one, to the bit: the same operations run on the same values, and the
/// gradients of a tensor that several segments read are added in the order of an uncut backward pass.
pub struct Tape<'a> {
    checkpointing: Checkpointing,
    segments: Vec<Segment<'a>>,
    /// What came out of segments: only these have a segment to hand a gradient to.
    produced: HashSet<TensorId>,
    /// The result as the loss sees it, a variable, and as the last segment made it.
    end: Option<(Var, TensorId)>,
}

struct Segment<'a> {
    run: Run<'a>,
    inputs: Vec<Tensor>,
    /// The tensors of the first pass are gone; their names are enough to find their gradients.
    outputs: Vec<TensorId>,
}

/// Gradients of tensors between segments, until the segment that made them has run again.
type Pending = HashMap<TensorId, Tensor>;

impl<'a> Tape<'a> {
    /// A tape at the start of a pass.
    #[must_use]
    pub fn new(checkpointing: Checkpointing) -> Self {
        Self {
            checkpointing,
            segments: Vec::new(),
            produced: HashSet::new(),
            end: None,
        }
    }

    /// A tape that cuts nothing: candle remembers the pass, or nothing does inside [`super::no_grad`].
    #[must_use]
    pub fn off() -> Self {
        Self::new(Checkpointing::Off)
    }

    /// Runs a block of the network, as a segment unless checkpointing is off. `run` is called again in the backward pass
    /// and must compute the same from the same inputs; tensors it captures must not come out of other segments.
    ///
    /// # Errors
    /// Those of `run`, or when an input has a graph that would be lost.
    pub fn segment(
        &mut self,
        inputs: &[&Tensor],
        run: impl Fn(&[Tensor]) -> Result<Tensor> + 'a,
    ) -> Result<Tensor> {
        let inputs: Vec<Tensor> = inputs.iter().copied().cloned().collect();
        if self.checkpointing == Checkpointing::Off {
            return run(&inputs);
        }
        let outputs = self.record(inputs, Box::new(move |inputs| Ok(vec![run(inputs)?])))?;
        Ok(outputs[0].clone())
    }

    /// Runs a level of the network: one segment when checkpointing is by level; else `run` cuts it further with the tape
    /// it is given. Outputs are in the order in which they are computed.
    ///
    /// # Errors
    /// As [`Self::segment`].
    pub fn level(
        &mut self,
        inputs: &[&Tensor],
        run: impl Fn(&[Tensor], &mut Self) -> Result<Vec<Tensor>> + 'a,
    ) -> Result<Vec<Tensor>> {
        let inputs: Vec<Tensor> = inputs.iter().copied().cloned().collect();
        if self.checkpointing == Checkpointing::Level {
            self.record(
                inputs,
                Box::new(move |inputs| run(inputs, &mut Self::off())),
            )
        } else {
            run(&inputs, self)
        }
    }

    /// Ends the pass: the network's result as the loss has to use it.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn end(&mut self, result: Tensor) -> Result<Tensor> {
        if self.segments.is_empty() {
            return Ok(result);
        }
        let var = Var::from_tensor(&result)?;
        let seen = var.as_tensor().clone();
        self.end = Some((var, result.id()));
        Ok(seen)
    }

    fn record(&mut self, inputs: Vec<Tensor>, run: Run<'a>) -> Result<Vec<Tensor>> {
        if inputs.iter().any(Tensor::track_op) {
            candle_core::bail!("a segment's input has a graph of its own, which would be lost");
        }
        let outputs = unrecorded(|| run(&inputs))?;
        let outputs: Vec<Tensor> = outputs.iter().map(Tensor::detach).collect();
        let names: Vec<TensorId> = outputs.iter().map(Tensor::id).collect();
        self.produced.extend(&names);
        self.segments.push(Segment {
            run,
            inputs,
            outputs: names,
        });
        Ok(outputs)
    }

    /// The gradients of `loss`, a scalar computed from the pass's result, by the names of `vars`; a variable that the loss
    /// does not depend on has none.
    ///
    /// # Errors
    /// Those of the segments.
    pub fn gradients(
        self,
        loss: &Tensor,
        vars: &BTreeMap<String, Var>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let store = loss.backward()?;
        let mut found = BTreeMap::new();
        collect(&mut found, &store, vars)?;
        let Some((end, name)) = self.end else {
            return Ok(found);
        };
        let mut pending = Pending::new();
        pending.extend(store.get(&end).map(|gradient| (name, gradient.clone())));
        drop(store);
        for segment in self.segments.into_iter().rev() {
            if let Some(store) = segment.pull(&mut pending, &self.produced)? {
                collect(&mut found, &store, vars)?;
            }
        }
        Ok(found)
    }
}

impl Segment<'_> {
    /// Runs again with a graph and replaces the pending gradients of the outputs by those of the inputs. Gives all
    /// gradients, or none where the loss does not depend on anything in here.
    fn pull(
        self,
        pending: &mut Pending,
        produced: &HashSet<TensorId>,
    ) -> Result<Option<GradStore>> {
        let by_output: Vec<Option<Tensor>> =
            self.outputs.iter().map(|id| pending.remove(id)).collect();
        if by_output.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut leaves: Vec<(TensorId, Var)> = Vec::new();
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let id = input.id();
            if let Some((_, leaf)) = leaves.iter().find(|(known, _)| *known == id) {
                inputs.push(leaf.as_tensor().clone());
            } else if produced.contains(&id) {
                let leaf = Var::from_tensor(input)?;
                inputs.push(leaf.as_tensor().clone());
                leaves.push((id, leaf));
            } else {
                inputs.push(input.clone());
            }
        }
        let outputs = (self.run)(&inputs)?;
        // A scalar whose gradients are the pending ones, whatever its value. candle walks its terms from the last to the first, so what later
        // segments said of an input comes first, then what they said of earlier outputs, then the rest of this segment:
        // the order in which an uncut pass adds gradients up.
        let mut sum: Option<Tensor> = None;
        let mut add = |tensor: &Tensor, gradient: &Tensor| -> Result<()> {
            let term = tensor.apply_op1(Pulled(gradient.clone()))?;
            sum = Some(match sum.take() {
                Some(sum) => sum.add(&term)?,
                None => term,
            });
            Ok(())
        };
        for (output, gradient) in outputs.iter().zip(&by_output).rev() {
            if let Some(gradient) = gradient {
                add(output, gradient)?;
            }
        }
        for (id, leaf) in &leaves {
            if let Some(gradient) = pending.remove(id) {
                add(leaf.as_tensor(), &gradient)?;
            }
        }
        let Some(sum) = sum.filter(Tensor::track_op) else {
            return Ok(None);
        };
        let store = sum.backward()?;
        for (id, leaf) in &leaves {
            pending.extend(store.get(leaf).map(|gradient| (*id, gradient.clone())));
        }
        Ok(Some(store))
    }
}

/// A scalar by which the operand has this gradient; its value is of no interest.
struct Pulled(Tensor);

impl CustomOp1 for Pulled {
    fn name(&self) -> &'static str {
        "pulled"
    }

    fn cpu_fwd(&self, x: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        scalar(x)
    }

    fn cuda_fwd(&self, x: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        scalar(x)
    }

    fn metal_fwd(&self, x: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        scalar(x)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

fn scalar<S: BackendStorage<Device: BackendDevice<Storage = S>>>(x: &S) -> Result<(S, Shape)> {
    let shape = Shape::from(());
    Ok((x.device().zeros_impl(&shape, DType::F32)?, shape))
}

/// Adds the gradients of variables to those found so far.
fn collect(
    found: &mut BTreeMap<String, Tensor>,
    store: &GradStore,
    vars: &BTreeMap<String, Var>,
) -> Result<()> {
    for (name, var) in vars {
        if let Some(gradient) = store.get(var) {
            let gradient = match found.get(name) {
                Some(earlier) => earlier.add(gradient)?,
                None => gradient.clone(),
            };
            found.insert(name.clone(), gradient.detach());
        }
    }
    Ok(())
}
