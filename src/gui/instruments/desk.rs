//! What the rows of the wavelet bands draw from, worked out once a frame.

use eframe::egui::Color32;

use super::View;
use super::chrome::{Bar, colour, figures};
use super::results::{Bands, ClipInput};
use crate::motion::picture::colour::Map;

/// What every row draws from.
pub(super) struct Desk<'a> {
    pub(super) clip: &'a ClipInput,
    pub(super) bands: &'a Bands,
    /// What mosaic and map show: the reference, or the sample while it is compared.
    pub(super) shown: &'a Bands,
    pub(super) sample: Option<&'a Bands>,
    /// Whether the mosaic shows sample minus reference.
    pub(super) difference: bool,
    /// Largest value of the mosaic's cells, and energy of a band.
    most_step: f64,
    pub(super) most_band: f64,
    pub(super) frame: usize,
    pub(super) chosen: usize,
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        clip: &'a ClipInput,
        (bands, sample): (&'a Bands, Option<&'a Bands>),
        view: &View,
        (chosen, difference): (Option<usize>, bool),
    ) -> Self {
        let bands_of = |b: &Bands| {
            (0..=b.levels)
                .map(|i| b.energies.energy(i))
                .collect::<Vec<_>>()
        };
        let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let energies = bands_of(bands);
        let strongest = (0..energies.len()).max_by(|a, b| energies[*a].total_cmp(&energies[*b]));
        let chosen = chosen.filter(|b| *b < energies.len()).or(strongest);
        let of_sample = sample.map_or(0.0, |s| largest(&bands_of(s)));
        let shown = sample.filter(|_| view.show_sample).unwrap_or(bands);
        let mut desk = Self {
            clip,
            bands,
            shown,
            sample,
            difference: difference && sample.is_some(),
            most_step: 0.0,
            most_band: largest(&energies).max(of_sample).max(1e-12),
            frame: view.frame,
            chosen: chosen.unwrap_or(0),
        };
        let cells = (0..=bands.levels).flat_map(|band| desk.cells(band));
        desk.most_step = cells.fold(1e-12, |most, value| most.max(value.abs()));
        desk
    }

    /// What the mosaic shows of a band, in order of time: the mean square of the motion, or how much more of it the
    /// sample has than the reference.
    pub(super) fn cells(&self, band: usize) -> Vec<f64> {
        let of = |bands: &Bands| bands.energies.over_time.get(band).cloned();
        match self.sample.filter(|_| self.difference) {
            Some(sample) => {
                let pair = of(sample).unwrap_or_default().into_iter();
                let pair = pair.zip(of(self.bands).unwrap_or_default());
                pair.map(|(sample, reference)| sample - reference).collect()
            }
            None => of(self.shown).unwrap_or_default(),
        }
    }

    /// The colour of a cell.
    pub(super) fn ink(&self, value: f64) -> Color32 {
        let strength = (value.abs() / self.most_step).sqrt();
        colour(if self.difference {
            Map::Diverging.colour(0.5 + 0.5 * strength * value.signum())
        } else {
            Map::Magnitude.colour(strength)
        })
    }

    /// What the colours of the mosaic mean.
    pub(super) fn key(&self) -> Bar<'static> {
        let high = figures(self.most_step);
        if self.difference {
            return Bar {
                map: Map::Diverging,
                low: format!("-{high}"),
                high,
                title: "sample minus reference, square-root scale",
            };
        }
        Bar {
            map: Map::Magnitude,
            low: "0".into(),
            high,
            title: "energy over time, square-root scale",
        }
    }
}
