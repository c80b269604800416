//! The neck and head of Depth Anything, as transformers computes them: features of four layers to one map of depth.

use candle_core::{Result, Tensor};

use super::resize::{Corners, bilinear};
use super::{Built, DepthAnythingConfig};
use crate::models::error::ModelError;
use crate::models::weights::Weights;
use crate::nn::{Conv2d, Conv2dConfig, Linear, Param};

const AROUND: Conv2dConfig = Conv2dConfig::padded(1);

#[derive(Debug)]
pub(super) struct DptHead {
    stages: Vec<Stage>,
    /// From the coarsest.
    fusions: Vec<Fusion>,
    convs: [Conv2d; 3],
}

/// Features of one layer as a picture.
#[derive(Debug)]
struct Stage {
    projection: Conv2d,
    resize: Resize,
    conv: Conv2d,
}

#[derive(Debug)]
enum Resize {
    Same,
    /// A transposed convolution whose places do not overlap: a linear layer, and a factor.
    Enlarge(Linear, usize),
    Halve(Conv2d),
}

impl Stage {
    fn new(weights: &Weights, i: usize, config: &DepthAnythingConfig) -> Built<Self> {
        let channels = config.neck_hidden_sizes[i];
        let at = weights.pp("reassemble_stage.layers").pp(i);
        let wide = (config.reassemble_hidden_size, channels);
        let factor = config.reassemble_factors[i];
        let resize = if factor == 1.0 {
            Resize::Same
        } else if factor == 0.5 {
            let halved = Conv2dConfig {
                stride: 2,
                ..AROUND
            };
            Resize::Halve(at.conv2d("resize", (channels, channels), 3, halved)?)
        } else if factor == 2.0 || factor == 4.0 {
            let factor = factor as usize;
            Resize::Enlarge(enlarging(&at, channels, factor)?, factor)
        } else {
            return Err(ModelError::Config {
                file: super::CONFIG.to_owned(),
                why: format!("reassemble_factors has {factor}; only 4, 2, 1 and 0.5 are known"),
            });
        };
        let fused = config.fusion_hidden_size;
        let conv = weights.get_or(
            &format!("convs.{i}.weight"),
            &[fused, channels, 3, 3],
            &[1, 1, 3, 3],
        )?;
        Ok(Self {
            projection: at.conv2d("projection", wide, 1, Conv2dConfig::default())?,
            resize,
            conv: Conv2d::new(&conv, None, AROUND)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.projection.forward(x)?;
        let x = match &self.resize {
            Resize::Same => x,
            Resize::Halve(conv) => conv.forward(&x)?,
            Resize::Enlarge(linear, k) => {
                let (n, h, w, c) = x.dims4()?;
                let places = linear.forward(&x)?.reshape(&[n, h, w, *k, *k, c][..])?;
                let places = places.permute([0, 1, 3, 2, 4, 5])?.contiguous()?;
                places.reshape((n, h * k, w * k, c))?
            }
        };
        self.conv.forward(&x)
    }
}

/// The linear layer `[k k o, i]` of a transposed convolution with a kernel of `k` places and as large a stride.
fn enlarging(weights: &Weights, c: usize, k: usize) -> Built<Linear> {
    let shapes: (&[usize], &[usize]) = (&[c, c, k, k], &[c]);
    let (weight, bias) = weights.pair("resize", shapes, (&[1, 1, k, k], &[1]))?;
    // Of the tensor, not of the configuration: what is only compared with the files is a small placeholder.
    let (i, o, _, _) = weight.dims4()?;
    let weight = weight.permute((2, 3, 1, 0))?.reshape((k * k * o, i))?;
    let bias = bias.unsqueeze(0)?.repeat((k * k, 1))?.flatten_all()?;
    let linear = Linear::new(
        Param::frozen(weight.contiguous()?),
        Some(Param::frozen(bias)),
    )?;
    Ok(linear)
}

/// What came from below and one stage's features, together.
#[derive(Debug)]
struct Fusion {
    /// Only where something came from below.
    features: Residual,
    sum: Residual,
    projection: Conv2d,
}

#[derive(Debug)]
struct Residual([Conv2d; 2]);

impl Residual {
    fn new(weights: &Weights, c: usize) -> Built<Self> {
        let conv = |name: &str| weights.conv2d(name, (c, c), 3, AROUND);
        Ok(Self([conv("convolution1")?, conv("convolution2")?]))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = self.0[0].forward(&x.relu()?)?;
        x + self.0[1].forward(&inner.relu()?)?
    }
}

impl Fusion {
    fn new(weights: &Weights, c: usize) -> Built<Self> {
        Ok(Self {
            features: Residual::new(&weights.pp("residual_layer1"), c)?,
            sum: Residual::new(&weights.pp("residual_layer2"), c)?,
            projection: weights.conv2d("projection", (c, c), 1, Conv2dConfig::default())?,
        })
    }

    fn forward(
        &self,
        below: Option<&Tensor>,
        features: &Tensor,
        size: (usize, usize),
    ) -> Result<Tensor> {
        let sum = match below {
            Some(below) => (below + self.features.forward(features)?)?,
            None => features.clone(),
        };
        let sum = bilinear(&self.sum.forward(&sum)?, size, Corners::Together)?;
        self.projection.forward(&sum)
    }
}

impl DptHead {
    pub fn new(weights: &Weights, config: &DepthAnythingConfig) -> Built<Self> {
        let (neck, head) = (weights.pp("neck"), weights.pp("head"));
        let (c, inner) = (config.fusion_hidden_size, config.head_hidden_size);
        let count = config.neck_hidden_sizes.len();
        let fusion = |i: usize| Fusion::new(&neck.pp("fusion_stage.layers").pp(i), c);
        Ok(Self {
            stages: (0..count)
                .map(|i| Stage::new(&neck, i, config))
                .collect::<Built<_>>()?,
            fusions: (0..count).map(fusion).collect::<Built<_>>()?,
            convs: [
                head.conv2d("conv1", (c, c / 2), 3, AROUND)?,
                head.conv2d("conv2", (c / 2, inner), 3, AROUND)?,
                head.conv2d("conv3", (inner, 1), 1, Conv2dConfig::default())?,
            ],
        })
    }

    /// Shape: features `[n, rows · columns, c]`, finest first; returns `[n, rows · patch, columns · patch]`.
    pub fn forward(
        &self,
        features: &[Tensor],
        (rows, columns): (usize, usize),
        patch: usize,
    ) -> Result<Tensor> {
        let mut maps = Vec::new();
        for (stage, feature) in self.stages.iter().zip(features) {
            let (n, _, c) = feature.dims3()?;
            maps.push(stage.forward(&feature.reshape((n, rows, columns, c))?)?);
        }
        let mut fused: Option<Tensor> = None;
        for (fusion, i) in self.fusions.iter().zip((0..maps.len()).rev()) {
            let size = |map: &Tensor| map.dims4().map(|(_, h, w, _)| (h, w));
            let size = match i.checked_sub(1).and_then(|finer| maps.get(finer)) {
                Some(finer) => size(finer)?,
                None => size(&maps[i]).map(|(h, w)| (2 * h, 2 * w))?,
            };
            fused = Some(fusion.forward(fused.as_ref(), &maps[i], size)?);
        }
        let Some(fused) = fused else {
            candle_core::bail!("depth: a head without stages");
        };
        let [conv1, conv2, conv3] = &self.convs;
        let size = (rows * patch, columns * patch);
        let x = bilinear(&conv1.forward(&fused)?, size, Corners::Together)?;
        conv3
            .forward(&conv2.forward(&x)?.relu()?)?
            .relu()?
            .squeeze(3)
    }
}
