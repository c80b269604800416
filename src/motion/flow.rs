//! Dense optical flow: Lucas and Kanade's least squares in a window, coarse to fine.
//!
//! For display and metrics, not for training. Where a window shows no structure the flow of the coarser level stays;
//! along a straight edge only the motion across the edge is seen.
//!
//! Source: Lucas and Kanade 1981; Bouguet's pyramidal form (2000), here at every pixel.

use rayon::prelude::*;

/// Coarser levels stop when a side would fall below this many pixels: a window must still see structure.
const COARSEST_SIDE: usize = 12;
/// Half width of the square window, applied twice: a tent 13 pixels wide.
const WINDOW: usize = 3;
/// Refinements of each level; the steps shrink by about four each time.
const REFINEMENTS: usize = 6;
/// Added to the window's squared gradients: about the noise of 8-bit steps, so that flat windows stay put.
const FLATNESS: f32 = 1e-4;

/// Motion must explain a window better than stillness by this factor of squared error: less is fitting noise.
const STILL_RATIO: f32 = 1.2;
/// Squared difference that counts as none: one step of 8 bits.
const STILL_ERROR: f32 = 1.0 / (255.0 * 255.0);

/// Motion of each pixel from one plane to the next, in pixels per frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Rightward motion, `[h, w]`.
    pub dx: Vec<f32>,
    /// Downward motion, `[h, w]`.
    pub dy: Vec<f32>,
}

impl Flow {
    fn still(width: usize, height: usize) -> Self {
        let zeros = vec![0.0; width * height];
        Self {
            width,
            height,
            dx: zeros.clone(),
            dy: zeros,
        }
    }

    /// Mean flow with a weight for each pixel, `(dx, dy)`; zero where all weights are zero.
    ///
    /// Weighted by the absolute residual it is the motion of what moves; a still background does not count.
    pub fn weighted_mean(&self, weight: &[f32]) -> (f64, f64) {
        let mut sums = (0.0, 0.0, 0.0);
        for ((&dx, &dy), &w) in self.dx.iter().zip(&self.dy).zip(weight) {
            let w = f64::from(w);
            sums = (
                sums.0 + w * f64::from(dx),
                sums.1 + w * f64::from(dy),
                sums.2 + w,
            );
        }
        if sums.2 > 0.0 {
            (sums.0 / sums.2, sums.1 / sums.2)
        } else {
            (0.0, 0.0)
        }
    }

    /// Median of each component: the camera's motion, when the background fills most of the picture.
    pub fn median(&self) -> (f64, f64) {
        (median(&self.dx), median(&self.dy))
    }

    /// Pixels per frame at each pixel, `[h, w]`.
    pub fn speed(&self) -> Vec<f32> {
        self.dx
            .iter()
            .zip(&self.dy)
            .map(|(dx, dy)| dx.hypot(*dy))
            .collect()
    }

    /// Largest speed, pixels per frame.
    pub fn max_speed(&self) -> f32 {
        self.speed().into_iter().fold(0.0, f32::max)
    }
}

fn median(values: &[f32]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.get(sorted.len() / 2).copied().map_or(0.0, f64::from)
}

/// Flow from plane `from` to plane `to`, both `[height, width]` of brightness in 0..=1.
///
/// `to` at `(x + dx, y + dy)` shows what `from` shows at `(x, y)`. Good to about a tenth of a pixel on textured
/// motion of up to a quarter of the picture. Planes of another length give a flow of zeros.
pub fn optical_flow(from: &[f32], to: &[f32], width: usize, height: usize) -> Flow {
    let size = width * height;
    if size == 0 || from.len() != size || to.len() != size {
        return Flow::still(width, height);
    }
    let mut pyramid = vec![(
        Plane::new(from, width, height),
        Plane::new(to, width, height),
    )];
    while let Some((a, b)) = pyramid.last() {
        if a.width.min(a.height) / 2 < COARSEST_SIDE {
            break;
        }
        let coarser = (a.halved(), b.halved());
        pyramid.push(coarser);
    }
    let mut flow: Option<Flow> = None;
    for (a, b) in pyramid.iter().rev() {
        let start = match flow {
            None => Flow::still(a.width, a.height),
            Some(coarse) => finer(&coarse, a.width, a.height),
        };
        flow = Some(refine(a, b, start));
    }
    let mut flow = flow.unwrap_or_else(|| Flow::still(width, height));
    // Only at the end: on coarser levels the edge of a subject would lose the motion along itself.
    prefer_still(&pyramid[0].0, &pyramid[0].1, &mut flow);
    flow
}

