//! The pictures of `inspect`.

use std::path::Path;

use anyhow::Context as _;

use super::numbers::{SpectrumReport, shifted_amplitude};
use super::{InspectOptions, Parts, PictureReport};
use crate::motion::Flow;
use crate::motion::picture::{
    Curve, GROUND, Range, colour::Map, colour_bar, contact_sheet, flow_key, from_flow, from_plane,
    on_canvas, plot,
};
use crate::spectral::plain::{Fft2, fftshift, frequency_weight, phase};
use crate::video::Frame;

/// Cells on a contact sheet: more motion vectors than this are shown evenly thinned.
const MOST_CELLS: usize = 24;
const COLUMNS: usize = 4;
const KEY_WIDTH: usize = 160;
/// Width of the band mosaic, about, in pixels.
const MOSAIC_WIDTH: usize = 1600;
const PROFILE_COLOUR: [u8; 3] = [120, 190, 255];
const WEIGHT_COLOUR: [u8; 3] = [255, 190, 90];
const CUTOFF_COLOUR: [u8; 3] = [230, 90, 90];

/// Where the pictures go, and what is known of those already there.
struct Album<'a> {
    folder: &'a Path,
    pictures: Vec<PictureReport>,
}

impl Album<'_> {
    fn add(&mut self, picture: &Frame, report: PictureReport) -> anyhow::Result<()> {
        let path = self.folder.join(&report.file);
        let (width, height) = (picture.width, picture.height);
        image::save_buffer(
            &path,
            &picture.rgb,
            width,
            height,
            image::ExtendedColorType::Rgb8,
        )
        .with_context(|| format!("'{}' cannot be written", path.display()))?;
        self.pictures.push(report);
        Ok(())
    }
}

/// Write every picture; what they show goes into the report.
pub(super) fn write(
    parts: &Parts,
    spectrum: &SpectrumReport,
    opts: &InspectOptions,
    folder: &Path,
) -> anyhow::Result<Vec<PictureReport>> {
    let mut album = Album {
        folder,
        pictures: Vec::new(),
    };
    residual_sheets(parts, &mut album)?;
    flow_sheet(parts, &mut album)?;
    spectrum_sheets(parts, opts, &mut album)?;
    radial_plot(spectrum, opts, &mut album)?;
    band_pictures(parts, &mut album)?;
    Ok(album.pictures)
}

/// At most [`MOST_CELLS`] of the items, evenly spread, the first and last among them.
fn thinned<T>(items: &[T]) -> Vec<&T> {
    let count = items.len().min(MOST_CELLS);
    let at = |i: usize| i * (items.len() - 1) / (count - 1).max(1);
    (0..count).map(|i| &items[at(i)]).collect()
}

fn sheet_of(planes: &[&Vec<f32>], width: usize, map: Map, range: Range) -> Frame {
    let cells: Vec<Frame> = planes
        .iter()
        .map(|p| from_plane(p, width, map, range))
        .collect();
    contact_sheet(&cells, COLUMNS, Some(&colour_bar(map, KEY_WIDTH)))
}

fn linear(file: &str, shows: &str, range: Range, unit: &'static str) -> PictureReport {
    PictureReport {
        file: file.to_owned(),
        shows: shows.to_owned(),
        low: range.low,
        high: range.high,
        unit,
        scale: "linear",
    }
}

fn residual_sheets(parts: &Parts, album: &mut Album<'_>) -> anyhow::Result<()> {
    let range = Range::balanced(&parts.signed);
    album.add(
        &sheet_of(&thinned(&parts.signed), parts.width, Map::Diverging, range),
        linear(
            "residual-signed.png",
            "Signed motion vectors in reading order: blue got darker, orange got brighter",
            range,
            "brightness, 0 to 1",
        ),
    )?;
    let range = Range::from_zero(&parts.absolute);
    album.add(
        &sheet_of(
            &thinned(&parts.absolute),
            parts.width,
            Map::Magnitude,
            range,
        ),
        linear(
            "residual-abs.png",
            "Absolute motion vectors in reading order: how much each pixel changed",
            range,
            "brightness, 0 to 1",
        ),
    )
}

