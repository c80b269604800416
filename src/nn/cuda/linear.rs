//! Linear layers on cuBLAS: frozen ones without a weight gradient, trained ones with f32 masters.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor,
};

use super::execute;
use super::planned::{Addends, cuda, ready};

/// `y = x Wᵀ + b` with a weight that is captured: being no argument, it cannot be given a gradient.
pub(super) struct FrozenLinear {
    /// `[o, i]`, contiguous, in the type of `x`.
    pub weight: Tensor,
    /// `[o]` in the wide type.
    pub bias: Option<Tensor>,
}

/// For `x [.., i]`, `weight [o, i]` contiguous in the type of `x`, `bias [o]` in the wide type.
pub fn frozen_linear(x: &Tensor, weight: Tensor, bias: Option<Tensor>) -> Result<Tensor> {
    ready(x)?.apply_op1(FrozenLinear { weight, bias })
}

/// `x` times the transpose of `weight`, and the bias in place.
pub(super) fn product(
    (x, layout): (&CudaStorage, &Layout),
    (weight, weight_layout): (&CudaStorage, &Layout),
    bias: Option<&Tensor>,
) -> Result<(CudaStorage, Shape)> {
    let (out, width) = weight_layout.shape().dims2()?;
    let mut shape = layout.dims().to_vec();
    shape.pop();
    let rows: usize = shape.iter().product();
    shape.push(out);
    let flat = Layout::contiguous_with_offset((rows, width), layout.start_offset());
    let transposed = weight_layout.transpose(0, 1)?;
    let y = x.matmul(weight, (1, rows, out, width), &flat, &transposed)?;
    let bias = Addends {
        bias,
        ..Addends::default()
    };
    bias.add_to(&y, (rows, out))?;
    Ok((y, shape.into()))
}

/// `grad` times the weight, in the shape of `x`.
fn input_gradient(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let out = weight.dim(0)?;
    let rows = grad.contiguous()?.reshape(((), out))?;
    rows.detach().matmul(&weight.detach())?.reshape(x.shape())
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Err(Error::Msg(
            "linear: a GPU layer was given a tensor in main memory".to_owned(),
        ))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (weight, weight_layout) = self.weight.storage_and_layout();
        product(
            (x, layout),
            (cuda(&weight)?, weight_layout),
            self.bias.as_ref(),
        )
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        input_gradient(x, &self.weight, grad).map(Some)
    }
}

/// `y = x Wᵀ + b` for a weight that learns: the product is made in the type of `x`, the weight and its gradient are f32.
struct TrainedLinear {
    bias: Option<Tensor>,
    wanted: [bool; 2],
}

/// For `x [.., i]`, `weight [o, i]` in f32 (or the type of `x`), a frozen `bias [o]` in the wide type.
pub fn trained_linear(x: &Tensor, weight: &Tensor, bias: Option<Tensor>) -> Result<Tensor> {
    let (x, weight) = (ready(x)?, ready(weight)?);
    let wanted = [x.track_op(), weight.track_op()];
    x.apply_op2(&weight, TrainedLinear { bias, wanted })
}

impl CustomOp2 for TrainedLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Err(Error::Msg(
            "linear: a GPU layer was given a tensor in main memory".to_owned(),
        ))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        if weight.dtype() == x.dtype() {
            return product((x, layout), (weight, weight_layout), self.bias.as_ref());
        }
        let rounded = weight.to_dtype(weight_layout, x.dtype())?;
        let contiguous = Layout::contiguous(weight_layout.shape());
        product((x, layout), (&rounded, &contiguous), self.bias.as_ref())
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (out, width) = weight.dims2()?;
        let dx = if self.wanted[0] {
            Some(input_gradient(
                x,
                &weight.detach().to_dtype(x.dtype())?,
                grad,
            )?)
        } else {
            None
        };
        let dw = if self.wanted[1] {
            let grad = grad.detach().contiguous()?.reshape(((), out))?;
            let x = x.detach().contiguous()?.reshape(((), width))?;
            Some(execute::weight_gradient(&grad, &x)?.to_dtype(weight.dtype())?)
        } else {
            None
        };
        Ok((dx, dw))
    }
}
