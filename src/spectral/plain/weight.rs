//! The low-frequency weight of SMA's local loss, and a true cutoff beside it.

/// Distance from the zero frequency, in cycles per pixel, of bin `(r, c)` of a shifted `[h, w]` spectrum.
///
/// `sqrt(((r - floor(h/2)) / h)^2 + ((c - floor(w/2)) / w)^2)`: 0 at the centre, 0.5 at the end of an axis, at most
/// `sqrt(0.5)` in a corner. It is the same for every clip size, unlike the pixel radius inside the weight itself.
pub fn frequency_radius(r: usize, c: usize, h: usize, w: usize) -> f64 {
    let y = (r as f64 - (h / 2) as f64) / h as f64;
    let x = (c as f64 - (w / 2) as f64) / w as f64;
    y.hypot(x)
}

/// `w(r, c) = ((h/2)^2 + (w/2)^2)^delta - ((r - h/2)^2 + (c - w/2)^2)^delta + base` on a shifted `[h, w]` spectrum.
///
/// `delta` (paper: 0.05) is an exponent that lifts low frequencies, not a cutoff; `base` (paper: 1) is the weight of the
/// farthest corner. `cutoff`, in cycles per pixel, sets every weight beyond that [`frequency_radius`] to zero; `None` is
/// the paper. `zero_border` sets row 0 and column 0 to zero, as the paper prints and its code does not.
///
/// For odd sizes the weight's centre `h/2` lies half a pixel off the zero frequency; the published code's formula is kept.
///
/// Source: SMA section 4.2, spec sma.md 3.2.
pub fn frequency_weight(
    h: usize,
    w: usize,
    delta: f64,
    base: f64,
    cutoff: Option<f64>,
    zero_border: bool,
) -> Vec<f64> {
    let (cy, cx) = (h as f64 / 2.0, w as f64 / 2.0);
    let far = (cy * cy + cx * cx).powf(delta);
    let mut weights = Vec::with_capacity(h * w);
    for r in 0..h {
        for c in 0..w {
            let (dy, dx) = (r as f64 - cy, c as f64 - cx);
            let on_border = zero_border && (r == 0 || c == 0);
            let beyond = cutoff.is_some_and(|cutoff| frequency_radius(r, c, h, w) > cutoff);
            weights.push(if on_border || beyond {
                0.0
            } else {
                far - (dy * dy + dx * dx).powf(delta) + base
            });
        }
    }
    weights
}

/// The weight's curve for drawing: its value at `radius` cycles per pixel along the direction of the rows.
///
/// For even `h` it passes through [`frequency_weight`] at row `h/2 + radius * h` of the centre column.
pub fn weight_at_radius(
    radius: f64,
    (h, w): (usize, usize),
    delta: f64,
    base: f64,
    cutoff: Option<f64>,
) -> f64 {
    if cutoff.is_some_and(|cutoff| radius > cutoff) {
        return 0.0;
    }
    let (cy, cx) = (h as f64 / 2.0, w as f64 / 2.0);
    (cy * cy + cx * cx).powf(delta) - (radius * h as f64).powi(2).powf(delta) + base
}
