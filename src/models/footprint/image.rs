//! What the layers of an inflated image network keep. Its ControlNet learns nothing: of it the residuals alone are kept.

use super::{Cost, Layers, Place};
use crate::models::{ImageUNetConfig, Inflation};

/// A [`crate::models::InflatedUNet`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageLayers<'a> {
    pub config: &'a ImageUNetConfig,
    pub inflation: Inflation,
}

impl Layers for ImageLayers<'_> {
    fn channels(&self) -> &[usize] {
        &self.config.block_out_channels
    }

    fn layers_per_block(&self) -> usize {
        self.config.layers_per_block
    }

    fn latent_channels(&self) -> (usize, usize) {
        (self.config.in_channels, self.config.out_channels)
    }

    fn first(&self, _p: usize) -> Cost {
        Cost::default()
    }

    fn layer(&self, place: Place, p: usize, (i, o): (usize, usize)) -> Cost {
        let config = self.config;
        let (attends, together) = match place {
            Place::Down(level) => (config.down_attends[level], 0),
            Place::Up(level) => (
                config.up_attends[config.block_out_channels.len() - 1 - level],
                p * i,
            ),
        };
        let mut cost = self.resnet(p, (i, o), 1.0);
        cost.kept += together;
        cost.forward += together;
        match attends {
            true => cost.then(self.transformer(p, o, true)),
            false => cost,
        }
    }

    fn middle(&self, p: usize, c: usize) -> Cost {
        let resnet = self.resnet(p, (c, c), self.config.mid_scale);
        let temporal = self.inflation == Inflation::SparseCausal;
        resnet.then(self.transformer(p, c, temporal)).then(resnet)
    }

    /// Both methods train weights of the first level's first attention.
    fn learns_late(&self, p: usize, c: usize) -> Option<usize> {
        Some(self.transformer(p, c, true).kept - BEFORE_ATTENTION * p * c)
    }

    fn is_controlled(&self) -> bool {
        self.inflation == Inflation::KeyFrame
    }
}

/// Tokens' way in and the norms before the first attention.
const BEFORE_ATTENTION: usize = 3;

impl ImageLayers<'_> {
    /// Its norms pool the frames, so that it is no chain: both norms, both convolutions, the shifted and the summed result
    /// are kept, and what goes through the shortcut.
    fn resnet(&self, p: usize, (i, o): (usize, usize), scale: f64) -> Cost {
        let scaled = if scale == 1.0 { 0 } else { p * o };
        let shortcut = if i == o { 0 } else { p * o };
        Cost {
            kept: p * i + 5 * p * o + scaled + shortcut,
            forward: p * i + 3 * p * o,
            backward: 2 * p * i + 2 * p * o,
        }
    }

    /// As in a text-to-video network, with keys and values gathered from other frames, and attention over the frames. Where it
    /// stands beside the other, what puts both together is kept too, and layers that learn are not part of a chain.
    fn transformer(&self, p: usize, c: usize, temporal: bool) -> Cost {
        let (gathered, over_frames) = match self.inflation {
            Inflation::Pictures => (0, 0),
            Inflation::SparseCausal => (8, 9),
            Inflation::KeyFrame => (0, 17),
        };
        let over_frames = if temporal { over_frames } else { 0 };
        Cost {
            kept: (22 + gathered + over_frames) * p * c,
            forward: 15 * p * c,
            backward: 14 * p * c,
        }
    }
}
