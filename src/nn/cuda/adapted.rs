//! A frozen linear layer with one low-rank adapter beside it, as one operation: see [`crate::nn::kernels::adapted`], of which
//! this is the counterpart.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, DType, Error, Layout, Result, Shape, Tensor,
};

use super::execute;
use super::linear::product;
use super::planned::{Addends, add_in_place, aligned, cuda, ready, run, tensor};
use crate::nn::plan::{self, Dropping};

/// `y = x Wᵀ + b + m ∘ (s x Dᵀ) Uᵀ` with `m` the mask of a dropout or 1. `D` and `U` are f32 masters; products are made in the
/// type of `x`.
struct Adapted {
    weight: Tensor,
    bias: Option<Tensor>,
    scale: f64,
    dropping: Option<Dropping>,
    /// Whether x gets a gradient, and whether the factors do.
    wanted: (bool, bool),
    /// `s x Dᵀ`, `[rows, r]`.
    inner: OnceLock<Tensor>,
}

/// For `x [.., i]`, a frozen `weight [o, i]` in the type of `x` and `bias [o]` in the wide type, `down [r, i]`, `up [o, r]`.
pub fn adapted_linear(
    x: &Tensor,
    (weight, bias): (Tensor, Option<Tensor>),
    (down, up): (&Tensor, &Tensor),
    scale: f64,
    dropping: Option<Dropping>,
) -> Result<Tensor> {
    let (x, down, up) = (ready(x)?, ready(down)?, ready(up)?);
    let op = Adapted {
        weight,
        bias,
        scale,
        dropping,
        wanted: (x.track_op(), down.track_op()),
        inner: OnceLock::new(),
    };
    x.apply_op3(&down, &up, op)
}

/// A factor in the type of the activations, times a number.
fn rounded(
    (storage, layout): (&CudaStorage, &Layout),
    dtype: DType,
    scale: f64,
) -> Result<CudaStorage> {
    let whole = Layout::contiguous(layout.shape());
    let scaled = storage.affine(layout, scale, 0.0)?;
    match scaled.dtype() == dtype {
        true => Ok(scaled),
        false => scaled.to_dtype(&whole, dtype),
    }
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted linear"
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
        Err(Error::Msg(
            "adapted linear: a GPU layer was given a tensor in main memory".to_owned(),
        ))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        down: &CudaStorage,
        down_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let dtype = x.dtype();
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let (y, shape) = product((x, layout), (cuda(&weight)?, weight_layout), None)?;
        let (down, up) = (
            rounded((down, down_layout), dtype, self.scale)?,
            rounded((up, up_layout), dtype, 1.0)?,
        );
        let down_layout = Layout::contiguous(down_layout.shape());
        let up_layout = Layout::contiguous(up_layout.shape());
        let (inner, inner_shape) = product((x, layout), (&down, &down_layout), None)?;
        let inner_layout = Layout::contiguous(&inner_shape);
        let (mut added, _) = product((&inner, &inner_layout), (&up, &up_layout), None)?;
        let whole = Layout::contiguous(&shape);
        if let Some(dropping) = self.dropping {
            let plan = plan::dropout(dtype, dropping, shape.elem_count())?;
            added = execute::execute(&plan, &[(&added, &whole)])?.swap_remove(0);
        }
        let width = up_layout.dims()[0];
        let addends = Addends {
            bias: self.bias.as_ref(),
            skip: Some((&added, &whole)),
            ..Addends::default()
        };
        addends.add_to(&y, (shape.elem_count() / width.max(1), width))?;
        if self.wanted.0 || self.wanted.1 {
            // It runs forward once; see `Chain`.
            self.inner.set(tensor(inner, inner_shape)).ok();
        }
        Ok((y, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        down: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(inner) = self.inner.get() else {
            candle_core::bail!("an adapter's gradient is asked for before its result");
        };
        let ((rank, width), out) = (down.dims2()?, up.dims2()?.0);
        let grad = aligned(&grad.detach())?.reshape(((), out))?;
        let masked = match self.dropping {
            Some(dropping) => {
                let plan = plan::dropout(grad.dtype(), dropping, grad.elem_count())?;
                run(&plan, &[&grad])?.swap_remove(0).reshape(grad.shape())?
            }
            None => grad.clone(),
        };
        // Of `s x Dᵀ`.
        let of_inner = masked.matmul(&up.detach().to_dtype(x.dtype())?)?;
        let (mut for_down, mut for_up) = (None, None);
        if self.wanted.1 {
            let inner = inner.reshape(((), rank))?;
            let rows = x.detach().reshape(((), width))?;
            for_up = Some(execute::weight_gradient(&masked, &inner)?.to_dtype(up.dtype())?);
            let of_down = execute::weight_gradient(&of_inner, &rows)?;
            for_down = Some(of_down.affine(self.scale, 0.0)?.to_dtype(down.dtype())?);
        }
        let mut for_input = None;
        if self.wanted.0 {
            let dx = grad.matmul(&self.weight.detach())?;
            let down = down.detach().affine(self.scale, 0.0)?.to_dtype(x.dtype())?;
            let dx = add_in_place(dx, &of_inner.matmul(&down)?)?;
            for_input = Some(dx.reshape(x.shape())?);
        }
        Ok((for_input, for_down, for_up))
    }
}
