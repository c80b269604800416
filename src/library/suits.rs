//! Whether this machine can train a model, told before it is downloaded.

use super::catalogue::{Kind, Known};
use crate::methods::Method;
use crate::models::{ControlNetConfig, ImageUNetConfig, ModelKind, UNet3DConfig};
use crate::train::TransferConfig;
use crate::train::memory::{Fitting, Network, available_bytes, fitting};

/// Pixels of a side that become one position of the latents, for every model of the catalogue.
const FACTOR: usize = 8;
/// `unet/config.json` of ModelScope and ZeroScope, as far as it differs from the defaults.
const VIDEO_UNET: &str = r#"{
    "attention_head_dim": 64, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"]
}"#;
/// `unet/config.json` of Stable Diffusion 1.x; its ControlNets' is the same and ends after the middle.
const IMAGE_UNET: &str = r#"{
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
}"#;

/// Whether a training fits into the memory of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suits {
    /// Bytes the training takes on the processor.
    pub needed_bytes: u64,
    /// Bytes that are free now, where the system says so.
    pub free_bytes: Option<u64>,
    /// Frames, width and height it was computed for.
    pub clip: (usize, u32, u32),
    /// What would fit where this does not.
    pub instead: Option<String>,
}

/// What an estimator of depth takes for a picture of 518 pixels a side: measured, with the network, 0.7 GB.
const DEPTH_BYTES: u64 = 1 << 30;

impl Suits {
    /// For a training of the model with these settings; frames and size the settings leave open are the model's own.
    #[must_use]
    pub fn of(known: &Known, settings: &TransferConfig) -> Self {
        Self::within(known, settings, available_bytes())
    }

    /// As [`Self::of`] on a machine with so much free memory.
    #[must_use]
    pub fn within(known: &Known, settings: &TransferConfig, free_bytes: Option<u64>) -> Self {
        let (width, height) = settings.size.unwrap_or(known.size);
        let frames = settings.frames.unwrap_or(known.frames);
        let clip = (frames, width, height);
        let side = |pixels: u32| pixels as usize / FACTOR;
        let (network, method) = match known.kind {
            Kind::Model(ModelKind::Video) => (video_network(), Method::Vmc),
            Kind::Model(ModelKind::Image) => (image_network(), Method::TuneAVideo),
            Kind::ControlNet => (image_network(), Method::ControlVideo),
            Kind::Depth => {
                return Self {
                    needed_bytes: DEPTH_BYTES,
                    free_bytes,
                    clip: (1, width, height),
                    instead: None,
                };
            }
        };
        // The configurations above describe networks; a test says so.
        let Some(network) = network else {
            return Self {
                needed_bytes: 0,
                free_bytes,
                clip,
                instead: None,
            };
        };
        let method = match settings.method.model_kind() == method.model_kind() {
            true if known.kind != Kind::ControlNet => settings.method,
            _ => method,
        };
        let need = |choice: Fitting| {
            let settings = TransferConfig {
                checkpointing: choice.checkpointing,
                method,
                ..settings.clone()
            };
            let latents = [choice.frames, side(height), side(width)];
            network.need(&settings, latents).bytes()
        };
        let asked = Fitting {
            checkpointing: settings.checkpointing,
            frames,
        };
        let needed_bytes = need(asked);
        let too_much = free_bytes.filter(|free| *free < needed_bytes);
        let instead = too_much.map(|free| match fitting(free, asked, need) {
            Some(choice) => format!(
                "It fits with {} frames that are computed in parts (checkpointing).",
                choice.frames
            ),
            None => "A smaller size may fit.".to_owned(),
        });
        Self {
            needed_bytes,
            free_bytes,
            clip,
            instead,
        }
    }

