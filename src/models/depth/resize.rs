//! Resizing of feature maps as `torch.nn.functional.interpolate` does it: a product with a matrix of weights along each axis.

use candle_core::{DType, Result, Tensor};

/// Which places of two grids lie on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Corners {
    /// The centres of the corner pixels (`align_corners=True`).
    Together,
    /// The corners of the corner pixels (`align_corners=False`).
    Apart,
}

/// Keys' cubic with a = -0.75, as in torch.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    let x = x.abs();
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * A - 4.0 * A
    } else {
        0.0
    }
}

/// Where a place of the new axis lies on the old one.
fn place(i: usize, (from, to): (usize, usize), corners: Corners) -> f64 {
    match corners {
        Corners::Together if to > 1 => i as f64 * (from - 1) as f64 / (to - 1) as f64,
        Corners::Together => 0.0,
        Corners::Apart => (i as f64 + 0.5) * from as f64 / to as f64 - 0.5,
    }
}

/// A matrix `[to, from]` whose rows add weighted places; places beyond the ends are those at the ends.
fn matrix(
    (from, to): (usize, usize),
    taps: std::ops::Range<i64>,
    at: impl Fn(usize) -> f64,
    weight: impl Fn(f64) -> f64,
) -> Vec<f64> {
    let mut rows = vec![0.0; to * from];
    for (i, row) in rows.chunks_exact_mut(from).enumerate() {
        let place = at(i);
        let first = place.floor();
        for tap in taps.clone() {
            let index = (first as i64 + tap).clamp(0, from as i64 - 1) as usize;
            row[index] += weight(place - first - tap as f64);
        }
    }
    rows
}

/// `[n, h, w, c]` with both axes multiplied by their matrices.
fn both(
    x: &Tensor,
    (h2, w2): (usize, usize),
    weights: impl Fn((usize, usize)) -> Vec<f64>,
) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let matrix = |from: usize, to: usize| {
        let rows = weights((from, to));
        Tensor::from_vec(rows, (to, from), &candle_core::Device::Cpu)?
            .to_dtype(DType::F32)?
            .to_device(x.device())
    };
    let down = x.reshape((n, h, w * c))?;
    let down = matrix(h, h2)?.unsqueeze(0)?.broadcast_matmul(&down)?;
    let across = down.reshape((n * h2, w, c))?;
    let across = matrix(w, w2)?.unsqueeze(0)?.broadcast_matmul(&across)?;
    across.reshape((n, h2, w2, c))
}

/// Linear interpolation of `[n, h, w, c]`.
pub(super) fn bilinear(x: &Tensor, size: (usize, usize), corners: Corners) -> Result<Tensor> {
    both(x, size, |axis| {
        // torch takes places before the first one as the first one.
        let at = |i: usize| place(i, axis, corners).max(0.0);
        matrix(axis, 0..2, at, |distance| (1.0 - distance.abs()).max(0.0))
    })
}

/// Cubic interpolation of `[n, h, w, c]`, corners apart.
pub(super) fn bicubic(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    both(x, size, |axis| {
        matrix(axis, -1..3, |i| place(i, axis, Corners::Apart), cubic)
    })
}
