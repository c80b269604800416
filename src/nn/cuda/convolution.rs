//! Convolutions. In 16 bits what is read is laid out as rows of a matrix, a part at a time, which cuBLAS multiplies; other
//! types, and what does not move in pieces of 16 bytes, go through our own kernel.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Error, Layout, Result, Shape, Tensor,
};

use super::execute::{self, Product};
use super::planned::{Addends, aligned, cuda, ready, run, tensor};
use crate::nn::plan::{self, Buffer, Convolution};

/// Bytes of the matrix that is there at once.
const MATRIX_BYTES: usize = 128 << 20;
/// Parts of the matrix begin at multiples of so many rows, the tiles of a product.
const ROWS: usize = 128;

/// A convolution with a weight that is captured: being no argument, it cannot be given a gradient.
pub(super) struct Convolved {
    /// `[kh kw, i, o]`, contiguous, in the type of what is read.
    weight: Tensor,
    /// `[o]` in the wide type.
    bias: Option<Tensor>,
    convolution: Convolution,
}

/// A convolution; `weight [kh kw, i, o]` in the type of `x`, `bias` in the wide type.
pub fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<Tensor>,
    convolution: Convolution,
) -> Result<Tensor> {
    ready(x)?.apply_op1(Convolved::new(weight, bias, convolution)?)
}

impl Convolved {
    pub fn new(weight: &Tensor, bias: Option<Tensor>, convolution: Convolution) -> Result<Self> {
        Ok(Self {
            weight: aligned(&weight.detach())?,
            bias,
            convolution,
        })
    }

    /// The bias, where adding it is a pass of its own, which may add more.
    pub fn take_bias(&mut self) -> Option<Tensor> {
        if is_unfolded(self.weight.dtype(), &self.convolution) {
            self.bias.take()
        } else {
            None
        }
    }
}

/// Whether a convolution is a product with a matrix. The gradient of one with strides would mostly multiply zeros.
fn is_unfolded(dtype: DType, convolution: &Convolution) -> bool {
    let short = matches!(dtype, DType::F16 | DType::BF16);
    let whole = convolution.depth.is_multiple_of(8) && convolution.columns.is_multiple_of(8);
    short && whole && !(convolution.gradient && convolution.stride > 1)
}

/// The product with `weight [kh kw, depth, columns]`.
fn unfolded(
    (x, layout): (&CudaStorage, &Layout),
    weight: (&CudaStorage, &Layout),
    convolution: &Convolution,
) -> Result<CudaStorage> {
    let Convolution {
        images,
        output,
        kernel,
        depth,
        columns,
        ..
    } = *convolution;
    let dtype = x.dtype();
    let (pixels, width) = (images * output.0 * output.1, kernel.0 * kernel.1 * depth);
    let y = execute::allocate(
        x.device(),
        Buffer {
            dtype,
            len: pixels * columns,
        },
    )?;
    let most = (MATRIX_BYTES / (width * dtype.size_in_bytes()).max(1)).max(ROWS);
    let parts = pixels.div_ceil(most).max(1);
    let rows = pixels.div_ceil(parts).next_multiple_of(ROWS);
    for first in (0..pixels).step_by(rows) {
        let count = rows.min(pixels - first);
        let plan = plan::unfold(dtype, convolution, (first, count))?;
        let matrix = execute::execute(&plan, &[(x, layout)])?;
        let product = Product {
            m: count,
            n: columns,
            k: width,
            first_row: first,
        };
        let whole = Layout::contiguous((count, width));
        execute::multiply_into(&y, (&matrix[0], &whole), weight, product)?;
    }
    Ok(y)
}

impl CustomOp1 for Convolved {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Err(Error::Msg(
            "convolution: a GPU layer was given a tensor in main memory".to_owned(),
        ))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (h, w) = self.convolution.output;
        let (images, columns) = (self.convolution.images, self.convolution.columns);
        let shape = Shape::from((images, h, w, columns));
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let weight = (cuda(&weight)?, weight_layout);
        if is_unfolded(x.dtype(), &self.convolution) {
            let y = unfolded((x, layout), weight, &self.convolution)?;
            let bias = Addends {
                bias: self.bias.as_ref(),
                ..Addends::default()
            };
            bias.add_to(&y, (images * h * w, columns))?;
            return Ok((y, shape));
        }
        let plan = plan::convolution(x.dtype(), &self.convolution, self.bias.is_some())?;
        // Without a bias the kernel is given the weight in its place and does not look.
        let bias = self.bias.as_ref().map(Tensor::storage_and_layout);
        let bias = match &bias {
            Some((storage, layout)) => (cuda(storage)?, *layout),
            None => weight,
        };
        let mut results = execute::execute(&plan, &[(x, layout), weight, bias])?;
        Ok((results.swap_remove(0), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = aligned(&grad.detach())?;
        let reversed = self.convolution.reversed();
        if !is_unfolded(grad.dtype(), &reversed) {
            let plan = plan::convolution(grad.dtype(), &reversed, false)?;
            let mut results = run(&plan, &[&grad, &self.weight, &self.weight])?;
            return results.swap_remove(0).reshape(x.shape()).map(Some);
        }
        let (taps, inp, out) = self.weight.dims3()?;
        let plan = plan::transpose(grad.dtype(), taps, (inp, out))?;
        let (weight, layout) = self.weight.storage_and_layout();
        let turned = execute::execute(&plan, &[(cuda(&weight)?, layout)])?;
        let (storage, layout) = grad.storage_and_layout();
        let whole = Layout::contiguous((taps * out, inp));
        let dx = unfolded((cuda(&storage)?, layout), (&turned[0], &whole), &reversed)?;
        Ok(Some(tensor(dx, x.shape().clone())))
    }
}