fn flow_sheet(parts: &Parts, album: &mut Album<'_>) -> anyhow::Result<()> {
    let speeds: Vec<Vec<f32>> = parts.flows.iter().map(Flow::speed).collect();
    // Below a quarter pixel the estimate is noise; it must not fill the wheel.
    let range = Range {
        low: 0.0,
        high: Range::from_zero(&speeds).high.max(0.25),
    };
    let cells: Vec<Frame> = thinned(&parts.flows)
        .into_iter()
        .map(|flow| from_flow(flow, range.high))
        .collect();
    album.add(
        &contact_sheet(&cells, COLUMNS, Some(&flow_key(72))),
        linear(
            "flow.png",
            "Optical flow in reading order: the wheel's rim shows the colour of each direction at full speed",
            range,
            "compared pixels per frame",
        ),
    )
}

fn spectrum_sheets(
    parts: &Parts,
    opts: &InspectOptions,
    album: &mut Album<'_>,
) -> anyhow::Result<()> {
    let (h, w) = (parts.height, parts.width);
    let fft = Fft2::new(h, w);
    let weight = frequency_weight(h, w, opts.delta, 1.0, opts.cutoff, false);
    let shown = thinned(parts.motion());
    let plain: Vec<Vec<f32>> = shown
        .iter()
        .map(|p| shifted_amplitude(p, parts, &fft))
        .collect();
    let weighted: Vec<Vec<f32>> = plain
        .iter()
        .map(|plane| {
            plane
                .iter()
                .zip(&weight)
                .map(|(a, w)| a * *w as f32)
                .collect()
        })
        .collect();
    for (file, shows, planes) in [
        (
            "amplitude.png",
            "Fourier amplitude of each motion vector, zero frequency in the middle",
            plain,
        ),
        (
            "amplitude-weighted.png",
            "The same times the local loss's weight: what the loss sees",
            weighted,
        ),
    ] {
        let logs: Vec<Vec<f32>> = planes
            .iter()
            .map(|plane| plane.iter().map(|a| a.ln_1p()).collect())
            .collect();
        let range = Range::from_zero(&logs);
        let picture = sheet_of(&logs.iter().collect::<Vec<_>>(), w, Map::Magnitude, range);
        let report = linear(file, shows, range, "ln(1 + |F|)");
        album.add(
            &picture,
            PictureReport {
                scale: "log",
                ..report
            },
        )?;
    }
    let phases: Vec<Vec<f32>> = shown
        .iter()
        .map(|plane| fftshift(&phase(&fft.forward(plane), h, w), h, w))
        .collect();
    let range = Range::phase();
    let picture = sheet_of(&phases.iter().collect::<Vec<_>>(), w, Map::Cyclic, range);
    let shows = "Fourier phase of each motion vector, zero frequency in the middle";
    let report = linear("phase.png", shows, range, "radians");
    album.add(
        &picture,
        PictureReport {
            scale: "angle",
            ..report
        },
    )
}