    /// Whether it fits; a machine that does not say how much is free gets the benefit of the doubt.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.free_bytes.is_none_or(|free| free >= self.needed_bytes)
    }

    /// All of it in a sentence or two.
    #[must_use]
    pub fn text(&self) -> String {
        let (frames, width, height) = self.clip;
        let work = match frames {
            1 => "Looking at a clip frame by frame".to_owned(),
            _ => format!("Training {frames} frames of {width}×{height}"),
        };
        let mut text = format!(
            "{work} on the processor takes about {} of memory",
            gigabytes(self.needed_bytes)
        );
        match self.free_bytes {
            Some(free) => text.push_str(&format!("; {} are free here.", gigabytes(free))),
            None => text.push('.'),
        }
        if !self.fits() {
            text.push_str(" This does not fit.");
            if let Some(instead) = &self.instead {
                text.push(' ');
                text.push_str(instead);
            }
        }
        text
    }
}

fn video_network() -> Option<Network> {
    let config = UNet3DConfig::from_json(VIDEO_UNET).ok()?;
    Network::new(&config).ok()
}

fn image_network() -> Option<Network> {
    let unet = ImageUNetConfig::from_json(IMAGE_UNET).ok()?;
    let controlnet = ControlNetConfig::from_json(IMAGE_UNET).ok()?;
    Network::image(&unet, Some(&controlnet)).ok()
}

/// Bytes in words: `3.7 GB`, `14 MB`, `2 KB`.
#[must_use]
pub fn gigabytes(bytes: u64) -> String {
    const UNIT: f64 = 1000.0;
    let bytes = bytes as f64;
    match bytes {
        small if small < UNIT * UNIT => format!("{:.0} KB", (small / UNIT).ceil()),
        middle if middle < UNIT * UNIT * UNIT => format!("{:.0} MB", middle / UNIT / UNIT),
        large => format!("{:.1} GB", large / UNIT / UNIT / UNIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> &'static Known {
        Known::find(name).unwrap()
    }

    #[test]
    fn a_machine_that_is_too_small_is_told_before_the_download() {
        let settings = TransferConfig::default();
        let zeroscope = known("zeroscope");
        let large = Suits::within(zeroscope, &settings, Some(1 << 40));
        // 1.4 billion numbers of four bytes are loaded, and the pass needs more than that.
        assert!(large.fits() && large.needed_bytes > 4 * 1_411_233_860);
        assert_eq!(large.clip, (16, 576, 320));
        assert!(!large.text().contains("not fit"), "{}", large.text());

        let tight = Suits::within(zeroscope, &settings, Some(large.needed_bytes - 1));
        assert!(
            !tight.fits() && tight.text().contains("It fits with"),
            "{}",
            tight.text()
        );
        let small = Suits::within(zeroscope, &settings, Some(1 << 30));
        assert!(
            small.text().contains("A smaller size may fit"),
            "{}",
            small.text()
        );

        let shorter = TransferConfig {
            frames: Some(4),
            size: Some((256, 256)),
            ..settings.clone()
        };
        let less = Suits::within(zeroscope, &shorter, None);
        assert!(less.fits() && less.needed_bytes < large.needed_bytes);
        assert!(
            less.text().contains("4 frames of 256×256"),
            "{}",
            less.text()
        );
    }

    #[test]
    fn an_image_model_takes_more_with_a_controlnet() {
        let settings = TransferConfig::default();
        let alone = Suits::within(known("sd15"), &settings, Some(1 << 40));
        let led = Suits::within(known("controlnet-canny"), &settings, Some(1 << 40));
        // Their numbers, of four bytes, are loaded whatever the clip.
        assert!(alone.needed_bytes > 4 * 859_520_964);
        assert!(led.needed_bytes > 4 * (859_520_964 + 361_279_120));
        let block = TransferConfig {
            checkpointing: crate::train::Checkpointing::Block,
            ..settings
        };
        let less = Suits::within(known("sd15"), &block, None);
        assert!(less.needed_bytes < alone.needed_bytes);
    }

    #[test]
    fn sizes_are_told_as_people_say_them() {
        assert_eq!(gigabytes(1), "1 KB");
        assert_eq!(gigabytes(1_234_000), "1 MB");
        assert_eq!(gigabytes(3_670_551_126), "3.7 GB");
    }
}
