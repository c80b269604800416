//! Residual blocks and resizing that the UNet and the autoencoder share.
//!
//! Shapes here are `[n, h, w, c]` with `n = b * f` images, frame-major inside each clip.

use candle_core::{Result, Tensor};

use super::error::ModelError;
use super::weights::Weights;
use crate::nn::{Conv2d, Conv2dConfig, GroupNorm, Linear, Padding, Piece, Skip, chain};

/// `act(norm(x))` of an image batch, statistics per image.
pub(super) fn norm_silu(norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
    norm_silu_over(norm, x, 1)
}

/// `act(norm(x))` of an image batch, statistics over `images` consecutive ones together.
pub(super) fn norm_silu_over(norm: &GroupNorm, x: &Tensor, images: usize) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    norm.forward_silu(&x.reshape((n / images, images * h * w, c))?)?
        .reshape((n, h, w, c))
}

/// Sizes and constants of a [`ResnetBlock2D`].
#[derive(Clone, Copy, Debug)]
pub(super) struct ResnetConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    /// Width of the time embedding; `None` in the autoencoder.
    pub time_width: Option<usize>,
    pub groups: usize,
    pub eps: f64,
    pub output_scale: f64,
}

/// Two convolutions with norms, a time embedding between them, and a residual connection. Source: spec 1.2.
#[derive(Debug)]
pub(super) struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    output_scale: f64,
}

impl ResnetBlock2D {
    pub fn new(weights: &Weights, config: &ResnetConfig) -> std::result::Result<Self, ModelError> {
        let ResnetConfig {
            in_channels: i,
            out_channels: o,
            groups,
            eps,
            ..
        } = *config;
        let conv3 = Conv2dConfig::padded(1);
        Ok(Self {
            norm1: weights.group_norm("norm1", i, groups, eps)?,
            conv1: weights.conv2d("conv1", (i, o), 3, conv3)?,
            time_emb_proj: match config.time_width {
                Some(width) => Some(weights.linear("time_emb_proj", width, o, true)?),
                None => None,
            },
            norm2: weights.group_norm("norm2", o, groups, eps)?,
            conv2: weights.conv2d("conv2", (o, o), 3, conv3)?,
            conv_shortcut: match i == o {
                true => None,
                false => {
                    Some(weights.conv2d("conv_shortcut", (i, o), 1, Conv2dConfig::default())?)
                }
            },
            output_scale: config.output_scale,
        })
    }

    /// Shape: `x [n, h, w, i]`; `time [b, d]` is the activated time embedding, `n` a multiple of `b`. Returns
    /// `[n, h, w, o]`.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        self.forward_over(x, time, 1)
    }

    /// As [`Self::forward`], with the norms' statistics over `images` consecutive images together: 1, or the frames of a
    /// clip where the network was inflated (spec 6).
    pub fn forward_over(&self, x: &Tensor, time: Option<&Tensor>, images: usize) -> Result<Tensor> {
        // All frames of a clip share one row of the embedding.
        let shift = match (&self.time_emb_proj, time) {
            (Some(proj), Some(time)) => Some(proj.forward(time)?),
            _ => None,
        };
        let sum = if images == 1 {
            self.each_image(x, shift.as_ref())
        } else {
            self.pooled(x, shift.as_ref(), images)
        }?;
        if self.output_scale == 1.0 {
            Ok(sum)
        } else {
            sum / self.output_scale
        }
    }

    fn each_image(&self, x: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
        let mut pieces = vec![Piece::NormSilu(&self.norm1), Piece::Conv(&self.conv1)];
        pieces.extend(shift.map(Piece::Shift));
        pieces.extend([Piece::NormSilu(&self.norm2), Piece::Conv(&self.conv2)]);
        let skip = match &self.conv_shortcut {
            Some(shortcut) => Skip::Through(shortcut),
            None => Skip::Input,
        };
        chain(x, &pieces, skip)
    }

    fn pooled(&self, x: &Tensor, shift: Option<&Tensor>, images: usize) -> Result<Tensor> {
        let normed = norm_silu_over(&self.norm1, x, images)?;
        let mut hidden = self.conv1.forward(&normed)?;
        if let Some(shift) = shift {
            let (n, h, w, c) = hidden.dims4()?;
            let clips = shift.dim(0)?;
            hidden = hidden
                .reshape((clips, n / clips * h * w, c))?
                .broadcast_add(&shift.unsqueeze(1)?)?
                .reshape((n, h, w, c))?;
        }
        let normed = norm_silu_over(&self.norm2, &hidden, images)?;
        let hidden = self.conv2.forward(&normed)?;
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x)? + hidden,
            None => x + hidden,
        }
    }
}

/// Where a halving convolution adds its zeros.
#[derive(Clone, Copy, Debug)]
pub(super) enum DownPadding {
    /// One on every side (UNet).
    Even(usize),
    /// One row below and one column to the right (autoencoder).
    BottomRight,
}

/// Halves height and width by a strided convolution. Source: spec 1.3 and 5.
#[derive(Debug)]
pub(super) struct Downsample2D(Conv2d);

impl Downsample2D {
    pub fn new(
        weights: &Weights,
        c: usize,
        padding: DownPadding,
    ) -> std::result::Result<Self, ModelError> {
        let padding = match padding {
            DownPadding::Even(size) => Padding::same(size),
            DownPadding::BottomRight => Padding {
                bottom: 1,
                right: 1,
                ..Padding::default()
            },
        };
        weights
            .conv2d("conv", (c, c), 3, Conv2dConfig { stride: 2, padding })
            .map(Self)
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

/// Enlarges by repeating positions, then convolves. Source: spec 1.3.
#[derive(Debug)]
pub(super) struct Upsample2D(Conv2d);

impl Upsample2D {
    pub fn new(weights: &Weights, c: usize) -> std::result::Result<Self, ModelError> {
        weights
            .conv2d("conv", (c, c), 3, Conv2dConfig::padded(1))
            .map(Self)
    }

    /// Shape: `[n, h, w, c]` to `[n, h2, w2, c]`; the size is given because it need not be twice the input's.
    pub fn forward(&self, x: &Tensor, (h2, w2): (usize, usize)) -> Result<Tensor> {
        let pieces = [Piece::Upsample(h2, w2), Piece::Conv(&self.0)];
        chain(x, &pieces, Skip::Nothing)
    }
}
