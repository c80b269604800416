//! Convolutions, channels last, frozen: they pass a gradient to their input and none to their weights.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::cuda::{self, Prepared};
use super::kernels::frozen::{FrozenProduct, Kind};
use super::kernels::image::Geometry;
use super::kernels::weight::{Direction, Weight};
use super::kernels::{apply1, is_cpu};
use super::{composed, plan};

/// Rows and columns of zeros added around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// The same on all four sides.
    pub const fn same(size: usize) -> Self {
        Self {
            top: size,
            bottom: size,
            left: size,
            right: size,
        }
    }
}

/// Stride and padding of a [`Conv2d`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Distance between the places of the kernel, in both directions.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: Padding,
}

impl Default for Conv2dConfig {
    /// Stride 1 and no padding.
    fn default() -> Self {
        Self {
            stride: 1,
            padding: Padding::default(),
        }
    }
}

impl Conv2dConfig {
    /// Stride 1 and the same padding on all sides.
    pub const fn padded(size: usize) -> Self {
        Self {
            stride: 1,
            padding: Padding::same(size),
        }
    }

    /// The size `(h', w')` of the output for an input of `(h, w)` and a kernel of `(kh, kw)`.
    pub(super) fn output_size(
        &self,
        input: (usize, usize),
        kernel: (usize, usize),
    ) -> Result<(usize, usize)> {
        let Padding {
            top,
            bottom,
            left,
            right,
        } = self.padding;
        let (h, w) = (input.0 + top + bottom, input.1 + left + right);
        if h < kernel.0 || w < kernel.1 {
            candle_core::bail!(
                "conv2d: an image of {input:?} with {:?} is smaller than the kernel {kernel:?}",
                self.padding
            );
        }
        Ok((
            (h - kernel.0) / self.stride + 1,
            (w - kernel.1) / self.stride + 1,
        ))
    }
}

/// A frozen two-dimensional convolution (cross-correlation, as in every framework).
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Arc<Weight>,
    bias: Option<Tensor>,
    bias_numbers: Option<Arc<Vec<f64>>>,
    config: Conv2dConfig,
    /// `[o, i, kh, kw]`.
    dims: (usize, usize, usize, usize),
    /// `[kh kw, i, o]`, for GPU kernels; the weight above is then a view of it.
    packed: Option<Tensor>,
    /// The bias in f32, for GPU kernels.
    wide_bias: Prepared,
}

impl Conv2d {
    /// Shape: `weight [o, i, kh, kw]`, `bias [o]`.
    ///
    /// # Errors
    /// When the shapes do not fit or the stride is 0.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Self> {
        let dims = weight.dims4()?;
        check_bias("conv2d", bias, dims.0)?;
        if config.stride == 0 {
            candle_core::bail!("conv2d: the stride is 0");
        }
        let bias_numbers = bias.map(bias_numbers).transpose()?;
        let (out, inp, kh, kw) = dims;
        let (packed, weight) = if cuda::is_ready(weight) {
            let packed = weight.detach().permute((2, 3, 1, 0))?.contiguous()?;
            let view = Weight::elsewhere(&packed.permute((3, 2, 0, 1))?);
            (Some(packed.reshape((kh * kw, inp, out))?), view)
        } else {
            (None, Weight::new(weight)?)
        };
        Ok(Self {
            weight: Arc::new(weight),
            bias: bias.map(Tensor::detach),
            bias_numbers,
            config,
            dims,
            packed,
            wide_bias: Prepared::default(),
        })
    }

    /// Shape: `[n, h, w, i]` to `[n, h', w', o]`, any size; the result has the type of `x`.
    ///
    /// # Errors
    /// When the channels do not fit or the image is smaller than the kernel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, h, w, _) = x.dims4()?;
        self.check(x.dims())?;
        if cuda::is_ready(x)
            && let Some((how, bias)) = self.on_gpu(x.dtype(), (n, h, w))?
        {
            return match how {
                OnGpu::Linear(weight) => cuda::frozen_linear(x, weight, bias),
                OnGpu::Convolution(weight, size) => cuda::convolution(x, &weight, bias, size),
            };
        }
        if !is_cpu(x) {
            let bias = self
                .bias
                .as_ref()
                .map(|bias| bias.to_dtype(x.dtype()))
                .transpose()?;
            return composed::conv2d(
                x,
                &self.weight.source().to_dtype(x.dtype())?,
                bias.as_ref(),
                &self.config,
            );
        }
        apply1(x, self.product((n, h, w))?)
    }

    /// The convolution of `[n, h, w, i]` as a kernel.
    pub(super) fn product(&self, (n, h, w): (usize, usize, usize)) -> Result<FrozenProduct> {
        let (out, _, kh, kw) = self.dims;
        let output = self.config.output_size((h, w), (kh, kw))?;
        let Conv2dConfig { stride, padding } = self.config;
        let geometry = Geometry {
            images: n,
            input: (h, w),
            output,
            kernel: (kh, kw),
            stride,
            before: (padding.top, padding.left),
            transposed: false,
        };
        // A kernel of one pixel is a linear layer.
        let kind = if (kh, kw, stride) == (1, 1, 1) && padding == Padding::default() {
            Kind::Linear
        } else {
            Kind::Image(geometry, vec![n, output.0, output.1, out])
        };
        let (weight, bias) = (self.weight.clone(), self.bias_numbers.clone());
        Ok(FrozenProduct {
            weight,
            bias,
            kind,
            direction: Direction::Forward,
        })
    }

    pub(super) fn check(&self, dims: &[usize]) -> Result<()> {
        let inp = self.dims.1;
        if dims.last() != Some(&inp) {
            candle_core::bail!(
                "conv2d: input {dims:?} does not end with the {inp} channels of the layer"
            );
        }
        Ok(())
    }

    /// The shape of the output for `n` images.
    pub(super) fn output_dims(&self, (n, h, w): (usize, usize, usize)) -> Result<Vec<usize>> {
        let (out, _, kh, kw) = self.dims;
        let (h, w) = self.config.output_size((h, w), (kh, kw))?;
        Ok(vec![n, h, w, out])
    }
}

