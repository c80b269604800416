//! Candle operations whose forward and backward passes are plans.

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage as _;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor,
};

use super::execute;
use crate::nn::param::grad_enabled;
use crate::nn::plan::{self, Added, Plan};

/// What a plan is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// An argument of the operation.
    Argument(usize),
    /// A tensor captured by it.
    Constant(usize),
    /// Its result.
    Result,
    /// The gradient of its result.
    Gradient,
    /// A further result of the forward plan, from 1.
    Kept(usize),
}

/// An operation of one or three arguments. The forward plan's first buffer is the result; it is given the arguments, then the
/// constants. The backward plan's buffers are the gradients of the arguments, in order.
pub(crate) struct Planned {
    pub name: &'static str,
    pub forward: Plan,
    /// Shape of the result.
    pub shape: Vec<usize>,
    pub constants: Vec<Tensor>,
    pub backward: Plan,
    /// What the backward plan is given.
    pub given: Vec<Given>,
    /// Which arguments need a gradient.
    pub wanted: [bool; 3],
    /// Results of the forward plan beyond the first that the backward plan is given.
    pub kept: OnceLock<Vec<CudaStorage>>,
}

impl Planned {
    /// Of one argument, which needs a gradient.
    pub fn new(name: &'static str, shape: &[usize], forward: Plan, backward: Plan) -> Self {
        Self {
            name,
            forward,
            shape: shape.to_vec(),
            constants: Vec::new(),
            backward,
            given: vec![Given::Argument(0), Given::Gradient],
            wanted: [true; 3],
            kept: OnceLock::new(),
        }
    }

    /// The result for `x`; inside `no_grad` nothing is recorded.
    pub fn apply1(self, x: &Tensor) -> Result<Tensor> {
        ready(x)?.apply_op1(self.aligned()?)
    }

    /// The result for three arguments; inside `no_grad` nothing is recorded.
    pub fn apply3(self, x: [&Tensor; 3]) -> Result<Tensor> {
        let mut this = self.aligned()?;
        let [a, b, c] = [ready(x[0])?, ready(x[1])?, ready(x[2])?];
        this.wanted = [&a, &b, &c].map(Tensor::track_op);
        a.apply_op3(&b, &c, this)
    }

    /// The operation with constants that kernels can read.
    pub fn aligned(mut self) -> Result<Self> {
        for constant in &mut self.constants {
            *constant = aligned(&constant.detach())?;
        }
        Ok(self)
    }

    /// Whether the backward pass reads the argument's numbers.
    pub fn reads_input(&self) -> bool {
        self.given.contains(&Given::Argument(0))
    }

    fn go(&self, arguments: &[(&CudaStorage, &Layout)]) -> Result<(CudaStorage, Shape)> {
        let constants: Vec<_> = self
            .constants
            .iter()
            .map(Tensor::storage_and_layout)
            .collect();
        let mut inputs = arguments.to_vec();
        for (storage, layout) in &constants {
            inputs.push((cuda(storage)?, *layout));
        }
        let mut results = execute::execute(&self.forward, &inputs)?.into_iter();
        let Some(result) = results.next() else {
            candle_core::bail!("{}: the plan has no result", self.name);
        };
        let kept = self.given.iter().filter_map(|given| match given {
            Given::Kept(i) => Some(*i),
            _ => None,
        });
        // Scratch memory goes back at once.
        let kept: Vec<_> = results.take(kept.max().unwrap_or(0)).collect();
        self.kept.set(kept).ok();
        Ok((result, self.shape.clone().into()))
    }

    fn back(
        &self,
        arguments: &[&Tensor],
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let grad = aligned(&grad.detach())?;
        let kept = self.kept.get().map_or(&[][..], Vec::as_slice);
        let tensors = self.given.iter().map(|given| match given {
            Given::Argument(i) => arguments.get(*i).copied(),
            Given::Constant(i) => self.constants.get(*i),
            Given::Result => Some(result),
            Given::Gradient => Some(&grad),
            Given::Kept(_) => None,
        });
        let held: Vec<_> = tensors
            .map(|tensor| tensor.map(Tensor::storage_and_layout))
            .collect();
        let layouts: Vec<Layout> = self
            .given
            .iter()
            .map(|given| match given {
                Given::Kept(i) => {
                    Layout::contiguous(self.forward.buffers.get(*i).map_or(0, |buffer| buffer.len))
                }
                _ => Layout::contiguous(0),
            })
            .collect();
        let mut inputs = Vec::with_capacity(held.len());
        for ((given, held), layout) in self.given.iter().zip(&held).zip(&layouts) {
            inputs.push(match (given, held) {
                (_, Some((storage, layout))) => (cuda(storage)?, *layout),
                (Given::Kept(i), None) if kept.len() >= *i => (&kept[*i - 1], layout),
                _ => candle_core::bail!("{}: the backward pass lacks {given:?}", self.name),
            });
        }
        let results = execute::execute(&self.backward, &inputs)?;
        let gradients = results.into_iter().zip(arguments).zip(self.wanted).map(
            |((gradient, argument), wanted)| {
                wanted.then(|| tensor(gradient, argument.shape().clone()))
            },
        );
        Ok(gradients.collect())
    }
}

