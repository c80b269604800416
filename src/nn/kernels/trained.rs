//! A linear layer whose weight, and perhaps bias, is being trained.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::product::{Matrix, Panels, Start, Strides, multiply};
use super::simd::Level;
use super::weight::{Direction, numbers, pack, with_numbers};
use super::{Real, for_type, storage_dtype, zeros};

/// Rows of the batch that are summed in registers before they are added to the gradient of the weight: more
/// would only grow the rounding error.
const ROWS_PER_SUM: usize = 512;

/// `y = x Wᵀ + b` for `x [.., i]`, `W [o, i]`, `b [o]`, with the gradients that are asked for.
#[derive(Clone, Copy, Debug)]
pub struct TrainedLinear {
    pub input_gradient: bool,
    pub weight_gradient: bool,
    pub bias_gradient: bool,
}

impl TrainedLinear {
    /// # Errors
    /// When an operand is not f32 or f64, or the types differ.
    pub fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        match bias {
            Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, self),
            None => x.apply_op2(&weight, self),
        }
    }

    fn gradients<T: Real>(
        self,
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (out, inp) = weight.dims2()?;
        let grad = grad.contiguous()?;
        let rows = grad.elem_count() / out.max(1);
        let for_input = if self.input_gradient {
            let panels = pack::<T>(weight, Direction::Backward)?;
            let mut dx = zeros::<T>(rows * inp);
            let matrix = Matrix::contiguous(rows, out, inp);
            with_numbers(&grad, |g| {
                multiply(g, &matrix, &panels, Start::Zero, &mut dx);
            })?;
            Some(Tensor::from_vec(dx, x.shape(), x.device())?)
        } else {
            None
        };
        let for_weight = if self.weight_gradient {
            let dw = with_numbers(x, |x| {
                with_numbers(&grad, |g| weight_gradient::<T>(x, g, (rows, inp, out)))
            })??;
            Some(Tensor::from_vec(dw, (out, inp), x.device())?)
        } else {
            None
        };
        let for_bias = if self.bias_gradient {
            let db = with_numbers(&grad, |g| column_sums::<T>(g, out))?;
            Some(Tensor::from_vec(db, out, x.device())?)
        } else {
            None
        };
        Ok((for_input, for_weight, for_bias))
    }
}

/// `gradᵀ x`, `[o, i]`.
pub fn weight_gradient<T: Real>(
    x: &[T],
    grad: &[T],
    (rows, inp, out): (usize, usize, usize),
) -> Vec<T> {
    let mut dw = zeros::<T>(out * inp);
    let mut panels = Panels::empty(Level::best());
    for first in (0..rows).step_by(ROWS_PER_SUM) {
        let count = ROWS_PER_SUM.min(rows - first);
        panels.pack(
            &x[first * inp..],
            (1, count, inp),
            Strides {
                tap: 0,
                depth: inp,
                column: 1,
            },
        );
        let matrix = Matrix::new(out, (first * out, 1, out), (0, inp), inp);
        multiply(grad, &matrix, &panels, Start::Result, &mut dw);
    }
    dw
}

/// Sums over all rows, in f64.
fn column_sums<T: Real>(x: &[T], columns: usize) -> Vec<T> {
    let mut sums = vec![0f64; columns];
    for row in x.chunks_exact(columns.max(1)) {
        for (sum, v) in sums.iter_mut().zip(row) {
            *sum += v.to_f64();
        }
    }
    sums.into_iter().map(T::from_f64).collect()
}

fn forward<T: Real>(
    (x, x_layout): (&CpuStorage, &Layout),
    (w, w_layout): (&CpuStorage, &Layout),
    bias: Option<(&CpuStorage, &Layout)>,
) -> Result<(CpuStorage, Shape)> {
    let dims = x_layout.dims();
    let (out, inp) = w_layout.shape().dims2()?;
    let x = numbers::<T>("linear", x, x_layout)?;
    let mut panels = Panels::empty(Level::best());
    panels.pack(
        numbers("linear", w, w_layout)?,
        (1, inp, out),
        Strides {
            tap: 0,
            depth: 1,
            column: inp,
        },
    );
    let start = match bias {
        Some((storage, layout)) => Start::Bias(numbers("linear", storage, layout)?),
        None => Start::Zero,
    };
    let rows = x.len() / inp.max(1);
    let mut y = zeros::<T>(rows * out);
    multiply(
        x,
        &Matrix::contiguous(rows, inp, out),
        &panels,
        start,
        &mut y,
    );
    let shape = [&dims[..dims.len() - 1], &[out]].concat();
    Ok((T::to_cpu_storage_owned(y), shape.into()))
}

impl CustomOp2 for TrainedLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        for_type!(storage_dtype(x), T, forward::<T>((x, xl), (w, wl), None))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = for_type!(x.dtype(), T, self.gradients::<T>(x, w, grad)?);
        Ok((dx, dw))
    }
}

impl CustomOp3 for TrainedLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        for_type!(
            storage_dtype(x),
            T,
            forward::<T>((x, xl), (w, wl), Some((b, bl)))
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        for_type!(x.dtype(), T, self.gradients::<T>(x, w, grad))
    }
}
