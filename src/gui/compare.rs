//! Reference and sample against each other: which sample, and how the two are laid over each other.

use eframe::egui::TextureHandle;

use crate::video::Frame;

/// How the result pane shows the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The sample alone.
    #[default]
    Sample,
    /// Reference on the left of a line, sample on the right.
    Wipe,
    /// How far apart the two are.
    Difference,
    /// The two by turns.
    Blink,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sample, Self::Wipe, Self::Difference, Self::Blink];

    /// Its name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Sample => "Result",
            Self::Wipe => "Wipe",
            Self::Difference => "Difference",
            Self::Blink => "Blink",
        }
    }

    /// What it is good for.
    #[must_use]
    pub fn tooltip(self) -> &'static str {
        match self {
            Self::Sample => "The sample alone.",
            Self::Wipe => "Reference left of the line, sample right of it. Drag the line.",
            Self::Difference => {
                "How far reference and sample are apart, each colour channel for itself."
            }
            Self::Blink => "Reference and sample by turns, twice a second.",
        }
    }
}

/// State of the comparison.
#[derive(Default)]
pub struct Compare {
    /// Run and sample by number; none is the newest sample.
    pub chosen: Option<(usize, usize)>,
    /// How.
    pub mode: Mode,
    /// Where the wipe's line stands, 0 to 1.
    pub wipe: f32,
    /// Whether the key for flipping is held.
    pub flipped: bool,
    /// What the textures show, so that they are uploaded once a frame of the film.
    pub(super) shown: Option<Shown>,
    pub(super) sample_texture: Option<TextureHandle>,
    pub(super) reference_texture: Option<TextureHandle>,
}

/// What is in the textures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) frame: usize,
    pub(super) mode: Mode,
}

impl Compare {
    /// Chooses a sample; none follows the newest.
    pub fn choose(&mut self, chosen: Option<(usize, usize)>) {
        self.chosen = chosen;
        if self.wipe <= 0.0 {
            self.wipe = 0.5;
        }
        self.renew();
    }

    /// The runs have moved: says where the one of a place is now; none is gone.
    pub fn moved(&mut self, to: impl Fn(usize) -> Option<usize>) {
        self.chosen = self
            .chosen
            .and_then(|(run, sample)| Some((to(run)?, sample)));
    }

    /// The sample is another one.
    pub fn renew(&mut self) {
        self.shown = None;
    }
}

/// The distance of two pictures, channel by channel; the first one is brought to the second one's size by its nearest
/// pixels.
#[must_use]
pub fn difference(reference: &Frame, sample: &Frame) -> Frame {
    let mut out = sample.clone();
    let (width, height) = (sample.width.max(1), sample.height.max(1));
    for y in 0..sample.height {
        for x in 0..sample.width {
            let from = reference.pixel(x * reference.width / width, y * reference.height / height);
            let at = (y as usize * sample.width as usize + x as usize) * 3;
            if let Some(pixel) = out.rgb.get_mut(at..at + 3) {
                for (value, from) in pixel.iter_mut().zip(from) {
                    *value = value.abs_diff(from);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pictures_have_no_difference_at_any_size() {
        let large = Frame::filled(4, 4, [10, 200, 30]);
        let small = Frame::filled(2, 2, [10, 190, 35]);
        assert_eq!(difference(&large, &small).pixel(1, 1), [0, 10, 5]);
        assert_eq!(difference(&large, &large).rgb, vec![0; 48]);
    }
}