/// The results of a plan that is given these tensors, each of one axis.
pub(crate) fn run(plan: &Plan, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let ready: Vec<Tensor> = inputs
        .iter()
        .map(|x| aligned(&x.detach()))
        .collect::<Result<_>>()?;
    let held: Vec<_> = ready.iter().map(Tensor::storage_and_layout).collect();
    let mut given = Vec::with_capacity(held.len());
    for (storage, layout) in &held {
        given.push((cuda(storage)?, *layout));
    }
    let results = execute::execute(plan, &given)?;
    let with_shape = results.into_iter().zip(&plan.buffers);
    Ok(with_shape
        .map(|(storage, buffer)| tensor(storage, buffer.len.into()))
        .collect())
}

/// What is added to a result in place, in one pass over it.
#[derive(Clone, Copy, Default)]
pub(super) struct Addends<'a> {
    /// `[width]` in the wide type.
    pub bias: Option<&'a Tensor>,
    /// `[groups, width]`, each row to an equal share of the rows.
    pub shift: Option<&'a Tensor>,
    /// `[rows, width]`.
    pub skip: Option<(&'a CudaStorage, &'a Layout)>,
}

impl Addends<'_> {
    /// `y [rows, width]` plus what there is.
    pub fn add_to(self, y: &CudaStorage, (rows, width): (usize, usize)) -> Result<()> {
        let added = Added {
            bias: self.bias.is_some(),
            shift: self.shift.map(|shift| shift.dim(0)).transpose()?,
            skip: self.skip.is_some(),
        };
        if added == Added::default() {
            return Ok(());
        }
        let plan = plan::add_to(y.dtype(), (rows, width), added)?;
        let whole = Layout::contiguous((rows, width));
        let held: Vec<_> = [self.bias, self.shift]
            .into_iter()
            .flatten()
            .map(Tensor::storage_and_layout)
            .collect();
        let mut inputs = vec![(y, &whole)];
        for (storage, layout) in &held {
            inputs.push((cuda(storage)?, *layout));
        }
        inputs.extend(self.skip);
        execute::execute(&plan, &inputs).map(drop)
    }
}

/// `a + b`, in the place of `a`, which nobody else has.
pub(super) fn add_in_place(a: Tensor, b: &Tensor) -> Result<Tensor> {
    let b = aligned(&b.detach())?;
    let count = a.elem_count();
    {
        let (a, _) = a.storage_and_layout();
        let (b, layout) = b.storage_and_layout();
        let skip = Addends {
            skip: Some((cuda(&b)?, layout)),
            ..Addends::default()
        };
        skip.add_to(cuda(&a)?, (1, count))?;
    }
    Ok(a)
}

/// A tensor around a result.
pub(super) fn tensor(storage: CudaStorage, shape: Shape) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

pub(super) fn cuda(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => candle_core::bail!("a GPU kernel was given a tensor that is not on a GPU"),
    }
}

/// The tensor as kernels take it: contiguous, and recorded only where gradients are wanted.
pub(super) fn ready(x: &Tensor) -> Result<Tensor> {
    aligned(&if grad_enabled() {
        x.clone()
    } else {
        x.detach()
    })
}

/// Contiguous, and beginning at a multiple of 16 bytes, which a part of another tensor need not.
pub(super) fn aligned(x: &Tensor) -> Result<Tensor> {
    let start = x.layout().start_offset() * x.dtype().size_in_bytes();
    if x.is_contiguous() && !start.is_multiple_of(16) {
        x.force_contiguous()
    } else {
        x.contiguous()
    }
}

fn no_cpu(name: &'static str) -> Error {
    Error::Msg(format!(
        "{name}: a GPU kernel was given tensors in main memory"
    ))
}

impl CustomOp1 for Planned {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Err(no_cpu(self.name))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.go(&[(x, layout)])
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.back(&[x], result, grad)?.pop().flatten())
    }
}

impl CustomOp3 for Planned {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Err(no_cpu(self.name))
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
        c: &CudaStorage,
        c_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.go(&[(a, a_layout), (b, b_layout), (c, c_layout)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.back(&[a, b, c], result, grad)?.into_iter();
        let mut next = || gradients.next().flatten();
        Ok((next(), next(), next()))
    }
}

/// Shared constants are cheap to capture.
impl std::fmt::Debug for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planned")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A constant that is made when it is first needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared(Arc<OnceLock<Tensor>>);

impl Prepared {
    /// The tensor, made by `make` the first time.
    pub fn get(&self, make: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        if let Some(tensor) = self.0.get() {
            return Ok(tensor.clone());
        }
        let made = aligned(&make()?.detach())?;
        Ok(self.0.get_or_init(|| made).clone())
    }
}
