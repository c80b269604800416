//! What training and sampling need of a denoising network, whichever it is.

use candle_core::{DType, Result, Tensor};

use super::image::{ImageNetwork, InflatedUNet};
use super::unet3d::UNet3DConditionModel;
use crate::nn::Tape;

/// What a network sees beside the noisy clip.
#[derive(Clone, Copy, Debug)]
pub struct Conditioning<'s> {
    /// Text embeddings, `[b, n, d]`.
    pub text: &'s Tensor,
    /// The clip that steers a ControlNet, `[b, 3, f, h, w]` in 0 to 1; or one clip for all `b`.
    pub control: Option<&'s Tensor>,
}

impl<'s> Conditioning<'s> {
    /// Words alone.
    #[must_use]
    pub fn text(text: &'s Tensor) -> Self {
        Self {
            text,
            control: None,
        }
    }
}

/// A denoising network.
pub trait Denoiser {
    /// Predicts from a noisy latent clip, as a training pass on `tape`.
    ///
    /// Shape: `x [b, c, f, h, w]`, `t` one noise level a clip or one for all. Returns `[b, c', f, h, w]`.
    ///
    /// # Errors
    /// When the shapes do not fit the network or each other.
    fn predict_on<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        x: &Tensor,
        t: &[f64],
        seen: Conditioning<'_>,
    ) -> Result<Tensor>;

    /// Number type of the frozen weights and of the activations.
    fn dtype(&self) -> DType;

    /// [`Self::predict_on`] outside of training.
    ///
    /// # Errors
    /// As [`Self::predict_on`].
    fn predict(&self, x: &Tensor, t: &[f64], seen: Conditioning<'_>) -> Result<Tensor> {
        self.predict_on(&mut Tape::off(), x, t, seen)
    }
}

impl Denoiser for UNet3DConditionModel {
    fn predict_on<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        x: &Tensor,
        t: &[f64],
        seen: Conditioning<'_>,
    ) -> Result<Tensor> {
        if seen.control.is_some() {
            candle_core::bail!("a text-to-video network has no ControlNet");
        }
        self.forward_on(tape, x, t, seen.text)
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }
}

impl Denoiser for InflatedUNet {
    fn predict_on<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        x: &Tensor,
        t: &[f64],
        seen: Conditioning<'_>,
    ) -> Result<Tensor> {
        if seen.control.is_some() {
            candle_core::bail!("an inflated UNet alone has no ControlNet");
        }
        self.forward_on(tape, x, t, seen.text, None)
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }
}

/// The denoising network of any model this program runs.
#[derive(Debug)]
pub enum Network {
    /// That of a text-to-video model.
    Video(Box<UNet3DConditionModel>),
    /// That of an image model, inflated.
    Image(Box<ImageNetwork>),
}

impl Network {
    /// The network of a text-to-video model.
    #[must_use]
    pub fn video(&self) -> Option<&UNet3DConditionModel> {
        match self {
            Self::Video(unet) => Some(unet),
            Self::Image(_) => None,
        }
    }

    /// The network of an inflated image model.
    #[must_use]
    pub fn image(&self) -> Option<&ImageNetwork> {
        match self {
            Self::Video(_) => None,
            Self::Image(network) => Some(network),
        }
    }
}

impl From<UNet3DConditionModel> for Network {
    fn from(unet: UNet3DConditionModel) -> Self {
        Self::Video(Box::new(unet))
    }
}

impl From<ImageNetwork> for Network {
    fn from(network: ImageNetwork) -> Self {
        Self::Image(Box::new(network))
    }
}

impl Denoiser for Network {
    fn predict_on<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        x: &Tensor,
        t: &[f64],
        seen: Conditioning<'_>,
    ) -> Result<Tensor> {
        match self {
            Self::Video(unet) => unet.as_ref().predict_on(tape, x, t, seen),
            Self::Image(network) => network.as_ref().predict_on(tape, x, t, seen),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::Video(unet) => unet.as_ref().dtype(),
            Self::Image(network) => network.as_ref().dtype(),
        }
    }
}