/// [`optical_flow`] between each plane and the next: one flow fewer than `planes`.
pub fn optical_flows(planes: &[Vec<f32>], width: usize, height: usize) -> Vec<Flow> {
    planes
        .par_windows(2)
        .map(|pair| optical_flow(&pair[0], &pair[1], width, height))
        .collect()
}

/// One brightness plane.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Plane {
    fn new(values: &[f32], width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            values: values.to_vec(),
        }
    }

    /// Value at a pixel, the border repeated outwards.
    fn at(&self, x: isize, y: isize) -> f32 {
        let x = x.clamp(0, self.width as isize - 1) as usize;
        let y = y.clamp(0, self.height as isize - 1) as usize;
        self.values[y * self.width + x]
    }

    /// Bilinear value between pixels.
    fn sample(&self, x: f32, y: f32) -> f32 {
        let (x0, y0) = (x.floor(), y.floor());
        let (tx, ty) = (x - x0, y - y0);
        let (x0, y0) = (x0 as isize, y0 as isize);
        let top = self.at(x0, y0) * (1.0 - tx) + self.at(x0 + 1, y0) * tx;
        let bottom = self.at(x0, y0 + 1) * (1.0 - tx) + self.at(x0 + 1, y0 + 1) * tx;
        top * (1.0 - ty) + bottom * ty
    }

    /// Half the size: pixel `i` stands on pixel `2 i`, smoothed with the binomial `1 4 6 4 1`.
    fn halved(&self) -> Self {
        const BINOMIAL: [f32; 5] = [1.0 / 16.0, 0.25, 0.375, 0.25, 1.0 / 16.0];
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let tap = |i: usize, k: usize| (2 * i + k) as isize - 2;
        let mut rows = Vec::with_capacity(width * self.height);
        for y in 0..self.height {
            for x in 0..width {
                let taps = BINOMIAL.iter().enumerate();
                rows.push(taps.map(|(k, b)| b * self.at(tap(x, k), y as isize)).sum());
            }
        }
        let rows = Self {
            width,
            height: self.height,
            values: rows,
        };
        let mut values = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                let taps = BINOMIAL.iter().enumerate();
                values.push(taps.map(|(k, b)| b * rows.at(x as isize, tap(y, k))).sum());
            }
        }
        Self {
            width,
            height,
            values,
        }
    }

    fn map(&self, value: impl Fn(isize, isize) -> f32) -> Vec<f32> {
        let (w, h) = (self.width as isize, self.height as isize);
        (0..h)
            .flat_map(|y| (0..w).map(move |x| (x, y)))
            .map(|(x, y)| value(x, y))
            .collect()
    }
}

/// Carry a flow to a level of twice the size.
fn finer(coarse: &Flow, width: usize, height: usize) -> Flow {
    let spread = |values: &[f32]| {
        let plane = Plane::new(values, coarse.width, coarse.height);
        let fine = Plane {
            width,
            height,
            values: Vec::new(),
        };
        fine.map(|x, y| 2.0 * plane.sample(x as f32 / 2.0, y as f32 / 2.0))
    };
    Flow {
        width,
        height,
        dx: spread(&coarse.dx),
        dy: spread(&coarse.dy),
    }
}

