//! Convolutions, channels last, frozen: they pass a gradient to their input and none to their weights.

use candle_core::{Result, Tensor};

use super::composed;

/// Rows and columns of zeros added around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
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
    pub stride: usize,
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
    weight: Tensor,
    bias: Option<Tensor>,
    config: Conv2dConfig,
}

impl Conv2d {
    /// Shape: `weight [o, i, kh, kw]`, `bias [o]`.
    ///
    /// # Errors
    /// When the shapes do not fit or the stride is 0.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Self> {
        let (out, _, _, _) = weight.dims4()?;
        check_bias("conv2d", bias, out)?;
        if config.stride == 0 {
            candle_core::bail!("conv2d: the stride is 0");
        }
        Ok(Self {
            weight: weight.detach(),
            bias: bias.map(Tensor::detach),
            config,
        })
    }

    /// Shape: `[n, h, w, i]` to `[n, h', w', o]`, any size.
    ///
    /// # Errors
    /// When the channels do not fit or the image is smaller than the kernel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        composed::conv2d(x, &self.weight, self.bias.as_ref(), &self.config)
    }
}

/// A frozen convolution over frames: kernel (3, 1, 1), zeros before the first and after the last frame.
#[derive(Clone, Debug)]
pub struct TemporalConv {
    conv: Conv2d,
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
