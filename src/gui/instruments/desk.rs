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
        let most = (0..=bands.levels)
            .flat_map(|band| desk.cells(band))
            .fold(1e-12, |most: f64, value| most.max(value.abs()));
        desk.most_step = most;
        desk
    }

    /// What the mosaic shows of a band, in order of time: the mean square of the motion, or how much more of it the
    /// sample has than the reference.
    pub(super) fn cells(&self, band: usize) -> impl Iterator<Item = f64> + use<'a> {
        let of = |bands: &'a Bands| {
            bands
                .energies
                .over_time
                .get(band)
                .map_or(&[][..], Vec::as_slice)
        };
        let compared = self.sample.filter(|_| self.difference);
        let values = compared.map_or_else(|| of(self.shown), of);
        let less = compared.map(|_| of(self.bands));
        let count = less.map_or(values.len(), |less| less.len().min(values.len()));
        (0..count).map(move |at| values[at] - less.map_or(0.0, |less| less[at]))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::spectral::plain::Residual;
    use crate::video::Frame;
    use crate::viz::BandEnergies;

    fn bands(over_time: &[&[f64]]) -> Bands {
        Bands {
            serial: 0,
            residual: Residual::Signed,
            levels: over_time.len() - 1,
            energies: BandEnergies {
                over_time: over_time.iter().map(|band| band.to_vec()).collect(),
                maps: vec![Vec::new(); over_time.len()],
            },
            rms: Vec::new(),
        }
    }

    /// More motion than the reference is positive and red, less is negative and blue; the largest sets the scale.
    #[test]
    fn the_difference_in_time_is_sample_minus_reference() {
        let frames: Arc<[Frame]> = vec![Frame::filled(2, 2, [0; 3]); 3].into();
        let clip = ClipInput::new(1, frames, 8.0).expect("a clip");
        let view = View {
            frame: 0,
            delta: 1.0,
            cutoff: None,
            levels: None,
            residual: Residual::Signed,
            show_sample: false,
        };
        let reference = bands(&[&[1.0, 1.0], &[2.0]]);
        let sample = bands(&[&[1.5, 1.0], &[1.0]]);
        let desk = Desk::new(&clip, (&reference, Some(&sample)), &view, (None, true));
        let rows: Vec<Vec<f64>> = (0..2).map(|band| desk.cells(band).collect()).collect();
        assert_eq!(rows, [vec![0.5, 0.0], vec![-1.0]]);
        let (more, less) = (desk.ink(0.5), desk.ink(-1.0));
        assert!(more.r() > more.b(), "more is warm: {more:?}");
        assert!(less.b() > less.r(), "less is cold: {less:?}");
        assert_eq!(
            (desk.key().low, desk.key().high),
            ("-1.00".into(), "1.00".into())
        );

        // Without the choice, or without a sample, it is the clip's own motion.
        for (of_sample, wanted) in [(Some(&sample), false), (None, true)] {
            let desk = Desk::new(&clip, (&reference, of_sample), &view, (None, wanted));
            assert_eq!(desk.cells(1).collect::<Vec<_>>(), [2.0]);
            assert_eq!(desk.key().low, "0");
        }
    }
}