/// A convolution as a GPU carries it out.
enum OnGpu {
    /// A kernel of one pixel is a linear layer: its weight `[o, i]`.
    Linear(Tensor),
    /// Its weight `[kh kw, i, o]`.
    Convolution(Tensor, plan::Convolution),
}

impl Conv2d {
    /// How a GPU carries the layer out on `[n, h, w, i]`, and its bias; none where the kernels do not take it.
    fn on_gpu(
        &self,
        dtype: DType,
        (images, h, w): (usize, usize, usize),
    ) -> Result<Option<(OnGpu, Option<Tensor>)>> {
        let (columns, depth, kh, kw) = self.dims;
        let fits = kh * kw <= plan::Convolution::MOST_TAPS;
        let Some(packed) = self.packed.as_ref().filter(|_| fits) else {
            return Ok(None);
        };
        let Conv2dConfig { stride, padding } = self.config;
        let bias = match &self.bias {
            Some(bias) => Some(self.wide_bias.get(|| bias.to_dtype(plan::wide(dtype)))?),
            None => None,
        };
        let weight = packed.to_dtype(dtype)?;
        if (kh, kw, stride) == (1, 1, 1) && padding == Padding::default() {
            let weight = weight.reshape((depth, columns))?.t()?;
            return Ok(Some((OnGpu::Linear(weight), bias)));
        }
        let convolution = plan::Convolution {
            images,
            input: (h, w),
            output: self.config.output_size((h, w), (kh, kw))?,
            kernel: (kh, kw),
            stride,
            before: (padding.top, padding.left),
            depth,
            columns,
            gradient: false,
        };
        Ok(Some((OnGpu::Convolution(weight, convolution), bias)))
    }

    /// The convolution of `[n, h, w, i]` as part of a chain on the GPU.
    pub(super) fn gpu_stage(
        &self,
        dtype: DType,
        size: (usize, usize, usize),
    ) -> Result<Option<cuda::Stage>> {
        Ok(match self.on_gpu(dtype, size)? {
            None => None,
            Some((OnGpu::Linear(weight), bias)) => Some(cuda::Stage::linear(weight, bias)),
            Some((OnGpu::Convolution(weight, convolution), bias)) => {
                Some(cuda::Stage::convolution(&weight, bias, convolution)?)
            }
        })
    }
}

/// A frozen convolution over frames: kernel (3, 1, 1), zeros before the first and after the last frame.
#[derive(Clone, Debug)]
pub struct TemporalConv {
    pub(super) conv: Conv2d,
}

impl TemporalConv {
    /// Shape: `weight [o, i, 3, 1, 1]`, `bias [o]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (out, inp, kf, kh, kw) = weight.dims5()?;
        if (kf, kh, kw) != (3, 1, 1) {
            candle_core::bail!(
                "temporal conv: the kernel must be 3 frames by 1 by 1, got {:?}",
                weight.shape()
            );
        }
        // A clip [f, s] is an image of f rows and s columns to a kernel of (3, 1).
        let padding = Padding {
            top: 1,
            bottom: 1,
            left: 0,
            right: 0,
        };
        let weight = weight.reshape((out, inp, 3, 1))?;
        Ok(Self {
            conv: Conv2d::new(&weight, bias, Conv2dConfig { stride: 1, padding })?,
        })
    }

    /// Shape: `[b, f, s, c]` to `[b, f, s, o]`.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv.forward(x)
    }
}

/// A bias as numbers exact for every type the kernels compute in.
pub(super) fn bias_numbers(bias: &Tensor) -> Result<Arc<Vec<f64>>> {
    // Metal has no f64: it is widened here.
    let here = bias.to_device(&Device::Cpu)?;
    Ok(Arc::new(here.to_dtype(DType::F64)?.to_vec1()?))
}

fn check_bias(op: &'static str, bias: Option<&Tensor>, out: usize) -> Result<()> {
    match bias {
        Some(bias) if bias.dims() != [out] => {
            candle_core::bail!(
                "{op}: the bias has shape {:?} for {out} outputs",
                bias.shape()
            )
        }
        _ => Ok(()),
    }
}