/// Least-squares steps from `flow` on one level, with the gradients of `from` (they need not be taken again).
fn refine(from: &Plane, to: &Plane, mut flow: Flow) -> Flow {
    let (w, h) = (from.width, from.height);
    let gx = from.map(|x, y| (from.at(x + 1, y) - from.at(x - 1, y)) / 2.0);
    let gy = from.map(|x, y| (from.at(x, y + 1) - from.at(x, y - 1)) / 2.0);
    let product = |a: &[f32], b: &[f32]| -> Vec<f32> {
        window_mean(a.iter().zip(b).map(|(a, b)| a * b).collect(), w, h)
    };
    let (xx, xy, yy) = (product(&gx, &gx), product(&gx, &gy), product(&gy, &gy));
    for _ in 0..REFINEMENTS {
        let difference = difference(from, to, Some(&flow));
        let (xt, yt) = (product(&gx, &difference), product(&gy, &difference));
        for i in 0..w * h {
            let (a, b, c) = (xx[i] + FLATNESS, xy[i], yy[i] + FLATNESS);
            let determinant = a * c - b * b;
            // A step of more than a pixel is outside what the linear model sees at this level.
            flow.dx[i] -= ((c * xt[i] - b * yt[i]) / determinant).clamp(-1.0, 1.0);
            flow.dy[i] -= ((a * yt[i] - b * xt[i]) / determinant).clamp(-1.0, 1.0);
        }
    }
    // Neighbours agree: this takes out what single windows got wrong.
    flow.dx = window_mean(flow.dx, w, h);
    flow.dy = window_mean(flow.dy, w, h);
    flow
}

/// `to` minus `from` at each pixel of `from`, with `to` taken where `flow` leads; 0 where that is outside the picture,
/// since there is nothing to compare.
fn difference(from: &Plane, to: &Plane, flow: Option<&Flow>) -> Vec<f32> {
    let (right, bottom) = (from.width as f32 - 1.0, from.height as f32 - 1.0);
    from.map(|x, y| {
        let i = y as usize * from.width + x as usize;
        let (dx, dy) = flow.map_or((0.0, 0.0), |flow| (flow.dx[i], flow.dy[i]));
        let (x, y) = (x as f32 + dx, y as f32 + dy);
        let inside = (0.0..=right).contains(&x) && (0.0..=bottom).contains(&y);
        if inside {
            to.sample(x, y) - from.values[i]
        } else {
            0.0
        }
    })
}

/// No motion where no motion explains a window as well: a flat ground would keep what a coarser level, whose windows
/// still saw the subject, made of it.
fn prefer_still(from: &Plane, to: &Plane, flow: &mut Flow) {
    let error = |flow: Option<&Flow>| {
        let squares = difference(from, to, flow)
            .into_iter()
            .map(|d| d * d)
            .collect();
        window_mean(squares, from.width, from.height)
    };
    let (still, moved) = (error(None), error(Some(flow)));
    for i in 0..still.len() {
        if still[i] <= STILL_RATIO * moved[i] + STILL_ERROR {
            (flow.dx[i], flow.dy[i]) = (0.0, 0.0);
        }
    }
}

/// Mean over the window around each pixel, twice, clipped to the picture.
fn window_mean(values: Vec<f32>, w: usize, h: usize) -> Vec<f32> {
    let once = |values: Vec<f32>| {
        let rows = running_mean(&values, w, h, (1, w));
        running_mean(&rows, h, w, (w, 1))
    };
    once(once(values))
}

/// Running mean of half width [`WINDOW`] along lines of `length` values; `(along, across)` are the strides.
fn running_mean(
    values: &[f32],
    length: usize,
    lines: usize,
    (along, across): (usize, usize),
) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for line in 0..lines {
        let at = |i: usize| line * across + i * along;
        let mut sum: f32 = (0..WINDOW.min(length)).map(|i| values[at(i)]).sum();
        let mut count = WINDOW.min(length);
        for i in 0..length {
            if i + WINDOW < length {
                sum += values[at(i + WINDOW)];
                count += 1;
            }
            if i > WINDOW {
                sum -= values[at(i - WINDOW - 1)];
                count -= 1;
            }
            out[at(i)] = sum / count as f32;
        }
    }
    out
}
