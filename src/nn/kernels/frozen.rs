//! Linear layers and convolutions with frozen weights as candle operations: a gradient for the input only.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};

use super::image::Geometry;
use super::product::{Matrix, Start, multiply};
use super::weight::{Direction, Weight, numbers};
use super::{Real, for_type, storage_dtype, zeros};

/// What the rows of the input are.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `[.., i]`: every row by itself.
    Linear,
    /// Images `[.., i]` whose leading axes multiply to what the geometry says; the shape of the result is given.
    Image(Geometry, Vec<usize>),
}

/// `y = x * weight + bias`, as a linear layer or a convolution. The weight is captured: being no argument of the
/// operation, it cannot be given a gradient.
#[derive(Clone, Debug)]
pub struct FrozenProduct {
    pub weight: Arc<Weight>,
    /// Exact for every type we compute in.
    pub bias: Option<Arc<Vec<f64>>>,
    pub kind: Kind,
    pub direction: Direction,
}

impl FrozenProduct {
    fn compute<T: Real>(&self, x: &[T], shape: &Shape) -> Result<(Vec<T>, Shape)> {
        let panels = self.weight.panels::<T>(self.direction)?;
        let dims = shape.dims();
        let depth = dims.last().copied().unwrap_or(0);
        let columns = panels.columns();
        let bias: Option<Vec<T>> = self
            .bias
            .as_ref()
            .map(|bias| bias.iter().map(|&v| T::from_f64(v)).collect());
        let start = bias.as_deref().map_or(Start::Zero, Start::Bias);
        match &self.kind {
            Kind::Linear => {
                let rows = x.len() / depth.max(1);
                let mut y = zeros::<T>(rows * columns);
                multiply(
                    x,
                    &Matrix::contiguous(rows, depth, columns),
                    &panels,
                    start,
                    &mut y,
                );
                let leading = &dims[..dims.len() - 1];
                Ok((y, [leading, &[columns]].concat().into()))
            }
            Kind::Image(geometry, shape) => {
                let rows = geometry.rows(depth, columns);
                let mut y = zeros::<T>(shape.iter().product());
                multiply(x, &rows, &panels, start, &mut y);
                Ok((y, shape.clone().into()))
            }
        }
    }
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Linear => "linear",
            Kind::Image(..) => "convolution",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        for_type!(storage_dtype(storage), T, {
            let (y, shape) =
                self.compute::<T>(numbers(self.name(), storage, layout)?, layout.shape())?;
            Ok((T::to_cpu_storage_owned(y), shape))
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a gradient of the gradient is not wanted"
    )]
    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let kind = match &self.kind {
            Kind::Linear => Kind::Linear,
            Kind::Image(geometry, _) => Kind::Image(geometry.gradient(), x.dims().to_vec()),
        };
        let transposed = Self {
            weight: self.weight.clone(),
            bias: None,
            kind,
            direction: Direction::Backward,
        };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&transposed)?))
    }
}
