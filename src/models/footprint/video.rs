//! What the layers of a text-to-video network keep.

use super::{Cost, Layers, Place};
use crate::models::UNet3DConfig;
use crate::models::unet3d::BlockKind;

/// Heads of the transformer right after the first convolution; see `unet3d::attention`.
const FIRST_TRANSFORMER_HEADS: usize = 8;

/// A [`crate::models::UNet3DConditionModel`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct VideoLayers<'a> {
    pub config: &'a UNet3DConfig,
    /// Inner width of adapters beside the temporal layers; none where the network's own weights learn.
    pub temporal_rank: Option<usize>,
}

impl Layers for VideoLayers<'_> {
    fn channels(&self) -> &[usize] {
        &self.config.block_out_channels
    }

    fn layers_per_block(&self) -> usize {
        self.config.layers_per_block
    }

    fn latent_channels(&self) -> (usize, usize) {
        (self.config.in_channels, self.config.out_channels)
    }

    fn first(&self, p: usize) -> Cost {
        let c = self.config.block_out_channels[0];
        self.temporal(p, c, FIRST_TRANSFORMER_HEADS * self.config.head_dim)
    }

    fn layer(&self, place: Place, p: usize, (i, o): (usize, usize)) -> Cost {
        let config = self.config;
        let (kind, together) = match place {
            Place::Down(level) => (config.down_blocks[level], 0),
            Place::Up(level) => (
                config.up_blocks[config.block_out_channels.len() - 1 - level],
                p * i,
            ),
        };
        let mut cost = self.resnet(p, (i, o), 1.0);
        cost.kept += together;
        cost.forward += together;
        cost = cost.then(self.temporal_conv(p, o));
        if kind == BlockKind::CrossAttention {
            cost = cost.then(self.spatial(p, o)).then(self.temporal(p, o, o));
        }
        cost
    }

    fn middle(&self, p: usize, c: usize) -> Cost {
        let resnet = self.resnet(p, (c, c), self.config.mid_scale);
        let conv = self.temporal_conv(p, c);
        resnet
            .then(conv)
            .then(self.spatial(p, c))
            .then(self.temporal(p, c, c))
            .then(resnet)
            .then(conv)
    }

    /// The first weights of VMC that learn are those of the first level's temporal attention; adapters are everywhere.
    fn learns_late(&self, p: usize, c: usize) -> Option<usize> {
        let own = self.temporal_rank.is_none();
        own.then(|| self.temporal(p, c, c).kept)
    }
}

impl VideoLayers<'_> {
    /// One chain: what comes between its convolutions is kept, and the result.
    fn resnet(&self, p: usize, (i, o): (usize, usize), scale: f64) -> Cost {
        let scaled = if scale == 1.0 { 0 } else { p * o };
        Cost {
            kept: 2 * p * o + scaled,
            forward: p * i + 2 * p * o,
            backward: 3 * p * i + p * o,
        }
    }

    /// One chain of four stages.
    fn temporal_conv(&self, p: usize, c: usize) -> Cost {
        Cost {
            kept: 4 * p * c,
            forward: 3 * p * c,
            backward: 4 * p * c,
        }
    }

    /// Tokens in, a norm, queries, keys, values, attention, its projection; a norm, queries, attention, its projection; the
    /// wide half of the feed-forward, its result, and the tokens' way out.
    fn spatial(&self, p: usize, c: usize) -> Cost {
        Cost {
            kept: 21 * p * c,
            forward: 15 * p * c,
            backward: 14 * p * c,
        }
    }

    /// As [`Self::spatial`] with an inner width of its own and keys and values of the tokens in both attentions.
    fn temporal(&self, p: usize, c: usize, inner: usize) -> Cost {
        match self.temporal_rank {
            None => Cost {
                kept: 22 * p * inner + p * c,
                forward: 15 * p * inner + p * c,
                backward: 14 * p * inner + p * c,
            },
            // Layers with adapters are not part of a chain: norms, both halves of the feed-forward and sums are kept.
            Some(rank) => Cost {
                kept: 30 * p * inner + p * c + 10 * p * rank.min(inner),
                forward: 18 * p * inner + p * c,
                backward: 30 * p * inner + p * c,
            },
        }
    }
}
