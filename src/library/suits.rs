//! Whether this machine can train a model, told before it is downloaded.

use super::catalogue::{CONTROLNET, IMAGE_TEXT, IMAGE_UNET, Kind, Known, VAE};
use crate::models::{ModelKind, UNet3DConfig};
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
/// Numbers in the networks of an image model.
const IMAGE_NUMBERS: u64 = IMAGE_UNET + IMAGE_TEXT + VAE;

/// Whether a training fits into the memory of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suits {
    /// Bytes the training takes on the processor.
    pub needed_bytes: u64,
    /// Whether that is all of it; of an image model only the least is known.
    pub is_whole: bool,
    /// Bytes that are free now, where the system says so.
    pub free_bytes: Option<u64>,
    /// Frames, width and height it was computed for.
    pub clip: (usize, u32, u32),
    /// What would fit where this does not.
    pub instead: Option<String>,
}

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
        let network = match known.kind {
            Kind::Model(ModelKind::Video) => video_network(),
            _ => None,
        };
        let Some(network) = network else {
            let numbers = match known.kind {
                Kind::ControlNet => IMAGE_NUMBERS + CONTROLNET,
                Kind::Model(_) => IMAGE_NUMBERS,
            };
            return Self {
                needed_bytes: numbers * 4,
                is_whole: false,
                free_bytes,
                clip,
                instead: None,
            };
        };
        let need = |choice: Fitting| {
            let settings = TransferConfig {
                checkpointing: choice.checkpointing,
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
            is_whole: true,
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
        let most = if self.is_whole { "about" } else { "at least" };
        let mut text = format!(
            "Training {frames} frames of {width}×{height} on the processor takes {most} {} of memory",
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
    fn of_an_image_model_the_least_is_told() {
        let settings = TransferConfig::default();
        let alone = Suits::within(known("sd15"), &settings, Some(1 << 40));
        let led = Suits::within(known("controlnet-canny"), &settings, Some(1 << 40));
        assert!(alone.text().contains("at least 4.3 GB"), "{}", alone.text());
        assert_eq!(led.needed_bytes - alone.needed_bytes, 4 * 361_279_120);
    }

    #[test]
    fn sizes_are_told_as_people_say_them() {
        assert_eq!(gigabytes(1), "1 KB");
        assert_eq!(gigabytes(1_234_000), "1 MB");
        assert_eq!(gigabytes(3_670_551_126), "3.7 GB");
    }
}