fn radial_plot(
    spectrum: &SpectrumReport,
    opts: &InspectOptions,
    album: &mut Album<'_>,
) -> anyhow::Result<()> {
    let radii = &spectrum.cycles_per_pixel;
    let amplitude: Vec<f64> = spectrum.mean_amplitude.iter().map(|a| a.ln_1p()).collect();
    let highest = amplitude
        .iter()
        .copied()
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let heaviest = spectrum.weight.iter().copied().fold(1.0, f64::max);
    let points = |values: &[f64]| radii.iter().copied().zip(values.iter().copied()).collect();
    let curves = [
        Curve {
            points: points(&amplitude),
            range: (0.0, highest),
            colour: PROFILE_COLOUR,
        },
        Curve {
            points: points(&spectrum.weight),
            range: (0.0, heaviest),
            colour: WEIGHT_COLOUR,
        },
    ];
    let end = radii.last().copied().unwrap_or(0.5).max(0.1);
    let marks: Vec<(f64, [u8; 3])> = opts
        .cutoff
        .filter(|c| *c <= end)
        .map(|c| (c, CUTOFF_COLOUR))
        .into_iter()
        .collect();
    let picture = plot((640, 320), (0.0, end), 0.1, &curves, &marks);
    let shows = format!(
        "Blue: mean amplitude against frequency, a grid line every 0.1 cycles per pixel. \
         Orange: the local loss's weight w, from 0 to {heaviest:.3}. Red: the cutoff, if any"
    );
    let range = Range {
        low: 0.0,
        high: highest,
    };
    let report = linear("radial.png", &shows, range, "ln(1 + mean |F|)");
    album.add(
        &picture,
        PictureReport {
            scale: "log",
            ..report
        },
    )
}

/// The bands over time as a mosaic, and where each band's energy lies in the picture.
fn band_pictures(parts: &Parts, album: &mut Album<'_>) -> anyhow::Result<()> {
    let positions = parts.bands.positions;
    let rows: Vec<&Vec<f32>> = std::iter::once(&parts.bands.low)
        .chain(&parts.bands.highs)
        .collect();
    let range = Range::balanced(rows.iter().copied());
    let levels = parts.bands.highs.len();
    // A column is what the finest coefficient spans: two motion vectors, one where there are no levels.
    let column = 1 << levels.min(1);
    let columns = parts.signed.len().div_ceil(column);
    let thin = (parts.width * columns).div_ceil(MOSAIC_WIDTH).max(1);
    let cell_width = parts.width.div_ceil(thin) + 2;
    let cell_height = parts.height.div_ceil(thin) + 2;
    let size = (columns * cell_width, rows.len() * cell_height);
    let mut mosaic = Frame::filled(size.0 as u32, size.1 as u32, GROUND);
    for (row, band) in rows.iter().enumerate() {
        // A coefficient of level j starts 2^j motion vectors after the one before it.
        let span = (1 << if row == 0 { levels } else { row }) / column;
        for (k, plane) in band.chunks_exact(positions).enumerate() {
            let cell = from_plane(plane, parts.width, Map::Diverging, range);
            let (x, y) = (k * span * cell_width, row * cell_height);
            on_canvas(&mut mosaic, &decimated(&cell, thin), x, y);
        }
    }
    let shows = "Wavelet bands of motion in time: rows A (slowest), D1 (fastest) to the coarsest D; \
                 time runs to the right, a coefficient stands where its span begins";
    album.add(
        &contact_sheet(&[mosaic], 1, Some(&colour_bar(Map::Diverging, KEY_WIDTH))),
        linear("bands.png", shows, range, "brightness"),
    )?;
    let maps: Vec<Vec<f32>> = (0..rows.len())
        .filter_map(|band| parts.bands.energy_map(band))
        .map(|map| map.iter().map(|e| e.sqrt() as f32).collect())
        .collect();
    let range = Range::from_zero(&maps);
    let shows =
        "Root mean square of each band at each pixel, in the order A, D1 (fastest), .. coarsest D";
    album.add(
        &sheet_of(
            &maps.iter().collect::<Vec<_>>(),
            parts.width,
            Map::Magnitude,
            range,
        ),
        linear("band-energy.png", shows, range, "brightness"),
    )
}

/// Every `step`-th pixel and row.
fn decimated(picture: &Frame, step: usize) -> Frame {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let rgb = (0..height)
        .step_by(step)
        .flat_map(|y| (0..width).step_by(step).map(move |x| (x, y)))
        .flat_map(|(x, y)| picture.pixel(x as u32, y as u32))
        .collect();
    Frame {
        width: width.div_ceil(step) as u32,
        height: height.div_ceil(step) as u32,
        rgb,
    }
}
