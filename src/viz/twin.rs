//! The draw shaders on the processor: for adapters without compute shaders, and for the tests.
//!
//! Pixels are RGBA, 8 bits, premultiplied alpha, as egui's textures.

use super::mirror::{Paint, Weighting};
use crate::motion::picture::colour::{Map, of_motion};
use crate::spectral::plain::{frequency_radius, frequency_weight};

/// Brightness that a veil leaves where the weight is least. Twin: `DIMMEST` of `draw/spectrum.wgsl`.
const DIMMEST: f64 = 0.55;
/// Brightness beyond the cutoff. Twin: `BEYOND` of `draw/spectrum.wgsl`.
const BEYOND: f64 = 0.15;

/// How much of the picture below a value hides, 0..=1. Twin: `cover` of `common/colour.wgsl`.
pub fn cover(value: f32, paint: &Paint) -> f64 {
    let strongest = paint.low.abs().max(paint.high.abs());
    faded(f64::from(value.abs() / strongest), paint)
}

fn faded(strength: f64, paint: &Paint) -> f64 {
    let t = ((strength - 0.03) / 0.32).clamp(0.0, 1.0);
    let smooth = t * t * (3.0 - 2.0 * t);
    1.0 + (smooth - 1.0) * f64::from(paint.fade)
}

fn shaded(colour: [u8; 3], light: f64, alpha: f64) -> [u8; 4] {
    let [r, g, b] = colour.map(|v| (f64::from(v) * light * alpha).round() as u8);
    [r, g, b, (255.0 * alpha).round() as u8]
}

fn table_colour(table: &[[u8; 3]], value: f32, paint: &Paint) -> [u8; 3] {
    let t = ((value - paint.low) / (paint.high - paint.low)).clamp(0.0, 1.0);
    let place = if t.is_nan() {
        0
    } else {
        (t * 255.0 + 0.5).floor() as usize
    };
    table.get(place).copied().unwrap_or_default()
}

/// `draw/plane.wgsl`
pub fn plane(values: &[f32], map: Map, paint: &Paint) -> Vec<u8> {
    let table = map.table();
    let pixel = |&value: &f32| shaded(table_colour(&table, value, paint), 1.0, cover(value, paint));
    values.iter().flat_map(pixel).collect()
}

/// `draw/spectrum.wgsl`
pub fn spectrum(values: &[f32], map: Map, paint: &Paint, weighting: &Weighting) -> Vec<u8> {
    let table = map.table();
    let (h, w) = (paint.h as usize, paint.w as usize);
    let cutoff = (weighting.cutoff >= 0.0).then(|| f64::from(weighting.cutoff));
    let (delta, base) = (f64::from(weighting.delta), f64::from(weighting.base));
    let weights = frequency_weight(h, w, delta, base, None, weighting.zero_border == 1);
    let (cy, cx) = (h as f64 / 2.0, w as f64 / 2.0);
    let most = ((cy * cy + cx * cx).powf(delta) - 1.0).max(1e-6);
    let pixel = |(i, (&value, &weight)): (usize, (&f32, &f64))| {
        let beyond = cutoff.is_some_and(|c| frequency_radius(i / w, i % w, h, w) > c);
        let light = if beyond {
            BEYOND
        } else {
            DIMMEST + (1.0 - DIMMEST) * ((weight - base) / most).clamp(0.0, 1.0)
        };
        let light = 1.0 + (light - 1.0) * f64::from(paint.veil);
        shaded(table_colour(&table, value, paint), light, 1.0)
    };
    values
        .iter()
        .zip(&weights)
        .enumerate()
        .flat_map(pixel)
        .collect()
}

/// `draw/flow.wgsl`, without the steps of its table.
pub fn flow(motion: &[[f32; 2]], paint: &Paint) -> Vec<u8> {
    let full = f64::from(paint.full);
    let pixel = |&[dx, dy]: &[f32; 2]| {
        let (dx, dy) = (f64::from(dx) / full, f64::from(dy) / full);
        let alpha = faded(dx.hypot(dy).min(1.0), paint);
        shaded(of_motion(dx, dy), 1.0, alpha)
    };
    motion.iter().flat_map(pixel).collect()
}
